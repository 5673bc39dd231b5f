"""Select and stack DICOM series.

A series is what shares a SeriesInstanceUID, wherever its files lie and whatever they are called.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from rectal_nnformer.dicom.files import files_below, read_header, should_be_slice
from rectal_nnformer.dicom.outlines import Outlines, outlines_of
from rectal_nnformer.dicom.parts import SAME_PLACE_MM, parts_of
from rectal_nnformer.dicom.slices import Slice, copy_pixels, slices_of
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import itk_message
from rectal_nnformer.nnunet.names import PLANES
from rectal_nnformer.utils.text import plural

# No stack of T2-weighted slices through a rectum is thinner; scouts often are.
MIN_SLICES = 8
# Slice positions are decimal numbers of a few digits; a slice further off than this share of the gap is not in line.
POSITION_TOLERANCE = 0.05
# Of spacings that are written with other numbers of digits.
SPACING_TOLERANCE = 1e-4
GREY = ("MONOCHROME1", "MONOCHROME2", "")
# OT is what software writes that exports images without saying what they are.
MODALITIES = ("MR", "OT", "")


@dataclass(frozen=True)
class DicomSeries:
    """A stack of slices in the order of their positions along the normal (row x column), from a file each or from one.

    Attributes:
        slices: What the header of each slice says.
        spacing: X, y, z in mm.
        origin: Centre of the first voxel, LPS, mm.
        direction: Direction cosines, row-major 3 x 3, columns are the axes.
    """

    slices: tuple[Slice, ...]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.slices[0].series_uid

    @property
    def patient(self) -> str:
        """PatientID; empty if the header has none."""
        return self.slices[0].patient

    @property
    def patient_name(self) -> str:
        """PatientName; never written."""
        return self.slices[0].patient_name

    @property
    def study(self) -> str:
        """StudyInstanceUID; empty if the header has none."""
        return self.slices[0].study_uid

    @property
    def description(self) -> str:
        """SeriesDescription, and what tells this part of the series from others of the same places."""
        return self.slices[0].description

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID: series that share it lie in one space. Empty if the header has none."""
        return self.slices[0].frame_of_reference

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of each slice."""
        return tuple(s.path for s in self.slices)

    @property
    def numbers(self) -> list[int]:
        """How viewers number the slices: by InstanceNumber or frame, or from 1 where that does not tell them apart."""
        told = [s.number for s in self.slices if s.number is not None]
        return told if len(set(told)) == len(self.slices) else list(range(1, len(self.slices) + 1))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns: the shape of an array of the voxels (z, y, x)."""
        columns, rows = self.slices[0].size
        return len(self.slices), rows, columns

    @property
    def affine(self) -> NDArray[np.float64]:
        """The 4 x 4 matrix that turns voxel indices (x, y, z, 1) into patient coordinates (LPS, mm)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def folder(self) -> Path:
        """The folder of the first slice."""
        return self.files[0].parent

    def read(self) -> sitk.Image:
        """Return the volume, float32, with the geometry that the slices' headers tell.

        Each slice has its own slope and intercept applied.

        Raises:
            RectalError: A file cannot be read.
        """
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        # The first file's type would cut off or wrap what slices of another slope, intercept, depth or sign hold.
        reader.SetOutputPixelType(sitk.sitkFloat32)
        with TemporaryDirectory(prefix="rectal_nnformer_") as folder:
            copies = [Path(folder) / f"{number}.dcm" for number in range(len(self.slices))]
            wanted: defaultdict[Path, dict[Path, int | None]] = defaultdict(dict)
            for s, copy in zip(self.slices, copies, strict=True):
                wanted[s.path][copy] = s.frame
            for path, frames in wanted.items():
                copy_pixels(path, frames)
            reader.SetFileNames(list(map(str, copies)))
            try:
                image = reader.Execute()
            except RuntimeError as error:
                raise RectalError(f"series in {self.folder} cannot be read ({itk_message(error)})") from None
        return self._on_grid(image)

    def image_of(self, array: NDArray[Any]) -> sitk.Image:
        """Return an array (z, y, x) of the shape of the series as an image on its grid."""
        return self._on_grid(sitk.GetImageFromArray(array))

    def _on_grid(self, image: sitk.Image) -> sitk.Image:
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Findings:
    """What a tree of folders holds.

    Attributes:
        ignored: Series that were not selected, by UID: folder and reason.
        broken: Selected series with an error, by UID: folder and reason.
        unreadable: Files that should be slices but cannot be read.
        others: Files that are not DICOM images.
        outlines: Segmentations and structure sets.
        hidden: Hidden files and folders, which were not looked into.
    """

    series: list[DicomSeries] = field(default_factory=list)
    ignored: dict[str, tuple[Path, str]] = field(default_factory=dict)
    broken: dict[str, tuple[Path, str]] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    outlines: list[Outlines] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)


def find_outlines(folder: Path, hidden: list[Path] | None = None) -> list[Outlines]:
    """Return the segmentations and structure sets in a folder and all folders in it, in the order of their paths.

    Hidden files and folders are left aside, and added to `hidden`.

    Raises:
        RectalError: A folder cannot be read.
    """
    headers = ((path, read_header(path)) for path in files_below(folder, hidden))
    return [o for path, header in headers if header is not None and (o := outlines_of(path, header)) is not None]


def series_of(outlines: Outlines, series: Sequence[DicomSeries]) -> list[DicomSeries]:
    """Return those of some series on which outlines lie.

    The object's references to series decide; if it has none, those to images; if it has none either, its frame of
    reference, which several series may share.
    """
    if outlines.series_uids:
        return [s for s in series if s.uid in outlines.series_uids]
    if outlines.instance_uids:
        return [s for s in series if any(one.instance_uid in outlines.instance_uids for one in s.slices)]
    return [s for s in series if s.frame_of_reference in outlines.frames_of_reference]


def check_frame_of_reference(uid: str, what: str, series: DicomSeries) -> None:
    """Raise RectalError if something lies in another space than a series by the UIDs; either may tell none."""
    if uid and series.frame_of_reference and uid != series.frame_of_reference:
        raise RectalError(
            f"{what} lies in another frame of reference than the series in {series.folder}; register the images, and "
            "export it again"
        )


def find_series(folder: Path, planes: Sequence[str] = ("axial",), description: str | None = None) -> Findings:
    """Look through a folder and all folders in it, or a single file, for stacks of MR slices.

    Oblique planes count as the nearest. With `description` only series are taken whose SeriesDescription matches this
    regular expression, in any case; of series with several images of each place `parts_of` says what is added to it.

    Raises:
        RectalError: A folder is missing or cannot be read, or `description` is not a regular expression.
    """
    if not folder.exists():
        raise RectalError(f"{folder} is not a folder.")
    try:
        re.compile(description or "")
    except re.error as error:
        raise RectalError(f"--description '{description}' is not a regular expression: {error}.") from None
    findings = Findings()
    groups: dict[str, list[Slice]] = defaultdict(list)
    for path in tqdm(list(files_below(folder, findings.hidden)), desc="reading DICOM headers", unit="file"):
        header = read_header(path)
        if header is not None and (outlines := outlines_of(path, header)) is not None:
            findings.outlines.append(outlines)
        elif header is not None and (slices := slices_of(path, header)):
            groups[slices[0].series_uid] += slices
        elif should_be_slice(path):
            findings.unreadable.append(path)
        else:
            findings.others.append(path)
    for uid, slices in sorted(groups.items(), key=lambda item: item[1][0].path):
        where = slices[0].path.parent
        try:
            found = _wanted_part(slices, planes, description)
            if isinstance(found, str):
                findings.ignored[uid] = where, found
            else:
                findings.series.append(stack(found))
        except RectalError as error:
            findings.broken[uid] = where, str(error)
    return findings


def _wanted_part(slices: Sequence[Slice], planes: Sequence[str], description: str | None) -> Sequence[Slice] | str:
    """Return the slices of a series to stack, with several images of each place those that are chosen, or why none.

    Raises:
        RectalError: Several parts of the series are chosen, or what is chosen cannot be right.
    """
    parts = parts_of(slices)
    reasons = [_reason_to_ignore(part, planes, description) for part in parts]
    chosen = [part for part, reason in zip(parts, reasons, strict=True) if not reason]
    if not chosen:
        return reasons[0]
    if len(chosen) > 1:
        names = [part[0].description for part in chosen]
        told_apart = re.escape(names[-1].rpartition("[")[2]).replace(r"\ ", " ")
        raise RectalError(
            f"{len(chosen)} images of each place: {', '.join(names)}; choose with --description or --channels, say "
            f"'{told_apart}'"
        )
    return chosen[0]


def plane_of(axes: Sequence[float]) -> str:
    """Return the plane nearest to that of a slice, from its unit vectors along row and column in LPS."""
    return PLANES[int(np.abs(_normal(axes)).argmax())]


def stack(slices: Sequence[Slice]) -> DicomSeries:
    """Put the slices of one series, at least two, of one frame each, with positions and one orientation, in order.

    Raises:
        RectalError: They differ in size, spacing or patient, two lie in one place, one is missing, or they do not
            lie one above the other.
    """
    first = slices[0]
    if first.photometric not in GREY:
        raise RectalError(f"its pixels are colours ({first.photometric}), not grey values; choose another series")
    for what in ("size", "photometric", "patient"):
        if any(getattr(s, what) != getattr(first, what) for s in slices):
            values = "" if what == "patient" else f" ({getattr(first, what)} and others)"
            raise RectalError(f"slices of one series differ in {what}{values}; export it again")
    if not all(np.allclose(s.spacing, first.spacing, rtol=SPACING_TOLERANCE, atol=0) for s in slices):
        raise RectalError(f"slices of one series differ in spacing ({first.spacing} and others); export it again")
    axes = np.array(first.axes).reshape(2, 3)
    normal = _normal(axes)
    ordered = sorted(slices, key=lambda s: (float(np.dot(normal, s.position)), s.path, s.frame or 0))
    positions = np.array([s.position for s in ordered])
    gap = _check_gaps(positions, normal, ordered)
    return DicomSeries(
        slices=tuple(ordered),
        spacing=(first.spacing[0], first.spacing[1], gap),
        origin=(float(positions[0, 0]), float(positions[0, 1]), float(positions[0, 2])),
        direction=tuple(np.stack([*axes, normal], axis=1).ravel().tolist()),
    )


def _check_gaps(positions: NDArray[np.float64], normal: NDArray[np.float64], slices: Sequence[Slice]) -> float:
    """Return the distance of neighbouring slices, mm; raise if it is not the same throughout and along the normal."""
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    median = float(np.median(gaps))
    tolerance = POSITION_TOLERANCE * median
    for i, gap in enumerate(gaps):
        if gap < SAME_PLACE_MM:
            raise RectalError(
                f"{slices[i].where} and {slices[i + 1].where} lie in the same place: a copy, or a series with several "
                "images per slice (diffusion, dynamic); take it away, or choose series with --description"
            )
        if abs(gap - median) > tolerance:
            raise RectalError(
                f"slices are missing or unevenly spaced: {gap:.2f} mm between {slices[i].name} and "
                f"{slices[i + 1].name}, elsewhere {median:.2f} mm; export it again"
            )
    if np.abs(steps - gaps[:, None] * normal).max() > tolerance:
        raise RectalError("slices do not lie straight above each other (sheared stack); export it again")
    return float(gaps.mean())


def _reason_to_ignore(slices: Sequence[Slice], planes: Sequence[str], description: str | None) -> str:
    """Return why a series is not selected; empty if it is.

    It is selected if it holds a stack: enough wanted slices of one orientation.

    Raises:
        RectalError: The series is selected, but not all that bears its UID belongs to the stack.
    """
    reasons = {s: _why_unwanted(s, planes, description) for s in slices}
    wanted = [s for s, reason in reasons.items() if not reason]
    if not wanted:
        return Counter(reasons.values()).most_common(1)[0][0]
    if any(s.frames > 1 for s in wanted):
        raise RectalError(
            "multi-frame DICOM is not read where it does not tell the place of each frame; convert it to NIfTI and use "
            "convert nifti, or choose other series with --description"
        )
    if not slices[0].series_uid:
        raise RectalError(
            f"{plural(len(wanted), 'MR slice')} without SeriesInstanceUID, such as {wanted[0].name}, so that it "
            "is unknown where they belong; export them again, or take them away"
        )
    groups: list[list[Slice]] = []
    for s in wanted:
        group = next((g for g in groups if np.allclose(g[0].axes, s.axes, atol=1e-3)), None)
        if group is None:
            groups.append([s])
        else:
            group.append(s)
    largest = max(groups, key=len)
    parallel = set(largest)
    if len(parallel) < MIN_SLICES:
        return f"{plural(len(parallel), 'slice')} of one wanted orientation, fewer than {MIN_SLICES}"
    odd = [s for s in slices if s not in parallel]
    if odd:
        raise RectalError(
            f"{len(parallel)} of its {len(slices)} slices make a stack, and the rest does not fit ({odd[0].name}: "
            f"{reasons[odd[0]] or 'another orientation'}); take that away, or choose series with --description"
        )
    return ""


def _why_unwanted(s: Slice, planes: Sequence[str], description: str | None) -> str:
    """Return why a slice is not wanted; empty if it is."""
    if s.modality not in MODALITIES:
        return f"modality {s.modality}"
    if description is not None and not re.search(description, s.description, re.IGNORECASE):
        return f"description '{s.description}' does not match"
    if "LOCALIZER" in s.image_type:
        return "localizer"
    computed = (s.frames > 1 or s.frame is not None) and re.search("DERIVED|SECONDARY", s.image_type)
    if s.frames > 1:
        return "multi-frame and not original (ImageType); convert it to NIfTI if it is meant" if computed else ""
    if computed and description is None:
        return "multi-frame and not original (ImageType); choose it with --description if it is meant"
    if not (s.position and s.axes and s.spacing):
        return "no slice position, orientation or pixel spacing"
    plane = plane_of(s.axes)
    return "" if plane in planes else f"{plane} plane (add --planes {plane} to take it)"


def _normal(axes: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    row, column = np.asarray(axes, dtype=np.float64).reshape(2, 3)
    return np.cross(row, column)
