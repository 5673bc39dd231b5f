"""Running nnU-Net's own console commands with our trainers within reach."""

import os
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import environment_with_trainers

SECONDS_TO_STOP = 15

WARNING_OF_TIMM = "`torch.jit.interface` is deprecated"
"""How a warning begins that says nothing to users: nnU-Net imports all its trainers to find one, and some of them timm,
which uses what PyTorch is about to drop."""


def command_path(name: str) -> str:
    """Return the path of one of nnU-Net's console scripts, installed beside the running Python.

    Raises:
        RectalError: There is no such script.
    """
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise RectalError(f"{path} does not exist. Install rectal_nnformer and nnunetv2 in one environment.")
    return str(path)


def start_command(
    name: str,
    arguments: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
    errors: IO[bytes] | None = None,
    inherited: Sequence[IO[bytes]] = (),
) -> subprocess.Popen:
    """Start one of nnU-Net's commands in a process group of its own, which `stop_groups` ends as a whole.

    Variables are set on top of the current ones. An open file `output` receives stdout, and stderr unless that has one
    of its own, `errors`. Files that are inherited are open in the command, too. SIGUSR2, which SLURM sends to all
    processes of a job that shall go back into the queue, does not end the command, which is stopped in time.
    """
    # Of several filters that match, Python takes the last, so that what users set themselves wins.
    filters = filter(None, (f"ignore:{WARNING_OF_TIMM}:FutureWarning", os.environ.get("PYTHONWARNINGS")))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})  # what is started inherits that
    try:
        return subprocess.Popen(
            [command_path(name), *arguments],
            env={**environment_with_trainers(), "PYTHONWARNINGS": ",".join(filters), **(variables or {})},
            stdout=output,
            stderr=errors or (subprocess.STDOUT if output is not None else None),
            pass_fds=[file.fileno() for file in inherited],
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def run_command(name: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
    """Run one of nnU-Net's commands and return its exit code. An interruption ends it and its workers, too."""
    with interruptible():
        process = start_command(name, arguments, variables=variables)
        try:
            return process.wait()
        finally:
            stop_groups([process])


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP as on Ctrl-C, so that running commands are stopped.

    Only for waiting on commands: process pools end their workers by SIGTERM, and forked workers inherit the handler.
    A signal that is ignored, as SIGHUP under nohup, stays ignored. Other threads than the main one change nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stop_groups(processes: Sequence[subprocess.Popen]) -> None:
    """End processes and all that they started: ask them, wait up to `SECONDS_TO_STOP` for all, kill what is left.

    Whatever interrupts the wait, none is left running. A SIGTERM does not: SLURM sends one to a job that has begun to
    stop by itself, and trainings need these seconds to save themselves.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, lambda *_: None) if in_main_thread else None
    try:
        _signal_groups(processes, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_STOP
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        _signal_groups(processes, signal.SIGKILL)
        for process in processes:
            process.wait()
        if in_main_thread:
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _signal_groups(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
