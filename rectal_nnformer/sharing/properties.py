"""What nnU-Net stores about a preprocessed case, reduced to the fields it reads, each of the expected type."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.files import staged_file
from rectal_nnformer.sharing.data_pickle import load_data_pickle

ORIENTATIONS = frozenset("RLAPSI")


def read_properties(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the properties in a pickle without executing it, and the names of the fields that were left out.

    Raises:
        RectalError: it holds more than data, or a field is not of the type that nnU-Net writes.
    """
    content = load_data_pickle(path)
    if not isinstance(content, dict):
        raise RectalError(f"{path} does not hold a case's properties; preprocess the dataset again.")
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


def _matrix(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.shape != (4, 4) or value.dtype.kind != "f":
        raise TypeError("no affine matrix")
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


_GRID: dict[str, Callable[[Any], Any]] = {"spacing": _numbers, "origin": _numbers, "direction": _numbers}

FIELDS: dict[str, Any] = {
    "spacing": _numbers,
    "sitk_stuff": {**_GRID, "original_orientation": _orientation},
    "nibabel_stuff": {"original_affine": _matrix, "reoriented_affine": _matrix},
    "shape_before_cropping": _numbers,
    "bbox_used_for_cropping": _numbers,
    "shape_after_cropping_and_before_resampling": _numbers,
    "class_locations": _locations,
}
"""The fields that nnU-Net's readers and preprocessors write and its trainers and exporters read."""
