"""What keeps a fold from being trained, found before a process is started for it."""

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained_files import find_pretrained
from rectal_nnformer.paths import TRAINERS_VARIABLE, environment_with_trainers
from rectal_nnformer.training.folds import TrainingJob
from rectal_nnformer.training.trainer import RectalTrainer

NOT_FOUND = "Could not find requested nnunet trainer"
"""How nnU-Net's message begins where a trainer does not exist."""


def check_can_train(job: TrainingJob, folds: Sequence[int]) -> None:
    """Refuse what every fold would fail on: no such trainer, no such device, or no pretrained file to start from.

    Raises:
        RectalError: says which of them, and what to do.
    """
    waiting = [fold for fold in folds if not job.is_finished(fold)]
    if not waiting:
        return
    trainer = find_trainer(job.trainer)
    if job.device == "cuda" and not torch.cuda.is_available():
        raise RectalError(
            "PyTorch sees no GPU on this machine. Check the driver and CUDA_VISIBLE_DEVICES, or train on another "
            "device, as with -device cpu (full-size networks take days there)."
        )
    to_start = [fold for fold in waiting if not any(job.fold_folder(fold).glob("checkpoint_*.pth"))]
    if to_start and issubclass(trainer, RectalTrainer) and trainer.pretrained:
        find_pretrained(trainer.backbone)


def find_trainer(name: str) -> type:
    """Return a trainer's class, ours, nnU-Net's own or one in a folder that `nnUNet_extTrainer` names.

    Raises:
        RectalError: there is no trainer of that name.
    """
    before = os.environ.get(TRAINERS_VARIABLE)
    os.environ[TRAINERS_VARIABLE] = environment_with_trainers()[TRAINERS_VARIABLE]
    try:
        with redirect_stdout(StringIO()):
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        if NOT_FOUND not in str(error):  # one of the modules that were searched failed on import
            raise RectalError(f"Looking for the trainer {name}, nnU-Net met an error: {error}") from error
        raise RectalError(
            f"There is no trainer called {name} in nnU-Net or in {os.environ[TRAINERS_VARIABLE]}. Check -tr against "
            "the table in documentation/training.md."
        ) from None
    finally:
        os.environ.pop(TRAINERS_VARIABLE)
        if before is not None:
            os.environ[TRAINERS_VARIABLE] = before
