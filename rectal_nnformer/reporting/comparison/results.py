"""What a comparison holds."""

from dataclasses import dataclass
from typing import Any

from rectal_nnformer.evaluation.statistics import Agreement, Difference
from rectal_nnformer.evaluation.summary import CohortDetection
from rectal_nnformer.reporting.analyses import ReuseProfile, StageProfile


@dataclass(frozen=True)
class FoldPoint:
    """Feature reuse of one fold, beside what it found.

    Attributes:
        fold: Number of the fold.
        reuse: Mean of the diagonal of CKA with the pretrained encoder.
        detection_rate: Detection rate on the shared cases of the fold.
        dice: Mean Dice of these cases.
    """

    fold: int
    reuse: float | None
    detection_rate: float | None
    dice: float | None


@dataclass(frozen=True)
class RunResult:
    """One run on the shared cases.

    Attributes:
        name: Short name.
        folder: Model folder.
        detection: Its lesion detection on the shared cases.
        num_left_out: Cases that it was validated on and the others were not.
        folds: Its evaluated folds, of which not all need be analysed.
        stages: Attention dilution per stage; empty where it was not analysed.
        reuse: Feature reuse per block; None where it was not analysed.
        fold_points: Feature reuse of each analysed fold beside its detection rate and Dice.
    """

    name: str
    folder: str
    detection: CohortDetection
    num_left_out: int
    folds: tuple[int, ...]
    stages: tuple[StageProfile, ...]
    reuse: ReuseProfile | None
    fold_points: tuple[FoldPoint, ...]

    @property
    def folds_without_attention(self) -> list[int]:
        """Folds whose attention dilution is not known, if that of others is."""
        known = {fold for stage in self.stages for fold in stage.adi_of_folds}
        return [fold for fold in self.folds if known and fold not in known]

    @property
    def folds_without_reuse(self) -> list[int]:
        """Folds whose feature reuse is not known, if that of others is."""
        return [fold for fold in self.folds if self.reuse is not None and fold not in self.reuse.folds]


@dataclass(frozen=True)
class PairComparison:
    """Two runs on the same lesions, cases and patients; differences are first minus second.

    Attributes:
        first: Name of the first run.
        second: Name of the second run.
        detection: McNemar's test of detection.
        detection_strict: The same where nothing is merged.
        detection_rate: Difference in detection rate.
        dice: Difference in Dice per case, over the cases where both are defined.
        false_positives_per_case: Difference in false positives per case.
    """

    first: str
    second: str
    detection: Agreement
    detection_strict: Agreement
    detection_rate: Difference
    dice: Difference
    false_positives_per_case: Difference


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: Each run.
        pairs: Every two of them.
        num_shared_cases: Cases that all were validated on; all else refers to these.
        num_shared_patients: Their patients.
        left_out_cases: Cases that some were validated on and others not; nothing refers to these.
        num_cases_in_other_folds: Cases that the runs held out in folds of different numbers.
        lesions: A row per reference lesion, with what each run made of it.
    """

    runs: tuple[RunResult, ...]
    pairs: tuple[PairComparison, ...]
    num_shared_cases: int
    num_shared_patients: int
    left_out_cases: tuple[str, ...]
    num_cases_in_other_folds: int
    lesions: tuple[dict[str, Any], ...]
