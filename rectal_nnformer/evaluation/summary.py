"""What many scored cases say together: counts, rates with intervals, sizes, and how well lesions were outlined."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.detection import SIZE_BINS
from rectal_nnformer.evaluation.rates import Rate, rate_of
from rectal_nnformer.utils.text import percent_interval, plural

NO_RESAMPLING = "no two patients differ"
"""Why drawing patients gives no interval: every draw is the same. Wilson's is the one to read then."""


@dataclass(frozen=True)
class Spread:
    """Mean and median of `count` values, None without any."""

    count: int
    mean: float | None
    median: float | None


@dataclass(frozen=True)
class StrictSummary:
    """Counts and rate of the matching in which nothing is merged."""

    n_detected: int
    n_missed: int
    n_false_positive: int
    detection_rate: Rate


@dataclass(frozen=True)
class DetectedGroups:
    """How well the detected groups were outlined, each group counted once; the fields are those of `Lesion`."""

    dice: Spread
    hd95_mm: Spread
    surface_dice_2mm: Spread
    volume_ratio: Spread


@dataclass(frozen=True)
class CohortDetection:
    """Lesion detection over a set of cases: one fold, or several folds pooled.

    Attributes:
        n_predicted: Predicted components.
        n_false_positive: Predicted components without a part in any detection.
        n_cases_without_prediction: Cases with a prediction file that holds no lesion.
        n_cases_prediction_missing: Cases without a prediction file; their lesions count as missed.
        strict: The same without merging.
        case_rate: Cases with at least one detected lesion, among cases with a reference lesion.
        size_bins: Detection rate by lesion size.
        false_positives_per_case: Mean over all cases; None without cases.
        case_dice: Dice per case, over the cases where it is defined.
        detected_groups: How well the detected groups were outlined.
    """

    n_cases: int
    n_patients: int
    n_reference: int
    n_predicted: int
    n_detected: int
    n_missed: int
    n_false_positive: int
    n_cases_without_reference: int
    n_cases_without_prediction: int
    n_cases_prediction_missing: int
    detection_rate: Rate
    strict: StrictSummary
    case_rate: Rate
    size_bins: dict[str, Rate]
    false_positives_per_case: float | None
    case_dice: Spread
    detected_groups: DetectedGroups
    cases: tuple[CaseDetection, ...]


def summarize_cases(cases: Sequence[CaseDetection]) -> CohortDetection:
    """Return the summary of scored cases; equal cases give equal intervals."""
    n_reference = sum(case.n_reference for case in cases)
    n_detected = sum(case.n_detected for case in cases)
    n_false_positive = sum(case.n_false_positive for case in cases)
    return CohortDetection(
        n_cases=len(cases),
        n_patients=len({case.patient for case in cases}),
        n_reference=n_reference,
        n_predicted=sum(case.n_predicted for case in cases),
        n_detected=n_detected,
        n_missed=n_reference - n_detected,
        n_false_positive=n_false_positive,
        n_cases_without_reference=sum(not case.n_reference for case in cases),
        n_cases_without_prediction=sum(not case.n_predicted and not case.prediction_missing for case in cases),
        n_cases_prediction_missing=sum(case.prediction_missing for case in cases),
        detection_rate=_patient_rate(cases, lambda case: case.n_detected, lambda case: case.n_reference),
        strict=StrictSummary(
            n_detected=sum(case.strict.n_detected for case in cases),
            n_missed=sum(case.strict.n_missed for case in cases),
            n_false_positive=sum(case.strict.n_false_positive for case in cases),
            detection_rate=_patient_rate(cases, lambda case: case.strict.n_detected, lambda case: case.n_reference),
        ),
        case_rate=_patient_rate(cases, lambda case: case.n_detected > 0, lambda case: case.n_reference > 0),
        size_bins={name: _size_rate(cases, name) for name in SIZE_BINS},
        false_positives_per_case=n_false_positive / len(cases) if cases else None,
        case_dice=spread_of(case.dice for case in cases),
        detected_groups=_detected_groups(cases),
        cases=tuple(cases),
    )


def detection_line(result: CohortDetection) -> str:
    """Return the result in one line, for logs and headings."""
    lesions = plural(result.n_reference, "lesion")
    detected = f"Detected {result.n_detected} of {lesions} ({rate_words(result.detection_rate)})"
    found = detected if result.n_reference else "No lesion in the references"
    missing = result.n_cases_prediction_missing
    words = f", {plural(missing, 'prediction')} missing" if missing else ""
    return f"{found}, {plural(result.n_false_positive, 'false positive')} in {plural(result.n_cases, 'case')}{words}"


def rate_words(rate: Rate) -> str:
    """Return a rate in words, '85.0 %, 95 % CI 64.0-94.8' with Wilson's interval, or 'none' without trials."""
    if rate.rate is None or rate.wilson_95 is None:
        return "none"
    low, high = rate.wilson_95
    return f"{100 * rate.rate:.1f} %, 95 % CI {100 * low:.1f}-{100 * high:.1f}"


def patient_interval_words(rate: Rate) -> str:
    """Return the bootstrap interval over patients in words; where resampling gives none, why."""
    if rate.patient_bootstrap_95 is None and rate.total:
        return f"none: {NO_RESAMPLING}"
    return percent_interval(rate.patient_bootstrap_95)


def spread_of(values: Iterable[float | None]) -> Spread:
    """Return count, mean and median of the values that are defined."""
    defined = [value for value in values if value is not None]
    if not defined:
        return Spread(0, None, None)
    return Spread(len(defined), statistics.fmean(defined), statistics.median(defined))


def _patient_rate(
    cases: Sequence[CaseDetection], count: Callable[[CaseDetection], int], total: Callable[[CaseDetection], int]
) -> Rate:
    """Return a rate whose counts are first summed over the cases of each patient."""
    sums: dict[str, tuple[int, int]] = {}
    for case in cases:
        counted, tried = sums.get(case.patient, (0, 0))
        sums[case.patient] = counted + int(count(case)), tried + int(total(case))
    patients = sorted(sums)
    return rate_of([sums[patient][0] for patient in patients], [sums[patient][1] for patient in patients])


def _size_rate(cases: Sequence[CaseDetection], size_bin: str) -> Rate:
    return _patient_rate(
        cases,
        lambda case: sum(lesion.detected and lesion.size_bin == size_bin for lesion in case.lesions),
        lambda case: sum(lesion.size_bin == size_bin for lesion in case.lesions),
    )


def _detected_groups(cases: Sequence[CaseDetection]) -> DetectedGroups:
    # Lesions of one group carry the same values: the last one stands for all.
    groups = {(case.case, lesion.group): lesion for case in cases for lesion in case.lesions if lesion.detected}
    lesions = list(groups.values())
    names = [field.name for field in fields(DetectedGroups)]
    return DetectedGroups(**{name: spread_of(getattr(lesion, name) for lesion in lesions) for name in names})
