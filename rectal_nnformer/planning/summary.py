"""A few lines that say what was planned and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from rectal_nnformer.planning.planner import CUBIC, FULLRES, RECORD_KEY
from rectal_nnformer.planning.rules import MAX_SPACING, MIN_REAL_SHARE, MIN_SPACING, SPACING_STEP


def describe_plans(plans: Mapping[str, Any]) -> str:
    """Return target spacing, intensity window and patch of plans in words; sizes and spacings are x, y, z."""
    record = plans[RECORD_KEY]
    configuration = plans["configurations"][FULLRES]
    network = configuration["architecture"]["arch_kwargs"]
    windows = ", ".join(f"{low:.2f} to {high:.2f}" for low, high in network["intensity_window"])
    lines = [
        f"{plans['plans_name']} of {plans['dataset_name']} ({record['num_cases']} training cases)",
        f"  target spacing    {_spacing(record)}",
        f"  median image      {_by(record['median_extent'], '.0f')} voxels at the target spacing",
        f"  intensity window  {windows} after {', '.join(configuration['normalization_schemes'])}",
        f"  data              {plans['configurations'][FULLRES]['data_identifier']}",
        f"  patch             {_reason(record)}",
        "  expected share of real tokens, by stage:",
    ]
    lines += [_account_line(name, record["patch_sizes"][name]) for name in (FULLRES, CUBIC)]
    if any(any(account["scattered_padding_share"]) for account in record["patch_sizes"].values()):
        lines.append("  expected share of real positions updated for a padding query (windows put back scattered):")
        lines += [
            _account_line(name, record["patch_sizes"][name], "scattered_padding_share") for name in (FULLRES, CUBIC)
        ]
    return "\n".join(lines)


def _spacing(record: Mapping[str, Any]) -> str:
    target = f"{_by(record['target_spacing'], '.2f')} mm"
    if record["target_spacing_overwritten"]:
        return f"{target}, as given"
    return (
        f"{target}: the median {_by(record['median_spacing'], '.2f')} has the geometric mean "
        f"{record['geometric_mean_spacing']:.2f}, down to a multiple of {SPACING_STEP}, "
        f"within {MIN_SPACING} and {MAX_SPACING}"
    )


def _reason(record: Mapping[str, Any]) -> str:
    chosen = record["patch_sizes"][FULLRES]
    shares = _by(chosen["real_voxel_share"], ".2f")
    return (
        f"{_by(chosen['patch_size'], 'd')} voxels: per axis the largest that is expected to hold at least "
        f"{MIN_REAL_SHARE:.0%} image, or the smallest (expected {shares})"
    )


def _account_line(configuration: str, account: Mapping[str, Any], key: str = "real_token_fraction") -> str:
    values = " ".join(f"{value:.3f}" for value in account[key])
    return f"    {configuration:<16}  {_by(account['patch_size'], 'd'):<15}  {values}"


def _by(values: Sequence[float], number_format: str) -> str:
    return " x ".join(format(value, number_format) for value in values)
