"""Validate images and masks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.images import ImageFile
from rectal_nnformer.dataset_conversion.labels import numbers_of_labels
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.imaging.prepared import PREPARED_WINDOW, within_window
from rectal_nnformer.imaging.reading import grid_differences, in_order_of
from rectal_nnformer.imaging.volumes import CaseReport, digest_of, header_note, image_problems, shape_problems

if TYPE_CHECKING:
    from rectal_nnformer.dataset_conversion.raw_dataset import Case
    from rectal_nnformer.dataset_conversion.target import Target


def check_case(case: "Case", target: "Target") -> CaseReport:
    """Read an image and its mask, if there is one, and return what is wrong with them and what to know.

    For a prepared `target` the image must hold intensities that were scaled to 0 to 800 beforehand.
    """
    problems: list[str] = []
    notes: list[str] = []
    note = digest = ""
    volume: sitk.Image | None = None
    outline: sitk.Image | None = None
    try:
        volume = case.image.read()
        problems += image_problems(volume) or (prepared_problems(volume) if target.prepared else [])
        if not problems:
            note = header_note(case.image.path, volume) if isinstance(case.image, ImageFile) else ""
            digest = digest_of(volume)
    except RectalError as error:
        problems.append(str(error))
    if case.mask is not None:
        try:
            outline, notes = case.mask.read()
            problems += mask_problems(outline, numbers_of_labels(target.labels))
        except RectalError as error:
            problems.append(str(error))
    if volume is not None and outline is not None and (moved := geometry_problems(volume, outline)):
        problems += [*moved, note] if note else moved  # the header may be the cause
    notes = [*filter(None, [note]), *notes]
    return CaseReport(problems, notes, digest, volume.GetNumberOfPixels() if volume else 0)


def prepared_problems(image: sitk.Image) -> list[str]:
    """Return what is wrong with the intensities of an image that is said to be prepared."""
    array = sitk.GetArrayViewFromImage(image)
    if within_window(array.min(), array.max()):
        return []
    return [
        f"image reaches from {array.min():g} to {array.max():g}, and a prepared one from {PREPARED_WINDOW[0]:g} to "
        f"{PREPARED_WINDOW[1]:g}; scale it, or leave --prepared out"
    ]


def mask_problems(mask: sitk.Image, labels: Mapping[str, int]) -> list[str]:
    """Return what is wrong with a mask: not one 3D volume, other values than those of the labels, or no tumour."""
    shape = shape_problems(mask, "mask")
    if shape:
        return shape
    found = np.unique(sitk.GetArrayViewFromImage(mask))
    foreign = [str(value).removesuffix(".0") for value in found if value not in labels.values()]
    if foreign:
        shown = ", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        return [
            f"mask has foreign labels {shown} (0 is background, 1 tumour, nothing else); relabel it, or say with "
            "--labels which is what"
        ]
    tumor = tumor_labels({"labels": labels})
    if not np.isin(tumor, found).any():
        return [f"mask has no tumour (no voxel is {' or '.join(map(str, tumor))}); outline it, or leave the case out"]
    return []


def geometry_problems(image: sitk.Image, mask: sitk.Image) -> list[str]:
    """Return how the grid of a mask differs from that of its image; empty if it does not, or either is not 3D.

    Axes that are flipped or permuted are no difference: the mask is written in the order of its image.
    """
    if not image.GetDimension() == mask.GetDimension() == 3:
        return []
    if differences := grid_differences(image, in_order_of(mask, image)):
        return [f"mask has another geometry than its image ({'; '.join(differences)}); resample it onto the image"]
    return []
