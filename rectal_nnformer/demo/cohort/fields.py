"""Scalar fields that the phantom and the tumours are made of: coordinates, partial volume, band-limited noise.

Arrays have axes (z, y, x) as SimpleITK hands them to numpy; lengths are in mm.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray[np.floating[Any]]
"""Held as float32: scans are large."""
Mask = NDArray[np.bool_]


def partial_volume(implicit: Field) -> Field:
    """Return the share of each voxel inside the surface `implicit == 0`, above 0.5 exactly where it is negative.

    The field (z, y, x), at least 2 voxels along each axis, is taken as linear within a voxel, so that a surface lying
    flat in thick slices is blurred along z as a scanner would blur it. Only the sign and the local slope matter: any
    implicit function will do.
    """
    change_across_voxel = np.full_like(implicit, 1e-6)
    for axis in range(implicit.ndim):
        change_across_voxel += np.abs(np.gradient(implicit, axis=axis))
    return np.clip(0.5 - implicit / change_across_voxel, 0.0, 1.0, dtype=np.float32)


def smooth_noise(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], length: float | Sequence[float]
) -> Field:
    """Return Gaussian noise (z, y, x) of mean 0 and standard deviation 1, without detail finer than `length`.

    `length` is the standard deviation of the smoothing kernel in mm, one or one per axis.
    """
    sigma = np.broadcast_to(np.asarray(length, dtype=float), 3) / np.asarray(spacing, dtype=float)
    # A field smooth over many voxels is made on a coarser grid: the same look at a fraction of the time.
    step = np.maximum(1, np.floor(sigma / 2)).astype(int)
    coarse_shape = [int(np.ceil(size / s)) + 1 for size, s in zip(shape, step, strict=True)]
    noise = rng.standard_normal(coarse_shape, dtype=np.float32)
    noise = gaussian_filter(noise, sigma / step, mode="wrap", truncate=3.0)
    noise = (noise - noise.mean()) / max(float(noise.std()), 1e-6)
    for axis, size in enumerate(shape):
        noise = _stretched(noise, axis, int(step[axis]), size)
    return noise


def _stretched(field: Field, axis: int, step: int, size: int) -> Field:
    """Interpolate linearly along one axis, `step` new samples for each old one, and keep the first `size`."""
    if step == 1:
        return np.take(field, range(size), axis=axis)
    position = np.arange(size, dtype=np.float32) / step
    lower = position.astype(int)
    weight = (position - lower).reshape([-1 if a == axis else 1 for a in range(field.ndim)])
    below, above = (np.take(field, lower + offset, axis=axis) for offset in (0, 1))
    return below + weight * (above - below)


def blend(signal: Field, share: Field, value: Field | float) -> None:
    """Replace, in place, a `share` in [0, 1] of every voxel of `signal` by `value`."""
    signal += share * (value - signal)
