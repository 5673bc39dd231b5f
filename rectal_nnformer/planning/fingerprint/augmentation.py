"""Ranges of the tumour-aware augmentation that reproduce how the lesions of a dataset differ."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rectal_nnformer.augmentation.settings import PLANNED, PUBLISHED, published_channels
from rectal_nnformer.errors import RectalError
from rectal_nnformer.planning.fingerprint.record import Fingerprint

COVERED_PERCENTILES = (5, 95)
MIN_LESIONS = 5
"""Fewer lesions tell no percentile."""
MIN_MEDIAN = 0.05
"""A median lesion mean, in units of the window, below which ratios to it mean nothing."""


def planned_augmentation(fingerprint: Fingerprint) -> dict[str, Any]:
    """Return the ranges of scale s and shift o in `u' = s u + o`, per channel, that a dataset's lesions call for.

    With lesion means m_i, their median M and ratios r_i = m_i / M, a lesion that looks like the median one becomes
    like lesion i by s = r_i alone or by o = m_i - M alone. Taking both ranges in full would draw means of twice the
    variance observed, since s and o are drawn independently: Var(s M + o) = M^2 Var(s) + Var(o). So each takes half of
    the variance, that is its deviation from 1 or 0 divided by the square root of 2. The combined range of
    (s M + o) / M then covers the 5th to 95th percentile of the ratios; a uniform draw between these percentiles has
    0.95 times the standard deviation of a normal distribution that has them.

    Means are clamped to the window, since the transform sees clamped intensities. Lesions of cases that are named as
    outliers are left out.

    Returns:
        `channels`, with `scale` and `shift` as [low, high] and `median`, M, each; `num_lesions`.

    Raises:
        RectalError: There are fewer than 5 lesions, or they are as dark as the window's lower end.
    """
    suspected = {outlier["case"] for outlier in fingerprint["outliers"]}
    lesions = [
        lesion for name, case in fingerprint["cases"].items() if name not in suspected for lesion in case["lesions"]
    ]
    if len(lesions) < MIN_LESIONS:
        raise RectalError(
            f"Augmentation ranges cannot be planned from {len(lesions)} lesions outside suspected masks; "
            f"{MIN_LESIONS} are needed. Use '--tumor-augmentation published'."
        )
    channels = []
    for channel, name in enumerate(fingerprint["channels"]):
        means = np.clip([lesion["channels"][channel]["inside"]["mean"] for lesion in lesions], 0, 1)
        median = float(np.median(means))
        if median < MIN_MEDIAN:
            raise RectalError(
                f"Augmentation ranges cannot be planned for channel {name}: the median lesion lies at {median:.2f} of "
                "the intensity window, where ratios mean nothing. Use '--tumor-augmentation published'."
            )
        scale, shift = augmentation_ranges(means)
        channels.append({"name": name, "scale": scale, "shift": shift, "median": median})
    return {"channels": channels, "num_lesions": len(lesions)}


def plan_augmentation(fingerprint: Fingerprint, ranges: str, lesion_wise: bool) -> dict[str, Any]:
    """Return the tumour-aware augmentation in the form in which plans hold it, with one draw per lesion or sample.

    The ranges are "published", or "planned" from the fingerprint.

    Raises:
        RectalError: The ranges are neither "published" nor "planned", or cannot be planned.
    """
    if ranges not in (PUBLISHED, PLANNED):
        raise RectalError(f"Tumour augmentation is '{PUBLISHED}' or '{PLANNED}', not '{ranges}'.")
    published = {"channels": published_channels(fingerprint["channels"])}
    planned = published if ranges == PUBLISHED else planned_augmentation(fingerprint)
    return {"ranges": ranges, "lesion_wise": lesion_wise, **planned}


def augmentation_ranges(lesion_means: ArrayLike) -> tuple[list[float], list[float]]:
    """Return the ranges of s and o for the mean of each lesion in units of the window, of a positive median.

    See `planned_augmentation` for their derivation.
    """
    means = np.asarray(lesion_means, dtype=float)
    median = np.median(means)
    deviations = (np.percentile(means, COVERED_PERCENTILES) - median) / np.sqrt(2)
    return (1 + deviations / median).tolist(), deviations.tolist()
