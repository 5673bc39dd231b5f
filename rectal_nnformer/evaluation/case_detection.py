"""Scoring one case: its two mask files in, its lesions out."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import (
    Candidate,
    CaseCandidates,
    as_predicted,
    candidates_of_probabilities,
    read_candidates,
    read_log_odds,
    score_candidates,
)
from rectal_nnformer.evaluation.detection import Component, Lesion, StrictCounts, detect_lesions
from rectal_nnformer.evaluation.log_odds import LogOddsCounts, count_case
from rectal_nnformer.imaging.masks import TumorHeads
from rectal_nnformer.imaging.reading import grid_differences, in_order_of, read_image
from rectal_nnformer.imaging.volumes import shape_problems


@dataclass(frozen=True)
class CaseJob:
    """What it takes to score one case.

    `labels` are all of the dataset, background and ignore label included. Reference voxels of the ignore label are left
    out of the score. `ignore_position` lays masks over each other that differ in origin or direction, in LPS order.
    `tumor_heads` are the outputs of the network that are tumour, of which nnU-Net may have saved probabilities.
    """

    case: str
    patient: str
    prediction: Path
    reference: Path
    labels: tuple[int, ...]
    tumor_labels: tuple[int, ...]
    ignore_label: int | None = None
    ignore_position: bool = False
    tumor_heads: TumorHeads | None = None

    @property
    def probabilities(self) -> Path:
        """Where nnU-Net saves the probabilities of the prediction, if it is told to."""
        return self.prediction.with_name(f"{self.case}.npz")


@dataclass(frozen=True)
class CaseDetection:
    """The lesions of one case, found, missed and invented.

    Attributes:
        note: What makes the case special, or an empty string.
        prediction_missing: Whether there was no prediction file; all lesions then count as missed.
        n_predicted: Predicted components.
        n_false_positive: Predicted components without a part in any detection.
        strict: The counts without merging.
        dice: Dice of all tumour voxels, components of any size; None where neither mask has any.
        predicted_cm3: Volume of all tumour voxels of the prediction; this and the following are None where an earlier
            version scored, or nothing is known of it.
        reference_cm3: The same of the reference.
        candidates: Lesions of the prediction and places below its threshold, with how sure the network is of each.
        entropy: How unsure the network is of the case, from 0 to 1.
        disagreement: How far the masks of the folds of an ensemble are apart: 1 minus the mean Dice of two of them.
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
    predicted_cm3: float | None = None
    reference_cm3: float | None = None
    candidates: tuple[Candidate, ...] | None = None
    entropy: float | None = None
    disagreement: float | None = None


def score_case(job: CaseJob) -> CaseDetection:
    """Read the masks of one case and detect its lesions on their own grid.

    Raises:
        RectalError: The reference is missing, a file is damaged or no 3D mask of the dataset's labels, or the two masks
            lie on different grids.
    """
    if not job.reference.is_file():
        raise RectalError(f"case {job.case}: there is no reference {job.reference}. Add it or leave the case out.")
    image, predicted = _read_pair(job)
    labels = sitk.GetArrayViewFromImage(image)
    reference = np.isin(labels, job.tumor_labels)
    missing = predicted is None
    if predicted is None:
        prediction = np.zeros_like(reference)
    else:
        prediction = np.isin(sitk.GetArrayViewFromImage(predicted), job.tumor_labels)
    if job.ignore_label is not None:
        prediction &= labels != job.ignore_label
    spacing = image.GetSpacing()[::-1]
    detection = detect_lesions(prediction, reference, spacing)
    found, unreadable = None, ""
    try:
        found = None if predicted is None else _read_candidates(job, image)
    except RectalError as error:  # of an optional file: the case is scored without
        unreadable = f"how sure the network is, is not known: {error}"
    scored = None
    if found is not None:
        numbers = np.where(labels == job.ignore_label, 0, sitk.GetArrayViewFromImage(found[0]))
        scored = score_candidates(numbers, found[1], prediction, reference, spacing)
    voxel_cm3 = math.prod(spacing) / 1000
    notes = {
        "no lesion in the reference": not detection.n_reference,
        "prediction file missing": missing,
        "nothing predicted": not detection.n_predicted and not missing,
        unreadable: bool(unreadable),
    }
    tumor = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return CaseDetection(
        case=job.case,
        patient=job.patient,
        note="; ".join(text for text, applies in notes.items() if applies),
        prediction_missing=missing,
        n_reference=detection.n_reference,
        n_predicted=detection.n_predicted,
        n_detected=detection.n_detected,
        n_missed=detection.n_missed,
        n_false_positive=detection.n_false_positive,
        strict=detection.strict,
        dice=2 * np.count_nonzero(prediction & reference) / tumor if tumor else None,
        lesions=detection.lesions,
        false_positives=detection.false_positives,
        predicted_cm3=np.count_nonzero(prediction) * voxel_cm3,
        reference_cm3=np.count_nonzero(reference) * voxel_cm3,
        candidates=scored,
        entropy=found[1].entropy if found and scored is not None else None,
        disagreement=found[1].disagreement if found and scored is not None else None,
    )


def count_voxels(job: CaseJob) -> LogOddsCounts | None:
    """Return what log-odds of tumour the voxels of a case got, from nnU-Net's probabilities; None without any."""
    if job.tumor_heads is None or not job.probabilities.is_file():
        return None
    reference, predicted = _read_pair(replace(job, prediction=as_predicted(job.prediction)))
    if predicted is None:
        return None
    found = read_log_odds(job.probabilities, predicted, job.tumor_heads, job.tumor_labels)
    if found is None:
        return None
    labels, mask = (sitk.GetArrayFromImage(in_order_of(image, found)) for image in (reference, predicted))
    if labels.shape != mask.shape:
        return None
    log_odds, prediction = sitk.GetArrayViewFromImage(found), np.isin(mask, job.tumor_labels)
    spacing = found.GetSpacing()[::-1]
    return count_case(log_odds, labels, prediction, job.tumor_labels, job.ignore_label, spacing)


def _read_candidates(job: CaseJob, reference: sitk.Image) -> tuple[sitk.Image, CaseCandidates] | None:
    """Return the candidates beside a prediction, on the grid of the masks as they are laid over each other."""
    found = read_candidates(job.prediction)
    if found is None and job.tumor_heads is not None:
        network = read_image(as_predicted(job.prediction))
        found = candidates_of_probabilities(job.probabilities, network, job.tumor_heads, job.tumor_labels)
    if found is None:
        return None
    numbers = in_order_of(found[0], reference)
    if grid_differences(reference, numbers) and job.ignore_position:
        numbers = sitk.DICOMOrient(numbers, "LPS")
    return (numbers, found[1]) if numbers.GetSize() == reference.GetSize() else None


def _read_pair(job: CaseJob) -> tuple[sitk.Image, sitk.Image | None]:
    """Return reference and prediction on one grid; None for a prediction that is missing."""
    reference = _read_mask(job, job.reference, "reference")
    if not job.prediction.is_file():
        return reference, None
    prediction = in_order_of(_read_mask(job, job.prediction, "prediction"), reference)
    differences = grid_differences(reference, prediction)
    if differences and job.ignore_position:
        reference, prediction = (sitk.DICOMOrient(mask, "LPS") for mask in (reference, prediction))
        if reference.GetSize() == prediction.GetSize():
            return reference, prediction
    if differences:
        raise RectalError(
            f"case {job.case}: prediction and reference lie on different grids ({'; '.join(differences)}). "
            f"Resample {job.prediction} to the grid of {job.reference} with nearest neighbours."
        )
    return reference, prediction


def _read_mask(job: CaseJob, path: Path, role: str) -> sitk.Image:
    """Return the mask in a file; refuse what would be scored in silence as if it held less tumour."""
    refused = f"case {job.case}: the {role} cannot be scored:"
    try:
        mask = read_image(path)
    except RectalError as error:
        raise RectalError(f"{refused} {error}.") from None
    if problems := shape_problems(mask, str(path)):
        raise RectalError(f"{refused} {'; '.join(problems)}; write one volume of labels.")
    values = sitk.GetArrayViewFromImage(mask)
    foreign = np.unique(values[~np.isin(values, job.labels)])
    if foreign.size:
        shown = ", ".join(f"{value:g}" for value in foreign[:5]) + (" ..." if foreign.size > 5 else "")
        raise RectalError(
            f"{refused} {path} has values that are no labels of dataset.json ({shown}; the labels are "
            f"{', '.join(map(str, job.labels))}); write a mask of these labels, not of probabilities or greys."
        )
    return mask
