"""What is image and what is padding in the patches that nnU-Net's training loader and predictor cut.

**Tiles of the predictor.** Where an image is smaller than the patch it is padded on both sides alike; elsewhere tiles
begin and end within it. So all tiles of a case hold the same box of real voxels, `min(extent, patch)` per axis in the
middle, and their account is `rectal_nnformer.geometry.token_budget`.

**Crops of the training loader.** The loader cuts a crop larger than the patch, so that rotating it brings in as little
padding as possible; it lies anywhere in the image, padded by the difference in size, or more if the image is smaller.
Some crops are placed around a lesion, within the same bounds (`rectal_nnformer.training.data_loader`). With probability
0.2 each, the crop is rotated by up to 30 degrees about every axis and scaled by 0.7 to 1.4; then its middle is the
patch. What is real then is no box. These crops are drawn here as nnU-Net draws them, with a fixed seed, and the mean
difference that a draw makes to its case's tile is added to the tiles' account, which is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
from batchgeneratorsv2.transforms.spatial.spatial import create_affine_matrix_3d
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from numpy.typing import ArrayLike, NDArray

from rectal_nnformer.geometry import Size, last_crop_start

ROTATION = 30 / 180 * pi
"""Largest angle about each axis, radians."""
SCALING = (0.7, 1.4)
"""Range of scales; above 1 the patch covers more of the image."""
PROBABILITY = 0.2
"""Of rotation, and of scaling."""
FOREGROUND_SHARE = 0.33
"""Share of crops that nnU-Net places around a lesion."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Crop:
    """A training crop of one image. All axes are (z, y, x), in which nnU-Net draws.

    Attributes:
        extent: Voxels of the image.
        start: First voxel of the crop, in voxels of the image; negative in its padding.
        affine: (3, 3), takes offsets from the middle of the patch to offsets from the middle of the crop; None for a
            patch that is neither rotated nor scaled.
    """

    extent: Size
    start: Size
    affine: NDArray[np.float64] | None


def crop_size(patch_size: Sequence[int]) -> Size:
    """Return the voxels per axis that nnU-Net's trainer cuts from the image for a patch; both (z, y, x).

    As its trainer does where no axis of the patch is more than three times as long as the first.
    """
    z, y, x = (int(n) for n in get_patch_size(list(patch_size), ROTATION, ROTATION, ROTATION, (0.85, 1.25)))
    return z, y, x


def real_voxels(crop: Crop, patch_size: Size) -> Mask:
    """Return which voxels of the patch (z, y, x) are real after the spatial transform, bool (z, y, x).

    A voxel is real if the interpolation there reads any voxel of the image. `patch_size` is (z, y, x).
    """
    size = crop_size(patch_size)
    first = [max(-start, 0) for start in crop.start]
    last = [min(n - start, length) - 1 for n, start, length in zip(crop.extent, crop.start, size, strict=True)]
    if crop.affine is None:
        inside = np.zeros(patch_size, dtype=bool)
        cut = [length // 2 - n // 2 for length, n in zip(size, patch_size, strict=True)]
        inside[tuple(slice(max(a - c, 0), max(b + 1 - c, 0)) for a, b, c in zip(first, last, cut, strict=True))] = True
        return inside
    offsets = [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in patch_size]
    inside = np.ones(patch_size, dtype=bool)
    for row, a, b, length in zip(crop.affine.astype(np.float32), first, last, size, strict=True):
        steps = [weight * offset for weight, offset in zip(row, offsets, strict=True)]
        place = steps[0][:, None, None] + steps[1][:, None] + (steps[2] + np.float32((length - 1) / 2))
        inside &= (place > a - 1) & (place < b + 1)
    return inside


def draw_crops(extents: ArrayLike, patch_size: Size, per_kind: int, seed: int = 0) -> Iterator[tuple[Crop, float]]:
    """Draw training crops of a cohort as nnU-Net's loader and spatial transform do; all axes are (z, y, x).

    There are four kinds: plain, rotated, scaled, and both. As many are drawn of each, since plain ones differ little,
    with the weight that the kind has in training. Lesions are taken to lie anywhere in the image.

    Yields:
        A crop and its weight; the weights add up to 1.
    """
    rng = np.random.default_rng(seed)
    cohort = np.asarray(extents)
    for rotate, scale in ((False, False), (True, False), (False, True), (True, True)):
        weight = (PROBABILITY if rotate else 1 - PROBABILITY) * (PROBABILITY if scale else 1 - PROBABILITY)
        # Spread over the cohort rather than drawn, so that few crops stand for all of it.
        for number in np.linspace(0, len(cohort) - 1, per_kind).round().astype(int):
            z, y, x = (int(n) for n in cohort[number])
            affine = None
            if rotate or scale:
                angles = rng.uniform(-ROTATION, ROTATION, 3) if rotate else np.zeros(3)
                affine = create_affine_matrix_3d(angles, [rng.uniform(*SCALING) if scale else 1.0] * 3)
            yield Crop((z, y, x), _draw_start(rng, (z, y, x), patch_size), affine), weight / per_kind


def _draw_start(rng: np.random.Generator, extent: Size, patch_size: Size) -> Size:
    size = crop_size(patch_size)
    margin = [length - n for length, n in zip(size, patch_size, strict=True)]
    padding = [max(pad, length - n) for pad, length, n in zip(margin, size, extent, strict=True)]
    earliest = [-pad // 2 for pad in padding]
    latest = last_crop_start(extent, size, margin)
    if rng.random() < FOREGROUND_SHARE:
        around = [int(n * rng.random()) - length // 2 for n, length in zip(extent, size, strict=True)]
        z, y, x = (int(np.clip(s, a, b)) for s, a, b in zip(around, earliest, latest, strict=True))
    else:
        z, y, x = (int(rng.integers(a, b + 1)) for a, b in zip(earliest, latest, strict=True))
    return z, y, x
