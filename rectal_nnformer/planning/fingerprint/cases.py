"""One case of the tumour fingerprint, and the intensity window's share of it, from a single reading."""

import hashlib
from math import prod

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import MIN_VOXELS, Box, find_components
from rectal_nnformer.imaging.reading import by
from rectal_nnformer.planning.fingerprint import lesions as measures
from rectal_nnformer.planning.fingerprint.placement import describe_placement
from rectal_nnformer.planning.fingerprint.record import Case, LesionMeasures
from rectal_nnformer.planning.intensity_window import NormalizedImage, Window, case_percentiles, read_normalized


def measure_case(
    case: tuple[str, list[str], str], reader: type, prepared: list[bool], labels_of_tumor: list[int]
) -> tuple[Window, Case]:
    """Return the percentiles for the intensity window, and the case's record in units of the normalized image.

    The case is its name, its image files, one per channel, and its label file. Prepared channels are not normalized.

    Raises:
        RectalError: Image or label cannot be read or used, or do not have the same shape.
    """
    name, images, label = case
    image = read_normalized(name, images, reader, prepared)
    try:
        segmentation, _ = reader().read_seg(label)
    except Exception as error:  # each reader raises its own kinds
        raise RectalError(f"Case {name}: {label} cannot be read: {error}") from error
    if segmentation.shape[1:] != image.shape:
        raise RectalError(
            f"Case {name}: {label} has {by(segmentation.shape[:0:-1])} voxels (x, y, z), "
            f"its image {by(image.shape[::-1])}. Put the label on the image's grid."
        )
    return case_percentiles(image), _describe(image, np.isin(segmentation[0], labels_of_tumor))


def _describe(image: NormalizedImage, tumor: measures.Mask) -> Case:
    whole = tuple(slice(0, length) for length in image.shape)
    cropped, voxels = tumor[image.box], int(tumor.sum())
    components = find_components(cropped, min_voxels=1)
    large = np.bincount(components.labels.ravel()) >= MIN_VOXELS
    found = [(number, box) for number, box in enumerate(components.boxes, start=1) if large[number]]
    lesions = [_describe_lesion(image, components.labels, number, box) for number, box in found]
    placement = describe_placement(image.data, cropped, image.inside, image.spacing)
    return {
        "spacing_mm": list(image.spacing)[::-1],
        "shape": list(image.shape)[::-1],
        "field_of_view_mm": measures.extent_mm(whole, image.spacing),
        "cropped_shape": list(cropped.shape)[::-1],
        "cropped_extent_mm": measures.extent_mm(image.box, image.spacing),
        "empty_border_share": 1 - prod(cropped.shape) / prod(image.shape),
        "tumor_voxels": voxels,
        "tumor_outside_image_share": 1 - float((cropped & image.inside).sum()) / voxels if voxels else 0.0,
        "tiny_components": len(components.boxes) - len(lesions),
        "lesions": sorted(lesions, key=lambda lesion: -lesion["voxels"]),
        "placement": placement if lesions else None,
        # By which equal masks of equal shape are recognized.
        "mask_digest": hashlib.sha256(repr(tumor.shape).encode() + np.packbits(tumor).tobytes()).hexdigest()[:16],
    }


def _describe_lesion(image: NormalizedImage, labels: NDArray[np.int32], number: int, box: Box) -> LesionMeasures:
    """Return the record of the component of a number, which lies in a box; only its surroundings are computed."""
    around = measures.padded_box(box, measures.RING_MM, image.spacing, labels.shape)
    lesion = labels[around] == number
    ring = measures.ring_around(lesion, image.inside[around] & (labels[around] == 0), image.spacing)
    return {
        **measures.describe_geometry(labels[box] == number, box, image.spacing),
        "ring_voxels": int(ring.sum()),
        "channels": [
            measures.describe_intensities(channel[around], lesion, ring, image.spacing) for channel in image.data
        ],
        "cluster": None,
    }
