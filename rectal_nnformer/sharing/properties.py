"""What nnU-Net stores about a preprocessed case, reduced to the fields it reads, each of the expected type."""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.data_pickle import load_data_pickle
from rectal_nnformer.sharing.frames import is_possible_shape
from rectal_nnformer.utils.files import staged_file

ORIENTATIONS = frozenset("RLAPSI")


def read_properties(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the properties in a pickle without executing it, and the names of the fields that were left out.

    Raises:
        RectalError: It holds more than data, lacks a field that nnU-Net always writes, or has one of another type,
            length or range.
    """
    content = load_data_pickle(path)
    if not isinstance(content, dict):
        raise RectalError(f"{path} does not hold a case's properties; preprocess the dataset again.")
    missing = sorted(REQUIRED - content.keys())
    if missing:
        raise RectalError(f"{path} lacks the property '{missing[0]}'; preprocess the dataset again.")
    return _vetted(path, content, FIELDS)


def write_properties(path: Path, properties: Mapping[str, Any]) -> None:
    """Write vetted properties as nnU-Net does, anew."""
    with staged_file(path) as staged, staged.open("wb") as file:
        # The version that every Python with nnU-Net reads, whatever the default of this one.
        pickle.dump(dict(properties), file, protocol=4)


def _vetted(path: Path, content: Mapping[Any, Any], fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    kept, dropped = {}, []
    for name, value in content.items():
        field = fields.get(name)
        if field is None:
            dropped.append(str(name))
        elif isinstance(field, Mapping):
            inner = value if isinstance(value, dict) else {None: None}
            kept[name], inner_dropped = _vetted(path, inner, field)
            dropped += [f"{name}.{inner_name}" for inner_name in inner_dropped]
        else:
            try:
                kept[name] = field(value)
            except (TypeError, ValueError, OverflowError):
                raise RectalError(f"{path}: the property '{name}' is not as nnU-Net writes it.") from None
    return kept, dropped


def _numbers(value: Any) -> Any:
    """Return a list or tuple of numbers (of lists of numbers) as plain ones, of the same types."""
    if isinstance(value, list | tuple) and len(value) <= 16:
        return type(value)(_numbers(item) for item in value)
    if isinstance(value, bool | np.bool_):
        raise TypeError("no number")
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating) and np.isfinite(value):
        # nnU-Net stores numpy's numbers here; they print differently and compute the same.
        return float(value)
    raise TypeError("no number")


def _positive(value: Any) -> Any:
    """Return a list or tuple of sizes in mm."""
    numbers = _numbers(value)
    if not all(0 < float(number) < math.inf for number in numbers):
        raise ValueError("no spacing")
    return numbers


def _spacing(value: Any) -> Any:
    """Return the spacing of three axes in mm."""
    numbers = _positive(value)
    if len(numbers) != 3:
        raise ValueError("no spacing")
    return numbers


def _shape(value: Any) -> Any:
    """Return the voxels along three axes."""
    sizes = _numbers(value)
    if len(sizes) != 3 or not all(type(size) is int for size in sizes) or not is_possible_shape(sizes):
        raise ValueError("no shape")
    return sizes


def _box(value: Any) -> Any:
    """Return where a box begins and ends, in voxels along three axes."""
    ranges = _numbers(value)
    if len(ranges) != 3 or not all(len(pair) == 2 and all(type(at) is int for at in pair) for pair in ranges):
        raise ValueError("no box")
    return ranges


def _matrix(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.shape != (4, 4) or value.dtype.kind != "f":
        raise TypeError("no affine matrix")
    if not np.isfinite(value).all():
        raise ValueError("no affine matrix")
    return value


def _orientation(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 3 or not set(value) <= ORIENTATIONS:
        raise TypeError("no orientation")
    return value


def _locations(value: Any) -> dict[Any, Any]:
    """Return the voxels of each label: integers (voxel; channel and three indices), or an empty list."""
    if not isinstance(value, dict):
        raise TypeError("no dict")
    for label, voxels in value.items():
        labels = label if isinstance(label, tuple) else (label,)
        if not all(type(number) is int for number in labels):
            raise TypeError("no label")
        is_empty = isinstance(voxels, list | tuple) and not voxels
        is_array = isinstance(voxels, np.ndarray) and voxels.dtype.kind in "iu"
        if not is_empty and not (is_array and (voxels.size == 0 or (voxels.ndim == 2 and voxels.shape[1] == 4))):
            raise TypeError("no voxels")
    return value


FIELDS: dict[str, Any] = {
    "spacing": _spacing,
    "sitk_stuff": {
        "spacing": _positive,
        "origin": _numbers,
        "direction": _numbers,
        "original_orientation": _orientation,
    },
    "nibabel_stuff": {"original_affine": _matrix, "reoriented_affine": _matrix},
    "shape_before_cropping": _shape,
    "bbox_used_for_cropping": _box,
    "shape_after_cropping_and_before_resampling": _shape,
    "class_locations": _locations,
}
"""The fields that nnU-Net's readers and preprocessors write and its trainers and exporters read."""
REQUIRED = FIELDS.keys() - {"sitk_stuff", "nibabel_stuff"}
"""Those that nnU-Net writes whatever reader it uses."""
