"""Prediction with what goes in and what comes out checked: nnU-Net itself trusts both."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import label_values
from rectal_nnformer.imaging.reading import by, read_image
from rectal_nnformer.imaging.volumes import VolumeCheck
from rectal_nnformer.nnunet.dataset_json import num_channels, read_dataset_json
from rectal_nnformer.nnunet.layout import IMAGE_DIGESTS, TRAINED_ON, ModelFolder
from rectal_nnformer.prediction.scans import Scans, find_scans, prepare_scans
from rectal_nnformer.utils.files import read_json_if_whole, write_json
from rectal_nnformer.utils.text import plural, some


def check_mask(path: Path, size: tuple[int, ...], labels: Collection[int]) -> str:
    """Return what is wrong with a mask that was predicted for an image of some size; empty if nothing is."""
    try:
        mask = read_image(path)
    except RectalError as error:
        return str(error)
    if mask.GetSize() != size:
        return f"{path} has the size {by(mask.GetSize())}, its scan {by(size)}"
    foreign = set(np.unique(sitk.GetArrayViewFromImage(mask)).tolist()) - set(labels)
    return f"{path} is no mask: it holds values that are no labels, such as {min(foreign):g}" if foreign else ""


NNUNETS_NOTES = ("dataset.json", "plans.json", "predict_from_raw_data_args.json")
"""What nnU-Net writes beside masks."""


@dataclass(frozen=True)
class PredictionJob:
    """What is to be predicted.

    Attributes:
        model: The model.
        scans: Folder of the scans, or a single one.
        output: Folder of the masks.
        arguments: Those of nnUNetv2_predict.
        continued: Whether masks that are there already are kept.
        part: Every so many-th case, from which one on: nnU-Net's -num_parts and -part_id.
        folds: Those of the model that predict together.
        planes: Which planes of DICOM series to take.
        description: Regular expression for the SeriesDescription of DICOM series to take.
    """

    model: ModelFolder
    scans: Path
    output: Path
    arguments: Sequence[str]
    continued: bool
    part: tuple[int, int]
    folds: Sequence[str]
    planes: Sequence[str] = ("axial",)
    description: str | None = None


def predict(job: PredictionJob) -> int:
    """Predict the scans that can be used, name the others, make sure of every mask, and return an exit code.

    Raises:
        RectalError: No scan can be used.
    """
    dataset_json = read_dataset_json(job.model.dataset_json, "Import or train the model again.")
    ending, labels = dataset_json["file_ending"], label_values(dataset_json, str(job.model.dataset_json))
    scans = find_scans(job.scans, num_channels(dataset_json), job.planes, job.description)
    step, first = job.part
    scans.cases = dict(list(scans.cases.items())[first::step])
    if scans.left_aside:
        print(f"Left aside in {job.scans}:\n{_listed(scans.left_aside)}")
    with TemporaryDirectory(prefix="rectal_nnformer_") as folder:
        checks = prepare_scans(scans, Path(folder), ending)
        for check in itertools.chain(*checks.values()):
            if check.note:
                print(f"Note: {check.note}")
        trained_on = _trained_on(job, checks)
        for case, name in trained_on.items():
            known = f" as {name}" if name != case else ""
            print(f"Note: the model was trained on {case}{known}: its result says nothing about new scans.")
        if not scans.cases:
            raise RectalError(f"None of the scans in {job.scans} can be used:\n{_listed(scans.unusable)}")
        masks = {case: job.output / f"{case}{ending}" for case in scans.cases}
        _refuse_overwriting(scans, masks)
        if job.continued:
            _remove_damaged(masks, checks, labels)
        from rectal_nnformer.prediction import predictor  # imports nnU-Net

        arguments = [*job.arguments, "-i", folder, "-num_parts", "1", "-part_id", "0"]
        code = predictor.predict_folder(job.model.path, arguments)
    damaged = {
        case: problem for case, path in masks.items() if (problem := check_mask(path, checks[case][0].size, labels))
    }
    for case in damaged:
        masks[case].unlink(missing_ok=True)
    for path in (job.output / name for name in NNUNETS_NOTES):
        if path.is_file() and read_json_if_whole(path) is None:
            path.unlink()
    _note_trained_on(job.output / TRAINED_ON, scans.cases, trained_on)
    failed = {**scans.unusable, **damaged}
    print(f"{plural(len(masks) - len(damaged), 'scan')} predicted into {job.output}.")
    if failed:
        print(f"{plural(len(failed), 'scan')} not predicted:\n{_listed(failed)}")
    return code or int(bool(failed))


def _refuse_overwriting(scans: Scans, masks: Mapping[str, Path]) -> None:
    """Refuse to write a mask where a scan is."""
    images = {path.resolve() for images in scans.cases.values() for image in images for path in image.files}
    if over := [str(path) for path in masks.values() if path.resolve() in images]:
        raise RectalError(f"The mask would take the place of the scan {some(over)}. Name another folder with -o.")


def _note_trained_on(path: Path, cases: Collection[str], trained_on: Mapping[str, str]) -> None:
    """Write which scans of a folder of predictions the model was trained on; other cases keep what was noted."""
    kept = {case: name for case, name in (read_json_if_whole(path) or {}).items() if case not in cases}
    if noted := {**kept, **trained_on}:
        write_json(path, noted)
    else:
        path.unlink(missing_ok=True)


def _trained_on(job: PredictionJob, checks: Mapping[str, list[VolumeCheck]]) -> dict[str, str]:
    """Return the training case that each scan is, of those whose images hold the same voxels.

    A case that all the folds which predict were validated on is none that they were trained on.
    """
    digests = read_json_if_whole(job.model.path / IMAGE_DIGESTS) or {}
    known = {digest: case for case, digest in digests.items()}
    found = {case: known.get("".join(check.digest for check in checked)) for case, checked in checks.items()}
    held_out = [{path.name.partition(".")[0] for path in job.model.fold(f).validation.glob("*")} for f in job.folds]
    return {case: name for case, name in found.items() if name and not all(name in validated for validated in held_out)}


def _remove_damaged(
    masks: Mapping[str, Path], checks: Mapping[str, list[VolumeCheck]], labels: Collection[int]
) -> None:
    """Remove masks of an earlier run that nnU-Net would take for done."""
    for case, path in masks.items():
        if path.exists() and (problem := check_mask(path, checks[case][0].size, labels)):
            print(f"Predicted again: {problem}")
            path.unlink()


def _listed(reasons: Mapping[str, str]) -> str:
    return "\n".join(f"  {case}: {reason}" for case, reason in reasons.items())
