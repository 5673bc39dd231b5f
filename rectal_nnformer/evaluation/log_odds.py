"""How many voxels a network gives which log-odds of tumour, with and without tumour in the reference."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import bounding_box
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

STEPS_PER_UNIT = 64
"""Log-odds are rounded to 1/64, by which a probability changes by 0.004 at most."""
MAX_LOG_ODDS = 16
"""Log-odds beyond are taken for it: a probability of 1e-7 or 1 minus that."""
N_VALUES = 2 * MAX_LOG_ODDS * STEPS_PER_UNIT + 1
LOG_ODDS = (np.arange(N_VALUES) - N_VALUES // 2) / STEPS_PER_UNIT
NEAR_MM = 10.0
"""Voxels within this distance of a tumour, in reference or prediction, are near it."""
COUNTS_FILE = "log_odds_counts.json"
"""In a folder of masks: the counts of all of its cases."""
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


def count_case(
    log_odds: NDArray[np.float32],
    labels: NDArray[np.integer],
    prediction: NDArray[np.bool_],
    tumor_labels: Sequence[int],
    ignore_label: int | None,
    spacing: Sequence[float],
) -> LogOddsCounts:
    """Return the counts of one case without the voxels of the ignore label; the arrays have one shape, (z, y, x).

    Args:
        log_odds: Of tumour.
        labels: Of the reference.
        prediction: Where the mask is tumour.
        tumor_labels: Which labels are tumour.
        ignore_label: Which label is not scored, None without one.
        spacing: Voxel size in mm, in the order of the axes.
    """
    reference = np.isin(labels, tumor_labels)
    if ignore_label is None:
        return count_log_odds(log_odds, reference, near_tumor(reference, prediction, spacing))
    scored = labels != ignore_label
    near = near_tumor(reference, prediction & scored, spacing)
    return count_log_odds(log_odds[scored], reference[scored], near[scored])


def count_log_odds(
    log_odds: NDArray[np.float32], reference: NDArray[np.bool_], near: NDArray[np.bool_]
) -> LogOddsCounts:
    """Return the counts of one case; the arrays have one shape, such as (z, y, x).

    Args:
        log_odds: Of tumour, log(p / (1 - p)); infinite values are taken for the nearest one that is counted.
        reference: Where the reference has tumour.
        near: Where it is near a tumour, see `near_tumor`.
    """
    steps = log_odds * np.float32(STEPS_PER_UNIT)
    bound = MAX_LOG_ODDS * STEPS_PER_UNIT
    np.rint(np.clip(steps, -bound, bound, out=steps), out=steps)
    values = steps.astype(np.intp)
    values += N_VALUES // 2

    def count(where: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        return np.bincount((values if where is None else values[where]).ravel(), minlength=N_VALUES)

    # Tumour is little: it is taken from the whole rather than told apart voxel by voxel.
    pairs = [(count(None), count(reference)), (count(near), count(near & reference))]
    return LogOddsCounts(np.array([[whole - tumor, tumor] for whole, tumor in pairs], dtype=np.int64))


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
    margins = [int(distance_mm // size) + 1 for size in spacing]
    whole = bounding_box(tumor)
    # Around each piece by itself: small ones lie all over, and distances across all of the scan take long.
    for piece in ndimage.find_objects(ndimage.label(tumor[whole], np.ones((3, 3, 3)))[0]):
        sides = zip(whole, piece, margins, strict=True)
        box = tuple(
            slice(max(0, all_of_it.start + side.start - margin), all_of_it.start + side.stop + margin)
            for all_of_it, side, margin in sides
        )
        near[box] |= ndimage.distance_transform_edt(~tumor[box], sampling=spacing) <= distance_mm
    return near


@dataclass(frozen=True)
class SparseCounts:
    """The content of `COUNTS_FILE`."""

    places: tuple[int, ...]
    counts: tuple[int, ...]


def write_counts(counts: LogOddsCounts, folder: Path) -> None:
    """Write the counts of the cases of a folder of masks."""
    places, values = counts.sparse()
    write_json(folder / COUNTS_FILE, asdict(SparseCounts(tuple(places.tolist()), tuple(values.tolist()))))


def read_counts(folder: Path) -> LogOddsCounts | None:
    """Return the counts of the cases of a folder of masks; None where nothing was counted.

    Raises:
        RectalError: The file is damaged.
    """
    path, remedy = folder / COUNTS_FILE, "Validate the fold again (--val)."
    if not path.is_file():
        return None
    read = read_own(SparseCounts, path, remedy)
    size = len(REGIONS) * len(CLASSES) * N_VALUES
    if len(read.places) != len(read.counts) or not all(0 <= place < size for place in read.places):
        raise RectalError(f"{path} cannot be used: places and counts do not go together. {remedy}")
    return from_sparse(read.places, read.counts)
