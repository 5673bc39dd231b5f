"""Running nnU-Net's own console commands with our trainers within reach."""

import os
import signal
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from rectal_nnformer.errors import RectalError
from rectal_nnformer.paths import environment_with_trainers

SECONDS_TO_STOP = 15


def command_path(name: str) -> str:
    """Return the path of one of nnU-Net's console scripts, installed beside the running Python.

    Raises:
        RectalError: there is no such script.
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
) -> subprocess.Popen:
    """Start one of nnU-Net's commands in a process group of its own, which `stop_group` ends as a whole.

    Args:
        name: the command, such as `nnUNetv2_train`.
        arguments: its arguments.
        variables: environment variables to set on top of the current ones.
        output: an open file that receives stdout and stderr; None leaves both where they are.
    """
    return subprocess.Popen(
        [command_path(name), *arguments],
        env={**environment_with_trainers(), **(variables or {})},
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
    )


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run one of nnU-Net's commands and return its exit code. An interruption ends it and its workers, too."""
    process = start_command(name, arguments)
    try:
        return process.wait()
    except BaseException:
        stop_group(process)
        raise


def stop_group(process: subprocess.Popen) -> None:
    """Interrupt a process and all that it started, wait, and kill what is left after `SECONDS_TO_STOP`."""
    for request in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, request)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_STOP)
