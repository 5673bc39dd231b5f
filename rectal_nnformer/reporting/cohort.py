"""What confidence, volumes and groups tell of scored cases, alike for the report, the summary and the comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rectal_nnformer.evaluation.agreement import VolumeAgreement, volume_agreement
from rectal_nnformer.evaluation.calibration import NestedCalibration, calibrate
from rectal_nnformer.evaluation.froc import Curves, detection_curves
from rectal_nnformer.evaluation.group_rates import ColumnRates, rates_by_group
from rectal_nnformer.evaluation.groups import read_groups
from rectal_nnformer.evaluation.log_odds import LogOddsCounts, read_counts
from rectal_nnformer.evaluation.operating_point import NestedPoint, nested_point, read_point
from rectal_nnformer.evaluation.review import MeasureReview, review_measures
from rectal_nnformer.evaluation.summary import CohortDetection, rate_words
from rectal_nnformer.evaluation.wish import F1, parse_wish
from rectal_nnformer.reporting.results import Results
from rectal_nnformer.utils.files import copy_file

GROUPS_FILE = "groups.csv"
"""Beside results: the table of groups that they were last given by."""


@dataclass(frozen=True)
class CohortAnalysis:
    """What follows from scored cases beyond their counts; each part says itself where it has nothing to tell.

    Attributes:
        wish: What the model's operating point is chosen for; None where it has none.
        point: For that wish, or else for F1.
        calibration: Of the folds whose voxels were counted; None where there is none.
        folds_without_counts: The others.
        groups: By the columns of a table; empty without one.
        group_notes: What that table does not tell, and what it tells of others.
    """

    curves: Curves
    wish: str | None
    point: NestedPoint
    calibration: NestedCalibration | None
    folds_without_counts: tuple[int, ...]
    review: tuple[MeasureReview, ...]
    volumes: VolumeAgreement
    groups: tuple[ColumnRates, ...] = ()
    group_notes: tuple[str, ...] = ()


def analyse_results(results: Results, groups: Path | None = None) -> CohortAnalysis:
    """Return the analysis of what a report tells of, by the wish and the groups that are kept there.

    Args:
        results: What was scored.
        groups: Another table of groups.

    Raises:
        RectalError: The table or a file of the results cannot be read.
    """
    chosen = read_point(results.path)
    counts = {fold: read_counts(folder) for fold, folder in results.evaluated.items()}
    wish = chosen.wish if chosen else None
    return analyse_cohort(results.folds, counts, wish, groups or kept_groups(results.path))


def analyse_cohort(
    folds: Mapping[int, CohortDetection],
    counts: Mapping[int, LogOddsCounts | None],
    wish: str | None,
    groups: Path | None,
) -> CohortAnalysis:
    """Return the analysis of scored cases.

    Args:
        folds: The cases, by fold.
        counts: Voxels by their log-odds of each fold, None where they were not counted.
        wish: What an operating point is to be chosen for, as `parse_wish` takes it.
        groups: The table of groups, as `read_groups` takes it.

    Raises:
        RectalError: The table cannot be read, or the wish is none.
    """
    cases = [case for result in folds.values() for case in result.cases]
    counted = {fold: found for fold, found in counts.items() if found is not None}
    table = read_groups(groups, {case.case: case.patient for case in cases}) if groups else None
    return CohortAnalysis(
        curves=detection_curves(cases),
        wish=wish,
        point=nested_point({fold: result.cases for fold, result in folds.items()}, parse_wish(wish or F1)),
        calibration=calibrate(counted) if counted else None,
        folds_without_counts=tuple(fold for fold in folds if fold not in counted),
        review=tuple(review_measures(cases)),
        volumes=volume_agreement(cases),
        groups=rates_by_group(cases, table) if table else (),
        group_notes=table.notes if table else (),
    )


def keep_groups(table: Path, folder: Path) -> None:
    """Keep a table of groups beside results, where a later report finds it."""
    if table.resolve() != (folder / GROUPS_FILE).resolve():
        copy_file(table, folder / GROUPS_FILE)


def kept_groups(folder: Path) -> Path | None:
    """Return the table of groups that is kept beside results, None without one."""
    path = folder / GROUPS_FILE
    return path if path.is_file() else None


def point_lines(point: NestedPoint) -> list[str]:
    """Return what an operating point is and gives, for logs."""
    if point.chosen is None:
        return [f"No operating point for {point.wish}: {point.reason}."]
    note = f" The wish is not met: {point.chosen.note}." if point.chosen.note else ""
    lines = [f"Operating point for {point.wish}: {point.chosen.point}.{note}"]
    for words, rates in (("masks as they are", point.mask), ("nested", point.nested)):
        if rates is not None:
            false = rates.false_positives_per_case.value or 0.0
            lines.append(
                f"  {words}: sensitivity {rate_words(rates.sensitivity)}, {false:.2f} false positives per case"
            )
    return lines
