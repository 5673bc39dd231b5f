"""Series that hold several images of each place: what tells them apart, and what each part is called."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from rectal_nnformer.dicom.slices import Slice

MOST_TRAITS = 3
"""How many properties together may tell the images of one place apart: b value and direction, say."""


def parts_of(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Return the slices of one series by what tells those of the same place apart, such as echo time or b value.

    What tells them is added to the description of each slice: `dwi [b value 800]`. A series with one image of each
    place is its only part, and so is one whose images nothing tells apart, as of copies.
    """
    places = Counter(map(_place, slices))
    most = max(places.values())
    if most == 1 or not all(s.position and s.axes for s in slices):
        return [list(slices)]
    values = [dict(s.traits) for s in slices]
    names = [name for name in dict.fromkeys(key for value in values for key in value) if _varies(name, values)]
    for number in range(1, MOST_TRAITS + 1):
        for chosen in combinations(names, number):
            groups: defaultdict[tuple[str, ...], list[Slice]] = defaultdict(list)
            for s, value in zip(slices, values, strict=True):
                groups[tuple(value.get(name, "") for name in chosen)].append(s)
            # Times that differ from slice to slice would make as many parts as there are slices.
            if len(groups) == most and all(max(Counter(map(_place, g)).values()) == 1 for g in groups.values()):
                return [[_called(s, chosen, key) for s in group] for key, group in sorted(groups.items())]
    return [list(slices)]


def _place(s: Slice) -> tuple[float, ...]:
    return tuple(round(value, 2) for value in (*s.position, *s.axes))


def _varies(name: str, values: Sequence[dict[str, str]]) -> bool:
    return len({value.get(name, "") for value in values}) > 1


def _called(s: Slice, names: Sequence[str], values: Sequence[str]) -> Slice:
    said = ", ".join(f"{name} {value or 'none'}" for name, value in zip(names, values, strict=True))
    return replace(s, description=f"{s.description} [{said}]".strip())
