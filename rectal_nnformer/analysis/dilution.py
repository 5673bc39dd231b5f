"""Attention dilution of a network over the tiles of cases: by block, stage and case.

The index and its masses are defined in `rectal_nnformer.analysis.attention`. Over the tiles of a case, and over cases,
numerators and denominators are summed before they are divided; a stage's value is the mean over its blocks.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from math import isfinite
from operator import add
from typing import Any

import torch
from torch import Tensor

from rectal_nnformer.analysis.attention import AttentionFlow, WindowSums, flows_of
from rectal_nnformer.analysis.records import BlockRecord, StageRecord, TumorAttention
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.summary import spread_of
from rectal_nnformer.geometry import scattered_padding_share, window_partition_mask
from rectal_nnformer.networks.recording import AnalyzedNetwork, Encoder, real_tokens, stream_attention
from rectal_nnformer.networks.window_attention import AttentionBlock

ELEMENTS_AT_ONCE = {"cpu": 2**19, "cuda": 2**27, "mps": 2**24}
"""Attention values computed at once: on a CPU few enough for its cache (2 MiB in float32), on a GPU (512 MiB) all of a
block in the published patches, since starting a computation there can take longer than the computation."""

FLOW_NAMES = ("adi", "a_rr", "a_rp", "a_pr", "a_pp", "uniform_adi")


@dataclass(frozen=True)
class Tile:
    """What a network is given at once: (channel, *patch), axes as stored, padding exactly 0; the reference (*patch)."""

    image: Tensor
    tumor: Tensor


@dataclass(frozen=True)
class BlockDilution:
    """What one block did with padding, summed over tiles; `tumor` is of the queries whose token holds tumour.

    `tokens` are those that attention processed, `scattered` the real positions that received the update of a padding
    query; None where tokens return to their place.
    """

    name: str
    stage: int
    flow: AttentionFlow
    tumor: AttentionFlow
    tokens: int
    scattered: float | None

    def __add__(self, other: "BlockDilution") -> "BlockDilution":
        """Return the sums over the tiles of both."""
        scattered = None if self.scattered is None or other.scattered is None else self.scattered + other.scattered
        flow, tumor, tokens = self.flow + other.flow, self.tumor + other.tumor, self.tokens + other.tokens
        return BlockDilution(self.name, self.stage, flow, tumor, tokens, scattered)

    @property
    def scattered_padding_share(self) -> float | None:
        """Share of real positions that received the update of a padding query."""
        if self.scattered is None or not self.flow.real_queries:
            return None
        return self.scattered / self.flow.real_queries


Blocks = list[BlockDilution]

NO_ATTENTION = (
    "runs no attention layer that can be read: ours, or MONAI's or timm's in a ForeignNetwork with token_size. Compare "
    "its features by CKA instead, which needs none."
)


class TileMeter:
    """Reads one tile's attention, block by block; results stay on the device until they are asked for.

    Args:
        real: Bool (x, y, z), the voxels that are not padding.
        tumor: Bool (x, y, z).
    """

    def __init__(self, real: Tensor, tumor: Tensor) -> None:
        self._voxels = torch.stack((real, tumor & real))
        self._windows: dict[tuple[Any, ...], WindowSums] = {}
        self._scattered: dict[tuple[Any, ...], float] = {}
        self._sums: dict[str, Tensor] = {}
        self.blocks: list[AttentionBlock] = []

    def measure(self, block: AttentionBlock, part: slice, attention: Tensor) -> None:
        """Add up one part of a block's attention."""
        sums = self.windows_of(block).of_part(part, attention)
        if block.name in self._sums:
            self._sums[block.name] += sums
        else:
            self._sums[block.name] = sums
            self.blocks.append(block)

    def sums(self) -> Tensor:
        """Return what `flows_of` takes, for all queries and those with tumour: (blocks, 3, 3, 2)."""
        uniform = torch.stack([self.windows_of(block).uniform for block in self.blocks])
        return torch.cat((uniform, torch.stack(list(self._sums.values()))), dim=1)

    def windows_of(self, block: AttentionBlock) -> WindowSums:
        """Return the sums of all blocks that cut the grid into the same windows."""
        key = block.token_size, block.window, block.shift
        if key not in self._windows:
            masks = window_partition_mask(real_tokens(self._voxels, block), block.window, block.shift)
            self._windows[key] = WindowSums(masks.unflatten(0, (2, -1)))
        return self._windows[key]

    def scattered(self, block: AttentionBlock) -> float | None:
        """Return how many real positions of a block receive the update of a padding query."""
        if not block.scatters:
            return None
        key = block.token_size, block.window, block.shift
        if key not in self._scattered:
            mask = real_tokens(self._voxels, block)[0].cpu()
            count = int(mask.sum())
            share = scattered_padding_share(mask, block.window[0], block.shift)
            self._scattered[key] = count * share if count else 0.0
        return self._scattered[key]


@torch.no_grad()
def measure_dilution(network: AnalyzedNetwork, tiles: Iterable[Tile], device: torch.device) -> Blocks:
    """Run a network's encoder on tiles, one at a time, and return what each of its blocks did with their padding.

    On a GPU it computes in nnU-Net's mixed precision. No attention is held but a part of one block's. The network, not
    compiled, is in evaluation mode on `device`; there must be a tile.

    Raises:
        RectalError: The network has no attention that can be read.
    """
    sums: list[Tensor] = []
    totals: dict[str, Any] = {}
    for tile in tiles:
        inputs, real = network.prepare(tile.image.unsqueeze(0).to(device))
        tumor_voxels = tile.tumor[None, None].to(device).permute(network.to_xyz)
        with mixed_precision(device), reading(network.backbone, real, tumor_voxels) as meter:
            network.backbone.encode(inputs, real)
        if not meter.blocks:
            raise RectalError(f"{network.backbone_name} {NO_ATTENTION}")
        sums.append(meter.sums())
        for block in meter.blocks:
            tokens, scattered = totals.get(block.name, (0, 0.0))
            here = meter.scattered(block)
            tokens += meter.windows_of(block).num_tokens
            totals[block.name] = tokens, None if here is None else scattered + here
        blocks = meter.blocks
    flows = [flows_of(of_block) for of_block in torch.stack(sums).sum(dim=0).cpu()]
    return [
        BlockDilution(block.name, block.stage, flow, tumor, *totals[block.name])
        for block, (flow, tumor) in zip(blocks, flows, strict=True)
    ]


@contextmanager
def reading(network: Encoder, real: Tensor, tumor: Tensor) -> Iterator[TileMeter]:
    """Read the attention of a backbone that runs within the `with` block, given (1, 1, x, y, z)."""
    x, y, z = real.shape[2:]
    meter = TileMeter(real[0, 0], tumor[0, 0])
    with stream_attention(network, (x, y, z), meter.measure, ELEMENTS_AT_ONCE[real.device.type]):
        yield meter


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return the precision in which nnU-Net predicts: mixed on a GPU, float32 elsewhere."""
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()


def pooled(cases: Iterable[Blocks]) -> Blocks:
    """Return the sums over cases, block by block."""
    return [reduce(add, blocks) for blocks in zip(*cases, strict=True)]


def block_records(blocks: Blocks) -> tuple[BlockRecord, ...]:
    """Return the record of each block; what is undefined is None."""
    return tuple(
        BlockRecord(
            name=block.name,
            stage=block.stage,
            **_values(block.flow, (*FLOW_NAMES, "entropy", "padding_entropy")),
            tumor=TumorAttention(**_values(block.tumor, ("adi", "a_rp"))) if block.tumor.real_queries else None,
            scattered_padding_share=block.scattered_padding_share,
        )
        for block in blocks
    )


def stage_records(blocks: Blocks) -> tuple[StageRecord, ...]:
    """Return the record of each stage: means over its blocks; what is undefined is None."""
    records = []
    for stage in sorted({block.stage for block in blocks}):
        members = [block for block in blocks if block.stage == stage]
        values = block_records(members)
        tumor = [value.tumor for value in values if value.tumor is not None]
        record = StageRecord(
            stage=stage,
            **{name: spread_of(getattr(value, name) for value in values).mean for name in FLOW_NAMES},
            tumor_adi=spread_of(attention.adi for attention in tumor).mean,
            tumor_a_rp=spread_of(attention.a_rp for attention in tumor).mean,
            scattered_padding_share=spread_of(value.scattered_padding_share for value in values).mean,
            real_token_fraction=sum(b.flow.real_queries for b in members) / sum(b.tokens for b in members),
        )
        records.append(record)
    return tuple(records)


def _values(flow: AttentionFlow, names: Iterable[str]) -> Mapping[str, float | None]:
    values = {name: getattr(flow, name) for name in names}
    return {name: value if isfinite(value) else None for name, value in values.items()}
