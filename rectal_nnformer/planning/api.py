"""Fingerprint, plans and preprocessed data of a dataset, as one call."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from rectal_nnformer.augmentation.settings import PUBLISHED
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import IMAGE_DIGESTS, id_lock
from rectal_nnformer.nnunet.names import FULLRES, WINDOW_FILE
from rectal_nnformer.nnunet.plans import Plans, PositiveMm
from rectal_nnformer.nnunet.splits import check_folds_of
from rectal_nnformer.planning.case_check import check_cases, check_dataset
from rectal_nnformer.planning.dataset import TrainingDataset, open_raw_dataset
from rectal_nnformer.planning.fingerprint import extract_tumor_fingerprint, load_tumor_fingerprint
from rectal_nnformer.planning.intensity_window import load_intensity_window
from rectal_nnformer.planning.outdated import print_warning
from rectal_nnformer.planning.planner import RectalExperimentPlanner
from rectal_nnformer.planning.preprocessing import is_preprocessed, preprocess_configuration
from rectal_nnformer.utils.files import locked, read_json_if_whole, space_left, write_json
from rectal_nnformer.utils.parallel import workers_undisturbed

FINGERPRINT_PROCESSES, PREPROCESSING_PROCESSES = 8, 4
"""Worker processes by default, as nnU-Net's; never more than there are cores or cases."""


def plan_dataset(
    dataset_id: int,
    backbone: str,
    *,
    overwrite_target_spacing: Sequence[float] | None = None,
    plans_name: str | None = None,
    backbone_kwargs: Mapping[str, Any] | None = None,
    max_patch_size: int | None = None,
    gpu_memory_target: float | None = None,
    tumor_augmentation: str = PUBLISHED,
    lesion_wise: bool = False,
    preprocess: bool = True,
    num_processes: int | None = None,
    num_processes_fingerprint: int | None = None,
    clean: bool = False,
    warn: Callable[[str], None] = print_warning,
) -> Plans:
    """Fingerprint, plan and preprocess a raw dataset; return the plans.

    The plans are written last, so that an interruption leaves no plans without their data, and data that another
    backbone's plans share are not made twice, nor at once: a process waits for another that plans the same dataset.

    Args:
        dataset_id: The number after "Dataset".
        backbone: A key of `rectal_nnformer.planning.backbones.BACKBONES`.
        overwrite_target_spacing: mm, in the order of nnU-Net's arrays (z, y, x), instead of the planned one.
        plans_name: Instead of the backbone's.
        backbone_kwargs: Arguments of the network's constructor other than its defaults.
        max_patch_size: Upper limit of the patch size on every axis, voxels.
        gpu_memory_target: GB of the GPU that is planned for; 24 unless given.
        tumor_augmentation: Ranges of the tumour-aware augmentation, "published" or "planned" from the fingerprint.
        lesion_wise: Whether that augmentation draws for each lesion instead of each sample.
        preprocess: Whether to make the preprocessed data, or write the plans alone.
        num_processes: Worker processes of the preprocessing.
        num_processes_fingerprint: Worker processes of the fingerprint.
        clean: Compute fingerprint, intensity window and preprocessed data again even if they are up to date.
        warn: Called with each warning about plans, data and folds that the new plans make outdated.

    Raises:
        RectalError: The dataset is unknown, incomplete or two-dimensional, a case cannot be used, or an option cannot
            be met.
    """
    dataset = open_raw_dataset(dataset_id)
    waiting = f"{dataset.name} is being planned or imported by another process. Waiting for it."
    with locked(id_lock(dataset.preprocessed.path), waiting, wait=True):
        try:
            check_folds_of(dataset.preprocessed, dataset.cases, planning=True)
        except RectalError:  # what else is wrong is told with it
            check_dataset(dataset, _num_processes(num_processes_fingerprint, FINGERPRINT_PROCESSES, dataset), True)
            raise
        extract_fingerprint(dataset, num_processes=num_processes_fingerprint, clean=clean)
        planner = RectalExperimentPlanner(
            dataset_id,
            gpu_memory_target_in_gb=gpu_memory_target,
            plans_name=plans_name,
            overwrite_target_spacing=overwrite_target_spacing,
            backbone=backbone,
            backbone_kwargs=backbone_kwargs,
            max_patch_size=max_patch_size,
            tumor_augmentation=tumor_augmentation,
            lesion_wise=lesion_wise,
        )
        plans = planner.make_plans()
        processes = _num_processes(num_processes, PREPROCESSING_PROCESSES, dataset)
        if preprocess and not clean and is_preprocessed(dataset, plans, FULLRES, processes):
            identifier = plans.configuration(FULLRES).data_identifier
            print(f"{dataset.name} has been preprocessed already: {identifier} is complete and up to date.")
        elif preprocess:
            # The data of `3d_fullres`; `3d_fullres_cubic` reads the same.
            with _failing_as(f"nnU-Net's preprocessing of {dataset.name}", dataset):
                preprocess_configuration(dataset, plans, FULLRES, processes)
        planner.save_plans(plans, warn)
    return plans


def extract_fingerprint(dataset: TrainingDataset, *, num_processes: int | None = None, clean: bool = False) -> None:
    """Make sure that intensity window, tumour fingerprint and nnU-Net's fingerprint exist and are up to date.

    They are computed again if the raw dataset has changed since, or if `clean`.

    Raises:
        RectalError: Cases cannot be read or used; names them all.
    """
    processes = _num_processes(num_processes, FINGERPRINT_PROCESSES, dataset)
    fingerprint_file = dataset.preprocessed.fingerprint
    has_window = load_intensity_window(dataset) is not None
    outdated = (dataset.preprocessed.path / WINDOW_FILE).exists() and not has_window
    to_measure = clean or not has_window or load_tumor_fingerprint(dataset) is None
    if to_measure:
        notes, digests = check_cases(dataset, processes)
        for note in notes:
            print(f"Note: {note}")
    # An interruption may have left one that cannot be read, or of fewer cases.
    if clean or outdated or _measured_cases(fingerprint_file) != len(dataset.cases):
        fingerprint_file.unlink(missing_ok=True)
    if to_measure:
        write_json(dataset.preprocessed.path / IMAGE_DIGESTS, digests)
        extract_tumor_fingerprint(dataset, processes)
    with _failing_as(f"nnU-Net's fingerprint extraction for {dataset.name}", dataset), workers_undisturbed():
        extract_fingerprint_dataset(
            dataset.dataset_id, DatasetFingerprintExtractor, processes, clean=False, verbose=False
        )


@checked(frozen=True)
class _Measured:
    """What the planner reads of nnU-Net's fingerprint."""

    spacings: list[Annotated[list[PositiveMm], Field(min_length=3, max_length=3)]]
    shapes_after_crop: list[Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]]
    foreground_intensity_properties_per_channel: dict[str, Any]


def _measured_cases(fingerprint: Path) -> int:
    """Return of how many cases nnU-Net's fingerprint is; 0 where it is missing or damaged."""
    try:
        found = TypeAdapter(_Measured).validate_python(read_json_if_whole(fingerprint))
    except ValidationError:
        return 0
    return len(found.spacings) if len(found.spacings) == len(found.shapes_after_crop) else 0


def verify_integrity(dataset: TrainingDataset, num_processes: int | None = None) -> None:
    """Run nnU-Net's check of all training images and labels.

    Raises:
        RectalError: The check failed; nnU-Net prints what it found.
    """
    with _failing_as(f"nnU-Net's integrity check of {dataset.name}", dataset):
        verify_dataset_integrity(str(dataset.raw.path), _num_processes(num_processes, FINGERPRINT_PROCESSES, dataset))


def _num_processes(wanted: int | None, default: int, dataset: TrainingDataset) -> int:
    if wanted is not None and wanted < 1:
        raise RectalError(f"At least one process is needed, not {wanted}.")
    return min(wanted or min(default, os.cpu_count() or 1), len(dataset.cases))


@contextmanager
def _failing_as(step: str, dataset: TrainingDataset) -> Iterator[None]:
    """Turn any error of nnU-Net, which raises many kinds, into one that says what failed, writing where."""
    try:
        yield
    except RectalError:
        raise
    except Exception as error:
        raise RectalError(
            f"{step} failed: {type(error).__name__}: {error}. "
            f"{space_left(dataset.preprocessed.path)} If there is room, 'rectal_nnformer plan_and_preprocess "
            "--verify_dataset_integrity' checks every case."
        ) from error
