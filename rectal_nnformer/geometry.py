"""Which tokens and windows of a transformer encoder hold real voxels, and what padding costs the attention.

Pure functions of masks and sizes. Spatial axes are (x, y, z) throughout, or any other order as long as masks, sizes,
windows and shifts agree on it. The encoders cut a patch into tokens of `embedding_patch` voxels per axis; each further
stage merges 2 x 2 x 2 tokens into one; attention runs within windows of tokens. Masks are bool arrays or tensors
(..., x, y, z); windows and shifts are tokens, one number or one per axis.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil, nan, prod
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]
Mask = TypeVar("Mask", np.ndarray, Tensor)

CUT_ORDER = (0, 1, 3, 5, 2, 4, 6)
"""Axes of `_blocks` that bring the axes of the windows before those inside a window."""


@dataclass(frozen=True)
class StageBudget:
    """Tokens of one stage: how many there are, how many of those that attention processes are real, and its dilution.

    Attributes:
        stage: 0 for the stage after the patch embedding.
        grid: Tokens per axis.
        window: Window in tokens per axis, shrunk to the grid where the backbone does so.
        shift: Tokens per axis by which every second block shifts its windows, 0 where the backbone does not.
        padded_grid: Tokens per axis after padding to multiples of the window.
        real_tokens: Tokens that hold at least one real voxel.
        processed_tokens: Tokens of the padded grid.
        uniform_adi: Attention dilution index of unshifted blocks if attention were uniform, see `uniform_dilution`.
        shifted_uniform_adi: The same of shifted blocks.
    """

    stage: int
    grid: Size
    window: Size
    shift: Size
    padded_grid: Size
    real_tokens: int
    processed_tokens: int
    uniform_adi: float
    shifted_uniform_adi: float

    @property
    def real_fraction(self) -> float:
        """Share of real tokens among all that attention processes."""
        return self.real_tokens / self.processed_tokens


def token_masks(real_voxels: Mask, embedding_patch: int = 2, num_stages: int = 4) -> list[Mask]:
    """Return which tokens of each stage are real.

    A token is real if any of its voxels is, a merged token if any of its parts is. Grids are rounded up: voxels that do
    not fill a token are completed with padding at the end of the axis.

    Args:
        real_voxels: Bool array or tensor (..., x, y, z); True where the image is not padding.
        embedding_patch: Voxels per axis of a token of stage 0.
        num_stages: Number of stages.

    Returns:
        One bool mask (..., x, y, z) per stage, of the kind of `real_voxels`; in stage s an axis of n voxels has
        ceil(n / (embedding_patch * 2**s)) tokens.

    Raises:
        ValueError: `real_voxels` is not bool or has fewer than three axes.

    Example:
        >>> real = np.zeros((8, 8, 8), dtype=bool)
        >>> real[:, :, :4] = True
        >>> [mask.sum().item() for mask in token_masks(real, num_stages=2)]
        [32, 4]
    """
    masks = [_any_in_blocks(_bool_tensor(real_voxels, "real_voxels"), embedding_patch)]
    for _ in range(1, num_stages):
        masks.append(_any_in_blocks(masks[-1], 2))
    return [_like(mask, real_voxels) for mask in masks]


def window_partition_mask(mask: Mask, window: int | Sequence[int], shift: int | Sequence[int] = 0) -> Mask:
    """Cut a token mask, bool (..., x, y, z), into windows as the networks cut their tokens.

    `window` and `shift` are tokens, one number or one per axis. The grid is padded with False at the end of each axis
    to multiples of the window, rolled by -`shift`, and cut; windows and the tokens in them are in C order of (x, y, z),
    as Swin transformers order them (Liu et al. 2021).

    Returns:
        Bool (windows, N), N tokens per window, of the kind of `mask`; windows of leading axes follow one another.

    Raises:
        ValueError: `mask` is not bool or has fewer than three axes, or a window has no token.
    """
    size = _per_axis(window)
    if min(size) < 1:
        raise ValueError(f"A window needs at least one token per axis, got {size}")
    rolled = _padded_and_rolled(_bool_tensor(mask, "mask"), size, shift)
    return _like(_blocks(rolled, size).permute(CUT_ORDER).reshape(-1, prod(size)), mask)


def shrunk_window(
    grid: Sequence[int], window: int | Sequence[int], shift: int | Sequence[int] = 0
) -> tuple[Size, Size]:
    """Return window and shift as MONAI's Swin UNETR uses them on a small grid.

    On an axis with no more tokens than the window has, the window is the grid and is not shifted.
    """
    axes = [(w, s) if g > w else (g, 0) for g, w, s in zip(grid, _per_axis(window), _per_axis(shift), strict=True)]
    windows, shifts = zip(*axes, strict=True)
    return _size(windows), _size(shifts)


def uniform_dilution(real_tokens: Mask, window: int | Sequence[int], shift: int | Sequence[int] = 0) -> float:
    """Return the attention dilution index of a block whose attention is uniform over the keys of each window.

    With N keys to a window and r real ones among them, every real query has the entropy log N, of which padding keys
    hold (N - r) / N log N. Summed over real queries and divided, as the index is defined (Rangnekar et al. 2026;
    `rectal_nnformer.analysis.attention_flow`), that is 1 - sum(r^2) / (N sum(r)) over all windows. It is also the
    attention that real queries spend on padding keys, a_rp. `real_tokens` are bool (..., x, y, z), of one stage;
    `window` and `shift` are tokens, one number or one per axis.

    Returns:
        Between 0 and 1; nan where no token is real, or where windows hold a single token, which has no entropy.

    Example:
        >>> real = np.zeros((4, 4, 4), dtype=bool)
        >>> real[:, :, :2] = True
        >>> uniform_dilution(real, window=4)
        0.5
    """
    windows = window_partition_mask(_bool_tensor(real_tokens, "real_tokens"), window, shift)
    counts = windows.sum(dim=1)
    return _dilution(int(counts.square().sum()), int(counts.sum()), windows.shape[1])


def token_budget(
    patch_size: Sequence[int],
    real_extent: Sequence[int],
    window: int | Sequence[int],
    *,
    shrink_window: bool = False,
    shift: int | Sequence[int] | None = None,
    real_start: Sequence[int] | None = None,
    embedding_patch: int = 2,
    num_stages: int = 4,
) -> list[StageBudget]:
    """Count real and processed tokens of each stage for a patch that holds a box of real voxels.

    Shifting the windows does not change the counts, but their dilution.

    Args:
        patch_size: Voxels per axis.
        real_extent: Voxels per axis of the image; what exceeds the patch is cut off.
        window: Tokens per window, one number or one per axis.
        shrink_window: True where the backbone shrinks windows to small grids (Swin UNETR), False where it never does
            (SMIT).
        shift: Tokens by which shifted blocks shift their windows; by default half a window.
        real_start: First real voxel per axis; by default the image lies in the middle, as nnU-Net pads at prediction.
        embedding_patch: Voxels per axis of a token of stage 0.
        num_stages: Number of stages.

    Returns:
        One record per stage.

    Raises:
        ValueError: A size is below 1, or the box does not lie in the patch.

    Example:
        >>> cubic, anisotropic = (token_budget(size, (192, 192, 57), window=4) for size in [(128,) * 3, (128, 128, 64)])
        >>> [f"{stage.real_fraction:.3f}" for stage in cubic]
        ['0.453', '0.469', '0.500', '0.500']
        >>> [f"{stage.real_fraction:.3f}" for stage in anisotropic]
        ['0.906', '0.938', '1.000', '1.000']
    """
    patch, extent = _size(patch_size), _size(map(min, real_extent, patch_size))
    middle = [(p - e) // 2 for p, e in zip(patch, extent, strict=True)]
    start = _size(middle if real_start is None else real_start)
    if min(patch) < 1 or min(extent) < 1:
        raise ValueError(f"Patch size {patch} and real extent {extent} must be at least 1 on every axis")
    if min(start) < 0 or any(s + e > p for s, e, p in zip(start, extent, patch, strict=True)):
        raise ValueError(f"A box of {extent} voxels from {start} does not lie in a patch of {patch}")
    budgets = []
    for stage in range(num_stages):
        edge = embedding_patch * 2**stage
        grid = _size(ceil(p / edge) for p in patch)
        used, moved, padded = _windows(grid, window, shift, shrink_window)
        first = [s // edge for s in start]
        last = [(s + e - 1) // edge for s, e in zip(start, extent, strict=True)]
        real = prod(b - a + 1 for a, b in zip(first, last, strict=True))
        adi = [_box_dilution(first, last, s, used, padded) for s in ((0, 0, 0), moved)]
        budgets.append(StageBudget(stage, grid, used, moved, padded, real, prod(padded), *adi))
    return budgets


def mask_budget(
    real_voxels: np.ndarray | Tensor,
    window: int | Sequence[int],
    *,
    shrink_window: bool = False,
    shift: int | Sequence[int] | None = None,
    embedding_patch: int = 2,
    num_stages: int = 4,
) -> list[StageBudget]:
    """Count as `token_budget` does, for a patch whose real voxels are no box, as after a rotation.

    `real_voxels` are a bool array or tensor (x, y, z); all else is as for `token_budget`.
    """
    budgets = []
    for stage, tokens in enumerate(token_masks(_bool_tensor(real_voxels, "real_voxels"), embedding_patch, num_stages)):
        grid = _size(tokens.shape)
        used, moved, padded = _windows(grid, window, shift, shrink_window)
        adi = [uniform_dilution(tokens, used, s) for s in ((0, 0, 0), moved)]
        budgets.append(StageBudget(stage, grid, used, moved, padded, int(tokens.sum()), prod(padded), *adi))
    return budgets


def scattered_padding_share(real_tokens: Mask, window: int, shift: int | Sequence[int] = 0) -> float:
    """Return the share of real positions to which SMIT's published code adds an update computed for a padding query.

    That code puts windows back with the axis permutation that cut them instead of its inverse, so the output of
    attention lands on other tokens than those that asked for it. Without padding the share is 0. `real_tokens` are
    bool (x, y, z), of one stage; `window` and `shift` are tokens, one number or one per axis.

    Returns:
        Between 0 and 1; nan where no token is real.
    """
    size = _per_axis(window)
    padded = _padded_and_rolled(_bool_tensor(real_tokens, "real_tokens"), size, shift)
    landed = _blocks(padded, size).permute(CUT_ORDER).permute(CUT_ORDER).reshape(padded.shape)
    real = padded.sum()
    return float((padded & ~landed).sum() / real) if real else float("nan")


def _windows(
    grid: Size, window: int | Sequence[int], shift: int | Sequence[int] | None, shrink_window: bool
) -> tuple[Size, Size, Size]:
    """Return window, shift and padded grid of a stage."""
    used = _per_axis(window)
    moved = _size(w // 2 for w in used) if shift is None else _per_axis(shift)
    if shrink_window:
        used, moved = shrunk_window(grid, used, moved)
    return used, moved, _size(ceil(g / w) * w for g, w in zip(grid, used, strict=True))


def _box_dilution(first: Sequence[int], last: Sequence[int], shift: Size, window: Size, padded: Size) -> float:
    """Return the dilution of a box of real tokens; how many a window holds is a product over the axes."""
    squares, total = 1, 1
    for a, b, moved, w, n in zip(first, last, shift, window, padded, strict=True):
        counts = np.bincount((np.arange(a, b + 1) - moved) % n // w)
        squares, total = squares * int(np.square(counts).sum()), total * int(counts.sum())
    return _dilution(squares, total, prod(window))


def _dilution(sum_of_squares: int, real_tokens: int, window_tokens: int) -> float:
    """Return 1 - sum(r^2) / (N sum(r)); see `uniform_dilution`."""
    return 1 - sum_of_squares / (window_tokens * real_tokens) if real_tokens and window_tokens > 1 else nan


def _any_in_blocks(mask: Tensor, edge: int) -> Tensor:
    """Return (..., ceil(x / edge), ceil(y / edge), ceil(z / edge)): whether any element of each cube is True."""
    pooled = _pad_at_end(mask, (edge, edge, edge))
    for axis in (-3, -2, -1):  # pooling of bool; max_pool3d takes floats alone, and ten times as long
        pooled = reduce(torch.logical_or, pooled.unflatten(axis, (-1, edge)).unbind(axis))
    return pooled


def _pad_at_end(mask: Tensor, multiple: Size) -> Tensor:
    """Pad the last three axes with False at their end to multiples."""
    missing = [-n % m for n, m in zip(mask.shape[-3:], multiple, strict=True)]
    return F.pad(mask, (0, missing[2], 0, missing[1], 0, missing[0]))


def _padded_and_rolled(mask: Tensor, window: Size, shift: int | Sequence[int]) -> Tensor:
    return _pad_at_end(mask, window).roll([-s for s in _per_axis(shift)], dims=(-3, -2, -1))


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


def last_crop_start(volume_shape: Sequence[int], patch_size: Sequence[int], padding: Sequence[int]) -> list[int]:
    """Return, per axis, the largest index at which a crop may begin, in voxels of the unpadded volume.

    `padding` are the voxels added in total to both ends. Where volume and padding together are smaller than the crop,
    the padding grows until they are equal, as in nnU-Net.
    """
    axes = zip(volume_shape, patch_size, padding, strict=True)
    totals = ((size, patch, max(pad, patch - size)) for size, patch, pad in axes)
    return [size + total // 2 + total % 2 - patch for size, patch, total in totals]
