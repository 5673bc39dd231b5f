"""Attention within windows of tokens, for SMIT and Swin UNETR: cutting a grid, masks, relative position bias.

Token grids are channels-last, (batch, x, y, z, channel). Windows are (batch, windows, tokens, channel), the windows and
the tokens inside them in the order of a C-contiguous (x, y, z) array. Windows and shifts are given as tokens per axis.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rectal_nnformer.geometry import Size

WindowReverse = Literal["published", "inverse"]
PartCallback = Callable[[slice, Tensor], None]

CUT_ORDER = (0, 1, 3, 5, 2, 4, 6, 7)
"""Axes of (batch, windows x, in-window x, windows y, in-window y, windows z, in-window z, channel) that bring the three
window axes before the three axes inside a window."""

REVERSE_ORDERS: dict[WindowReverse, tuple[int, ...]] = {"published": CUT_ORDER, "inverse": (0, 1, 4, 2, 5, 3, 6, 7)}
"""Axes that put windows back. The inverse of `CUT_ORDER` restores every token to its place; SMIT, in pretraining as in
fine-tuning, applies `CUT_ORDER` a second time, so that a token's update lands on another token."""

HEAD_MULTIPLE = 8
"""The fused attention of a GPU takes heads of a multiple of so many channels."""

SHIFT_PENALTY = -100.0
"""Added to the logits of pairs of tokens that are neighbours only because the grid was rolled."""


class WindowAttention(nn.Module):
    """Multi-head self-attention within each window, with a learned bias per relative position and head.

    Args:
        channels: Channels of a token.
        num_heads: Heads; must divide `channels`.
        window: Tokens per axis of the full, cubic window. Smaller windows of n tokens read the bias by the first
            n x n entries of the full index, as published.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 3, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self._watcher: tuple[PartCallback, int] | None = None

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the update of each token, in the shape of `windows`.

        Args:
            windows: (batch, windows, tokens, channel).
            mask: Added to the attention logits of every head; broadcasts to (batch, windows, tokens, tokens).
        """
        batch, count, tokens, channels = windows.shape
        # (batch * windows, heads, tokens, channel of a head) each.
        qkv = self.qkv(windows).reshape(batch * count, tokens, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self._watcher is None:
            update = self._attend(query, key, value, mask, batch).transpose(1, 2)
        else:
            flat_mask = None if mask is None else mask.expand(batch, -1, -1, -1).flatten(0, 1).unsqueeze(1)
            update = self._attend_watched(query, key, value, flat_mask, *self._watcher)
        return self.proj(update.reshape(windows.shape))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, batch: int) -> Tensor:
        """Return updates (batch * windows, heads, tokens, channel of a head).

        On a GPU they are computed again in the backward pass: the bias of shifted windows takes as much memory as the
        attention that the fused kernel does not keep.
        """
        tokens, channels = query.shape[2:]

        def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            bias = self.logit_bias(tokens, mask, batch, query.dtype)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=channels**-0.5)

        if query.device.type == "cpu":
            return fused(query, key, value)
        if missing := -channels % HEAD_MULTIPLE:
            query, key, value = (F.pad(part, (0, missing)) for part in (query, key, value))
        if query.is_cuda:
            update: Tensor = checkpoint(fused, query, key, value, use_reentrant=False, preserve_rng_state=False)
        else:
            update = fused(query, key, value)
        return update[..., :channels]

    @contextmanager
    def watched(self, callback: PartCallback, elements: int) -> Iterator[None]:
        """Within a `with` block, compute the attention itself, hand it over, and compute the update from it.

        Args:
            callback: Called with which of the batch * windows, and their attention after softmax (part, heads, tokens,
                tokens), queries before keys, for some windows after the others.
            elements: Number of values that a part may have; at least one window is taken.
        """
        self._watcher = callback, elements
        try:
            yield
        finally:
            self._watcher = None

    def _attend_watched(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, callback: PartCallback, elements: int
    ) -> Tensor:
        """Return updates (batch * windows, tokens, heads, channel of a head); the mask is (windows, 1, tokens, tokens).

        What is computed of a part is written to its place at once: beside the update no more than one part is held.
        """
        count, heads, tokens, channels = query.shape
        bias = self.logit_bias(tokens, None, 1, query.dtype)
        query, key = query * channels**-0.5, key.transpose(2, 3)
        update = value.new_empty(count, tokens, heads, channels)
        windows_at_once = max(1, elements // (heads * tokens**2))
        for start in range(0, count, windows_at_once):
            part = slice(start, start + windows_at_once)
            logits = (query[part] @ key[part]).add_(bias)
            if mask is not None:
                logits.add_(mask[part])
            attention = logits.softmax(dim=-1)
            del logits
            callback(part, attention)
            update[part] = (attention @ value[part]).transpose(1, 2)
            del attention
        return update

    def logit_bias(self, tokens: int, mask: Tensor | None, batch: int, dtype: torch.dtype) -> Tensor:
        """Return position bias and mask in one tensor: (1 or batch * windows, heads, tokens, tokens)."""
        index = self.relative_position_index[:tokens, :tokens].flatten()
        rows = self.relative_position_bias_table.to(dtype)[index].reshape(tokens, tokens, self.num_heads)
        bias = rows.permute(2, 0, 1).contiguous().unsqueeze(0)  # as the fused kernel needs it
        if mask is None:
            return bias
        return (mask.to(dtype).unsqueeze(2) + bias).expand(batch, -1, -1, -1, -1).flatten(0, 1)


class WatchedAttention(Protocol):
    """Attention that can be read while it runs, as `WindowAttention` and other networks' behind `ForeignNetwork`."""

    def watched(self, callback: PartCallback, elements: int) -> AbstractContextManager[None]:
        """Within a `with` block, hand the attention over as it runs, see `WindowAttention.watched`."""


@dataclass(frozen=True)
class AttentionBlock:
    """One block of an encoder, and how it cuts its grid; stages count from 0.

    It scatters where windows are not put back in place, see `REVERSE_ORDERS`.

    Attributes:
        token_size: Voxels per axis of a token.
        window: Tokens per axis of a window; global attention has one window, which is the grid.
    """

    name: str
    stage: int
    token_size: int
    attention: WatchedAttention
    window: Size
    shift: Size
    scatters: bool = False


def relative_position_index(window: int) -> Tensor:
    """Return (window^3, window^3) row numbers into a bias table with one row per offset between two tokens."""
    axis = torch.arange(window)
    position = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1)
    offset = position[:, :, None] - position[:, None, :] + window - 1
    span = 2 * window - 1
    return (offset[0] * span + offset[1]) * span + offset[2]


def attend_in_windows(
    attention: Callable[[Tensor, Tensor | None], Tensor],
    grid: Tensor,
    window: Size,
    shift: Size,
    mask: Tensor | None,
    reverse: WindowReverse,
) -> Tensor:
    """Apply attention within (shifted) windows of a grid, which is padded with zeros to whole ones and cropped again.

    `attention` maps windows and mask to updated windows of the same shape. The mask is the one that `window_masks`
    gives for this grid, window and shift. How windows are put back, see `restore_windows`.
    """
    x, y, z = grid.shape[1:4]
    windows = attention(cut_windows(roll(pad_end(grid, window), shift, -1), window), mask)
    updated = restore_windows(windows, whole_windows(grid, window), window, reverse)
    return roll(updated, shift, 1)[:, :x, :y, :z]


def window_masks(grid: Tensor, window: Size, shift: Size, real_tokens: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Return the masks for unshifted and for shifted windows, to be shared by all blocks on one grid.

    Tokens that are not real, bool (batch, x, y, z), and those that complete the last windows are hidden from every
    query. None hides nothing.
    """
    shifted = shift_mask(whole_windows(grid, window), window, shift, grid.device)
    if real_tokens is None:
        return None, shifted
    real = pad_end(real_tokens.unsqueeze(-1), window)
    return padding_mask(real, window), shifted + padding_mask(roll(real, shift, -1), window)


def whole_windows(grid: Tensor, window: Size) -> Size:
    """Return the size of a grid (batch, x, y, z, ...), rounded up on each axis to a multiple of the window."""
    x, y, z = (-(-n // w) * w for n, w in zip(grid.shape[1:4], window, strict=True))
    return x, y, z


def pad_end(grid: Tensor, window: Size) -> Tensor:
    """Add zeros at the end of x, y and z of (batch, x, y, z, channel) up to whole windows."""
    x, y, z = (padded - n for padded, n in zip(whole_windows(grid, window), grid.shape[1:4], strict=True))
    return F.pad(grid, (0, 0, 0, z, 0, y, 0, x)) if x or y or z else grid


def roll(grid: Tensor, shift: Size, sign: int) -> Tensor:
    """Roll x, y and z of (batch, x, y, z, ...) by `sign * shift` tokens."""
    return torch.roll(grid, [sign * s for s in shift], dims=(1, 2, 3)) if any(shift) else grid


def cut_windows(grid: Tensor, window: Size) -> Tensor:
    """Cut a grid (batch, x, y, z, channel) of whole windows into (batch, windows, tokens, channel)."""
    batch, x, y, z, channels = grid.shape
    u, v, w = window
    blocks = grid.reshape(batch, x // u, u, y // v, v, z // w, w, channels).permute(CUT_ORDER)
    return blocks.reshape(batch, (x // u) * (y // v) * (z // w), u * v * w, channels)


def restore_windows(windows: Tensor, size: Size, window: Size, reverse: WindowReverse) -> Tensor:
    """Put windows (batch, windows, tokens, channel) back on a grid (batch, x, y, z, channel) of `size` tokens.

    With `reverse="published"` the tokens are scattered over the grid instead of returning to where `cut_windows` took
    them from; see `REVERSE_ORDERS`.
    """
    batch, channels = windows.shape[0], windows.shape[-1]
    counts = [n // w for n, w in zip(size, window, strict=True)]
    blocks = windows.reshape(batch, *counts, *window, channels)
    return blocks.permute(REVERSE_ORDERS[reverse]).reshape(batch, *size, channels)


def shift_mask(size: Size, window: Size, shift: Size, device: torch.device) -> Tensor:
    """Return the additive mask (1, windows, tokens, tokens) of a grid of whole windows that was rolled by -`shift`.

    Each axis falls into three runs of tokens: those up to the last window, the first part of the last window, and its
    last `shift` tokens, which the roll brought there from the other end. Only tokens of the same runs are neighbours
    (shifted windows: Liu et al., Swin Transformer, 2021, section 3.2).
    """
    runs = []
    for length, tokens, moved in zip(size, window, shift, strict=True):
        index = torch.arange(length, device=device)
        runs.append((index >= length - tokens).int() + (index >= length - moved).int())
    region = 9 * runs[0][:, None, None] + 3 * runs[1][:, None] + runs[2]
    labels = cut_windows(region[None, ..., None], window).squeeze(-1)
    apart = labels[..., :, None] != labels[..., None, :]
    return torch.zeros(apart.shape, device=device).masked_fill(apart, SHIFT_PENALTY)


def padding_mask(real_tokens: Tensor, window: Size) -> Tensor:
    """Return the additive mask (batch, windows, 1, tokens) that hides padding keys from every query.

    Real tokens are bool (batch, x, y, z, 1), on a grid of whole windows. A window of padding alone keeps all its keys:
    nothing real reads it, and a softmax over nothing would be nan.
    """
    real = cut_windows(real_tokens, window).squeeze(-1)
    hidden = ~real & real.any(dim=-1, keepdim=True)
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, float("-inf")).unsqueeze(2)


def set_padding_to_zero(image: Tensor, real_voxels: Tensor | None, mask_padding: bool) -> tuple[Tensor, Tensor | None]:
    """Return the image and the real voxels that a network with or without `mask_padding` is to use.

    Hidden keys alone do not keep padding out: a token or a merged token can be real in part. So padding is set to
    zero as well, and nothing a masked network computes depends on what its padding held. Images are
    (batch, channel, x, y, z), real voxels bool (batch, 1, x, y, z); None: all are real.
    """
    if not mask_padding:
        return image, None
    if real_voxels is None:
        return image, torch.ones_like(image[:, :1], dtype=torch.bool)
    return image.masked_fill(~real_voxels, 0.0), real_voxels


def pool_real(real: Tensor) -> Tensor:
    """Return which tokens hold anything real, after 2 x 2 x 2 voxels or tokens became one: bool (batch, 1, x, y, z)."""
    return F.max_pool3d(real.float(), kernel_size=2, ceil_mode=True) > 0
