"""Reading the outline of the rectum: ellipses on a few slices, in a JSON file keyed by series folder.

    {"series_folder": [{"z": 7, "center_xy": [195, 240], "radii_xy": [28, 20]}, ...], ...}

Positions and radii are voxel indices and counts of the volume as SimpleITK reads the series: x, y in the slice, z the
slice index from 0. Text values, such as a `note`, are ignored.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.demo.cohort.fields import Mask
from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import read_json

MOST_VOXELS = 1 << 16
"""Of an axis; larger numbers, and NaN, are none of a volume."""

_FORMAT = '{"z": slice index, "center_xy": [x, y], "radii_xy": [x, y]}, in voxels'


@dataclass(frozen=True)
class Ellipse:
    """The rectum on one slice, in voxel indices."""

    z: float
    center_xy: tuple[float, float]
    radii_xy: tuple[float, float]


def read_rectum_outlines(path: Path) -> dict[str, list[Ellipse]]:
    """Return the outlines in a JSON file: series folder name to ellipses, ascending in z, at least two.

    Raises:
        RectalError: The file is missing or is no JSON object, or an outline is incomplete; the message names the
            series folder and what is missing.
    """
    content = read_json(path, remedy=f"Give a JSON object that maps series folders to lists of {_FORMAT}.")
    return {name: _parse_series(name, value) for name, value in content.items() if not isinstance(value, str)}


def outline_mask(ellipses: list[Ellipse], shape: tuple[int, int, int], series: str) -> Mask:
    """Fill an outline in a series of this shape (z, y, x), interpolated linearly between its slices, none beyond.

    Raises:
        RectalError: The outline leaves the volume.
    """
    depth, height, width = shape
    knots = [e.z for e in ellipses]
    slices = np.arange(np.ceil(knots[0]), np.floor(knots[-1]) + 1)
    table = np.array([[*e.center_xy, *e.radii_xy] for e in ellipses])
    values = [np.interp(slices, knots, column) for column in table.T]
    center_x, center_y, radius_x, radius_y = (v[:, None, None] for v in values)
    for axis, size, low, high in (
        ("z", depth, slices[0], slices[-1]),
        ("x", width, (center_x - radius_x).min(), (center_x + radius_x).max()),
        ("y", height, (center_y - radius_y).min(), (center_y + radius_y).max()),
    ):
        if low < 0 or high > size - 1:
            raise RectalError(
                f"The rectum outline of series {series} spans {low:g} to {high:g} along {axis}, but the series has "
                f"{size} voxels there. Give voxel indices of this very series."
            )
    y, x = np.ogrid[:height, :width]
    mask = np.zeros(shape, dtype=bool)
    mask[slices.astype(int)] = ((x - center_x) / radius_x) ** 2 + ((y - center_y) / radius_y) ** 2 <= 1
    return mask


def _parse_series(series: str, value: Any) -> list[Ellipse]:
    if not isinstance(value, list) or len(value) < 2:
        raise RectalError(f"The rectum outline of series {series} needs a list of at least two ellipses {_FORMAT}")
    ellipses = sorted((_parse_ellipse(series, i, entry) for i, entry in enumerate(value)), key=lambda e: e.z)
    for lower, upper in pairwise(ellipses):
        if lower.z == upper.z:
            raise RectalError(f"The rectum outline of series {series} has two ellipses at z = {lower.z:g}; keep one")
    return ellipses


def _parse_ellipse(series: str, index: int, entry: Any) -> Ellipse:
    where = f"The rectum outline of series {series}, ellipse {index + 1}"
    if not isinstance(entry, dict):
        raise RectalError(f"{where} is {entry!r}; expected {_FORMAT}")
    missing = [key for key in ("z", "center_xy", "radii_xy") if key not in entry]
    if missing:
        raise RectalError(f"{where} lacks {', '.join(missing)}; expected {_FORMAT}")
    if not _is_number(entry["z"]):
        raise RectalError(f"{where} has z = {entry['z']!r}; expected a slice index")
    for key in ("center_xy", "radii_xy"):
        pair = entry[key]
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))):
            raise RectalError(f"{where} has {key} = {pair!r}; expected two numbers")
    if min(entry["radii_xy"]) <= 0:
        raise RectalError(f"{where} has radii_xy = {entry['radii_xy']}; radii must be positive")
    (center_x, center_y), (radius_x, radius_y) = entry["center_xy"], entry["radii_xy"]
    return Ellipse(float(entry["z"]), (float(center_x), float(center_y)), (float(radius_x), float(radius_y)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST_VOXELS
