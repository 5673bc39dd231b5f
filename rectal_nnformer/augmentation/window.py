"""Clamping to the intensity window."""

from collections.abc import Sequence

import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from torch import Tensor

Window = Sequence[Sequence[float]]


def window_bounds(intensity_window: Window) -> tuple[Tensor, Tensor]:
    """Return the lower and upper bounds of one window per channel, each (channels, 1, 1, 1), float32."""
    bounds = torch.tensor(intensity_window, dtype=torch.float32).view(-1, 2, 1, 1, 1)
    return bounds[:, 0], bounds[:, 1]


class ClampToWindowTransform(ImageOnlyTransform):
    """Clamp each channel to its intensity window.

    Args:
        intensity_window: One (low, high) per channel, in the units of the image.
    """

    def __init__(self, intensity_window: Window) -> None:
        super().__init__()
        self.low, self.high = window_bounds(intensity_window)

    def _apply_to_image(self, img: Tensor, **params: object) -> Tensor:
        """Return the clamped image (channels, *patch)."""
        return torch.clamp(img, self.low, self.high)
