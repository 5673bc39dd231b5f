"""Which labels of a dataset are tumour."""

from collections.abc import Mapping
from typing import Any

TUMOR_NAMES = ("tumor", "tumour", "cancer", "lesion", "gtv")


def tumor_labels(dataset_json: Mapping[str, Any]) -> list[int]:
    """Return the label values that mean tumour in an nnU-Net `dataset.json`, ascending.

    A label is tumour if its name contains one of `TUMOR_NAMES`. Where no name does, every foreground label is.
    Region-based labels (lists of integers) count with each of their integers.
    """
    named: set[int] = set()
    foreground: set[int] = set()
    for name, value in dataset_json["labels"].items():
        if name in ("background", "ignore"):
            continue
        values = {int(v) for v in value} if isinstance(value, list | tuple) else {int(value)}
        foreground |= values
        if any(word in name.lower() for word in TUMOR_NAMES):
            named |= values
    return sorted((named or foreground) - {0})
