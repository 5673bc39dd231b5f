"""Which labels of a dataset are tumour."""

from collections.abc import Mapping
from typing import Any

TUMOR_NAMES = ("tumor", "tumour", "cancer", "carcinoma", "neoplasm", "lesion", "gtv")
NEGATIONS = ("non", "peri", "no_", "no-", "not_")


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
