"""Find files in nested folders and read DICOM headers, with SimpleITK."""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import itk_path

# PixelSpacing and what stands in for it in projections and exports; without them the reader makes up 1 mm.
SPACING_TAGS = ("0028|0030", "0018|1164", "0018|2010")
# SOP classes of MR images: classic, enhanced, legacy converted enhanced. Others with such a beginning are no images.
MR_STORAGE = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")

MOST_PIXELS_PER_BYTE = 100
"""No compression of medical images reaches this."""


@dataclass(frozen=True)
class Slice:
    """What the header of one DICOM file says; what it does not say is empty.

    Attributes:
        image_type: ImageType, values separated by backslashes.
        size: Columns, rows, frames.
        spacing: Distance of columns and of rows, mm.
        position: Centre of the first voxel in patient coordinates (LPS), mm.
        axes: Unit vectors along a row, then along a column.
    """

    path: Path
    series_uid: str
    patient: str
    patient_name: str
    modality: str
    image_type: str
    description: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    axes: tuple[float, ...]

    @property
    def frames(self) -> int:
        """Number of images in the file."""
        return self.size[2] if len(self.size) > 2 else 1


def read_slice(path: Path) -> Slice | None:
    """Read the header of one file; None if it is not a DICOM image, or claims more pixels than can be in it."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.SetFileName(itk_path(path))
        reader.ReadImageInformation()
    except (RuntimeError, RectalError):
        return None
    if math.prod(reader.GetSize()) > MOST_PIXELS_PER_BYTE * path.stat().st_size:
        return None

    def text(tag: str) -> str:
        content = reader.GetMetaData(tag).encode("utf-8", "surrogateescape") if reader.HasMetaDataKey(tag) else b""
        try:
            decoded = content.decode("utf-8")
        except UnicodeDecodeError:  # as Latin-1, the usual other one, it can be printed
            decoded = content.decode("latin-1")
        return decoded.strip(" \0")

    return Slice(
        path=path,
        series_uid=text("0020|000e"),
        patient=text("0010|0020"),
        patient_name=text("0010|0010"),
        modality=text("0008|0060"),
        image_type=text("0008|0008").upper(),
        description=text("0008|103e"),
        size=tuple(reader.GetSize()),
        spacing=tuple(reader.GetSpacing())[:2] if any(map(text, SPACING_TAGS)) else (),
        position=_numbers(text("0020|0032"), 3),
        axes=_numbers(text("0020|0037"), 6),
    )


def should_be_slice(path: Path) -> bool:
    """Return whether a file that cannot be read as an image claims to be an MR slice, by its meta header or suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except OSError:
        return True
    storage = re.search(rb"\x02\x00\x02\x00UI..([\d.]+)", head, re.DOTALL)
    if head[128:132] == b"DICM" and storage:
        return storage[1].decode() in MR_STORAGE
    return path.suffix.lower() in (".dcm", ".ima")


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it in a fixed order; links to folders are followed, each folder once."""
    seen = set()
    for root, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def _refuse_folder(error: OSError) -> None:
    raise RectalError(f"Folder {error.filename} cannot be read: {error.strerror}.")
