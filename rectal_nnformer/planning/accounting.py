"""What padding costs a cohort on a patch, before anything is trained.

A cohort is given by its extents: voxels per axis (x, y, z) of each case at the target spacing, (cases, 3). Two kinds of
patches are told apart: the tiles that the predictor cuts, and the crops that a network is trained on; see
`rectal_nnformer.planning.crops`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil, prod

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rectal_nnformer.geometry import Size, StageBudget, mask_budget, scattered_padding_share, token_budget
from rectal_nnformer.planning.backbones import Backbone
from rectal_nnformer.planning.crops import draw_crops, real_voxels
from rectal_nnformer.planning.record import PatchAccount

CROPS_PER_KIND = 16
"""Training crops that are drawn of each kind; more change the shares by less than 0.01."""

Values = NDArray[np.float64]


def expected_real_share(extents: ArrayLike, size: int) -> float:
    """Return the expected share of real voxels on one axis: the mean over cases of min(extent, size) / size.

    Args:
        extents: Voxels of each case on this axis.
        size: Patch size on this axis.
    """
    return float(np.minimum(np.asarray(extents), size).mean() / size)


def tile_account(patch_size: Size, extents: ArrayLike, backbone: Backbone) -> PatchAccount:
    """Return what to expect of the tiles that the predictor cuts: the mean over the cases, exactly.

    Args:
        patch_size: Voxels per axis (x, y, z).
        extents: Voxels per axis (x, y, z), (cases, 3).
        backbone: Gives windows and stages.
    """
    boxes, counts = _boxes(patch_size, extents)
    values = [_box_values(patch_size, box, backbone) for box in boxes]
    return PatchAccount.of(np.average(values, axis=0, weights=counts), backbone.depths)


def training_account(
    patch_size: Size, extents: ArrayLike, backbone: Backbone, crops_per_kind: int = CROPS_PER_KIND
) -> PatchAccount:
    """Return what to expect of training crops, which rotation and scaling fill with more padding.

    The tiles' account, plus the mean difference between a drawn crop and the tile of its case.

    Args:
        patch_size: Voxels per axis (x, y, z).
        extents: Voxels per axis (x, y, z), (cases, 3).
        backbone: Gives windows and stages.
        crops_per_kind: Crops to draw of each of four kinds.
    """
    boxes, counts = _boxes(patch_size, extents)
    expected = np.average([_box_values(patch_size, box, backbone) for box in boxes], axis=0, weights=counts)
    stored_patch, stored_extents = patch_size[::-1], np.asarray(extents)[:, ::-1]
    with _one_thread():
        for crop, weight in draw_crops(stored_extents, stored_patch, crops_per_kind):
            inside = real_voxels(crop, stored_patch).transpose(2, 1, 0)
            budget = mask_budget(
                inside, backbone.window, shrink_window=backbone.shrink_window, num_stages=backbone.num_stages
            )
            drawn = _values(float(inside.mean()), budget)
            expected += weight * (drawn - _box_values(patch_size, crop.extent[::-1], backbone))
    return PatchAccount.of(expected, backbone.depths)


def expected_scattered_shares(patch_size: Size, extents: ArrayLike, backbone: Backbone) -> list[float]:
    """Return, for each stage, the expected share of real positions that receive an update meant for a padding query.

    Of the predictor's tiles. All zeros for a backbone that puts windows back in place; see
    `rectal_nnformer.geometry.scattered_padding_share`.

    Args:
        patch_size: Voxels per axis (x, y, z).
        extents: Voxels per axis (x, y, z), (cases, 3).
        backbone: Gives window and stages.
    """
    if not backbone.scatters:
        return [0.0] * backbone.num_stages
    boxes, counts = _boxes(patch_size, extents)
    shares = [
        [scattered_padding_share(mask, backbone.window) for mask in _box_tokens(patch_size, box, backbone)]
        for box in boxes
    ]
    return [float(mean) for mean in np.average(shares, axis=0, weights=counts)]


def _boxes(patch_size: Size, extents: ArrayLike) -> tuple[list[Size], NDArray[np.int_]]:
    """Return the different boxes of real voxels that tiles hold, and in how many cases each occurs."""
    # Most cases fill the patch in plane, so that few different boxes occur in a cohort.
    boxes, counts = np.unique(np.minimum(np.asarray(extents), patch_size), axis=0, return_counts=True)
    return [(int(x), int(y), int(z)) for x, y, z in boxes], counts


def _box_values(patch_size: Size, extent: Size, backbone: Backbone) -> Values:
    share = prod(min(n, p) / p for n, p in zip(extent, patch_size, strict=True))
    budget = token_budget(
        patch_size, extent, backbone.window, shrink_window=backbone.shrink_window, num_stages=backbone.num_stages
    )
    return _values(share, budget)


def _values(real_volume_share: float, budget: Sequence[StageBudget]) -> Values:
    """Return the voxel share, then real fractions, unshifted and shifted dilution of all stages, as one vector."""
    fractions = [stage.real_fraction for stage in budget]
    unshifted = [stage.uniform_adi for stage in budget]
    shifted = [stage.shifted_uniform_adi for stage in budget]
    return np.array([real_volume_share, *fractions, *unshifted, *shifted])


def _box_tokens(patch_size: Size, extent: Size, backbone: Backbone) -> Iterator[NDArray[np.bool_]]:
    """Yield, for each stage, which tokens of a patch are real if the image lies in its middle."""
    starts = [(size - length) // 2 for size, length in zip(patch_size, extent, strict=True)]
    for edge in (2 ** (stage + 1) for stage in range(backbone.num_stages)):
        real = np.zeros([ceil(size / edge) for size in patch_size], dtype=bool)
        box = [slice(s // edge, (s + n - 1) // edge + 1) for s, n in zip(starts, extent, strict=True)]
        real[tuple(box)] = True
        yield real


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep PyTorch from splitting many small operations over threads, which costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
