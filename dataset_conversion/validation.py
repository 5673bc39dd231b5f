"""Validate images and masks."""

from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prepared import PREPARED_WINDOW, within_window
from rectal_nnformer.imaging.reading import by, grid_differences
from rectal_nnformer.utils.text import plural

if TYPE_CHECKING:
    from rectal_nnformer.dataset_conversion.raw_dataset import Case


def case_problems(case: "Case", prepared: bool = False) -> list[str]:
    """Read an image and its mask, if there is one, and return what is wrong with them; empty if nothing is.

    `prepared` asks for intensities that were scaled to 0 to 800 beforehand.
    """
    problems = []
    volume = outline = None
    try:
        volume = case.image.read()
        problems += image_problems(volume, prepared)
    except RectalError as error:
        problems.append(str(error))
    if case.mask is None:
        return problems
    try:
        outline = case.mask.read()
        problems += mask_problems(outline)
    except RectalError as error:
        problems.append(str(error))
    if volume is not None and outline is not None:
        problems += geometry_problems(volume, outline)
    return problems


def image_problems(image: sitk.Image, prepared: bool) -> list[str]:
    """Return what is wrong with an image: not one 3D volume, values that are not finite, all alike or not prepared."""
    shape = _shape_problems(image, "image")
    if shape:
        return shape
    # Written as float32 at most, so values beyond its range count as infinite.
    with np.errstate(over="ignore"):
        array = sitk.GetArrayViewFromImage(image).astype(np.float32)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        return [f"image holds NaN or infinite values ({plural(bad, 'voxel')}); replace them"]
    if array.min() == array.max():
        return [f"image is constant (every voxel is {array.flat[0]:g}); export it again"]
    if prepared and not within_window(array.min(), array.max()):
        reaches, window = (f"{low:g} to {high:g}" for low, high in ((array.min(), array.max()), PREPARED_WINDOW))
        return [f"image reaches from {reaches}, and a prepared one from {window}; scale it, or leave --prepared out"]
    return []


def mask_problems(mask: sitk.Image) -> list[str]:
    """Return what is wrong with a mask: not one 3D volume, other labels than 0 and 1, or no tumour."""
    shape = _shape_problems(mask, "mask")
    if shape:
        return shape
    labels = np.unique(sitk.GetArrayViewFromImage(mask))
    foreign = [str(value).removesuffix(".0") for value in labels if value not in (0, 1)]
    if foreign:
        shown = ", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        return [f"mask has foreign labels {shown} (0 is background, 1 tumour, nothing else); relabel it"]
    if 1 not in labels:
        return ["mask has no tumour (no voxel is 1); outline it, or leave the case out"]
    return []


def geometry_problems(image: sitk.Image, mask: sitk.Image) -> list[str]:
    """Return how the grid of a mask differs from that of its image; empty if it does not, or either is not 3D."""
    differences = grid_differences(image, mask) if image.GetDimension() == mask.GetDimension() == 3 else []
    if not differences:
        return []
    return [f"mask has another geometry than its image ({'; '.join(differences)}); resample it onto the image"]


def _shape_problems(image: sitk.Image, what: str) -> list[str]:
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        return [f"{what} is not a 3D volume (size {by(image.GetSize())})"]
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        return [f"{what} does not have one real number per voxel ({image.GetPixelIDTypeAsString()})"]
    return []
