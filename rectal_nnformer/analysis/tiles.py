"""Preprocessed cases, and the tiles into which nnU-Net's prediction cuts them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from rectal_nnformer.analysis.dilution import Tile
from rectal_nnformer.nnunet.case_files import read_arrays

TILE_STEP = 0.5
"""Step of the sliding window in patches, nnU-Net's default."""


@dataclass(frozen=True)
class PreprocessedCases:
    """Cases of a preprocessed dataset, as one configuration of its plans sees them; voxels and mm, axes as stored."""

    folder: Path
    names: tuple[str, ...]
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    tumor_labels: tuple[int, ...]

    def load(self, case: str) -> Tile:
        """Return a whole case; what is no tumour, or ignored, or unknown, is False in its `tumor`.

        Raises:
            RectalError: Its files are missing or damaged.
        """
        image, reference = read_arrays(self.folder, case)
        tumor = np.isin(reference[0], self.tumor_labels)
        return Tile(torch.from_numpy(image.astype(np.float32)), torch.from_numpy(tumor))


def sliding_window(case: Tile, patch_size: tuple[int, ...]) -> Iterator[Tile]:
    """Yield the tiles that nnU-Net's prediction cuts a case into: padded alike, in the same places, not mirrored."""
    image = pad_nd_image(case.image, patch_size, "constant", {"value": 0})
    tumor = pad_nd_image(case.tumor, patch_size, "constant", {"value": 0})
    steps = compute_steps_for_sliding_window(tuple(tumor.shape), patch_size, TILE_STEP)
    for start in product(*steps):
        box = tuple(slice(s, s + n) for s, n in zip(start, patch_size, strict=True))
        yield Tile(torch.stack([channel[box] for channel in image]), tumor[box])
