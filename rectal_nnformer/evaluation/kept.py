"""What is found and what is false in a case if only its surest or largest candidates are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import Candidate
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.detection import MIN_IOU
from rectal_nnformer.evaluation.matching import group_components, match_strictly
from rectal_nnformer.utils.text import plural, some

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]

COLUMNS = DETECTED, FALSE, DETECTED_STRICT, FALSE_STRICT, FALSE_CM3 = range(5)
"""What is counted: lesions detected and false positives, both without merging, and the volume of false positives."""


def known_candidates(case: CaseDetection) -> tuple[Candidate, ...] | None:
    """Return the candidates of a case, None where they are not known; a case without a prediction has none."""
    return () if case.candidates is None and case.prediction_missing else case.candidates


def why_no_candidates(cases: Sequence[CaseDetection]) -> str | None:
    """Return in words why cases cannot be judged by the confidence of candidates, None if they can."""
    lacking = [case.case for case in cases if known_candidates(case) is None]
    if not lacking:
        return None
    return f"{plural(len(lacking), 'case')} without known confidence of lesions: {some(lacking)}"


class KeptCandidates:
    """The candidates of one case, matched anew to its lesions for each set of them that is kept.

    The counts are those of `detect_lesions` for the mask of the kept candidates. Ties go to the earlier candidate.

    Attributes:
        confidence: Of each candidate; (candidates,), as the following.
        volume_cm3: Its volume.
        in_mask: Whether it is a component of the predicted mask.
    """

    def __init__(self, case: CaseDetection) -> None:
        candidates = known_candidates(case)
        if candidates is None:
            raise RectalError(f"case {case.case} was scored without the confidence of lesions. Validate it again.")
        self.confidence = np.array([candidate.confidence for candidate in candidates], dtype=np.float64)
        self.volume_cm3 = np.array([candidate.volume_cm3 for candidate in candidates], dtype=np.float64)
        self.in_mask = np.array([candidate.in_mask for candidate in candidates], dtype=bool)
        self._voxels = np.array([candidate.voxels for candidate in candidates], dtype=np.int64)
        self._lesion_voxels = np.array([lesion.voxels for lesion in case.lesions], dtype=np.int64)
        shared = [candidate.shared_voxels for candidate in candidates]
        self._shared = np.array(shared, dtype=np.int64).reshape(len(candidates), len(case.lesions)).T
        self._touching = self._shared.any(axis=0)
        # Candidates apart from all lesions are false whatever else is kept, so that few sets need a matching.
        self._matched: dict[bytes, tuple[int, int, Booleans]] = {}
        self._steps: dict[bytes, tuple[Floats, Floats]] = {}

    def keep(self, min_confidence: float, min_volume_cm3: float) -> Booleans:
        """Return which candidates are at least so sure and so large."""
        return (self.confidence >= min_confidence) & (self.volume_cm3 >= min_volume_cm3)

    def false_positives(self, kept: Booleans) -> Booleans:
        """Return which of the kept candidates have no part in any detection."""
        return kept & ~self._matching(kept)[2]

    def counts(self, kept: Booleans) -> Floats:
        """Return what `COLUMNS` names if only these candidates are kept."""
        detected, strict, _ = self._matching(kept)
        false = self.false_positives(kept)
        volume = self.volume_cm3[false].sum()
        return np.array([detected, false.sum(), strict, kept.sum() - strict, volume], dtype=np.float64)

    def steps(self, min_volume_cm3: float = 0.0) -> tuple[Floats, Floats]:
        """Return the distinct confidences, the highest first, and the counts if candidates from each on are kept."""
        large_enough = self.volume_cm3 >= min_volume_cm3
        key = large_enough.tobytes()  # most volumes that are tried leave the same candidates of a case
        if key not in self._steps:
            confidences = np.unique(self.confidence[large_enough])[::-1]
            rows = [self.counts(large_enough & (self.confidence >= confidence)) for confidence in confidences]
            self._steps[key] = confidences, np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))
        return self._steps[key]

    def _matching(self, kept: Booleans) -> tuple[int, int, Booleans]:
        """Return lesions detected, the same without merging, and which candidates have a part in a detection."""
        touching = kept & self._touching
        key = touching.tobytes()
        if key not in self._matched:
            self._matched[key] = self._match(touching)
        return self._matched[key]

    def _match(self, kept: Booleans) -> tuple[int, int, Booleans]:
        shared = self._shared[:, kept]
        table = np.zeros((shared.shape[0] + 1, shared.shape[1] + 1), dtype=np.int64)
        table[1:, 1:] = shared
        table[1:, 0] = self._lesion_voxels - shared.sum(axis=1)
        table[0, 1:] = self._voxels[kept] - shared.sum(axis=0)
        grouping = group_components(table)
        found = np.concatenate(([False], grouping.iou > MIN_IOU))
        explained = np.zeros_like(kept)
        explained[kept] = found[grouping.prediction_group]
        return int(found[grouping.lesion_group].sum()), len(match_strictly(table, MIN_IOU)), explained


@dataclass(frozen=True)
class Steps:
    """How counts change as the threshold falls from each distinct confidence of a cohort to the next.

    Attributes:
        confidences: Of the cohort, the highest first; (steps,).
        step: Number of the step of each change; (changes,).
        case: Number of the case that changes.
        change: By how much each of `COLUMNS` grows; (changes, columns).
        n_cases: Cases, those without candidates included.
    """

    confidences: Floats
    step: NDArray[np.int64]
    case: NDArray[np.int64]
    change: Floats
    n_cases: int

    def pooled(self) -> Floats:
        """Return the counts of all cases together; (steps, columns)."""
        total = np.zeros((len(self.confidences), len(COLUMNS)))
        np.add.at(total, self.step, self.change)
        total = total.cumsum(axis=0)
        # A volume that comes and goes leaves a rounding error.
        total[:, FALSE_CM3] = total[:, FALSE_CM3].round(9) + 0.0
        return total

    def weighted(self, column: int, weights: NDArray[np.integer]) -> Floats:
        """Return one of `COLUMNS` if cases count as often as the weights, (samples, cases), say; (steps, samples)."""
        shape = len(self.confidences), self.n_cases
        changes = sparse.csr_array((self.change[:, column], (self.step, self.case)), shape=shape)
        return (changes @ weights.T.astype(np.float64)).cumsum(axis=0)


def merge_steps(cases: Sequence[KeptCandidates], min_volume_cm3: float = 0.0) -> Steps:
    """Return the steps of a cohort, of candidates that are at least so large."""
    of_cases = [case.steps(min_volume_cm3) for case in cases]
    confidences = np.unique(np.concatenate([np.zeros(0), *(own for own, _ in of_cases)]))[::-1]
    return Steps(
        confidences,
        np.searchsorted(-confidences, -np.concatenate([np.zeros(0), *(own for own, _ in of_cases)])),
        np.repeat(np.arange(len(cases)), [len(own) for own, _ in of_cases]),
        np.concatenate([np.zeros((0, len(COLUMNS))), *_changes(of_cases)]),
        len(cases),
    )


def _changes(of_cases: Sequence[tuple[Floats, Floats]]) -> Iterator[Floats]:
    for _, counts in of_cases:
        yield np.diff(counts, axis=0, prepend=0)
