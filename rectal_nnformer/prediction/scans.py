"""Scans to predict: image files of any name or DICOM series, found, checked, and brought into nnU-Net's form."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.channels import ResampledSeries, any_of, coverage_note, images_of_studies
from rectal_nnformer.dataset_conversion.dicom import case_names, place_of
from rectal_nnformer.dataset_conversion.images import ImageFile, ImageSource, stem, write_image
from rectal_nnformer.dicom.files import files_below
from rectal_nnformer.dicom.series import DicomSeries, find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import geometry_problems, has_text_header, in_order_of, read_image
from rectal_nnformer.imaging.volumes import VolumeCheck, check_volume, image_problems, slices_of
from rectal_nnformer.imaging.voxel_data import locate_voxels
from rectal_nnformer.nnunet.layout import image_name
from rectal_nnformer.nnunet.names import IMAGE_SUFFIXES
from rectal_nnformer.utils.files import kind_of
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import plural, some

SCANS_PER_PROCESS = 8
"""Starting a process takes as long as checking so many scans."""


@dataclass
class Scans:
    """The scans of a place, as a model reads them.

    Attributes:
        cases: Images of each case that is complete, one per channel.
        unusable: Why each other case is not predicted.
        left_aside: Why each other entry of the folder is no scan.
        series: SeriesInstanceUID of each name here that stands for a DICOM series.
        untold: Folder whose files and folders no message names; None if all may be named.
    """

    cases: dict[str, list[ImageSource]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    left_aside: dict[str, str] = field(default_factory=dict)
    series: dict[str, str] = field(default_factory=dict)
    untold: Path | None = None

    def told(self, message: str, where: Path | None = None) -> str:
        """Return a message, of files in some folder, without the names that are not to be told."""
        return without_names(message, self.untold, where) if message and self.untold else message


def find_scans(
    place: Path,
    num_channels: int,
    planes: Sequence[str] = ("axial",),
    description: str | None = None,
    keep_names: bool = False,
    series_of_channels: Mapping[str, str] | None = None,
) -> Scans:
    """Sort what lies in a folder, or take a single file.

    Images are NIfTI, NRRD or MetaImage files called `<case>_0000`, `<case>_0001` and so on by their channel. For a
    model of one channel any name will do. Where no such file is there, DICOM series are looked for, at any depth, for
    several channels only if it is said which series they are.

    Args:
        place: An existing folder or file.
        num_channels: How many images a case has.
        planes: Which acquisition planes of DICOM series to take: axial, sagittal, coronal.
        description: Take only DICOM series whose SeriesDescription matches this regular expression, in any case.
        keep_names: Whether DICOM series are called by their folders, whose names often are patients'.
        series_of_channels: In place of `description` a regular expression for each channel, by its name. The other
            series of a study are brought onto the grid of the first.

    Raises:
        RectalError: There is no image; says what is there and what would fit.
    """
    scans, channels, folders = Scans(), defaultdict[str, dict[int, Path]](dict), 0
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        if path.name.startswith("."):
            scans.left_aside[path.name] = "a hidden file of the system"
        elif not path.name.lower().endswith(IMAGE_SUFFIXES):
            if path.is_dir():
                folders += 1  # which often are called as patients are
            else:
                scans.left_aside[path.name] = f"not one of {' '.join(IMAGE_SUFFIXES)}"
        elif kind := kind_of(path):
            scans.unusable[path.name] = f"is {kind}"
        elif numbered is None and num_channels > 1:
            scans.left_aside[path.name] = "without the number of a channel at the end of its name, as in <case>_0000"
        else:
            case, channel = (numbered[1], int(numbered[2])) if numbered else (stem(path), 0)
            if channel in channels[case]:
                scans.unusable[case] = f"{channels[case][channel].name} and {path.name} are both its channel {channel}"
            channels[case][channel] = path
    for case, found in sorted(channels.items()):
        if sorted(found) == list(range(num_channels)):
            scans.cases[case] = [ImageFile(found[number]) for number in range(num_channels)]
        else:
            numbers = ", ".join(f"{number:04d}" for number in sorted(found))
            scans.unusable[case] = (
                f"has the channels {numbers}, but the model reads {num_channels}, from 0000 on; four digits at the end "
                "of a name are a channel: rename it if they are not meant so"
            )
    for case in scans.unusable.keys() & scans.cases.keys():
        del scans.cases[case]
    if folders:
        reason = "not looked into beside image files; for DICOM series name a folder without such files"
        scans.left_aside[plural(folders, "folder")] = reason
    is_dicom_told = num_channels == 1 or bool(series_of_channels)
    if not channels and not scans.unusable and is_dicom_told:
        series = _find_series(place, planes, description, keep_names, series_of_channels or {})
        if series.series or series.unusable:
            return series
    if not channels and not scans.unusable:
        others = some(list(scans.left_aside)) or "nothing"
        dicom = "and no DICOM series" if is_dicom_told else "and for DICOM say by --channels which series are which"
        raise RectalError(
            f"{place} holds no scan ({' '.join(IMAGE_SUFFIXES)}), but {others}, {dicom}. "
            "Name a folder of scans, or one scan, with -i."
        )
    return scans


def series_name(uid: str) -> str:
    """Return what a series is called without telling whose it is: the same anywhere, and whatever is beside it."""
    return f"series_{hashlib.sha256(uid.encode()).hexdigest()[:12]}" if uid else "series without SeriesInstanceUID"


def _find_series(
    folder: Path, planes: Sequence[str], description: str | None, keep_names: bool, channels: Mapping[str, str]
) -> Scans:
    findings = find_series(folder, planes, any_of(channels) if channels else description)
    images: dict[str, tuple[DicomSeries | ResampledSeries, ...]] = {s.uid: (s,) for s in findings.series}
    incomplete: list[tuple[DicomSeries, str]] = []
    if channels:
        images, incomplete = images_of_studies(findings.series, channels)
    others = {**findings.ignored, **findings.broken}
    if keep_names:
        names = case_names(findings.series) | {uid: place_of(uid, where) for uid, (where, _) in others.items()}
    else:
        names = {uid: series_name(uid) for uid in (*(s.uid for s in findings.series), *others)}
    scans = Scans(
        cases={names[uid]: list(of_case) for uid, of_case in images.items()},
        left_aside={
            names[uid]: reason if keep_names else re.sub(r"^description '.*' does", "its description does", reason)
            for uid, (_, reason) in findings.ignored.items()
        },
        series={name: uid for uid, name in names.items()},
        untold=None if keep_names else folder,
    )
    if findings.hidden:
        scans.left_aside[plural(len(findings.hidden), "hidden file")] = "of the system"
    scans.unusable = {names[uid]: scans.told(reason, where) for uid, (where, reason) in findings.broken.items()}
    scans.unusable |= {names[series.uid]: scans.told(reason, series.folder) for series, reason in incomplete}
    if findings.unreadable and not keep_names:
        number = plural(len(findings.unreadable), "file")
        scans.unusable[number] = "cannot be read as DICOM; --keep-names tells which"
    elif findings.unreadable:
        scans.unusable |= {str(path): "cannot be read as DICOM" for path in findings.unreadable}
    return scans


def without_names(message: str, folder: Path, where: Path | None = None) -> str:
    """Return a message without names from below a folder: they become 'its folder' and 'file 3', counted by name.

    Files that a message names without their folder are counted in the folder `where`.
    """
    names: dict[str, str] = {}
    count: Counter[Path] = Counter()
    for path in files_below(folder):
        count[path.parent] += 1
        number = f"file {count[path.parent]}"
        names |= {str(path.parent): "its folder", str(path): number}
        names[path.name] = number if path.parent == where else names.get(path.name, "a file")
    for name in sorted(names, key=len, reverse=True):
        # Numbers of a few digits tell nobody, and stand in messages for other things.
        if name in message and (len(name) > 4 or re.search(r"[^\d.]", name)):
            message = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], message)
    return message


def processes_for(num_scans: int) -> int:
    """Return how many processes go through so many scans."""
    return min(os.cpu_count() or 1, num_scans // SCANS_PER_PROCESS)


def prepare_scans(scans: Scans, folder: Path, ending: str) -> dict[str, list[VolumeCheck]]:
    """Check every image and put those that can be used into a folder as nnU-Net reads them.

    Cases that cannot be used are moved to `scans.unusable`; returned is what was found in the others.
    """
    found = dict(
        zip(
            scans.cases,
            map_with_progress(
                partial(_prepare, folder=folder, ending=ending),
                list(scans.cases.items()),
                processes_for(sum(map(len, scans.cases.values()))),
                "Checking scans",
            ),
            strict=True,
        )
    )
    for case, checks in found.items():
        if problems := [check.problem for check in checks if check.problem]:
            scans.unusable[case] = scans.told("; ".join(problems))
            del scans.cases[case]
            for channel in range(len(checks)):
                (folder / image_name(case, ending, channel)).unlink(missing_ok=True)
    return {case: found[case] for case in scans.cases}


def _prepare(case: tuple[str, Sequence[ImageSource]], folder: Path, ending: str) -> list[VolumeCheck]:
    name, images = case
    targets = [folder / image_name(name, ending, channel) for channel in range(len(images))]
    checks = [_prepare_image(image, target, ending) for image, target in zip(images, targets, strict=True)]
    if len(images) == 1 or any(check.problem for check in checks):
        return checks
    first = read_image(targets[0])
    return [checks[0], *(_onto_first(*channel, first) for channel in zip(checks[1:], targets[1:], strict=True))]


def _onto_first(check: VolumeCheck, target: Path, first: sitk.Image) -> VolumeCheck:
    """Check that a channel has the grid of the first, and write it anew where its axes have another order."""
    image = read_image(target)
    in_order = in_order_of(image, first)
    if problems := geometry_problems(first, in_order, str(check.path), "channel 0"):
        return replace(check, problem="; ".join(problems))
    if in_order is not image:
        target.unlink()
        write_image(in_order, target)
    return check


def _prepare_image(image: ImageSource, target: Path, ending: str) -> VolumeCheck:
    """Check an image, and link it, or write it where it is of another format."""
    if isinstance(image, ImageFile):
        check = check_volume(image.path)
        if check.problem:
            return check
        alone = not has_text_header(image.path) or locate_voxels(image.path).files == (image.path,)
        if image.path.name.endswith(ending) and alone:
            target.symlink_to(image.path.resolve())
            return check
    covered = 1.0
    try:
        if isinstance(image, ResampledSeries):
            volume, covered = image.resample()
        else:
            volume = image.read()
    except RectalError as error:
        return VolumeCheck(target, str(error))
    if problems := image_problems(volume):
        return VolumeCheck(target, "; ".join(problems))
    write_image(volume, target)
    note = check.note if isinstance(image, ImageFile) else coverage_note(target.name, covered)
    return VolumeCheck(target, "", note, volume.GetSize(), slices_of(volume))
