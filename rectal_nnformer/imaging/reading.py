"""Reading image files whole or not at all, and telling whether two images have the same grid."""

import gzip
import itertools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.text import plural

# Headers hold single-precision or decimal numbers; grids that agree to a tenth of a voxel are the same grid.
GRID_TOLERANCE_VOXELS = 0.1

NIFTI_SUFFIXES = (".nii", ".nii.gz")
FORMATS = {**dict.fromkeys(NIFTI_SUFFIXES, "NiftiImageIO"), ".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}
"""ITK's readers by the ending of a file's name."""
NIFTI_HEADER_SIZES = (348, 540)
# NIfTI's codes of data types that can hold NaN.
NIFTI_FLOATS = {16: "f4", 64: "f8"}


def read_image(path: Path) -> sitk.Image:
    """Return the image in a file.

    Raises:
        RectalError: The file is missing, cannot be read or ends early, is of another format than its name says, or
            is NIfTI and holds values that are not finite.
    """
    if not path.is_file():
        raise RectalError(f"there is no file {path}")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    # ITK goes by content otherwise, and reads a DICOM file of this name.
    reader.SetImageIO(next((io for suffix, io in FORMATS.items() if path.name.lower().endswith(suffix)), ""))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise RectalError(f"{path} cannot be read ({itk_message(error)}); copy or export it again") from None
    if is_nifti(path):
        _check_nifti(path, image)
    return image


def is_nifti(path: Path) -> bool:
    """Return whether a file is called NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def itk_message(error: RuntimeError) -> str:
    """Return the telling part of an ITK exception in one line of at most 160 characters."""
    text = re.split(r"ERROR:", str(error))[-1]
    text = re.sub(r"\w+\(0x[0-9a-f]+\):", "", text)
    return " ".join(text.split())[:160]


def grid_differences(image: sitk.Image, other: sitk.Image) -> list[str]:
    """Return how the grid of `other` differs from that of `image`, in words; empty if both are the same grid.

    Voxel centres at the corners must agree to `GRID_TOLERANCE_VOXELS` of the smallest spacing, which covers spacing,
    origin and direction at once.
    """
    if image.GetDimension() != other.GetDimension():
        return [f"{other.GetDimension()} axes, image {image.GetDimension()}"]
    differences = []
    if image.GetSize() != other.GetSize():
        differences.append(f"size {by(other.GetSize())}, image {by(image.GetSize())}")
    distance = max(
        float(np.linalg.norm(np.subtract(a, b))) for a, b in zip(_corners(image), _corners(other), strict=True)
    )
    if distance > GRID_TOLERANCE_VOXELS * min(image.GetSpacing()):
        differences.append(f"corners up to {distance:.2g} mm apart")
        for name, ours, theirs in (
            ("spacing", image.GetSpacing(), other.GetSpacing()),
            ("origin", image.GetOrigin(), other.GetOrigin()),
            ("direction", image.GetDirection(), other.GetDirection()),
        ):
            if not np.allclose(ours, theirs, rtol=0, atol=1e-4):
                differences.append(f"{name} {by(theirs)}, image {by(ours)}")
    return differences


def in_order_of(image: sitk.Image, other: sitk.Image) -> sitk.Image:
    """Return an image with its axes flipped and permuted as those of another where that makes the grids the same.

    No voxel moves in space; of any other difference the image is returned as it is.
    """
    if image.GetDimension() != 3 or other.GetDimension() != 3 or not grid_differences(other, image):
        return image
    order = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(other.GetDirection())
    reordered = sitk.DICOMOrient(image, order)
    return image if grid_differences(other, reordered) else reordered


def by(values: Sequence[float], number_format: str = ".5g") -> str:
    """Return numbers as in 320 x 320 x 24."""
    return " x ".join(format(value, number_format) for value in values)


def _corners(image: sitk.Image) -> list[tuple[float, ...]]:
    return [image.TransformIndexToPhysicalPoint(c) for c in itertools.product(*((0, n - 1) for n in image.GetSize()))]


def _check_nifti(path: Path, image: sitk.Image) -> None:
    """Raise on what ITK's NIfTI reader passes over in silence.

    It fills with zeros what a file that ends early lacks, and replaces NaN and infinite values by zeros.
    """
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            content = file.read()
    except (EOFError, OSError, zlib.error) as error:
        raise RectalError(f"{path} cannot be read ({error}); copy it again") from None
    voxels = int(np.prod(image.GetSize(), dtype=np.int64))
    offset = int(float(image.GetMetaData("vox_offset")))
    datatype, bits = (int(image.GetMetaData(key)) for key in ("datatype", "bitpix"))
    expected = offset + voxels * bits // 8
    if len(content) < expected:
        raise RectalError(f"{path} ends early ({len(content)} of {expected} bytes); copy it again")
    if datatype in NIFTI_FLOATS:
        order = "<" if int.from_bytes(content[:4], "little") in NIFTI_HEADER_SIZES else ">"
        values = np.frombuffer(content, order + NIFTI_FLOATS[datatype], voxels, offset)
        bad = voxels - np.count_nonzero(np.isfinite(values))
        if bad:
            raise RectalError(f"{path} holds NaN or infinite values ({plural(bad, 'voxel')}); replace them")
