"""Reading the attention of a network while it runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor

from rectal_nnformer.geometry import token_masks, window_partition_mask
from rectal_nnformer.networks.smit import SMIT
from rectal_nnformer.networks.swin_unetr import SwinUNETR
from rectal_nnformer.networks.window_attention import AttentionBlock

StreamCallback = Callable[[AttentionBlock, slice, Tensor], None]
AttentionCallback = Callable[[AttentionBlock, Tensor, Tensor], None]


@contextmanager
def stream_attention(
    network: SMIT | SwinUNETR, image_size: tuple[int, int, int], callback: StreamCallback, elements: int
) -> Iterator[None]:
    """Hand the attention of every block to `callback` in parts, as it runs, within a `with` block around `forward`.

    Elsewhere the network leaves attention to PyTorch, which need not hold it. Within the `with` block it is computed
    once, some windows at a time, handed over and used for the update; results differ from the others by rounding.

    Args:
        network: The backbone itself, neither compiled nor wrapped.
        image_size: Voxels (x, y, z) of the images that the network is given.
        callback: Called with the block, which of the batch * windows, and their attention (part, heads, N, N) after
            softmax, which it must not change.
        elements: Number of values that a part may have; at least one window is taken.
    """
    with ExitStack() as watched:
        for block in network.attention_blocks(image_size):
            watched.enter_context(block.attention.watched(partial(callback, block), elements))
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

    def pass_on(block: AttentionBlock, _: slice, attention: Tensor) -> None:
        windows = window_partition_mask(masks[block.stage], block.window, block.shift)
        callback(block, attention, windows.to(attention.device))

    with stream_attention(network, (x, y, z), pass_on, sys.maxsize):
        yield


def num_stages(network: SMIT | SwinUNETR) -> int:
    """Return the number of stages of an encoder."""
    return network.attention_blocks((64, 64, 64))[-1].stage + 1
