"""How many voxels a network gives which log-odds of tumour, with and without tumour in the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from rectal_nnformer.imaging.masks import bounding_box

STEPS_PER_UNIT = 64
"""Log-odds are rounded to 1/64, by which a probability changes by 0.004 at most."""
MAX_LOG_ODDS = 16
"""Log-odds beyond are taken for it: a probability of 1e-7 or 1 minus that."""
N_VALUES = 2 * MAX_LOG_ODDS * STEPS_PER_UNIT + 1
LOG_ODDS = (np.arange(N_VALUES) - N_VALUES // 2) / STEPS_PER_UNIT
NEAR_MM = 10.0
"""Voxels within this distance of a tumour, in reference or prediction, are near it."""
REGIONS = ALL, NEAR = range(2)
CLASSES = NO_TUMOR, TUMOR = range(2)


@dataclass(frozen=True, eq=False)
class LogOddsCounts:
    """How many voxels have which log-odds of tumour.

    Attributes:
        counts: Of all voxels and of those near the tumour, without and with tumour in the reference, by log-odds as in
            `LOG_ODDS`; (regions, classes, values).
    """

    counts: NDArray[np.int64]

    def __add__(self, other: "LogOddsCounts") -> "LogOddsCounts":
        return LogOddsCounts(self.counts + other.counts)

    def sparse(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places, in the flattened array, that are not 0, and what stands there, for `from_sparse`."""
        places = np.flatnonzero(self.counts)
        return places, self.counts.ravel()[places]


def count_log_odds(
    log_odds: NDArray[np.float32], reference: NDArray[np.bool_], near: NDArray[np.bool_]
) -> LogOddsCounts:
    """Return the counts of one case; the arrays have one shape, such as (z, y, x).

    Args:
        log_odds: Of tumour, log(p / (1 - p)); infinite values are taken for the nearest one that is counted.
        reference: Where the reference has tumour.
        near: Where it is near a tumour, see `near_tumor`.
    """
    steps = np.clip(log_odds, -MAX_LOG_ODDS, MAX_LOG_ODDS) * np.float32(STEPS_PER_UNIT)
    values = np.rint(steps).astype(np.int32) + (N_VALUES // 2 + N_VALUES * reference.astype(np.int32))
    regions = [np.bincount(of_region.ravel(), minlength=2 * N_VALUES) for of_region in (values, values[near])]
    return LogOddsCounts(np.array(regions, dtype=np.int64).reshape(len(REGIONS), len(CLASSES), N_VALUES))


def from_sparse(places: Sequence[int] | NDArray[np.int64], counts: Sequence[int] | NDArray[np.int64]) -> LogOddsCounts:
    """Return what `LogOddsCounts.sparse` was called on; nothing gives counts of no voxels."""
    flat = np.zeros(len(REGIONS) * len(CLASSES) * N_VALUES, dtype=np.int64)
    flat[np.asarray(places, dtype=np.int64)] = counts
    return LogOddsCounts(flat.reshape(len(REGIONS), len(CLASSES), N_VALUES))


def near_tumor(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: Sequence[float], distance_mm: float = NEAR_MM
) -> NDArray[np.bool_]:
    """Return where the tumour of reference or prediction is at most so far; nowhere without any.

    Distances are between centres of voxels; the spacing is in mm, in the order of the arrays' axes.
    """
    tumor = reference | prediction
    near = np.zeros(tumor.shape, dtype=bool)
    if not tumor.any():
        return near
    margins = [int(distance_mm // size) + 1 for size in spacing]
    box = tuple(
        slice(max(0, side.start - margin), side.stop + margin)
        for side, margin in zip(bounding_box(tumor), margins, strict=True)
    )
    near[box] = distance_transform_edt(~tumor[box], sampling=spacing) <= distance_mm
    return near
