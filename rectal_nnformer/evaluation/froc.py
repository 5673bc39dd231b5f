"""Tumours found against false alarms, at every threshold of confidence: FROC, average precision, and ROC per case."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.kept import (
    DETECTED,
    DETECTED_STRICT,
    FALSE,
    FALSE_CM3,
    FALSE_STRICT,
    Floats,
    KeptCandidates,
    Steps,
    merge_steps,
    why_no_candidates,
)
from rectal_nnformer.evaluation.resampling import UNDEFINED, Estimate, auroc, draw_patients, estimate_of, ratio

FALSE_POSITIVE_RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per case at which the sensitivity is read."""
BAND_RATES = tuple(2 ** (quarter / 4) for quarter in range(-20, 17))
"""Those at which the curve's band is drawn: from 1/32 to 16."""
MAX_POINTS = 500
"""Points of a curve that are kept, evenly spaced among the distinct confidences; measures are of all of these."""
MOST_AT_ONCE = 1 << 20
"""Steps times samples that are computed at once, which bounds the memory."""


@dataclass(frozen=True)
class CurvePoint:
    """What is found and what is false if only candidates of some confidence or more are kept.

    Rates are None where nothing is there to be found or kept. Strict is the matching in which nothing is merged.

    Attributes:
        confidence: That confidence; None for the lesions of the mask.
        sensitivity: Detected among reference lesions.
        precision: Detected lesions among these and the false positives.
        false_positive_cm3_per_case: Volume of false positives, mean over the cases.
    """

    confidence: float | None
    sensitivity: float | None
    false_positives_per_case: float
    precision: float | None
    sensitivity_strict: float | None
    false_positives_per_case_strict: float
    precision_strict: float | None
    false_positive_cm3_per_case: float


@dataclass(frozen=True)
class SensitivityAt:
    """The highest sensitivity of any threshold with at most so many false positives per case."""

    false_positives_per_case: float
    sensitivity: Estimate


@dataclass(frozen=True)
class Froc:
    """One curve's measures; `band` is the curve at `BAND_RATES`."""

    average_precision: Estimate
    sensitivities: tuple[SensitivityAt, ...]
    band: tuple[SensitivityAt, ...]


@dataclass(frozen=True)
class CaseRoc:
    """How well the confidence of a case's surest candidate tells cases with a tumour from those without.

    Attributes:
        reason: Why there is none, or an empty string.
        auroc: Area under the curve.
        false_positive_rate: Of the curve's points, the highest threshold first.
        true_positive_rate: The same.
    """

    reason: str
    n_with_tumor: int
    n_without_tumor: int
    auroc: Estimate
    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """What a cohort's detection is at every threshold.

    Attributes:
        reason: Why there is no curve, or an empty string.
        points: The highest confidence first.
        mask: Of the predicted masks as they are.
        merged: With the grouping of the evaluation.
        strict: Without merging.
        roc: Per case.
    """

    reason: str
    n_cases: int
    n_reference: int
    points: tuple[CurvePoint, ...] = ()
    mask: CurvePoint | None = None
    merged: Froc | None = None
    strict: Froc | None = None
    roc: CaseRoc | None = None


def detection_curves(cases: Sequence[CaseDetection]) -> Curves:
    """Return FROC, average precision and, where it exists, ROC per case; equal cases give equal intervals."""
    n_reference = sum(case.n_reference for case in cases)
    reason = why_no_candidates(cases) or ("" if cases else "there is no case")
    if reason:
        return Curves(reason, len(cases), n_reference)
    matched = [KeptCandidates(case) for case in cases]
    steps = merge_steps(matched)
    pooled = steps.pooled()
    shown = np.unique(np.linspace(0, len(pooled) - 1, min(len(pooled), MAX_POINTS)).astype(int))
    of_mask = np.sum([case.counts(case.in_mask) for case in matched], axis=0)
    lesions = np.array([case.n_reference for case in cases])
    draws = draw_patients([case.patient for case in cases])
    return Curves(
        reason="",
        n_cases=len(cases),
        n_reference=n_reference,
        points=tuple(_point(float(steps.confidences[i]), pooled[i], n_reference, len(cases)) for i in shown),
        mask=_point(None, of_mask, n_reference, len(cases)),
        merged=_froc(steps, DETECTED, FALSE, lesions, draws),
        strict=_froc(steps, DETECTED_STRICT, FALSE_STRICT, lesions, draws),
        roc=_roc(matched, lesions > 0, draws),
    )


def _point(confidence: float | None, counts: Floats, n_reference: int, n_cases: int) -> CurvePoint:
    def share(count: float, total: float) -> float | None:
        return float(count / total) if total else None

    return CurvePoint(
        confidence=confidence,
        sensitivity=share(counts[DETECTED], n_reference),
        false_positives_per_case=float(counts[FALSE] / n_cases),
        precision=share(counts[DETECTED], counts[DETECTED] + counts[FALSE]),
        sensitivity_strict=share(counts[DETECTED_STRICT], n_reference),
        false_positives_per_case_strict=float(counts[FALSE_STRICT] / n_cases),
        precision_strict=share(counts[DETECTED_STRICT], counts[DETECTED_STRICT] + counts[FALSE_STRICT]),
        false_positive_cm3_per_case=float(counts[FALSE_CM3] / n_cases),
    )


def _froc(steps: Steps, detected: int, false: int, lesions: NDArray[np.integer], draws: NDArray[np.integer]) -> Froc:
    """Return the measures of one curve, whose counts are two of `COLUMNS`."""
    rates = (*FALSE_POSITIVE_RATES, *BAND_RATES)
    if not lesions.any():
        undefined = tuple(SensitivityAt(rate, UNDEFINED) for rate in rates)
        return Froc(UNDEFINED, undefined[: len(FALSE_POSITIVE_RATES)], undefined[len(FALSE_POSITIVE_RATES) :])
    draws = draws[draws @ lesions > 0]
    at_once = max(1, MOST_AT_ONCE // max(1, len(steps.confidences)))
    parts: list[NDArray[np.integer]] = [np.ones((1, steps.n_cases), dtype=np.int64)]
    parts += [draws[start : start + at_once] for start in range(0, len(draws), at_once)]
    values = np.concatenate(
        [
            _measures(steps.weighted(detected, part), steps.weighted(false, part), part @ lesions, part.sum(axis=1))
            for part in parts
        ],
        axis=1,
    )
    estimates = [estimate_of(row[0], row[1:]) for row in values]
    at_rates = tuple(SensitivityAt(rate, estimate) for rate, estimate in zip(rates, estimates[1:], strict=True))
    return Froc(estimates[0], at_rates[: len(FALSE_POSITIVE_RATES)], at_rates[len(FALSE_POSITIVE_RATES) :])


def _measures(detected: Floats, false: Floats, n_lesions: NDArray[np.integer], n_cases: NDArray[np.integer]) -> Floats:
    """Return average precision and the sensitivity at each rate, (1 + rates, samples), from (steps, samples)."""
    sensitivity = detected / n_lesions
    precision = np.nan_to_num(ratio(detected, detected + false))
    highest = np.maximum.accumulate(sensitivity, axis=0)
    average_precision = (np.diff(highest, axis=0, prepend=0) * precision).sum(axis=0)
    return np.vstack([average_precision, _highest_within(false / n_cases, sensitivity)])


def _highest_within(false_positives: Floats, sensitivity: Floats) -> Floats:
    """Return the highest sensitivity with at most so many false positives per case; (rates, samples).

    Where every threshold has more, nothing is kept and nothing found.
    """
    rates = np.array([*FALSE_POSITIVE_RATES, *BAND_RATES])
    order = rates.argsort(kind="stable")
    samples = sensitivity.shape[1]
    highest = np.zeros((len(rates) + 1, samples))
    # The lowest rate that allows so many false positives; the row after the last is of those that none allows.
    lowest = np.searchsorted(rates[order], false_positives)
    np.maximum.at(highest, (lowest, np.broadcast_to(np.arange(samples), lowest.shape)), sensitivity)
    within = np.maximum.accumulate(highest[:-1], axis=0)
    return within[order.argsort()]


def _roc(cases: Sequence[KeptCandidates], with_tumor: NDArray[np.bool_], draws: NDArray[np.integer]) -> CaseRoc:
    from sklearn.metrics import roc_curve

    n_with = int(with_tumor.sum())
    n_without = len(cases) - n_with
    if not n_with or not n_without:
        reason = f"there is no ROC curve per case: {'no case has' if n_without else 'all cases have'} a tumour"
        return CaseRoc(reason, n_with, n_without, UNDEFINED, (), ())
    scores = np.array([case.confidence.max(initial=0.0) for case in cases])
    value = auroc(scores, with_tumor, np.ones((1, len(cases)), dtype=np.int64))[0]
    false, true, _ = roc_curve(with_tumor, scores)
    estimate = estimate_of(value, auroc(scores, with_tumor, draws))
    return CaseRoc("", n_with, n_without, estimate, _floats(false), _floats(true))


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(map(float, values))
