"""Masks: which labels are tumour, and which connected components count as one lesion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rectal_nnformer.errors import RectalError

TUMOR_NAMES = ("tumor", "tumour", "cancer", "carcinoma", "neoplasm", "lesion", "gtv")
NEGATIONS = ("non", "peri", "no_", "no-", "not_")

MIN_VOXELS = 11
"""Components of fewer voxels are no lesions."""

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Components:
    """The components of a mask: an array that numbers them from 1, 0 elsewhere, and the smallest box around each."""

    labels: NDArray[np.int32]
    boxes: list[Box]


def find_components(mask: NDArray[Any], min_voxels: int = MIN_VOXELS) -> Components:
    """Return the 26-connected components of at least `min_voxels` of a mask with three axes.

    They are numbered in the order in which a scan along the array meets them.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    large_enough = np.bincount(labels.ravel(), minlength=1) >= min_voxels
    large_enough[0] = False
    if not large_enough[1:].all():
        labels = np.where(large_enough, large_enough.cumsum(), 0).astype(np.int32)[labels]
    return Components(labels, ndimage.find_objects(labels))


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box around everything set; one voxel if nothing is."""
    occupied = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1) for used in occupied)


def label_values(dataset_json: Mapping[str, Any], source: str) -> set[int]:
    """Return every value that a mask may hold by an nnU-Net `dataset.json`: background, labels, regions, ignore.

    Raises:
        RectalError: `labels` is of a form that nnU-Net does not take; messages name its source.
    """
    labels = dataset_json["labels"]
    remedy = 'Write it as {"background": 0, "tumor": 1}, with whole numbers, or lists of them for regions.'
    if not isinstance(labels, Mapping) or not _is_whole(background := labels.get("background")) or int(str(background)):
        raise RectalError(f"The labels of {source} have no background of the value 0, but are {labels}. {remedy}")
    values: set[int] = set()
    for name, value in labels.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if not parts or not all(map(_is_whole, parts)):
            raise RectalError(f"The label {name} of {source} is {value!r}. {remedy}")
        if name == "ignore" and (not isinstance(value, int) or value in values):
            raise RectalError(f"The label ignore of {source} is {value!r}; it must be a number of no other label.")
        values.update(map(int, parts))
    if "ignore" in labels and int(labels["ignore"]) != max(values):
        raise RectalError(f"The label ignore of {source} is {labels['ignore']}; nnU-Net needs it to be the highest.")
    classes = [value for name, value in labels.items() if name not in ("background", "ignore")]
    order = dataset_json.get("regions_class_order")
    if any(isinstance(value, list | tuple) for value in classes) and len(order or ()) != len(classes):
        raise RectalError(
            f"{source} has regions and so needs a regions_class_order of {len(classes)} numbers, but has {order}."
        )
    if sorted(values) != list(range(len(values))):
        raise RectalError(f"The labels of {source} are {sorted(values)}; nnU-Net needs 0, 1, 2 and so on without gaps.")
    return values


def _is_whole(value: object) -> bool:
    """Whether nnU-Net reads a value as a whole number from 0 on: it takes texts of digits, too."""
    return (isinstance(value, int) and not isinstance(value, bool) and value >= 0) or str(value).isdecimal()


def ignore_label(dataset_json: Mapping[str, Any]) -> int | None:
    """Return the label of voxels that are not scored in an nnU-Net `dataset.json`, as text or number; None without."""
    value = dataset_json["labels"].get("ignore")
    return None if value is None else int(value)


def tumor_labels(dataset_json: Mapping[str, Any]) -> list[int]:
    """Return the label values that mean tumour in an nnU-Net `dataset.json`, ascending.

    A label is tumour if its name contains one of `TUMOR_NAMES` and begins with none of `NEGATIONS`. Where there is no
    such name, every foreground label is.
    Region-based labels (lists of integers) count with each of their integers.
    """
    named: set[int] = set()
    foreground: set[int] = set()
    for name, value in dataset_json["labels"].items():
        if name in ("background", "ignore"):
            continue
        values = {int(v) for v in value} if isinstance(value, list | tuple) else {int(value)}
        foreground |= values
        lower = name.lower()
        if any(word in lower for word in TUMOR_NAMES) and not lower.startswith(NEGATIONS):
            named |= values
    return sorted((named or foreground) - {0})


@dataclass(frozen=True)
class TumorHeads:
    """Which outputs of a network, one per label or region, are tumour.

    Attributes:
        heads: Their indices.
        exclusive: Whether the outputs are labels, of which a voxel has one, and not regions, of which it can have some.
    """

    heads: tuple[int, ...]
    exclusive: bool


def tumor_heads(dataset_json: Mapping[str, Any]) -> TumorHeads:
    """Return which outputs are tumour; nnU-Net orders labels by number, background included, and regions as written."""
    tumor = set(tumor_labels(dataset_json))
    values = {name: value for name, value in dataset_json["labels"].items() if name != "ignore"}
    regions = [tuple(value) if isinstance(value, list | tuple) else (value,) for value in values.values()]
    if all(len(region) == 1 for region in regions):
        return TumorHeads(tuple(sorted(tumor)), exclusive=True)
    outputs = [{int(label) for label in region} for region in regions if set(map(int, region)) != {0}]
    return TumorHeads(tuple(index for index, region in enumerate(outputs) if region <= tumor), exclusive=False)
