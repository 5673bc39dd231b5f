"""The intensity window of a dataset: the range of preprocessed intensities that networks see as 0 to 1.

Its bounds are the medians over the training cases of each case's 0th and 99.5th percentile after normalization: the
published percentile mode, made a property of the dataset, so that training and prediction cannot disagree. Percentiles
are taken of what nnU-Net's preprocessing normalizes, the image cropped to its nonzero region, before resampling.
The window of a prepared channel, which is not normalized, is known: [0, 800].
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

from rectal_nnformer.errors import RectalError
from rectal_nnformer.files import write_json
from rectal_nnformer.parallel import map_with_progress
from rectal_nnformer.planning.dataset import RawDataset
from rectal_nnformer.planning.normalization import Window, normalization_scheme, normalize, with_known_windows

FILE_NAME = "rectal_intensity_window.json"
PERCENTILES = (0.0, 99.5)


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
    window = with_known_windows(np.median(measured, axis=0).tolist(), prepared)
    content = {
        "window": window,
        "percentiles": PERCENTILES,
        "normalization": [normalization_scheme(known).__name__ for known in prepared],
        "cases": dict(zip(dataset.cases, measured, strict=True)),
        "raw_signature": signature,
    }
    write_json(dataset.preprocessed / FILE_NAME, content)
    return content


def _measure(job: tuple[str, list[str], type, list[bool]]) -> Window:
    return case_percentiles(*job)


def case_percentiles(case: str, images: list[str], reader: type, prepared: Sequence[bool]) -> Window:
    """Return the 0th and 99.5th percentile of each channel of one case after cropping and normalization.

    Args:
        case: name of the case, for error messages.
        images: its image files, one per channel.
        reader: nnU-Net's class that reads them.
        prepared: whether each channel is prepared, and so not normalized.

    Raises:
        RectalError: the case cannot be read, holds NaN or infinite values, a channel is constant, or a prepared one is
            none.
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
    channels = zip(cropped, prepared, strict=True)
    return [np.percentile(normalize(case, channel, known), PERCENTILES).tolist() for channel, known in channels]
