"""Tests and intervals for two methods applied to the same lesions, cases and patients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rectal_nnformer.evaluation.rates import Interval, cluster_bootstrap


@dataclass(frozen=True)
class Agreement:
    """Which of the same lesions two methods detected, with the two-sided p-value of McNemar's exact test.

    `p_holm` is the same, adjusted for all pairs that are compared.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Difference:
    """First minus second method over `count` lesions or cases; None without any.

    The 95 % interval is of drawing patients with replacement, each with both results; None where no two differ.
    """

    count: int
    value: float | None
    patient_bootstrap_95: Interval | None


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947, Psychometrika 12:153).

    Lesions on which the methods agree say nothing about which is better. Of the others, as many are expected for the
    one as for the other: p is twice the binomial probability of a split at least as uneven, at most 1.

    Raises:
        ValueError: A count is negative.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts cannot be negative: {only_first}, {only_second}")
    trials = only_first + only_second
    tail = sum(math.comb(trials, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, tail / 2 ** (trials - 1)) if trials else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, so that the chance of any false finding stays below the level.

    Holm 1979 (Scand J Stat 6:65): the smallest of m is multiplied by m, the next by m - 1, and so on; none may fall
    below one before it, and none exceeds 1.
    """
    p = np.array(p_values, dtype=float)
    order = p.argsort(kind="stable")
    adjusted = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    return np.minimum(adjusted, 1)[order.argsort()].tolist()


def agreements(pairs: Sequence[Sequence[tuple[bool, bool]]]) -> list[Agreement]:
    """Return the agreement of each pair of methods, adjusted for their number.

    `pairs` tells of each pair whether the first and the second method detected each lesion.
    """
    tables = [[sum(lesion == outcome for lesion in lesions) for outcome in OUTCOMES] for lesions in pairs]
    p_values = [mcnemar_exact(table[1], table[2]) for table in tables]
    return [
        Agreement(both, first, second, neither, p, p_holm)
        for (both, first, second, neither), p, p_holm in zip(tables, p_values, holm(p_values), strict=True)
    ]


OUTCOMES = ((True, True), (True, False), (False, True), (False, False))


def paired_difference(patients: Sequence[str], first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return the mean of first minus second over lesions or cases, with its bootstrap interval over patients.

    All three sequences have an entry per lesion or case.
    """
    sums: dict[str, tuple[float, int]] = {}
    for patient, one, other in zip(patients, first, second, strict=True):
        total, count = sums.get(patient, (0.0, 0))
        sums[patient] = total + one - other, count + 1
    ordered = [sums[patient] for patient in sorted(sums)]
    totals, counts = [total for total, _ in ordered], [count for _, count in ordered]
    value = sum(totals) / len(patients) if patients else None
    return Difference(len(patients), value, cluster_bootstrap(totals, counts))
