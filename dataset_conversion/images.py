"""List, read and write image files."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prepared import LIFTED_ZERO, is_prepared
from rectal_nnformer.imaging.reading import is_nifti, itk_path, read_to_rewrite
from rectal_nnformer.imaging.writing import write_volume
from rectal_nnformer.nnunet.names import IMAGE_SUFFIXES
from rectal_nnformer.utils.files import parted_by_hidden
from rectal_nnformer.utils.text import some

VOXEL_SUFFIXES = (".raw", ".zraw")
"""Of files that hold the voxels of a header in .mhd."""


class ImageSource(Protocol):
    """Something that an image can be read from: a file, or a DICOM series."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that it is read from."""

    def read(self) -> sitk.Image:
        """Return the image; raise RectalError if it cannot be read."""


@dataclass(frozen=True)
class ImageFile:
    """A NIfTI, NRRD or MetaImage file."""

    path: Path

    @property
    def files(self) -> Sequence[Path]:
        """The file."""
        return [self.path]

    def read(self) -> sitk.Image:
        """Return the image in the file; raise RectalError if it cannot be read whole."""
        return read_to_rewrite(self.path)


def stem(path: Path) -> str:
    """Return the file name without the suffix of an image format."""
    suffix = next((s for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def list_images(folder: Path, besides: Collection[Path] = ()) -> list[Path]:
    """Return the image files that lie directly in a folder, by name; print what else is skipped.

    With files `besides`, in it or below it, which are used in another way, there need not be any image.

    Raises:
        RectalError: There is no such folder, no image file in it, a link to nothing, or a folder called like an image.
    """
    if not folder.is_dir():
        raise RectalError(f"{folder} is not a folder.")
    hidden, entries = parted_by_hidden(folder)
    for entry in entries:
        if not entry.exists():
            raise RectalError(f"{entry} is a link to {entry.readlink()}, which is missing: restore that, or remove it.")
        if entry.is_dir() and _called_image(entry):
            raise RectalError(f"{entry} is a folder with the name of an image file: rename it, or move it away.")
    images = [entry for entry in entries if _called_image(entry)]
    if not images and not besides:
        raise RectalError(f"{folder} holds no image file ({' '.join(IMAGE_SUFFIXES)}) directly in it.")
    used = {place for path in besides for place in (path, *path.parents)}
    others = [
        entry
        for entry in entries
        if not _called_image(entry) and entry.suffix.lower() not in VOXEL_SUFFIXES and entry not in used
    ]
    if hidden:
        print(f"Left aside in {folder}, hidden: {some(hidden)}")
    if skipped := [f"{entry.name}/" if entry.is_dir() else entry.name for entry in others]:
        print(f"Left aside in {folder}, not one of {' '.join(IMAGE_SUFFIXES)}: {some(skipped)}")
    return images


def lacks_orientation(path: Path) -> bool:
    """Return whether a NIfTI header tells neither by qform nor by sform where its axes point.

    False for other formats and for what cannot be read.
    """
    if not is_nifti(path) or not path.is_file():
        return False
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    try:
        reader.SetFileName(itk_path(path))
        reader.ReadImageInformation()
    except (RuntimeError, RectalError):
        return False
    return all(reader.GetMetaData(f"{form}_code") == "0" for form in ("qform", "sform"))


def write_image(image: sitk.Image, path: Path) -> None:
    """Write a compressed NIfTI as int16 where that holds every value exactly, else as float32.

    Only voxels and geometry are written. SimpleITK carries free-text header fields from file to file otherwise, and
    these may name a patient.
    """
    array, limits = sitk.GetArrayViewFromImage(image), np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    whole = np.issubdtype(array.dtype, np.integer) or np.array_equal(array, np.rint(array))
    _write_array(array.astype(np.int16 if fits and whole else np.float32), image, path)


def write_mask(mask: sitk.Image, path: Path) -> None:
    """Write a mask as compressed NIfTI, uint8, with nothing but voxels and geometry."""
    _write_array(sitk.GetArrayViewFromImage(mask).astype(np.uint8), mask, path)


def read_channel(source: ImageSource, name: str) -> sitk.Image:
    """Return the image of a channel as it is to be written: zeros of a prepared one are lifted.

    Raises:
        RectalError: It cannot be read.
    """
    image = source.read()
    return lift_zeros(image) if is_prepared(name) else image


def lift_zeros(image: sitk.Image) -> sitk.Image:
    """Return a prepared image as float32 with `LIFTED_ZERO` for 0, which the networks would take for padding."""
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    lifted = sitk.GetImageFromArray(np.where(array == 0, np.float32(LIFTED_ZERO), array))
    lifted.CopyInformation(image)
    return lifted


def _called_image(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def _write_array(array: NDArray[Any], geometry: sitk.Image, path: Path) -> None:
    output = sitk.GetImageFromArray(array)
    output.CopyInformation(geometry)
    write_volume(output, path)
