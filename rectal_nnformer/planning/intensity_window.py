"""The intensity window of a dataset: the range of preprocessed intensities that networks see as 0 to 1.

Its bounds are the medians over the training cases of each case's 0th and 99.5th percentile after normalization: the
published percentile mode, made a property of the dataset, so that training and prediction cannot disagree. Percentiles
are taken of what nnU-Net's preprocessing normalizes, the image cropped to its nonzero region, before resampling.

A prepared channel is not normalized, and its window is known: [0, 800], which every case must keep within.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.default_normalization_schemes import NoNormalization, ZScoreNormalization
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.files import write_json
from rectal_nnformer.parallel import map_with_progress
from rectal_nnformer.planning.dataset import RawDataset
from rectal_nnformer.prepared import PREPARED_CHANNEL, PREPARED_WINDOW, within_window

FILE_NAME = "rectal_intensity_window.json"
PERCENTILES = (0.0, 99.5)

Window = list[list[float]]
"""One [low, high] per channel, in units of the normalized image."""


def load_intensity_window(dataset: RawDataset) -> dict[str, Any] | None:
    """Return the content of the dataset's window file; None where it is missing, unreadable or outdated."""
    try:
        content = json.loads((dataset.preprocessed / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if content.get("raw_signature") == dataset.signature() else None


def compute_intensity_window(dataset: RawDataset, num_processes: int) -> dict[str, Any]:
    """Measure every training case, write the window file into the preprocessed dataset and return its content.

    Keys: `window`, one [low, high] per channel; `percentiles`; `cases`, the same per case; `raw_signature`.

    Raises:
        RectalError: a case cannot be read, holds NaN, or a channel of it is constant.
    """
    signature = dataset.signature()
    prepared = dataset.prepared_channels
    jobs = [(case, files["images"], dataset.reader, prepared) for case, files in dataset.cases.items()]
    measured = map_with_progress(_measure, jobs, num_processes, "Measuring intensities")
    medians = np.median(measured, axis=0).tolist()
    window = [list(PREPARED_WINDOW) if known else found for known, found in zip(prepared, medians, strict=True)]
    content = {
        "window": window,
        "percentiles": PERCENTILES,
        "normalization": [(NoNormalization if known else ZScoreNormalization).__name__ for known in prepared],
        "cases": dict(zip(dataset.cases, measured, strict=True)),
        "raw_signature": signature,
    }
    write_json(dataset.preprocessed / FILE_NAME, content)
    return content


def _measure(job: tuple[str, list[str], type, list[bool]]) -> Window:
    return case_percentiles(*job)


def case_percentiles(case: str, images: list[str], reader: type, prepared: Sequence[bool] = ()) -> Window:
    """Return the 0th and 99.5th percentile of each channel of one case after cropping and z-score normalization.

    Args:
        case: name of the case, for error messages.
        images: its image files, one per channel.
        reader: nnU-Net's class that reads them.
        prepared: whether each channel is prepared, and so not normalized; empty if none is.

    Raises:
        RectalError: the case cannot be read, holds NaN or infinite values, a channel is constant, or a prepared one
            leaves its window.
    """
    try:
        data, _ = reader().read_images(images)
    except Exception as error:  # each reader raises its own kinds
        raise RectalError(f"Case {case}: {', '.join(images)} cannot be read: {error}") from error
    if not np.isfinite(data).all():
        raise RectalError(f"Case {case}: {', '.join(images)} hold NaN or infinite values. Replace them.")
    cropped = crop_to_nonzero(data)[0] if data.any() else data
    if any(channel.min() == channel.max() for channel in cropped):
        raise RectalError(f"Case {case}: a channel of {', '.join(images)} has the same value wherever it is not 0.")
    normalization = ZScoreNormalization(use_mask_for_norm=False, intensityproperties={})
    flags = prepared or [False] * len(cropped)
    for channel in itertools.compress(cropped, flags):
        _check_prepared(case, images, channel)
    normalized = [c if known else normalization.run(c) for c, known in zip(cropped, flags, strict=True)]
    return [np.percentile(channel, PERCENTILES).tolist() for channel in normalized]


def _check_prepared(case: str, images: list[str], channel: NDArray[np.floating]) -> None:
    low, high = PREPARED_WINDOW
    if not within_window(channel.min(), channel.max()):
        raise RectalError(
            f"Case {case}: dataset.json calls a channel of {', '.join(images)} '{PREPARED_CHANNEL}', which stands for "
            f"intensities from {low:g} to {high:g}, but they reach from {channel.min():g} to {channel.max():g}. "
            "Prepare it, or give the channel another name to have it normalized."
        )
