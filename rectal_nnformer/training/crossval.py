"""Cross-validation of one model: train the folds, then summarize how many lesions they detected."""

import os
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.utilities.crossval_split import generate_crossval_split

from rectal_nnformer.analysis.on_demand import dilution_of_fold, reuse_of_fold
from rectal_nnformer.analysis.records import ATTENTION_FILE, REUSE_FILE
from rectal_nnformer.analysis.validation import only_logged
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import evaluate_fold, masks_in, read_evaluation
from rectal_nnformer.evaluation.wish import check_wish
from rectal_nnformer.networks.checkpoint_file import check_checkpoints
from rectal_nnformer.networks.starting_weights import RECORD, recorded_pretrained_file
from rectal_nnformer.nnunet.case_files import check_properties
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.find_trainer import find_trainer
from rectal_nnformer.nnunet.layout import (
    EVALUATION_FILE,
    SUMMARY_JSON,
    FoldFolder,
    ModelFolder,
    PreprocessedDataset,
    RawDataset,
    check_configuration,
    find_plans,
)
from rectal_nnformer.nnunet.names import NUM_FOLDS, SPLITS_SEED
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.nnunet.plans import Configuration, Plans
from rectal_nnformer.nnunet.preflight import check_device, check_folds, check_gpus
from rectal_nnformer.nnunet.splits import Fold, preprocessed_cases, read_splits, settle_folds
from rectal_nnformer.planning.case_check import check_cases
from rectal_nnformer.planning.dataset import open_raw_dataset
from rectal_nnformer.planning.fingerprint import load_tumor_fingerprint
from rectal_nnformer.reporting.cohort import point_lines
from rectal_nnformer.reporting.crossval_summary import CrossvalSummary
from rectal_nnformer.reporting.writing import write_crossval_summary
from rectal_nnformer.training.run_folds import TrainingJob, train_folds
from rectal_nnformer.training.trainer import RectalTrainer
from rectal_nnformer.utils.files import is_there, write_json

Splits = Sequence[Fold]


def cross_validate(
    dataset: int | str,
    *,
    trainer: str,
    plans: str,
    configuration: str = "3d_fullres",
    folds: Sequence[int] | None = None,
    device: str = "cuda",
    gpus: Sequence[str | None] = (None,),
    save_probabilities: bool = False,
    operating_point: str | None = None,
    groups: Path | None = None,
) -> tuple[Path, CrossvalSummary]:
    """Train, validate and summarize folds; finished ones are not repeated.

    Args:
        dataset: Id or name of a planned and preprocessed dataset.
        trainer: Name of a trainer.
        plans: Name of the plans.
        configuration: A configuration of the plans.
        folds: Folds to train; None takes all of the dataset's splits.
        device: nnU-Net's `-device`.
        gpus: For each fold that is to run at a time its GPU, as in CUDA_VISIBLE_DEVICES, or None to leave it to nnU-Net
            (on the CPU always None).
        save_probabilities: nnU-Net's `--npz`.
        operating_point: What the model's operating point is chosen for on the finished folds, as `parse_wish` reads it;
            "none" leaves the model without; None keeps what it was chosen for before, if it was.
        groups: CSV file by which rates are given, too; it is kept with the model.

    Returns:
        The folder of the model, in which crossval_summary.json, .csv, .md and .png were written, and the summary. It
        covers all folds that are finished, those of earlier runs included.

    Raises:
        RectalError: The dataset is not planned and preprocessed; a fold, trainer or device is not possible, or the
            pretrained file is missing; or a training failed.
    """
    job = TrainingJob(_planned_model(dataset, trainer, plans, configuration), device, save_probabilities)
    check_wish(operating_point)
    splits = train_model(job, folds, gpus)
    summary = _summarize(job, splits, operating_point, groups)
    if summary.analysis.wish:
        print(*point_lines(summary.analysis.point), sep="\n")
    return job.model.path, summary


def _planned_model(dataset: int | str, trainer: str, plans: str, configuration: str) -> ModelFolder:
    preprocessed = PreprocessedDataset.find(dataset)
    check_configuration(find_plans(preprocessed.path, plans), configuration)
    return ModelFolder.named(preprocessed.name, trainer, plans, configuration)


def train_model(job: TrainingJob, folds: Sequence[int] | None = None, gpus: Sequence[str | None] = (None,)) -> Splits:
    """Train and validate folds as `cross_validate` does, without a summary; return all folds of the dataset.

    Raises:
        RectalError: As `cross_validate`.
    """
    preprocessed = PreprocessedDataset.find(job.model.dataset)
    planned = Plans.read(find_plans(preprocessed.path, job.model.plans)).configuration(job.model.configuration)
    ending = read_dataset_json(preprocessed.dataset_json, "Plan the dataset again.")["file_ending"]
    splits = _splits(preprocessed, planned, ending)
    check_folds(preprocessed.path, folds or ())
    check_gpus(gpus, job.device)
    _check_finished_folds(job, splits)
    wanted = list(dict.fromkeys(folds or range(len(splits))))
    _check_can_train(job, wanted, preprocessed)
    to_train = [splits[fold] for fold in wanted if not job.is_finished(fold)]
    _check_references(preprocessed, to_train, ending)
    _check_opened(job, wanted, preprocessed.data_folder(planned.settings))
    if to_train:
        _check_raw_dataset(preprocessed.name)
    train_folds(job, wanted, gpus)
    return splits


def _check_can_train(job: TrainingJob, folds: Sequence[int], dataset: PreprocessedDataset) -> None:
    """Refuse what every fold would fail on: no such trainer or device, plans of another network, no pretrained file."""
    waiting = [fold for fold in folds if not job.is_finished(fold)]
    if not waiting:
        return
    trainer = find_trainer(job.model.trainer)
    plans = Plans.read(find_plans(dataset.path, job.model.plans))
    if issubclass(trainer, RectalTrainer):
        trainer.check_recipe(plans, job.model.configuration)
    check_device(job.device)
    to_start = [fold for fold in waiting if not job.model.fold(fold).checkpoints()]
    if to_start and issubclass(trainer, RectalTrainer):
        trainer.pretrained_file(plans, job.model.configuration)


def _check_opened(job: TrainingJob, folds: Sequence[int], data: Path) -> None:
    """Refuse properties of cases and checkpoints that nnU-Net would open and run code from."""
    waiting = [fold for fold in folds if not job.is_finished(fold)]
    if waiting:
        check_properties(data)
    for fold in waiting:
        check_checkpoints(job.model.fold(fold))


def _check_raw_dataset(name: str) -> None:
    """Read every image and mask of a raw dataset that is at hand and was not read as it is now when it was planned.

    nnU-Net's own planning trusts what it reads.
    """
    if not RawDataset.at(name).path.is_dir():
        return
    try:
        raw = open_raw_dataset(name)
    except RectalError as error:
        print(f"Note: the raw dataset was not checked. {error}")
        return
    if load_tumor_fingerprint(raw) is None:
        for note in check_cases(raw, os.cpu_count() or 1)[0]:
            print(f"Note: {note}")


def _check_finished_folds(job: TrainingJob, splits: Splits) -> None:
    """Refuse results of other folds, which a dataset that was made anew under the same name leaves behind."""
    for number, split in enumerate(splits):
        fold = job.model.fold(number)
        present = (fold.validation / EVALUATION_FILE).is_file()
        if present and not {case.case for case in read_evaluation(fold.validation).cases} <= set(split.val):
            raise RectalError(
                f"{fold.path} was validated on other cases than those of fold {number} in splits_final.json of "
                f"{job.model.dataset}. Move the old results away: {job.model.path}"
            )


def _check_references(dataset: PreprocessedDataset, splits: Splits, ending: str) -> None:
    """Refuse folds to train that could not be scored at their end: one is empty, or a case has no ground truth."""
    cases = [case for fold in splits for case in fold.val]
    if any(not fold.train or not fold.val for fold in splits):
        raise RectalError(
            f"Folds of {dataset.name} are empty, as those that a collaborator did not send. Choose others with -f."
        )
    missing = [case for case in cases if not dataset.reference(case, ending).is_file()]
    if missing:
        raise RectalError(
            f"{dataset.references} lacks {len(missing)} of {len(cases)} validation cases, such as "
            f"{missing[0]}, so that the folds could be trained but not scored. If a collaborator sent the dataset "
            "without ground truth, train single folds with 'rectal_nnformer train', or ask for it with ground truth."
        )


def _summarize(job: TrainingJob, splits: Splits, operating_point: str | None, groups: Path | None) -> CrossvalSummary:
    """Pool the finished folds, evaluating those that a trainer without evaluation has validated, or validated again."""
    preprocessed = PreprocessedDataset.find(job.model.dataset)
    dataset_json = read_dataset_json(preprocessed.dataset_json, "Plan the dataset again.")
    patients = read_patients(preprocessed.path)
    finished = [number for number in range(len(splits)) if job.is_finished(number)]
    for number in finished:
        fold = job.model.fold(number)
        scores, validated = fold.validation / EVALUATION_FILE, fold.validation / SUMMARY_JSON
        if not scores.is_file() or scores.stat().st_mtime_ns < validated.stat().st_mtime_ns:
            cases = splits[number].val
            evaluate_fold(fold.validation, preprocessed.references, dataset_json, cases, patients, ignore_position=True)
        _complete_analyses(fold, job.device)
    # Without raw data, as with a dataset from a collaborator, there is only no picture.
    raw = RawDataset.at(job.model.dataset)
    return write_crossval_summary(
        job.model.path,
        images_folder=raw.images_tr,
        reference_folder=preprocessed.references,
        dataset_json=dataset_json,
        patients=patients,
        folds=finished,
        operating_point=operating_point,
        groups=groups,
    )


def _complete_analyses(fold: FoldFolder, device: str) -> None:
    """Measure what our trainers measure at the end of a validation, where it was interrupted before that or failed."""
    if not (fold.path / RECORD).is_file():
        return
    if not (fold.validation / ATTENTION_FILE).is_file():
        print(f"{fold.name}: the analysis of its attention is missing, and done now.")
        with only_logged("attention dilution", print):
            print(dilution_of_fold(fold, device=device)[0])
    # There was none, or it is not at hand: the log of the training says which.
    pretrained, _ = recorded_pretrained_file(fold.path)
    if pretrained is not None and not (fold.validation / REUSE_FILE).is_file():
        print(f"{fold.name}: the comparison of its features is missing, and done now.")
        with only_logged("feature reuse", print):
            print(reuse_of_fold(fold, pretrained, device=device)[0])


def _splits(preprocessed: PreprocessedDataset, configuration: Configuration, ending: str) -> Splits:
    """Return the folds; without splits_final.json write those that nnU-Net would make when the first fold starts.

    Written here they are whole before folds start side by side.

    Raises:
        RectalError: They must not be trained by.
    """
    path = preprocessed.splits
    for note in settle_folds(preprocessed, preprocessed_cases(preprocessed.data_folder(configuration.settings))):
        print(f"Note: {note}")
    if not is_there(path):
        cases = list(masks_in(preprocessed.references, ending))
        if len(cases) < NUM_FOLDS:
            raise RectalError(
                f"{preprocessed.name} has {len(cases)} training cases, too few for {NUM_FOLDS} folds. "
                f"Add cases, or write folds of your own to {path}."
            )
        write_json(path, generate_crossval_split(cases, seed=SPLITS_SEED, n_splits=NUM_FOLDS))
    return read_splits(path)
