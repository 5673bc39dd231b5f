"""Scans to predict: image files of any name or DICOM series, found, checked, and brought into nnU-Net's form."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rectal_nnformer.dataset_conversion.dicom import case_names, place_of
from rectal_nnformer.dataset_conversion.images import ImageFile, ImageSource, stem, write_image
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import by
from rectal_nnformer.imaging.volumes import VolumeCheck, check_volume, digest_of, image_problems
from rectal_nnformer.nnunet.layout import image_name
from rectal_nnformer.nnunet.names import IMAGE_SUFFIXES
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import some

SCANS_PER_PROCESS = 8
"""Starting a process takes as long as checking so many scans."""


@dataclass
class Scans:
    """The scans of a place, as a model reads them.

    Attributes:
        cases: Images of each case that is complete, one per channel.
        unusable: Why each other case is not predicted.
        left_aside: Why each other entry of the folder is no scan.
    """

    cases: dict[str, list[ImageSource]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    left_aside: dict[str, str] = field(default_factory=dict)


def find_scans(
    place: Path, num_channels: int, planes: Sequence[str] = ("axial",), description: str | None = None
) -> Scans:
    """Sort what lies in a folder, or take a single file.

    Images are NIfTI, NRRD or MetaImage files called `<case>_0000`, `<case>_0001` and so on by their channel. For a
    model of one channel any name will do, and where no such file is there, DICOM series are looked for, at any depth.

    Args:
        place: An existing folder or file.
        num_channels: How many images a case has.
        planes: Which acquisition planes of DICOM series to take: axial, sagittal, coronal.
        description: Take only DICOM series whose SeriesDescription matches this regular expression, in any case.

    Raises:
        RectalError: There is no image; says what is there and what would fit.
    """
    scans, channels = Scans(), defaultdict[str, dict[int, Path]](dict)
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem(path))
        if path.name.startswith("."):
            scans.left_aside[path.name] = "a hidden file of the system"
        elif not path.name.lower().endswith(IMAGE_SUFFIXES):
            scans.left_aside[path.name] = f"not one of {' '.join(IMAGE_SUFFIXES)}" if path.is_file() else "no file"
        elif not path.is_file():
            scans.unusable[path.name] = "is a link to nothing" if path.is_symlink() else "is no file"
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
    if not channels and not scans.unusable and place.is_dir() and num_channels == 1:
        series = _find_series(place, planes, description)
        if series.cases or series.unusable or series.left_aside:
            return series
    if not channels and not scans.unusable:
        others = some(list(scans.left_aside)) or "nothing"
        raise RectalError(
            f"{place} holds no scan ({' '.join(IMAGE_SUFFIXES)}), but {others}, and no DICOM series. "
            "Name a folder of scans, or one scan, with -i."
        )
    return scans


def _find_series(folder: Path, planes: Sequence[str], description: str | None) -> Scans:
    findings = find_series(folder, planes, description)
    names = case_names(findings.series)
    scans = Scans({names[series.uid]: [series] for series in findings.series})
    scans.unusable = {place_of(uid, where): reason for uid, (where, reason) in findings.broken.items()}
    scans.unusable |= {str(path): "cannot be read as DICOM" for path in findings.unreadable}
    scans.left_aside = {place_of(uid, where): reason for uid, (where, reason) in findings.ignored.items()}
    return scans


def prepare_scans(scans: Scans, folder: Path, ending: str) -> dict[str, list[VolumeCheck]]:
    """Check every image and put those that can be used into a folder as nnU-Net reads them.

    Cases that cannot be used are moved to `scans.unusable`; returned is what was found in the others.
    """
    num_images = sum(map(len, scans.cases.values()))
    found = dict(
        zip(
            scans.cases,
            map_with_progress(
                partial(_prepare, folder=folder, ending=ending),
                list(scans.cases.items()),
                min(os.cpu_count() or 1, num_images // SCANS_PER_PROCESS),
                "Checking scans",
            ),
            strict=True,
        )
    )
    for case, checks in found.items():
        problems = [check.problem for check in checks if check.problem]
        sizes = {check.size for check in checks}
        if not problems and len(sizes) > 1:
            problems = [f"its channels have the sizes {' and '.join(map(by, sorted(sizes)))}"]
        if problems:
            scans.unusable[case] = "; ".join(problems)
            del scans.cases[case]
            for channel in range(len(checks)):
                (folder / image_name(case, ending, channel)).unlink(missing_ok=True)
    return {case: found[case] for case in scans.cases}


def _prepare(case: tuple[str, Sequence[ImageSource]], folder: Path, ending: str) -> list[VolumeCheck]:
    name, images = case
    return [
        _prepare_image(image, folder / image_name(name, ending, channel), ending)
        for channel, image in enumerate(images)
    ]


def _prepare_image(image: ImageSource, target: Path, ending: str) -> VolumeCheck:
    """Check an image, and link it, or write it where it is of another format."""
    if isinstance(image, ImageFile):
        check = check_volume(image.path)
        if image.path.name.endswith(ending):
            target.symlink_to(image.path.resolve())
            return check
        if check.problem:
            return check
    try:
        volume = image.read()
    except RectalError as error:
        return VolumeCheck(target, str(error))
    if problems := image_problems(volume):
        return VolumeCheck(target, "; ".join(problems))
    write_image(volume, target)
    return VolumeCheck(
        target, "", check.note if isinstance(image, ImageFile) else "", volume.GetSize(), digest_of(volume)
    )
