"""How far a study is, by its files alone: each step, each fold's epoch, and about how long the trainings still take."""

import fcntl
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rectal_nnformer.nnunet.layout import CHECKPOINT_FINAL, SUMMARY_JSON, TRAINING_LOCK, FoldFolder
from rectal_nnformer.study.jobs import lock_file, record_file
from rectal_nnformer.study.steps import Step, TrainStep
from rectal_nnformer.training.run_folds import LOG_NAME
from rectal_nnformer.utils.files import read_json_if_whole
from rectal_nnformer.utils.text import plural

LAST_EPOCHS = 20
"""By their median the time left is told."""
_EPOCH = re.compile(r": Epoch (\d+)\s*$", re.M)
_EPOCH_TIME = re.compile(r"Epoch time: ([\d.]+) s")


@dataclass(frozen=True)
class FoldProgress:
    """How far a fold is; `epoch` counts finished ones, `seconds` are those of all that were trained, repeated ones too.

    `num_epochs` and `seconds_left` are None until the training has begun, or has ended an epoch.
    """

    state: str
    epoch: int = 0
    num_epochs: int | None = None
    seconds: float = 0
    seconds_left: float | None = None


def fold_progress(fold: FoldFolder) -> FoldProgress:
    """Return how far a fold is, by nnU-Net's logs and what it wrote; checkpoints are not read."""
    logs = sorted(fold.path.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime_ns)
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
    times = [float(seconds) for seconds in _EPOCH_TIME.findall(text)]
    total = str((read_json_if_whole(fold.path / "debug.json") or {}).get("num_epochs", ""))
    num_epochs = int(total) if total.isdecimal() else None
    if (fold.path / CHECKPOINT_FINAL).is_file():
        is_validated = read_json_if_whole(fold.validation / SUMMARY_JSON) is not None
        state = "finished" if is_validated else "trained, not validated"
        return FoldProgress(state, num_epochs or len(times), num_epochs, sum(times), 0.0)
    begun = _EPOCH.findall(text)
    epoch = int(begun[-1]) if begun else 0
    if text.rfind("Epoch time") > text.rfind(": Epoch "):
        epoch += 1  # the last that began has ended
    left = (num_epochs - epoch) * median(times[-LAST_EPOCHS:]) if num_epochs is not None and times else None
    state = f"epoch {epoch} of {num_epochs}" if num_epochs is not None else "begun" if logs else "not begun"
    return FoldProgress(state, epoch, num_epochs, sum(times), left)


def status_lines(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a line for each step, and what is left of the trainings."""
    folds = {step.name: fold_progress(step.model.fold(step.fold)) for step in steps if isinstance(step, TrainStep)}
    for step in steps:
        yield f"{step.name:40s} {_state(step, folds.get(step.name))}"
    left = [
        _seconds_left(step, folds, steps)
        for step in steps
        if isinstance(step, TrainStep)
        if folds[step.name].state != "finished"
    ]
    known = [seconds for seconds in left if seconds is not None]
    finished = sum(fold.state == "finished" for fold in folds.values())
    told = f"{finished} of {plural(len(folds), 'fold')} finished"
    if known:
        told += f"; trainings take about {hours(sum(known))} more, one after the other"
    if len(known) < len(left):
        told += f"; of {plural(len(left) - len(known), 'fold')} no epoch tells how long they take"
    yield told


def _state(step: Step, fold: FoldProgress | None) -> str:
    record = read_json_if_whole(record_file(step)) or {}
    is_running = _is_held(lock_file(step)) or (isinstance(step, TrainStep) and _is_trained_elsewhere(step))
    if fold is not None:
        left = f", about {hours(fold.seconds_left)} left" if fold.seconds_left else ""
        state = f"{fold.state}{left}"
    else:
        state = "done" if step.is_done() else "to do"
    if is_running:
        return f"{state}, running"
    if state not in ("done", "finished"):
        state += {"failed": f", FAILED: {record.get('error', '')}", "running": ", killed"}.get(
            record.get("state", ""), ""
        )
    return state


def _seconds_left(step: TrainStep, folds: dict[str, FoldProgress], steps: Sequence[Step]) -> float | None:
    """Return what a fold still takes: by its own epochs, or as long as one of the same recipe took."""
    own = folds[step.name].seconds_left
    of_recipe = [folds[other.name] for other in steps if isinstance(other, TrainStep) and other.recipe == step.recipe]
    whole = [fold.seconds for fold in of_recipe if fold.state == "finished" and fold.seconds]
    return own if own is not None else median(whole) if whole else None


def _is_trained_elsewhere(step: TrainStep) -> bool:
    folder = step.model.fold(step.fold).path
    return _is_held(folder / TRAINING_LOCK) or _is_held(folder / LOG_NAME, fcntl.flock)


def _is_held(path: Path, lock: Callable[[int, int], object] = fcntl.lockf) -> bool:
    """Whether another process holds a lock; the file is left as it is."""
    try:
        with path.open("rb") as file:
            lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def hours(seconds: float) -> str:
    """Return a time as '40 s', '12 min' or '3.4 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
