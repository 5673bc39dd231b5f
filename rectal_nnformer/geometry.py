"""Which tokens and windows of a transformer encoder hold real voxels, and how many are spent on padding.

Pure functions of masks and sizes. Spatial axes are (x, y, z) throughout, or any other order as long as masks, sizes,
windows and shifts agree on it. The encoders cut a patch into tokens of `embedding_patch` voxels per axis; each further
stage merges 2 x 2 x 2 tokens into one; attention runs within windows of tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]
Mask = TypeVar("Mask", np.ndarray, Tensor)


@dataclass(frozen=True)
class StageBudget:
    """Tokens of one stage: how many there are, and how many of those that attention processes are real.

    Attributes:
        stage: 0 for the stage after the patch embedding.
        grid: tokens per axis.
        window: window in tokens per axis, shrunk to the grid where the backbone does so.
        padded_grid: tokens per axis after padding to multiples of the window.
        real_tokens: tokens that hold at least one real voxel.
        processed_tokens: tokens of the padded grid.
    """

    stage: int
    grid: Size
    window: Size
    padded_grid: Size
    real_tokens: int
    processed_tokens: int

    @property
    def real_fraction(self) -> float:
        """Share of real tokens among all that attention processes."""
        return self.real_tokens / self.processed_tokens


def token_masks(real_voxels: Mask, embedding_patch: int = 2, num_stages: int = 4) -> list[Mask]:
    """Return which tokens of each stage are real.

    A token is real if any of its voxels is, a merged token if any of its parts is. Grids are rounded up: voxels that do
    not fill a token are completed with padding at the end of the axis.

    Args:
        real_voxels: bool array or tensor (..., x, y, z); True where the image is not padding.
        embedding_patch: voxels per axis of a token of stage 0.
        num_stages: number of stages.

    Returns:
        One bool mask (..., x, y, z) per stage, of the kind of `real_voxels`; in stage s an axis of n voxels has
        ceil(n / (embedding_patch * 2**s)) tokens.

    Raises:
        ValueError: `real_voxels` is not bool or has fewer than three axes.
    """
    masks = [_any_in_blocks(_bool_tensor(real_voxels, "real_voxels"), embedding_patch)]
    for _ in range(1, num_stages):
        masks.append(_any_in_blocks(masks[-1], 2))
    return [_like(mask, real_voxels) for mask in masks]


def window_partition_mask(mask: Mask, window: int | Sequence[int], shift: int | Sequence[int] = 0) -> Mask:
    """Cut a token mask into windows as the networks cut their tokens.

    The grid is padded with False at the end of each axis to multiples of the window, rolled by -`shift`, and cut;
    windows and the tokens in them are in C order of (x, y, z), as Swin transformers order them (Liu et al. 2021).

    Args:
        mask: bool array or tensor (..., x, y, z).
        window: tokens per window, one number or one per axis.
        shift: tokens by which the windows are shifted, one number or one per axis.

    Returns:
        Bool (windows, N), N tokens per window, of the kind of `mask`; windows of leading axes follow one another.

    Raises:
        ValueError: `mask` is not bool or has fewer than three axes, or a window has no token.
    """
    size = _per_axis(window)
    if min(size) < 1:
        raise ValueError(f"A window needs at least one token per axis, got {size}")
    padded = _pad_at_end(_bool_tensor(mask, "mask"), size)
    rolled = padded.roll([-s for s in _per_axis(shift)], dims=(-3, -2, -1))
    blocks = _blocks(rolled, size)
    return _like(blocks.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, prod(size)), mask)


def shrunk_window(
    grid: Sequence[int], window: int | Sequence[int], shift: int | Sequence[int] = 0
) -> tuple[Size, Size]:
    """Return window and shift as MONAI's Swin UNETR uses them on a small grid.

    On an axis with no more tokens than the window has, the window is the grid and is not shifted.

    Args:
        grid: tokens per axis.
        window: tokens per window, one number or one per axis.
        shift: tokens by which the windows are shifted, one number or one per axis.
    """
    axes = [(w, s) if g > w else (g, 0) for g, w, s in zip(grid, _per_axis(window), _per_axis(shift), strict=True)]
    windows, shifts = zip(*axes, strict=True)
    return _size(windows), _size(shifts)


def token_budget(
    patch_size: Sequence[int],
    real_extent: Sequence[int],
    window: int | Sequence[int],
    *,
    shrink_window: bool = False,
    real_start: Sequence[int] | None = None,
    embedding_patch: int = 2,
    num_stages: int = 4,
) -> list[StageBudget]:
    """Count real and processed tokens of each stage for a patch that holds a box of real voxels.

    Shifting the windows does not change the counts.

    Args:
        patch_size: voxels per axis.
        real_extent: voxels per axis of the image; what exceeds the patch is cut off.
        window: tokens per window, one number or one per axis.
        shrink_window: True where the backbone shrinks windows to small grids (Swin UNETR), False where it never does
            (SMIT).
        real_start: first real voxel per axis; by default the image lies in the middle, as nnU-Net pads at prediction.
        embedding_patch: voxels per axis of a token of stage 0.
        num_stages: number of stages.

    Returns:
        One record per stage.

    Raises:
        ValueError: a size is below 1, or the box does not lie in the patch.
    """
    patch, extent = _size(patch_size), _size(map(min, real_extent, patch_size))
    start = (
        _size(real_start) if real_start is not None else _size((p - e) // 2 for p, e in zip(patch, extent, strict=True))
    )
    if min(patch) < 1 or min(extent) < 1:
        raise ValueError(f"Patch size {patch} and real extent {extent} must be at least 1 on every axis")
    if min(start) < 0 or any(s + e > p for s, e, p in zip(start, extent, patch, strict=True)):
        raise ValueError(f"A box of {extent} voxels from {start} does not lie in a patch of {patch}")
    budgets = []
    for stage in range(num_stages):
        edge = embedding_patch * 2**stage
        grid = _size(ceil(p / edge) for p in patch)
        used = shrunk_window(grid, window)[0] if shrink_window else _per_axis(window)
        padded = _size(ceil(g / w) * w for g, w in zip(grid, used, strict=True))
        real = prod((s + e - 1) // edge - s // edge + 1 for s, e in zip(start, extent, strict=True))
        budgets.append(StageBudget(stage, grid, used, padded, real, prod(padded)))
    return budgets


def scattered_padding_share(real_tokens: Mask, window: int, shift: int | Sequence[int] = 0) -> float:
    """Return the share of real positions to which SMIT's published code adds an update computed for a padding query.

    That code puts windows back with the axis permutation that cut them instead of its inverse, so the output of
    attention lands on other tokens than those that asked for it. Without padding the share is 0.

    Args:
        real_tokens: bool array or tensor (x, y, z) of one stage.
        window: tokens per axis of a window.
        shift: tokens by which the windows are shifted, one number or one per axis.

    Returns:
        Between 0 and 1; nan where no token is real.
    """
    padded = _pad_at_end(_bool_tensor(real_tokens, "real_tokens"), _per_axis(window))
    padded = padded.roll([-s for s in _per_axis(shift)], dims=(-3, -2, -1))
    cut_order = (0, 1, 3, 5, 2, 4, 6)
    windows = _blocks(padded, _per_axis(window)).permute(cut_order)
    landed = windows.permute(cut_order).reshape(padded.shape)
    real = padded.sum()
    return float((padded & ~landed).sum() / real) if real else float("nan")


def _any_in_blocks(mask: Tensor, edge: int) -> Tensor:
    """Return (..., ceil(x / edge), ceil(y / edge), ceil(z / edge)): whether any element of each cube is True."""
    padded = _pad_at_end(mask, (edge, edge, edge))
    reduced = _blocks(padded, (edge, edge, edge)).any(dim=6).any(dim=4).any(dim=2)
    return reduced.reshape(*mask.shape[:-3], *reduced.shape[1:])


def _pad_at_end(mask: Tensor, multiple: Size) -> Tensor:
    """Pad the last three axes with False at their end to multiples."""
    missing = [-n % m for n, m in zip(mask.shape[-3:], multiple, strict=True)]
    return F.pad(mask, (0, missing[2], 0, missing[1], 0, missing[0]))


def _blocks(mask: Tensor, size: Size) -> Tensor:
    """View (..., x, y, z) as (batch, blocks x, size x, blocks y, size y, blocks z, size z)."""
    axes = [length for n, s in zip(mask.shape[-3:], size, strict=True) for length in (n // s, s)]
    return mask.reshape(prod(mask.shape[:-3]), *axes)


def _bool_tensor(mask: np.ndarray | Tensor, name: str) -> Tensor:
    tensor = mask if isinstance(mask, Tensor) else torch.tensor(mask)
    if tensor.dtype != torch.bool or tensor.ndim < 3:
        raise ValueError(
            f"{name} must be bool with at least three axes, got {mask.dtype} with shape {tuple(mask.shape)}"
        )
    return tensor


def _like(mask: Tensor, example: Mask) -> Mask:
    """Return a mask as an array if `example` is one."""
    return mask if isinstance(example, Tensor) else mask.numpy()


def _per_axis(value: int | Sequence[int]) -> Size:
    return (value, value, value) if isinstance(value, int | np.integer) else _size(value)


def _size(values: Iterable[int]) -> Size:
    x, y, z = (int(v) for v in values)
    return x, y, z
