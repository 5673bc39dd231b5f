"""One case of the tumour fingerprint, and the intensity window's share of it, from a single reading."""

import hashlib
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import MIN_VOXELS, bounding_box, find_components
from rectal_nnformer.imaging.reading import by
from rectal_nnformer.planning.fingerprint.lesions import (
    RING_MM,
    Mask,
    describe_geometry,
    describe_intensities,
    extent_mm,
    padded_box,
    ring_around,
)
from rectal_nnformer.planning.fingerprint.placement import describe_placement
from rectal_nnformer.planning.intensity_window import NormalizedImage, Window, case_percentiles, read_normalized


@dataclass(frozen=True)
class CaseFiles:
    """A case to be measured.

    Attributes:
        name: Its name.
        images: Its image files, one per channel.
        label: Its label file.
        reader: nnU-Net's class that reads them.
        prepared: Whether each channel was prepared beforehand, and so is not normalized.
        tumor_labels: Labels that are tumour.
    """

    name: str
    images: list[str]
    label: str
    reader: type
    prepared: list[bool]
    tumor_labels: list[int]


def measure_case(files: CaseFiles) -> tuple[Window, dict[str, Any]]:
    """Return the percentiles for the intensity window, and the case's record in units of the normalized image.

    Raises:
        RectalError: Image or label cannot be read or used, or do not have the same shape.
    """
    image = read_normalized(files.name, files.images, files.reader, files.prepared)
    tumor = _read_tumor(files, image.shape)
    described = _describe_tumor(image, tumor)
    placement = describe_placement(image.data, tumor[image.box], image.inside, image.spacing)
    record = {
        **_describe_grid(image),
        **described,
        "placement": placement if described["lesions"] else None,
        "mask_digest": _digest(tumor),
    }
    return case_percentiles(image), record


def _read_tumor(files: CaseFiles, shape: tuple[int, ...]) -> Mask:
    try:
        segmentation, _ = files.reader().read_seg(files.label)
    except Exception as error:  # each reader raises its own kinds
        raise RectalError(f"Case {files.name}: {files.label} cannot be read: {error}") from error
    if segmentation.shape[1:] != shape:
        raise RectalError(
            f"Case {files.name}: {files.label} has {by(segmentation.shape[:0:-1])} voxels (x, y, z), "
            f"its image {by(shape[::-1])}. Put the label on the image's grid."
        )
    return np.isin(segmentation[0], files.tumor_labels)


def _digest(tumor: Mask) -> str:
    """Return a digest by which equal masks of equal shape are recognized."""
    return hashlib.sha256(repr(tumor.shape).encode() + np.packbits(tumor).tobytes()).hexdigest()[:16]


def _describe_grid(image: NormalizedImage) -> dict[str, Any]:
    whole = tuple(slice(0, length) for length in image.shape)
    cropped = image.inside.shape
    return {
        "spacing_mm": list(image.spacing)[::-1],
        "shape": list(image.shape)[::-1],
        "field_of_view_mm": extent_mm(whole, image.spacing),
        "cropped_shape": list(cropped)[::-1],
        "cropped_extent_mm": extent_mm(image.box, image.spacing),
        "empty_border_share": 1 - prod(cropped) / prod(image.shape),
    }


def _describe_tumor(image: NormalizedImage, tumor: Mask) -> dict[str, Any]:
    """Return the lesions in nnU-Net's crop, and what of the mask is none."""
    cropped = tumor[image.box]
    occupied = bounding_box(cropped)
    components = find_components(cropped[occupied], min_voxels=1)
    lesions, tiny = [], 0
    for number, box in enumerate(components.boxes, start=1):
        lesion = components.labels[box] == number
        if lesion.sum() < MIN_VOXELS:
            tiny += 1
            continue
        place = tuple(slice(b.start + o.start, b.stop + o.start) for b, o in zip(box, occupied, strict=True))
        lesions.append(_describe_lesion(image, cropped, lesion, place))
    voxels = int(tumor.sum())
    return {
        "tumor_voxels": voxels,
        "tumor_outside_image_share": 1 - float((cropped & image.inside).sum()) / voxels if voxels else 0.0,
        "tiny_components": tiny,
        "lesions": sorted(lesions, key=lambda lesion: -lesion["voxels"]),
    }


def _describe_lesion(image: NormalizedImage, tumor: Mask, lesion: Mask, box: tuple[slice, ...]) -> dict[str, Any]:
    """Return the record of one lesion, `lesion` being its voxels in its box; only its surroundings are computed."""
    around = padded_box(box, RING_MM, image.spacing, tumor.shape)
    inner = tuple(slice(b.start - a.start, b.stop - a.start) for b, a in zip(box, around, strict=True))
    placed: NDArray[np.bool_] = np.zeros([side.stop - side.start for side in around], dtype=bool)
    placed[inner] = lesion
    ring = ring_around(placed, image.inside[around] & ~tumor[around], image.spacing)
    return {
        **describe_geometry(lesion, box, image.spacing),
        "ring_voxels": int(ring.sum()),
        "channels": [describe_intensities(channel[around], placed, ring, image.spacing) for channel in image.data],
    }
