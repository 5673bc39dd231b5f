"""Reading image files whole or not at all, and writing them without anything but voxels and geometry."""

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
NIFTI_HEADER_SIZES = (348, 540)
# NIfTI's codes of data types that can hold NaN.
NIFTI_FLOATS = {16: "f4", 64: "f8"}


class ImageSource(Protocol):
    """Something that an image can be read from: a file, or a DICOM series."""

    def read(self) -> sitk.Image:
        """Return the image; raise RectalError if it cannot be read."""


@dataclass(frozen=True)
class ImageFile:
    """A NIfTI, NRRD or MetaImage file."""

    path: Path

    def read(self) -> sitk.Image:
        """Return the image in the file.

        Raises:
            RectalError: the file cannot be read, ends early or, being NIfTI, holds values that are not finite.
        """
        try:
            image = sitk.ReadImage(str(self.path))
        except RuntimeError as error:
            raise RectalError(f"{self.path.name} cannot be read ({itk_message(error)})") from None
        if self.path.name.lower().endswith((".nii", ".nii.gz")):
            _check_nifti(self.path, image)
        return image


def itk_message(error: RuntimeError) -> str:
    """Return the telling part of an ITK exception in one line of at most 160 characters."""
    text = re.split(r"ERROR:", str(error))[-1]
    text = re.sub(r"\w+\(0x[0-9a-f]+\):", "", text)
    return " ".join(text.split())[:160]


def stem(path: Path) -> str:
    """Return the file name without the suffix of an image format."""
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def list_images(folder: Path) -> list[Path]:
    """Return the image files that lie directly in a folder, by name; say which other files are left aside.

    Raises:
        RectalError: there is no such folder, or no image file in it.
    """
    if not folder.is_dir():
        raise RectalError(f"{folder} is not a folder.")
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    images = [f for f in files if f.name.lower().endswith(SUFFIXES)]
    if not images:
        raise RectalError(f"{folder} holds no image file ({' '.join(SUFFIXES)}) directly in it.")
    others = [f.name for f in files if f not in images]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        print(f"Left aside in {folder}, not one of {' '.join(SUFFIXES)}: {', '.join(others[:5])}{more}")
    return images


def write_image(image: sitk.Image, path: Path) -> None:
    """Write a compressed NIfTI as int16 where that holds every value exactly, else as float32.

    Only voxels and geometry are written. SimpleITK carries free-text header fields from file to file otherwise, and
    these may name a patient.
    """
    _write_array(_compact(sitk.GetArrayViewFromImage(image)), image, path)


def write_mask(mask: sitk.Image, image: sitk.Image, path: Path) -> None:
    """Write a mask as uint8 with exactly the geometry of its image, from which it differed by rounding at most."""
    _write_array(sitk.GetArrayViewFromImage(mask).astype(np.uint8), image, path)


def _write_array(array: NDArray[Any], geometry: sitk.Image, path: Path) -> None:
    output = sitk.GetImageFromArray(array)
    output.SetOrigin(geometry.GetOrigin())
    output.SetSpacing(geometry.GetSpacing())
    output.SetDirection(geometry.GetDirection())
    sitk.WriteImage(output, str(path), True)


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    limits = np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    whole = np.issubdtype(array.dtype, np.integer) or np.array_equal(array, np.rint(array))
    return array.astype(np.int16 if fits and whole else np.float32)


def _check_nifti(path: Path, image: sitk.Image) -> None:
    """Raise on what ITK's NIfTI reader passes over in silence.

    It fills with zeros what a file that ends early lacks, and replaces NaN and infinite values by zeros.
    """
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            content = file.read()
    except (EOFError, OSError, zlib.error) as error:
        raise RectalError(f"{path.name} cannot be read ({error})") from None
    voxels = int(np.prod(image.GetSize(), dtype=np.int64))
    offset = int(float(image.GetMetaData("vox_offset")))
    datatype, bits = (int(image.GetMetaData(key)) for key in ("datatype", "bitpix"))
    expected = offset + voxels * bits // 8
    if len(content) < expected:
        raise RectalError(f"{path.name} ends early ({len(content)} of {expected} bytes); copy it again")
    if datatype in NIFTI_FLOATS:
        order = "<" if int.from_bytes(content[:4], "little") in NIFTI_HEADER_SIZES else ">"
        values = np.frombuffer(content, order + NIFTI_FLOATS[datatype], voxels, offset)
        bad = voxels - np.count_nonzero(np.isfinite(values))
        if bad:
            raise RectalError(f"{path.name} has {bad} voxels that are NaN or infinite; replace them")
