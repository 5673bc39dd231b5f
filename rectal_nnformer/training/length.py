"""Trainers, ours and others', that train for other epochs or iterations, or from a seed: as their names say."""

import random
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from rectal_nnformer.nnunet.names import split_length
from rectal_nnformer.nnunet.source import base_trainer
from rectal_nnformer.training.tracking import add_tracker


def trainer_of_length(name: str) -> Any:
    """Return a subclass of the trainer at the beginning of a name; None where the name is no such, or a class's own.

    A warm-up keeps its share of the training. A seed decides the first weights and what this process draws, with the
    number of the epoch, so that a training that goes on from a checkpoint draws what it would have; worker processes of
    the augmentation hand their batches over in an order of their own, so that a training with them is not the same
    twice.
    """
    base, length = split_length(name)
    if not name.isidentifier() or base_trainer(name) == name:
        return None
    parent = recursive_find_trainer_class_by_name(base)

    def begin(
        self: Any,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        parent.__init__(self, plans, configuration, fold, dataset_json, device)
        if length.epochs is not None:
            for warmup in ("warmup_epochs", "warmup_duration_whole_net"):  # ours, nnU-Net's
                if hasattr(self, warmup):
                    share = getattr(self, warmup) / self.num_epochs
                    setattr(self, warmup, min(length.epochs, max(1, round(share * length.epochs))))
            self.num_epochs = length.epochs
        if length.iterations is not None:
            share = self.num_val_iterations_per_epoch / self.num_iterations_per_epoch
            self.num_val_iterations_per_epoch = max(1, round(share * length.iterations))
            self.num_iterations_per_epoch = length.iterations
        if length.seed is not None:
            _seed(length.seed, self.local_rank)  # distributed, all take the first weights of rank 0
        add_tracker(self)

    def begin_epoch(self: Any) -> None:
        parent.on_epoch_start(self)
        if length.seed is not None and self.current_epoch:
            _seed(length.seed, self.local_rank, self.current_epoch)

    methods = {"__init__": begin, "on_epoch_start": begin_epoch}
    return type(name, (parent,), {**methods, "__doc__": f"{base} with the length {length}."})


def _seed(seed: int, rank: int, epoch: int = 0) -> None:
    number = (seed + 1000 * rank + 1_000_003 * epoch) % 2**32  # processes of one training, and its epochs, draw apart
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002, by which nnU-Net draws
    torch.manual_seed(number)
