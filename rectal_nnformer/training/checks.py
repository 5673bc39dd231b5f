"""What keeps a fold from being trained, found before a process is started for it."""

from collections.abc import Sequence

from rectal_nnformer.networks.pretrained_files import find_pretrained
from rectal_nnformer.nnunet.find_trainer import find_trainer
from rectal_nnformer.nnunet.layout import find_dataset, find_plans
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.preflight import check_device
from rectal_nnformer.training.folds import TrainingJob
from rectal_nnformer.training.trainer import RectalTrainer


def check_can_train(job: TrainingJob, folds: Sequence[int]) -> None:
    """Refuse what every fold would fail on: no such trainer or device, plans of another network, no pretrained file.

    Raises:
        RectalError: Says which of them, and what to do.
    """
    waiting = [fold for fold in folds if not job.is_finished(fold)]
    if not waiting:
        return
    trainer = find_trainer(job.trainer)
    if issubclass(trainer, RectalTrainer):
        plans = find_plans(find_dataset("nnUNet_preprocessed", job.dataset), job.plans)
        trainer.check_recipe(Plans.read(plans), job.configuration)
    check_device(job.device)
    to_start = [fold for fold in waiting if not any(job.fold_folder(fold).glob("checkpoint_*.pth"))]
    if to_start and issubclass(trainer, RectalTrainer) and trainer.pretrained:
        find_pretrained(trainer.backbone)
