"""Comparing runs: what each found on the shared cases, every pair tested, and their encoders beside each other."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.statistics import Difference, agreements, paired_difference
from rectal_nnformer.reporting.analyses import reuse_profile, stage_profiles
from rectal_nnformer.reporting.comparison.page import comparison_page
from rectal_nnformer.reporting.comparison.pairing import SharedCases, share_cases
from rectal_nnformer.reporting.comparison.picture import draw_comparison
from rectal_nnformer.reporting.comparison.results import Comparison, FoldPoint, PairComparison, RunResult
from rectal_nnformer.reporting.runs import Run, read_run, short_names
from rectal_nnformer.utils.files import csv_text, staged_file, write_json, write_text

NAME = "compare"


@dataclass(frozen=True)
class _Pair:
    first: int
    second: int


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Compare trained models on the cases that all of them were validated on.

    Args:
        folders: Model folders in nnUNet_results, two or more.

    Raises:
        RectalError: Fewer than two different ones, one that is no evaluated model, no shared case, or a case that was
            scored against different references.
    """
    different = list(dict.fromkeys(Path(folder).expanduser().resolve() for folder in folders))
    if len(different) < 2 or len(different) < len(folders):
        raise RectalError("a comparison needs two or more different runs. Name the model folders of each, once.")
    runs = [read_run(folder) for folder in different]
    shared = share_cases(runs)
    names = short_names(runs)
    return Comparison(
        runs=tuple(
            _run_result(run, name, shared, index) for index, (run, name) in enumerate(zip(runs, names, strict=True))
        ),
        pairs=_compare_pairs(names, shared),
        num_shared_cases=len(shared.names),
        num_shared_patients=len(set(shared.patients)),
        left_out_cases=tuple(sorted({name for names in shared.left_out for name in names})),
        num_cases_in_other_folds=shared.num_in_other_folds,
        lesions=_lesion_rows(names, shared),
    )


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `compare.md`, `.json`, `.csv` (a row per lesion) and `.png`, each whole or not at all, and return them."""
    paths = {suffix: folder / f"{NAME}.{suffix}" for suffix in ("md", "json", "csv", "png")}
    page = comparison_page(comparison, paths["png"].name)
    with staged_file(paths["png"]) as temporary:
        draw_comparison(comparison, temporary)
    columns = list(comparison.lesions[0]) if comparison.lesions else ["case"]
    write_text(paths["csv"], csv_text(columns, comparison.lesions))
    write_json(paths["json"], _as_json(comparison))
    write_text(paths["md"], page)
    return list(paths.values())


def _run_result(run: Run, name: str, shared: SharedCases, index: int) -> RunResult:
    reuse = reuse_profile(run.reuse)
    points = [
        FoldPoint(fold, value, cohort.detection_rate.rate, cohort.case_dice.mean)
        for fold, value in (reuse.folds.items() if reuse else ())
        if (cohort := shared.cohort(index, fold)).n_cases
    ]
    return RunResult(
        name=name,
        folder=str(run.folder),
        detection=shared.cohort(index),
        num_left_out=len(shared.left_out[index]),
        folds=tuple(run.folds),
        stages=tuple(stage_profiles(run.attention)),
        reuse=reuse,
        fold_points=tuple(points),
    )


def _compare_pairs(names: Sequence[str], shared: SharedCases) -> tuple[PairComparison, ...]:
    pairs = [_Pair(*indices) for indices in itertools.combinations(range(len(names)), 2)]
    lesions = {run: [lesion for case in shared.results[run] for lesion in case.lesions] for run in range(len(names))}
    tests = {
        strict: agreements(
            [
                [
                    (one.detected_strict, two.detected_strict) if strict else (one.detected, two.detected)
                    for one, two in zip(lesions[pair.first], lesions[pair.second], strict=True)
                ]
                for pair in pairs
            ]
        )
        for strict in (False, True)
    }
    return tuple(
        PairComparison(
            first=names[pair.first],
            second=names[pair.second],
            detection=tests[False][number],
            detection_strict=tests[True][number],
            **_differences(shared.results[pair.first], shared.results[pair.second], shared.patients),
        )
        for number, pair in enumerate(pairs)
    )


def _differences(
    first: Sequence[CaseDetection], second: Sequence[CaseDetection], patients: Sequence[str]
) -> dict[str, Difference]:
    """Return the differences by the names of the fields of `PairComparison`."""
    cases = list(zip(patients, first, second, strict=True))
    lesions = [
        (patient, float(one.detected), float(two.detected))
        for patient, case, other in cases
        for one, two in zip(case.lesions, other.lesions, strict=True)
    ]
    dice = [
        (patient, case.dice, other.dice)
        for patient, case, other in cases
        if case.dice is not None and other.dice is not None
    ]
    invented = [
        (patient, float(case.n_false_positive), float(other.n_false_positive)) for patient, case, other in cases
    ]
    return {
        name: paired_difference(*(list(column) for column in zip(*rows, strict=True)))
        if rows
        else Difference(0, None, None)
        for name, rows in (("detection_rate", lesions), ("dice", dice), ("false_positives_per_case", invented))
    }


def _lesion_rows(names: Sequence[str], shared: SharedCases) -> tuple[dict[str, Any], ...]:
    """Return a row per lesion of the reference: what it is, and by which runs it was detected."""
    rows = []
    for number, case in enumerate(shared.results[0]):
        for index, lesion in enumerate(case.lesions):
            found = [shared.results[run][number].lesions[index] for run in range(len(names))]
            rows.append(
                {
                    "case": case.case,
                    "patient": case.patient,
                    "label": lesion.label,
                    "volume_cm3": lesion.volume_cm3,
                    "size_bin": lesion.size_bin,
                    **{f"detected: {name}": one.detected for name, one in zip(names, found, strict=True)},
                    **{f"iou: {name}": one.iou for name, one in zip(names, found, strict=True)},
                }
            )
    return tuple(rows)


def _as_json(comparison: Comparison) -> dict[str, Any]:
    content = asdict(comparison)
    for run in content["runs"]:
        # The cases stand in each run's own files.
        del run["detection"]["cases"]
    return content
