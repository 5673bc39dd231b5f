"""The lesions in a predicted mask: how large, how long, and where in the patient."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from rectal_nnformer.evaluation.candidates import CaseCandidates
from rectal_nnformer.evaluation.detection import Component, describe_components
from rectal_nnformer.imaging.masks import Box, Components, bounding_box, find_components


@dataclass(frozen=True)
class Finding(Component):
    """One lesion that was found, or a place that is none.

    Attributes:
        diameter_mm: Largest distance between the centres of two of its voxels, in any direction.
        slices: Least and greatest number of its slices, as viewers number them.
        position_mm: Mean of its voxels' centres in patient coordinates: to the left, to the back, to the head.
        confidence: How sure the network is of it, from 0 to 1; None where that is not known.
        removed: Whether it is a lesion to the network, which the operating point took away.
        added: Whether it is none to the network, and the operating point takes it.
    """

    diameter_mm: float
    slices: tuple[int, int]
    position_mm: tuple[float, float, float]
    confidence: float | None = None
    removed: bool = False
    added: bool = False


@dataclass(frozen=True)
class Slices:
    """The slices of a scan as viewers have them: the axis of its array across them, and their numbers along it."""

    axis: int
    numbers: Sequence[int]


def find_lesions(mask: NDArray[np.bool_], image: sitk.Image, slices: Slices) -> tuple[NDArray[np.int32], list[Finding]]:
    """Return the lesions of a mask, which are the components that the evaluation takes for lesions.

    Args:
        mask: Where tumour is, (z, y, x) as stored.
        image: An image on the grid of the mask.
        slices: Of that grid.

    Returns:
        The number of each voxel's lesion, from 1, 0 elsewhere, in the shape of the mask; and the lesions, in order.
    """
    outer = bounding_box(mask)
    components = find_components(mask[outer])
    labels = np.zeros(mask.shape, np.int32)
    labels[outer] = components.labels
    return labels, _describe(components, outer, image, slices)


def rate_lesions(
    lesions: NDArray[np.int32], found: Sequence[Finding], numbers: NDArray[np.integer], known: CaseCandidates
) -> list[Finding]:
    """Return lesions with the confidence of the candidates that they are.

    Args:
        lesions: The number of each voxel's lesion.
        found: The lesions, in order.
        numbers: The number of each voxel's candidate, in the same shape.
        known: The candidates.
    """
    rated = []
    for lesion in found:
        counts = np.bincount(numbers[lesions == lesion.label], minlength=1)
        counts[0] = 0
        number = int(counts.argmax())
        if number:
            candidate = known.candidates[number - 1]
            lesion = replace(lesion, confidence=candidate.confidence, added=not candidate.in_mask)
        rated.append(lesion)
    return rated


def find_others(
    lesions: NDArray[np.int32],
    numbers: NDArray[np.integer],
    known: CaseCandidates,
    image: sitk.Image,
    slices: Slices,
) -> list[Finding]:
    """Return the candidates that are no lesions, the surest first; the arguments are those of the functions above."""
    box = bounding_box(numbers > 0)
    labels = numbers[box].astype(np.int32)
    there = {number for number in np.unique(labels[lesions[box] > 0]).tolist() if number}
    boxes = ndimage.find_objects(labels, max_label=len(known.candidates))
    left = [number for number, part in enumerate(boxes, start=1) if part is not None and number not in there]
    dense = np.zeros(len(known.candidates) + 1, np.int32)
    dense[left] = np.arange(1, len(left) + 1)
    components = Components(dense[labels], [boxes[number - 1] for number in left])
    others = [
        replace(
            finding,
            label=number,
            confidence=known.candidates[number - 1].confidence,
            removed=known.candidates[number - 1].in_mask,
        )
        for number, finding in zip(left, _describe(components, box, image, slices), strict=True)
    ]
    return sorted(others, key=lambda finding: -(finding.confidence or 0))


def _describe(components: Components, outer: Box, image: sitk.Image, slices: Slices) -> list[Finding]:
    """Return components of a box of a scan's grid."""
    spacing = image.GetSpacing()[::-1]
    corner = [side.start for side in outer]
    findings = []
    for component, box in zip(describe_components(components, corner, spacing), components.boxes, strict=True):
        start, part = corner[slices.axis], box[slices.axis]
        within = slices.numbers[start + part.start : start + part.stop]
        findings.append(
            Finding(
                **vars(component),
                diameter_mm=largest_diameter(components.labels[box] == component.label, spacing),
                slices=(min(within), max(within)),
                position_mm=image.TransformContinuousIndexToPhysicalPoint(component.centroid[::-1]),
            )
        )
    return findings


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
