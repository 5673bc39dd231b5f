"""Plans in words: what was decided, from what, and what else there was to choose from."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from rectal_nnformer.augmentation import augmentation_of_plans
from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import Size
from rectal_nnformer.imaging.prepared import PREPARED_SCHEME
from rectal_nnformer.imaging.reading import by
from rectal_nnformer.nnunet.layout import find_dataset, find_plans
from rectal_nnformer.nnunet.names import CUBIC, FULLRES
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.planning.record import CandidatePatch, PlanningRecord, planning_record
from rectal_nnformer.planning.rules import MAX_SPACING, MIN_REAL_SHARE, MIN_SPACING, SPACING_STEP
from rectal_nnformer.utils.files import write_text

WIDTH = 100
"""Columns of a terminal in which explanations are readable; tables of four stages take 97."""
TABLE = "{:>2} {:<15} {:>5}  {:<23}  {:<23} {:>5}  {:>15}"
MARKS = {FULLRES: "*", CUBIC: "+"}
"""How tables mark the patches that were taken."""


def describe_plans(plans: Plans, width: int | None = WIDTH) -> str:
    """Return plans in words; sizes are voxels and spacings mm, in the order x, y, z.

    Sentences are wrapped after `width` columns; None leaves each on one line.

    Raises:
        RectalError: Another planner than this version's made them.
    """
    record = planning_record(plans)
    if record is None:
        raise RectalError(
            f"The plans {plans.name} of {plans.dataset_name} do not say why they are as they are: this version's "
            "planner did not make them. Plan again with --backbone, under another name with -overwrite_plans_name if "
            "models were trained by them."
        )
    lines = [
        f"{plans.name} of {plans.dataset_name} ({record.num_cases} training cases)",
        *_data_lines(plans, record),
        *_patch_lines(record),
        *_table_lines(record),
        *_crop_lines(record),
        *(f"WARNING: {warning}" for warning in record.warnings),
    ]
    return "\n".join(lines if width is None else [wrapped(line, width) for line in lines])


def wrapped(line: str, width: int = WIDTH) -> str:
    """Break a line that is too long; it goes on under its text, not under its name."""
    indent = " " * (len("WARNING: ") if line.startswith("WARNING") else len("  target spacing    "))
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def explain_plans(dataset: int | str, plans_name: str) -> str:
    """Explain plans that are there, write the explanation beside them, and return it.

    Raises:
        RectalError: There is no such dataset or no such plans, or this version's planner did not make them.
    """
    path = find_plans(find_dataset("nnUNet_preprocessed", dataset), plans_name)
    explanation = describe_plans(Plans.read(path))
    write_text(explanation_file(path), explanation + "\n")
    return explanation


def explanation_file(plans_file: Path) -> Path:
    """Return where the explanation of a plans file stands."""
    return plans_file.with_name(f"{plans_file.stem}_explanation.txt")


def _data_lines(plans: Plans, record: PlanningRecord) -> Iterator[str]:
    configuration = plans.configuration(FULLRES)
    windows = configuration.network.intensity_window if configuration.network else []
    schemes = configuration.normalization_schemes
    origins = ["as prepared" if scheme == PREPARED_SCHEME else f"after {scheme}" for scheme in schemes]
    why = (
        f": the median {by(record.median_spacing, '.2f')} has the geometric mean {record.geometric_mean_spacing:.2f}, "
        f"down to a multiple of {SPACING_STEP}, within {MIN_SPACING} and {MAX_SPACING}"
    )
    given = ", as given" if record.target_spacing_overwritten else why
    channels = (
        f"{round(low, 2):g} to {round(high, 2):g} {origin}"
        for (low, high), origin in zip(windows, origins, strict=True)
    )
    yield f"  target spacing    {by(record.target_spacing, '.2f')} mm{given}"
    yield f"  median image      {by(record.median_extent, '.0f')} voxels at the target spacing"
    yield "  resampling        linear on all axes at once, since nnU-Net's default repeats thick slices"
    yield f"  intensity window  {'; '.join(channels)}"
    yield f"  data              {configuration.data_identifier}"
    yield f"  augmentation      tumour {augmentation_of_plans(plans, len(windows))}"


def _patch_lines(record: PlanningRecord) -> Iterator[str]:
    """Yield the decisions on the patch in the order in which they were taken, and the batch."""
    chosen, lesion, gigabytes = record.patch_sizes[FULLRES], record.largest_lesion, f"{record.gpu_memory_target:g} GB"
    filled, fitting, taken = record.filled_patch_size, record.fitting_patch_size, chosen.patch_size
    yield f"  patch             {by(taken, 'd')} voxels, {by(chosen.field_of_view_mm, '.0f')} mm"
    yield (
        f"    images          fill {by(filled, 'd')}: per axis the largest size that is expected to hold at least "
        f"{MIN_REAL_SHARE:.0%} image, or the smallest"
    )
    fits = "which fits" if fitting == filled else f"shrunk to {by(fitting, 'd')} to fit"
    yield f"    GPU             {fits} {gigabytes} with 2 in a batch"
    change = "the patch stays" if taken == fitting else f"the patch grows to {by(taken, 'd')}"
    extent = f"up to {by(lesion.extent_mm, '.0f')} mm: {change}" if lesion else "none"
    yield f"    lesions         {extent}"
    needs = (f"{record.patch_sizes[name].batch_memory_gb:.1f} GB for {name}" for name in (FULLRES, CUBIC))
    full = record.batch_size < min(record.batch_size_limits)
    why = f"as many as {gigabytes} hold of either patch" if full else "as many as make 5 % of the dataset, at least 2"
    yield f"  batch             {record.batch_size}: {why}; {', '.join(needs)}"


def _table_lines(record: PlanningRecord) -> Iterator[str]:
    """Yield the candidates with what padding costs them; what is planned is marked."""
    accounts: dict[Size, CandidatePatch] = {account.patch_size: account for account in record.alternatives}
    for planned in record.patch_sizes.values():
        accounts.setdefault(planned.patch_size, planned)
    yield "  expected of tiles in prediction, by stage of the encoder:"
    yield TABLE.format("", "patch", "image", "real tokens", "dilution if uniform", "GB", "mm").rstrip()
    for size, account in accounts.items():
        columns = [
            "".join(MARKS[name] for name, taken in record.patch_sizes.items() if taken.patch_size == size),
            by(size, "d"),
            f"{account.real_volume_share:.2f}",
            _stages(account.real_token_fraction),
            _stages(account.uniform_adi),
            f"{account.memory_gb:.1f}",
            by(account.field_of_view_mm, ".0f"),
        ]
        yield TABLE.format(*columns).rstrip()
    yield f"  {MARKS[FULLRES]} {FULLRES}, the patch that was taken; {MARKS[CUBIC]} {CUBIC}, the size of pretraining"
    yield "  GB of a GPU for training with 2 in a batch, as counted on tensors without data; mm: field of view"


def _crop_lines(record: PlanningRecord) -> Iterator[str]:
    """Yield what rotation and scaling change in training, and what scattered windows do."""
    yield "  expected of training crops, some of them rotated or scaled:"
    for name, account in record.patch_sizes.items():
        crops = account.training
        numbers = [_stages(crops.real_token_fraction), _stages(crops.uniform_adi)]
        size, share = by(account.patch_size, "d"), f"{crops.real_volume_share:.2f}"
        yield TABLE.format(MARKS[name], size, share, *numbers, "", "").rstrip()
    if any(any(account.scattered_padding_share) for account in record.patch_sizes.values()):
        yield "  share of real positions that are updated for a padding query (windows are put back scattered):"
        for name, account in record.patch_sizes.items():
            shares = _stages(account.scattered_padding_share)
            yield TABLE.format(MARKS[name], by(account.patch_size, "d"), "", shares, "", "", "").rstrip()


def _stages(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
