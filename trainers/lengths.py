"""Trainers of another length, by name: nnUNetTrainerSMIT_ACT_20epochs, nnUNetTrainer_4epochs_50iterations_seed0.

nnU-Net asks each module for the name of a trainer. This one answers for every other trainer's with a length at its end.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return the trainer whose name ends in a length; a class that is written under such a name goes first."""
    from rectal_nnformer.training.length import trainer_of_length

    trainer = trainer_of_length(name)
    if trainer is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return trainer
