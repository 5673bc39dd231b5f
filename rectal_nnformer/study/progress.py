"""How far a study is, by its files: each step, each fold's epoch, and about how long the trainings still take.

SLURM is asked of jobs alone that were submitted to it and whose steps are not done: whether they wait in its queue.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import CHECKPOINT_FINAL, SUMMARY_JSON, FoldFolder
from rectal_nnformer.study.jobs import waiting_jobs
from rectal_nnformer.study.steps import Step, TrainStep, missing_steps
from rectal_nnformer.utils.files import is_held, read_json_if_whole
from rectal_nnformer.utils.text import plural

LAST_EPOCHS = 20
"""By their median the time left is told."""
FINISHED, RUNNING = "finished", ", running"
_EPOCH = re.compile(r": Epoch (\d+)\s*$", re.M)
_EPOCH_TIME = re.compile(r"Epoch time: ([\d.]+) s")
_PREDICTING = re.compile(r"^([\d-]+ [\d:.]+): predicting ", re.M)
_VALIDATED = re.compile(r"^([\d-]+ [\d:.]+): Validation complete", re.M)
_STOPPED = "Stopped by SIGTERM"


@dataclass(frozen=True)
class FoldProgress:
    """How far a fold is; `epoch` counts finished ones, `seconds` are those of all that were trained, repeated ones too.

    `num_epochs` and `epochs_left_seconds` are None until the training has begun, or has ended an epoch;
    `validation_seconds`, from the first case to nnU-Net's scores, until it was validated.
    """

    state: str
    epoch: int = 0
    num_epochs: int | None = None
    seconds: float = 0
    epochs_left_seconds: float | None = None
    validation_seconds: float | None = None


def fold_progress(fold: FoldFolder) -> FoldProgress:
    """Return how far a fold is, by nnU-Net's logs and what it wrote; checkpoints are not read."""
    logs = sorted(fold.path.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime_ns)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in logs]
    text = "".join(texts)
    times = [float(seconds) for seconds in _EPOCH_TIME.findall(text)]
    total = str((read_json_if_whole(fold.path / "debug.json") or {}).get("num_epochs", ""))
    num_epochs = int(total) if total.isdecimal() else None
    validation = next(filter(None, map(_validation_seconds, reversed(texts))), None)
    if (fold.path / CHECKPOINT_FINAL).is_file():
        is_validated = read_json_if_whole(fold.validation / SUMMARY_JSON) is not None
        state = FINISHED if is_validated else "trained, not validated"
        return FoldProgress(state, num_epochs or len(times), num_epochs, sum(times), 0.0, validation)
    begun = _EPOCH.findall(text)
    epoch = int(begun[-1]) if begun else 0
    if text.rfind("Epoch time") > text.rfind(": Epoch "):
        epoch += 1  # the last that began has ended
    left = (num_epochs - epoch) * median(times[-LAST_EPOCHS:]) if num_epochs is not None and times else None
    state = f"epoch {epoch} of {num_epochs}" if num_epochs is not None else "begun" if logs else "not begun"
    if text.rfind(_STOPPED) > text.rfind(": Epoch "):
        state += ", stopped by SIGTERM and saved"
    return FoldProgress(state, epoch, num_epochs, sum(times), left)


def _validation_seconds(log: str) -> float | None:
    """Return how long the validation of a log took; None where it holds none that reached nnU-Net's scores."""
    begun, ended = _PREDICTING.search(log), _VALIDATED.search(log)
    if begun is None or ended is None:
        return None
    begin, end = (datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S.%f") for found in (begun, ended))
    return (end - begin).total_seconds()


def status_lines(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a line for each step, and what is left of the trainings."""
    folds = {step.name: fold_progress(step.model.fold(step.fold)) for step in steps if isinstance(step, TrainStep)}
    missing = {step.name for step in missing_steps(steps)}
    waiting, problem = dict[str, str](), None
    try:
        waiting = waiting_jobs([step for step in steps if step.name in missing])
    except RectalError as error:
        problem = error
    for step in steps:
        state, ending = _state(step, folds, steps, step.name in missing)
        if step.name in waiting and ending != RUNNING:
            ending = f", waits in the queue as job {waiting[step.name]}"
        yield f"{step.name:40s} {state}{ending}"
    if problem:
        yield str(problem)
    unfinished = [step for step in steps if isinstance(step, TrainStep) and step.name in missing]
    known = [left for step in unfinished if (left := _seconds_left(step, folds, steps)) is not None]
    told = f"{len(folds) - len(unfinished)} of {plural(len(folds), 'fold')} finished"
    if known:
        told += f"; trainings take about {hours(sum(known))} more, one after the other"
        if any(_validation_of(step, folds, steps) is None for step in unfinished):
            told += ", and their validation"
    if len(known) < len(unfinished):
        told += f"; of {plural(len(unfinished) - len(known), 'fold')} no epoch tells how long they take"
    yield told


def _state(step: Step, folds: Mapping[str, FoldProgress], steps: Sequence[Step], is_missing: bool) -> tuple[str, str]:
    """Return how far a step is, and what its job does, to follow it."""
    reason = step.to_do()
    if isinstance(step, TrainStep):
        fold = folds[step.name]
        seconds = _seconds_left(step, folds, steps) if is_missing and fold.epochs_left_seconds is not None else None
        state = fold.state + (f", about {hours(seconds)} left" if seconds else "")
    elif not is_missing:
        state = "done" if reason is None else "not needed, all its folds are trained"
    else:
        state = "to do" if reason is not None else "to do again, after what it tells of"
    if reason:
        state += f": {reason}" if not isinstance(step, TrainStep) else f", to do again: {reason}"
    if is_held(step.lock_file) or (isinstance(step, TrainStep) and step.is_trained_now()):
        return state, RUNNING
    return state, _how_it_ended(step.record()) if is_missing else ""


def _how_it_ended(record: Mapping[str, str]) -> str:
    return {
        "failed": f", FAILED: {record.get('error', '')}",
        "running": ", killed; the same command goes on",
        "stopped": ", stopped; the same command goes on",
    }.get(record.get("state", ""), "")


def _seconds_left(step: TrainStep, folds: Mapping[str, FoldProgress], steps: Sequence[Step]) -> float | None:
    """Return what a fold still takes, its validation too: by its own epochs, or as long as one of its recipe took."""
    fold = folds[step.name]
    whole = [one.seconds for one in _of_recipe(step, folds, steps) if one.state == FINISHED and one.seconds]
    is_again = step.began_on_other_spacing()
    left = fold.epochs_left_seconds if not is_again else None
    if left is None and whole:
        left = median(whole)
    return None if left is None else left + (_validation_of(step, folds, steps) or 0)


def _validation_of(step: TrainStep, folds: Mapping[str, FoldProgress], steps: Sequence[Step]) -> float | None:
    """Return how long the validation of a fold takes, by those of its recipe."""
    known = [one.validation_seconds for one in _of_recipe(step, folds, steps) if one.validation_seconds is not None]
    return median(known) if known else None


def _of_recipe(step: TrainStep, folds: Mapping[str, FoldProgress], steps: Sequence[Step]) -> list[FoldProgress]:
    return [folds[other.name] for other in steps if isinstance(other, TrainStep) and other.recipe == step.recipe]


def hours(seconds: float) -> str:
    """Return a time as '40 s', '12 min' or '3.4 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
