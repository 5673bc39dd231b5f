"""A SLURM of one node that a test starts for itself: munged, slurmctld and slurmd with files in one folder."""

import os
import platform
import shutil
import subprocess
import time
import uuid
from contextlib import contextmanager

from marked import MARK, kill_started_by
from nnunetv2.run.run_training import find_free_network_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
SYSTEM_PATH = "/usr/sbin:/sbin"
SECONDS_TO_START = 60

# So long, too, as credentials are valid, a job waits that goes back into the queue.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=20
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={megabytes} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Return why no SLURM can be started here; empty if one can."""
    missing = [
        program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:{SYSTEM_PATH}") is None
    ]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "slurmctld and slurmd are started by root alone"


@contextmanager
def running_slurm(folder):
    """Start SLURM and yield the variables by which its commands find it; end it and all its jobs after the block.

    Raises:
        RuntimeError: It does not start; says what its logs end with.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = {"port": find_free_network_port(), "other_port": find_free_network_port()}
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=platform.node(), folder=folder, megabytes=megabytes, **ports))
    mark = uuid.uuid4().hex
    path = f"{os.environ['PATH']}:{SYSTEM_PATH}"
    variables = {**os.environ, "SLURM_CONF": str(configuration), "PATH": path, MARK: mark}
    munge = [
        f"--{what}={folder}/munge.{what.partition('-')[0]}" for what in ("socket", "pid-file", "log-file", "seed-file")
    ]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    daemons = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as output:
                daemons.append(subprocess.Popen(command, env=variables, stdout=output, stderr=output))
            time.sleep(1)
        end = time.monotonic() + SECONDS_TO_START
        while (
            "idle" not in subprocess.run(["sinfo", "-h"], env=variables, capture_output=True, encoding="utf-8").stdout
        ):
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
                outputs = [path.read_text(errors="replace")[-500:] for path in sorted(folder.glob("*.out"))]
                raise RuntimeError(f"SLURM does not start: {' '.join(' '.join(outputs).split())}")
            time.sleep(0.5)
        yield variables
    finally:  # jobs inherit the mark from slurmd
        kill_started_by(mark, lambda: [daemon.poll() for daemon in daemons])
