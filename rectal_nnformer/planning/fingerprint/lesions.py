"""What a lesion measures and looks like, as pure functions of arrays with axes (z, y, x)."""

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rectal_nnformer.imaging.masks import Box

RING_MM = 5.0
"""Width of the ring around a lesion."""

PERCENTILES = (5, 25, 50, 75, 95)

Mask = NDArray[np.bool_]


def padded_box(box: Box, margin_mm: float, spacing: Sequence[float], shape: Sequence[int]) -> Box:
    """Return a box grown by at least `margin_mm` on all sides, within an array of `shape`."""
    voxels = [ceil(margin_mm / size) for size in spacing]
    return tuple(
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, margin, length in zip(box, voxels, shape, strict=True)
    )


def ring_around(lesion: Mask, allowed: Mask, spacing: Sequence[float], width_mm: float = RING_MM) -> Mask:
    """Return the voxels within `width_mm` of a lesion, centre to centre of its nearest voxel, that are allowed.

    Args:
        lesion: Bool (z, y, x); no part of the ring.
        allowed: Bool of the same shape, True inside the image and outside all lesions.
        spacing: mm (z, y, x).
        width_mm: Width of the ring.
    """
    # The tolerance keeps 10 voxels of 0.5 mm within 5 mm, whatever rounding the file's header holds.
    near = ndimage.distance_transform_edt(~lesion, sampling=spacing) <= width_mm * (1 + 1e-4)
    return near & ~lesion & allowed


def boundary(lesion: Mask) -> Mask:
    """Return the voxels of a lesion that share a face with a voxel outside it; the array's edge is no outside."""
    return lesion & ~ndimage.binary_erosion(lesion, border_value=1)


def gradient_magnitude(image: NDArray[np.float32], spacing: Sequence[float]) -> NDArray[np.float32]:
    """Return the magnitude of the gradient by central differences, in units of the image per mm.

    Axes with a single voxel do not count.
    """
    axes = [axis for axis, length in enumerate(image.shape) if length > 1]
    squares = [np.square(np.gradient(image, spacing[axis], axis=axis)) for axis in axes]
    return np.sqrt(np.sum(squares, axis=0))


def extent_mm(box: Box, spacing: Sequence[float]) -> list[float]:
    """Return the edge lengths (x, y, z) in mm of a box of voxels (z, y, x)."""
    return [(side.stop - side.start) * size for side, size in zip(box, spacing, strict=True)][::-1]


def describe_geometry(lesion: Mask, box: Box, spacing: Sequence[float]) -> dict[str, Any]:
    """Return `voxels`, `volume_cm3`, `extent_mm` and `centroid_mm` of one component.

    Args:
        lesion: Bool (z, y, x), the component in its bounding box.
        box: Where this box lies in the whole array.
        spacing: mm (z, y, x).
    """
    voxels = int(lesion.sum())
    center = np.argwhere(lesion).mean(axis=0) + [side.start for side in box]
    return {
        "voxels": voxels,
        "volume_cm3": voxels * prod(spacing) / 1000,
        "extent_mm": extent_mm(box, spacing),
        "centroid_mm": (center * spacing)[::-1].tolist(),
    }


def describe_intensities(
    image: NDArray[np.float32], lesion: Mask, ring: Mask, spacing: Sequence[float]
) -> dict[str, Any]:
    """Return `inside`, `ring`, `contrast` and `boundary_gradient` of one lesion in one channel.

    Args:
        image: (z, y, x).
        lesion: Bool of the same shape, not empty.
        ring: Bool of the same shape; where it is empty, `ring` and `contrast` are None.
        spacing: mm (z, y, x).

    The boundary gradient is None where the lesion fills the array.
    """
    inside = _distribution(image[lesion])
    around = _distribution(image[ring]) if ring.any() else None
    edge = boundary(lesion)
    return {
        "inside": inside,
        "ring": around,
        "contrast": inside["mean"] - around["mean"] if around else None,
        "boundary_gradient": float(gradient_magnitude(image, spacing)[edge].mean()) if edge.any() else None,
    }


def in_window_units(intensities: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    """Return what `describe_intensities` gave of an image v as if of `u = (v - low) / (high - low)`."""
    width = high - low

    def level(value: float) -> float:
        return (value - low) / width

    def distribution(values: dict[str, Any] | None) -> dict[str, Any] | None:
        if values is None:
            return None
        return {
            "mean": level(values["mean"]),
            "spread": values["spread"] / width,
            "percentiles": {key: level(value) for key, value in values["percentiles"].items()},
        }

    differences = {key: intensities[key] for key in ("contrast", "boundary_gradient")}
    return {
        "inside": distribution(intensities["inside"]),
        "ring": distribution(intensities["ring"]),
        **{key: None if value is None else value / width for key, value in differences.items()},
    }


def _distribution(values: NDArray[np.float32]) -> dict[str, Any]:
    percentiles = np.percentile(values, PERCENTILES)
    return {
        "mean": float(values.mean(dtype=float)),
        "spread": float(values.std(dtype=float)),
        "percentiles": {str(key): float(value) for key, value in zip(PERCENTILES, percentiles, strict=True)},
    }
