"""The planning rules as pure functions: target spacing, patch size, batch size, axes.

A cohort is given by its extents: voxels per axis (x, y, z) of each case at the target spacing, (cases, 3). Patch sizes
are voxels per axis (x, y, z); the backbone gives the admissible ones; `fits` says whether a training step on a patch
fits the GPU.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import floor, prod

import numpy as np
from numpy.typing import ArrayLike

from rectal_nnformer.geometry import Size
from rectal_nnformer.planning.backbones import Backbone

MIN_SPACING, MAX_SPACING, SPACING_STEP = 1.0, 1.5, 0.5
"""Bounds and step of the target spacing, mm."""

MIN_REAL_SHARE = 0.75
"""A patch size is taken only if at least this share of its voxels is expected to be real."""

LESION_MARGIN = 10.0
"""A patch should exceed the largest lesion by this much on every axis, mm."""

MAX_DATASET_COVERED = 0.05
"""Share of the dataset's voxels that one training step may see, as in nnU-Net."""


def expected_real_share(extents: ArrayLike, size: int) -> float:
    """Return the expected share of real voxels on one axis: the mean over cases of min(extent, size) / size."""
    return float(np.minimum(np.asarray(extents), size).mean() / size)


def isotropic_target_spacing(spacings: ArrayLike) -> float:
    """Return the isotropic target spacing in mm of a cohort, given as mm, (cases, 3).

    The geometric mean of the median spacing, rounded down to a multiple of 0.5 mm, at least 1.0 and at most 1.5 mm.
    """
    mean = geometric_mean_spacing(spacings)
    # The mean of (1.5, 1.5, 1.5) is 1.4999999999999998.
    rounded = SPACING_STEP * floor(mean / SPACING_STEP + 1e-6)
    return min(max(rounded, MIN_SPACING), MAX_SPACING)


def geometric_mean_spacing(spacings: ArrayLike) -> float:
    """Return the geometric mean over the axes of the median spacing over the cases, mm."""
    return float(np.exp(np.log(np.median(np.asarray(spacings, dtype=float), axis=0)).mean()))


def choose_patch_size(extents: ArrayLike, backbone: Backbone) -> Size:
    """Return the patch size that a cohort fills, whatever the GPU and the lesions.

    Per axis the largest admissible size whose expected share of real voxels is at least 0.75, else the smallest. Should
    the deepest feature map then be a single position, the axis with the largest mean extent gets the next size.
    """
    cohort = np.asarray(extents)
    patch = [
        max((n for n in backbone.sizes if expected_real_share(extent, n) >= MIN_REAL_SHARE), default=backbone.sizes[0])
        for extent in cohort.T
    ]
    if not backbone.is_admissible(patch):
        patch[int(cohort.mean(axis=0).argmax())] = backbone.sizes[1]
    return patch[0], patch[1], patch[2]


def candidate_patch_sizes(backbone: Backbone) -> Iterator[Size]:
    """Yield the admissible patch sizes (x, y, z) with equal x and y."""
    for in_plane, through_plane in product(backbone.sizes, repeat=2):
        if backbone.is_admissible((in_plane, through_plane)):
            yield in_plane, in_plane, through_plane


def fit_memory(patch_size: Size, backbone: Backbone, fits: Callable[[Size], bool]) -> Size | None:
    """Return the largest patch no larger than the given one that fits a GPU; None where not even the smallest does.

    The size in plane shrinks first, the longer of x and y or both alike; once it is the smallest, z shrinks.
    """
    x, y, z = patch_size
    step = backbone.multiple  # and the smallest size
    while not fits((x, y, z)):
        longer = max(x, y)
        if longer > step:
            x, y = (size - step if size == longer else size for size in (x, y))
        else:
            z -= step
        if z < step or not backbone.is_admissible((x, y, z)):
            return None
    return x, y, z


def fit_lesions(patch_size: Size, needed: Sequence[float], backbone: Backbone, fits: Callable[[Size], bool]) -> Size:
    """Return the patch with every axis that is too short for the lesions made longer, as far as that is possible.

    `needed` are the voxels per axis that the largest lesion takes, margin included.
    """
    patch = list(patch_size)
    for axis in range(3):
        while patch[axis] < needed[axis]:
            longer = [size + backbone.multiple * (i == axis) for i, size in enumerate(patch)]
            if longer[axis] > backbone.largest or not fits((longer[0], longer[1], longer[2])):
                break
            patch = longer
    return patch[0], patch[1], patch[2]


def batch_size_limit(patch_size: Size, extents: ArrayLike) -> int:
    """Return nnU-Net's upper limit of the batch size: one step sees at most 5 % of the dataset's voxels.

    The dataset is taken to be as many images of the median size as there are cases.
    """
    cohort = np.asarray(extents)
    voxels = np.median(cohort, axis=0).prod() * len(cohort)
    return round(float(voxels) * MAX_DATASET_COVERED / prod(patch_size))


def spatial_axes(transpose_forward: Sequence[int]) -> list[int]:
    """Return the permutation p such that `stored.transpose(p)` has the axes (x, y, z).

    Readers give (z, y, x); nnU-Net stores that array transposed by the plans' `transpose_forward`.
    """
    return [list(transpose_forward).index(axis) for axis in (2, 1, 0)]
