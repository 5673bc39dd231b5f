"""How long a training waits for its batches, augmented by background workers and on the device that trains.

    python -m tests.benchmarks.loading DATASET TRAINER PLANS [-c CONFIGURATION] [-f FOLD] [-device cuda]

The dataset is preprocessed and nnU-Net's variables are set; `nnUNet_n_proc_DA` workers load. The network trains from
random weights, some iterations in either way and in turn, and nothing is written. Time spent in `next` of the loader is
time in which the device has nothing to do: a step ends when its loss is known.
"""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from nnunetv2.run.run_training import get_trainer_from_args

from rectal_nnformer.augmentation.on_device import VARIABLE
from rectal_nnformer.nnunet.find_trainer import trainers_within_reach
from tests.benchmarks import fold_parser

WAYS = {"background workers": "f", "the device that trains": "t"}
"""By who augments, the value of the variable that chooses it."""


@dataclass
class Spent:
    """Seconds of one iteration: in all, waiting for a batch, and augmenting it on the device."""

    total: float
    waiting: float
    augmenting: float


def _synchronized(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Timed:
    """Augmentation on a device that remembers how long it took."""

    def __init__(self, augmentation: Any, device: torch.device) -> None:
        self.augmentation, self.device, self.seconds = augmentation, device, 0.0

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the augmented batch."""
        start = _synchronized(self.device)
        batch = self.augmentation(batch)
        self.seconds = _synchronized(self.device) - start
        return batch


def iterate(trainer: Any, loader: Any, iterations: int) -> list[Spent]:
    """Train for some iterations."""
    found = []
    for _ in range(iterations):
        start = time.perf_counter()
        batch = next(loader)
        loaded = time.perf_counter()
        trainer.train_step(batch)
        augmenting = trainer._augmentation.seconds if trainer._augmentation else 0.0
        found.append(Spent(time.perf_counter() - start, loaded - start, augmenting))
    return found


def in_turn(trainer: Any, iterations: int, rounds: int) -> dict[str, list[Spent]]:
    """Train in both ways in turn; the first third of each turn, which finds batches prepared, does not count."""
    found: dict[str, list[Spent]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, value in WAYS.items():
            trainer._augmentation = None
            with mock.patch.dict(os.environ, {VARIABLE: value}):
                loaders = trainer.get_dataloaders()
            if trainer._augmentation:
                trainer._augmentation = Timed(trainer._augmentation, trainer.device)
            found[way] += iterate(trainer, loaders[0], iterations + iterations // 2)[iterations // 2 :]
            for loader in loaders:
                if hasattr(loader, "_finish"):
                    loader._finish()
    return found


def table(found: dict[str, list[Spent]]) -> str:
    """Return a table in Markdown."""
    lines = ["| augmented by | iteration, median | waits for batches | augments |", "|---|---:|---:|---:|"]
    for way, spent in found.items():
        total = sum(one.total for one in spent)
        shares = (sum(getattr(one, what) for one in spent) / total for what in ("waiting", "augmenting"))
        median = statistics.median(one.total for one in spent)
        lines.append(f"| {way} | {1000 * median:.0f} ms | " + " | ".join(f"{share:.1%}" for share in shares) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print a table in Markdown."""
    parser = fold_parser(__doc__)
    parser.add_argument("--iterations", type=int, default=60, help="that count, of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    arguments = parser.parse_args()
    names = arguments.dataset, arguments.c, arguments.f, arguments.trainer, arguments.plans
    with (
        tempfile.TemporaryDirectory() as nowhere,
        mock.patch.dict(os.environ, nnUNet_results=nowhere),
        trainers_within_reach(),
    ):
        trainer = get_trainer_from_args(*names, device=torch.device(arguments.device))
        trainer.initialize()
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        trainer.on_train_epoch_start()
        print(table(in_turn(trainer, arguments.iterations, arguments.rounds)))


if __name__ == "__main__":
    main()
