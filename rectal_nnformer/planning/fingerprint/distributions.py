"""How sizes and appearance are spread over a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rectal_nnformer.planning.fingerprint.record import Case, Lesion

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def describe_dataset(cases: Mapping[str, Case]) -> dict[str, Any]:
    """Return counts and distributions over the cases and over all lesions; see `percentiles` for the latter's form."""
    records = cases.values()
    lesions = [lesion for case in records for lesion in case["lesions"]]
    extents = [lesion["extent_mm"] for lesion in lesions]
    return {
        "num_cases": len(cases),
        "num_lesions": len(lesions),
        "lesions_per_case": percentiles([len(case["lesions"]) for case in records]),
        "spacing_mm": _per_axis([case["spacing_mm"] for case in records]),
        "field_of_view_mm": _per_axis([case["field_of_view_mm"] for case in records]),
        "cropped_extent_mm": _per_axis([case["cropped_extent_mm"] for case in records]),
        "empty_border_share": percentiles([case["empty_border_share"] for case in records]),
        "lesion_volume_cm3": percentiles([lesion["volume_cm3"] for lesion in lesions]),
        "lesion_extent_mm": _per_axis(extents),
        "max_lesion_extent_mm": np.max(extents, axis=0).tolist() if extents else None,
        "appearance": _per_channel(lesions),
    }


def percentiles(values: ArrayLike) -> dict[str, float] | None:
    """Return the percentiles 0, 5, 25, 50, 75, 95 and 100 by their number; None of nothing."""
    array = np.asarray(values, dtype=float)
    if not array.size:
        return None
    return {str(key): float(value) for key, value in zip(PERCENTILES, np.percentile(array, PERCENTILES), strict=True)}


def _per_axis(values: Sequence[Sequence[float]]) -> dict[str, dict[str, float] | None]:
    return {axis: percentiles([value[index] for value in values]) for index, axis in enumerate("xyz")}


def _per_channel(lesions: Sequence[Lesion]) -> list[dict[str, dict[str, float] | None]]:
    channels = zip(*(lesion["channels"] for lesion in lesions), strict=True)
    return [
        {
            "mean": percentiles([found["inside"]["mean"] for found in channel]),
            "spread": percentiles([found["inside"]["spread"] for found in channel]),
            "contrast": percentiles([c for found in channel if (c := found["contrast"]) is not None]),
            "boundary_gradient": percentiles([g for found in channel if (g := found["boundary_gradient"]) is not None]),
        }
        for channel in channels
    ]
