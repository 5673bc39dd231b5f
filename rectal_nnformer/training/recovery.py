"""What a training does when it goes wrong or is asked to stop: notice, go back, save."""

import copy
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.nnunet.checkpoints import checkpoint_problem
from rectal_nnformer.nnunet.layout import CHECKPOINTS, SUMMARY_JSON
from rectal_nnformer.utils.files import is_there, space_left, write_json
from rectal_nnformer.utils.json_records import read_own
from rectal_nnformer.utils.text import plural

RECOVERIES_FILE = "recoveries.json"
MOST_RECOVERIES = 3
LOWER = 0.5
"""By what the learning rate is multiplied at each recovery."""


class NotFiniteError(Exception):
    """An epoch ended with weights or losses that are not finite."""


class StoppedError(Exception):
    """The process was asked to end, by SIGTERM."""


@dataclass(frozen=True)
class Recovery:
    """One return of a training to a good state.

    Attributes:
        epoch: The epoch that went wrong.
        back_to: The epoch that was trained next.
        peak: Peak of the learning rate from then on.
        reason: What was not finite.
    """

    epoch: int
    back_to: int
    peak: float
    reason: str


def read_recoveries(fold_folder: Path) -> list[Recovery]:
    """Return the recoveries of a training so far, oldest first; none where it never went wrong.

    Raises:
        RectalError: The file is damaged.
    """
    path = fold_folder / RECOVERIES_FILE
    return list(read_own(tuple[Recovery, ...], path, "Remove it.")) if is_there(path) else []


def write_recoveries(fold_folder: Path, recoveries: list[Recovery]) -> None:
    """Replace the record of a training's recoveries; without any there is no file."""
    path = fold_folder / RECOVERIES_FILE
    if recoveries:
        write_json(path, [asdict(one) for one in recoveries])
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class StartState:
    """What a training that has no checkpoint yet goes back to, in main memory.

    Attributes:
        weights: The network's `state_dict`.
        logging: What nnU-Net's logger held.
    """

    weights: dict[str, Tensor]
    logging: dict[str, Any]

    @classmethod
    def of(cls, network: nn.Module, logging: dict[str, Any]) -> "StartState":
        """Copy the state of a network and a logger."""
        weights = {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
        return cls(weights, copy.deepcopy(logging))


def describe_not_finite(network: nn.Module, optimizer: Optimizer, lost: int, iterations: int) -> str:
    """Return why a training cannot go on as it is after an epoch; empty if it can.

    Args:
        network: The network, without wrappers.
        optimizer: Its optimizer, whose averages count as well.
        lost: Number of iterations with a loss that is not finite.
        iterations: Number of iterations of the epoch.
    """
    tensors = [value for value in network.state_dict().values() if value.is_floating_point()]
    kept = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    broken, of_optimizer = (sum(not bool(v.isfinite().all()) for v in values) for values in (tensors, kept))
    if broken or of_optimizer:
        return (
            f"{broken} of {plural(len(tensors), 'tensor')} of the network and {of_optimizer} of the optimizer's "
            f"{len(kept)} are not finite; neither is the loss of {lost} of {plural(iterations, 'iteration')}"
        )
    return f"the loss of all {plural(iterations, 'iteration')} is not finite" if lost == iterations else ""


def report_of_failure(fold_folder: Path, epoch: int, problem: str, recoveries: Sequence[Recovery]) -> str:
    """Return the message with which a training ends that has gone wrong too often."""
    tried = [f"epoch {r.epoch}, back to epoch {r.back_to} with the learning rate {r.peak:g}" for r in recoveries]
    return (
        f"The training in {fold_folder} stopped after epoch {epoch}: {problem}. It went back before: "
        f"{'; '.join(tried) or 'never, it has no checkpoint'}. Look for a case with extreme intensities in the "
        "preprocessed data ('rectal_nnformer plan_and_preprocess --clean' makes them again), start from other weights, "
        f"or train again from the start: remove {fold_folder}."
    )


def whole_checkpoint(path: Path, trainer: str, log: Callable[[str], None]) -> Path:
    """Return a checkpoint that is to be loaded, or where it is damaged the newest whole one of its folder.

    Args:
        path: The checkpoint that is wanted.
        trainer: Name of the trainer that must have written it.
        log: Told what is wrong and what is taken instead.

    Raises:
        RectalError: It is damaged or of another trainer, and there is no other.
    """
    problem = checkpoint_problem(path, trainer)
    if not problem:
        return path
    others = [
        other for other in path.parent.glob(CHECKPOINTS) if other != path and not checkpoint_problem(other, trainer)
    ]
    if not others:
        raise RectalError(
            f"{path} {problem}, and its folder holds no other checkpoint. Restore the file, or move it away to train "
            "the fold from its start."
        )
    newest = max(others, key=lambda other: other.stat().st_mtime_ns)
    log(f"WARNING: {path.name} {problem}. The training goes on from {newest.name} instead.")
    return newest


def remove_damaged_masks(validation: Path, cases: Iterable[str], ending: str) -> None:
    """Refuse predicted masks that did not arrive whole on the disk, which nnU-Net has scored as if they held less.

    They are removed, and nnU-Net's summary with them, so that the validation counts as not done.

    Raises:
        RectalError: Names them.
    """
    problems = {}
    for path in (validation / f"{case}{ending}" for case in cases):
        try:
            read_image(path)
        except RectalError as error:
            problems[path] = str(error)
    if problems:
        for path in (*problems, validation / SUMMARY_JSON):
            path.unlink(missing_ok=True)
        raise RectalError(
            f"{plural(len(problems), 'mask')} of the validation not whole and removed: {'; '.join(problems.values())}. "
            f"{space_left(validation)} Then validate again with --val."
        )


class StopSignal:
    """Notices SIGTERM, or other signals, while a training runs, so that it can end between two steps with a checkpoint.

    It is installed after nnU-Net's loaders were forked. Processes that are forked later inherit the handler, but end by
    the signal as any does: pools end their workers so.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.came = 0  # the signal's number
        self._signals = signals or (signal.SIGTERM,)
        self._before: dict[signal.Signals, Any] = {}
        self._process = 0

    def install(self) -> None:
        """Begin to notice, if not yet; in another thread than the main one nothing can be, and nothing changes."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._before = {number: signal.signal(number, self._note) for number in self._signals}

    def remove(self) -> None:
        """Put back what was there before."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def check(self) -> None:
        """Raise StoppedError if the signal came."""
        if self.came:
            raise StoppedError

    def _note(self, number: int, _: object) -> None:
        if os.getpid() == self._process:
            self.came = number
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
