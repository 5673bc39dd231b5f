"""Keeping padding recognizable through the augmentation.

nnU-Net pads with exact 0. Intensity transforms change that value, and afterwards padding cannot be told from tissue any
more. So it is noted right after the spatial transform and written back after the last intensity transform.
"""

from typing import Any

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

PADDING = "padding"


class RecordPaddingTransform(BasicTransform):
    """Note where the image is exactly 0, per channel."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Add the bool mask `padding` of the image's shape (channels, *patch)."""
        data_dict[PADDING] = data_dict["image"] == 0
        return data_dict


class RestorePaddingTransform(BasicTransform):
    """Write exact 0 back to where `RecordPaddingTransform` found it. The patch must not have moved in between."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Fill the noted voxels and drop the note."""
        data_dict["image"] = data_dict["image"].masked_fill(data_dict.pop(PADDING), 0)
        return data_dict
