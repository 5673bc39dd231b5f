"""Tables of what confidence, volumes and groups tell: their headers and their rows in words."""

from collections.abc import Iterable, Iterator, Sequence

from rectal_nnformer.evaluation.agreement import Limits, VolumeAgreement
from rectal_nnformer.evaluation.calibration import Calibration, NestedCalibration
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.froc import Curves, Froc
from rectal_nnformer.evaluation.group_rates import OUTCOMES, ColumnRates
from rectal_nnformer.evaluation.operating_point import NestedPoint, PointRates
from rectal_nnformer.evaluation.rates import Interval, Rate
from rectal_nnformer.evaluation.resampling import Estimate
from rectal_nnformer.evaluation.review import FLAGGED_SHARES, LOW_DICE, MeasureReview, review_order
from rectal_nnformer.evaluation.review import MEASURES as SURE
from rectal_nnformer.evaluation.summary import patient_interval_words
from rectal_nnformer.reporting.cohort import CohortAnalysis
from rectal_nnformer.reporting.tables import Table, counts, p_words
from rectal_nnformer.utils.text import number, numbered, percent, percent_interval, plural

FRACTIONS = {1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2"}
MEASURES = {
    "confidence": "confidence of the surest lesion",
    "mean_confidence": "mean confidence of the lesions",
    "entropy": "entropy",
    "disagreement": "disagreement of the folds",
}
"""How pages call what `review.MEASURES` holds."""
GROUP_RATES = {
    "detection_rate": "detection rate",
    "detection_rate_strict": "strict detection rate",
    "case_rate": "cases with a detection",
    "precision": "precision",
}
FALSE_HEADERS = ("false positives per case", "their cm³ per case")
GROUP_ESTIMATES = {
    "f1": "F1",
    "false_positives_per_case": FALSE_HEADERS[0],
    "false_positive_cm3_per_case": FALSE_HEADERS[1],
    "case_dice": "Dice per case",
}
GROUP_OUTCOMES = GROUP_RATES | GROUP_ESTIMATES
"""How pages call what `group_rates.OUTCOMES` holds."""
AS_THEY_ARE = "masks as they are"


def rate_name(false_positives: float) -> str:
    """Return a number of false positives per case as pages write it: 1/8, 1/4, 1/2, 1, 2."""
    return FRACTIONS.get(false_positives, f"{false_positives:g}")


def estimate_words(estimate: Estimate, digits: int = 2) -> str:
    """Return a value with its interval over patients: '0.91 (0.80 to 0.97)'."""
    return _with_interval(estimate.value, estimate.patient_bootstrap_95, digits)


def froc_table(curves: Curves) -> Table:
    """Return the sensitivity at each number of false positives per case, and the average precision."""
    merged, strict = curves.merged, curves.strict
    rows: list[tuple[str, ...]] = []
    if merged and strict:
        for one, other in zip(merged.sensitivities, strict.sensitivities, strict=True):
            rows.append(
                (rate_name(one.false_positives_per_case), *_percents(one.sensitivity), *_percents(other.sensitivity))
            )
        precisions = (merged.average_precision, strict.average_precision)
        rows.append(("average precision", *(words for one in precisions for words in _numbers(one))))
    header = ("at most, per case", "detected", "95 % CI, by patient", "strict", "95 % CI, by patient")
    return Table(header, rows, "Tumours detected with so many false positives per case, at most")


def point_table(point: NestedPoint, masks: str = AS_THEY_ARE) -> Table:
    """Return what is found at an operating point, nested over the folds, beside the masks, and what these are."""
    named = {masks: point.mask, f"at the operating point ({point.wish}), nested": point.nested}
    return Table(
        ("", "detected", "95 % CI", "by patient", "precision", "F1", *FALSE_HEADERS),
        [(name, *_point_cells(rates)) for name, rates in named.items() if rates],
        "Rates of the masks, and at operating points",
    )


def _point_cells(rates: PointRates) -> tuple[str, ...]:
    return (
        f"{counts(rates.sensitivity, '0/0')}, {percent(rates.sensitivity.rate)}",
        percent_interval(rates.sensitivity.wilson_95),
        patient_interval_words(rates.sensitivity),
        percent(rates.precision.rate),
        estimate_words(rates.f1),
        estimate_words(rates.false_positives_per_case),
        estimate_words(rates.false_positive_cm3_per_case),
    )


def chosen_table(point: NestedPoint) -> Table:
    """Return the point that was chosen without each fold, and the one of all folds."""
    chosen = {f"without fold {fold}": choice for fold, choice in (point.folds or {}).items()}
    if point.chosen:
        chosen["on all folds"] = point.chosen
    return Table(
        ("chosen", "smallest confidence", "smallest cm³", "detected there", "false positives there", "wish met"),
        [
            (
                name,
                f"{choice.point.min_confidence:.3f}",
                f"{choice.point.min_volume_cm3:.3f}",
                f"{choice.n_detected}/{choice.n_reference}",
                f"{choice.n_false_positive} in {plural(choice.n_cases, 'case')}",
                "yes" if choice.met else "no",
            )
            for name, choice in chosen.items()
        ],
        "Operating points",
    )


def calibration_table(calibration: NestedCalibration) -> Table:
    """Return the errors of probabilities, as they are and after the temperature."""
    return Table(
        ("", "calibration error (ECE)", "Brier score", "log loss", "voxels"),
        [(name, *_calibration_cells(one), f"{one.n_voxels:,}") for name, one in _regions(calibration)],
        "How far probabilities are from what is",
    )


def _regions(calibration: NestedCalibration) -> Iterator[tuple[str, Calibration]]:
    for region, name in (("near_tumor", "near the tumour"), ("all_voxels", "all voxels")):
        yield name, getattr(calibration.before, region)
        if calibration.after:
            yield f"{name}, after temperature", getattr(calibration.after, region)


def _calibration_cells(calibration: Calibration) -> tuple[str, ...]:
    return tuple(number(value, 4) for value in (calibration.ece, calibration.brier, calibration.log_loss))


def reliability_table(calibration: NestedCalibration) -> Table:
    """Return the bins of the reliability diagram, of the voxels near the tumour."""
    before = calibration.before.near_tumor.bins
    after = calibration.after.near_tumor.bins if calibration.after else before
    extra = ("tumour, after", "voxels, after") if calibration.after else ()
    return Table(
        ("probability", "tumour", "voxels", *extra),
        [
            (
                f"{one.low:.2f}-{one.high:.2f}",
                percent(one.tumor_share),
                f"{one.n_voxels:,}",
                *((percent(other.tumor_share), f"{other.n_voxels:,}") if extra else ()),
            )
            for one, other in zip(before, after, strict=True)
        ],
        "Share of tumour among voxels near it, by probability",
    )


def fold_temperatures(calibration: NestedCalibration) -> str:
    """Return the temperature of each fold in words."""
    known = calibration.fold_temperatures or {}
    return ", ".join(f"fold {fold} {value:.2f}" for fold, value in known.items())


FIRST_CASES = 20


def first_table(cases: Sequence[CaseDetection]) -> Table:
    """Return the first cases to look at, the least sure first."""
    return Table(
        ("look at first", "confidence", "missed", "false positives", "Dice"),
        [
            (
                case.case,
                number(SURE["confidence"](case)),
                str(case.n_missed),
                str(case.n_false_positive),
                number(case.dice),
            )
            for case in review_order(cases)[:FIRST_CASES]
        ],
    )


def review_table(review: Iterable[MeasureReview]) -> Table:
    """Return how well each measure that is known tells where the network failed."""
    found = [f"share of failures among the least sure {100 * share:.0f} %" for share in FLAGGED_SHARES]
    return Table(
        ("sure by", "cases", f"Dice up to {LOW_DICE}", "with a miss", *REVIEW_HEADERS, *found),
        [
            (
                MEASURES[one.measure],
                str(one.n_cases),
                str(one.n_low_dice),
                str(one.n_missed),
                *_review_cells(one),
                *(f"{estimate_words(f.failures_found)}, {plural(f.n_flagged, 'case')}" for f in one.flagged),
            )
            for one in review
            if not one.reason
        ],
        "Whether being unsure tells where the network fails",
    )


REVIEW_HEADERS = ("correlation with Dice", "AUROC, low Dice", "AUROC, a miss")


def _review_cells(review: MeasureReview) -> tuple[str, ...]:
    return tuple(map(estimate_words, (review.spearman_dice, review.auroc_low_dice, review.auroc_missed)))


def volume_table(volumes: VolumeAgreement) -> Table:
    """Return bias, limits of agreement and intraclass correlation of volumes."""
    columns = [_limit_cells(limits) for limits in (volumes.difference_cm3, volumes.ratio)]
    names = ("cases", "mean (bias)", "lower limit", "upper limit")
    icc = _with_interval(volumes.icc, volumes.icc_95, 3)
    return Table(
        ("", "prediction - reference, cm³", "prediction / reference"),
        [*zip(names, *columns, strict=True), ("intraclass correlation, ICC(A,1)", icc, "")],
        "Agreement of volumes, with 95 % intervals",
    )


def _limit_cells(limits: Limits) -> tuple[str, ...]:
    pairs = (limits.bias, limits.bias_95), (limits.lower, limits.lower_95), (limits.upper, limits.upper_95)
    return str(limits.n_cases), *(_with_interval(value, interval, 2) for value, interval in pairs)


def group_table(column: ColumnRates) -> Table:
    """Return the rates of each group of a column."""
    first, *others = GROUP_OUTCOMES.values()
    return Table(
        (column.column, "cases", first, "by patient", *others, "average precision"),
        [
            (
                group.group,
                f"{group.n_cases} of {group.n_patients}" if group.n_patients != group.n_cases else str(group.n_cases),
                _rate_words(group.detection_rate),
                percent_interval(group.detection_rate.patient_bootstrap_95),
                *(_rate_words(getattr(group, outcome)) for outcome in list(GROUP_RATES)[1:]),
                *(estimate_words(getattr(group, outcome)) for outcome in GROUP_ESTIMATES),
                estimate_words(group.average_precision),
            )
            for group in column.groups
        ],
        f"By {column.column}, with 95 % intervals: Wilson's of rates, the others by patient",
    )


def group_volume_table(column: ColumnRates) -> Table:
    """Return the agreement of volumes in each group of a column."""
    rows = [(group.group, *_volume_cells(group.volumes)) for group in column.groups]
    return Table((column.column, *VOLUME_HEADERS), rows, f"Agreement of volumes by {column.column}")


def _rate_words(rate: Rate) -> str:
    """Return a rate with Wilson's interval: '13/14 (68.5-98.7 %)'."""
    return f"{counts(rate, '-')} ({percent_interval(rate.wilson_95)})" if rate.total else "-"


def group_tests(columns: Sequence[ColumnRates]) -> Table:
    """Return for each column whether its groups differ."""
    rows = []
    for column in columns:
        p_values = [test.reason or f"{p_words(test.p)} ({p_words(test.p_holm)})" for test in column.tests]
        rows.append((column.column, *p_values))
    return Table(
        ("p (adjusted for the columns)", *(GROUP_OUTCOMES[outcome] for outcome in OUTCOMES)),
        rows,
        "Whether the groups differ",
    )


def model_froc_table(models: Sequence[tuple[str, CohortAnalysis]]) -> Table:
    """Return average precision and sensitivities of each model whose confidence is known."""
    known = [(name, analysis.curves.merged) for name, analysis in models if analysis.curves.merged]
    rates = known[0][1].sensitivities if known else ()
    header = (f"at {rate_name(one.false_positives_per_case)}" for one in rates)
    return Table(("model", "average precision", *header), [(name, *_froc_cells(froc)) for name, froc in known], "FROC")


def _froc_cells(froc: Froc) -> tuple[str, ...]:
    return (
        estimate_words(froc.average_precision),
        *(estimate_words(one.sensitivity) for one in froc.sensitivities),
    )


def model_point_table(models: Sequence[tuple[str, CohortAnalysis]]) -> Table:
    """Return the nested rates of each model at its operating point, or at one for F1."""
    return Table(
        ("model", "chosen for", "detected", "95 % CI", "by patient", "precision", "F1", *FALSE_HEADERS),
        [
            (name, analysis.point.wish, *_point_cells(analysis.point.nested))
            for name, analysis in models
            if analysis.point.nested
        ],
        numeric_from=2,
    )


def model_calibration_table(models: Sequence[tuple[str, CohortAnalysis]]) -> Table:
    """Return the errors of probabilities of each model whose voxels were counted, and of which folds, if not of all."""
    return Table(
        ("model", "voxels", "calibration error (ECE)", "Brier score", "log loss", "temperature"),
        [
            (name + _uncounted(analysis), region, *_calibration_cells(one), number(analysis.calibration.temperature))
            for name, analysis in models
            if analysis.calibration
            for region, one in _regions(analysis.calibration)
        ],
        numeric_from=2,
    )


def _uncounted(analysis: CohortAnalysis) -> str:
    folds = analysis.folds_without_counts
    return f" (without {numbered('fold', folds)})" if folds else ""


def model_volume_table(models: Sequence[tuple[str, CohortAnalysis]]) -> Table:
    """Return the agreement of volumes of each model."""
    return Table(
        ("model", *VOLUME_HEADERS),
        [(name, *_volume_cells(analysis.volumes)) for name, analysis in models if analysis.volumes.n_cases],
    )


VOLUME_HEADERS = ("cases", "bias, cm³", "lower limit", "upper limit", "ICC(A,1)")


def _volume_cells(volumes: VolumeAgreement) -> tuple[str, ...]:
    return *_limit_cells(volumes.difference_cm3), _with_interval(volumes.icc, volumes.icc_95, 3)


def model_review_table(models: Sequence[tuple[str, CohortAnalysis]]) -> Table:
    """Return how well being unsure tells the failures of each model."""
    return Table(
        ("model", "sure by", *REVIEW_HEADERS),
        [
            (name, MEASURES[one.measure], *_review_cells(one))
            for name, analysis in models
            for one in analysis.review
            if not one.reason
        ],
        numeric_from=2,
    )


def _percents(estimate: Estimate) -> tuple[str, str]:
    return percent(estimate.value), percent_interval(estimate.patient_bootstrap_95)


def _numbers(estimate: Estimate) -> tuple[str, str]:
    interval = estimate.patient_bootstrap_95
    return number(estimate.value, 3), "-" if interval is None else "-".join(number(bound, 3) for bound in interval)


def _with_interval(value: float | None, interval: Interval | None, digits: int) -> str:
    if value is None or interval is None:
        return number(value, digits)
    return f"{number(value, digits)} ({' to '.join(number(bound, digits) for bound in interval)})"
