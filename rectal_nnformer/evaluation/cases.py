"""Scoring one case: its two mask files in, its lesions out."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.detection import Component, Lesion, LesionDetection, StrictCounts, detect_lesions

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CaseJob:
    """What it takes to score one case.

    Attributes:
        case: Name of the case.
        patient: Pseudonymous patient, for intervals over patients.
        prediction: File of the predicted mask, which may be missing.
        reference: File of the reference mask.
        tumor_labels: Label values that are tumour.
        ignore_label: Label value of reference voxels that are left out of the score, if there is one.
    """

    case: str
    patient: str
    prediction: Path
    reference: Path
    tumor_labels: tuple[int, ...]
    ignore_label: int | None = None


@dataclass(frozen=True)
class CaseDetection:
    """The lesions of one case, found, missed and invented.

    Attributes:
        case: Name of the case.
        patient: Pseudonymous patient.
        note: What makes the case special, or an empty string.
        prediction_missing: Whether there was no prediction file; all lesions then count as missed.
        n_reference: Reference lesions.
        n_predicted: Predicted components.
        n_detected: Detected reference lesions.
        n_missed: Missed reference lesions.
        n_false_positive: Predicted components without a part in any detection.
        strict: The counts without merging.
        dice: Dice of all tumour voxels, components of any size; None where neither mask has any.
        lesions: One record per reference lesion.
        false_positives: One record per false positive.
    """

    case: str
    patient: str
    note: str
    prediction_missing: bool
    n_reference: int
    n_predicted: int
    n_detected: int
    n_missed: int
    n_false_positive: int
    strict: StrictCounts
    dice: float | None
    lesions: tuple[Lesion, ...]
    false_positives: tuple[Component, ...]


def score_case(job: CaseJob) -> CaseDetection:
    """Read the masks of one case and detect its lesions on their own grid.

    Raises:
        RectalError: The reference is missing, a file is unreadable, or the two masks lie on different grids.
    """
    image = _read_mask(job.reference, job.case)
    labels = sitk.GetArrayViewFromImage(image)
    reference = np.isin(labels, job.tumor_labels)
    missing = not job.prediction.is_file()
    prediction = np.zeros_like(reference) if missing else _read_prediction(job, image)
    if job.ignore_label is not None:
        prediction &= labels != job.ignore_label
    detection = detect_lesions(prediction, reference, image.GetSpacing()[::-1])
    return CaseDetection(
        case=job.case,
        patient=job.patient,
        note=_note(detection, missing),
        prediction_missing=missing,
        n_reference=detection.n_reference,
        n_predicted=detection.n_predicted,
        n_detected=detection.n_detected,
        n_missed=detection.n_missed,
        n_false_positive=detection.n_false_positive,
        strict=detection.strict,
        dice=_dice(prediction, reference),
        lesions=detection.lesions,
        false_positives=detection.false_positives,
    )


def case_from_json(record: Mapping[str, Any]) -> CaseDetection:
    """Return the case that `dataclasses.asdict` turned into `record`."""
    return CaseDetection(
        **{
            **record,
            "strict": StrictCounts(**record["strict"]),
            "lesions": tuple(Lesion(**_with_tuple(lesion)) for lesion in record["lesions"]),
            "false_positives": tuple(Component(**_with_tuple(found)) for found in record["false_positives"]),
        }
    )


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Return whether two volumes have equal size and their corners lie within half a voxel of each other."""
    if one.GetSize() != other.GetSize():
        return False
    corners = np.array(list(product(*((0, length - 1) for length in one.GetSize()))))
    positions = [
        np.array([image.TransformIndexToPhysicalPoint(corner) for corner in corners.tolist()]) for image in (one, other)
    ]
    distances = np.linalg.norm(positions[0] - positions[1], axis=1)
    return bool(distances.max() <= min(one.GetSpacing()) / 2)


def _read_prediction(job: CaseJob, reference: sitk.Image) -> Mask:
    image = _read_mask(job.prediction, job.case)
    if not same_grid(image, reference):
        raise RectalError(
            f"case {job.case}: prediction and reference lie on different grids (sizes {image.GetSize()} and "
            f"{reference.GetSize()}, spacings {image.GetSpacing()} and {reference.GetSpacing()}). "
            f"Resample {job.prediction} to the grid of {job.reference} with nearest neighbours."
        )
    return np.isin(sitk.GetArrayViewFromImage(image), job.tumor_labels)


def _read_mask(path: Path, case: str) -> sitk.Image:
    if not path.is_file():
        raise RectalError(f"case {case}: there is no reference mask {path}. Put it there or leave the case out.")
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise RectalError(f"case {case}: {path} cannot be read as a mask ({error}). Write it again.") from error


def _dice(prediction: Mask, reference: Mask) -> float | None:
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else None


def _note(detection: LesionDetection, missing: bool) -> str:
    notes = {
        "no lesion in the reference": not detection.n_reference,
        "prediction file missing": missing,
        "nothing predicted": not detection.n_predicted and not missing,
    }
    return "; ".join(text for text, applies in notes.items() if applies)


def _with_tuple(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "centroid": tuple(record["centroid"])}
