"""How sure a model is of what it finds: curves, operating point, calibration, and which cases to look at, for pages."""

from collections.abc import Mapping
from dataclasses import dataclass

from rectal_nnformer.evaluation.agreement import VolumeAgreement, volume_agreement
from rectal_nnformer.evaluation.calibration import NestedCalibration, calibrate
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.froc import Curves, detection_curves
from rectal_nnformer.evaluation.log_odds import LogOddsCounts
from rectal_nnformer.evaluation.operating_point import F1, NestedPoint, Wish, nested_point
from rectal_nnformer.evaluation.review import MeasureReview, review_measures, review_order
from rectal_nnformer.evaluation.summary import CohortDetection


@dataclass(frozen=True)
class ConfidenceResults:
    """What is known of a model's confidence on scored cases.

    Attributes:
        curves: Sensitivity against false positives at every confidence.
        point: The operating point for a wish, and what it gives on folds that it was not chosen on.
        calibration: Of the voxels' probabilities; None where they were not counted in every fold.
        review: What each measure of a case tells of failures; of those that are known for any case.
        order: The cases, those to look at first in front.
        volumes: Of predicted against reference tumour.
    """

    curves: Curves
    point: NestedPoint
    calibration: NestedCalibration | None
    review: tuple[MeasureReview, ...]
    order: tuple[CaseDetection, ...]
    volumes: VolumeAgreement


def confidence_results(
    folds: Mapping[int, CohortDetection], counts: Mapping[int, LogOddsCounts], wish: Wish | None = None
) -> ConfidenceResults:
    """Return what the folds of a model say of its confidence; without a wish the operating point is for F1.

    Args:
        folds: Scored cases by fold; a cohort of its own is one fold.
        counts: Of the voxels of each fold that was counted.
        wish: What an operating point is chosen for.
    """
    cases = [case for result in folds.values() for case in result.cases]
    known = {fold: counts[fold] for fold in folds if fold in counts}
    return ConfidenceResults(
        curves=detection_curves(cases),
        point=nested_point({fold: result.cases for fold, result in folds.items()}, wish or Wish(F1)),
        calibration=calibrate(known) if known and len(known) == len(folds) else None,
        review=tuple(measure for measure in review_measures(cases) if not measure.reason),
        order=tuple(review_order(cases)),
        volumes=volume_agreement(cases),
    )
