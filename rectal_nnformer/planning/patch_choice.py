"""Choose patch and batch: what the images fill, then what the GPU holds, then what the lesions need.

Patch sizes are voxels per axis (x, y, z), spacings mm, (x, y, z). A cohort is given by its extents, as in
`rectal_nnformer.planning.rules`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import Size
from rectal_nnformer.planning import rules
from rectal_nnformer.planning.backbones import Backbone
from rectal_nnformer.planning.fingerprint.record import Fingerprint
from rectal_nnformer.planning.memory import MIN_BATCH_SIZE, MemoryTarget
from rectal_nnformer.planning.record import LargestLesion


@dataclass(frozen=True)
class PatchChoice:
    """Patches and batch size, and how they came about.

    The largest patch that the images fill, shrunk to the GPU, lengthened for the lesions: the patch of `3d_fullres`;
    that of `3d_fullres_cubic`; the batch of both, and for the two patches, how many cover 5 % of the dataset.
    """

    filled: Size
    fitting: Size
    patch_size: Size
    cubic: Size
    batch_size: int
    batch_limits: tuple[int, int]


def choose_patch_and_batch(
    extents: ArrayLike, backbone: Backbone, memory: MemoryTarget, lesion: LargestLesion | None, spacing: Sequence[float]
) -> PatchChoice:
    """Choose patches and batch size for a cohort.

    The batch is nnU-Net's: as large as the GPU holds, at most 5 % of the dataset, never below 2. It is planned for both
    configurations, and both get the smaller, so that they differ in their patch alone.

    Raises:
        RectalError: Not even the smallest patch fits the GPU.
    """
    filled = rules.choose_patch_size(extents, backbone)
    fitting = rules.fit_memory(filled, backbone, memory.fits)
    if fitting is None:
        raise RectalError(
            f"No patch of {backbone.network} fits a GPU of {memory.gigabytes:g} GB with {MIN_BATCH_SIZE} patches in a "
            f"batch. Give more with -gpu_memory_target."
        )
    patch_size = fitting
    if lesion is not None:
        patch_size = rules.fit_lesions(fitting, needed_voxels(lesion, spacing), backbone, memory.fits)
    cubic = (backbone.largest,) * 3
    limits = (rules.batch_size_limit(patch_size, extents), rules.batch_size_limit(cubic, extents))
    batch_sizes = [memory.largest_batch(size, n) for size, n in zip((patch_size, cubic), limits, strict=True)]
    return PatchChoice(filled, fitting, patch_size, cubic, min(batch_sizes), limits)


def needed_voxels(lesion: LargestLesion, spacing: Sequence[float]) -> list[float]:
    """Return the voxels per axis that the largest lesion takes with its margin."""
    return [(extent + rules.LESION_MARGIN) / mm for extent, mm in zip(lesion.extent_mm, spacing, strict=True)]


def largest_lesion(fingerprint: Fingerprint) -> LargestLesion | None:
    """Return the largest lesion of a tumour fingerprint; None where it holds none."""
    lesions = [
        (case, lesion["extent_mm"]) for case, record in fingerprint["cases"].items() for lesion in record["lesions"]
    ]
    if not lesions:
        return None
    extents = np.array([extent for _, extent in lesions])
    cases = tuple(lesions[int(row)][0] for row in extents.argmax(axis=0))
    return LargestLesion(tuple(extents.max(axis=0).tolist()), cases)
