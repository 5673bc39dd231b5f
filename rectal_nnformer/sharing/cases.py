"""One case of a dataset between nnU-Net's files (Blosc2, pickle, NIfTI) and a bundle's (safetensors, JSON)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import itk_message, read_image
from rectal_nnformer.imaging.writing import write_volume
from rectal_nnformer.nnunet.case_files import read_blosc2
from rectal_nnformer.nnunet.layout import case_files
from rectal_nnformer.sharing.schema import ItkGrid, PlansJson, Properties, is_possible_shape
from rectal_nnformer.utils.files import writing
from rectal_nnformer.utils.json_records import json_content, make_record
from rectal_nnformer.utils.pickles import read_own_pickle

DATA, SEGMENTATION, LOCATIONS, MASK = "data", "seg", "class_locations", "mask"

Arrays = dict[str, NDArray[Any]]
"""`data` and `seg` (channel, z, y, x) with `class_locations.LABEL` (voxel; channel, z, y, x), or `mask` (z, y, x)."""


def read_case(stem: Path) -> tuple[Arrays, Properties, bool]:
    """Return arrays and properties of a preprocessed case of our own, and whether any property is left out."""
    paths = case_files(stem.parent, stem.name)
    for path in paths:
        if not path.is_file():
            raise RectalError(f"Case {stem.name} has no {path}. Preprocess again, or remove that folder.")
    content = read_own_pickle(paths[2])
    locations = content.pop(LOCATIONS, None) if isinstance(content, dict) else None
    if not isinstance(locations, dict):
        raise RectalError(f"{paths[2]} does not hold a case's properties; preprocess the dataset again.")
    properties = make_record(Properties, _plain(content), str(paths[2]))
    arrays: Arrays = {}
    for name, path in zip((DATA, SEGMENTATION), paths, strict=False):
        arrays[name] = read_blosc2(path)
    for label, voxels in locations.items():
        name = ",".join(map(str, label if isinstance(label, tuple) else (label,)))
        arrays[f"{LOCATIONS}.{name}"] = np.ascontiguousarray(voxels if len(voxels) else np.zeros((0, 4), np.int64))
    return arrays, properties, bool(content.keys() - json_content(properties).keys())


def write_case(stem: Path, arrays: Arrays, properties: Properties, patch_size: Sequence[int] | None) -> None:
    """Write a case by nnU-Net's own writer, stored for a patch."""
    content = properties.model_dump(exclude_unset=True)
    content["bbox_used_for_cropping"] = [list(pair) for pair in content["bbox_used_for_cropping"]]
    if "nibabel_stuff" in content:
        content["nibabel_stuff"] = {name: np.array(m, float) for name, m in content["nibabel_stuff"].items()}
    locations = {_label(name): voxels for name, voxels in arrays.items() if name.startswith(LOCATIONS)}
    content[LOCATIONS] = {label: voxels if len(voxels) else [] for label, voxels in locations.items()}
    stored: dict[str, Any] = {}
    for name, suffix in ((DATA, ""), (SEGMENTATION, "_seg")):
        array = arrays[name]
        blocks, chunks = comp_blosc2_params(array.shape, patch_size or array.shape[1:], array.itemsize)
        stored |= {f"blocks{suffix}": blocks, f"chunks{suffix}": chunks}
    with writing(stem):
        nnUNetDatasetBlosc2.save_case(arrays[DATA], arrays[SEGMENTATION], content, str(stem), **stored)


def check_case(name: str, arrays: Arrays, properties: Properties, plans: Sequence[PlansJson]) -> None:
    """Refuse arrays and properties that do not belong together or that no preprocessing of plans makes.

    The case is named FOLDER/CASE; of all plans of its dataset one configuration that fits is enough.
    """
    problem, folder = _problem(arrays), name.partition("/")[0]
    if not problem and not any(record.make(folder, properties, arrays[DATA].shape[1:]) for record in plans):
        problem = (
            f"{properties.shape_after_cropping_and_before_resampling} voxels at the spacing {properties.spacing} do "
            f"not become the {arrays[DATA].shape[1:]} of its arrays"
        )
    if problem:
        raise RectalError(
            f"{name} cannot be of a dataset preprocessed by these plans: {problem}. Where the dataset was made, "
            f"preprocess it again, or move the folder {folder} away if it is left over from other plans."
        )


def read_reference(path: Path) -> tuple[Arrays, ItkGrid]:
    """Return a mask of our own and its grid."""
    image = read_image(path)
    grid = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    return {MASK: sitk.GetArrayFromImage(image)}, make_record(ItkGrid, grid, str(path))


def write_reference(path: Path, arrays: Arrays, grid: ItkGrid) -> None:
    """Write a mask anew, in the format of its ending."""
    mask = arrays.get(MASK, np.zeros(0))
    if mask.dtype.kind not in "iuf" or (mask.ndim, len(grid.spacing)) != (3, 3) or not is_possible_shape(mask.shape):
        raise RectalError(f"The ground truth {path.name} is no mask of three axes.")
    try:
        image = sitk.GetImageFromArray(mask)
        image.SetSpacing(grid.spacing)
        image.SetOrigin(grid.origin)
        image.SetDirection(grid.direction)
    except RuntimeError as error:
        raise RectalError(f"The ground truth {path.name} cannot be written ({itk_message(error)}).") from None
    write_volume(image, path)


def _problem(arrays: Arrays) -> str:
    """Return what is wrong with the arrays of a case by themselves; empty if nothing is."""
    data, segmentation = (arrays.get(name, np.zeros(0)) for name in (DATA, SEGMENTATION))
    if data.dtype.kind != "f" or segmentation.dtype.kind not in "iu":
        return f"its arrays are of the types {data.dtype} and {segmentation.dtype}"
    sizes = data.shape, segmentation.shape
    if data.ndim != 4 or data.shape[1:] != segmentation.shape[1:] or not all(map(is_possible_shape, sizes)):
        return f"its arrays have the shapes {data.shape} and {segmentation.shape}"
    if not np.isfinite(data).all():
        return "its image holds values that are not finite"
    for name, voxels in arrays.items():
        if name not in (DATA, SEGMENTATION):
            if _label(name) is None or voxels.dtype.kind not in "iu" or voxels.ndim != 2 or voxels.shape[1] != 4:
                return f"{name[:80]!r} is no list of voxels"
            if len(voxels) and (voxels.min() < 0 or np.any(voxels.max(axis=0) >= segmentation.shape)):
                return f"{name} lists voxels outside of its volume"
    for name, voxels in arrays.items():
        if name.startswith(LOCATIONS) and not np.isin(segmentation[tuple(voxels.T)], _labels(name)).all():
            return f"{name} lists voxels of other labels, so that its segmentation is damaged"
    return ""


def _labels(name: str) -> list[int]:
    """Return the labels of `class_locations.LABEL`, several for a region."""
    return [int(label) for label in name.partition(".")[2].split(",")]


def _label(name: str) -> int | tuple[int, ...] | None:
    """Return the label, or the labels of a region, of `class_locations.LABEL`, as nnU-Net has them; None for others."""
    if not re.fullmatch(rf"{LOCATIONS}\.-?[0-9]{{1,5}}(,-?[0-9]{{1,5}})*", name):
        return None
    labels = tuple(_labels(name))
    return labels if len(labels) > 1 else labels[0]


def _plain(value: Any) -> Any:
    """Return numpy's numbers and arrays in dicts, lists and tuples as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
