"""How well predicted volumes of tumour agree with those of the reference: Bland-Altman and intraclass correlation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.rates import NORMAL_QUANTILE, SAME_RATE, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Mean of differences, and the limits within which 95 % of them lie, with 95 % confidence intervals.

    Values are None without cases, limits with a single one, intervals also where all differences are the same.
    """

    n_cases: int
    bias: float | None = None
    bias_95: Interval | None = None
    lower: float | None = None
    lower_95: Interval | None = None
    upper: float | None = None
    upper_95: Interval | None = None


@dataclass(frozen=True)
class VolumeAgreement:
    """Predicted against reference volume of all tumour voxels of each case.

    Attributes:
        n_cases: Cases of which both volumes are known.
        difference_cm3: Predicted minus reference volume.
        ratio: Predicted over reference volume, by way of the logarithm, of the cases where neither is 0.
        icc: Intraclass correlation ICC(A,1); None where it is undefined.
        icc_95: Its 95 % confidence interval.
    """

    n_cases: int
    difference_cm3: Limits
    ratio: Limits
    icc: float | None
    icc_95: Interval | None


def volume_agreement(cases: Sequence[CaseDetection]) -> VolumeAgreement:
    """Return the agreement of volumes; cases of which one is not known are left out.

    Cases count as independent, those of one patient too.
    """
    volumes = _known_volumes(cases)
    logarithms = np.log(volumes[(volumes > 0).all(axis=1)])
    icc, icc_95 = absolute_agreement(volumes)
    return VolumeAgreement(
        n_cases=len(volumes),
        difference_cm3=limits_of_agreement(volumes[:, 0] - volumes[:, 1]),
        ratio=_exponential(limits_of_agreement(logarithms[:, 0] - logarithms[:, 1])),
        icc=icc,
        icc_95=icc_95,
    )


def means_and_differences(cases: Sequence[CaseDetection]) -> Floats:
    """Return what a picture of Bland and Altman shows of each case whose volumes are known; (cases, 2).

    It is the mean of both volumes, and predicted minus reference volume, in cm3.
    """
    volumes = _known_volumes(cases)
    return np.column_stack([volumes.mean(axis=1), volumes[:, 0] - volumes[:, 1]])


def _known_volumes(cases: Sequence[CaseDetection]) -> Floats:
    """Return predicted and reference volume of each case of which both are known; (cases, 2)."""
    known = [
        (case.predicted_cm3, case.reference_cm3)
        for case in cases
        if case.predicted_cm3 is not None and case.reference_cm3 is not None
    ]
    return np.array(known, dtype=np.float64).reshape(-1, 2)


def limits_of_agreement(differences: Floats) -> Limits:
    """Return mean and 95 % limits of differences, (cases,) (Bland and Altman 1986, Lancet 327:307).

    Limits are mean - 1.96 s and mean + 1.96 s, with the standard deviation s. Intervals are by Student's t with n - 1
    degrees of freedom; the standard error of the mean is s / sqrt(n), that of a limit s sqrt(1 / n + 1.96² / (2 n - 2))
    (Bland and Altman 1999, Stat Methods Med Res 8:135).
    """
    n = len(differences)
    if not n:
        return Limits(0)
    mean = float(differences.mean())
    if n == 1:
        return Limits(1, mean)
    sd = 0.0 if np.ptp(differences) <= SAME_RATE else float(differences.std(ddof=1))
    t = float(stats.t.ppf(0.975, n - 1))
    margins = t * sd / np.sqrt(n), t * sd * np.sqrt(1 / n + NORMAL_QUANTILE**2 / (2 * n - 2))

    def interval(value: float, margin: float) -> Interval | None:
        return (float(value - margin), float(value + margin)) if sd else None

    lower, upper = mean - NORMAL_QUANTILE * sd, mean + NORMAL_QUANTILE * sd
    return Limits(
        n, mean, interval(mean, margins[0]), lower, interval(lower, margins[1]), upper, interval(upper, margins[1])
    )


def absolute_agreement(ratings: Floats) -> tuple[float | None, Interval | None]:
    """Return ICC(A,1), two-way random, single rater, absolute agreement, and its 95 % interval.

    McGraw and Wong 1996 (Psychol Methods 1:30); it is ICC(2,1) of Shrout and Fleiss 1979 (Psychol Bull 86:420).

    Args:
        ratings: A row per case, a column per rater, at least two of each; (cases, raters).

    Returns:
        None where there are fewer or no two ratings differ, and for an interval where there is no disagreement.
    """
    n, k = ratings.shape
    if n < 2 or k < 2 or np.ptp(ratings) == 0:
        return None, None
    rows, columns, mean = ratings.mean(axis=1), ratings.mean(axis=0), ratings.mean()
    residuals = ratings - rows[:, None] - columns + mean
    msr = k * ((rows - mean) ** 2).sum() / (n - 1)
    msc = n * ((columns - mean) ** 2).sum() / (k - 1)
    mse = (residuals**2).sum() / ((n - 1) * (k - 1))
    denominator = msr + (k - 1) * mse + k * (msc - mse) / n
    if denominator <= 0:
        return None, None
    icc = (msr - mse) / denominator
    # Both weights of the paper times n (1 - icc), which may be 0.
    a, b = k * icc * msc, (n * (1 + (k - 1) * icc) - k * icc) * mse
    squares = a**2 / (k - 1) + b**2 / ((n - 1) * (k - 1))
    if not squares or a + b == 0:
        return float(icc), None
    v = (a + b) ** 2 / squares
    below, above = stats.f.ppf(0.975, n - 1, v), stats.f.ppf(0.975, v, n - 1)
    rest = k * msc + (k * n - k - n) * mse
    low = n * (msr - below * mse) / (below * rest + n * msr)
    high = n * (above * msr - mse) / (rest + n * above * msr)
    return float(icc), (float(low), float(high))


def _exponential(limits: Limits) -> Limits:
    """Return limits of logarithms as limits of ratios."""

    def ratio(logarithm: float | None) -> float | None:
        return None if logarithm is None else math.exp(logarithm)

    def interval(logarithms: Interval | None) -> Interval | None:
        return None if logarithms is None else (math.exp(logarithms[0]), math.exp(logarithms[1]))

    return Limits(
        limits.n_cases,
        ratio(limits.bias),
        interval(limits.bias_95),
        ratio(limits.lower),
        interval(limits.lower_95),
        ratio(limits.upper),
        interval(limits.upper_95),
    )
