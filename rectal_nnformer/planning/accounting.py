"""What padding costs a cohort on a patch, before anything is trained.

A cohort is given by its extents: voxels per axis (x, y, z) of each case at the target spacing, (cases, 3). Patch sizes
are voxels per axis (x, y, z); the backbone gives windows and stages. Two kinds of patches are told apart: the tiles
that the predictor cuts, and the crops that a network is trained on; see `rectal_nnformer.planning.crops`.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rectal_nnformer.geometry import Size, StageBudget, mask_budget, scattered_padding_share, token_budget, token_masks
from rectal_nnformer.planning.backbones import Backbone
from rectal_nnformer.planning.crops import draw_crops, real_voxels
from rectal_nnformer.planning.record import PatchAccount

CROPS_PER_KIND = 16
"""Training crops that are drawn of each kind; more change the shares by less than 0.01."""

Values = NDArray[np.float64]


def tile_account(patch_size: Size, extents: ArrayLike, backbone: Backbone) -> PatchAccount:
    """Return what to expect of the tiles that the predictor cuts: the mean over the cases, exactly."""
    boxes, counts = _boxes(patch_size, extents)
    values = [_box_values(patch_size, box, backbone) for box in boxes]
    return PatchAccount.of(np.average(values, axis=0, weights=counts), backbone.depths)


def training_account(
    patch_size: Size, extents: ArrayLike, backbone: Backbone, crops_per_kind: int = CROPS_PER_KIND
) -> PatchAccount:
    """Return what to expect of training crops, which rotation and scaling fill with more padding.

    The tiles' account, plus the mean difference between a drawn crop, of four kinds, and the tile of its case.
    """
    boxes, counts = _boxes(patch_size, extents)
    expected = np.average([_box_values(patch_size, box, backbone) for box in boxes], axis=0, weights=counts)
    shrink, stages = backbone.shrink_window, backbone.num_stages
    stored_patch, stored_extents = patch_size[::-1], np.asarray(extents)[:, ::-1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small operations: to split them costs more than it saves
    try:
        for crop, weight in draw_crops(stored_extents, stored_patch, crops_per_kind):
            inside = real_voxels(crop, stored_patch).transpose(2, 1, 0)
            budget = mask_budget(inside, backbone.window, shrink_window=shrink, num_stages=stages)
            drawn = _values(float(inside.mean()), budget)
            expected += weight * (drawn - _box_values(patch_size, crop.extent[::-1], backbone))
    finally:
        torch.set_num_threads(threads)
    return PatchAccount.of(expected, backbone.depths)


def expected_scattered_shares(patch_size: Size, extents: ArrayLike, backbone: Backbone) -> list[float]:
    """Return, for each stage, the expected share of real positions that receive an update meant for a padding query.

    Of the predictor's tiles, with the image in the middle. All zeros for a backbone that puts windows back in place;
    see `rectal_nnformer.geometry.scattered_padding_share`.
    """
    if not backbone.scatters:
        return [0.0] * backbone.num_stages
    boxes, counts = _boxes(patch_size, extents)
    shares = []
    for box in boxes:
        real = np.zeros(patch_size, dtype=bool)
        real[tuple(slice((p - n) // 2, (p - n) // 2 + n) for p, n in zip(patch_size, box, strict=True))] = True
        masks = token_masks(real, num_stages=backbone.num_stages)
        shares.append([scattered_padding_share(mask, backbone.window) for mask in masks])
    return np.average(shares, axis=0, weights=counts).tolist()


def _boxes(patch_size: Size, extents: ArrayLike) -> tuple[list[Size], NDArray[np.int_]]:
    """Return the different boxes of real voxels that tiles hold, and in how many cases each occurs."""
    # Most cases fill the patch in plane, so that few different boxes occur in a cohort.
    boxes, counts = np.unique(np.minimum(np.asarray(extents), patch_size), axis=0, return_counts=True)
    return [(int(x), int(y), int(z)) for x, y, z in boxes], counts


def _box_values(patch_size: Size, extent: Size, backbone: Backbone) -> Values:
    share = prod(min(n, p) / p for n, p in zip(extent, patch_size, strict=True))
    shrink, stages = backbone.shrink_window, backbone.num_stages
    return _values(share, token_budget(patch_size, extent, backbone.window, shrink_window=shrink, num_stages=stages))


def _values(real_volume_share: float, budget: Sequence[StageBudget]) -> Values:
    """Return the voxel share, then real fractions, unshifted and shifted dilution of all stages, as one vector."""
    fractions = [stage.real_fraction for stage in budget]
    unshifted = [stage.uniform_adi for stage in budget]
    shifted = [stage.shifted_uniform_adi for stage in budget]
    return np.array([real_volume_share, *fractions, *unshifted, *shifted])
