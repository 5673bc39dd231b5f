"""What the analyses ask of a network, and reading its attention while it runs.

SMIT and Swin UNETR offer it themselves; `rectal_nnformer.networks.foreign.ForeignNetwork` stands around any other.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rectal_nnformer.geometry import token_masks, window_partition_mask
from rectal_nnformer.networks.window_attention import AttentionBlock

StreamCallback = Callable[[AttentionBlock, slice, Tensor], None]
AttentionCallback = Callable[[AttentionBlock, Tensor, Tensor], None]


@dataclass(frozen=True)
class FeatureLayer:
    """A layer whose features can be compared.

    Attributes:
        name: Its module in the network.
        stage: From 0; layers of a stage have the same grid.
        watched: Hands its features to a callback as it runs, within a `with` block: (batch, x, y, z, channel), and the
            voxels per axis that each stands for.
    """

    name: str
    stage: int
    watched: Callable[[Callable[[Tensor, tuple[int, ...]], None]], AbstractContextManager[None]]


@runtime_checkable
class NamesLayers(Protocol):
    """An encoder that says which of its layers are compared; of others it is the output of each attention block."""

    def feature_layers(self, image_size: Sequence[int]) -> Sequence[FeatureLayer]:
        """Return them in the order in which they run on images of (x, y, z) voxels."""


class Encoder(Protocol):
    """A network that is analysed: images (batch, channel, x, y, z) in, attention blocks and features read meanwhile."""

    def encode(self, x: Tensor, real_voxels: Tensor | None = None) -> object:
        """Run at least what is read, given which voxels are no padding, bool (batch, 1, x, y, z)."""

    def attention_blocks(self, image_size: Sequence[int]) -> Sequence[AttentionBlock]:
        """Return the blocks in the order in which they run on images of (x, y, z) voxels; empty without attention."""


class AnalyzedNetwork(Protocol):
    """An encoder behind the axes and intensities of preprocessed cases, as `PlannedNetwork`; a `torch.nn.Module`."""

    backbone_name: str
    to_xyz: tuple[int, ...]

    @property
    def backbone(self) -> Encoder:
        """The encoder."""

    def prepare(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return its input and real voxels, (batch, channel or 1, x, y, z), from (batch, channel, *patch) as stored."""

    def to(self, device: torch.device) -> Any:
        """Move it."""

    def eval(self) -> Any:
        """Set it to evaluation."""


@contextmanager
def stream_attention(
    network: Encoder, image_size: tuple[int, int, int], callback: StreamCallback, elements: int
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
def record_attention(network: Encoder, real_voxels: Tensor, callback: AttentionCallback) -> Iterator[None]:
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

    def pass_on(block: AttentionBlock, _: slice, attention: Tensor) -> None:
        windows = window_partition_mask(real_tokens(real_voxels[:, 0], block), block.window, block.shift)
        callback(block, attention, windows.to(attention.device))

    with stream_attention(network, (x, y, z), pass_on, sys.maxsize):
        yield


def real_tokens(real_voxels: Tensor, block: AttentionBlock) -> Tensor:
    """Return which tokens of a block hold a real voxel, bool (..., x, y, z), from voxels likewise."""
    return token_masks(real_voxels, block.token_size, num_stages=1)[0]
