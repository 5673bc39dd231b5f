"""What candidates and counts add to the time of a fold's validation.

    python -m tests.benchmarks.validation_cost DATASET TRAINER PLANS [-c CONFIGURATION] [-f FOLD] [-device cuda]

The fold is trained. It is validated as `nnUNetv2_train --val` does it, all analyses included, with and without them in
turn; its files are written anew, at last with them. nnU-Net's variables are set.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from rectal_nnformer.evaluation.candidates import CaseCandidates
from rectal_nnformer.evaluation.log_odds import from_sparse
from rectal_nnformer.nnunet.find_trainer import trainers_within_reach
from rectal_nnformer.prediction import predictor
from rectal_nnformer.training.validation import predict_fold
from tests.benchmarks import fold_parser


@contextmanager
def without_candidates() -> Iterator[None]:
    """Let the predictor write masks alone."""
    nothing = CaseCandidates((), None)
    with (
        mock.patch.object(predictor, "find_candidates", lambda _, mask: (np.zeros(mask.shape, np.uint16), nothing)),
        mock.patch.object(predictor, "write_candidates", lambda *_: None),
        mock.patch.object(predictor, "count_case", lambda *_: from_sparse([], [])),
        mock.patch.object(predictor, "resample_log_odds", lambda _, shape, *__: np.zeros(list(map(int, shape)))),
    ):
        yield


def seconds(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median seconds of some work with and without candidates, done in turn after a first time."""
    spent: dict[bool, list[float]] = {True: [], False: []}
    work()
    for _ in range(rounds):
        for with_them in (False, True):
            with nullcontext() if with_them else without_candidates():
                start = time.perf_counter()
                work()
                spent[with_them].append(time.perf_counter() - start)
    return statistics.median(spent[True]), statistics.median(spent[False])


def main() -> None:
    """Print a table in Markdown."""
    parser = fold_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="timed runs of each (default: %(default)s)")
    arguments = parser.parse_args()
    with trainers_within_reach():
        names = arguments.dataset, arguments.c, arguments.f, arguments.trainer, arguments.plans
        trainer = get_trainer_from_args(*names, device=torch.device(arguments.device))
        maybe_load_checkpoint(trainer, False, True)
        print("| | with candidates | without | ratio |\n|---|---:|---:|---:|")
        stages: dict[str, Callable[[], object]] = {
            "prediction alone": lambda: predict_fold(trainer, trainer.network, False),
            "whole validation": lambda: trainer.perform_actual_validation(False),
        }
        for name, work in stages.items():
            with_them, without = seconds(work, arguments.rounds)
            print(f"| {name} | {with_them:.2f} s | {without:.2f} s | {with_them / without:.2f} |")


if __name__ == "__main__":
    main()
