"""Series that hold several images of each place: what tells them apart, and what each part is called."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from rectal_nnformer.dicom.slices import Slice

SAME_PLACE_MM = 0.01
"""Positions that are closer together differ by the digits with which they are written."""
MOST_TRAITS = 3
"""How many properties together may tell the images of one place apart: b value and direction, say."""


def parts_of(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Return the slices of one series by what tells those of the same place apart, such as echo time or b value.

    What tells them is added to the description of each slice: `dwi [b value 800]`. A series with one image of each
    place is its only part, and so is one whose images nothing tells apart, as of copies.
    """
    if not all(s.position and s.axes for s in slices):
        return [list(slices)]
    places = _places(slices)
    most = max(Counter(places).values())
    if most == 1:
        return [list(slices)]
    values = [dict(s.traits) for s in slices]
    names = [name for name in dict.fromkeys(key for value in values for key in value) if _varies(name, values)]
    for number in range(1, MOST_TRAITS + 1):
        for chosen in combinations(names, number):
            groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
            for index, value in enumerate(values):
                groups[tuple(value.get(name, "") for name in chosen)].append(index)
            # Times that differ from slice to slice would make as many parts as there are slices.
            if len(groups) == most and all(len({places[i] for i in group}) == len(group) for group in groups.values()):
                return [[_called(slices[i], chosen, key) for i in group] for key, group in sorted(groups.items())]
    return [list(slices)]


def _places(slices: Sequence[Slice]) -> list[tuple[int, ...]]:
    """Return for each slice what is equal for those of the same place and orientation.

    Rounding would part what lies on both sides of an edge: values are sorted instead, and parted where they leave gaps.
    """
    values = np.array([(*s.position, *s.axes) for s in slices])
    order = values.argsort(axis=0)
    gaps = np.diff(np.take_along_axis(values, order, axis=0), axis=0, prepend=values.min(axis=0)[None])
    groups = np.empty(values.shape, int)
    np.put_along_axis(groups, order, np.cumsum(gaps >= SAME_PLACE_MM, axis=0), axis=0)
    return [tuple(group) for group in groups.tolist()]


def _varies(name: str, values: Sequence[dict[str, str]]) -> bool:
    return len({value.get(name, "") for value in values}) > 1


def _called(s: Slice, names: Sequence[str], values: Sequence[str]) -> Slice:
    said = ", ".join(f"{name} {value or 'none'}" for name, value in zip(names, values, strict=True))
    return replace(s, description=f"{s.description} [{said}]".strip())
