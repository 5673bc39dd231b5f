"""Steps as jobs of submitit: its local executor on one machine, SLURM on a cluster.

A job that is submitted twice, or goes on beside a command that was killed, does nothing twice: it holds the lock of its
step, and looks at the files first.
"""

import getpass
import math
import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from submitit.core.utils import DelayedSubmission
from submitit.local.local import LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.commands import interruptible
from rectal_nnformer.nnunet.layout import PreprocessedDataset
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.study.record import Study
from rectal_nnformer.study.steps import JOBS_FOLDER, RecipeStep, Step, TrainStep, missing_steps, word
from rectal_nnformer.training.run_folds import StoppedFoldsError, variables_on_cpu
from rectal_nnformer.utils.files import locked, read_json_if_whole, write_json
from rectal_nnformer.utils.text import plural

SUBMITTED_FILE = "slurm_jobs.json"
"""In the folder of jobs: by step, which job of SLURM does it, and for which model."""
POLL_SECONDS = 0.5
NO_LIMIT_MINUTES = 10**6
GB_PER_CPU = 2
"""Of host memory that a job asks for, beside what its plans take on the GPU."""
GPU_GB = 24
"""What plans are taken to need before they are made: the planner's own default."""
SECONDS_TO_SAVE = 120
"""Before a job's time limit: a step of the training, and writing the checkpoint."""
SECONDS_BETWEEN_MEMORY = 5
MOST_LIMITS = 1000
"""Times that a job may reach its time limit."""
WAITING = ("PENDING", "REQUEUED", "CONFIGURING")
"""States of a job of SLURM that is to run, for the first time or again."""


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep workers that are forked meanwhile from what submitit does on signals.

    It ignores SIGTERM, by which process pools end their workers. SIGUSR2, which puts the job back into the queue, comes
    to all processes of a job of SLURM, and one of them is enough.
    """
    process, requeue = os.getpid(), signal.getsignal(signal.SIGUSR2)

    def once(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process and callable(requeue):
            requeue(number, frame)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, once if callable(requeue) else requeue),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class StepJob:
    """A step as submitit runs it: a callable that can be called again; `variables` of the environment are its own."""

    step: Step
    variables: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        """Do the step, unless it is done, and note how it ended.

        Raises:
            RectalError: It failed.
        """
        step = self.step
        os.environ.update(self.variables)
        with _own_signals(), locked(step.lock_file, f"{step.name}: another job does it. Waiting for it.", wait=True):
            if step.is_done():
                print(f"{step.name}: done before")
                return
            with self._noted():
                step.run()
                if (left := step.to_do()) is not None:
                    raise RectalError(f"{step.name} ended without its files{left and f', {left}'}; see above why.")

    def checkpoint(self) -> DelayedSubmission:
        """Return the same, for the queue: submitit calls this at the time limit and on preemption."""
        return DelayedSubmission(self)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        file, begin, before = self.step.record_file, time.monotonic(), self.step.record()
        record = {
            "step": self.step.name,
            "model": self.step.model_name,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": platform.node(),
            "job": os.environ.get("SLURM_JOB_ID", str(os.getpid())),
            "attempts": before.get("attempts", 0) + 1,
            "seconds": before.get("seconds", 0),
            "host_memory_gb": before.get("host_memory_gb", 0),
        }
        write_json(file, {**record, "state": "running"})
        state, error = "stopped", ""
        try:
            # Other steps fork, which goes badly with threads.
            with most_memory() if isinstance(self.step, TrainStep) else nullcontext(list[float]()) as memory:
                yield
            state = "done"
        except Exception as problem:
            is_told = isinstance(problem, RectalError | OSError)
            state = "stopped" if isinstance(problem, StoppedFoldsError) else "failed"
            error = str(problem) if is_told else f"{type(problem).__name__}: {problem}"
            raise
        finally:
            record["seconds"] = round(record["seconds"] + time.monotonic() - begin, 1)
            record["host_memory_gb"] = round(max([record["host_memory_gb"], *memory]), 3)
            write_json(file, {**record, "state": state, "error": error})


@contextmanager
def most_memory() -> Iterator[list[float]]:
    """Yield a list that holds, and then gets, the largest sum of the memory of this process and all below it, GB.

    It is looked at every few seconds. Memory that processes share is counted once (PSS), where the system tells that.
    """
    most, ended = [0.0], threading.Event()

    def look() -> None:
        process = psutil.Process()
        while True:
            total = 0
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):  # it has just ended
                    used = one.memory_full_info()
                    total += getattr(used, "pss", used.rss)
            most[0] = max(most[0], total / 1e9)
            if ended.wait(SECONDS_BETWEEN_MEMORY):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def run_here(study: Study, steps: Sequence[Step]) -> None:
    """Do what is missing of steps on this machine, as many jobs side by side as there are GPUs, and wait for it.

    A step that fails holds up those that need it, and no other. An interruption ends all jobs.

    Raises:
        RectalError: Steps failed; names them and their logs.
    """
    waiting = missing_steps(steps)
    free: list[int | None] = list(study.gpus) if study.device == "cuda" else [None] * study.side_by_side
    running: dict[str, tuple[Step, LocalJob[None], int | None]] = {}
    failed: dict[str, str] = {}
    print(f"{plural(len(waiting), 'step')} to do, {len(steps) - len(waiting)} done before", flush=True)
    with interruptible(), ExitStack() as at_end:
        at_end.callback(_stop, running)
        while running or waiting:
            open_steps = {step.name for step in waiting} | running.keys() | failed.keys()
            ready = [step for step in waiting if not open_steps & set(step.needs)]
            if not running and not ready:
                break  # what is left needs what failed
            for step in ready[: len(free)]:
                waiting.remove(step)
                slot = free.pop(0)
                running[step.name] = step, _submit_here(step, slot), slot
                print(f"{step.name}: begun, {running[step.name][1].paths.stdout}", flush=True)
            time.sleep(POLL_SECONDS)
            for name, (step, job, slot) in list(running.items()):
                if not job.done():
                    continue
                del running[name]
                free.append(slot)
                if step.is_done():
                    print(f"{name}: done", flush=True)
                else:
                    failed[name] = _why(step, job.paths.stdout)
                    print(failed[name], flush=True)
    if failed:
        left = f" Not begun, since they need it: {', '.join(step.name for step in waiting)}." if waiting else ""
        told = "\n".join(failed.values())
        raise RectalError(f"{plural(len(failed), 'step')} failed:\n{told}\n{left} Fix the cause and run it again.")


def _submit_here(step: Step, gpu: int | None) -> LocalJob[None]:
    executor = LocalExecutor(step.study.folder / JOBS_FOLDER / "logs")
    gpus = {"gpus_per_node": 1, "visible_gpus": (gpu,)} if gpu is not None else {"gpus_per_node": 0}
    executor.update_parameters(timeout_min=NO_LIMIT_MINUTES, stderr_to_stdout=True, **gpus)
    shared = variables_on_cpu(step.study.side_by_side) if step.study.device == "cpu" else {}
    job = executor.submit(StepJob(step, shared))
    assert isinstance(job, LocalJob)
    return job


def _stop(running: Mapping[str, tuple[Step, LocalJob[None], int | None]]) -> None:
    """End jobs: they stop their trainings, which save themselves."""
    for _, job, _ in running.values():
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)
    for _, job, _ in running.values():
        while not job.done():
            time.sleep(POLL_SECONDS)


def _why(step: Step, log: Path) -> str:
    return f"{step.name} failed: {step.record().get('error') or 'it was ended from outside.'} Its log: {log}"


def submit(study: Study, steps: Sequence[Step], dry_run: bool = False) -> None:
    """Submit what is missing of steps to SLURM: folds as arrays, each job after what it needs.

    Jobs that are in the queue already are left there. With `dry_run` the scripts are printed, which needs no SLURM.

    Raises:
        RectalError: There is no SLURM, or it refuses a job.
    """
    if not dry_run and not SlurmExecutor.affinity() > 0:
        raise RectalError("There is no SLURM here: srun is not found. Submit on a cluster, or see it with --dry-run.")
    file = _submitted_file(study)
    missing = missing_steps(steps)
    jobs = {} if dry_run else _in_queue(steps)
    for group, members in groupby((step for step in missing if step.name not in jobs), lambda step: step.group):
        todo = list(members)
        before = sorted({jobs[name] for step in todo for name in step.needs if name in jobs})
        executor = _Executor(study.folder / JOBS_FOLDER / "logs", max_num_timeout=MOST_LIMITS)
        executor.update_parameters(**_parameters(todo[0], before))
        if dry_run:
            jobs |= {step.name: f"<{step.name}>" for step in todo}
            print(f"# {', '.join(step.name for step in todo)}\n{executor.script(len(todo))}")
            continue
        jobs |= dict(zip((step.name for step in todo), _submit_group(executor, todo), strict=True))
        models = {step.name: step.model_name for step in steps}
        write_json(file, {name: {"job": job, "model": models[name]} for name, job in jobs.items()})
        print(f"{group}: job {', '.join(jobs[step.name] for step in todo)}", flush=True)
    waiting = [step.name for step in missing]
    print(f"{plural(len(waiting), 'step')} to do" + ("; nothing was submitted" if dry_run else ", all in the queue"))


class _Executor(SlurmExecutor):
    """Submitit's, which can also show its script where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def script(self, number: int) -> str:
        """Return what would be submitted of so many jobs."""
        if number > 1:
            self.parameters["map_count"] = number
        return self._make_submission_file_text(self._submitit_command_str, "dry-run")


def _submit_group(executor: SlurmExecutor, steps: Sequence[Step]) -> list[str]:
    """Submit steps as one array, or a single one as a job, and return the ids."""
    try:
        with redirect_stderr(StringIO()), executor.batch():  # where submitit repeats what the error says
            jobs = [executor.submit(StepJob(step)) for step in steps]
        return [job.job_id for job in jobs]
    except Exception as error:  # submitit's and those of the command that it runs
        reason = f"SLURM did not take {steps[0].group}: {_reason(error)}"
        raise RectalError(f"{reason}. Fix [slurm] of the study, or --slurm, and run it again.") from error


def waiting_jobs(steps: Sequence[Step]) -> dict[str, str]:
    """Return the jobs of steps that wait in SLURM's queue, requeued ones too; SLURM is asked only if it was given any.

    Raises:
        RectalError: SLURM does not tell.
    """
    submitted = _submitted(steps)
    if not submitted:
        return {}
    queue = _queue("Which jobs wait in it is not known")
    return {name: job for name, job in submitted.items() if queue.get(job) in WAITING}


def _in_queue(steps: Sequence[Step]) -> dict[str, str]:
    """Return the jobs of steps that SLURM still knows to be waiting or running."""
    queue = _queue("Nothing was submitted")
    return {name: job for name, job in _submitted(steps).items() if job in queue}


def _submitted_file(study: Study) -> Path:
    return study.folder / JOBS_FOLDER / SUBMITTED_FILE


def _submitted(steps: Sequence[Step]) -> dict[str, str]:
    """Return the jobs that were submitted of steps, for the models that they have now, by the names of the steps."""
    told = (read_json_if_whole(_submitted_file(steps[0].study)) or {}) if steps else {}
    return {
        step.name: str(job.get("job"))
        for step in steps
        if isinstance(job := told.get(step.name), dict) and job.get("model") == step.model_name
    }


def _queue(so: str) -> dict[str, str]:
    """Return the state of each of the user's jobs in SLURM's queue; `so` is told where it cannot be had."""
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--user={getpass.getuser()}"]
    try:
        told = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise RectalError(
            f"SLURM does not tell its queue: {_reason(error)}. {so}. See whether 'squeue' works here, and run it again."
        ) from error
    return dict(line.split(maxsplit=1) for line in told.splitlines())


def _reason(error: Exception) -> str:
    """Return what a command of SLURM said, in a line; what else went wrong where it said nothing."""
    said = str(getattr(error, "stderr", None) or error).splitlines()
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()).rstrip(".") for line in said if line.strip()]
    return "; ".join(lines) or type(error).__name__


def _parameters(step: Step, before: Sequence[str]) -> dict[str, Any]:
    """Return what submitit shall ask SLURM for: by the plans of a step, over which stands what the study says."""
    slurm, gpu_gb = step.study.slurm, _gpu_gb(step)
    options: dict[str, Any] = {"requeue": True, "mem": f"{math.ceil(gpu_gb) + GB_PER_CPU * slurm.cpus}G"}
    if step.needs_gpu and step.study.device == "cuda":
        options["gres"] = _smallest(slurm.gpus, gpu_gb, step) if slurm.gpus else "gpu:1"
    if before:
        options |= {"dependency": f"afterok:{':'.join(before)}", "kill-on-invalid-dep": "yes"}
    given = {key: value for key, value in slurm.options.items() if key != "gres" or key in options}
    return {
        "job_name": word(step.group),
        "time": math.ceil(60 * slurm.hours),  # 0 would be no limit
        "cpus_per_task": slurm.cpus,
        "signal_delay_s": SECONDS_TO_SAVE,
        "setup": list(slurm.setup) or None,
        "stderr_to_stdout": True,
        "additional_parameters": {**options, **given},
    }


def _gpu_gb(step: Step) -> float:
    """Return what a training by the plans of a step takes on a GPU, as the planner noted it, or the recipe says."""
    if not isinstance(step, RecipeStep):
        return 0
    told = step.recipe.gpu_memory or GPU_GB
    file = PreprocessedDataset.at(step.study.dataset).plans_file(step.recipe.plans)
    if not file.is_file():
        return told
    account = Plans.read(file).record.get("patch_sizes", {}).get(step.recipe.configuration, {})
    return float(account.get("batch_memory_gb") or told)


def _smallest(kinds: Mapping[str, float], needed: float, step: Step) -> str:
    """Return the kind of GPU with the least memory that is enough."""
    enough = [kind for kind in sorted(kinds, key=lambda kind: kinds[kind]) if kinds[kind] >= needed]
    if not enough:
        raise RectalError(
            f"{step.name} takes {needed:.1f} GB on the GPU, more than any kind in gpus of [slurm] has. Name a larger "
            "one, or plan with a smaller -gpu_memory_target."
        )
    return enough[0]
