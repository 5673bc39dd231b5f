"""Which reference lesions a segmentation detects, and how well, on the image's own grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.evaluation.matching import Grouping, Integers, group_components, match_strictly
from rectal_nnformer.evaluation.surface import surface_agreement
from rectal_nnformer.imaging.masks import MIN_VOXELS, Components, bounding_box, find_components

MIN_IOU = 0.1
# Lower bounds in cm3; a bin reaches up to the next one's bound without including it.
SIZE_BINS = {"0-5": 0.0, "5-10": 5.0, "10-20": 10.0, "20-40": 20.0, "40+": 40.0}


@dataclass(frozen=True)
class Component:
    """One connected component of a mask.

    Attributes:
        label: Its number, from 1, in the order in which a scan along the array meets the components.
        voxels: Size in voxels.
        volume_cm3: Size in cm3.
        centroid: Mean voxel index, in the order of the array's axes.
    """

    label: int
    voxels: int
    volume_cm3: float
    centroid: tuple[float, ...]


@dataclass(frozen=True)
class Lesion(Component):
    """One reference lesion.

    Attributes:
        size_bin: Key of `SIZE_BINS`.
        group: Number of the group that it was scored in, from 1; None where no prediction overlaps it.
        iou: Intersection over union of its group; 0 without one.
        detected: Whether that is above the threshold.
        detected_strict: Whether it was found without any merging.
        dice: Dice of its group; this and the following are None where it was not detected.
        hd95_mm: 95th percentile Hausdorff distance of its group in mm.
        surface_dice_2mm: Surface Dice of its group at 2 mm.
        volume_ratio: Predicted over reference volume of its group.
    """

    size_bin: str
    group: int | None
    iou: float
    detected: bool
    detected_strict: bool
    dice: float | None = None
    hd95_mm: float | None = None
    surface_dice_2mm: float | None = None
    volume_ratio: float | None = None


@dataclass(frozen=True)
class StrictCounts:
    """Counts of the matching in which nothing is merged."""

    n_detected: int
    n_missed: int
    n_false_positive: int


@dataclass(frozen=True)
class LesionDetection:
    """What `detect_lesions` found in one case; `strict` are the counts without merging.

    `lesions` has a record per reference lesion, `false_positives` one per predicted component without a part in any
    detection; `n_predicted` counts all predicted components.
    """

    lesions: tuple[Lesion, ...]
    false_positives: tuple[Component, ...]
    n_predicted: int
    strict: StrictCounts

    @property
    def n_reference(self) -> int:
        """Reference lesions."""
        return len(self.lesions)

    @property
    def n_detected(self) -> int:
        """Number of reference lesions that were detected."""
        return sum(lesion.detected for lesion in self.lesions)

    @property
    def n_missed(self) -> int:
        """Number of reference lesions that were not detected."""
        return self.n_reference - self.n_detected

    @property
    def n_false_positive(self) -> int:
        """Number of predicted components without a part in any detection."""
        return len(self.false_positives)


def detect_lesions(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing: Sequence[float],
    min_voxels: int = MIN_VOXELS,
    min_iou: float = MIN_IOU,
) -> LesionDetection:
    """Score a predicted tumour mask against the reference, lesion by lesion.

    Lesions and predictions are 26-connected components of at least `min_voxels`. Each lesion joins the prediction that
    overlaps it most, and the lesions of one prediction form a group; each prediction joins the group that it overlaps
    most. A group whose intersection over union is above `min_iou` is detected: each of its lesions counts as detected,
    and none of its predictions is a false positive. Ties go to the lower label. `strict` is by `match_strictly`.

    Args:
        prediction: Boolean or integer array with three axes; nonzero is tumour.
        reference: The same for the reference, of the same shape.
        spacing: Voxel size in mm, in the order of the arrays' axes.
        min_voxels: Smaller components are ignored in prediction and reference.
        min_iou: A group is detected above this value, not at it.

    Raises:
        ValueError: Shapes differ, an array has not three axes or is neither boolean nor integer, or the spacing is not
            three positive numbers.

    Example:
        >>> reference = np.zeros((20, 20, 20), dtype=bool)
        >>> reference[2:8, 2:8, 2:8] = reference[12:18, 12:18, 12:18] = True
        >>> prediction = np.zeros_like(reference)
        >>> prediction[3:8, 2:8, 2:8] = True
        >>> result = detect_lesions(prediction, reference, spacing=(1.0, 1.0, 1.0))
        >>> result.n_reference, result.n_detected, result.n_missed, result.n_false_positive
        (2, 1, 1, 0)
    """
    _check_input(prediction, reference, spacing)
    box = bounding_box((prediction != 0) | (reference != 0))
    lesions, predictions = (find_components(mask[box], min_voxels) for mask in (reference, prediction))
    table = _overlap_table(lesions.labels, predictions.labels)
    grouping = group_components(table)
    strict_pairs = match_strictly(table, min_iou)
    agreements = {
        group: _group_agreement(lesions, predictions, grouping, group, spacing)
        for group in (np.flatnonzero(grouping.iou > min_iou) + 1).tolist()
    }
    offset = [axis.start for axis in box]
    predicted = describe_components(predictions, offset, spacing)
    n_strict = len(strict_pairs)
    groups = zip(predicted, grouping.prediction_group.tolist(), strict=True)
    return LesionDetection(
        lesions=_lesion_records(describe_components(lesions, offset, spacing), grouping, agreements, strict_pairs),
        false_positives=tuple(component for component, group in groups if group not in agreements),
        n_predicted=len(predicted),
        strict=StrictCounts(n_strict, len(lesions.boxes) - n_strict, len(predicted) - n_strict),
    )


def size_bin(volume_cm3: float) -> str:
    """Return the key of `SIZE_BINS` for a volume; a volume on a bound belongs to the larger bin."""
    return next(name for name, lower in reversed(SIZE_BINS.items()) if volume_cm3 >= lower)


def _check_input(prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float]) -> None:
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(f"two arrays of one shape with three axes, not {prediction.shape} and {reference.shape}")
    for array in (prediction, reference):
        if array.dtype != bool and not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"masks are boolean or integer arrays, not {array.dtype}")
    if len(spacing) != 3 or not all(size > 0 for size in spacing):
        raise ValueError(f"spacing is three positive numbers in mm, not {spacing}")


def _overlap_table(lesions: NDArray[np.int32], predictions: NDArray[np.int32]) -> Integers:
    """Return the shared voxels, (lesions + 1, predictions + 1); entry (0, 0) stays 0, nobody asks for it."""
    shape = int(lesions.max(initial=0)) + 1, int(predictions.max(initial=0)) + 1
    somewhere = (lesions > 0) | (predictions > 0)
    pairs = np.ravel_multi_index((lesions[somewhere], predictions[somewhere]), shape)
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def _group_agreement(
    lesions: Components, predictions: Components, grouping: Grouping, group: int, spacing: Sequence[float]
) -> dict[str, Any]:
    """Return how well one group was outlined, by the names of the fields of `Lesion`."""
    members = [
        (components, np.flatnonzero(groups == group))
        for components, groups in ((predictions, grouping.prediction_group), (lesions, grouping.lesion_group))
    ]
    boxes = [components.boxes[index] for components, indices in members for index in indices]
    box = tuple(slice(min(a.start for a in axis), max(a.stop for a in axis)) for axis in zip(*boxes, strict=True))
    prediction, reference = (np.isin(components.labels[box], indices + 1) for components, indices in members)
    hd95, surface_dice = surface_agreement(prediction, reference, spacing)
    n_prediction, n_reference = int(prediction.sum()), int(reference.sum())
    return {
        "dice": 2 * int((prediction & reference).sum()) / (n_prediction + n_reference),
        "hd95_mm": hd95,
        "surface_dice_2mm": surface_dice,
        "volume_ratio": n_prediction / n_reference,
    }


def describe_components(components: Components, offset: Sequence[int], spacing: Sequence[float]) -> list[Component]:
    """Return number, size and centroid of each component; `offset` is where its array starts in the whole one.

    The spacing is in mm, in the order of the array's axes.
    """
    voxel_cm3 = math.prod(spacing) / 1000
    described = []
    for label, box in enumerate(components.boxes, start=1):
        indices = np.argwhere(components.labels[box] == label)
        corner = [axis.start + start for axis, start in zip(box, offset, strict=True)]
        centroid = (indices.mean(axis=0) + corner).tolist()
        described.append(Component(label, len(indices), len(indices) * voxel_cm3, tuple(centroid)))
    return described


def _lesion_records(
    components: list[Component],
    grouping: Grouping,
    agreements: Mapping[int, dict[str, Any]],
    strict_pairs: Mapping[int, int],
) -> tuple[Lesion, ...]:
    return tuple(
        Lesion(
            component.label,
            component.voxels,
            component.volume_cm3,
            component.centroid,
            size_bin=size_bin(component.volume_cm3),
            group=group or None,
            iou=float(grouping.iou[group - 1]) if group else 0.0,
            detected=group in agreements,
            detected_strict=component.label in strict_pairs,
            **agreements.get(group, {}),
        )
        for component, group in zip(components, grouping.lesion_group.tolist(), strict=True)
    )
