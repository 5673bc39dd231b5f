"""The preprocessed dataset: nnU-Net's preprocessing, and files beside it, never half-written under a final name.

nnU-Net preprocesses case by case into the final folder, and a training without given folds takes the cases it finds
there for all there are. Here the cases are written into a folder with a temporary name, which no plans refer to, and
renamed when complete; then a record of what was preprocessed is written beside it. Data with a matching record are used
again, whichever backbone they were made for.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.volumes import LEAST_SHARE
from rectal_nnformer.nnunet.case_files import read_blosc2
from rectal_nnformer.nnunet.layout import DATASET_JSON, case_files
from rectal_nnformer.nnunet.patients import PATIENTS_FILE
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.resampling import FastResampling
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.utils.files import (
    check_space,
    copy_file,
    read_json,
    read_json_if_whole,
    remove_leftovers,
    space_left,
    staged_file,
    staged_folder,
    write_json,
)
from rectal_nnformer.utils.parallel import map_with_progress, workers_undisturbed
from rectal_nnformer.utils.pickles import read_own_pickle
from rectal_nnformer.utils.text import plural

_NOT_DATA = ("patch_size", "batch_size", "median_image_size_in_voxels", "architecture", "batch_dice")
"""Keys of a configuration on which the preprocessed data do not depend."""


class FastPreprocessor(DefaultPreprocessor):
    """nnU-Net's preprocessing with the resampling of `FastResampling`."""

    def run_case_save(self, *arguments: Any) -> None:
        """Preprocess and write a case, as nnU-Net does, on one core of those that its processes share."""
        torch.set_num_threads(1)
        super().run_case_save(*arguments)

    def run_case_npy(self, *arguments: Any) -> tuple[NDArray[np.float32], NDArray[Any], dict[str, Any]]:
        """Return image, segmentation and properties, as nnU-Net does and given the same."""
        *case, configuration, dataset_json = arguments
        return super().run_case_npy(*case, FastResampling(configuration.configuration), dataset_json)


def run_preprocessing(dataset_id: int, plans: str, configuration: str, num_processes: int) -> None:
    """Preprocess a dataset by plans in its folder, into the folder that they name, as `nnUNetv2_preprocess` does."""
    FastPreprocessor(verbose=False).run(dataset_id, configuration, plans, num_processes)


def copy_descriptions(dataset: TrainingDataset) -> None:
    """Copy dataset.json, and patients.csv if there is one, into the preprocessed dataset, where they are looked for."""
    for name in (DATASET_JSON, PATIENTS_FILE):
        if (dataset.raw.path / name).is_file():
            copy_file(dataset.raw.path / name, dataset.preprocessed.path / name)


def is_preprocessed(dataset: TrainingDataset, plans: Plans, configuration: str, num_processes: int = 1) -> bool:
    """Whether the data that a configuration refers to are whole and made from the raw dataset as it is now."""
    folder = dataset.preprocessed.data_folder(plans.configuration(configuration).settings)
    if read_json_if_whole(_record_file(folder)) != _record(dataset, plans, configuration):
        return False
    files = [path for case in dataset.cases for path in case_files(folder, case)]
    whole = all(path.is_file() and path.stat().st_size for path in files)
    if not whole or _outdated_references(dataset):
        return False
    cases = [folder / case for case in dataset.cases]
    return not any(map_with_progress(_data_problem, cases, num_processes, "Checking preprocessed data"))


def preprocess_configuration(dataset: TrainingDataset, plans: Plans, configuration: str, num_processes: int) -> None:
    """Run nnU-Net's preprocessing for a configuration that does not inherit, replacing the data of its folder.

    The plans need not have been written.
    """
    folder = dataset.preprocessed.data_folder(plans.configuration(configuration).settings)
    _record_file(folder).unlink(missing_ok=True)
    for leftover in (folder, *folder.parent.glob(f".{folder.name}.*.partial*")):  # of interrupted runs
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    check_space(folder, _least_bytes(dataset, plans, configuration), f"The preprocessed data of {dataset.name}")
    copy_descriptions(dataset)
    _copy_references(dataset)
    with staged_folder(folder) as staged:
        # Plans by which nnU-Net writes there.
        temporary = staged.with_name(f"{staged.name}.json")
        redirected = {**plans.configuration(configuration).settings, "data_identifier": staged.name}
        write_json(temporary, {**plans.content, "configurations": {configuration: redirected}})
        try:
            with workers_undisturbed():
                run_preprocessing(dataset.dataset_id, staged.name, configuration, num_processes)
        finally:
            temporary.unlink(missing_ok=True)
        cases = [staged / case for case in dataset.cases]
        problems = map_with_progress(_data_problem, cases, num_processes, "Checking what was written")
        if found := [problem for problem in problems if problem]:
            raise RectalError(
                f"{plural(len(found), 'case')} of {dataset.name} not preprocessed: {found[0]}. Nothing was kept. "
                + space_left(staged.parent)
            )
    write_json(_record_file(folder), _record(dataset, plans, configuration))


def _least_bytes(dataset: TrainingDataset, plans: Plans, configuration: str) -> float:
    """Return about how many bytes the compressed arrays take at least, by nnU-Net's fingerprint."""
    measured = read_json(dataset.preprocessed.fingerprint, ["shapes_after_crop", "spacings"])
    volumes = (
        math.prod([*shape, *mm]) for shape, mm in zip(measured["shapes_after_crop"], measured["spacings"], strict=True)
    )
    voxels = sum(volumes) / math.prod(plans.configuration(configuration).spacing)
    image, labels = np.dtype(np.float32).itemsize * len(dataset.channel_names), np.dtype(np.int8).itemsize
    return LEAST_SHARE * voxels * (image + labels)


def _data_problem(case: Path) -> str:
    """Read what was preprocessed of a case, by its path without endings, and return what is not whole; empty if all is.

    The library that writes the arrays does not notice a disk that is full.
    """
    try:
        for ending in (".b2nd", "_seg.b2nd"):
            read_blosc2(case.with_name(case.name + ending))
        read_own_pickle(case.with_name(f"{case.name}.pkl"))
    except RectalError as error:
        return str(error)
    return ""


def _record(dataset: TrainingDataset, plans: Plans, configuration: str) -> dict[str, Any]:
    """Return all that the preprocessed data depend on."""
    settings = {key: s for key, s in plans.configuration(configuration).settings.items() if key not in _NOT_DATA}
    axes = {key: plans.content[key] for key in ("image_reader_writer", "transpose_forward")}
    return {"raw_signature": dataset.signature(), "settings": {**axes, **settings}}


def _record_file(folder: Path) -> Path:
    # Not inside the folder: nnU-Net tells the format of the data by the endings of the files in it.
    return folder.with_name(f"{folder.name}_source.json")


def _copy_references(dataset: TrainingDataset) -> None:
    """Copy the reference masks, as nnU-Net does, so that trainings are validated where the raw dataset is not."""
    dataset.preprocessed.references.mkdir(exist_ok=True)
    for source, copy in _outdated_references(dataset):
        remove_leftovers(copy)
        with staged_file(copy) as temporary:
            shutil.copy2(source, temporary)  # with its time, by which it is recognized


def _outdated_references(dataset: TrainingDataset) -> list[tuple[Path, Path]]:
    """Return the label files of the raw dataset of which there is no copy of the same size and time, each with it."""
    outdated = []
    for case, files in dataset.cases.items():
        source, copy = Path(files["label"]), dataset.preprocessed.reference(case, dataset.dataset_json["file_ending"])
        if not copy.is_file() or _size_and_second(copy) != _size_and_second(source):
            outdated.append((source, copy))
    return outdated


def _size_and_second(path: Path) -> tuple[int, int]:
    return path.stat().st_size, int(path.stat().st_mtime)
