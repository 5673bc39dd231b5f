"""Tumour-aware intensity augmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.helpers.scalar_type import sample_scalar
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from rectal_nnformer.augmentation.settings import PUBLISHED_SCALE, PUBLISHED_SHIFT, Range
from rectal_nnformer.augmentation.window import Window, window_bounds
from rectal_nnformer.imaging.masks import bounding_box, find_components


class TumorIntensityTransform(BasicTransform):
    """Scale and shift the intensities of the tumour voxels alone.

    In units of the intensity window, `u = (v - low) / (high - low)`, tumour voxels become `u' = s u + o` (Rangnekar et
    al. 2026, tumour-aware augmentation). In the units of the image that is `v' = s v + low (1 - s) + o (high - low)`.
    All other voxels, and the segmentation, stay as they are.

    There is one draw of s and o for all tumour voxels of the sample or, lesion-wise, one for each 26-connected
    component in the patch, all tumour labels together. Channels are drawn independently: a tumour that is bright in
    one sequence may be bright or dark in another.

    The transform always applies; wrap it in batchgeneratorsv2's `RandomTransform` for a probability (published: 0.3).

    Args:
        intensity_window: One (low, high) per channel, in the units of the image.
        tumor_labels: Labels of the segmentation that are tumour.
        scale: Range of s, drawn uniformly; no unit. One for all channels, or a sequence of one per channel.
        shift: Range of o, drawn uniformly; in units of the window, 1 being its whole width. As `scale`.
        lesion_wise: Whether each component gets its own draw.

    Raises:
        ValueError: There is not one range per channel.

    Example:
        >>> transform = TumorIntensityTransform([(0.0, 1.0)], scale=(0.5, 0.5), shift=(0.0, 0.0))
        >>> image, segmentation = torch.ones(1, 1, 1, 3), torch.tensor([[[[0, 1, 1]]]])
        >>> transform(image=image, segmentation=segmentation)["image"].tolist()
        [[[[1.0, 0.5, 0.5]]]]
    """

    def __init__(
        self,
        intensity_window: Window,
        tumor_labels: Sequence[int] = (1,),
        scale: Range | Sequence[Range] = PUBLISHED_SCALE,
        shift: Range | Sequence[Range] = PUBLISHED_SHIFT,
        lesion_wise: bool = False,
    ) -> None:
        super().__init__()
        self.low, self.high = window_bounds(intensity_window)
        self.tumor_labels = torch.tensor(list(tumor_labels))
        self.scale = _per_channel(scale, len(intensity_window))
        self.shift = _per_channel(shift, len(intensity_window))
        self.lesion_wise = lesion_wise

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Number the regions that are drawn for in the segmentation's first channel, and draw s and o for each.

        Returns:
            `regions`, int (*patch), 0 where there is no tumour; `s` and `o`, float (channels, regions).
        """
        tumor = torch.isin(data_dict["segmentation"][0], self.tumor_labels.to(data_dict["segmentation"].dtype))
        regions = tumor.int()
        if self.lesion_wise:
            mask = tumor.cpu().numpy()
            box = bounding_box(mask)
            regions[box] = torch.from_numpy(find_components(mask[box], min_voxels=1).labels).to(tumor.device)
        number = int(regions.max())
        s, o = (_draw(ranges, number).to(tumor.device) for ranges in (self.scale, self.shift))
        return {"regions": regions, "s": s, "o": o}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Return the sample with the changed image (channels, *patch)."""
        data_dict["image"] = self._apply_to_image(data_dict["image"], **params)
        return data_dict

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        tumor = params["regions"] > 0
        region = params["regions"][tumor].long() - 1
        s, o = params["s"][:, region], params["o"][:, region]
        low, high = self.low.flatten(1), self.high.flatten(1)
        changed = img.clone()
        changed[:, tumor] = s * img[:, tumor] + low * (1 - s) + o * (high - low)
        return changed


def _per_channel(ranges: Range | Sequence[Range], num_channels: int) -> list[Range]:
    """Return one range per channel; numpy raises the ValueError."""
    return [(float(low), float(high)) for low, high in np.broadcast_to(np.asarray(ranges), (num_channels, 2))]


def _draw(ranges: Sequence[Range], number: int) -> Tensor:
    """Return float (channels, number), each row drawn uniformly from its channel's range."""
    return torch.tensor([[sample_scalar(channel) for _ in range(number)] for channel in ranges], dtype=torch.float32)
