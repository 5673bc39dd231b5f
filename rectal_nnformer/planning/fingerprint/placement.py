"""How well a mask sits on its image, against the same mask moved elsewhere in the same image."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.imaging.masks import bounding_box
from rectal_nnformer.planning.fingerprint.lesions import RING_MM, Mask, padded_box, ring_around
from rectal_nnformer.planning.fingerprint.record import Placement

STEP_MM, REACH_MM = 10, 40
"""Displacements are this far apart along each axis, and reach as far to both sides."""
SAMPLED = 600
"""Voxels drawn of the lesions, and as many of their rings."""
MIN_INSIDE = 0.7
"""Share of the sampled ring that must lie inside the image for a position to count."""

_MIN_VARIANCE = 1e-6  # of z-scored intensities; keeps the logarithm of a constant finite

Points = NDArray[np.int_]


def describe_placement(
    image: NDArray[np.float32], tumor: Mask, inside: Mask, spacing: Sequence[float]
) -> Placement | None:
    """Return how well a mask separates the image where it is, and where it would after displacements.

    Displacements are all combinations of multiples of 10 mm up to 40 mm per axis with which all sampled voxels of the
    lesions, and most of the ring's, stay inside, where the image (channels, z, y, x) is not empty. Masks are (z, y, x),
    spacings mm, (z, y, x). None if no lesion or ring lies inside the image.
    """
    box = padded_box(bounding_box(tumor), RING_MM, spacing, tumor.shape)
    masks = tumor[box] & inside[box], ring_around(tumor[box], inside[box], spacing)
    lesion, ring = (_sample(np.argwhere(mask) + [side.start for side in box]) for mask in masks)
    if not len(lesion) or not len(ring):
        return None

    def separation_at(moved: Points, around: Points) -> float:
        return separation(*(image[:, z, y, x] for z, y, x in (moved.T, around.T)))

    here = separation_at(lesion, ring)
    found = [
        (separation_at(moved, around), displacement)
        for displacement, moved, around in _displaced(lesion, ring, inside, spacing)
    ]
    best, best_displacement = max(found, default=(None, None))
    return {
        "separation": here,
        "num_displacements": len(found),
        "better_share": float(np.mean([value > here for value, _ in found])) if found else None,
        "best_separation": best,
        "best_displacement_mm": best_displacement,
    }


def separation(lesion: NDArray[np.float32], ring: NDArray[np.float32]) -> float:
    """Return how much better two normal distributions describe lesion and ring than one: log likelihood per voxel.

    For each channel it is the logarithm of the standard deviation of all voxels less the mean, by voxels, of the
    logarithms of those of lesion and ring; channels add up. It is 0 where lesion and ring look alike and rises with a
    difference in mean as in spread. The criterion is that of region competition (Zhu and Yuille 1996). Both are
    (channels, voxels).
    """
    both = np.concatenate([lesion, ring], axis=1)
    share = lesion.shape[1] / both.shape[1]
    together, apart, around = (
        np.log(np.maximum(values.var(axis=1, dtype=float), _MIN_VARIANCE)) / 2 for values in (both, lesion, ring)
    )
    return float(np.sum(together - share * apart - (1 - share) * around))


def _sample(points: Points) -> Points:
    """Return at most `SAMPLED` points, evenly along the array."""
    return points[np.linspace(0, len(points) - 1, min(SAMPLED, len(points))).astype(int)]


def _displaced(
    lesion: Points, ring: Points, inside: Mask, spacing: Sequence[float]
) -> Iterator[tuple[list[float], Points, Points]]:
    """Yield each displacement (x, y, z) in mm, in whole voxels, with the points of lesion and ring after it."""
    steps = range(-REACH_MM, REACH_MM + 1, STEP_MM)
    offsets = {
        tuple(round(mm / size) for mm, size in zip(displacement, spacing, strict=True))
        for displacement in product(steps, repeat=3)
    }
    near = {offset for offset in offsets if np.linalg.norm(np.multiply(offset, spacing)) < STEP_MM / 2}
    for offset in sorted(offsets - near):
        moved, around = lesion + offset, ring + offset
        if _is_inside(moved, inside).all():
            kept = _is_inside(around, inside)
            if kept.mean() >= MIN_INSIDE:
                yield np.multiply(offset, spacing)[::-1].tolist(), moved, around[kept]


def _is_inside(points: Points, inside: Mask) -> NDArray[np.bool_]:
    """Return for each point whether it lies in the array and in the image."""
    in_array = ((points >= 0) & (points < inside.shape)).all(axis=1)
    result = in_array.copy()
    result[in_array] = inside[tuple(points[in_array].T)]
    return result
