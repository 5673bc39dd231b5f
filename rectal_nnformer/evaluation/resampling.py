"""Intervals for what is no plain rate: patients drawn with replacement, each with all of their cases."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.evaluation.rates import SAME_RATE, Interval, Rate, cluster_bootstrap, draw_clusters, rate_of

CURVE_SAMPLES = 2000
"""Draws for what is computed anew from all cases in each of them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval over patients; both None where it is undefined.

    The interval alone is None where all draws give the same value.
    """

    value: float | None
    patient_bootstrap_95: Interval | None


UNDEFINED = Estimate(None, None)


def draw_patients(patients: Sequence[str]) -> NDArray[np.integer]:
    """Return how often each case is drawn with its patient, from the patient of each; (samples, cases)."""
    names, of_case = np.unique(np.array(patients, dtype=str), return_inverse=True)
    if not len(names):
        return np.zeros((CURVE_SAMPLES, 0), dtype=np.int32)
    return draw_clusters(len(names), CURVE_SAMPLES)[:, of_case]


def estimate_of(value: float, samples: Floats) -> Estimate:
    """Return a value with the interval of what samples gave in its place; NaN is undefined, in samples left out."""
    if np.isnan(value):
        return UNDEFINED
    defined = samples[~np.isnan(samples)]
    if not len(defined) or np.ptp(defined) <= SAME_RATE:
        return Estimate(float(value), None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(float(value), (float(low), float(high)))


def rate_of_sums(counts: Floats, totals: Floats) -> Rate:
    """Return the rate whose successes and trials of each patient are whole numbers in these arrays."""
    return rate_of(counts.astype(int).tolist(), totals.astype(int).tolist())


def estimate_ratio(counts: Floats, totals: Floats) -> Estimate:
    """Return the ratio of the sums over patients, as `cluster_bootstrap` takes them, with its interval."""
    total = totals.sum()
    return Estimate(float(counts.sum() / total) if total else None, cluster_bootstrap(counts.tolist(), totals.tolist()))


def sums_by_patient(patients: Sequence[str], values: Floats) -> Floats:
    """Return the sums of the cases of each patient, in the order of their names, from (cases, columns)."""
    names, of_case = np.unique(np.array(patients, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]), dtype=values.dtype)
    np.add.at(sums, of_case, values)
    return sums


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: NDArray[np.integer]) -> Floats:
    """Return the area under the ROC curve: the share of pairs in which the positive case has the higher score.

    Ties count half (Hanley and McNeil 1982, Radiology 143:29).

    Args:
        scores: Of each case; (cases,).
        positive: Whether it is one of those that the score shall be high for.
        weights: How often each case counts; (samples, cases).

    Returns:
        The area of each sample, NaN without a pair; (samples,).
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = scores.argsort(kind="stable")
    first_of_equals = np.flatnonzero(np.diff(scores[order], prepend=np.nan))
    ones, zeros = (
        np.add.reduceat((weights * kind)[:, order], first_of_equals, axis=1) for kind in (positive, ~positive)
    )
    below = zeros.cumsum(axis=1) - zeros / 2
    pairs = ones.sum(axis=1) * zeros.sum(axis=1)
    return ratio((ones * below).sum(axis=1), pairs)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return the quotient, NaN where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator != 0)
