"""Find files in nested folders and read DICOM headers."""

import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileDataset, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import itk_path

# PixelSpacing and what stands in for it in projections and exports, all of them rows first.
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
# SOP classes of MR images: classic, enhanced, legacy converted enhanced. Others with such a beginning are no images.
MR_STORAGE = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")

MOST_PIXELS_PER_BYTE = 100
"""No compression of medical images reaches this."""
_KEPT_BYTES = 4096
"""Longer values, pixels foremost, stay in the file."""
_UNDEFINED_LENGTH = 0xFFFFFFFF


_OF_PIXELS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "PixelData",
)


@dataclass(frozen=True)
class Slice:
    """What the header of one DICOM file says; what it does not say is empty.

    Attributes:
        image_type: ImageType, values separated by backslashes.
        photometric: PhotometricInterpretation, as MONOCHROME2.
        size: Columns, rows.
        frames: Number of images in the file.
        spacing: Distance of columns and of rows, mm.
        position: Centre of the first voxel in patient coordinates (LPS), mm.
        axes: Unit vectors along a row, then along a column.
    """

    path: Path
    class_uid: str
    instance_uid: str
    series_uid: str
    frame_of_reference: str
    patient: str
    patient_name: str
    modality: str
    image_type: str
    description: str
    photometric: str
    size: tuple[int, int]
    frames: int
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    axes: tuple[float, ...]


def read_header(path: Path) -> FileDataset | None:
    """Read the header of one file; long values stay in the file until they are asked for.

    Returns:
        None if it is not DICOM, or claims what cannot be in it.
    """
    with without_warnings():
        try:
            itk_path(path)
            header = dcmread(path, defer_size=_KEPT_BYTES, force=_lacks_preamble(path))
            return header if _fits(header, path.stat().st_size) else None
        except Exception:  # pydicom raises many kinds on what is damaged
            return None


def slice_of(path: Path, header: Dataset) -> Slice | None:
    """Return what the header of a file says of an image.

    Returns:
        None if there is no image, or one larger than the file can hold.
    """
    with without_warnings():
        try:
            slice_ = _slice_of(path, header) if "PixelData" in header else None
        except Exception:  # as above
            return None
    if slice_ is None:
        return None
    pixels = math.prod(slice_.size) * slice_.frames
    return slice_ if 0 < pixels <= MOST_PIXELS_PER_BYTE * path.stat().st_size else None


def copy_pixels(path: Path, copy: Path) -> None:
    """Write a DICOM file with the pixels of another and what says how they are stored, and nothing else of it.

    The library that decodes pixels takes memory for whatever a length claims, in places where pydicom sees no length.

    Raises:
        RectalError: The file cannot be read.
    """
    with without_warnings():
        try:
            source = dcmread(path, force=_lacks_preamble(path))
            kept = FileDataset(copy, {}, file_meta=FileMetaDataset(), preamble=bytes(128))
            for keyword in _OF_PIXELS:
                if keyword in source:
                    kept[keyword] = source[keyword]
            told = source.file_meta.get("TransferSyntaxUID")
            found = ImplicitVRLittleEndian if source.original_encoding[0] else ExplicitVRLittleEndian
            kept.file_meta.TransferSyntaxUID = told or found
            kept.file_meta.MediaStorageSOPClassUID = UID(source.get("SOPClassUID") or MR_STORAGE[0])
            kept.file_meta.MediaStorageSOPInstanceUID = source.get("SOPInstanceUID") or generate_uid()
            kept.save_as(copy, enforce_file_format=True)
        except Exception as error:  # pydicom raises many kinds on what is damaged
            raise RectalError(f"{path} cannot be read ({error}); copy it again") from None


def text_of(header: Dataset, keyword: str) -> str:
    """Return a value as text, several separated by backslashes, without padding; empty if there is none."""
    value = header.get(keyword)
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")


def numbers_of(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return the finite numbers that a value holds; empty if it does not hold so many."""
    try:
        values = tuple(float(part) for part in text_of(header, keyword).split("\\"))
    except ValueError:
        return ()
    return values if len(values) == count and np.isfinite(values).all() else ()


def _slice_of(path: Path, header: Dataset) -> Slice:
    spacing = next(filter(None, (numbers_of(header, keyword, 2) for keyword in SPACINGS)), ())
    return Slice(
        path=path,
        class_uid=text_of(header, "SOPClassUID"),
        instance_uid=text_of(header, "SOPInstanceUID"),
        series_uid=text_of(header, "SeriesInstanceUID"),
        frame_of_reference=text_of(header, "FrameOfReferenceUID"),
        patient=text_of(header, "PatientID"),
        patient_name=text_of(header, "PatientName"),
        modality=text_of(header, "Modality"),
        image_type=text_of(header, "ImageType").upper(),
        description=text_of(header, "SeriesDescription"),
        photometric=text_of(header, "PhotometricInterpretation"),
        size=(int(header.Columns), int(header.Rows)),
        frames=int(header.get("NumberOfFrames") or 1),
        spacing=spacing[::-1],
        position=numbers_of(header, "ImagePositionPatient", 3),
        axes=numbers_of(header, "ImageOrientationPatient", 6),
    )


def functional_group(header: Dataset, frame: int, macro: str) -> Dataset:
    """Return what a multi-frame object says of one frame, counted from 0; empty if it says nothing.

    `macro` is the keyword of a functional group without its ending, such as PlanePosition. What is said of the frame
    goes before what is said of all frames.
    """
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        if items := groups.get(f"{macro}Sequence"):
            return items[0]
    return Dataset()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep pydicom and highdicom silent: what the standard does not allow is none of our concern.

    Their warnings quote values, PatientName included.
    """
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _lacks_preamble(path: Path) -> bool:
    """Return whether a file begins as a data set does without the preamble that says DICM."""
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] != b"DICM" and head[:4] in (b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0", b"\x08\0\x16\0")


def _fits(header: Dataset, bytes_in_file: int) -> bool:
    """Return whether no element, those in sequences included, claims to end behind the file."""
    for tag in list(header.keys()):
        raw = header.get_item(tag)
        if (
            isinstance(raw, RawDataElement)
            and raw.length != _UNDEFINED_LENGTH
            and raw.value_tell + raw.length > bytes_in_file
        ):
            return False
        vr = raw.VR or (dictionary_has_tag(tag) and dictionary_VR(tag))
        if vr == "SQ" and not all(_fits(item, bytes_in_file) for item in header[tag].value):
            return False
    return True


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


def _refuse_folder(error: OSError) -> None:
    raise RectalError(f"Folder {error.filename} cannot be read: {error.strerror}.")
