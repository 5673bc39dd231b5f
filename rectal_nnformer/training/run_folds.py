"""Running the folds of a training: one process of nnU-Net's command each, resumable, on one or more devices."""

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from time import sleep
from typing import IO
from zipfile import is_zipfile

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.commands import interruptible, start_command, stop_groups
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import TRAINING_LOCK, FoldFolder, ModelFolder
from rectal_nnformer.training.fold_progress import FoldProgress
from rectal_nnformer.utils.files import is_same, remove_free_lock

LOG_NAME = "crossval_log.txt"
LINES_IN_ERROR = 12
NAMED_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
"""The last line of a traceback."""
POLL_SECONDS = 0.5
MOST_TRIES = 5
"""Of holding a log, within `POLL_SECONDS`."""
MOST_SHOWN = 1 << 24
"""Bytes that a command prints in that time, at most."""


class StoppedFoldsError(RectalError):
    """Folds were ended by SIGTERM; they go on from their checkpoints."""


@dataclass(frozen=True)
class TrainingJob:
    """How the folds of a model are trained: nnU-Net's `-device`, and `--npz`, which ensembles of models need."""

    model: ModelFolder
    device: str = "cuda"
    save_probabilities: bool = False

    def is_finished(self, fold: int) -> bool:
        """Whether a fold is trained and validated, and its probabilities saved if they are wanted."""
        folder = self.model.fold(fold)
        return folder.is_finished and (not self.save_probabilities or self._has_probabilities(folder))

    def _has_probabilities(self, fold: FoldFolder) -> bool:
        """Whether those of every validated mask are there and end as they should.

        nnU-Net writes them in place, so that of a validation that was killed the last is cut, and the next are missing;
        its summary may be that of a validation before.
        """
        ending = read_dataset_json(self.model.dataset_json, "Copy it again, or train the fold again.")["file_ending"]
        masks = list(fold.validation.glob(f"[!.]*{ending}"))
        return bool(masks) and all(
            is_zipfile(mask.with_name(f"{mask.name.removesuffix(ending)}.npz")) for mask in masks
        )

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


def variables_on_cpu(side_by_side: int) -> dict[str, str]:
    """Return environment variables that let trainings on a CPU share its cores; those that the user has set stay.

    Each takes its share of the cores. Its threads do not wait actively, which would take the cores from nnU-Net's
    augmentation. Memory that was freed is kept, in pieces of up to 32 MiB, the most that the C library takes: it would
    give them back, and the next step of a small network spend a tenth of its time on getting them page by page.
    """
    variables = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // side_by_side)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_THRESHOLD_": str(2**25),
        "MALLOC_TRIM_THRESHOLD_": str(2**28),
    }
    return {name: os.environ.get(name, value) for name, value in variables.items()}


class FoldRun:
    """One running fold: its process, its log and its progress.

    `slot` says which of those that run at a time it is, `side_by_side` how many these are.
    """

    def __init__(self, job: TrainingJob, fold: int, side_by_side: int, slot: int, gpu: str | None) -> None:
        self.fold = fold
        self.slot = slot
        self.gpu = gpu
        self._folder = job.model.fold(fold)
        self._output = claim_log(self._folder)
        self.log = self._folder.path / LOG_NAME
        self._reader = self.log.open("rb")
        self._start = self._reader.seek(0, 2)
        # Bars would be unreadable in the log, and nnU-Net says by itself which case it is at.
        variables = {"PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
        if gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        if job.device == "cpu":
            variables |= variables_on_cpu(side_by_side)
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
        remove_free_lock(self._folder.path / TRAINING_LOCK)
        self._output.close()

    @property
    def was_stopped(self) -> bool:
        """Whether the process was ended by SIGTERM, or ended itself on it."""
        return self.process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)

    def error(self) -> str:
        """Return how the process failed: the first error of its log, and the last."""
        if self.was_stopped:
            return f"fold {self.fold} was ended by SIGTERM and goes on from its checkpoint. Its log: {self.log}"
        with self.log.open("rb") as file:
            file.seek(self._start)
            lines = file.read().decode(errors="replace").splitlines()
        tail = "\n  ".join(first_and_last_error(lines) or lines[-LINES_IN_ERROR:])
        return f"fold {self.fold} failed with exit code {self.process.returncode}. From {self.log}:\n  {tail}"


def claim_log(fold: FoldFolder) -> IO[bytes]:
    """Open the log of a fold and hold it, so that no other of this project's commands trains the fold.

    It is held by this process and by a training that inherits it.

    Raises:
        RectalError: Another process holds it.
    """
    path = fold.path / LOG_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    tries = 0
    while True:
        log = path.open("ab")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.close()
            tries += 1
            if tries < MOST_TRIES:  # whoever asks whether it is held, holds it for a moment
                sleep(POLL_SECONDS / MOST_TRIES)
                continue
            raise RectalError(
                f"fold {fold.fold} is being trained by another process, which holds {path}. Wait for it or end it."
            ) from None
        if is_same(path, log.fileno()):
            return log
        log.close()  # an empty one that was removed meanwhile


def first_and_last_error(lines: Sequence[str]) -> list[str]:
    """Return the first error that processes printed, from which the later ones follow, and the last; empty if none.

    Where nnU-Net's processes fail, the main one only says that they are no longer alive.
    """
    named = [number for number, line in enumerate(lines) if NAMED_ERROR.match(line)]
    if not named:
        return []
    shown = list(lines[named[0] :][:LINES_IN_ERROR])
    return shown if lines[named[-1]] in shown else [*shown, "...", lines[named[-1]]]


def train_fold(fold: FoldFolder, arguments: Sequence[str], device: str = "cuda") -> int:
    """Run nnUNetv2_train on a fold in the foreground and return its exit code. An interruption ends it, too.

    The device is that of the arguments.

    Where several errors were printed, the first, which is the cause, is told again at the end.

    Raises:
        RectalError: Another process trains the fold.
    """
    with claim_log(fold) as log, TemporaryFile() as errors, interruptible():
        variables = variables_on_cpu(1) if device == "cpu" else {}
        process = start_command("nnUNetv2_train", arguments, variables=variables, errors=errors, inherited=[log])
        printed = b""
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                printed += _show(errors, len(printed))
        finally:
            stop_groups([process])
            printed += _show(errors, len(printed))
            remove_free_lock(fold.path / TRAINING_LOCK)
            if is_same(fold.path / LOG_NAME, log.fileno()) and not os.fstat(log.fileno()).st_size:
                (fold.path / LOG_NAME).unlink()
    told = first_and_last_error(printed.decode(errors="replace").splitlines())
    if process.returncode and len(told) > 1:
        print(f"fold {fold.fold} failed. The first error was:", *told, sep="\n  ", file=sys.stderr)
    return process.returncode


def _show(file: IO[bytes], start: int) -> bytes:
    """Return what was written to a file from a byte on, having copied it to stderr."""
    new = os.pread(file.fileno(), MOST_SHOWN, start)
    sys.stderr.write(new.decode(errors="replace"))
    sys.stderr.flush()
    return new


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
            remove_free_lock(job.model.fold(fold).path / TRAINING_LOCK)
            print(f"fold {fold}: finished before, {job.model.fold(fold).path}")
    # In the last round fewer may be left than can run at a time.
    last_round = len(waiting) % len(gpus) or len(gpus)
    free = list(enumerate(gpus))
    failures: list[FoldRun] = []
    running: list[FoldRun] = []
    with interruptible(), ExitStack() as at_end:
        at_end.callback(_stop, running)  # for whatever reason the block ends
        while running or (waiting and not failures):
            while waiting and free and not failures:
                side_by_side = last_round if len(waiting) <= last_round else len(gpus)
                running.append(FoldRun(job, waiting.pop(0), side_by_side, *free.pop(0)))
            sleep(POLL_SECONDS)
            for run in list(running):
                run.update()
                if run.process.poll() is not None:
                    running.remove(run)
                    free.append((run.slot, run.gpu))
                    failed = run.process.returncode != 0 or not job.is_finished(run.fold)
                    run.close("finished" if not failed else "stopped" if run.was_stopped else "failed")
                    failures += [run] if failed else []
    if failures:
        stopped = all(run.was_stopped for run in failures)
        remedy = (
            f"{'Run' if stopped else 'Fix the cause and run'} the same command again; finished folds are not repeated."
        )
        error = StoppedFoldsError if stopped else RectalError
        raise error("\n".join([*(run.error() for run in failures), remedy]))


def _stop(runs: Sequence[FoldRun]) -> None:
    stop_groups([run.process for run in runs])
    for run in runs:
        run.close("stopped")
