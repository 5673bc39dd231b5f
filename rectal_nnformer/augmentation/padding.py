"""Keeping padding recognizable through the augmentation.

nnU-Net pads with exact 0. Where a patch is rotated or scaled, interpolation mixes that 0 with tissue, and intensity
transforms change it; afterwards padding cannot be told from tissue any more. So the image goes through the spatial
transform with a mask of itself, from which padding is read and tissue at its edge restored, and padding is written back
after the last intensity transform.
"""

from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

PADDING = "padding"
HALF = 0.5


class CarryPaddingTransform(BasicTransform):
    """Append to the image, channel by channel, a mask that is 1 where it is not exactly 0, to be moved with it."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Replace the image (channels, *patch) by one of twice as many channels."""
        image = data_dict["image"]
        data_dict["image"] = torch.cat([image, (image != 0).to(image.dtype)])
        return data_dict


class RecordPaddingTransform(BasicTransform):
    """Take back the masks of `CarryPaddingTransform` after the spatial transform and note where padding is.

    A moved voxel is `sum(w_i v_i)` with weights `w_i` over its neighbours, and its mask the sum of the weights of those
    that are not padding. Their quotient is the interpolation between these alone, so that no voxel is a mixture of
    tissue and padding (normalized convolution: Knutsson and Westin, 1993). Where less than half of the weight is on the
    image, the voxel is padding.
    """

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Restore the image's channels and add the bool mask `padding` of its shape (channels, *patch)."""
        image, share = data_dict["image"].chunk(2)
        padding = share < HALF
        data_dict["image"] = torch.where(padding, 0, image / share)
        data_dict[PADDING] = padding
        return data_dict


class RestorePaddingTransform(BasicTransform):
    """Write exact 0 back to where `RecordPaddingTransform` found it. The patch must not have moved in between."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Fill the noted voxels and drop the note."""
        data_dict["image"] = data_dict["image"].masked_fill(data_dict.pop(PADDING), 0)
        return data_dict
