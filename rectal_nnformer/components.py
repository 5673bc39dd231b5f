"""Connected components of masks: what counts as one lesion."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIN_VOXELS = 11
"""Components of fewer voxels are no lesions."""

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Components:
    """The components of a mask.

    Attributes:
        labels: an array numbered by component from 1, 0 elsewhere.
        boxes: the smallest box around each of them.
    """

    labels: NDArray[np.int32]
    boxes: list[Box]


def find_components(mask: NDArray[Any], min_voxels: int = MIN_VOXELS) -> Components:
    """Return the 26-connected components of at least `min_voxels` of a mask with three axes.

    They are numbered in the order in which a scan along the array meets them.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    large_enough = np.bincount(labels.ravel(), minlength=1) >= min_voxels
    large_enough[0] = False
    if not large_enough[1:].all():
        labels = np.where(large_enough, large_enough.cumsum(), 0).astype(np.int32)[labels]
    return Components(labels, ndimage.find_objects(labels))


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box around everything set; one voxel if nothing is."""
    occupied = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1) for used in occupied)
