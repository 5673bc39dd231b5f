"""The intensity window of a dataset: the range of preprocessed intensities that networks see as 0 to 1.

Its bounds are the medians over the training cases of each case's 0th and 99.5th percentile after normalization: the
published percentile mode, made a property of the dataset, so that training and prediction cannot disagree. Percentiles
are taken of what nnU-Net's preprocessing normalizes, the image cropped to its nonzero region, before resampling.
The window of a prepared channel, which is not normalized, is known: [0, 800].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    ImageNormalization,
    NoNormalization,
    ZScoreNormalization,
)
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import Box
from rectal_nnformer.imaging.prepared import PREPARED_CHANNEL, PREPARED_WINDOW, within_window
from rectal_nnformer.nnunet.names import WINDOW_FILE
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.utils.files import read_json_if_whole, write_json

PERCENTILES = (0.0, 99.5)

Window = list[list[float]]
"""One [low, high] per channel, in units of the normalized image."""


def load_intensity_window(dataset: TrainingDataset) -> Window | None:
    """Return the window of a dataset; None where its file is missing, unreadable or outdated."""
    content = read_json_if_whole(dataset.preprocessed.path / WINDOW_FILE) or {}
    try:
        window = TypeAdapter(list[list[FiniteFloat]]).validate_python(content.get("window"))
    except ValidationError:
        return None
    return window if content.get("raw_signature") == dataset.signature() else None


def write_intensity_window(dataset: TrainingDataset, measured: dict[str, Window], signature: str) -> Window:
    """Write the window file into the preprocessed dataset and return the window.

    It is given `case_percentiles` of each case, by its name, and the dataset's signature before it was measured.
    """
    prepared = dataset.prepared_channels
    medians = np.median(list(measured.values()), axis=0).tolist()
    window = [list(PREPARED_WINDOW) if known else found for known, found in zip(prepared, medians, strict=True)]
    content = {
        "window": window,
        "percentiles": PERCENTILES,
        "normalization": [normalization_scheme(known).__name__ for known in prepared],
        "cases": measured,
        "raw_signature": signature,
    }
    write_json(dataset.preprocessed.path / WINDOW_FILE, content)
    return window


@dataclass(frozen=True)
class NormalizedImage:
    """A case as nnU-Net's preprocessing normalizes it, before resampling.

    Attributes:
        data: Float32 (channels, z, y, x), cropped to the nonzero region and normalized per channel.
        inside: Bool (z, y, x) of the same crop, False for the zeros around the image.
        box: Where the crop lies in the file's array (z, y, x).
        shape: Voxels (z, y, x) of the file's array.
        spacing: mm (z, y, x).
    """

    data: NDArray[np.float32]
    inside: NDArray[np.bool_]
    box: Box
    shape: tuple[int, ...]
    spacing: tuple[float, ...]


def read_normalized(case: str, images: list[str], reader: type, prepared: Sequence[bool]) -> NormalizedImage:
    """Read one case, crop it to its nonzero region and normalize each channel, as nnU-Net's preprocessing does.

    There is one image file per channel; prepared channels are not normalized.

    Raises:
        RectalError: The case cannot be read, holds NaN or infinite values, a channel is constant, or a prepared one is
            none.
    """
    try:
        data, properties = reader().read_images(images)
    except Exception as error:  # each reader raises its own kinds
        raise RectalError(f"Case {case}: {', '.join(images)} cannot be read: {error}") from error
    if not np.isfinite(data).all():
        raise RectalError(f"Case {case}: {', '.join(images)} hold NaN or infinite values. Replace them.")
    cropped, outside, bounds = crop_to_nonzero(data) if data.any() else (data, data, ())
    if any(channel.min() == channel.max() for channel in cropped):
        raise RectalError(
            f"Case {case}: a channel of {', '.join(images)} has the same value wherever it is not 0. Replace it, or "
            "take the case away."
        )
    low, high = PREPARED_WINDOW
    normalized = []
    for channel, known in zip(cropped, prepared, strict=True):
        if known and not within_window(channel.min(), channel.max()):
            raise RectalError(
                f"Case {case}: dataset.json calls a channel '{PREPARED_CHANNEL}', which stands for intensities from "
                f"{low:g} to {high:g}, but they reach from {channel.min():g} to {channel.max():g}. Prepare it, or give "
                "the channel another name to have it normalized."
            )
        scheme = normalization_scheme(known)(use_mask_for_norm=False, intensityproperties={})
        normalized.append(scheme.run(channel))
    return NormalizedImage(
        data=np.stack(normalized),
        inside=outside[0] == 0,
        box=tuple(slice(int(start), int(stop)) for start, stop in bounds),
        shape=data.shape[1:],
        spacing=tuple(float(s) for s in properties["spacing"]),
    )


def case_percentiles(image: NormalizedImage) -> Window:
    """Return the 0th and 99.5th percentile of each channel of a case."""
    return [np.percentile(channel, PERCENTILES).tolist() for channel in image.data]


def normalization_scheme(prepared: bool) -> type[ImageNormalization]:
    """Return nnU-Net's normalization of a channel."""
    return NoNormalization if prepared else ZScoreNormalization
