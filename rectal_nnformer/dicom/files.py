"""Find files in nested folders and read DICOM headers."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileDataset, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue

from rectal_nnformer.errors import RectalError

# SOP classes of MR images: classic, enhanced, legacy converted enhanced. Others with such a beginning are no images.
MR_STORAGE = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")

_KEPT_BYTES = 4096
"""Longer values, pixels foremost, stay in the file."""
_UNDEFINED_LENGTH = 0xFFFFFFFF


def read_header(path: Path) -> FileDataset | None:
    """Read the header of one file; long values stay in the file until they are asked for.

    Returns:
        None if it is not DICOM, or claims what cannot be in it.
    """
    if not path.is_file():  # a pipe would be waited for
        return None
    with without_warnings():
        try:
            header = dcmread(path, defer_size=_KEPT_BYTES, force=lacks_preamble(path))
            return header if _fits(header, path.stat().st_size) else None
        except Exception:  # pydicom raises many kinds on what is damaged
            return None


def text_of(header: Dataset, keyword: str) -> str:
    """Return a value as text, several separated by backslashes, without padding; empty if there is none."""
    value = header.get(keyword)
    parts = value if isinstance(value, MultiValue | list) else [value]
    return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")


def numbers_of(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return the finite numbers that a value holds; empty if it does not hold so many."""
    try:
        values = tuple(float(part) for part in text_of(header, keyword).split("\\"))
    except ValueError:
        return ()
    return values if len(values) == count and np.isfinite(values).all() else ()


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


def lacks_preamble(path: Path) -> bool:
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
    if path.exists() and not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except OSError:
        return True
    storage = re.search(rb"\x02\x00\x02\x00UI..([\d.]+)", head, re.DOTALL)
    if head[128:132] == b"DICM" and storage:
        return storage[1].decode() in MR_STORAGE
    return path.suffix.lower() in (".dcm", ".ima")


def files_below(folder: Path, hidden: list[Path] | None = None) -> Iterator[Path]:
    """Yield the files in a folder and below it in a fixed order; links to folders are followed, each folder once.

    Of a file it is the file. Hidden files and folders are left aside, and added to `hidden`.
    """
    if folder.is_file():
        yield folder
        return
    seen = set()
    for root, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        aside = sorted(name for name in (*folders, *names) if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        if hidden is not None:
            hidden += (Path(root) / name for name in aside)
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _refuse_folder(error: OSError) -> None:
    raise RectalError(f"Folder {error.filename} cannot be read: {error.strerror}.")
