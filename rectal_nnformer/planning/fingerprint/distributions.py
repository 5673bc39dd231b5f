"""How sizes and appearance are spread over a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
APPEARANCE = ("mean", "spread", "contrast", "boundary_gradient")
"""What of a lesion's intensities is described, per channel."""


def describe_dataset(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts and distributions over the cases and over all lesions; see `percentiles` for the latter's form.

    Args:
        cases: Records of the cases, intensities in units of the window.
    """
    lesions = [lesion for case in cases.values() for lesion in case["lesions"]]
    return {
        "num_cases": len(cases),
        "num_lesions": len(lesions),
        "lesions_per_case": percentiles([len(case["lesions"]) for case in cases.values()]),
        "spacing_mm": _per_axis([case["spacing_mm"] for case in cases.values()]),
        "field_of_view_mm": _per_axis([case["field_of_view_mm"] for case in cases.values()]),
        "cropped_extent_mm": _per_axis([case["cropped_extent_mm"] for case in cases.values()]),
        "empty_border_share": percentiles([case["empty_border_share"] for case in cases.values()]),
        "lesion_volume_cm3": percentiles([lesion["volume_cm3"] for lesion in lesions]),
        "lesion_extent_mm": _per_axis([lesion["extent_mm"] for lesion in lesions]),
        "max_lesion_extent_mm": np.max([lesion["extent_mm"] for lesion in lesions], axis=0).tolist()
        if lesions
        else None,
        "appearance": _per_channel(lesions),
    }


def percentiles(values: ArrayLike) -> dict[str, float] | None:
    """Return the percentiles 0, 5, 25, 50, 75, 95 and 100 by their number; None of nothing."""
    array = np.asarray(values, dtype=float)
    if not array.size:
        return None
    return {str(key): float(value) for key, value in zip(PERCENTILES, np.percentile(array, PERCENTILES), strict=True)}


def appearance_value(lesion: Mapping[str, Any], channel: int, key: str) -> float | None:
    """Return one of `APPEARANCE` of a lesion in a channel; None where it could not be measured."""
    intensities = lesion["channels"][channel]
    value = intensities["inside"][key] if key in ("mean", "spread") else intensities[key]
    return None if value is None else float(value)


def _per_axis(values: Sequence[Sequence[float]]) -> dict[str, dict[str, float] | None]:
    return {axis: percentiles([value[index] for value in values]) for index, axis in enumerate("xyz")}


def _per_channel(lesions: Sequence[Mapping[str, Any]]) -> list[dict[str, dict[str, float] | None]]:
    num_channels = len(lesions[0]["channels"]) if lesions else 0
    return [
        {
            key: percentiles([v for v in (appearance_value(les, channel, key) for les in lesions) if v is not None])
            for key in APPEARANCE
        }
        for channel in range(num_channels)
    ]
