"""Checks before a cross-validation starts: what every fold would fail on, found before a process is started for it."""

from collections.abc import Sequence

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, read_evaluation
from rectal_nnformer.networks.pretrained_files import find_pretrained
from rectal_nnformer.nnunet.find_trainer import find_trainer
from rectal_nnformer.nnunet.layout import PreprocessedDataset, find_plans
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.preflight import check_device
from rectal_nnformer.training.run_folds import TrainingJob
from rectal_nnformer.training.trainer import RectalTrainer

Splits = list[dict[str, list[str]]]
"""Names of the cases of each fold, under `train` and `val`."""


def check_can_train(job: TrainingJob, folds: Sequence[int], dataset: PreprocessedDataset) -> None:
    """Refuse what every fold would fail on: no such trainer or device, plans of another network, no pretrained file.

    Raises:
        RectalError: Says which of them, and what to do.
    """
    waiting = [fold for fold in folds if not job.is_finished(fold)]
    if not waiting:
        return
    trainer = find_trainer(job.model.trainer)
    if issubclass(trainer, RectalTrainer):
        trainer.check_recipe(Plans.read(find_plans(dataset.path, job.model.plans)), job.model.configuration)
    check_device(job.device)
    to_start = [fold for fold in waiting if not job.model.fold(fold).checkpoints()]
    if to_start and issubclass(trainer, RectalTrainer) and trainer.pretrained:
        find_pretrained(trainer.backbone)


def check_finished_folds(job: TrainingJob, splits: Splits) -> None:
    """Refuse results of other folds, which a dataset that was made anew under the same name leaves behind.

    Raises:
        RectalError: Names the folder to move away.
    """
    model = job.model
    for number, split in enumerate(splits):
        fold = model.fold(number)
        if not (fold.validation / EVALUATION_FILE).is_file():
            continue
        if not {case.case for case in read_evaluation(fold.validation).cases} <= set(split["val"]):
            raise RectalError(
                f"{fold.path} was validated on other cases than those of fold {number} in splits_final.json of "
                f"{model.dataset}. Move the old results away: {model.path}"
            )


def check_references(dataset: PreprocessedDataset, splits: Splits, ending: str) -> None:
    """Refuse what could not be scored at its end.

    Args:
        dataset: The dataset.
        splits: The folds to train.
        ending: Ending of its mask files.

    Raises:
        RectalError: A fold is empty, or a validation case has no ground truth.
    """
    cases = [case for fold in splits for case in fold["val"]]
    if any(not fold["train"] or not fold["val"] for fold in splits):
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
