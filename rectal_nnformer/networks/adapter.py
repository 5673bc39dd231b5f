"""The network that nnU-Net trains and predicts with: a backbone behind intensity window, padding and axes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.smit import SMIT
from rectal_nnformer.networks.swin_unetr import SwinUNETR

NETWORK_CLASSES: dict[str, Callable[..., SMIT | SwinUNETR]] = {
    "smit": SMIT,
    "swin_unetr": SwinUNETR,
    "swin_unetr_v2": partial(SwinUNETR, use_v2=True),
}


class PlannedNetwork(nn.Module):
    """A backbone as the plans describe it, taking and returning arrays in nnU-Net's axis order and intensities.

    Three things happen before the backbone sees a patch:

    1. Intensities are mapped from the window [low, high] to [0, 1]. Outside of training they are also clamped to it;
       in training they were clamped before the augmentation, whose effect must not be cut off again.
    2. A voxel that is exactly 0 in a channel is padding and becomes black (0). A voxel is real if any of its channels
       is not exactly 0.
    3. The spatial axes are permuted to (x, y, z), in which the pretrained weights know directions, and the logits are
       permuted back.

    Args:
        in_channels: Image channels.
        out_channels: Segmentation heads.
        backbone: A key of `NETWORK_CLASSES`.
        backbone_kwargs: Keyword arguments of the backbone's constructor.
        intensity_window: One (low, high) per channel, in the units of the preprocessed data.
        spatial_axes: Permutation p such that `array.transpose(p)` has the axes (x, y, z); (2, 1, 0) for (z, y, x).

    Raises:
        RectalError: Unknown backbone, or another number of windows than channels, or an empty window.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        backbone: str,
        backbone_kwargs: Mapping[str, Any],
        intensity_window: Sequence[Sequence[float]],
        spatial_axes: Sequence[int],
    ) -> None:
        super().__init__()
        if backbone not in NETWORK_CLASSES:
            raise RectalError(
                f"The plans name the backbone '{backbone}'; known are {', '.join(sorted(NETWORK_CLASSES))}."
            )
        self.backbone_name = backbone
        self.backbone = NETWORK_CLASSES[backbone](in_channels, out_channels, **backbone_kwargs)
        low, high = _window_tensors(intensity_window, in_channels)
        self.window_low: Tensor
        self.window_high: Tensor
        # Buffers travel with every checkpoint, so a model always predicts with the window it was trained with.
        self.register_buffer("window_low", low)
        self.register_buffer("window_high", high)
        self.to_xyz = (0, 1, *(axis + 2 for axis in spatial_axes))
        self.from_xyz = tuple(int(axis) for axis in torch.argsort(torch.tensor(self.to_xyz)))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (batch, out_channels, *patch) for an image (batch, in_channels, *patch), axes as stored."""
        inputs, real_voxels = self.prepare(image)
        return self.backbone(inputs, real_voxels).permute(self.from_xyz)

    def prepare(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the backbone's input and its real voxels.

        Args:
            image: (batch, in_channels, *patch) in stored axis order and preprocessed intensities.

        Returns:
            The input (batch, in_channels, x, y, z) in units of the window, padding 0, and the real-voxel mask, bool
            (batch, 1, x, y, z).
        """
        padding = image == 0
        scaled = (image - self.window_low) / (self.window_high - self.window_low)
        if not self.training:
            scaled = scaled.clamp(0, 1)
        scaled = scaled.masked_fill(padding, 0)
        real_voxels = ~padding.all(dim=1, keepdim=True)
        return scaled.permute(self.to_xyz), real_voxels.permute(self.to_xyz)

    def set_intensity_window(self, intensity_window: Sequence[Sequence[float]]) -> None:
        """Overwrite the window, for instance after weights of another dataset were loaded together with theirs."""
        low, high = _window_tensors(intensity_window, self.window_low.shape[1])
        self.window_low.copy_(low)
        self.window_high.copy_(high)


def _window_tensors(intensity_window: Sequence[Sequence[float]], num_channels: int) -> tuple[Tensor, Tensor]:
    """Return the lower and upper bounds as (1, channels, 1, 1, 1)."""
    if len(intensity_window) != num_channels:
        raise RectalError(
            f"The plans hold {len(intensity_window)} intensity windows for {num_channels} channels. "
            "Plan the dataset again with 'rectal_nnformer plan_and_preprocess'."
        )
    bounds = torch.tensor(intensity_window, dtype=torch.float32)
    low, high = (bounds[:, i].view(1, num_channels, 1, 1, 1) for i in (0, 1))
    if not bool((low < high).all()):
        raise RectalError(f"The plans hold an empty intensity window: {intensity_window}.")
    return low, high
