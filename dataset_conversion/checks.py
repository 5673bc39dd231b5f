"""What cannot be right in an image or a mask, told as reasons that a user can act on."""

import itertools

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.images import ImageFile, ImageSource
from rectal_nnformer.errors import RectalError

# Headers hold single-precision or decimal numbers; grids that agree to a tenth of a voxel are the same grid.
GRID_TOLERANCE_VOXELS = 0.1


def case_problems(image: ImageSource, mask: ImageFile | None) -> list[str]:
    """Read an image and its mask, if there is one, and return what is wrong with them; empty if nothing is."""
    problems = []
    volume = outline = None
    try:
        volume = image.read()
        problems += image_problems(volume)
    except RectalError as error:
        problems.append(str(error))
    if mask is None:
        return problems
    try:
        outline = mask.read()
        problems += mask_problems(outline)
    except RectalError as error:
        problems.append(str(error))
    if volume is not None and outline is not None:
        problems += geometry_problems(volume, outline)
    return problems


def image_problems(image: sitk.Image) -> list[str]:
    """Return what is wrong with an image: not one 3D volume, values that are not finite, or all voxels alike."""
    shape = _shape_problems(image, "image")
    if shape:
        return shape
    # Written as float32 at most, so values beyond its range count as infinite.
    with np.errstate(over="ignore"):
        array = sitk.GetArrayViewFromImage(image).astype(np.float32)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        return [f"image has {bad} voxels that are NaN or infinite; replace them"]
    if array.min() == array.max():
        return [f"image is constant (every voxel is {array.flat[0]:g}); export it again"]
    return []


def mask_problems(mask: sitk.Image) -> list[str]:
    """Return what is wrong with a mask: not one 3D volume, other labels than 0 and 1, or no tumour."""
    shape = _shape_problems(mask, "mask")
    if shape:
        return shape
    labels = np.unique(sitk.GetArrayViewFromImage(mask))
    foreign = [f"{value:g}" for value in labels if value not in (0, 1)]
    if foreign:
        shown = ", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        return [f"mask has foreign labels {shown} (0 is background, 1 tumour, nothing else); relabel it"]
    if 1 not in labels:
        return ["mask has no tumour (no voxel is 1); outline it, or leave the case out"]
    return []


def geometry_problems(image: sitk.Image, mask: sitk.Image) -> list[str]:
    """Return how the grid of a mask differs from that of its image; empty if both are the same 3D grid.

    Voxel centres at the eight corners must agree to `GRID_TOLERANCE_VOXELS` of the smallest spacing, which covers
    spacing, origin and direction at once.
    """
    if image.GetDimension() != 3 or mask.GetDimension() != 3:
        return []
    differences = []
    if image.GetSize() != mask.GetSize():
        differences.append(f"size {_by(mask.GetSize())}, image {_by(image.GetSize())}")
    distance = max(
        float(np.linalg.norm(np.subtract(a, b))) for a, b in zip(_corners(image), _corners(mask), strict=True)
    )
    if distance > GRID_TOLERANCE_VOXELS * min(image.GetSpacing()):
        differences.append(f"corners up to {distance:.2g} mm apart")
        for name, ours, theirs in (
            ("spacing", image.GetSpacing(), mask.GetSpacing()),
            ("origin", image.GetOrigin(), mask.GetOrigin()),
            ("direction", image.GetDirection(), mask.GetDirection()),
        ):
            if not np.allclose(ours, theirs, rtol=0, atol=1e-4):
                differences.append(f"{name} {_by(theirs)}, image {_by(ours)}")
    if not differences:
        return []
    return [f"mask has another geometry than its image ({'; '.join(differences)}); resample it onto the image"]


def _shape_problems(image: sitk.Image, what: str) -> list[str]:
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        return [f"{what} is not a 3D volume (size {_by(image.GetSize())})"]
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        return [f"{what} does not have one real number per voxel ({image.GetPixelIDTypeAsString()})"]
    return []


def _corners(image: sitk.Image) -> list[tuple[float, ...]]:
    return [image.TransformIndexToPhysicalPoint(c) for c in itertools.product(*((0, n - 1) for n in image.GetSize()))]


def _by(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.5g}" for value in values)
