"""Which tumour-aware augmentation plans ask for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.plans import Plans

Range = tuple[float, float]

PUBLISHED_SCALE: Range = (0.5, 1.5)
PUBLISHED_SHIFT: Range = (-0.2, 0.2)
PUBLISHED, PLANNED = "published", "planned"
AUGMENTATION_KEY = "augmentation"
"""Where in the planner's record the augmentation stands."""


@dataclass(frozen=True)
class TumorAugmentation:
    """Ranges of the tumour-aware augmentation `u' = s u + o`, in units of the intensity window: scale s, shift o.

    There is one of each per channel. `ranges` is "published" or "planned"; lesion-wise, each lesion in a patch gets its
    own draw.
    """

    ranges: str
    scale: tuple[Range, ...]
    shift: tuple[Range, ...]
    lesion_wise: bool = False

    def __str__(self) -> str:
        """Return the settings in words."""
        channels = [
            f"scale {s_low:.2f} to {s_high:.2f}, shift {o_low:+.2f} to {o_high:+.2f}"
            for (s_low, s_high), (o_low, o_high) in zip(self.scale, self.shift, strict=True)
        ]
        draws = "one draw per lesion" if self.lesion_wise else "one draw per sample"
        return f"{'; '.join(channels)} ({self.ranges}, {draws})"


def published_channels(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the published ranges for each channel, in the form in which plans hold them."""
    return [{"name": name, "scale": list(PUBLISHED_SCALE), "shift": list(PUBLISHED_SHIFT)} for name in names]


def published_augmentation(num_channels: int) -> TumorAugmentation:
    """Return the published ranges for all channels, one draw per sample."""
    return TumorAugmentation(PUBLISHED, (PUBLISHED_SCALE,) * num_channels, (PUBLISHED_SHIFT,) * num_channels)


def augmentation_of_plans(plans: Plans, num_channels: int) -> TumorAugmentation:
    """Return the augmentation that plans ask for; the published one, by sample, where they say nothing.

    There is one range of scale and of shift for each of the image's `num_channels`.

    Raises:
        RectalError: The plans' ranges are not one [low, high] per channel, or a scale is not positive.
    """
    record = plans.record.get(AUGMENTATION_KEY)
    if record is None:
        return published_augmentation(num_channels)
    try:
        scale, shift = (tuple(_range(channel[key]) for channel in record["channels"]) for key in ("scale", "shift"))
        valid = len(scale) == num_channels and all(low > 0 for low, _ in scale)
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise RectalError(
            f"The plans '{plans.name}' hold tumour augmentation ranges that cannot be used: "
            f"{record.get('channels')}. {num_channels} channels need one 'scale' above 0 and one 'shift' each, as "
            "[low, high]. Plan the dataset again."
        )
    return TumorAugmentation(record["ranges"], scale, shift, bool(record["lesion_wise"]))


def _range(values: Sequence[float]) -> Range:
    low, high = (float(value) for value in values)
    if not low <= high:
        raise ValueError(f"{low} is above {high}")
    return low, high
