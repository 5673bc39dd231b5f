"""Reading the attention of a network while it runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor

from rectal_nnformer.geometry import token_masks, window_partition_mask
from rectal_nnformer.networks.smit import SMIT
from rectal_nnformer.networks.swin_unetr import SwinUNETR
from rectal_nnformer.networks.window_attention import AttentionBlock

AttentionCallback = Callable[[AttentionBlock, Tensor, Tensor], None]


@contextmanager
def record_attention(network: SMIT | SwinUNETR, real_voxels: Tensor, callback: AttentionCallback) -> Iterator[None]:
    """Hand the attention of every block to `callback` as it runs, within a `with` block around `forward` or `encode`.

    The network computes its updates without ever holding an attention matrix. Here each block's is computed beside them
    and handed over at once, so that no more than one is held; outside of the `with` block nothing is left of it.

    Args:
        network: The backbone itself, neither compiled nor wrapped.
        real_voxels: Bool (batch, 1, x, y, z) of the images that the network is given, False where they were padded;
            also where the network does not mask padding.
        callback: Called with the block, its attention (batch * windows, heads, N, N) after softmax, and the real
            tokens, bool (batch * windows, N), on the device of the network.
    """
    blocks = network.attention_blocks(real_voxels.shape[2:])
    masks = token_masks(real_voxels[:, 0], num_stages=blocks[-1].stage + 1)
    with ExitStack() as hooks:
        for block in blocks:
            hook = block.attention.register_forward_hook(_hand_over(block, masks[block.stage], callback))
            hooks.callback(hook.remove)
        yield


def _hand_over(block: AttentionBlock, mask: Tensor, callback: AttentionCallback) -> Callable[..., None]:
    """Return a forward hook for the attention of a block; `mask` is bool (batch, x, y, z), the block's real tokens."""

    def hook(_: object, inputs: tuple[Tensor, Tensor | None], __: Tensor) -> None:
        windows = window_partition_mask(mask, block.window, block.shift)
        callback(block, block.attention.attention(*inputs), windows.to(inputs[0].device))

    return hook
