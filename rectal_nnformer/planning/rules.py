"""The planning rules as pure functions: target spacing, patch size, axes.

A cohort is given by its extents: voxels per axis (x, y, z) of each case at the target spacing, (cases, 3).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rectal_nnformer.geometry import Size, scattered_padding_share, token_budget
from rectal_nnformer.planning.backbones import Backbone

MIN_SPACING, MAX_SPACING, SPACING_STEP = 1.0, 1.5, 0.5
"""Bounds and step of the target spacing, mm."""

MIN_REAL_SHARE = 0.75
"""A patch size is taken only if at least this share of its voxels is expected to be real."""


def isotropic_target_spacing(spacings: ArrayLike) -> float:
    """Return the isotropic target spacing of a cohort in mm.

    The geometric mean of the median spacing, rounded down to a multiple of 0.5 mm, at least 1.0 and at most 1.5 mm.

    Args:
        spacings: mm, (cases, 3).
    """
    mean = geometric_mean_spacing(spacings)
    # The mean of (1.5, 1.5, 1.5) is 1.4999999999999998.
    rounded = SPACING_STEP * floor(mean / SPACING_STEP + 1e-6)
    return min(max(rounded, MIN_SPACING), MAX_SPACING)


def geometric_mean_spacing(spacings: ArrayLike) -> float:
    """Return the geometric mean over the axes of the median spacing over the cases, mm."""
    return float(np.exp(np.log(np.median(np.asarray(spacings, dtype=float), axis=0)).mean()))


def expected_real_share(extents: ArrayLike, size: int) -> float:
    """Return the expected share of real voxels on one axis: the mean over cases of min(extent, size) / size.

    Args:
        extents: voxels of each case on this axis.
        size: patch size on this axis.
    """
    return float(np.minimum(np.asarray(extents), size).mean() / size)


def choose_patch_size(extents: ArrayLike, backbone: Backbone) -> Size:
    """Return the patch size of a cohort.

    Per axis the largest admissible size whose expected share of real voxels is at least 0.75, else the smallest. Should
    the deepest feature map then be a single position, the axis with the largest mean extent gets the next size.

    Args:
        extents: voxels per axis (x, y, z), (cases, 3).
        backbone: gives the admissible sizes.
    """
    cohort = np.asarray(extents)
    patch = [_largest_filled(cohort[:, axis], backbone.sizes) for axis in range(3)]
    if not backbone.is_admissible(patch):
        patch[int(cohort.mean(axis=0).argmax())] = backbone.sizes[1]
    return patch[0], patch[1], patch[2]


def _largest_filled(extents: NDArray[np.int_], sizes: Sequence[int]) -> int:
    filled = [size for size in sizes if expected_real_share(extents, size) >= MIN_REAL_SHARE]
    return filled[-1] if filled else sizes[0]


def candidate_patch_sizes(backbone: Backbone) -> Iterator[Size]:
    """Yield the admissible patch sizes (x, y, z) with equal x and y."""
    for in_plane, through_plane in product(backbone.sizes, repeat=2):
        if backbone.is_admissible((in_plane, through_plane)):
            yield in_plane, in_plane, through_plane


def expected_real_fractions(patch_size: Size, extents: ArrayLike, backbone: Backbone) -> list[float]:
    """Return, for each stage, the expected share of real tokens among all processed ones: the mean over the cases.

    Args:
        patch_size: voxels per axis (x, y, z).
        extents: voxels per axis (x, y, z), (cases, 3).
        backbone: gives window and stages.
    """

    def fractions(extent: Size) -> list[float]:
        budget = token_budget(
            patch_size, extent, backbone.window, shrink_window=backbone.shrink_window, num_stages=backbone.num_stages
        )
        return [stage.real_fraction for stage in budget]

    return _mean_over_cases(fractions, patch_size, extents)


def expected_scattered_shares(patch_size: Size, extents: ArrayLike, backbone: Backbone) -> list[float]:
    """Return, for each stage, the expected share of real positions that receive an update meant for a padding query.

    All zeros for a backbone that puts windows back in place; see `rectal_nnformer.geometry.scattered_padding_share`.

    Args:
        patch_size: voxels per axis (x, y, z).
        extents: voxels per axis (x, y, z), (cases, 3).
        backbone: gives window and stages.
    """
    if not backbone.scatters:
        return [0.0] * backbone.num_stages

    def shares(extent: Size) -> list[float]:
        return [scattered_padding_share(mask, backbone.window) for mask in _box_tokens(patch_size, extent, backbone)]

    return _mean_over_cases(shares, patch_size, extents)


def _box_tokens(patch_size: Size, extent: Size, backbone: Backbone) -> Iterator[NDArray[np.bool_]]:
    """Yield, for each stage, which tokens of a patch are real if the image lies in its middle."""
    starts = [(size - length) // 2 for size, length in zip(patch_size, extent, strict=True)]
    for edge in (2 ** (stage + 1) for stage in range(backbone.num_stages)):
        real = np.zeros([ceil(size / edge) for size in patch_size], dtype=bool)
        box = [slice(s // edge, (s + n - 1) // edge + 1) for s, n in zip(starts, extent, strict=True)]
        real[tuple(box)] = True
        yield real


def _mean_over_cases(per_case: Callable[[Size], list[float]], patch_size: Size, extents: ArrayLike) -> list[float]:
    """Return the mean over the cases of values that depend on what of a case lies in the patch."""
    # Most cases fill the patch in plane, so that few different boxes occur in a cohort.
    boxes, counts = np.unique(np.minimum(np.asarray(extents), patch_size), axis=0, return_counts=True)
    values = [per_case((int(x), int(y), int(z))) for x, y, z in boxes]
    return [float(mean) for mean in np.average(values, axis=0, weights=counts)]


def spatial_axes(transpose_forward: Sequence[int]) -> list[int]:
    """Return the permutation p such that `stored.transpose(p)` has the axes (x, y, z).

    Readers give (z, y, x); nnU-Net stores that array transposed by `transpose_forward`.

    Args:
        transpose_forward: as in the plans.
    """
    return [list(transpose_forward).index(axis) for axis in (2, 1, 0)]
