"""A whole study, trained for real: in peace, killed twice, and by SLURM. All end in the same table.

Two recipes of ours and nnU-Net's own train one fold of a small cohort for one iteration, from a seed and with the
augmentation in the training process, so that no training depends on when it runs.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from pipeline import SCRIPTS, converted_cohort, run
from slurm_node import running_slurm, why_not
from test_kills import MARK, started_by

pytestmark = pytest.mark.slow

STUDY = """
dataset = "Dataset007_Small"
baseline = "nnU-Net"
folds = [0]
epochs = 1
iterations = 1
seed = 0
spacing = [3.0, 3.0, 3.0]
device = "cpu"
engine = "{engine}"
[slurm]
cpus = 1
hours = 1
mem = "2G"
[[recipe]]
name = "planned"
trainer = "nnUNetTrainerSMIT_CPU"
plans = "nnUNetRectalSMITSmallPlans"
backbone = "smit_small"
[[recipe]]
name = "cube"
trainer = "nnUNetTrainerSMIT_CPU"
plans = "nnUNetRectalSMITSmallPlans"
configuration = "3d_fullres_cubic"
backbone = "smit_small"
[[recipe]]
name = "nnU-Net"
trainer = "nnUNetTrainer"
plans = "nnUNetPlans"
planner = "ExperimentPlanner"
"""
SECONDS = 900


def study(base, engine="local"):
    (base / "study").mkdir()
    (base / "study/study.toml").write_text(STUDY.format(engine=engine))
    return base / "study"


def moved(variables, base, *kept):
    """Return the variables for folders of nnU-Net in another place, some of which are copied there."""
    places = {name: str(base / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, place in places.items():
        if name in kept:
            shutil.copytree(variables[name], place)
        else:
            Path(place).mkdir()
    return {**variables, **places}


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory):
    """Variables and folder of a study that ran from the raw dataset to its page."""
    base = tmp_path_factory.mktemp("peace")
    variables = {**converted_cohort(base, 7, "Small", num_cases=6), "nnUNet_n_proc_DA": "0"}
    folder = study(base)
    printed = run(variables, "rectal_nnformer", "study", "run", folder)
    assert printed.splitlines()[0] == "9 steps to do, 0 done before"
    return variables, folder


def checkpoints(variables):
    found = Path(variables["nnUNet_results"]).glob("Dataset007_Small/*/fold_0/checkpoint_final.pth")
    return {path: path.stat().st_mtime_ns for path in found}


def wait_for(condition, process=None):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        assert process is None or process.poll() is None, "it ended early"
        time.sleep(0.2)


def state_of(folder, step):
    try:
        return json.loads((folder / f"jobs/{step}.json").read_text()).get("state")
    except (FileNotFoundError, ValueError):
        return None


def test_a_study_killed_twice_ends_in_the_same_table(in_peace, tmp_path):
    variables, uninterrupted = in_peace
    variables = moved(variables, tmp_path, "nnUNet_raw")
    folder, mark = study(tmp_path), uuid.uuid4().hex
    command = [str(SCRIPTS / "rectal_nnformer"), "study", "run", str(folder)]

    def start():
        with (tmp_path / "printed.txt").open("ab") as output:
            return subprocess.Popen(command, env={**variables, MARK: mark}, stdout=output, stderr=output)

    try:
        process = start()  # ended with all that it started, as where a machine is switched off
        wait_for(lambda: state_of(folder, "train-cube-0") == "running", process)
        time.sleep(3)
        while left := started_by(mark):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.poll()
        after_first = checkpoints(variables)
        assert len(after_first) == 1
        process = start()  # ended alone: its job goes on, and the next command waits for it
        wait_for(lambda: state_of(folder, "train-nnU-Net-0") == "running", process)
        process.kill()
        process.wait()
        after_second = checkpoints(variables)
        assert len(after_second) == 2 and started_by(mark)
        printed = run(variables, "rectal_nnformer", "study", "run", folder)
    finally:
        for pid in started_by(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert (folder / "study.csv").read_text() == (uninterrupted / "study.csv").read_text()
    # Nothing that was trained is trained again, and what was under way is not doubled.
    assert after_first.items() <= after_second.items() <= checkpoints(variables).items()
    assert "train nnU-Net 0: done" in printed
    records = {step: folder / f"jobs/train-{step}-0.json" for step in ("cube", "nnU-Net")}
    attempts = {step: json.loads(path.read_text())["attempts"] for step, path in records.items()}
    assert attempts == {"cube": 2, "nnU-Net": 1}
    assert run(variables, "rectal_nnformer", "study", "run", folder).splitlines()[0] == "0 steps to do, 9 done before"


@pytest.mark.skipif(bool(why_not()), reason=f"SLURM cannot be started: {why_not()}")
def test_slurm_runs_a_study_of_which_a_job_is_requeued(in_peace, tmp_path):
    variables, uninterrupted = in_peace
    variables = moved(variables, tmp_path, "nnUNet_raw", "nnUNet_preprocessed")
    folder = study(tmp_path, "slurm")
    with running_slurm(tmp_path / "slurm") as slurm:
        variables = {**slurm, **variables, "PATH": slurm["PATH"]}
        printed = run(variables, "rectal_nnformer", "study", "run", folder)
        assert printed.splitlines()[-1] == "7 steps to do, all in the queue"
        jobs = json.loads((folder / "jobs/slurm_jobs.json").read_text())
        wait_for(lambda: state_of(folder, "train-planned-0") == "running")
        run(variables, "/usr/bin/scontrol", "requeue", jobs["train planned 0"])
        # Submitted again while jobs are in the queue: none is doubled.
        run(variables, "rectal_nnformer", "study", "run", folder)
        assert json.loads((folder / "jobs/slurm_jobs.json").read_text()) == jobs
        assert "train planned 0" in run(variables, "rectal_nnformer", "study", "status", folder)
        wait_for(lambda: not run(variables, "/usr/bin/squeue", "-h").strip())
    assert (folder / "study.csv").read_text() == (uninterrupted / "study.csv").read_text()
    assert json.loads((folder / "jobs/train-planned-0.json").read_text())["attempts"] == 2
    assert json.loads((folder / "jobs/train-cube-0.json").read_text())["attempts"] == 1
    status = run(variables, "rectal_nnformer", "study", "status", folder)
    assert status.splitlines()[-1].startswith("3 of 3 folds finished")
