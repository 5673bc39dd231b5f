"""Convert DICOM series in nested folders to an nnU-Net raw dataset."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rectal_nnformer.dataset_conversion.images import ImageFile, list_images, stem
from rectal_nnformer.dataset_conversion.raw_dataset import Case, convert_cases
from rectal_nnformer.dataset_conversion.target import Options, Target, dataset_folder
from rectal_nnformer.dicom.series import DicomSeries, Findings, find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.text import plural

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11


def convert_dicom(
    series: Path,
    masks: Path | None,
    dataset_id: int,
    name: str,
    *,
    raw: Path | None = None,
    planes: Sequence[str] = ("axial",),
    description: str | None = None,
    **options: "Unpack[Options]",
) -> Path:
    """Convert all DICOM series under a folder, and a folder of masks, to `DatasetXXX_Name`; return that folder.

    Args:
        series: Folder with DICOM files, nested and named in any way.
        masks: Folder with one NIfTI, NRRD or MetaImage mask per series, on its grid, 0 background and 1 tumour, named
            by case, series folder or SeriesInstanceUID. None: the cases go to imagesTs, to be predicted.
        dataset_id: 1 to 999.
        name: Name of the dataset, without number.
        raw: Where to write it; default is where the variable nnUNet_raw points.
        planes: Which acquisition planes to take: axial, sagittal, coronal.
        description: Take only series whose SeriesDescription matches this regular expression, in any case.
        **options: See `Options`. Without a list of patients the PatientID of the DICOM headers tells them.

    Raises:
        RectalError: Anything that cannot be right, for all series at once; nothing is written then.
    """
    target = Target(dataset_folder(dataset_id, name, raw, masks is not None), masks is not None, **options)
    findings = find_series(series, planes, description)
    _print_ignored(findings)
    problems: defaultdict[str, list[str]] = defaultdict(list)
    for path in findings.unreadable:
        problems[str(path)].append("cannot be read as DICOM; copy it again, or take it away")
    for uid, (folder, reason) in findings.broken.items():
        problems[place_of(uid, folder)].append(reason)
    if not findings.series and not problems:
        ignored = f"{len(findings.ignored)} ignored, as listed above" if findings.ignored else "no DICOM image at all"
        raise RectalError(f"No series to convert under {series}: {ignored}.")
    names = case_names(findings.series)
    files = [] if masks is None else list_images(masks)
    # The series that a mask of each name is for: by SeriesInstanceUID, case and folder.
    uids: defaultdict[str, set[str]] = defaultdict(set)
    for s in findings.series:
        for key in (s.uid, names[s.uid], s.folder.resolve().name):
            uids[key].add(s.uid)
    mask_files = {} if masks is None else _match(names, findings, uids, files, problems)
    unmatched = _unmatched_masks(uids, findings, files)
    cases = [
        Case(names[s.uid], s, ImageFile(mask_files[s.uid]) if s.uid in mask_files else None, s.patient)
        for s in sorted(findings.series, key=lambda s: names[s.uid])
    ]
    _comment_on_names(names, findings.series)
    return convert_cases(cases, problems, target, unmatched)


def case_names(series: Sequence[DicomSeries]) -> dict[str, str]:
    """Return the case name of each SeriesInstanceUID: the name of its folder.

    Where several series would have the same name, each gets eight digits of a hash of its UID added: the same on any
    machine and whatever else is converted, and without a parent folder's name, which often is the patient's.
    """
    names = {s.uid: _plain(s.folder.resolve().name) or "series" for s in series}
    count = Counter(names.values())
    return {
        uid: name if count[name] == 1 else f"{name}_{hashlib.sha256(uid.encode()).hexdigest()[:8]}"
        for uid, name in names.items()
    }


def _match(
    names: Mapping[str, str],
    findings: Findings,
    uids: Mapping[str, set[str]],
    files: Sequence[Path],
    problems: defaultdict[str, list[str]],
) -> dict[str, Path]:
    """Return the mask of each SeriesInstanceUID; missing partners are added to `problems`."""
    masks: dict[str, Path] = {}
    for path in files:
        key = stem(path)
        found = sorted(uids.get(key, ()), key=lambda uid: names[uid])
        if len(found) > 1:
            choices = ", ".join(names[uid] for uid in found)
            problems[path.name].append(f"mask fits several series; name it by one of the cases {choices}, or by UID")
        elif found and found[0] in masks:
            problems[names[found[0]]].append(f"{masks[found[0]].name} and {path.name} are masks of the same series")
        elif found:
            masks[found[0]] = path
    for s in findings.series:
        if s.uid not in masks:
            problems[names[s.uid]].append(
                f"no mask {names[s.uid]}.nii.gz or {s.uid}.nii.gz for the series in {s.folder}; add it, or choose "
                "series with --description"
            )
    return masks


def _unmatched_masks(uids: Collection[str], findings: Findings, files: Sequence[Path]) -> dict[str, list[str]]:
    """Return the masks that fit no series, by the reason; masks of broken series are not listed."""
    unmatched: defaultdict[str, list[str]] = defaultdict(list)
    for path in files:
        key = stem(path)
        if key in uids or (_named(key, findings.broken) and not _named(key, findings.ignored)):
            continue
        ignored = _named(key, findings.ignored)
        why = f"its series was ignored: {ignored}" if ignored else "no series folder or SeriesInstanceUID of this name"
        unmatched[f"no series for this mask: {why}"].append(path.name)
    return unmatched


def _named(key: str, series: Mapping[str, tuple[Path, str]]) -> str:
    """Return what is said about the series of this UID or folder name; empty if there is none."""
    return next((why for uid, (folder, why) in series.items() if key in (uid, folder.resolve().name)), "")


def _print_ignored(findings: Findings) -> None:
    for uid, (folder, reason) in findings.ignored.items():
        print(f"Ignored: {place_of(uid, folder)}: {reason}")
    if findings.others:
        print(f"Ignored, not DICOM images: {plural(len(findings.others), 'file')}, such as {findings.others[0]}")


def _comment_on_names(names: Mapping[str, str], series: Sequence[DicomSeries]) -> None:
    """Say which series a case is, where its name is not the folder's, and which names may tell a patient's.

    It is written nowhere, since paths tell names.
    """
    telling = []
    for s in sorted(series, key=lambda s: names[s.uid]):
        name = names[s.uid]
        if name != s.folder.resolve().name:
            print(f"Case {name}: {place_of(s.uid, s.folder)}")
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
