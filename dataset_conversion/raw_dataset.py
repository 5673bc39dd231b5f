"""Validate cases and write them as a raw dataset, whole or not at all."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.adding import Existing, open_existing
from rectal_nnformer.dataset_conversion.case_patients import patients_of
from rectal_nnformer.dataset_conversion.cases import Case
from rectal_nnformer.dataset_conversion.contact_sheet import CaseTile, draw_contact_sheet, make_tile
from rectal_nnformer.dataset_conversion.images import read_channel, write_image, write_mask
from rectal_nnformer.dataset_conversion.patient_folds import (
    extend_folds,
    folds_of,
    given_folds,
    patient_list,
)
from rectal_nnformer.dataset_conversion.target import DEFAULT_CHANNEL, FILE_ENDING, Target
from rectal_nnformer.dataset_conversion.validation import check_case
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.imaging.prepared import PREPARED_CHANNEL
from rectal_nnformer.imaging.reading import in_order_of
from rectal_nnformer.imaging.volumes import LEAST_SHARE, CaseReport, cut_images, same_images
from rectal_nnformer.nnunet import layout
from rectal_nnformer.nnunet.patients import PATIENTS_FILE
from rectal_nnformer.nnunet.splits import BY_CASE_KEY
from rectal_nnformer.utils.files import check_space, staged_folder, updated_folder, write_json, write_text
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import plural, some

CONTACT_SHEET = "contact_sheet.png"
BYTES_PER_VOXEL = 2
"""Of an image as it is written, before compression."""
# nnU-Net looks this class up by name. A name that it does not know falls back, with a printed line, to the reader that
# leaves the orientation as stored.
READER = "SimpleITKIOWithReorient"


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
    if (not target.labelled and target.patients) or (target.split_by_case and (target.test or not target.labelled)):
        raise RectalError("--patients and --split-by-case concern the folds, and without --masks there are none.")
    found = defaultdict(list, {name: list(reasons) for name, reasons in problems.items()})
    # A dataset that cases are added to must not change between reading and writing.
    with layout.claimed_id(target.folder) if target.adding and not target.dry_run else nullcontext():
        _convert(cases, found, target, unmatched or {})
    return target.folder


def _convert(
    cases: Sequence[Case],
    found: defaultdict[str, list[str]],
    target: Target,
    unmatched: Mapping[str, Sequence[str]],
) -> None:
    """Do what `convert_cases` says, problems being added to those that are `found`."""
    existing = open_existing(target)
    both = [*existing.cases, *cases]
    reports = map_with_progress(partial(check_case, target=target), both, target.workers, "checking")
    there = _found_again(both, reports)
    checked = {
        case: report for case, report in zip(both, reports, strict=True) if case.name not in there or case.is_old
    }
    for name in there:
        found.pop(name, None)
    _note_problems(checked, existing, found)
    patients = patients_of(cases, there, existing, target, found)
    if target.dry_run:
        print(_table([case for case in checked if not case.is_old and not found.get(case.name)], there))
    _refuse(found, unmatched)
    target = _tell(checked, there, patients, target)
    taken = list(checked)
    splits = _folds(taken, existing, patients, target)
    if target.dry_run or all(case.is_old for case in taken):
        print(f"{_summary(taken, patients, splits, target)}\nNothing was written.")
        return
    with (
        nullcontext() if target.adding else layout.claimed_id(target.folder),
        (updated_folder if target.adding else staged_folder)(target.folder) as staged,
    ):
        _write(taken, staged, target)
        if splits:
            write_json(staged / layout.SPLITS_FINAL, splits)
        if patients:
            write_text(staged / PATIENTS_FILE, patient_list(dict(sorted(patients.items()))))
    print(_summary(taken, patients, splits, target))
    print(f"Before anything else, look at {target.folder / CONTACT_SHEET}")


def _found_again(cases: Sequence[Case], reports: Sequence[CaseReport]) -> dict[str, str]:
    """Return the names of new cases whose images the dataset holds already, and what they are called in it."""
    old = {report.digest: case.name for case, report in zip(cases, reports, strict=True) if case.is_old}
    return {
        case.name: old[report.digest]
        for case, report in zip(cases, reports, strict=True)
        if not case.is_old and report.digest and report.digest in old
    }


def _note_problems(
    checked: Mapping[Case, CaseReport], existing: Existing, problems: defaultdict[str, list[str]]
) -> None:
    """Add what was found in the files of cases, and new cases of the name of an old one."""
    for case, report in checked.items():
        problems[case.name] += report.problems
        if not case.is_old and case.name in existing.patients:
            problems[case.name].append("the dataset has a case of this name with other voxels; rename the new one")


def _refuse(problems: Mapping[str, list[str]], unmatched: Mapping[str, Sequence[str]]) -> None:
    lines = [f"  {name}: {'; '.join(reasons)}" for name, reasons in sorted(problems.items()) if reasons]
    count = len(lines) + sum(map(len, unmatched.values()))
    if count:
        # Masks of a whole archive, of which few are meant, would push everything else off the screen.
        lines += [f"  {some(sorted(names))}: {reason}" for reason, names in sorted(unmatched.items())]
        raise RectalError(
            "\n".join([f"Nothing was written, because {plural(count, 'input')} cannot be right:", *lines])
        )


def _tell(
    checked: Mapping[Case, CaseReport], there: Mapping[str, str], patients: Mapping[str, str], target: Target
) -> Target:
    """Print what to know of cases that can be used; return the target, its channel being that of prepared images."""
    for case in checked:
        if not (case.is_old or target.dry_run) and case.name not in case.origin:
            print(f"Case {case.name}: {case.origin}")
    by_name = {case.name: report for case, report in checked.items()}
    same = same_images({name: report.digest for name, report in by_name.items()}, patients)
    cut = cut_images(by_name, patients)
    for note in (*(note for report in checked.values() for note in report.notes), *same, *cut):
        print(f"Note: {note}")
    if there:
        names = some(sorted(there.values()))
        print(f"Note: in the dataset already, and left as it is: {plural(len(there), 'case')} ({names}).")
    check_space(
        target.folder,
        LEAST_SHARE * BYTES_PER_VOXEL * sum(report.voxels for case, report in checked.items() if not case.is_old),
        f"The {plural(len(checked), 'image')} of the dataset",
    )
    if target.are_channels_named or not all(report.looks_prepared for report in checked.values()):
        return target
    print(
        "Note: all images reach from 0 to 800, as those do that were scaled beforehand. They are taken as with "
        f"--prepared, and not normalized again; if that is wrong, convert again with --channels {DEFAULT_CHANNEL}."
    )
    return replace(target, content={**target.content, "channel_names": {"0": PREPARED_CHANNEL}})


def _folds(
    cases: Sequence[Case], existing: Existing, patients: Mapping[str, str], target: Target
) -> list[dict[str, list[str]]]:
    """Return the folds of the training cases: those of the dataset with new cases, those of the source, or new ones."""
    training = {case.name: case for case in cases if not case.test}
    grouping = {name: patients[name] for name in training}
    if target.adding:
        groups = {name: name for name in training} if target.split_by_case else grouping
        return extend_folds(existing.folds, groups)
    told = {name: case.fold for name, case in training.items()}
    if any(fold is not None for fold in told.values()):
        return given_folds(told, grouping, target.split_by_case)
    return folds_of(grouping, target.split_by_case) if training else []


def _table(cases: Sequence[Case], there: Mapping[str, str]) -> str:
    """Return which case would be made of what, one a line."""
    rows = [("case", "folder", "image", "mask")]
    for case in cases:
        folder = layout.IMAGES_TS if case.test else layout.IMAGES_TR
        rows.append((case.name, folder, case.origin, case.mask.origin if case.mask else "-"))
    rows += [(name, "there already", f"as {old}", "") for name, old in there.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _summary(
    cases: Sequence[Case], patients: Mapping[str, str], splits: Sequence[Mapping[str, Sequence[str]]], target: Target
) -> str:
    """Return what the dataset holds, in a line for each kind of case."""
    training = [case for case in cases if not case.test]
    labelled = [case for case in cases if case.test and case.mask]
    lines = []
    if training:
        sizes = " + ".join(str(len(fold["val"])) for fold in splits)
        grouping = plural(len({patients[case.name] for case in training}), "patient")
        lines.append(f"{target.folder}: {len(training)} training cases of {grouping}, in folds of {sizes}.")
    if labelled:
        lines.append(
            f"{target.folder}: {plural(len(labelled), 'case')} with masks in imagesTs and labelsTs, to test on."
        )
    if number := len(cases) - len(training) - len(labelled):
        why = "" if training else "; without masks there are no training cases"
        lines.append(f"{target.folder}: {plural(number, 'case')} to predict in imagesTs{why}.")
    if target.adding:
        lines.append("Plans and preprocessed data follow when 'rectal_nnformer plan_and_preprocess' runs again.")
    return "\n".join(lines)


def _write(cases: Sequence[Case], folder: Path, target: Target) -> None:
    """Write images, masks, dataset.json and the contact sheet of checked cases into `folder`."""
    for case in cases:
        images, masks = _folders_of(case, folder)
        for place in (images, masks) if case.mask else (images,):
            place.mkdir(exist_ok=True)
    tiles = map_with_progress(partial(_write_case, folder=folder, target=target), cases, target.workers, "writing")
    content = {
        "name": target.folder.name,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": READER,
        **({BY_CASE_KEY: True} if target.split_by_case else {}),
        **target.content,
        "numTraining": sum(not case.test for case in cases),
    }
    write_json(folder / layout.DATASET_JSON, content)
    draw_contact_sheet(tiles, folder / CONTACT_SHEET, target.folder.name)


def _folders_of(case: Case, folder: Path) -> tuple[Path, Path]:
    """Return where the images and the mask of a case belong."""
    names = (layout.IMAGES_TS, layout.LABELS_TS) if case.test else (layout.IMAGES_TR, layout.LABELS_TR)
    return folder / names[0], folder / names[1]


def _write_case(case: Case, folder: Path, target: Target) -> CaseTile:
    """Write the images and the mask of a case, unless they are there; return what the contact sheet shows."""
    images, masks = _folders_of(case, folder)
    volumes = [read_channel(*channel) for channel in zip(case.images, target.channels, strict=True)]
    mask = case.mask.read()[0] if case.mask else None
    # They may differ by rounding, and by that alone be turned differently where they are oriented.
    for number, volume in enumerate(volumes):
        volumes[number] = _on_grid_of(volumes[0], volume)
        if not case.is_old:
            write_image(volumes[number], images / layout.image_name(case.name, FILE_ENDING, number))
    if mask is not None:
        mask = _on_grid_of(volumes[0], mask)
        if not case.is_old:
            write_mask(mask, masks / f"{case.name}{FILE_ENDING}")
    return make_tile(case.name, volumes[0], mask, tumor_labels(target.content))


def _on_grid_of(image: sitk.Image, other: sitk.Image) -> sitk.Image:
    """Return another image of the same grid with exactly that, its axes in the same order."""
    result = in_order_of(other, image)
    result.CopyInformation(image)
    return result
