"""Features of transformer blocks, or of named layers, on the same physical crops; patches of networks may differ.

A crop is a box around the tumour of a case (around the middle of the volume without one), as large as the smallest of
the networks' patches, in mm. Each network gets it in the middle of its patch, padded as in prediction. Features are
averaged over the real tokens in each cell of a grid over the box, of at most 8 x 8 x 8 cells and never finer than the
block's own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from rectal_nnformer.analysis.cka import gram
from rectal_nnformer.analysis.dilution import Tile, mixed_precision
from rectal_nnformer.analysis.tiles import PreprocessedCases
from rectal_nnformer.networks.recording import AnalyzedNetwork, Encoder, FeatureLayer, NamesLayers
from rectal_nnformer.networks.window_attention import AttentionBlock

MOST_CELLS = 8

FeatureCallback = Callable[[FeatureLayer, Tensor, tuple[int, ...]], None]


@dataclass(frozen=True)
class CaseCrop:
    """A crop as a network is given it, (channel, *patch), padding 0; the box in it in voxels. All axes as stored."""

    image: Tensor
    start: tuple[int, ...]
    size: tuple[int, ...]


def common_extent(subjects: Sequence[tuple[AnalyzedNetwork, PreprocessedCases]]) -> tuple[float, ...]:
    """Return the smallest extent of the networks' patches on each axis, mm in the order x, y, z."""
    extents = [
        [cases.patch_size[axis - 2] * cases.spacing[axis - 2] for axis in network.to_xyz[2:]]
        for network, cases in subjects
    ]
    return tuple(min(axis) for axis in zip(*extents, strict=True))


def cut_crop(case: Tile, patch_size: Sequence[int], size: Sequence[int]) -> CaseCrop:
    """Cut a box around the tumour of a case, or around the middle of the volume, into the middle of a patch.

    The box stays within the volume where it fits. All axes as stored.
    """
    shape = case.tumor.shape
    voxels = case.tumor.nonzero().double()
    middle = voxels.mean(0) + 0.5 if len(voxels) else torch.tensor(shape) / 2
    axes = [_place(*axis) for axis in zip(middle.tolist(), shape, patch_size, size, strict=True)]
    source, target, starts = zip(*axes, strict=True)
    image = torch.zeros((len(case.image), *patch_size))
    for channel, values in zip(image, case.image, strict=True):
        channel[target] = values[source]
    return CaseCrop(image, starts, tuple(size))


def _place(middle: float, length: int, patch: int, extent: int) -> tuple[slice, slice, int]:
    """Return, on one axis, what of the volume is in the box, where in the patch it goes, and where the box begins."""
    first = (length - extent) // 2 if extent > length else min(max(round(middle - extent / 2), 0), length - extent)
    low, high = max(first, 0), min(first + extent, length)
    start = (patch - extent) // 2
    return slice(low, high), slice(low - first + start, high - first + start), start


def feature_layers(network: Encoder, image_size: Sequence[int]) -> Sequence[FeatureLayer]:
    """Return the layers that a network names, or else its attention blocks, whose outputs are their features."""
    if isinstance(network, NamesLayers):
        return network.feature_layers(image_size)
    return [
        FeatureLayer(block.name, block.stage, partial(_watched_block, network, block))
        for block in network.attention_blocks(image_size)
    ]


@contextmanager
def block_features(network: Encoder, image_size: tuple[int, int, int], callback: FeatureCallback) -> Iterator[None]:
    """Hand the features of every layer, (batch, x, y, z, channel), to `callback` within a `with` block.

    With them go the layer, and the voxels per axis that each feature stands for.
    """
    with ExitStack() as watched:
        for layer in feature_layers(network, image_size):
            watched.enter_context(layer.watched(partial(callback, layer)))
        yield


@contextmanager
def _watched_block(
    network: Any, block: AttentionBlock, callback: Callable[[Tensor, tuple[int, ...]], None]
) -> Iterator[None]:
    """Read the output of a block of SMIT or Swin UNETR.

    In evaluation it is what enters its second half plus what the feed-forward layer makes of it, in both.
    """
    module = network.get_submodule(block.name)
    entered: list[Tensor] = []

    def keep(_: object, inputs: tuple[Tensor, ...]) -> None:
        entered[:] = inputs

    def hand_over(_: object, __: object, output: Tensor) -> None:
        callback(entered.pop() + output, (block.token_size,) * 3)

    with ExitStack() as hooks:
        hooks.callback(module.norm2.register_forward_pre_hook(keep).remove)
        hooks.callback(module.mlp.register_forward_hook(hand_over).remove)
        yield


def pool_features(features: Tensor, real: Tensor, start: Sequence[float], size: Sequence[float]) -> Tensor:
    """Average features over the real tokens in each cell of a grid over a box.

    Args:
        features: (x, y, z, channel).
        real: Bool (x, y, z), the tokens that hold image.
        start: Where the box begins, in tokens, not necessarily whole; x, y, z.
        size: Of the box, in tokens.

    Returns:
        (cells x * cells y * cells z * channel); 0 in cells without a real token.
    """
    per_axis = [
        _cells(tokens, first, length).to(features)
        for tokens, first, length in zip(real.shape, start, size, strict=True)
    ]
    inside = real.to(features)
    sums = torch.einsum("xyzc,xa,yb,zd->abdc", features * inside.unsqueeze(-1), *per_axis)
    counts = torch.einsum("xyz,xa,yb,zd->abd", inside, *per_axis)
    return (sums / counts.clamp_min(1).unsqueeze(-1)).flatten()


def _cells(tokens: int, start: float, size: float) -> Tensor:
    """Return (tokens, cells): 1 where the middle of a token lies in a cell."""
    count = min(MOST_CELLS, max(1, int(size)), tokens)
    cell = torch.floor((torch.arange(tokens) + 0.5 - start) / size * count)
    return (cell[:, None] == torch.arange(count)).float()


@torch.no_grad()
def crop_features(network: AnalyzedNetwork, crop: CaseCrop, device: torch.device) -> list[Tensor]:
    """Return the pooled features of every block for one crop, each (features,), float32 on the CPU."""
    inputs, real = network.prepare(crop.image.unsqueeze(0).to(device))
    x, y, z = real.shape[2:]
    start, size = ([values[axis - 2] for axis in network.to_xyz[2:]] for values in (crop.start, crop.size))
    pooled: list[Tensor] = []

    def pool(_: FeatureLayer, features: Tensor, edges: tuple[int, ...]) -> None:
        box = ([value / edge for value, edge in zip(values, edges, strict=True)] for values in (start, size))
        inside = F.max_pool3d(real.float(), edges, ceil_mode=True)[0, 0] > 0  # a token with any real voxel is real
        with torch.autocast("cuda", enabled=False):
            pooled.append(pool_features(features[0].float(), inside, *box).cpu())

    with mixed_precision(device), block_features(network.backbone, (x, y, z), pool):
        network.backbone.encode(inputs, real)
    return pooled


def feature_grams(
    network: AnalyzedNetwork, cases: PreprocessedCases, extent: Sequence[float], device: torch.device
) -> Tensor:
    """Return the Gram matrix of every block's features over one crop per case, (blocks, cases, cases), with progress.

    Args:
        network: Not compiled; in evaluation mode and on `device` afterwards.
        cases: As this network's configuration sees them.
        extent: Of the crops, mm in the order x, y, z.
        device: Where to compute.
    """
    network.to(device).eval()
    in_mm = dict(zip((axis - 2 for axis in network.to_xyz[2:]), extent, strict=True))
    size = [round(in_mm[axis] / spacing) for axis, spacing in enumerate(cases.spacing)]
    rows = [
        crop_features(network, cut_crop(cases.load(name), cases.patch_size, size), device)
        for name in tqdm(cases.names, desc="Features", unit="case")
    ]
    return torch.stack([gram(torch.stack(block)) for block in zip(*rows, strict=True)])
