"""Validate cases and write them as a raw dataset, whole or not at all."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rectal_nnformer.dataset_conversion.contact_sheet import Tile, draw_contact_sheet, make_tile
from rectal_nnformer.dataset_conversion.images import ImageFile, ImageSource, lift_zeros, write_image, write_mask
from rectal_nnformer.dataset_conversion.patient_folds import folds_of, patient_list, patient_problems, pseudonyms
from rectal_nnformer.dataset_conversion.validation import case_problems
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prescaled import PREPARED_CHANNEL
from rectal_nnformer.nnunet.layout import (
    DATASET_JSON,
    IMAGES_TR,
    IMAGES_TS,
    LABELS_TR,
    SPLITS_FINAL,
    RawDataset,
    folder_variables,
    image_name,
    nnunet_folder,
)
from rectal_nnformer.nnunet.patients import PATIENTS_FILE, read_patient_list
from rectal_nnformer.utils.files import staged_folder, write_json, write_text
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import plural, some

FILE_ENDING = ".nii.gz"
CONTACT_SHEET = "contact_sheet.png"
# nnU-Net looks this class up by name. A name that it does not know falls back, with a printed line, to the reader that
# leaves the orientation as stored.
READER = "SimpleITKIOWithReorient"


@dataclass(frozen=True)
class Case:
    """One scan to convert, without a mask if it is to be predicted; its patient, empty if unknown, is never written."""

    name: str
    image: ImageSource
    mask: ImageFile | None
    patient: str


@dataclass(frozen=True)
class Target:
    """The dataset to write, and how.

    Attributes:
        folder: `nnUNet_raw/DatasetXXX_Name`, absent or empty.
        training: Whether there are masks: training cases with folds, or cases to predict.
        patients: CSV file with the columns case and patient, which overrides `Case.patient`.
        split_by_case: Allow scans of one patient in different folds.
        workers: Number of processes.
        prepared: Whether intensities were scaled to [0, 800] beforehand; zeros are lifted then.
    """

    folder: Path
    training: bool
    patients: Path | None
    split_by_case: bool
    workers: int
    prepared: bool = False


def dataset_folder(dataset_id: int, name: str, raw: Path | None, training: bool) -> Path:
    """Return the folder of a new raw dataset.

    Args:
        dataset_id: 1 to 999.
        name: Letters, digits, `_` and `-`.
        raw: The folder of raw datasets. None: the one that the variable nnUNet_raw names; then the id must also be free
            in the folders of preprocessed data and results, where nnU-Net looks for it too.
        training: Whether training cases come in: then nothing may be left of an earlier dataset of the same name.

    Raises:
        RectalError: Id or name is illegal or in use, or the variable is not set.
    """
    if not 1 <= dataset_id <= 999:
        raise RectalError(f"Dataset id {dataset_id} is not between 1 and 999: give another with -d.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name.startswith("Dataset"):
        raise RectalError(
            f"Dataset name '{name}' is not made of letters, digits, _ and - alone, or starts with 'Dataset': "
            f"give --name without the number, as in --name Rectal for Dataset{dataset_id:03d}_Rectal."
        )
    folder = (nnunet_folder("nnUNet_raw") if raw is None else raw) / f"Dataset{dataset_id:03d}_{name}"
    places = folder_variables() if raw is None else {"nnUNet_raw": str(raw)}
    for variable, place in places.items():
        for other in sorted(Path(place).glob(f"Dataset{dataset_id:03d}*")):
            if _in_the_way(other, folder.name, training or variable == "nnUNet_raw"):
                raise RectalError(
                    f"Dataset id {dataset_id} is in use by {other}: choose another with -d, or move that away. "
                    "Otherwise the two would be mixed, and folds trained on the one be taken for folds of the other."
                )
    return folder


def convert_cases(
    cases: Sequence[Case],
    problems: Mapping[str, list[str]],
    target: Target,
    unmatched: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Check every case, then write the dataset; return its folder.

    Args:
        cases: Cases with an image and, for training, a mask; one that lacks it is named in `problems`.
        problems: What is known to be wrong already, by case or file name.
        target: What to write.
        unmatched: Masks that belong to no case, by the reason; of each reason the first few are named.

    Raises:
        RectalError: Something is wrong with any case, all of them listed, or the folds cannot be made. Nothing is
            written then.
    """
    found = defaultdict(list, {name: list(reasons) for name, reasons in problems.items()})
    if not target.training and (target.patients or target.split_by_case):
        raise RectalError("--patients and --split-by-case concern the folds, and without --masks there are none.")
    patients = _patients(cases, target, found) if target.training else {}
    checked = map_with_progress(partial(_check, prepared=target.prepared), cases, target.workers, "checking")
    for case, reasons in zip(cases, checked, strict=True):
        found[case.name] += reasons
    _refuse(found, unmatched or {})
    splits = folds_of(patients, target.split_by_case) if target.training else []
    with staged_folder(target.folder) as staged:
        _write(cases, staged, target)
        if target.training:
            write_json(staged / SPLITS_FINAL, splits)
            write_text(staged / PATIENTS_FILE, patient_list(pseudonyms(patients)))
    _report(target.folder, len(cases), patients, splits)
    return target.folder


def _in_the_way(other: Path, name: str, to_be_new: bool) -> bool:
    """Return whether `other`, in one of nnU-Net's folders, keeps a dataset `name` of its id from being made there.

    One of another name always does; one of the same name only if it is to be new and `other` is not an empty folder.
    """
    if other.name != name:
        return other.is_dir()
    return to_be_new and (not other.is_dir() or any(other.iterdir()))


def _patients(cases: Sequence[Case], target: Target, problems: defaultdict[str, list[str]]) -> dict[str, str]:
    """Return the patient of each case; what is missing or too much is added to `problems`."""
    if target.patients is None:
        for case in cases:
            if not case.patient and not target.split_by_case:
                problems[case.name].append(
                    "no PatientID in its DICOM header; list patients with --patients, or give --split-by-case, which "
                    "makes the detection rate optimistic"
                )
        return {case.name: case.patient or case.name for case in cases}
    patients = read_patient_list(target.patients)
    # A mask that lacks its image is known, though it is not among the cases.
    known = {case.name for case in cases} | problems.keys() & patients.keys()
    for name, reason in patient_problems(known, patients, target.patients).items():
        problems[name].append(reason)
    return patients


def _check(case: Case, prepared: bool) -> list[str]:
    return case_problems(case.image, case.mask, prepared)


def _refuse(problems: Mapping[str, list[str]], unmatched: Mapping[str, Sequence[str]]) -> None:
    lines = [f"  {name}: {'; '.join(reasons)}" for name, reasons in sorted(problems.items()) if reasons]
    count = len(lines) + sum(map(len, unmatched.values()))
    if count:
        # Masks of a whole archive, of which few are meant, would push everything else off the screen.
        lines += [f"  {some(sorted(names))}: {reason}" for reason, names in sorted(unmatched.items())]
        raise RectalError(
            "\n".join([f"Nothing was written, because {plural(count, 'input')} cannot be right:", *lines])
        )


def _write(cases: Sequence[Case], folder: Path, target: Target) -> None:
    """Write images, masks, dataset.json and the contact sheet of checked cases into `folder`."""
    for name in (IMAGES_TR, LABELS_TR) if target.training else (IMAGES_TS,):
        (folder / name).mkdir()
    tiles = map_with_progress(
        partial(_write_case, folder=folder, prepared=target.prepared), cases, target.workers, "writing"
    )
    content = {
        "name": target.folder.name,
        "channel_names": {"0": PREPARED_CHANNEL if target.prepared else "T2w"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": len(cases) if target.training else 0,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": READER,
    }
    write_json(folder / DATASET_JSON, content)
    draw_contact_sheet(tiles, folder / CONTACT_SHEET, target.folder.name)


def _write_case(case: Case, folder: Path, prepared: bool) -> Tile:
    image = lift_zeros(case.image.read()) if prepared else case.image.read()
    images = folder / (IMAGES_TR if case.mask else IMAGES_TS)
    write_image(image, images / image_name(case.name, FILE_ENDING))
    mask = case.mask.read() if case.mask else None
    if mask is not None:
        # They may differ by rounding, and by that alone be turned differently where they are oriented.
        mask.CopyInformation(image)
        write_mask(mask, RawDataset(folder).label(case.name, FILE_ENDING))
    return make_tile(case.name, image, mask)


def _report(folder: Path, count: int, patients: Mapping[str, str], splits: Sequence[Mapping[str, list[str]]]) -> None:
    if splits:
        sizes = " + ".join(str(len(fold["val"])) for fold in splits)
        grouping = plural(len(set(patients.values())), "patient")
        print(f"{folder}: {count} training cases of {grouping}, in folds of {sizes}.")
    else:
        print(f"{folder}: {plural(count, 'case')} to predict in imagesTs; without masks there are no training cases.")
    print(f"Before anything else, look at {folder / CONTACT_SHEET}")
