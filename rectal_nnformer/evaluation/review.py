"""Which cases to look at first: how sure a network is of a case, and whether that tells where it failed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.evaluation.candidates import Candidate
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.kept import Booleans, Floats, known_candidates
from rectal_nnformer.evaluation.resampling import UNDEFINED, Estimate, auroc, draw_patients, estimate_of, ratio

LOW_DICE = 0.2
"""A case with this Dice or less has failed."""
FLAGGED_SHARES = (0.1, 0.2)
"""Of the cases, those least sure, in which failures are looked for."""


@dataclass(frozen=True)
class FlaggedCases:
    """The least sure cases, and the share of all failures that is among them.

    Cases that are equally sure are looked at in any order: their failures count by the share of them that is flagged.
    """

    share: float
    n_flagged: int
    failures_found: Estimate


@dataclass(frozen=True)
class MeasureReview:
    """Whether a measure of how sure a network is tells where it failed; high is always sure.

    Attributes:
        measure: Key of `MEASURES`.
        reason: Why nothing is said, or an empty string.
        n_cases: Cases for which it is known.
        n_low_dice: Those of them with a Dice of `LOW_DICE` or less.
        n_missed: Those of them with a tumour that was missed.
        spearman_dice: Rank correlation with Dice.
        auroc_low_dice: How well being unsure tells a low Dice.
        auroc_missed: How well it tells a missed tumour, among cases with a tumour.
        flagged: Of failures, which are low Dice, by `FLAGGED_SHARES`.
    """

    measure: str
    reason: str
    n_cases: int
    n_low_dice: int
    n_missed: int
    spearman_dice: Estimate
    auroc_low_dice: Estimate
    auroc_missed: Estimate
    flagged: tuple[FlaggedCases, ...]


def surest(candidates: Sequence[Candidate]) -> float:
    """Return the highest confidence of a lesion of the mask; of any candidate if there is none, 0 without any."""
    in_mask = [candidate for candidate in candidates if candidate.in_mask]
    return max((candidate.confidence for candidate in in_mask or candidates), default=0.0)


def mean_confidence(candidates: Sequence[Candidate]) -> float:
    """Return the mean confidence of the lesions of the mask; without any what `surest` returns."""
    in_mask = [candidate.confidence for candidate in candidates if candidate.in_mask]
    return math.fsum(in_mask) / len(in_mask) if in_mask else surest(candidates)


def _of_candidates(measure: Callable[[Sequence[Candidate]], float]) -> Callable[[CaseDetection], float | None]:
    def of_case(case: CaseDetection) -> float | None:
        candidates = known_candidates(case)
        return None if candidates is None else measure(candidates)

    return of_case


MEASURES: dict[str, Callable[[CaseDetection], float | None]] = {
    "confidence": _of_candidates(surest),
    "mean_confidence": _of_candidates(mean_confidence),
    "entropy": lambda case: None if case.entropy is None else -case.entropy,
    "disagreement": lambda case: None if case.disagreement is None else -case.disagreement,
}
"""How sure a network is of a case, None where that is not known; a higher value is surer."""
DEFAULT_MEASURE = "confidence"
"""The one by which cases are sorted."""


def review_order(cases: Sequence[CaseDetection], measure: str = DEFAULT_MEASURE) -> list[CaseDetection]:
    """Return the cases as they are to be looked at: the least sure first, those of which nothing is known last."""

    def place(case: CaseDetection) -> tuple[bool, float, str]:
        sure = MEASURES[measure](case)
        return (True, 0.0, case.case) if sure is None else (False, sure, case.case)

    return sorted(cases, key=place)


def review_measures(cases: Sequence[CaseDetection]) -> list[MeasureReview]:
    """Return what each measure tells of the failures of these cases; equal cases give equal intervals."""
    return [review_measure(name, cases) for name in MEASURES]


def review_measure(measure: str, cases: Sequence[CaseDetection]) -> MeasureReview:
    """Return what one of `MEASURES` tells of the failures of the cases for which it is known."""
    measured = [(case, MEASURES[measure](case)) for case in cases]
    known = [case for case, value in measured if value is not None]
    sure = np.array([value for _, value in measured if value is not None], dtype=np.float64)
    low_dice = np.array([case.dice is not None and case.dice <= LOW_DICE for case in known], dtype=bool)
    missed = np.array([case.n_missed > 0 for case in known], dtype=bool)
    with_tumor = np.array([case.n_reference > 0 for case in known], dtype=bool)
    with_dice = np.array([case.dice is not None for case in known], dtype=bool)
    dice = np.array([case.dice for case in known if case.dice is not None], dtype=np.float64)
    # The first sample is the cases as they are.
    weights = np.vstack([np.ones((1, len(known)), np.int64), draw_patients([case.patient for case in known])])
    return MeasureReview(
        measure=measure,
        reason="" if known else f"no case has a known {measure.replace('_', ' ')}",
        n_cases=len(known),
        n_low_dice=int(low_dice.sum()),
        n_missed=int(missed.sum()),
        spearman_dice=_estimate(spearman(sure[with_dice], dice, weights[:, with_dice])),
        auroc_low_dice=_estimate(auroc(-sure[with_dice], low_dice[with_dice], weights[:, with_dice])),
        auroc_missed=_estimate(auroc(-sure[with_tumor], missed[with_tumor], weights[:, with_tumor])),
        flagged=tuple(_flag(share, sure, low_dice, weights) for share in FLAGGED_SHARES),
    )


def spearman(first: Floats, second: Floats, weights: NDArray[np.integer]) -> Floats:
    """Return Spearman's rank correlation, ties with their mean rank, of cases that count as often as the weights.

    Args:
        first: Of each case; (cases,).
        second: The same of the other quantity.
        weights: How often each case counts; (samples, cases).

    Returns:
        That of each sample, NaN where one of both is constant; (samples,).
    """
    if not len(first):
        return np.full(len(weights), np.nan)
    total = weights.sum(axis=1, keepdims=True)
    centered = [_mean_ranks(values, weights) - (total + 1) / 2 for values in (first, second)]
    covariance, *variances = (
        (weights * one * other).sum(axis=1)
        for one, other in ((centered[0], centered[1]), (centered[0], centered[0]), (centered[1], centered[1]))
    )
    return np.clip(ratio(covariance, np.sqrt(variances[0] * variances[1])), -1, 1)


def _mean_ranks(values: Floats, weights: NDArray[np.integer]) -> Floats:
    """Return the mean rank that each case has among its equals, from 1; (samples, cases)."""
    order = values.argsort(kind="stable")
    new = np.diff(values[order], prepend=np.nan) != 0
    count = np.add.reduceat(weights[:, order], np.flatnonzero(new), axis=1)
    ranks = count.cumsum(axis=1) - (count - 1) / 2
    return ranks[:, (new.cumsum() - 1)[order.argsort()]]


def _flag(share: float, sure: Floats, failed: Booleans, weights: NDArray[np.integer]) -> FlaggedCases:
    """Return which share of failures is among the least sure cases, of which there are so many, rounded up."""
    # 0.1 x 70 is a hair above 7.
    n_flagged = np.ceil(share * weights.sum(axis=1, keepdims=True) - 1e-9)
    if not failed.any():
        return FlaggedCases(share, int(n_flagged[0, 0]), UNDEFINED)
    order = sure.argsort(kind="stable")
    first_of_equals = np.flatnonzero(np.diff(sure[order], prepend=np.nan))
    cases, failures = (
        np.add.reduceat(counts[:, order], first_of_equals, axis=1) for counts in (weights, weights * failed)
    )
    # Of equals as many as fit are flagged, and their failures with the same share.
    flagged = np.clip(n_flagged - (cases.cumsum(axis=1) - cases), 0, cases)
    found = (failures * np.nan_to_num(ratio(flagged, cases))).sum(axis=1)
    return FlaggedCases(share, int(n_flagged[0, 0]), _estimate(ratio(found, failures.sum(axis=1))))


def _estimate(samples: Floats) -> Estimate:
    """Return the estimate whose value is the first sample."""
    return estimate_of(samples[0], samples[1:])
