"""Every image and mask of a raw dataset, read as a whole before anything is computed from them or written."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import label_values
from rectal_nnformer.imaging.reading import FORMATS, geometry_problems, grid_differences, in_order_of, read_image
from rectal_nnformer.imaging.volumes import CaseReport, check_volume, cut_images, same_images, shape_problems
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.nnunet.splits import check_folds_of
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import plural, some

MOST_TOLD = 20


def check_dataset(dataset: TrainingDataset, num_processes: int, planning: bool = False) -> list[str]:
    """Check the folds and read every training image and mask; return what to know.

    Raises:
        RectalError: Tells everything for which `check_folds_of` or `check_cases` refuses the dataset.
    """
    notes, problems = [], []
    for check in (
        lambda: check_folds_of(dataset.preprocessed, dataset.cases, planning),
        lambda: check_cases(dataset, num_processes)[0],
    ):
        try:
            notes += check()
        except RectalError as error:
            problems.append(str(error))
    if problems:
        raise RectalError("\n".join(problems))
    return notes


def check_cases(dataset: TrainingDataset, num_processes: int) -> tuple[list[str], dict[str, str]]:
    """Read every training image and mask, refuse the dataset if one cannot be used.

    Returns what to know, and a digest of each case's images.

    Raises:
        RectalError: Names every file that is cut off, of another format, not finite, no 3D volume or without a usable
            grid, masks of another size or place than their image, and masks with labels that dataset.json lacks.
    """
    if dataset.dataset_json["file_ending"] not in FORMATS:
        return [], {}  # a format that nnU-Net reads and this project does not
    labels = label_values(dataset.dataset_json, str(dataset.raw.dataset_json))
    jobs = [([Path(image) for image in files["images"]], Path(files["label"])) for files in dataset.cases.values()]
    check = partial(check_case, labels=labels, reoriented=dataset.is_reoriented)
    reports = dict(zip(dataset.cases, map_with_progress(check, jobs, num_processes, "Checking images"), strict=True))
    problems = [f"case {name}: {problem}" for name, report in reports.items() for problem in report.problems]
    if problems:
        more = [f"and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
        listed = "\n  ".join(problems[:MOST_TOLD] + more)
        raise RectalError(f"{dataset.name} cannot be planned; nothing was written. Put right:\n  {listed}")
    notes = [*_left_aside(dataset), *(note for report in reports.values() for note in report.notes)]
    digests = {name: report.digest for name, report in reports.items()}
    patients = read_patients(dataset.raw.path)
    return notes + same_images(digests, patients) + cut_images(reports, patients), digests


def _left_aside(dataset: TrainingDataset) -> list[str]:
    """Return a line for each folder of the raw dataset in which files lie that belong to no case."""
    used = {path for files in dataset.cases.values() for path in (*map(Path, files["images"]), Path(files["label"]))}
    lines = []
    for folder in sorted({path.parent for path in used}):
        if others := [path.name for path in sorted(folder.iterdir()) if path not in used]:
            lines.append(f"{folder} holds {plural(len(others), 'file')} of no case, left aside: {some(others)}.")
    return lines


def check_case(files: tuple[Sequence[Path], Path], labels: set[int], reoriented: bool) -> CaseReport:
    """Read the images of a case, one per channel, and its mask, whose labels must be among those given.

    `reoriented` tells whether the dataset's reader turns both to one orientation before it lays one over the other.
    """
    images, mask = files
    checks = [check_volume(path) for path in images]
    problems = [check.problem for check in checks if check.problem]
    if not problems and len(images) > 1:
        problems = _channels_elsewhere(images, reoriented)
    of_mask, moved = _compare_mask(mask, labels, reoriented, images[0] if not problems else None)
    notes = [check.note for check in checks if check.note] + moved
    digest = "".join(check.digest for check in checks)
    return CaseReport(problems + of_mask, notes, digest, math.prod(checks[0].size), slices=checks[0].slices)


def _channels_elsewhere(images: Sequence[Path], reoriented: bool) -> list[str]:
    """Return which images of a case the dataset's reader would not lay over the first as they lie in the patient."""
    first, problems = read_image(images[0]), list[str]()
    for path in images[1:]:
        image = read_image(path)
        problems += geometry_problems(first, image, str(path), "channel 0")
        if in_order_of(image, first) is not image and not reoriented:
            problems.append(_stored_otherwise(path, "channel 0"))
    return problems


def _stored_otherwise(path: Path, whose: str) -> str:
    return (
        f"{path} is stored with its axes in another order than {whose}, and the dataset's reader would lay one over "
        'the other as they are stored; set "overwrite_image_reader_writer": "SimpleITKIOWithReorient" in dataset.json, '
        "or convert the dataset again"
    )


def _compare_mask(path: Path, labels: set[int], reoriented: bool, image: Path | None) -> tuple[list[str], list[str]]:
    """Return what a mask cannot be used for, and notes on its grid where its image can be used."""
    try:
        mask = read_image(path)
        if problems := shape_problems(mask, "mask"):
            return [f"{path}: {problem}" for problem in problems], []
        pair = (scan := read_image(image), in_order_of(mask, scan)) if image else (mask, mask)
        if pair[1] is not mask and not reoriented:
            return [_stored_otherwise(path, "its image")], []
    except RectalError as error:
        return [str(error)], []
    found = np.unique(sitk.GetArrayViewFromImage(mask))
    problems, foreign = [], [f"{value:g}" for value in found if value not in labels]
    if foreign:
        told = ", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        problems.append(
            f"{path} holds {plural(len(foreign), 'label')} that dataset.json lacks ({told}); it has {sorted(labels)}"
        )
    elsewhere = "; ".join(grid_differences(*pair))
    if pair[0].GetSize() != pair[1].GetSize():
        return [*problems, f"{path} has another size than its image ({elsewhere}); resample it onto the image"], []
    # As nnU-Net, which lays image and mask over each other voxel by voxel.
    return problems, [f"{path} lies elsewhere than its image ({elsewhere}); check that they fit."] if elsewhere else []
