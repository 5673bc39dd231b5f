"""Rates by group, and whether groups differ more than chance explains."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.evaluation.agreement import VolumeAgreement, volume_agreement
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.froc import detection_curves
from rectal_nnformer.evaluation.groups import GroupTable
from rectal_nnformer.evaluation.rates import BOOTSTRAP_SEED, SAME_RATE, Rate
from rectal_nnformer.evaluation.resampling import (
    UNDEFINED,
    Estimate,
    estimate_ratio,
    rate_of_sums,
    ratio,
    sums_by_patient,
)
from rectal_nnformer.evaluation.statistics import holm
from rectal_nnformer.utils.text import plural

PERMUTATIONS = 4999

Floats = NDArray[np.float64]

OUTCOMES: dict[str, Callable[[CaseDetection], tuple[float, float]]] = {
    "detection_rate": lambda case: (case.n_detected, case.n_reference),
    "detection_rate_strict": lambda case: (case.strict.n_detected, case.n_reference),
    "case_rate": lambda case: (case.n_detected > 0, case.n_reference > 0),
    "precision": lambda case: (case.n_detected, case.n_detected + case.n_false_positive),
    "f1": lambda case: (2 * case.n_detected, case.n_detected + case.n_false_positive + case.n_reference),
    "false_positives_per_case": lambda case: (case.n_false_positive, 1),
    "false_positive_cm3_per_case": lambda case: (math.fsum(one.volume_cm3 for one in case.false_positives), 1),
    "case_dice": lambda case: (case.dice or 0.0, case.dice is not None),
}
"""What is given by group, each a ratio of sums over cases; the names are those of the fields of `GroupRates`."""


@dataclass(frozen=True)
class GroupRates:
    """The rates of the cases of one group, and how volumes agree; None where there is nothing to be rated.

    The average precision is None as well where the confidence of lesions is not known for a case.
    """

    group: str
    n_cases: int
    n_patients: int
    n_reference: int
    detection_rate: Rate
    detection_rate_strict: Rate
    case_rate: Rate
    precision: Rate
    f1: Estimate
    false_positives_per_case: Estimate
    false_positive_cm3_per_case: Estimate
    case_dice: Estimate
    average_precision: Estimate
    volumes: VolumeAgreement


@dataclass(frozen=True)
class GroupTest:
    """Whether the groups of a column differ in an outcome more than chance explains.

    Attributes:
        outcome: Key of `OUTCOMES`.
        reason: Why there is no test, or an empty string.
        p: Of the permutation test.
        p_holm: The same, adjusted for the columns that are tested.
    """

    outcome: str
    reason: str
    p: float | None
    p_holm: float | None = None


@dataclass(frozen=True)
class ColumnRates:
    """The rates of all groups of a column; `n_unknown` cases have no group in it and are left out."""

    column: str
    n_unknown: int
    groups: tuple[GroupRates, ...]
    tests: tuple[GroupTest, ...]


def rates_by_group(cases: Sequence[CaseDetection], table: GroupTable) -> tuple[ColumnRates, ...]:
    """Return the rates of the groups of each column, and whether they differ; equal cases give equal p-values.

    The p-values of one outcome are adjusted for the columns, by `holm`.
    """
    results = [_of_column(column, groups, cases) for column, groups in table.columns.items()]
    adjusted = [_adjusted([column.tests[place] for column in results]) for place in range(len(OUTCOMES))]
    return tuple(
        replace(column, tests=tuple(of_outcome[place] for of_outcome in adjusted))
        for place, column in enumerate(results)
    )


def _adjusted(tests: Sequence[GroupTest]) -> list[GroupTest]:
    p_values = iter(holm([test.p for test in tests if test.p is not None]))
    return [test if test.p is None else replace(test, p_holm=next(p_values)) for test in tests]


def _of_column(column: str, groups: dict[str, tuple[str, ...]], cases: Sequence[CaseDetection]) -> ColumnRates:
    group_of = {case: name for name, of_group in groups.items() for case in of_group}
    members = {name: [case for case in cases if group_of.get(case.case) == name] for name in groups}
    return ColumnRates(
        column=column,
        n_unknown=len(cases) - sum(map(len, members.values())),
        groups=tuple(_of_group(name, of_group) for name, of_group in members.items()),
        tests=tuple(_tests(list(members.values()))),
    )


def _of_group(name: str, cases: Sequence[CaseDetection]) -> GroupRates:
    patients = [case.patient for case in cases]
    sums = sums_by_patient(patients, _outcomes(cases))
    rates = dict(zip(OUTCOMES, ((sums[:, place, 0], sums[:, place, 1]) for place in range(len(OUTCOMES))), strict=True))
    return GroupRates(
        group=name,
        n_cases=len(cases),
        n_patients=len(sums),
        n_reference=sum(case.n_reference for case in cases),
        detection_rate=rate_of_sums(*rates["detection_rate"]),
        detection_rate_strict=rate_of_sums(*rates["detection_rate_strict"]),
        case_rate=rate_of_sums(*rates["case_rate"]),
        precision=rate_of_sums(*rates["precision"]),
        f1=estimate_ratio(*rates["f1"]),
        false_positives_per_case=estimate_ratio(*rates["false_positives_per_case"]),
        false_positive_cm3_per_case=estimate_ratio(*rates["false_positive_cm3_per_case"]),
        case_dice=estimate_ratio(*rates["case_dice"]),
        average_precision=curve.average_precision if (curve := detection_curves(cases).merged) else UNDEFINED,
        volumes=volume_agreement(cases),
    )


def _outcomes(cases: Sequence[CaseDetection]) -> Floats:
    """Return what is divided by what for each outcome; (cases, outcomes, 2)."""
    pairs = [[outcome(case) for outcome in OUTCOMES.values()] for case in cases]
    return np.array(pairs, dtype=np.float64).reshape(len(cases), len(OUTCOMES), 2)


def _tests(groups: Sequence[Sequence[CaseDetection]]) -> list[GroupTest]:
    """Return the test of each outcome: the groups of patients are permuted.

    It compares how far the groups' rates spread around that of all, weighted by what they are rates of.
    """
    cases = [case for group in groups for case in group]
    patients = [case.patient for case in cases]
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    pairs = set(zip(patients, number.tolist(), strict=True))
    if several := len(pairs) - len(set(patients)):
        reason = f"{plural(several, 'patient')} with cases in more than one group"
        return [GroupTest(outcome, reason, None) for outcome in OUTCOMES]
    sums = sums_by_patient(patients, _outcomes(cases))
    group_of = np.array([group for _, group in sorted(pairs)], dtype=np.int64)
    shuffled = np.random.default_rng(BOOTSTRAP_SEED).permuted(np.tile(group_of, (PERMUTATIONS, 1)), axis=1)
    permutations = np.vstack([group_of[None], shuffled])  # the first one is how it is
    spread = np.zeros((len(OUTCOMES), len(permutations)))
    tested = np.zeros(len(OUTCOMES), dtype=int)
    total = sums.sum(axis=0)
    overall = np.nan_to_num(ratio(total[:, 0], total[:, 1]))
    for group in range(len(groups)):
        members = (permutations == group).astype(np.float64)
        count, trials = (members @ sums[:, :, part] for part in (0, 1))
        spread += (np.nan_to_num(trials * (ratio(count, trials) - overall) ** 2)).T
        tested += trials[0] > 0
    return [
        GroupTest(outcome, "", _p(values))
        if n_groups > 1
        else GroupTest(outcome, "fewer than two groups have any", None)
        for outcome, values, n_groups in zip(OUTCOMES, spread, tested.tolist(), strict=True)
    ]


def _p(spread: Floats) -> float:
    """Return the share of permutations that spread as much as the first, itself included (Phipson and Smyth 2010)."""
    return float((spread >= spread[0] * (1 - SAME_RATE) - SAME_RATE).mean())
