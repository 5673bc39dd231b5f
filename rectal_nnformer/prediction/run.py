"""nnUNetv2_predict with what goes in and what comes out checked: nnU-Net itself trusts both."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import by, read_image
from rectal_nnformer.imaging.volumes import VolumeCheck
from rectal_nnformer.nnunet import commands
from rectal_nnformer.nnunet.dataset_json import num_channels, read_dataset_json
from rectal_nnformer.nnunet.layout import IMAGE_DIGESTS, TRAINED_ON, ModelFolder
from rectal_nnformer.prediction.scans import find_scans, prepare_scans
from rectal_nnformer.utils.files import read_json_if_whole, write_json
from rectal_nnformer.utils.text import plural


def check_mask(path: Path, size: tuple[int, ...]) -> str:
    """Return what is wrong with a mask that was predicted for an image of some size; empty if nothing is."""
    try:
        found = read_image(path).GetSize()
    except RectalError as error:
        return str(error)
    return "" if found == size else f"{path} has the size {by(found)}, its scan {by(size)}"


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
        planes: Which planes of DICOM series to take.
        description: Regular expression for the SeriesDescription of DICOM series to take.
    """

    model: ModelFolder
    scans: Path
    output: Path
    arguments: Sequence[str]
    continued: bool
    part: tuple[int, int]
    planes: Sequence[str] = ("axial",)
    description: str | None = None


def predict(job: PredictionJob) -> int:
    """Predict the scans that can be used, name the others, make sure of every mask, and return an exit code.

    Raises:
        RectalError: No scan can be used.
    """
    dataset_json = read_dataset_json(job.model.dataset_json, "Import or train the model again.")
    ending = dataset_json["file_ending"]
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
        trained_on = _trained_on(job.model, checks)
        for case, name in trained_on.items():
            known = f" as {name}" if name != case else ""
            print(f"Note: the model was trained on {case}{known}: its result says nothing about new scans.")
        if not scans.cases:
            raise RectalError(f"None of the scans in {job.scans} can be used:\n{_listed(scans.unusable)}")
        masks = {case: job.output / f"{case}{ending}" for case in scans.cases}
        if job.continued:
            _remove_damaged(masks, checks)
        code = commands.run_command(
            "nnUNetv2_predict", [*job.arguments, "-i", folder, "-num_parts", "1", "-part_id", "0"]
        )
    damaged = {case: problem for case, path in masks.items() if (problem := check_mask(path, checks[case][0].size))}
    for case in damaged:
        masks[case].unlink(missing_ok=True)
    for path in job.output.glob("*.json"):  # what nnU-Net notes there
        if read_json_if_whole(path) is None:
            path.unlink()
    if trained_on:
        write_json(job.output / TRAINED_ON, trained_on)
    failed = {**scans.unusable, **damaged}
    print(f"{plural(len(masks) - len(damaged), 'scan')} predicted into {job.output}.")
    if failed:
        print(f"{plural(len(failed), 'scan')} not predicted:\n{_listed(failed)}")
    return code or int(bool(failed))


def _trained_on(model: ModelFolder, checks: Mapping[str, list[VolumeCheck]]) -> dict[str, str]:
    """Return the training case that each scan is, of those whose images hold the same voxels."""
    digests = read_json_if_whole(model.path / IMAGE_DIGESTS)
    known = {digest: case for case, digest in digests.items()} if isinstance(digests, dict) else {}
    found = {case: known.get("".join(check.digest for check in checked)) for case, checked in checks.items()}
    return {case: name for case, name in found.items() if name}


def _remove_damaged(masks: Mapping[str, Path], checks: Mapping[str, list[VolumeCheck]]) -> None:
    """Remove masks of an earlier run that nnU-Net would take for done."""
    for case, path in masks.items():
        if path.exists() and (problem := check_mask(path, checks[case][0].size)):
            print(f"Predicted again: {problem}")
            path.unlink()


def _listed(reasons: Mapping[str, str]) -> str:
    return "\n".join(f"  {case}: {reason}" for case, reason in reasons.items())
