"""How the intensities of a channel are normalized: z-scored by volume, or left alone where they were prepared."""

from collections.abc import Sequence

import numpy as np
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    ImageNormalization,
    NoNormalization,
    ZScoreNormalization,
)
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prescaled import PREPARED_CHANNEL, PREPARED_WINDOW, within_window

Window = list[list[float]]
"""One [low, high] per channel, in units of the normalized image."""


def normalization_scheme(prepared: bool) -> type[ImageNormalization]:
    """Return nnU-Net's normalization of a channel."""
    return NoNormalization if prepared else ZScoreNormalization


def normalize(case: str, channel: NDArray[np.floating], prepared: bool) -> NDArray[np.floating]:
    """Return a channel (z, y, x) of a case as nnU-Net's preprocessing normalizes it.

    Raises:
        RectalError: The channel is called prepared, but its intensities are not those of a prepared volume.
    """
    low, high = PREPARED_WINDOW
    if prepared and not within_window(channel.min(), channel.max()):
        raise RectalError(
            f"Case {case}: dataset.json calls a channel '{PREPARED_CHANNEL}', which stands for intensities from "
            f"{low:g} to {high:g}, but they reach from {channel.min():g} to {channel.max():g}. Prepare it, or give the "
            "channel another name to have it normalized."
        )
    return normalization_scheme(prepared)(use_mask_for_norm=False, intensityproperties={}).run(channel)


def with_known_windows(measured: Window, prepared: Sequence[bool]) -> Window:
    """Return measured windows, those of prepared channels replaced by the window of preparation."""
    return [list(PREPARED_WINDOW) if known else window for known, window in zip(prepared, measured, strict=True)]
