"""A whole study, trained for real: in peace, killed twice, and by SLURM. All end in the same table.

Recipes of ours and nnU-Net's own train folds of a small cohort for one iteration, from a seed and with the augmentation
in the training process, so that no training depends on when it runs.
"""

import json
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from marked import MARK, kill_started_by, started_by
from pipeline import SCRIPTS, converted_cohort, run, run_here
from slurm_node import running_slurm, why_not

from rectal_nnformer.nnunet.layout import FoldFolder, ModelFolder

pytestmark = pytest.mark.slow

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
DATASET, PLANS = "Dataset007_Small", "nnUNetRectalSMITSmallPlans"
STUDY = """
dataset = "Dataset007_Small"
baseline = "nnU-Net"
folds = {folds}
epochs = 1
iterations = 1
seed = 0
spacing = [3.0, 3.0, 3.0]
device = "cpu"
side_by_side = {side_by_side}
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
name = "nnU-Net"
trainer = "nnUNetTrainer"
plans = "nnUNetPlans"
planner = "ExperimentPlanner"
"""
CUBE = """
[[recipe]]
name = "cube"
trainer = "nnUNetTrainerSMIT_CPU"
plans = "nnUNetRectalSMITSmallPlans"
configuration = "3d_fullres_cubic"
backbone = "smit_small"
"""
SECONDS = 400
LIMITED = "nnUNetTrainerSMIT_CPU_40epochs_1iteration"
"""A training that lasts until SLURM notices its time limit, which takes up to half a minute."""


def study(base, more="", folds=(0,), side_by_side=1, engine="local"):
    (base / "study").mkdir()
    text = STUDY.format(folds=list(folds), side_by_side=side_by_side, engine=engine)
    (base / "study/study.toml").write_text(text + more)
    return base / "study"


def moved(variables, base, *kept):
    """Return the variables for folders of nnU-Net in another place, some of which are copied there."""
    places = {name: str(base / name) for name in (RAW, PREPROCESSED, RESULTS)}
    for name, place in places.items():
        if name in kept:
            shutil.copytree(variables[name], place)
        else:
            Path(place).mkdir()
    return {**variables, **places}


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory):
    """Variables and folder of a study that ran to its page, on a raw dataset that was planned for our network alone."""
    base = tmp_path_factory.mktemp("peace")
    shape = {"size": (64, 64, 12), "spacing": (2.0, 2.0, 4.0)}
    variables = {**converted_cohort(base, 7, "Small", num_cases=5, **shape), "nnUNet_n_proc_DA": "0"}
    planned = ("-d", 7, "--backbone", "smit_small", "-overwrite_target_spacing", 3, 3, 3, "-np", 1, "-npfp", 1)
    run_here(variables, "rectal_nnformer", "plan_and_preprocess", *planned)
    folder = study(base, CUBE, side_by_side=2)
    printed = run(variables, "rectal_nnformer", "study", "run", folder)
    assert printed.splitlines()[0] == "8 steps to do, 1 done before"
    return variables, folder


@pytest.fixture(scope="module")
def over_two_folds(in_peace, tmp_path_factory):
    """Folder of another study of some of these recipes, with a fold more: the others are not trained again."""
    base = tmp_path_factory.mktemp("two_folds")
    variables = moved(in_peace[0], base, RAW, PREPROCESSED, RESULTS)
    folder = study(base, folds=(0, 1), side_by_side=2)
    before = checkpoints(variables)
    printed = run(variables, "rectal_nnformer", "study", "run", folder)
    assert printed.splitlines()[0] == "5 steps to do, 4 done before"
    assert before.items() <= checkpoints(variables).items()
    return folder


def checkpoints(variables):
    found = Path(variables[RESULTS]).glob(f"{DATASET}/*/fold_*/checkpoint_final.pth")
    return {path.relative_to(variables[RESULTS]): path.stat().st_mtime_ns for path in found}


def wait_for(condition, process=None):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        assert process is None or process.poll() is None, "it ended early"
        time.sleep(0.2)


def record_of(folder, step):
    try:
        return json.loads((folder / f"jobs/{step}.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}


def is_running(folder, step):
    return record_of(folder, step).get("state") == "running"


def test_a_study_killed_twice_ends_in_the_same_table(in_peace, tmp_path):
    variables, uninterrupted = in_peace
    trained = ModelFolder(
        Path(variables[RESULTS]), DATASET, "nnUNetTrainerSMIT_CPU_1epoch_1iteration_seed0", PLANS, "3d_fullres"
    )
    variables = moved(variables, tmp_path, RAW, PREPROCESSED)
    shutil.copytree(trained.path, Path(variables[RESULTS]) / DATASET / trained.name)  # one recipe is adopted
    folder, mark = study(tmp_path, CUBE), uuid.uuid4().hex
    command = [str(SCRIPTS / "rectal_nnformer"), "study", "run", str(folder)]

    def start():
        with (tmp_path / "printed.txt").open("ab") as output:
            return subprocess.Popen(command, env={**variables, MARK: mark}, stdout=output, stderr=output)

    try:
        process = start()  # ended with all that it started, as where a machine is switched off
        wait_for(lambda: is_running(folder, "train-nnU-Net-0"), process)
        time.sleep(3)
        kill_started_by(mark, process.poll)
        after_first = checkpoints(variables)
        assert len(after_first) == 1
        process = start()  # ended alone: its job goes on, and the next command waits for it
        wait_for(lambda: is_running(folder, "train-cube-0"), process)
        process.kill()
        process.wait()
        after_second = checkpoints(variables)
        assert len(after_second) == 2 and started_by(mark)
        printed = run(variables, "rectal_nnformer", "study", "run", folder)
    finally:
        kill_started_by(mark)
    assert (folder / "study.csv").read_text() == (uninterrupted / "study.csv").read_text()
    # Nothing that was trained is trained again, and what was under way is not doubled.
    assert after_first.items() <= after_second.items() <= checkpoints(variables).items()
    assert "train cube 0: done" in printed
    attempts = {step: record_of(folder, f"train-{step}-0")["attempts"] for step in ("cube", "nnU-Net")}
    assert attempts == {"nnU-Net": 2, "cube": 1}
    assert run(variables, "rectal_nnformer", "study", "run", folder).splitlines()[0] == "0 steps to do, 9 done before"


@pytest.mark.skipif(bool(why_not()), reason=f"SLURM cannot be started: {why_not()}")
def test_slurm_runs_a_study_of_which_a_job_is_requeued(over_two_folds, in_peace, tmp_path):
    """As arrays over folds; beside it a training reaches its time limit and goes on."""
    variables = moved(in_peace[0], tmp_path, RAW, PREPROCESSED)
    folder = study(tmp_path, folds=(0, 1), engine="slurm")
    with running_slurm(tmp_path / "slurm") as slurm:
        variables = {**slurm, **variables, "PATH": slurm["PATH"]}
        limited = submit_limited(variables)
        printed = run(variables, "rectal_nnformer", "study", "run", folder)
        assert printed.splitlines()[-1] == "7 steps to do, all in the queue"
        submitted = json.loads((folder / "jobs/slurm_jobs.json").read_text())
        jobs = {step: job["job"] for step, job in submitted.items()}
        assert jobs["train planned 1"] == jobs["train planned 0"].replace("_0", "_1")  # an array
        wait_for(lambda: is_running(folder, "train-planned-0"))
        run(variables, "/usr/bin/scontrol", "requeue", jobs["train planned 0"])
        # Submitted again while jobs are in the queue: none is doubled.
        run(variables, "rectal_nnformer", "study", "run", folder)
        assert json.loads((folder / "jobs/slurm_jobs.json").read_text()) == submitted
        assert "train planned 0" in run(variables, "rectal_nnformer", "study", "status", folder)
        reach_time_limit(variables, limited)
        wait_for(lambda: not run(variables, "/usr/bin/squeue", "-h").strip())
    assert not any(map(started_by, [slurm[MARK]]))
    assert (folder / "study.csv").read_text() == (over_two_folds / "study.csv").read_text()
    attempts = {step: record_of(folder, f"train-planned-{step}")["attempts"] for step in (0, 1)}
    assert attempts == {0: 2, 1: 1}
    status = run(variables, "rectal_nnformer", "study", "status", folder)
    assert status.splitlines()[-1].startswith("4 of 4 folds finished")
    # What reached its time limit was saved, and went on from there, none of its epochs before.
    assert record_of(limited.model.path, f"train-{LIMITED}-0")["attempts"] == 2
    epochs = [int(epoch) for epoch in re.findall(r": Epoch (\d+)", log_of(limited))]
    assert epochs == sorted(epochs) and len(epochs) == 41 and limited.is_finished
    assert (limited.model.path / "report.html").is_file()


def submit_limited(variables):
    """Submit one fold of a cross-validation and return its folder."""
    model = ("-d", 7, "-tr", LIMITED, "-p", PLANS, "-f", 0, "-device", "cpu")
    run(variables, "rectal_nnformer", "crossval", *model, "--slurm", "cpus=1", "hours=1", "mem=2G")
    return ModelFolder(Path(variables[RESULTS]), DATASET, LIMITED, PLANS, "3d_fullres").fold(0)


def log_of(fold: FoldFolder):
    return "".join(path.read_text() for path in sorted(fold.path.glob("training_log_*.txt")))


def reach_time_limit(variables, fold):
    """Shorten the time limit of the job of a fold, when some epochs are trained, until it has saved itself."""
    wait_for(lambda: ": Epoch 2" in log_of(fold))
    submitted = json.loads((fold.model.path / "jobs/slurm_jobs.json").read_text())
    job = submitted[f"train {LIMITED} 0"]["job"]
    (elapsed,) = run(variables, "/usr/bin/squeue", "-h", f"--jobs={job}", "--format=%M").split()
    minutes = int(elapsed.split(":")[-2])
    for limit, sign in ((minutes + 2, "Stopped by SIGTERM"), (60, "")):
        run(variables, "/usr/bin/scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        wait_for(lambda sign=sign: sign in log_of(fold))
