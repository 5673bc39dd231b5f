"""Every table of the pages, once: its header and its rows in words. The pages render it as HTML or Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.rates import Interval, Rate
from rectal_nnformer.evaluation.statistics import Difference
from rectal_nnformer.evaluation.summary import NO_RESAMPLING, CohortDetection, patient_interval_words
from rectal_nnformer.reporting.analyses import ReuseOverFolds, StageOverFolds
from rectal_nnformer.reporting.comparison import ComparedModel, Comparison, PairComparison
from rectal_nnformer.utils.text import number, percent, percent_interval, plain, plural


@dataclass(frozen=True)
class Table:
    """A table in words; the first cell of a row names it, and cells are numbers from the column `numeric_from` on."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numeric_from: int = 1


def markdown(table: Table) -> str:
    """Return a table in Markdown, nothing without rows; what a cell holds cannot end it, nor become a tag."""
    lines = [table.header, ["---"] * len(table.header), *table.rows] if table.rows else []
    return "\n".join(f"| {' | '.join(map(plain, cells))} |" for cells in lines)


def fold_table(folds: Mapping[int, CohortDetection], pooled: CohortDetection) -> Table:
    """Return the lesion detection of each fold and of all; of scored predictions, which have none, that of all."""
    by_fold = {str(fold): folds[fold] for fold in folds if fold >= 0}
    return _detection_table("fold", {**by_fold, "all": pooled}, "Validation folds" if by_fold else "All cases")


def _detection_table(first: str, cohorts: Mapping[str, CohortDetection], caption: str) -> Table:
    header = ("cases", "detected", "rate", "95 % CI", "by patient", "strict", "cases with a detection")
    return Table(
        (first, *header, "false positives per case", "Dice mean", "Dice median"),
        [
            (
                name,
                str(result.n_cases),
                f"{result.n_detected}/{result.n_reference}",
                percent(result.detection_rate.rate),
                percent_interval(result.detection_rate.wilson_95),
                patient_interval_words(result.detection_rate),
                f"{result.strict.n_detected}/{result.n_reference}",
                counts(result.case_rate, "0/0"),
                number(result.false_positives_per_case),
                number(result.case_dice.mean),
                number(result.case_dice.median),
            )
            for name, result in cohorts.items()
        ],
        caption,
    )


def size_table(pooled: CohortDetection) -> Table:
    """Return the detection rate by lesion volume."""
    return Table(
        ("volume (cm³)", "detected", "rate", "95 % CI"),
        [
            (name, counts(rate, "no tumour"), percent(rate.rate), percent_interval(rate.wilson_95))
            for name, rate in pooled.size_bins.items()
        ],
        "Detected tumours by volume",
    )


def outline_table(pooled: CohortDetection) -> Table:
    """Return how well the detected groups of lesions were outlined."""
    groups = pooled.detected_groups
    measures = {
        "Dice": groups.dice,
        "HD95 (mm)": groups.hd95_mm,
        "surface Dice at 2 mm": groups.surface_dice_2mm,
        "volume ratio, prediction to reference": groups.volume_ratio,
    }
    return Table(
        (f"of {plural(groups.dice.count, 'detected group')}", "mean", "median"),
        [(name, number(spread.mean), number(spread.median)) for name, spread in measures.items()],
        "Outlines of detected groups of tumours; missed ones do not count here",
    )


def missed_table(folds: Mapping[int, CohortDetection]) -> Table:
    """Return the missed lesions."""
    return Table(
        ("fold", "case", "lesion", "volume (cm³)", "IoU"),
        [
            (str(fold), case.case, str(lesion.label), number(lesion.volume_cm3), number(lesion.iou))
            for fold, case in cases_of(folds)
            for lesion in case.lesions
            if not lesion.detected
        ],
    )


COUNTS = ("n_reference", "n_predicted", "n_detected", "n_detected_strict", "n_missed", "n_false_positive")
CASE_COLUMNS = ("fold", "case", "patient", *COUNTS, "dice", "note")
"""Columns of crossval_summary.csv."""
CASE_HEADERS = {
    "case": "case",
    "n_missed": "missed",
    "n_reference": "tumours",
    "n_false_positive": "false positives",
    "dice": "Dice",
    "volume_cm3": "tumour cm³",
    "fold": "fold",
    "note": "note",
}
"""Columns of the report's table of cases, with their headers."""


def case_table(folds: Mapping[int, CohortDetection], columns: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row per case, with the values of these columns."""
    rows = []
    for fold, case in cases_of(folds):
        volume = sum((lesion.volume_cm3 for lesion in case.lesions), 0.0)
        values = {"fold": fold, "n_detected_strict": case.strict.n_detected, "volume_cm3": volume, **vars(case)}
        rows.append({name: values[name] for name in columns})
    return rows


def cases_of(folds: Mapping[int, CohortDetection]) -> list[tuple[int, CaseDetection]]:
    """Return every case with its fold."""
    return [(fold, case) for fold, result in folds.items() for case in result.cases]


def attention_table(stages: Sequence[StageOverFolds]) -> Table:
    """Return the attention dilution index of each fold, and over the folds what belongs beside it."""
    folds = sorted({fold for stage in stages for fold in stage.adi_of_folds})
    means = {"adi": "mean over the folds", "uniform_adi": "uniform attention, mean", "a_rp": "mass on padding, mean"}
    return Table(
        ("attention dilution index", *(f"stage {stage}" for stage in range(len(stages)))),
        [
            *((f"fold {fold}", *(number(stage.adi_of_folds.get(fold), 3) for stage in stages)) for fold in folds),
            *((words, *_stage_means(stages, name)) for name, words in means.items()),
        ],
        "Attention dilution index of each fold",
    )


def attention_flow_table(stages: Sequence[StageOverFolds]) -> Table:
    """Return what real tokens pay attention to in each stage."""
    columns = {
        "a_rp": "mass on padding (A_rp)",
        "tumor_adi": "ADI of tumour tokens",
        "scattered_padding_share": "real positions fed by padding",
        "real_token_fraction": "real tokens",
    }
    return Table(
        ("stage", "ADI, least and most of the folds", *columns.values()),
        [
            (str(stage.stage), _bounds(stage.adi_range, 3, "-"), *(number(stage.means[name], 3) for name in columns))
            for stage in stages
        ],
        "What real tokens pay attention to, mean over the folds",
    )


def series_table(places: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> Table:
    """Return the attention dilution index per stage of what a chart shows."""
    return Table(
        ("stage", *series),
        [
            (place, *(number(values[index] if index < len(values) else None, 3) for values in series.values()))
            for index, place in enumerate(places)
        ],
        "ADI per stage",
    )


def reuse_table(reuse: ReuseOverFolds) -> Table:
    """Return the feature reuse of each fold and over the folds."""
    rows = [
        (f"fold {fold}", str(reuse.num_crops[fold]), mean, reuse.drift_intervals[fold])
        for fold, mean in reuse.folds.items()
    ]
    return Table(
        ("debiased CKA with the pretrained encoder", "cases", "mean of the blocks", "drift", "95 % CI of the drift"),
        [
            (name, crops, number(mean, 3), number(None if mean is None else 1 - mean, 3), _bounds(drift, 3, " to "))
            for name, crops, mean, drift in [*rows, ("mean over the folds", "", reuse.mean_diagonal, None)]
        ],
        "Feature reuse of each fold",
    )


def block_table(reuse: ReuseOverFolds) -> Table:
    """Return the feature reuse of each block."""
    return Table(
        ("block", "name", "CKA", "range", "unrelated"),
        [
            (str(place), name, number(value), _bounds(interval, 2, "-"), number(null))
            for place, (name, value, interval, null) in enumerate(
                zip(reuse.blocks, reuse.diagonal, reuse.intervals, reuse.null_p95, strict=True), start=1
            )
        ],
        f"CKA along the diagonal, {plural(len(reuse.folds), 'fold')}",
        numeric_from=2,
    )


def model_table(models: Sequence[ComparedModel]) -> Table:
    """Return the lesion detection of each model on the shared cases."""
    return _detection_table("model", {model.name: model.detection for model in models}, "Detection of each model")


def agreement_table(pairs: Sequence[PairComparison], strict: bool) -> Table:
    """Return which lesions the models of each pair detected, and McNemar's test."""
    rows = []
    for pair in pairs:
        test = pair.detection_strict if strict else pair.detection
        shared = map(str, (test.both, test.only_first, test.only_second, test.neither))
        rows.append((pair.first, pair.second, *shared, p_words(test.p), p_words(test.p_holm)))
    return Table(
        ("first", "second", "both", "first only", "second only", "neither", "p, McNemar", "p, Holm"),
        rows,
        numeric_from=2,
    )


def difference_table(pairs: Sequence[PairComparison]) -> Table:
    """Return the differences of each pair, first minus second."""
    return Table(
        ("first - second", "detection rate", "Dice per case", "false positives per case"),
        [
            (
                f"{pair.first} - {pair.second}",
                _difference(pair.detection_rate, 100, 1, " points"),
                _difference(pair.dice, 1, 3),
                _difference(pair.false_positives_per_case, 1, 2),
            )
            for pair in pairs
        ],
    )


def disputed_table(comparison: Comparison) -> Table:
    """Return the lesions that some models detected and others missed."""
    names = [model.name for model in comparison.models]
    outcomes = [["detected" if row[f"detected: {name}"] else "missed" for name in names] for row in comparison.lesions]
    return Table(
        ("case", "tumour", "volume (cm³)", *names),
        [
            (row["case"], str(row["label"]), number(row["volume_cm3"]), *outcome)
            for row, outcome in zip(comparison.lesions, outcomes, strict=True)
            if len(set(outcome)) > 1
        ],
        numeric_from=2,
    )


def model_attention_table(models: Sequence[ComparedModel]) -> Table:
    """Return the attention of each analysed model, mean over its folds."""
    num_stages = max((len(model.stages) for model in models), default=0)
    means = {"adi": "ADI", "uniform_adi": "ADI, uniform attention", "a_rp": "mass on padding"}
    return Table(
        ("model", "mean over folds", *(f"stage {stage}" for stage in range(num_stages))),
        [
            (model.name, words, *_stage_means(model.stages, name), *["-"] * (num_stages - len(model.stages)))
            for model in models
            if model.stages
            for name, words in means.items()
        ],
        numeric_from=2,
    )


def model_reuse_table(models: Sequence[ComparedModel]) -> Table:
    """Return the feature reuse of each analysed fold of each model, beside its result."""
    return Table(
        ("model", "fold", "feature reuse", "detection rate", "Dice mean"),
        [
            (model.name, str(one.fold), number(one.reuse, 3), percent(one.detection_rate), number(one.dice))
            for model in models
            for one in model.fold_points
        ],
    )


def counts(rate: Rate, without: str) -> str:
    """Return the counts of a rate, '3/5', or other words where there are no trials."""
    return f"{rate.count}/{rate.total}" if rate.total else without


def _stage_means(stages: Sequence[StageOverFolds], name: str) -> Iterable[str]:
    return (number(stage.means[name], 3) for stage in stages)


def _bounds(interval: Interval | None, digits: int, between: str) -> str:
    return "-" if interval is None else between.join(number(bound, digits) for bound in interval)


def _difference(difference: Difference, factor: float, digits: int, unit: str = "") -> str:
    if difference.value is None:
        return "-"
    value = f"{factor * difference.value:+.{digits}f}{unit}"
    if difference.patient_bootstrap_95 is None:
        return f"{value} (no interval: {NO_RESAMPLING})"
    low, high = (f"{factor * bound:+.{digits}f}" for bound in difference.patient_bootstrap_95)
    return f"{value} ({low} to {high})"


def p_words(value: float | None) -> str:
    """Return a p-value with three decimals, '-' where there is none."""
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
