"""Which lesions and predicted components belong together, decided from the table of the voxels that they share.

Row i and column j of that table, both from 1, hold the voxels that lesion i shares with prediction j; row 0 and
column 0 hold the voxels outside any lesion or prediction, so that sums over rows and columns are the components' sizes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """Lesions and predictions merged into groups, which are numbered from 1 by their lowest lesion.

    Attributes:
        lesion_group: Group of each lesion, 0 where no prediction overlaps it; (lesions,).
        prediction_group: Group of each prediction, 0 where it overlaps no lesion; (predictions,).
        iou: Intersection over union of each group; (groups,).
    """

    lesion_group: Integers
    prediction_group: Integers
    iou: NDArray[np.float64]


def group_components(table: Integers) -> Grouping:
    """Merge the lesions that share their best prediction, then the predictions that share their best group.

    Ties go to the lower label, and among groups to the one with the lowest lesion.
    """
    shared = table[1:, 1:]
    # Lesions with the same best prediction share a group.
    number_of: dict[int, int] = {0: 0}
    groups = [number_of.setdefault(prediction, len(number_of)) for prediction in _best_or_none(shared).tolist()]
    lesion_group = np.array(groups, dtype=np.int64)
    membership = _one_hot(lesion_group)
    group_shared = membership @ shared
    prediction_group = _best_or_none(group_shared.T)

    predicted_in = _one_hot(prediction_group, len(membership))
    intersection = (group_shared * predicted_in).sum(axis=1)
    sizes = membership @ table[1:].sum(axis=1) + predicted_in @ table[:, 1:].sum(axis=0)
    return Grouping(lesion_group, prediction_group, intersection / (sizes - intersection))


def match_strictly(table: Integers, min_iou: float) -> dict[int, int]:
    """Return the lesions found without any merging, each with its prediction.

    A pair counts if the prediction overlaps no other lesion, no other prediction overlaps the lesion, and the
    intersection over union of the two is above `min_iou`.
    """
    shared = table[1:, 1:]
    lesion_sizes, prediction_sizes = table[1:].sum(axis=1), table[:, 1:].sum(axis=0)
    touching = shared > 0
    alone = touching & (touching.sum(axis=1, keepdims=True) == 1) & (touching.sum(axis=0, keepdims=True) == 1)
    iou = shared / (lesion_sizes[:, None] + prediction_sizes[None] - shared)
    return {int(lesion) + 1: int(prediction) + 1 for lesion, prediction in np.argwhere(alone & (iou > min_iou))}


def _best_or_none(counts: Integers) -> Integers:
    """Return for each row the column, from 1, with the highest count, the lower one of equals; 0 for a row of zeros."""
    # A leading column of zeros wins exactly the rows that have nothing else.
    return np.pad(counts, ((0, 0), (1, 0))).argmax(axis=1)


def _one_hot(groups: Integers, n_groups: int | None = None) -> Integers:
    """Return (groups, components): 1 where a component is in a group."""
    total = int(groups.max(initial=0)) if n_groups is None else n_groups
    return (groups == np.arange(1, total + 1)[:, None]).astype(np.int64)
