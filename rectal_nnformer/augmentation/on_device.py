"""nnU-Net's training transforms on the device that trains.

On a computer with few cores the background workers, which augment, keep a fast GPU waiting. Here they only crop, and
the same transforms, with the same draws, run on the GPU.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor
from torch.nn.functional import grid_sample

from rectal_nnformer.errors import RectalError

VARIABLE = "nnUNet_augment_on_device"
YES = ("true", "1", "t")
"""What nnU-Net takes for yes in its own variables."""


def is_on_device_wanted() -> bool:
    """Return whether the environment asks for augmentation on the device that trains."""
    return os.environ.get(VARIABLE, "").lower() in YES


class DeviceAugmentation:
    """Applies training transforms to batches on a device, sample by sample.

    The transforms are nnU-Net's and this project's own objects, but for two: the grid of the spatial transform is made,
    and the segmentation resampled, on the device; and the blur always convolves, where nnU-Net times once whether a
    Fourier transform is faster. Random numbers are drawn in the same order, so that on a CPU the result is that of the
    background workers; a GPU draws the noise by its own generator.

    Args:
        transforms: The whole training pipeline, see `extend_training_transforms`.
        device: Where batches are augmented.

    Raises:
        RectalError: The pipeline deforms elastically, which nnU-Net does on the CPU.
    """

    def __init__(self, transforms: ComposeTransforms, device: torch.device) -> None:
        self.device = device
        self.transforms = [_moved(transform, device) for transform in transforms.transforms]

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch whose crops `data` (batch, channels, *crop) and `target` are augmented patches."""
        images, segmentations = (batch[key].to(self.device, non_blocking=True) for key in ("data", "target"))
        samples = [
            self._augment({"image": image, "segmentation": segmentation})
            for image, segmentation in zip(images, segmentations, strict=True)
        ]
        data, target = (torch.stack([sample[key] for sample in samples]) for key in ("image", "segmentation"))
        return {**batch, "data": data, "target": target}

    def _augment(self, sample: dict[str, Any]) -> dict[str, Any]:
        for transform in self.transforms:
            if isinstance(transform, RandomTransform):
                if not transform.get_parameters()["apply_transform"]:
                    continue
                transform = transform.transform
            parameters = transform.get_parameters(**sample)
            with self.device:  # where a transform makes tensors without saying where
                sample = transform.apply(sample, **parameters)
        return sample


class DeviceSpatialTransform(SpatialTransform):
    """nnU-Net's spatial transform for tensors on any device, with the same draws and the same result."""

    def __init__(self, stock: SpatialTransform) -> None:
        self.__dict__.update(vars(stock))
        if stock.p_elastic_deform:
            raise RectalError(f"Elastic deformation is not done on the device. Unset {VARIABLE}.")
        if stock.mode_seg == "nearest" or stock.seg_tiebreak != "nearest" or stock.border_mode_seg != "constant":
            raise RectalError(f"Only nnU-Net's way to resample segmentations is done on the device. Unset {VARIABLE}.")
        self._draws = copy.copy(stock)
        self._draws.patch_size = (1,) * len(stock.patch_size)  # of its grid nothing is used
        self._draws._grid_cache = {}

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Return what nnU-Net's transform draws, and the `grid` (*patch, axes) on the image's device, or None."""
        image = data_dict["image"]
        parameters = self._draws.get_parameters(**data_dict)
        if parameters["grid"] is None:
            return parameters
        shape = image.shape[1:]
        axes = [torch.linspace((1 - size) / 2, (size - 1) / 2, size, device=image.device) for size in self.patch_size]
        grid = torch.stack(torch.meshgrid(axes, indexing="ij"), -1)
        grid = grid @ torch.from_numpy(parameters["affine"].T).float().to(image.device)
        center = zip(parameters["center_location_in_pixels"], shape, strict=True)
        grid += torch.tensor([at - size / 2 for at, size in center], device=image.device)
        grid /= torch.tensor([size / 2 for size in shape], device=image.device)
        return {**parameters, "grid": grid.flip(-1)}

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        """Return, of each voxel, the label of the largest interpolated share; the nearest label where shares tie."""
        if params["grid"] is None:
            return super()._apply_to_segmentation(segmentation, **params)
        return torch.stack([self._resampled(channel, params["grid"]) for channel in segmentation])

    def _resampled(self, labels: Tensor, grid: Tensor) -> Tensor:
        """Resample one channel (*crop), around which lies the padding label."""
        padding = labels.new_tensor([self.padding_value_seg])
        values = torch.cat([labels.flatten(), padding]).unique()
        of_value = values.view(-1, *(1,) * labels.ndim)
        # Outside, a sample is 0: so the shares of the padding label are counted from 1 down. In half precision, as
        # nnU-Net has it, in which 1000 times a share that is a tie but for rounding is a tie.
        outside = (of_value == padding).float()
        shares = self._sampled((labels == of_value).float() - outside, grid, self.mode_seg, scale=1000)
        shares = (shares + 1000 * outside.view(-1, *(1,) * labels.ndim)).half()
        nearest = self._sampled((labels - padding)[None].float(), grid, "nearest")[0].to(labels.dtype) + padding
        of_nearest = shares.gather(0, torch.searchsorted(values, nearest)[None])[0]
        return torch.where(of_nearest == shares.amax(0), nearest, values[shares.argmax(0)])

    def _sampled(self, image: Tensor, grid: Tensor, mode: str, scale: float = 1) -> Tensor:
        return grid_sample(
            (scale * image)[None], grid[None], mode=mode, padding_mode="zeros", align_corners=self.align_corners
        )[0]


def _moved(transform: BasicTransform, device: torch.device) -> BasicTransform:
    """Return a transform whose tensors are on the device."""
    if isinstance(transform, RandomTransform):
        return RandomTransform(_moved(transform.transform, device), transform.apply_probability)
    if isinstance(transform, SpatialTransform):
        return DeviceSpatialTransform(transform)
    moved = copy.copy(transform)
    for name, value in vars(moved).items():
        setattr(moved, name, _tensors_moved(value, device))
    if isinstance(moved, GaussianBlurTransform):
        moved.benchmark = False
    return moved


def _tensors_moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(part, Tensor) for part in value):
        return [_tensors_moved(part, device) for part in value]
    return value
