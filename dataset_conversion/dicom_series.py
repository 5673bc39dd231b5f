"""Finding DICOM series in any nesting of folders and stacking their slices.

Everything is read with SimpleITK. A series is what shares a SeriesInstanceUID, wherever its files lie and whatever they
are called.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from rectal_nnformer.dataset_conversion.images import itk_message
from rectal_nnformer.errors import RectalError

PLANES = ("sagittal", "coronal", "axial")
# No stack of T2-weighted slices through a rectum is thinner; scouts often are.
MIN_SLICES = 8
# Slice positions are decimal numbers of a few digits; a slice further off than this share of the gap is not in line.
POSITION_TOLERANCE = 0.05
# PixelSpacing and what stands in for it in projections and exports; without them the reader makes up 1 mm.
SPACING_TAGS = ("0028|0030", "0018|1164", "0018|2010")
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


@dataclass(frozen=True)
class Slice:
    """What the header of one DICOM file says; what it does not say is empty.

    Attributes:
        path: The file.
        series_uid: SeriesInstanceUID.
        patient: PatientID.
        modality: Modality.
        image_type: ImageType, values separated by backslashes.
        description: SeriesDescription.
        size: Columns, rows, frames.
        spacing: Distance of columns and of rows, mm.
        position: Centre of the first voxel in patient coordinates (LPS), mm.
        axes: Unit vectors along a row, then along a column.
    """

    path: Path
    series_uid: str
    patient: str
    modality: str
    image_type: str
    description: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    axes: tuple[float, ...]


@dataclass(frozen=True)
class DicomSeries:
    """A stack of slices in the order of their positions along the normal (row x column).

    Attributes:
        uid: SeriesInstanceUID.
        patient: PatientID; empty if the header has none.
        files: One file per slice.
        spacing: x, y, z in mm.
        origin: Centre of the first voxel, LPS, mm.
        direction: Direction cosines, row-major 3 x 3, columns are the axes.
    """

    uid: str
    patient: str
    files: tuple[Path, ...]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @property
    def folder(self) -> Path:
        """The folder of the first slice."""
        return self.files[0].parent

    def read(self) -> sitk.Image:
        """Return the volume, with the geometry that the slices' headers tell.

        Raises:
            RectalError: a file cannot be read.
        """
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames([str(f) for f in self.files])
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise RectalError(f"series in {self.folder} cannot be read ({itk_message(error)})") from None
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Findings:
    """What a tree of folders holds.

    Attributes:
        series: Series to convert.
        ignored: Series that are not meant, by UID: folder and reason.
        broken: Series that are meant but cannot be right, by UID: folder and reason.
        unreadable: Files that should be slices but cannot be read.
        others: Files that are not DICOM images.
    """

    series: list[DicomSeries] = field(default_factory=list)
    ignored: dict[str, tuple[Path, str]] = field(default_factory=dict)
    broken: dict[str, tuple[Path, str]] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find_series(folder: Path, planes: Sequence[str] = ("axial",), description: str | None = None) -> Findings:
    """Look through a folder and all folders in it for stacks of MR slices.

    Args:
        folder: Where to look.
        planes: Which acquisition planes to take: axial, sagittal, coronal; oblique ones count as the nearest.
        description: Take only series whose SeriesDescription matches this regular expression, in any case.

    Raises:
        RectalError: a folder is missing or cannot be read, or `description` is not a regular expression.
    """
    if not folder.is_dir():
        raise RectalError(f"{folder} is not a folder.")
    try:
        re.compile(description or "")
    except re.error as error:
        raise RectalError(f"--description '{description}' is not a regular expression: {error}.") from None
    findings = Findings()
    groups: dict[str, list[Slice]] = defaultdict(list)
    for path in tqdm(list(_files(folder)), desc="reading DICOM headers", unit="file"):
        slice_ = read_slice(path)
        if slice_ is not None:
            groups[slice_.series_uid].append(slice_)
        elif _should_be_slice(path):
            findings.unreadable.append(path)
        else:
            findings.others.append(path)
    for uid, slices in sorted(groups.items(), key=lambda item: item[1][0].path):
        where = slices[0].path.parent
        if reason := _reason_to_ignore(slices, planes, description):
            findings.ignored[uid] = where, reason
            continue
        try:
            findings.series.append(stack(slices))
        except RectalError as error:
            findings.broken[uid] = where, str(error)
    return findings


def read_slice(path: Path) -> Slice | None:
    """Read the header of one file; None if it is not a DICOM image."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None

    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    return Slice(
        path=path,
        series_uid=text("0020|000e"),
        patient=text("0010|0020"),
        modality=text("0008|0060"),
        image_type=text("0008|0008").upper(),
        description=text("0008|103e"),
        size=tuple(reader.GetSize()),
        spacing=tuple(reader.GetSpacing())[:2] if any(map(text, SPACING_TAGS)) else (),
        position=_numbers(text("0020|0032"), 3),
        axes=_numbers(text("0020|0037"), 6),
    )


def plane_of(axes: Sequence[float]) -> str:
    """Return the plane nearest to that of a slice, from its unit vectors along row and column in LPS."""
    return PLANES[int(np.abs(_normal(axes)).argmax())]


def stack(slices: Sequence[Slice]) -> DicomSeries:
    """Put the slices of one series in order.

    Args:
        slices: At least two, with positions and one orientation.

    Raises:
        RectalError: they differ in size, spacing or patient, two lie in one place, one is missing, or they do not
            lie one above the other.
    """
    first = slices[0]
    if any(s.size[2:] not in ((), (1,)) for s in slices):
        raise RectalError("multi-frame DICOM is not supported; convert it to NIfTI, then use convert nifti")
    for what in ("size", "spacing", "patient"):
        if any(getattr(s, what) != getattr(first, what) for s in slices):
            values = "" if what == "patient" else f" ({getattr(first, what)} and others)"
            raise RectalError(f"slices of one series differ in {what}{values}; export it again")
    axes = np.array(first.axes).reshape(2, 3)
    normal = _normal(axes)
    ordered = sorted(slices, key=lambda s: (float(np.dot(normal, s.position)), s.path))
    positions = np.array([s.position for s in ordered])
    gap = _check_gaps(positions, normal, [s.path.name for s in ordered])
    return DicomSeries(
        uid=first.series_uid,
        patient=first.patient,
        files=tuple(s.path for s in ordered),
        spacing=(first.spacing[0], first.spacing[1], gap),
        origin=(float(positions[0, 0]), float(positions[0, 1]), float(positions[0, 2])),
        direction=tuple(np.stack([*axes, normal], axis=1).ravel().tolist()),
    )


def _check_gaps(positions: NDArray[np.float64], normal: NDArray[np.float64], names: Sequence[str]) -> float:
    """Return the distance of neighbouring slices, mm; raise if it is not the same throughout and along the normal."""
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    median = float(np.median(gaps))
    tolerance = POSITION_TOLERANCE * median
    for i, gap in enumerate(gaps):
        if gap < 0.01:
            raise RectalError(
                f"{names[i]} and {names[i + 1]} lie in the same place: a copy, or a series with several images per "
                "slice (diffusion, dynamic); take it away, or choose series with --description"
            )
        if abs(gap - median) > tolerance:
            raise RectalError(
                f"slices are missing or unevenly spaced: {gap:.2f} mm between {names[i]} and {names[i + 1]}, "
                f"elsewhere {median:.2f} mm; export it again"
            )
    if np.abs(steps - gaps[:, None] * normal).max() > tolerance:
        raise RectalError("slices do not lie straight above each other (sheared stack); export it again")
    return float(gaps.mean())


def _reason_to_ignore(slices: Sequence[Slice], planes: Sequence[str], description: str | None) -> str | None:
    """Return why a series is not meant, or None."""
    first = slices[0]
    if not first.series_uid:
        return "no SeriesInstanceUID"
    # OT is what software writes that exports images without saying what they are.
    if first.modality not in ("MR", "OT", ""):
        return f"modality {first.modality}"
    if description is not None and not re.search(description, first.description, re.IGNORECASE):
        return f"description '{first.description}' does not match"
    if any("LOCALIZER" in s.image_type for s in slices):
        return "localizer"
    if any(s.size[2:] not in ((), (1,)) for s in slices):
        return None
    if not all(s.position and s.axes and s.spacing for s in slices):
        return "no slice position, orientation or pixel spacing"
    if any(not np.allclose(s.axes, first.axes, atol=1e-3) for s in slices):
        return "slices in several orientations, as in a localizer"
    if len(slices) < MIN_SLICES:
        return f"{len(slices)} slices, fewer than {MIN_SLICES}"
    plane = plane_of(first.axes)
    return None if plane in planes else f"{plane} plane (add --planes {plane} to take it)"


def _normal(axes: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    row, column = np.asarray(axes, dtype=np.float64).reshape(2, 3)
    return np.cross(row, column)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def _should_be_slice(path: Path) -> bool:
    """Return whether a file that cannot be read as an image claims to be an MR slice, by its meta header or suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except OSError:
        return True
    storage = re.search(rb"\x02\x00\x02\x00UI..([\d.]+)", head, re.DOTALL)
    if head[128:132] == b"DICM" and storage:
        return storage[1].decode().startswith(MR_STORAGE)
    return path.suffix.lower() in (".dcm", ".ima")


def _files(folder: Path) -> Iterator[Path]:
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
