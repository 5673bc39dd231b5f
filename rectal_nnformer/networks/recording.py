"""Reading the attention of a network while it runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from rectal_nnformer.geometry import token_masks, window_partition_mask
from rectal_nnformer.networks.smit import SMIT
from rectal_nnformer.networks.swin_unetr import SwinUNETR
from rectal_nnformer.networks.window_attention import AttentionBlock

AttentionParts = Iterator[tuple[slice, Tensor]]
PartsCallback = Callable[[AttentionBlock, AttentionParts], None]
AttentionCallback = Callable[[AttentionBlock, Tensor, Tensor], None]


@contextmanager
def stream_attention(
    network: SMIT | SwinUNETR, image_size: tuple[int, int, int], callback: PartsCallback, elements: int
) -> Iterator[None]:
    """Hand the attention of every block to `callback` in parts, as it runs, within a `with` block around `forward`.

    The network computes its updates without ever holding an attention matrix. Here each block's is computed beside
    them from the same queries and keys; outside of the `with` block nothing is left of it.

    Args:
        network: The backbone itself, neither compiled nor wrapped.
        image_size: Voxels (x, y, z) of the images that the network is given.
        callback: Called with the block and its parts: which of the batch * windows, and their attention
            (part, heads, N, N) after softmax. They are computed as they are asked for, before the block's update is
            used, and not afterwards.
        elements: Number of values that a part may have; at least one window is taken.
    """
    with ExitStack() as hooks:
        for block in network.attention_blocks(image_size):
            kept: list[Tensor] = []
            for hook in (
                block.attention.qkv.register_forward_hook(_keep_output(kept)),
                block.attention.register_forward_hook(_hand_over(block, kept, callback, elements)),
            ):
                hooks.callback(hook.remove)
        yield


@contextmanager
def record_attention(network: SMIT | SwinUNETR, real_voxels: Tensor, callback: AttentionCallback) -> Iterator[None]:
    """Hand the whole attention of every block to `callback` as it runs, within a `with` block around `forward`.

    No more than one block's is held.

    Args:
        network: The backbone itself, neither compiled nor wrapped.
        real_voxels: Bool (batch, 1, x, y, z) of the images that the network is given, False where they were padded;
            also where the network does not mask padding.
        callback: Called with the block, its attention (batch * windows, heads, N, N) after softmax, and the real
            tokens, bool (batch * windows, N), on the device of the network.
    """
    x, y, z = real_voxels.shape[2:]
    masks = token_masks(real_voxels[:, 0], num_stages=num_stages(network))

    def pass_on(block: AttentionBlock, parts: AttentionParts) -> None:
        for _, attention in parts:
            windows = window_partition_mask(masks[block.stage], block.window, block.shift)
            callback(block, attention, windows.to(attention.device))

    with stream_attention(network, (x, y, z), pass_on, sys.maxsize):
        yield


def num_stages(network: SMIT | SwinUNETR) -> int:
    """Return the number of stages of an encoder."""
    return network.attention_blocks((64, 64, 64))[-1].stage + 1


def _keep_output(kept: list[Tensor]) -> Callable[..., None]:
    def hook(_: object, __: object, output: Tensor) -> None:
        kept[:] = [output]

    return hook


def _hand_over(
    block: AttentionBlock, kept: list[Tensor], callback: PartsCallback, elements: int
) -> Callable[..., None]:
    """Return a forward hook for the attention of a block, whose queries and keys are in `kept`."""

    def hook(_: object, inputs: tuple[Any, ...], __: Tensor) -> None:
        projected = kept.pop()
        mask = inputs[1] if len(inputs) > 1 else None
        per_window = block.attention.num_heads * projected.shape[2] ** 2
        callback(block, block.attention.attention_parts(projected, mask, max(1, elements // per_window)))

    return hook
