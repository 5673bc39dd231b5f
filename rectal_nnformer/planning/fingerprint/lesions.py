"""What a lesion measures and looks like, as pure functions of images and masks of one shape, with axes (z, y, x).

Spacings are mm, (z, y, x).
"""

from collections.abc import Sequence
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rectal_nnformer.imaging.masks import Box
from rectal_nnformer.planning.fingerprint.record import Distribution, Intensities, LesionGeometry

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

    Those inside the image and outside all lesions should be. The lesion itself is no part of the ring.
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


def describe_geometry(lesion: Mask, box: Box, spacing: Sequence[float]) -> LesionGeometry:
    """Return size and place of a component, which is given in its bounding box; `box` is where that lies."""
    voxels = int(lesion.sum())
    center = np.argwhere(lesion).mean(axis=0) + [side.start for side in box]
    return {
        "voxels": voxels,
        "volume_cm3": voxels * prod(spacing) / 1000,
        "extent_mm": extent_mm(box, spacing),
        "centroid_mm": (center * spacing)[::-1].tolist(),
    }


def describe_intensities(image: NDArray[np.float32], lesion: Mask, ring: Mask, spacing: Sequence[float]) -> Intensities:
    """Return what one lesion looks like in one channel.

    Where the ring is empty, `ring` and `contrast` are None; where the lesion fills the array, the boundary gradient.
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


def in_window_units(intensities: Intensities, low: float, high: float) -> Intensities:
    """Return what `describe_intensities` gave of an image v as if of `u = (v - low) / (high - low)`."""
    width = high - low
    ring, contrast, gradient = intensities["ring"], intensities["contrast"], intensities["boundary_gradient"]

    def converted(values: Distribution) -> Distribution:
        return {
            "mean": (values["mean"] - low) / width,
            "spread": values["spread"] / width,
            "percentiles": {key: (value - low) / width for key, value in values["percentiles"].items()},
        }

    return {
        "inside": converted(intensities["inside"]),
        "ring": None if ring is None else converted(ring),
        "contrast": None if contrast is None else contrast / width,
        "boundary_gradient": None if gradient is None else gradient / width,
    }


def _distribution(values: NDArray[np.float32]) -> Distribution:
    percentiles = np.percentile(values, PERCENTILES)
    return {
        "mean": float(values.mean(dtype=float)),
        "spread": float(values.std(dtype=float)),
        "percentiles": {str(key): float(value) for key, value in zip(PERCENTILES, percentiles, strict=True)},
    }
