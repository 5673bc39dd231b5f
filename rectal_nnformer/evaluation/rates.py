"""A rate is counts, and how far it can be trusted: two 95 % intervals for a share of successes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# 97.5th percentile of the normal distribution: 2.5 % are left out on each side.
NORMAL_QUANTILE = 1.959963984540054
BOOTSTRAP_SAMPLES = 10_000
BOOTSTRAP_SEED = 0
# Rates that differ by less, differ by rounding.
SAME_RATE = 1e-12

Interval = tuple[float, float]


@dataclass(frozen=True)
class Rate:
    """A share with its intervals, as `wilson_interval` and `cluster_bootstrap` over patients give them."""

    count: int
    total: int
    rate: float | None
    wilson_95: Interval | None
    patient_bootstrap_95: Interval | None


def rate_of(counts: Sequence[int], totals: Sequence[int]) -> Rate:
    """Return the rate over all patients, with both intervals, from successes and trials of each patient."""
    count, total = sum(counts), sum(totals)
    return Rate(
        count=count,
        total=total,
        rate=count / total if total else None,
        wilson_95=wilson_interval(count, total),
        patient_bootstrap_95=cluster_bootstrap(counts, totals),
    )


def wilson_interval(count: int, total: int) -> Interval | None:
    """Return the 95 % score interval of a proportion (Wilson 1927, J Am Stat Assoc 22:209), None without trials.

    It treats the trials as independent.

    Raises:
        ValueError: `count` is not within 0 and `total`.
    """
    if not 0 <= count <= total:
        raise ValueError(f"{count} successes in {total} trials")
    if not total:
        return None
    rate, z2 = count / total, NORMAL_QUANTILE**2
    center = rate + z2 / (2 * total)
    margin = NORMAL_QUANTILE * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    # At 0 and at 1 rounding would leave the bound a hair beside the exact one.
    low = 0.0 if count == 0 else (center - margin) / scale
    high = 1.0 if count == total else (center + margin) / scale
    return low, high


def cluster_bootstrap(
    counts: Sequence[float], totals: Sequence[float], n_samples: int = BOOTSTRAP_SAMPLES, seed: int = BOOTSTRAP_SEED
) -> Interval | None:
    """Return the 95 % percentile interval of a rate when whole clusters (patients) are drawn with replacement.

    Counts are the successes of each cluster, totals its trials; equal input and seed give equal intervals. Clusters
    without trials say nothing about the rate and are left out. Where there are no two clusters whose rates differ, as
    when all lesions are detected, all resamples have the same rate: the interval would be a point and claim a certainty
    that the data do not give. It is None then; the Wilson interval is the one to read.

    With the differences of two methods in place of counts, it is the paired bootstrap of their difference.
    """
    table = np.array([pair for pair in zip(counts, totals, strict=True) if pair[1]], dtype=float).reshape(-1, 2)
    n_clusters = len(table)
    rates = table[:, 0] / table[:, 1]
    if n_clusters < 2 or np.ptp(rates) <= SAME_RATE:
        return None
    sums = draw_clusters(n_clusters, n_samples, seed) @ table
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return float(low), float(high)


# Several rates of the same patients, with and without those that have no trial, would take most of their time to draw.
@lru_cache(maxsize=4)
def draw_clusters(n_clusters: int, n_samples: int, seed: int = BOOTSTRAP_SEED) -> NDArray[np.integer]:
    """Return how often each cluster is in each sample of as many, drawn with replacement; (samples, clusters).

    That is all that matters, so the draws need not be stored one by one. The array cannot be written to.
    """
    shares = np.full(n_clusters, 1 / n_clusters)
    draws = np.random.default_rng(seed).multinomial(n_clusters, shares, size=n_samples).astype(np.int32)
    draws.flags.writeable = False
    return draws
