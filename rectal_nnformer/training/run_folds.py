"""Running the folds of a training: one process of nnU-Net's command each, resumable, on one or more devices."""

import fcntl
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import sleep

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.commands import interruptible, start_command, stop_groups
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.training.fold_progress import FoldProgress

LOG_NAME = "crossval_log.txt"
LINES_IN_ERROR = 12
NAMED_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
"""The last line of a traceback."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class TrainingJob:
    """How the folds of a model are trained: nnU-Net's `-device`, and `--npz`, which ensembles of models need."""

    model: ModelFolder
    device: str = "cuda"
    save_probabilities: bool = False

    def is_finished(self, fold: int) -> bool:
        """Whether a fold is trained and validated, and its probabilities saved if they are wanted."""
        folder = self.model.fold(fold)
        return folder.is_finished and (not self.save_probabilities or any(folder.validation.glob("*.npz")))

    def arguments(self, fold: int) -> list[str]:
        """Return the arguments of nnUNetv2_train that take a fold from where it stands to its end."""
        model, folder = self.model, self.model.fold(fold)
        arguments = [model.dataset, model.configuration, str(fold), "-tr", model.trainer, "-p", model.plans]
        arguments += ["-device", self.device]
        if self.save_probabilities:
            arguments.append("--npz")
        if folder.is_trained:
            arguments.append("--val")
        elif folder.checkpoints():
            arguments.append("--c")
        return arguments


class FoldRun:
    """One running fold: its process, its log and its progress; `slot` says which of those that run side by side."""

    def __init__(self, job: TrainingJob, fold: int, slot: int, gpu: str | None) -> None:
        self.fold = fold
        self.slot = slot
        self.gpu = gpu
        self.log = job.model.fold(fold).path / LOG_NAME
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._output = self.log.open("ab")
        try:
            # Held by this process and the training that inherits it, so that no other one trains the fold.
            fcntl.flock(self._output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._output.close()
            raise RectalError(
                f"fold {fold} is being trained by another process, which holds {self.log}. Wait for it or end it."
            ) from None
        self._reader = self.log.open("rb")
        self._start = self._reader.seek(0, 2)
        # Bars would be unreadable in the log, and nnU-Net says by itself which case it is at.
        variables = {"PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
        if gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        if job.device == "cpu":
            # Threads that wait actively would take the cores from nnU-Net's augmentation, and training crawls.
            variables["OMP_WAIT_POLICY"] = "PASSIVE"
        self.process = start_command("nnUNetv2_train", job.arguments(fold), variables=variables, output=self._output)
        self._progress = FoldProgress(fold, slot)
        self._begun_line = ""

    def update(self) -> None:
        """Show what has been written to the log since the last call."""
        *lines, self._begun_line = (self._begun_line + self._reader.read().decode(errors="replace")).split("\n")
        for line in lines:
            self._progress.read(line)
        self._progress.refresh()

    def close(self, outcome: str) -> None:
        """Close log and progress of a process that has ended, and say how."""
        self.update()
        self._progress.close(outcome)
        self._reader.close()
        self._output.close()

    def error(self) -> str:
        """Return how the process failed: the first error of its log, which the later ones follow from, and the last.

        Where nnU-Net's processes fail, the main one only says that they are no longer alive.
        """
        with self.log.open("rb") as file:
            file.seek(self._start)
            lines = file.read().decode(errors="replace").splitlines()
        named = [number for number, line in enumerate(lines) if NAMED_ERROR.match(line)]
        shown = lines[named[0] :][:LINES_IN_ERROR] if named else lines[-LINES_IN_ERROR:]
        if named and lines[named[-1]] not in shown:
            shown += ["...", lines[named[-1]]]
        tail = "\n  ".join(shown)
        return f"fold {self.fold} failed with exit code {self.process.returncode}. From {self.log}:\n  {tail}"


def train_folds(job: TrainingJob, folds: Sequence[int], gpus: Sequence[str | None] = (None,)) -> None:
    """Train and validate folds, as many side by side as GPUs are given; finished folds are left as they are.

    A fold that was interrupted continues from its last checkpoint. An interruption ends all running folds. If a fold
    fails, those that run beside it are finished, but no other is started. GPUs are given as in CUDA_VISIBLE_DEVICES;
    None leaves the choice to nnU-Net.

    Raises:
        RectalError: Folds failed, or another process trains one of them; the message holds the ends of the logs.
    """
    waiting = [fold for fold in folds if not job.is_finished(fold)]
    for fold in folds:
        if fold not in waiting:
            print(f"fold {fold}: finished before, {job.model.fold(fold).path}")
    free = list(enumerate(gpus))
    failures: list[str] = []
    running: list[FoldRun] = []
    with interruptible(), ExitStack() as at_end:
        at_end.callback(_stop, running)  # for whatever reason the block ends
        while running or (waiting and not failures):
            while waiting and free and not failures:
                running.append(FoldRun(job, waiting.pop(0), *free.pop(0)))
            sleep(POLL_SECONDS)
            for run in list(running):
                run.update()
                if run.process.poll() is not None:
                    running.remove(run)
                    free.append((run.slot, run.gpu))
                    failed = run.process.returncode != 0 or not job.is_finished(run.fold)
                    run.close("failed" if failed else "finished")
                    failures += [run.error()] if failed else []
    if failures:
        remedy = "Fix the cause and run the same command again; finished folds are not repeated."
        raise RectalError("\n".join([*failures, remedy]))


def _stop(runs: Sequence[FoldRun]) -> None:
    stop_groups([run.process for run in runs])
    for run in runs:
        run.close("stopped")
