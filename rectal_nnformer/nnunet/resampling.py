"""nnU-Net's resampling of images and segmentations, several times as fast, where plans want it linear.

nnU-Net resamples in double precision on one core, and of a segmentation every label everywhere. Here PyTorch multiplies
an image by one matrix per axis, and labels are compared where more than one lies around a voxel.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.preprocessing.resampling.no_resampling import no_resampling_hack
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from numpy.typing import NDArray
from torch import Tensor


class FastResampling(ConfigurationManager):
    """A plan's configuration whose images and segmentations are resampled here where it wants them linear.

    For nnU-Net's preprocessing, which takes the functions from its configuration. Images differ from nnU-Net's by
    rounding to float32; segmentations, and what plans want otherwise, do not.

    Args:
        configuration: The plan's configuration, as in its file.
        segmentations: False leaves them as they are, where none is needed: nnU-Net resamples an empty one.
    """

    def __init__(self, configuration: dict[str, Any], segmentations: bool = True) -> None:
        super().__init__(configuration)
        self.segmentations = segmentations

    @property
    def resampling_fn_data(self) -> Callable[..., NDArray[np.float32]]:
        """Return what resamples an image (channel, *axes) to a shape, given it and both spacings."""
        return self._resample_image

    @property
    def resampling_fn_seg(self) -> Callable[..., NDArray[Any]]:
        """Return what resamples a segmentation (channel, *axes), given the same."""
        return self._resample_segmentation if self.segmentations else no_resampling_hack

    def _resample_image(self, image: NDArray[np.float32], *target: Sequence[float]) -> NDArray[np.float32]:
        shape, *spacings = target
        orders = interpolation_orders(self.configuration, "data", *spacings)
        if orders is None:
            return super().resampling_fn_data(image, *target)
        return resample_image(image, list(map(int, shape)), orders)

    def _resample_segmentation(self, segmentation: NDArray[Any], *target: Sequence[float]) -> NDArray[Any]:
        shape, *spacings = target
        if interpolation_orders(self.configuration, "seg", *spacings) is None:
            return super().resampling_fn_seg(segmentation, *target)
        return np.stack([resample_labels_linearly(labels, list(map(int, shape))) for labels in segmentation])


def interpolation_orders(
    configuration: Mapping[str, Any], what: str, spacing: Sequence[float], new_spacing: Sequence[float]
) -> list[int] | None:
    """Return the order of interpolation along each axis by which a plan has an array resampled: 0 or 1.

    None if the plan names another function than nnU-Net's default, or splines, or wants thick slices of a segmentation
    apart, whose labels are then chosen twice.

    Args:
        configuration: The plan's configuration.
        what: "data", "seg" or "probabilities".
        spacing: Of the array, mm along its axes.
        new_spacing: Of the result.
    """
    options = dict(configuration[f"resampling_fn_{what}_kwargs"])
    known = {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}
    named = configuration[f"resampling_fn_{what}"] == resample_data_or_seg_to_shape.__name__
    order, order_z = options.get("order", 3), options.get("order_z", 0)
    if (
        not named
        or options.get("is_seg", False) != (what == "seg")
        or set(options) - known
        or order != 1
        or order_z not in (0, 1)
    ):
        return None
    threshold = {key: options[key] for key in ("separate_z_anisotropy_threshold",) if key in options}
    _, apart = determine_do_sep_z_and_axis(options.get("force_separate_z", False), spacing, new_spacing, **threshold)
    if what == "seg" and apart is not None:
        return None
    return [order_z if axis == apart else order for axis in range(len(spacing))]


def interpolation_matrix(size: int, new_size: int, order: int) -> NDArray[np.float64]:
    """Return the matrix (new_size, size) that interpolates along an axis.

    Centres of voxels are at (i + 1/2) / size of the axis, and the border continues outwards: skimage's `resize` with
    the mode "edge", and scipy's `map_coordinates` with "nearest" as nnU-Net calls it. Order 1 is linear, 0 the nearest
    voxel, the upper one halfway. Rows are weights: not negative, at most two, with a sum of 1.
    """
    position = _positions(size, new_size).clip(0, size - 1)
    lower = np.floor(position if order else position + 0.5).astype(int)
    upper_weight = (position - lower) * order
    matrix = np.zeros((new_size, size))
    rows = np.arange(new_size)
    matrix[rows, lower] = 1 - upper_weight
    matrix[rows, (lower + 1).clip(max=size - 1)] += upper_weight
    return matrix


def _positions(size: int, new_size: int) -> NDArray[np.float64]:
    """Return where the voxels of a new axis lie on the old, in voxels from its first centre."""
    return np.asarray(size / new_size * (np.arange(new_size) + 0.5) - 0.5, dtype=np.float64)


def resample_image(image: NDArray[np.float32], shape: Sequence[int], orders: Sequence[int]) -> NDArray[np.float32]:
    """Return an image (channel, *axes) of another shape, interpolated with `orders` of 0 or 1 along the axes."""
    sizes = zip(image.shape[1:], map(int, shape), orders, strict=True)
    matrices = [torch.from_numpy(interpolation_matrix(*axis)).float() for axis in sizes]
    return interpolate(torch.from_numpy(image), matrices).contiguous().numpy()


def resample_labels_linearly(labels: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Return labels (*axes) of another shape, each voxel's the one with the largest share by linear interpolation.

    Where shares are equal it is the nearest voxel's label, if that is one of them, else the smallest. The result is
    that of batchgenerators' `resize_segmentation` with the order 1, down to its ties: shares are summed in the order in
    which scipy's `zoom` sums them, voxel by voxel, but only where labels differ. Beyond the outermost centres it sums
    two shares of one voxel.
    """
    positions = [_positions(*sizes) for sizes in zip(labels.shape, shape, strict=True)]
    lower = [np.floor(position).astype(int) for position in positions]
    ends = [(low.clip(min=0), (low + 1).clip(max=size - 1)) for low, size in zip(lower, labels.shape, strict=True)]
    smallest = largest = labels
    for axis, (low, high) in enumerate(ends):
        smallest = np.minimum(smallest.take(low, axis), smallest.take(high, axis))
        largest = np.maximum(largest.take(low, axis), largest.take(high, axis))
    between = (smallest != largest).nonzero()
    fractions = [(position - low)[at] for position, low, at in zip(positions, lower, between, strict=True)]
    weights = [(1 - fraction, 1 - (1 - fraction)) for fraction in fractions]  # as scipy: together 1
    corners = []
    for corner in product((0, 1), repeat=len(ends)):
        share = np.ones(len(between[0]))
        for axis, side in enumerate(corner):
            share *= weights[axis][side]
        corners.append((labels[tuple(ends[axis][side][between[axis]] for axis, side in enumerate(corner))], share))
    halfway_up = [
        np.floor(position + 0.5).astype(int).clip(0, size - 1)[at]
        for position, size, at in zip(positions, labels.shape, between, strict=True)
    ]
    smallest[between] = _largest_share(corners, labels[tuple(halfway_up)])
    return smallest


def _largest_share(corners: Sequence[tuple[NDArray[Any], NDArray[np.float64]]], nearest: NDArray[Any]) -> NDArray[Any]:
    """Return, of each voxel, the label of the largest share, given label and weight of the voxels around it."""
    winner, best, of_nearest = nearest.copy(), np.zeros(len(nearest)), np.zeros(len(nearest))
    for label in np.unique([around for around, _ in corners]):
        share = np.zeros(len(nearest))
        for around, weight in corners:
            share += np.where(around == label, weight, 0)
        winner[share > best] = label
        np.maximum(best, share, out=best)
        np.copyto(of_nearest, share, where=nearest == label)
    return np.where(of_nearest == best, nearest, winner)


def interpolate(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Return values (channel, *axes), each axis multiplied by a matrix (new_size, size), the shrinking ones first."""
    for axis in sorted(range(len(matrices)), key=lambda axis: len(matrices[axis]) / matrices[axis].shape[1]):
        values = torch.tensordot(matrices[axis], values, ([1], [axis + 1])).movedim(0, axis + 1)
    return values
