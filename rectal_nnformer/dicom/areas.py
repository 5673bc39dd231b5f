"""What several closed contours of one slice enclose together."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Voxels = NDArray[np.intp]
"""Numbers of voxels of a slice, row by row, each once, in ascending order."""


@dataclass(frozen=True)
class Joined:
    """What contours enclose together.

    Attributes:
        voxels: What they enclose.
        copies: How many contours enclose what another one does.
        crossing: How many contours overlap another one, and neither is a hole in the other.
    """

    voxels: Voxels
    copies: int
    crossing: int


def join(areas: Sequence[Voxels], size: tuple[int, int]) -> Joined:
    """Return what the contours of a slice enclose, by what each encloses alone.

    What lies inside another one is a hole in it, and what lies in the hole an island. All others are united: of
    contours that cross, or of one that was drawn twice, exclusive or would take away what both of them outline.

    Args:
        areas: What each contour encloses.
        size: Rows and columns of the slice.
    """
    drawn = [area for area in areas if len(area)]
    # Smaller ones first, so that the holes of each are known before it.
    distinct = sorted({area.tobytes(): area for area in drawn}.values(), key=len)
    inside, around = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
    crossing = set()
    for one, other, shared in _overlaps(distinct, size[0] * size[1]):
        if shared == len(distinct[one]) and _is_surrounded(distinct[one], distinct[other], size[1]):
            inside[other].add(one)
            around[one].add(other)
        else:
            crossing |= {one, other}
    filled: list[Voxels] = []
    for number, area in enumerate(distinct):
        holes = [filled[hole] for hole in inside[number] if not around[hole] & inside[number]]
        filled.append(np.setdiff1d(area, np.concatenate(holes)) if holes else area)
    outer = [voxels for number, voxels in enumerate(filled) if not around[number]]
    voxels = np.unique(np.concatenate(outer)) if outer else np.zeros(0, np.intp)
    return Joined(voxels, len(drawn) - len(distinct), len(crossing))


def _overlaps(areas: Sequence[Voxels], num_voxels: int) -> list[tuple[int, int, int]]:
    """Return the pairs of areas that share voxels, the earlier one first, and how many they share."""
    if len(areas) < 2:
        return []
    ends = np.cumsum([0, *map(len, areas)])
    members = csr_array((np.ones(ends[-1], np.int64), np.concatenate(areas), ends), shape=(len(areas), num_voxels))
    shared = (members @ members.T).tocoo()
    pairs = zip(shared.row.tolist(), shared.col.tolist(), shared.data.tolist(), strict=True)
    return [(one, other, count) for one, other, count in pairs if one < other]


def _is_surrounded(inner: Voxels, outer: Voxels, columns: int) -> bool:
    """Return whether at least half of the voxels around an area belong to another one that holds it.

    Otherwise both have most of their edge in common: they are one contour, written twice with other digits. At the
    left and right edge of the slice, which no tumour touches, neighbours of the next row are counted.
    """
    around = np.setdiff1d(np.concatenate([inner + step for step in (-1, 1, -columns, columns)]), inner)
    return 2 * len(np.intersect1d(around, outer)) >= len(around)
