"""What the recipes of the evidence came to, seed by seed, and what of it speaks for which claim."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.rates import Interval
from rectal_nnformer.evaluation.statistics import Difference, holm, paired_difference
from rectal_nnformer.study.table import signed_rank_p

Cohort = Literal["internal", "external"]
Measure = Literal["detection", "Dice", "false positives", "ADI"]
Verdict = Literal["shown", "suggested", "not shown", "opposite suggested", "opposite", "not measured"]
LEVEL = 0.05
"""Below which the adjusted p of a claim is for a verdict without "suggested"."""


@dataclass(frozen=True)
class CaseValues:
    """A measure of each unit, a tumour or a case: the mean over the seeds, and the patient that it is of."""

    patients: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class SeedOutcome:
    """What one recipe from one seed came to.

    Attributes:
        cohorts: The scored cases of each cohort.
        adi: Attention dilution index of each held-out case, mean over the stages in which it is defined.
        stage_adi: Of each stage, over all held-out cases.
        a_rp: Attention of real queries on padding, mean over the stages.
    """

    cohorts: Mapping[Cohort, Sequence[CaseDetection]]
    adi: Mapping[str, float]
    stage_adi: tuple[float | None, ...]
    a_rp: float


@dataclass(frozen=True)
class Claim:
    """That one recipe has more (`sign` 1) or less (-1) of a measure than another."""

    text: str
    first: str
    second: str
    measure: Measure
    cohort: Cohort = "internal"
    sign: int = 1


@dataclass(frozen=True)
class Finding:
    """A claim, and what speaks for it.

    Attributes:
        claim: The claim.
        difference: First minus second recipe, with its interval over cases.
        of_seeds: The same of each seed.
        p_holm: Of Wilcoxon's signed ranks over cases, adjusted for the number of claims.
        verdict: By the interval and the adjusted p.
    """

    claim: Claim
    difference: Difference
    of_seeds: tuple[float, ...]
    p_holm: float
    verdict: Verdict


COMPARISONS = (
    ("Cropping to the planned patch", "Crop", "Base"),
    ("Masking padding in the cube", "MaskedPadding", "Base"),
    ("Tumour-aware augmentation", "TA", "Base"),
    ("Tumour-aware augmentation on the planned patch", "ACT", "Crop"),
    ("Both together (ACT)", "ACT", "Base"),
    ("Pretraining on CT", "ACT", "Scratch"),
    ("Putting scattered windows back in place", "InverseWindows", "Scratch"),
)
"""What the first recipe has and the second lacks."""
_WHERE: tuple[tuple[Cohort, str], ...] = (("internal", ""), ("external", " where they look otherwise"))
_BETTER: tuple[tuple[Measure, str], ...] = (("detection", "finds more tumours"), ("Dice", "outlines tumours better"))

CLAIMS = (
    Claim("Padding takes attention, which cropping gives back", "Base", "Crop", "ADI"),
    Claim("Masking takes padding out of the attention", "MaskedPadding", "Base", "ADI", sign=-1),
    *(
        Claim(f"{what} {does}{where}", first, second, measure, cohort)
        for what, first, second in COMPARISONS
        for cohort, where in _WHERE
        for measure, does in _BETTER
    ),
)
"""What the paper says or follows from it, as far as such a study can test it: each comparison by both measures on both
cohorts."""


def values_of(outcome: SeedOutcome, measure: Measure, cohort: Cohort) -> CaseValues:
    """Return a measure of every tumour ("detection") or case, in the order of the cases' names."""
    if measure == "ADI":
        names = sorted(outcome.adi)
        return CaseValues(tuple(names), tuple(outcome.adi[name] for name in names))
    pick: Callable[[CaseDetection], Sequence[float]] = {
        "detection": lambda case: [float(lesion.detected) for lesion in case.lesions],
        "Dice": lambda case: [case.dice or 0.0],
        "false positives": lambda case: [float(case.n_false_positive)],
    }[measure]
    cases = sorted(outcome.cohorts[cohort], key=lambda case: case.case)
    rows = [(case.patient, value) for case in cases for value in pick(case)]
    return CaseValues(tuple(patient for patient, _ in rows), tuple(value for _, value in rows))


def mean_over_seeds(outcomes: Sequence[SeedOutcome], measure: Measure, cohort: Cohort) -> CaseValues:
    """Return a measure of every unit, averaged over the seeds of a recipe."""
    of_seeds = [values_of(outcome, measure, cohort) for outcome in outcomes]
    return CaseValues(of_seeds[0].patients, tuple(map(fmean, zip(*(one.values for one in of_seeds), strict=True))))


def findings_of(outcomes: Mapping[str, Sequence[SeedOutcome]], claims: Sequence[Claim] = CLAIMS) -> tuple[Finding, ...]:
    """Return what speaks for each claim: seeds are averaged per tumour or case, and cases are the sample.

    Args:
        outcomes: Of each recipe, one per seed, all of the same cases. Claims on others are left out.
        claims: Those to be tested.
    """
    claims = [claim for claim in claims if {claim.first, claim.second} <= outcomes.keys()]
    pairs = [
        [
            [values_of(outcome, claim.measure, claim.cohort) for outcome in outcomes[name]]
            for name in (claim.first, claim.second)
        ]
        for claim in claims
    ]
    tests = []
    for claim in claims:
        one, two = (
            mean_over_seeds(outcomes[name], claim.measure, claim.cohort) for name in (claim.first, claim.second)
        )
        tests.append((paired_difference(one.patients, one.values, two.values), _p(one, two)))
    adjusted = holm([p for _, p in tests])
    return tuple(
        Finding(
            claim,
            difference,
            tuple(fmean(a.values) - fmean(b.values) for a, b in zip(*pair, strict=True)),
            p,
            verdict_of(difference.patient_bootstrap_95, claim.sign, p),
        )
        for claim, (difference, _), pair, p in zip(claims, tests, pairs, adjusted, strict=True)
    )


def verdict_of(interval: Interval | None, sign: int, p_holm: float | None = None, chance: float = 0.0) -> Verdict:
    """Return what an interval, and a p-value adjusted for all claims, say of a claim.

    Many intervals are read, so that one that leaves out 0 suggests, and shows where the p-value is small, too.

    Args:
        interval: Of a difference; None or NaN where all cases agree.
        sign: 1 if the claim is of more, -1 if of less.
        p_holm: None of a claim that has no test: its interval shows.
        chance: What the interval is compared with.
    """
    if interval is None or not all(map(math.isfinite, interval)):
        return "not measured"
    low, high = sorted(sign * (bound - chance) for bound in interval)
    is_sure = p_holm is None or p_holm < LEVEL
    if low > 0:
        return "shown" if is_sure else "suggested"
    if high < 0:
        return "opposite" if is_sure else "opposite suggested"
    return "not shown"


def _p(first: CaseValues, second: CaseValues) -> float:
    p = signed_rank_p(list(zip(first.patients, first.values, second.values, strict=True)))
    return 1.0 if p is None else p
