"""Tumour-aware intensity augmentation."""

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.helpers.scalar_type import sample_scalar
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from rectal_nnformer.augmentation.window import Window, window_bounds


class TumorIntensityTransform(BasicTransform):
    """Scale and shift the intensities of the tumour voxels alone.

    In units of the intensity window, `u = (v - low) / (high - low)`, tumour voxels become `u' = s u + o` with one draw
    of `s` and `o` for the sample (Rangnekar et al. 2026, tumour-aware augmentation). In the units of the image that is
    `v' = s v + low (1 - s) + o (high - low)`. All other voxels, and the segmentation, stay as they are.

    The transform always applies; wrap it in batchgeneratorsv2's `RandomTransform` for a probability (published: 0.3).

    Args:
        intensity_window: one (low, high) per channel, in the units of the image.
        tumor_labels: labels of the segmentation that are tumour.
        scale: range of s, drawn uniformly; no unit.
        shift: range of o, drawn uniformly; in units of the window, 1 being its whole width.
    """

    def __init__(
        self,
        intensity_window: Window,
        tumor_labels: Sequence[int] = (1,),
        scale: tuple[float, float] = (0.5, 1.5),
        shift: tuple[float, float] = (-0.2, 0.2),
    ) -> None:
        super().__init__()
        self.low, self.high = window_bounds(intensity_window)
        self.tumor_labels = torch.tensor(list(tumor_labels))
        self.scale = scale
        self.shift = shift

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Draw s and o, and find the tumour voxels, bool (*patch), in the segmentation's first channel."""
        return {
            "s": sample_scalar(self.scale),
            "o": sample_scalar(self.shift),
            "tumor": torch.isin(data_dict["segmentation"][0], self.tumor_labels.to(data_dict["segmentation"].dtype)),
        }

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Return the sample with the changed image (channels, *patch)."""
        data_dict["image"] = self._apply_to_image(data_dict["image"], **params)
        return data_dict

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        s, o = params["s"], params["o"]
        changed = s * img + self.low * (1 - s) + o * (self.high - self.low)
        return torch.where(params["tumor"], changed, img)
