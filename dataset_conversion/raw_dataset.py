"""Validate cases and write them as a raw dataset, whole or not at all."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rectal_nnformer.dataset_conversion.contact_sheet import CaseTile, draw_contact_sheet, make_tile
from rectal_nnformer.dataset_conversion.images import ImageSource, lift_zeros, write_image, write_mask
from rectal_nnformer.dataset_conversion.labels import numbers_of_labels
from rectal_nnformer.dataset_conversion.masks import MaskSource
from rectal_nnformer.dataset_conversion.patient_folds import folds_of, patient_list, patient_pseudonyms
from rectal_nnformer.dataset_conversion.target import Target
from rectal_nnformer.dataset_conversion.validation import check_case
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.imaging.prepared import PREPARED_CHANNEL
from rectal_nnformer.imaging.reading import in_order_of
from rectal_nnformer.imaging.volumes import LEAST_SHARE, same_images
from rectal_nnformer.nnunet import layout
from rectal_nnformer.nnunet.patients import PATIENTS_FILE, read_patient_list
from rectal_nnformer.nnunet.splits import BY_CASE_KEY
from rectal_nnformer.utils.files import check_space, staged_folder, write_json, write_text
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import plural, some

FILE_ENDING = ".nii.gz"
CONTACT_SHEET = "contact_sheet.png"
BYTES_PER_VOXEL = 2
"""Of an image as it is written, before compression."""
# nnU-Net looks this class up by name. A name that it does not know falls back, with a printed line, to the reader that
# leaves the orientation as stored.
READER = "SimpleITKIOWithReorient"


@dataclass(frozen=True)
class Case:
    """One scan to convert, without a mask if it is to be predicted; its patient, empty if unknown, is never written."""

    name: str
    image: ImageSource
    mask: MaskSource | None
    patient: str


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
    checked = map_with_progress(partial(check_case, target=target), cases, target.workers, "checking")
    reports = {case.name: report for case, report in zip(cases, checked, strict=True)}
    for name, report in reports.items():
        found[name] += report.problems
    _refuse(found, unmatched or {})
    same = same_images({name: report.digest for name, report in reports.items()}, patients)
    for note in (*(note for report in checked for note in report.notes), *same):
        print(f"Note: {note}")
    voxels = sum(report.voxels for report in checked)
    check_space(
        target.folder, LEAST_SHARE * BYTES_PER_VOXEL * voxels, f"The {plural(len(cases), 'image')} of the dataset"
    )
    splits = folds_of(patients, target.split_by_case) if target.training else []
    with layout.claimed_id(target.folder), staged_folder(target.folder) as staged:
        _write(cases, staged, target)
        if target.training:
            write_json(staged / layout.SPLITS_FINAL, splits)
            write_text(staged / PATIENTS_FILE, patient_list(patient_pseudonyms(patients)))
    if splits:
        sizes = " + ".join(str(len(fold["val"])) for fold in splits)
        grouping = plural(len(set(patients.values())), "patient")
        print(f"{target.folder}: {len(cases)} training cases of {grouping}, in folds of {sizes}.")
    else:
        scans = plural(len(cases), "case")
        print(f"{target.folder}: {scans} to predict in imagesTs; without masks there are no training cases.")
    print(f"Before anything else, look at {target.folder / CONTACT_SHEET}")
    return target.folder


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
    for name in known - patients.keys():
        problems[name].append(f"not in {target.patients.name}; add a line for it")
    for name in patients.keys() - known:
        problems[name].append(f"in {target.patients.name}, but there is no such case; remove the line")
    return patients


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
    for name in (layout.IMAGES_TR, layout.LABELS_TR) if target.training else (layout.IMAGES_TS,):
        (folder / name).mkdir()
    tiles = map_with_progress(partial(_write_case, folder=folder, target=target), cases, target.workers, "writing")
    content = {
        "name": target.folder.name,
        "channel_names": {"0": PREPARED_CHANNEL if target.prepared else "T2w"},
        "labels": numbers_of_labels(target.labels),
        "numTraining": len(cases) if target.training else 0,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": READER,
        **({BY_CASE_KEY: True} if target.training and target.split_by_case else {}),
    }
    write_json(folder / layout.DATASET_JSON, content)
    draw_contact_sheet(tiles, folder / CONTACT_SHEET, target.folder.name)


def _write_case(case: Case, folder: Path, target: Target) -> CaseTile:
    image = lift_zeros(case.image.read()) if target.prepared else case.image.read()
    images = folder / (layout.IMAGES_TR if case.mask else layout.IMAGES_TS)
    write_image(image, images / layout.image_name(case.name, FILE_ENDING))
    mask = case.mask.read()[0] if case.mask else None
    if mask is not None:
        # They may differ by rounding, and by that alone be turned differently where they are oriented.
        mask = in_order_of(mask, image)
        mask.CopyInformation(image)
        write_mask(mask, layout.RawDataset(folder).label(case.name, FILE_ENDING))
    return make_tile(case.name, image, mask, tumor_labels({"labels": numbers_of_labels(target.labels)}))
