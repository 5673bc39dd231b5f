"""Two masked views of a scan, each a pure function of the number of its sample, so that any training can go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rectal_nnformer.augmentation.window import Window, window_bounds

REGION = 4 / 3
"""Size of the region that both views are cut from, in units of a view: 128 to 96 voxels, as published."""
BLOCK = 16
"""Voxels per axis of the blocks that are hidden, as published."""
HIDDEN_SHARE = 0.7
"""Of the blocks of a view, as published."""
INTENSITY = 0.1
"""Views are made brighter or darker by at most so much of the window, and scaled by at most so much around 1."""
SEED = 12345

Cut = list[slice]


class Views(Dataset[dict[str, Tensor]]):
    """Samples 0, 1, 2, ...: each epoch takes every scan once, in an order of its own.

    A sample holds `image`, float32 (2, channels, z, y, x), in preprocessed intensities clamped to the window before
    their change, padding exactly 0, and `hidden`, bool (2, 1, z, y, x), what the student does not see.

    Args:
        files: Arrays (channels, z, y, x) of the scans.
        size: Voxels (z, y, x) of a view.
        window: One (low, high) per channel.
    """

    def __init__(self, files: Sequence[Path], size: Sequence[int], window: Window) -> None:
        self.files = list(files)
        self.size = tuple(size)
        self.low, self.high = (bound.numpy() for bound in window_bounds(window))

    def scan_of(self, sample: int) -> Path:
        """Return the scan that a sample is cut from."""
        epoch, place = divmod(sample, len(self.files))
        return self.files[np.random.default_rng((SEED, epoch)).permutation(len(self.files))[place]]

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEED, sample, 1))
        scan = np.load(self.scan_of(sample), mmap_mode="r")
        starts = view_starts(scan.shape[1:], self.size, rng)
        images = [self._changed(cut_padded(scan, start, self.size), rng) for start in starts]
        hidden = [hidden_voxels(self.size, rng) for _ in starts]
        return {
            "image": torch.from_numpy(np.stack(images)),
            "hidden": torch.from_numpy(np.stack(hidden)[:, None]),
        }

    def _changed(self, view: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
        """Return a view clamped to the window, its intensities changed; exact zeros stay."""
        scale, shift = rng.uniform(1 - INTENSITY, 1 + INTENSITY), rng.uniform(-INTENSITY, INTENSITY)
        inside = (np.clip(view, self.low, self.high) - self.low) * scale + shift * (self.high - self.low) + self.low
        return np.where(view == 0, 0, inside).astype(np.float32)


def view_starts(shape: Sequence[int], size: Sequence[int], rng: Generator) -> list[tuple[int, ...]]:
    """Return where two views of a size begin in a scan of a shape; both lie within one region of `REGION` times theirs.

    Where the scan is shorter than a view it is in the middle of it, and the start negative.
    """
    starts = []
    for voxels, view in zip(shape, size, strict=True):
        padded = max(voxels, view)
        region = min(round(view * REGION), padded)
        begin = rng.integers(padded - region + 1) - (padded - voxels) // 2
        starts.append(begin + rng.integers(region - view + 1, size=2))
    return [tuple(int(start[view]) for start in starts) for view in (0, 1)]


def cut_padded(scan: NDArray[np.float32], start: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
    """Return (channels, *size) voxels of a scan (channels, z, y, x) from a start on, 0 outside of it."""
    view = np.zeros((len(scan), *size), dtype=np.float32)
    inner, outer = [slice(None)], [slice(None)]
    for begin, length, voxels in zip(start, size, scan.shape[1:], strict=True):
        first, last = max(begin, 0), min(begin + length, voxels)
        outer.append(slice(first, last))
        inner.append(slice(first - begin, last - begin))
    view[tuple(inner)] = scan[tuple(outer)]
    return view


def hidden_voxels(size: Sequence[int], rng: Generator) -> NDArray[np.bool_]:
    """Return which voxels (z, y, x) are hidden: `HIDDEN_SHARE` of the blocks, and at least one block is seen."""
    grid = [-(-voxels // BLOCK) for voxels in size]
    count = int(np.prod(grid))
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: min(round(HIDDEN_SHARE * count), count - 1)]] = True
    blocks = hidden.reshape(grid)
    for axis in range(3):
        blocks = blocks.repeat(BLOCK, axis=axis)
    return blocks[tuple(slice(voxels) for voxels in size)]


@dataclass(frozen=True)
class Batches:
    """The samples of each step; the rest of an epoch that fills no batch is left out, as it is anew in each epoch."""

    scans: int
    size: int
    first_step: int
    last_step: int

    def __iter__(self) -> Any:
        per_epoch = self.scans // self.size
        for step in range(self.first_step, self.last_step):
            epoch, place = divmod(step, per_epoch)
            first = epoch * self.scans + place * self.size
            yield list(range(first, first + self.size))

    def __len__(self) -> int:
        return self.last_step - self.first_step
