"""Cross-validation of one model: train the folds, then summarize how many lesions they detected."""

import json
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.utilities.crossval_split import generate_crossval_split

from rectal_nnformer.analysis.on_demand import dilution_of_fold, reuse_of_fold
from rectal_nnformer.analysis.records import ATTENTION_FILE, REUSE_FILE
from rectal_nnformer.analysis.validation import only_logged
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, evaluate_fold, read_evaluation
from rectal_nnformer.networks.starting_weights import RECORD, recorded_pretrained_file
from rectal_nnformer.nnunet.layout import check_configuration, find_dataset, find_plans, folder_variables, nnunet_folder
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.reporting.crossval_summary import CrossvalSummary
from rectal_nnformer.reporting.writing import write_crossval_summary
from rectal_nnformer.training.checks import check_can_train
from rectal_nnformer.training.folds import TrainingJob, train_folds
from rectal_nnformer.utils.files import write_json

DEFAULT_FOLDS = 5

Splits = list[dict[str, list[str]]]


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

    Returns:
        The folder of the model, in which crossval_summary.json, .csv, .md and .png were written, and the summary. It
        covers all folds that are finished, those of earlier runs included.

    Raises:
        RectalError: The dataset is not planned and preprocessed; a fold, trainer or device is not possible, or the
            pretrained file is missing; or a training failed.
    """
    preprocessed = find_dataset("nnUNet_preprocessed", dataset)
    check_configuration(find_plans(preprocessed, plans), configuration)
    splits = _splits(preprocessed)
    if outside := sorted(set(folds or ()) - set(range(len(splits)))):
        raise RectalError(f"{preprocessed.name} has the folds 0 to {len(splits) - 1}; -f names {outside}.")
    if any(gpus) and device != "cuda":
        raise RectalError(f"--gpus goes with -device cuda, not with -device {device}.")
    job = TrainingJob(
        dataset=preprocessed.name,
        configuration=configuration,
        trainer=trainer,
        plans=plans,
        results=nnunet_folder("nnUNet_results"),
        device=device,
        save_probabilities=save_probabilities,
    )
    _check_finished_folds(job, splits)
    wanted = list(dict.fromkeys(folds or range(len(splits))))
    check_can_train(job, wanted)
    _check_references(preprocessed, [splits[fold] for fold in wanted if not job.is_finished(fold)])
    train_folds(job, wanted, gpus)
    return job.model_folder, _summarize(job, preprocessed, splits)


def _summarize(job: TrainingJob, preprocessed: Path, splits: Splits) -> CrossvalSummary:
    """Pool the finished folds, evaluating those that a trainer without evaluation has validated."""
    dataset_json = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    references = preprocessed / "gt_segmentations"
    patients = read_patients(preprocessed)
    finished = [fold for fold in range(len(splits)) if job.is_finished(fold)]
    for fold in finished:
        validation = job.fold_folder(fold) / "validation"
        if not (validation / EVALUATION_FILE).is_file():
            evaluate_fold(validation, references, dataset_json, splits[fold]["val"], patients, ignore_position=True)
    _complete_analyses([job.fold_folder(fold) for fold in finished], job)
    return write_crossval_summary(
        job.model_folder,
        # Without raw data, as with a dataset from a collaborator, there is only no picture.
        images_folder=Path(folder_variables().get("nnUNet_raw", "nnUNet_raw")) / job.dataset / "imagesTr",
        reference_folder=references,
        dataset_json=dataset_json,
        patients=patients,
        folds=finished,
    )


def _complete_analyses(fold_folders: Sequence[Path], job: TrainingJob) -> None:
    """Measure what our trainers measure at the end of a validation, where it was interrupted before that or failed."""
    for folder in fold_folders:
        if not (folder / RECORD).is_file():
            continue
        if not (folder / "validation" / ATTENTION_FILE).is_file():
            print(f"{folder.name}: the analysis of its attention is missing, and done now.")
            with only_logged("attention dilution", print):
                names = job.dataset, job.trainer, job.plans, job.configuration, folder.name.removeprefix("fold_")
                print(dilution_of_fold(*names, device=job.device)[0])
        pretrained = _pretrained_file(folder)
        if pretrained is not None and not (folder / "validation" / REUSE_FILE).is_file():
            print(f"{folder.name}: the comparison of its features is missing, and done now.")
            with only_logged("feature reuse", print):
                print(reuse_of_fold(folder, pretrained, device=job.device)[0])


def _pretrained_file(fold_folder: Path) -> Path | None:
    try:
        return recorded_pretrained_file(fold_folder)
    except RectalError:  # there was none, or it is not at hand; the log of the training says which
        return None


def _check_finished_folds(job: TrainingJob, splits: Splits) -> None:
    """Refuse results of other folds, which a dataset that was made anew under the same name leaves behind."""
    for fold, split in enumerate(splits):
        validation = job.fold_folder(fold) / "validation"
        if not (validation / EVALUATION_FILE).is_file():
            continue
        if not {case.case for case in read_evaluation(validation).cases} <= set(split["val"]):
            raise RectalError(
                f"{job.fold_folder(fold)} was validated on other cases than those of fold {fold} in splits_final.json "
                f"of {job.dataset}. Move the old results away: {job.model_folder}"
            )


def _check_references(preprocessed: Path, splits: Splits) -> None:
    """Refuse what could not be scored at its end: empty folds and cases without ground truth."""
    cases = [case for fold in splits for case in fold["val"]]
    if any(not fold["train"] or not fold["val"] for fold in splits):
        raise RectalError(
            f"Folds of {preprocessed.name} are empty, as those that a collaborator did not send. Choose others with -f."
        )
    ending = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))["file_ending"]
    missing = [case for case in cases if not (preprocessed / "gt_segmentations" / f"{case}{ending}").is_file()]
    if missing:
        raise RectalError(
            f"{preprocessed / 'gt_segmentations'} lacks {len(missing)} of {len(cases)} validation cases, such as "
            f"{missing[0]}, so that the folds could be trained but not scored. If a collaborator sent the dataset "
            "without ground truth, train single folds with 'rectal_nnformer train', or ask for it with ground truth."
        )


def _splits(preprocessed: Path) -> Splits:
    """Return the folds; without splits_final.json write those that nnU-Net would make when the first fold starts.

    Written here they are whole before folds start side by side.
    """
    path = preprocessed / "splits_final.json"
    if not path.is_file():
        ending = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))["file_ending"]
        cases = sorted(
            file.name.removesuffix(ending) for file in (preprocessed / "gt_segmentations").glob(f"*{ending}")
        )
        if len(cases) < DEFAULT_FOLDS:
            raise RectalError(
                f"{preprocessed.name} has {len(cases)} training cases, too few for {DEFAULT_FOLDS} folds. "
                f"Add cases, or write folds of your own to {path}."
            )
        write_json(path, generate_crossval_split(cases, seed=12345, n_splits=DEFAULT_FOLDS))
    return json.loads(path.read_text(encoding="utf-8"))
