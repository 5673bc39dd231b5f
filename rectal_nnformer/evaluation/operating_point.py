"""From which confidence and volume on a lesion is reported: chosen for a wish, and judged on folds that had no say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.kept import (
    DETECTED,
    FALSE,
    FALSE_CM3,
    Booleans,
    Floats,
    KeptCandidates,
    merge_steps,
    why_no_candidates,
)
from rectal_nnformer.evaluation.rates import Rate
from rectal_nnformer.evaluation.resampling import Estimate, estimate_ratio, rate_of_sums, sums_by_patient
from rectal_nnformer.evaluation.wish import F1, FP_PER_CASE, SENSITIVITY, Wish, parse_wish
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

VOLUME_QUANTILES = (0.25, 0.5, 0.75, 0.9)
"""Of the volumes of all false positives: a smallest volume helps only by what it takes of them. Few, so that none is
made to measure for a single lesion."""


NO_CANDIDATE = "no case has a candidate, whose confidence could be chosen"
POINT_FILE = "operating_point.json"
"""In a model's folder: the point by which it predicts."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a candidate needs to be reported: at least this confidence and this volume."""

    min_confidence: float
    min_volume_cm3: float

    def takes(self, confidence: float, volume_cm3: float) -> bool:
        """Whether a candidate is reported."""
        return confidence >= self.min_confidence and volume_cm3 >= self.min_volume_cm3

    def __str__(self) -> str:
        smallest = f" and {self.min_volume_cm3:.3g} cm³" if self.min_volume_cm3 else ""
        return f"a confidence of at least {self.min_confidence:.3f}{smallest}"


@dataclass(frozen=True)
class Choice:
    """A point that was chosen, and what it gives on the cases that it was chosen on.

    Attributes:
        wish: As the user writes it.
        met: Whether these cases allow what was wished.
        note: If not, what was chosen instead, else an empty string.
    """

    wish: str
    point: OperatingPoint
    met: bool
    note: str
    n_cases: int
    n_reference: int
    n_detected: int
    n_false_positive: int

    def __str__(self) -> str:
        return f"{self.point}, chosen for {self.wish}"


@dataclass(frozen=True)
class PointRates:
    """What is found and what is false at a point, or in masks as they are, with intervals.

    Attributes:
        precision: Detected lesions among these and the false positives.
        f1: Harmonic mean of sensitivity and precision.
        false_positive_cm3_per_case: Volume of false positives, mean over the cases.
    """

    n_cases: int
    sensitivity: Rate
    precision: Rate
    f1: Estimate
    false_positives_per_case: Estimate
    false_positive_cm3_per_case: Estimate


@dataclass(frozen=True)
class NestedPoint:
    """A point for each fold, chosen on the other folds, and what these points give where they were not chosen.

    Attributes:
        reason: Why there are no nested rates, or an empty string.
        chosen: On all folds: the one to predict with; None where confidence is not known, or no case has a candidate.
        folds: Chosen on the folds other than each.
        nested: Of all cases, each at the point of its own fold.
        mask: Of the same cases, with the masks as they are.
    """

    wish: str
    reason: str
    chosen: Choice | None = None
    folds: dict[int, Choice] | None = None
    nested: PointRates | None = None
    mask: PointRates | None = None


def write_point(choice: Choice | None, model: Path) -> None:
    """Write the point by which a model predicts into its folder; None removes what was there."""
    if choice is None:
        (model / POINT_FILE).unlink(missing_ok=True)
    else:
        write_json(model / POINT_FILE, asdict(choice))


def read_point(model: Path) -> Choice | None:
    """Return the point by which a model predicts, None where none was chosen.

    Raises:
        RectalError: The file is damaged.
    """
    path = model / POINT_FILE
    remedy = "Choose it again with 'rectal_nnformer crossval --operating-point'."
    if not path.is_file():
        return None
    choice = read_own(Choice, path, remedy)
    parse_wish(choice.wish)
    least = choice.point.min_confidence, choice.point.min_volume_cm3
    if not (0 <= least[0] <= 1 and 0 <= least[1] < math.inf):
        raise RectalError(f"{path} cannot be used: confidence and volume are {least[0]} and {least[1]}. {remedy}")
    return choice


def choose(cases: Sequence[CaseDetection], wish: Wish) -> Choice:
    """Return the point that serves a wish best on these cases.

    All distinct confidences are tried, with each of a few smallest volumes. Of equals the highest confidence is taken,
    then the smallest volume, unless something else is said.

    - `fp-per-case`: the highest sensitivity with at most so many false positives per case, then the smallest volume,
      then the lowest confidence that keeps to it.
    - `sensitivity`: the fewest false positives with at least this sensitivity, then the highest sensitivity.
    - `f1`: the highest F1 of lesions.

    Raises:
        RectalError: The confidence of lesions is not known for a case, or there is no candidate at all.
    """
    choice = _choose([KeptCandidates(case) for case in cases], sum(case.n_reference for case in cases), wish)
    if choice is None:
        raise RectalError(f"There is no operating point for {wish}: {NO_CANDIDATE}. Train longer, or add cases.")
    return choice


def nested_point(folds: Mapping[int, Sequence[CaseDetection]], wish: Wish) -> NestedPoint:
    """Choose a point on all folds, and judge the choice by points that are chosen without the fold they apply to."""
    cases = [case for of_fold in folds.values() for case in of_fold]
    reason = why_no_candidates(cases) or ("" if cases else "there is no case")
    if reason:
        return NestedPoint(str(wish), reason)
    matched = {fold: [KeptCandidates(case) for case in of_fold] for fold, of_fold in folds.items()}
    n_reference = {fold: sum(case.n_reference for case in of_fold) for fold, of_fold in folds.items()}

    def chosen_without(left_out: int | None) -> Choice | None:
        others = [fold for fold in folds if fold != left_out]
        return _choose([case for fold in others for case in matched[fold]], sum(n_reference[f] for f in others), wish)

    chosen = chosen_without(None)
    mask = _rates(cases, [(case, case.in_mask) for of_fold in matched.values() for case in of_fold])
    if chosen is None:
        return NestedPoint(str(wish), NO_CANDIDATE, mask=mask)
    if len(folds) < 2:
        one = "there is one fold only: no other to choose a point on, and rates on the cases it was chosen on flatter"
        return NestedPoint(str(wish), one, chosen, mask=mask)
    points = {fold: choice for fold in folds if (choice := chosen_without(fold))}
    if alone := [fold for fold in folds if fold not in points]:
        only = f"candidates are in fold {alone[0]} only, so that no other could choose a point for it"
        return NestedPoint(str(wish), only, chosen, mask=mask)
    kept = [
        (case, case.keep(points[fold].point.min_confidence, points[fold].point.min_volume_cm3))
        for fold, of_fold in matched.items()
        for case in of_fold
    ]
    return NestedPoint(str(wish), "", chosen, points, _rates(cases, kept), mask)


def _choose(cases: Sequence[KeptCandidates], n_reference: int, wish: Wish) -> Choice | None:
    """Return the best of all points; None without a candidate: nothing would tell 0 from any other confidence."""
    tried = [_tried(cases, volume) for volume in _smallest_volumes(cases)]
    table = np.concatenate([np.zeros((0, 4)), *tried])
    if not len(table):
        return None
    confidence, volume, detected, false = table.T
    met, criteria = _criteria(wish, table, n_reference, len(cases))
    best = int(np.lexsort((volume, -confidence, *criteria[::-1], ~met))[0])  # the last key decides first
    return Choice(
        wish=str(wish),
        point=OperatingPoint(float(confidence[best]), float(volume[best])),
        met=bool(met[best]),
        note="" if met[best] else _what_instead(wish),
        n_cases=len(cases),
        n_reference=n_reference,
        n_detected=int(detected[best]),
        n_false_positive=int(false[best]),
    )


def _tried(cases: Sequence[KeptCandidates], volume: float) -> Floats:
    """Return confidence, volume, lesions detected and false positives of each threshold; (thresholds, 4)."""
    steps = merge_steps(cases, volume)
    volumes = np.full(len(steps.confidences), volume)
    return np.column_stack([steps.confidences, volumes, steps.pooled()[:, [DETECTED, FALSE]]])


def _smallest_volumes(cases: Sequence[KeptCandidates]) -> list[float]:
    volumes = [case.volume_cm3[case.false_positives(np.ones(len(case.volume_cm3), dtype=bool))] for case in cases]
    all_volumes = np.concatenate([np.zeros(0), *volumes])
    quantiles = np.quantile(all_volumes, VOLUME_QUANTILES) if len(all_volumes) else np.zeros(0)
    return np.unique([0.0, *quantiles]).tolist()


def _criteria(wish: Wish, tried: Floats, n_reference: int, n_cases: int) -> tuple[Booleans, tuple[Floats, ...]]:
    """Return for each threshold of `_tried` whether it meets a wish, and what shall be low, the first above all."""
    confidence, volume, detected, false = tried.T
    limit = wish.value or 0.0
    if wish.kind == F1:
        f1 = 2 * detected / np.maximum(detected + false + n_reference, 1)
        return np.full(detected.shape, n_reference > 0), (-f1,)
    if wish.kind == FP_PER_CASE:
        met = false / max(n_cases, 1) <= limit
        # What is granted is used up: cases that had no say may need it for a faint lesion.
        return met, (np.where(met, -detected, false), np.where(met, volume, -detected), np.where(met, confidence, 0))
    met = detected / max(n_reference, 1) >= limit
    return met, (np.where(met, false, -detected), np.where(met, -detected, false))


def _what_instead(wish: Wish) -> str:
    if wish.kind == FP_PER_CASE:
        return "every threshold has more false positives per case; the one with the fewest was taken"
    if wish.kind == SENSITIVITY:
        return "no threshold finds so many lesions; the one with the highest sensitivity was taken"
    return "there is no lesion to be found; the one with the highest confidence was taken"


def _rates(cases: Sequence[CaseDetection], kept: Sequence[tuple[KeptCandidates, Booleans]]) -> PointRates:
    """Return the rates of cases of which some candidates are kept, in the same order."""
    counts = np.array([case.counts(of_case) for case, of_case in kept])
    table = np.column_stack([counts, [case.n_reference for case in cases], np.ones(len(cases))])
    sums = sums_by_patient([case.patient for case in cases], table).T
    detected, false, volume, n_reference, n_cases = sums[[DETECTED, FALSE, FALSE_CM3, -2, -1]]

    return PointRates(
        n_cases=len(cases),
        sensitivity=rate_of_sums(detected, n_reference),
        precision=rate_of_sums(detected, detected + false),
        f1=estimate_ratio(2 * detected, detected + false + n_reference),
        false_positives_per_case=estimate_ratio(false, n_cases),
        false_positive_cm3_per_case=estimate_ratio(volume, n_cases),
    )
