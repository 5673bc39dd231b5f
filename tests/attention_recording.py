"""The whole attention of a network as it runs, to compare with."""

import sys
from contextlib import contextmanager

from rectal_nnformer.geometry import token_masks, window_partition_mask
from rectal_nnformer.networks.recording import num_stages, stream_attention


@contextmanager
def record_attention(network, real_voxels, callback):
    """Hand the attention of every block to `callback`, within a `with` block around `forward`.

    `real_voxels` is bool (batch, 1, x, y, z), False where the images were padded, also where the network does not mask
    padding. The callback gets the block, its attention (batch * windows, heads, N, N) after softmax, and the real
    tokens, bool (batch * windows, N), on the device of the network.
    """
    x, y, z = real_voxels.shape[2:]
    masks = token_masks(real_voxels[:, 0], num_stages=num_stages(network))

    def pass_on(block, _, attention):
        windows = window_partition_mask(masks[block.stage], block.window, block.shift)
        callback(block, attention, windows.to(attention.device))

    with stream_attention(network, (x, y, z), pass_on, sys.maxsize):
        yield
