"""nnUNetv2_predict with what goes in and what comes out checked: nnU-Net itself trusts both."""

import itertools
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import by, read_image
from rectal_nnformer.imaging.volumes import VolumeCheck, check_volume
from rectal_nnformer.nnunet import commands
from rectal_nnformer.nnunet.dataset_json import num_channels, read_dataset_json
from rectal_nnformer.nnunet.layout import IMAGE_DIGESTS, ModelFolder
from rectal_nnformer.utils.files import read_json_if_whole, write_json
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import plural, some

TRAINED_ON = "trained_on.json"
"""Beside predicted masks: which training case each scan is that the model was trained on."""
SCANS_PER_PROCESS = 8
"""Starting a process takes as long as checking so many scans."""


@dataclass
class Scans:
    """The scans of a folder, as a model reads them.

    Attributes:
        cases: Image files of each case that is complete, one per channel.
        unusable: Why each other case is not predicted.
        left_aside: Why each other entry of the folder is no scan.
    """

    cases: dict[str, list[Path]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    left_aside: dict[str, str] = field(default_factory=dict)


def find_scans(folder: Path, ending: str, num_channels: int) -> Scans:
    """Sort what lies in a folder.

    Args:
        folder: An existing folder.
        ending: The `file_ending` of the model's dataset.json.
        num_channels: How many images a case has, named <case>_0000, <case>_0001 and so on.

    Raises:
        RectalError: Nothing in it fits the model; says what is there and what would fit.
    """
    scans, channels = Scans(), defaultdict[str, dict[int, Path]](dict)
    for path in sorted(folder.iterdir()):
        numbered = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name)
        if path.name.startswith("."):
            scans.left_aside[path.name] = "a hidden file of the system"
        elif not path.is_file():
            scans.left_aside[path.name] = "no file"
        elif numbered is None and path.name.endswith(ending):
            scans.left_aside[path.name] = f"without the number of a channel, as in <case>_0000{ending}"
        elif numbered is None:
            scans.left_aside[path.name] = f"does not end with {ending}, as the model's images do"
        else:
            channels[numbered[1]][int(numbered[2])] = path
    for case, found in sorted(channels.items()):
        if sorted(found) == list(range(num_channels)):
            scans.cases[case] = [found[number] for number in range(num_channels)]
        else:
            numbers = ", ".join(f"{number:04d}" for number in sorted(found))
            scans.unusable[case] = f"has the channels {numbers}, but the model reads {num_channels}, from 0000 on"
    if not channels:
        raise RectalError(
            f"{folder} holds no scan that fits the model, <case>_0000{ending}, but {some(list(scans.left_aside))}. "
            f"Name the scans so; 'rectal_nnformer convert' brings other formats to {ending}."
        )
    return scans


def check_scans(scans: Scans, num_processes: int) -> dict[str, list[VolumeCheck]]:
    """Read every image, move cases that cannot be used to `scans.unusable`, and return what was found in the others."""
    paths = [path for files in scans.cases.values() for path in files]
    checks = dict(zip(paths, map_with_progress(check_volume, paths, num_processes, "Checking scans"), strict=True))
    found = {case: [checks[path] for path in files] for case, files in scans.cases.items()}
    for case, volumes in found.items():
        problems = [volume.problem for volume in volumes if volume.problem]
        sizes = {volume.size for volume in volumes}
        if not problems and len(sizes) > 1:
            problems = [f"its channels have the sizes {' and '.join(map(by, sorted(sizes)))}"]
        if problems:
            scans.unusable[case] = "; ".join(problems)
            del scans.cases[case]
    return {case: found[case] for case in scans.cases}


@contextmanager
def folder_of(cases: Mapping[str, list[Path]]) -> Iterator[Path]:
    """Yield a folder with links to the images of these cases and nothing else."""
    with tempfile.TemporaryDirectory(prefix="rectal_nnformer_") as folder:
        for path in (path for files in cases.values() for path in files):
            (Path(folder) / path.name).symlink_to(path.resolve())
        yield Path(folder)


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
        scans: Folder of the scans.
        output: Folder of the masks.
        arguments: Those of nnUNetv2_predict.
        continued: Whether masks that are there already are kept.
        part: Every so many-th case, from which one on: nnU-Net's -num_parts and -part_id.
    """

    model: ModelFolder
    scans: Path
    output: Path
    arguments: Sequence[str]
    continued: bool
    part: tuple[int, int]


def predict(job: PredictionJob) -> int:
    """Predict the scans that can be used, name the others, make sure of every mask, and return an exit code.

    Raises:
        RectalError: No scan can be used.
    """
    dataset_json = read_dataset_json(job.model.dataset_json, "Import or train the model again.")
    ending = dataset_json["file_ending"]
    scans = find_scans(job.scans, ending, num_channels(dataset_json))
    step, first = job.part
    scans.cases = dict(list(scans.cases.items())[first::step])
    if scans.left_aside:
        print(f"Left aside in {job.scans}:\n{_listed(scans.left_aside)}")
    num_images = sum(map(len, scans.cases.values()))
    checks = check_scans(scans, min(os.cpu_count() or 1, num_images // SCANS_PER_PROCESS))
    for check in itertools.chain(*checks.values()):
        if check.note:
            print(f"Note: {check.note}")
    trained_on = _trained_on(job.model, checks)
    for case, name in trained_on.items():
        print(f"Note: {case} is {name}, which the model was trained on: its result says nothing about new scans.")
    if not scans.cases:
        raise RectalError(f"None of the scans in {job.scans} can be used:\n{_listed(scans.unusable)}")
    masks = {case: job.output / f"{case}{ending}" for case in scans.cases}
    if job.continued:
        _remove_damaged(masks, checks)
    with folder_of(scans.cases) as folder:
        code = commands.run_command(
            "nnUNetv2_predict", [*job.arguments, "-i", str(folder), "-num_parts", "1", "-part_id", "0"]
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
