"""The lesions in a predicted mask: how large, how long, and where in the patient."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from rectal_nnformer.evaluation.detection import Component, describe_components
from rectal_nnformer.imaging.masks import bounding_box, find_components


@dataclass(frozen=True)
class Finding(Component):
    """One lesion that was found.

    Attributes:
        diameter_mm: Largest distance between the centres of two of its voxels, in any direction.
        slices: Least and greatest number of its slices, as viewers number them.
        position_mm: Mean of its voxels' centres in patient coordinates: to the left, to the back, to the head.
    """

    diameter_mm: float
    slices: tuple[int, int]
    position_mm: tuple[float, float, float]


def find_lesions(
    mask: NDArray[np.bool_], image: sitk.Image, axis: int, numbers: Sequence[int]
) -> tuple[NDArray[np.int32], list[Finding]]:
    """Return the lesions of a mask, which are the components that the evaluation takes for lesions.

    Args:
        mask: Where tumour is, (z, y, x) as stored.
        image: An image on the grid of the mask.
        axis: Axis of the mask across the slices.
        numbers: How viewers number the slices, along that axis.

    Returns:
        The number of each voxel's lesion, from 1, 0 elsewhere, in the shape of the mask; and the lesions, in order.
    """
    spacing = image.GetSpacing()[::-1]
    outer = bounding_box(mask)
    components = find_components(mask[outer])
    corner = [side.start for side in outer]
    findings = []
    for component, box in zip(describe_components(components, corner, spacing), components.boxes, strict=True):
        within = numbers[corner[axis] + box[axis].start : corner[axis] + box[axis].stop]
        findings.append(
            Finding(
                **vars(component),
                diameter_mm=largest_diameter(components.labels[box] == component.label, spacing),
                slices=(min(within), max(within)),
                position_mm=image.TransformContinuousIndexToPhysicalPoint(component.centroid[::-1]),
            )
        )
    labels = np.zeros(mask.shape, np.int32)
    labels[outer] = components.labels
    return labels, findings


def largest_diameter(mask: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """Return the largest distance between the centres of two voxels of a mask with three axes, in mm.

    It is the distance of two corners of the convex hull, of which each ends a row of voxels. The spacing is in mm, in
    the order of the axes. A mask of one voxel has the diameter 0.
    """
    padded = np.pad(mask, ((0, 0), (0, 0), (1, 1)))
    ends = np.argwhere(mask & ~(padded[..., :-2] & padded[..., 2:])) * np.asarray(spacing)
    with suppress(QhullError):  # of voxels in one plane
        ends = ends[ConvexHull(ends).vertices]
    return float(pdist(ends).max(initial=0))
