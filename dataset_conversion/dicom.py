"""Convert DICOM series in nested folders to an nnU-Net raw dataset."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rectal_nnformer.dataset_conversion.adding import case_names_in
from rectal_nnformer.dataset_conversion.cases import Case
from rectal_nnformer.dataset_conversion.channels import ResampledSeries, any_of, check_channels, images_of_studies
from rectal_nnformer.dataset_conversion.raw_dataset import convert_cases
from rectal_nnformer.dataset_conversion.series_masks import SeriesMasks, match_masks
from rectal_nnformer.dataset_conversion.target import Options, make_target
from rectal_nnformer.dicom.series import DicomSeries, Findings, find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.text import plural, some

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11


def convert_dicom(
    series: Path,
    masks: Path | None,
    dataset_id: int,
    name: str | None,
    *,
    planes: Sequence[str] = ("axial",),
    description: str | None = None,
    channels: Mapping[str, str] | None = None,
    **options: "Unpack[Options]",
) -> Path:
    """Convert all DICOM series under a folder, and a folder of masks, to `DatasetXXX_Name`; return that folder.

    Args:
        series: Folder with DICOM files, nested and named in any way.
        masks: Folder with DICOM-SEG and RTSTRUCT at any depth, or with a NIfTI, NRRD or MetaImage mask per series
            directly in it, on its grid, 0 background and 1 tumour or as the labels say, named by case, series folder or
            SeriesInstanceUID. DICOM-SEG and RTSTRUCT among the series count as well. None, and no labels: the cases go
            to imagesTs, to be predicted.
        dataset_id: 1 to 999.
        name: Name of the dataset, without number. None: cases are added to the dataset of the id.
        planes: Which acquisition planes to take: axial, sagittal, coronal.
        description: Take only series whose SeriesDescription matches this regular expression, in any case.
        channels: The series of every study that become the channels of a case: names, and regular expressions for their
            SeriesDescription in place of `description`. All are brought onto the grid of the first, on which masks lie.
        **options: See `Options`. Without a list of patients the PatientID of the DICOM headers tells them.

    Raises:
        RectalError: Anything that cannot be right, for all series at once; nothing is written then.
    """
    if channels:
        check_channels(channels, description)
        description = any_of(channels)
    labelled = masks is not None or bool(options.get("labels")) or options.get("test", False) or name is None
    target = make_target(dataset_id, name, labelled, options, tuple(channels or ()))
    if len(target.channels) != len(channels or "1"):
        raise RectalError(
            f"The dataset has the channels {', '.join(target.channels)}: choose their series with --channels."
        )
    findings = find_series(series, planes, description)
    _print_ignored(findings, labelled)
    problems = _problems_of(findings)
    if not findings.series and not problems:
        ignored = (
            f"{len(findings.ignored)} ignored, as listed above"
            if findings.ignored
            else "no DICOM (NIfTI: convert nifti)"
        )
        raise RectalError(f"No series to convert under {series}: {ignored}.")
    images: dict[str, tuple[DicomSeries | ResampledSeries, ...]] = {s.uid: (s,) for s in findings.series}
    if channels:
        images, incomplete = images_of_studies(findings.series, channels)
        for one, reason in incomplete:
            problems[str(one.folder)].append(reason)
        findings = _of_first_channel(findings, images, next(iter(channels)))
    names = case_names(findings.series, case_names_in(target))
    found_masks = match_masks(findings, names, series, masks, target) if labelled else SeriesMasks()
    for key, reasons in found_masks.problems.items():
        problems[key] += reasons
    cases = [
        Case(
            names[s.uid],
            images[s.uid],
            found_masks.sources.get(s.uid),
            s.patient,
            ", ".join(place_of(one.uid, one.folder) for one in images[s.uid]),
            test=target.test or not labelled,
        )
        for s in sorted(findings.series, key=lambda s: names[s.uid])
    ]
    _comment_on_names(names, findings.series)
    return convert_cases(cases, problems, replace(target, are_channels_named=True), found_masks.unmatched)


def case_names(series: Sequence[DicomSeries], taken: Collection[str] = ()) -> dict[str, str]:
    """Return the case name of each SeriesInstanceUID: the name of its folder.

    Where several series would have the same name, or one that is taken, each gets eight digits of a hash of its UID
    added: the same on any machine and whatever else is converted, and without a parent folder's name, which often is
    the patient's.
    """
    names = {s.uid: _plain(s.folder.resolve().name) or "series" for s in series}
    count = Counter([*names.values(), *taken])
    return {
        uid: name if count[name] == 1 else f"{name}_{hashlib.sha256(uid.encode()).hexdigest()[:8]}"
        for uid, name in names.items()
    }


def _of_first_channel(findings: Findings, images: Collection[str], name: str) -> Findings:
    """Return what was found with the series of other channels among the ignored ones: no mask lies on them."""
    others = {
        s.uid: (s.folder, f"masks must lie on the channel {name}") for s in findings.series if s.uid not in images
    }
    first = [s for s in findings.series if s.uid in images]
    return replace(findings, series=first, ignored={**findings.ignored, **others})


def _problems_of(findings: Findings) -> defaultdict[str, list[str]]:
    """Return what cannot be right, by its place: files that cannot be read, and series that cannot be stacked."""
    problems: defaultdict[str, list[str]] = defaultdict(list)
    for path in findings.unreadable:
        problems[str(path)].append("cannot be read as DICOM; copy it again, or take it away")
    for uid, (folder, reason) in findings.broken.items():
        problems[place_of(uid, folder)].append(reason)
    return problems


def _print_ignored(findings: Findings, labelled: bool) -> None:
    for uid, (folder, reason) in findings.ignored.items():
        print(f"Ignored: {place_of(uid, folder)}: {reason}")
    if findings.others:
        print(f"Ignored, not DICOM images: {plural(len(findings.others), 'file')}, such as {findings.others[0]}")
    if findings.hidden:
        print(f"Ignored, hidden: {some(list(map(str, findings.hidden)))}")
    if findings.outlines and not labelled:
        print(
            f"Note: {plural(len(findings.outlines), 'DICOM-SEG or RTSTRUCT file')} not used; to take them as masks, "
            "name this folder with --masks, too."
        )


def _comment_on_names(names: Mapping[str, str], series: Sequence[DicomSeries]) -> None:
    """Say which names of cases may tell a patient's."""
    telling = []
    for s in sorted(series, key=lambda s: names[s.uid]):
        name = names[s.uid]
        # One or two letters are in many a name by chance. Case names hold ASCII letters alone.
        words = [_plain(s.patient), *re.findall("[A-Za-z]+", s.patient_name)]
        if any(word.lower() in name.lower() for word in words if len(word) > 2):
            telling.append(name)
    if telling:
        print(
            f"Note: {plural(len(telling), 'case name')}, taken from folder names, with the DICOM PatientID or part of "
            f"the PatientName in it, such as {telling[0]}. If that identifies anyone, rename the folders and convert "
            "again."
        )


def _plain(text: str) -> str:
    """Return a text with `_` for whatever case names do not hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")


def place_of(uid: str, folder: Path) -> str:
    """Return how a series is called in messages."""
    return f"{folder} (series {uid})" if uid else f"{folder} (no SeriesInstanceUID)"
