"""A whole study, trained for real: in peace, killed twice, and by SLURM. All end in the same table.

Two recipes of ours and nnU-Net's own train a fold of a small cohort for one iteration, from a seed and with the
augmentation in the training process, so that no training depends on when it runs.
"""

import csv
import json
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from marked import MARK, kill_started_by, started_by
from pipeline import SCRIPTS, converted_cohort, run, run_here, write_cohort
from slurm_node import running_slurm, why_not

from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.nnunet.layout import FoldFolder, ModelFolder

pytestmark = pytest.mark.slow

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
DATASET, PLANS = "Dataset007_Small", "nnUNetRectalSMITSmallPlans"
STUDY = """
dataset = "Dataset007_Small"
baseline = "nnU-Net"
folds = [0]
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
SECONDS = 400
LIMITED = "nnUNetTrainerSMIT_CPU_60epochs_1iteration"
"""A training that lasts until SLURM notices its time limit, which takes up to half a minute."""


def study(base, side_by_side=1, engine="local"):
    (base / "study").mkdir()
    (base / "study/study.toml").write_text(STUDY.format(side_by_side=side_by_side, engine=engine))
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
    folder = study(base, side_by_side=2)
    printed = run(variables, "rectal_nnformer", "study", "run", folder)
    assert printed.splitlines()[0] == "8 steps to do, 1 done before"
    return variables, folder


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
    folder, mark = study(tmp_path), uuid.uuid4().hex
    command = [str(SCRIPTS / "rectal_nnformer"), "study", "run", str(folder)]

    def start():
        with (tmp_path / "printed.txt").open("ab") as output:
            return subprocess.Popen(command, env={**variables, MARK: mark}, stdout=output, stderr=output)

    try:
        process = start()  # ended with all that it started, as where a machine is switched off
        wait_for(lambda: is_running(folder, "train-cube-0"), process)
        time.sleep(3)
        kill_started_by(mark, process.poll)
        after_first = checkpoints(variables)
        assert len(after_first) == 1
        process = start()  # ended alone: its job goes on, and the next command waits for it
        wait_for(lambda: is_running(folder, "train-nnU-Net-0"), process)
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
    assert "train nnU-Net 0: done" in printed
    attempts = {step: record_of(folder, f"train-{step}-0")["attempts"] for step in ("cube", "nnU-Net")}
    assert attempts == {"cube": 2, "nnU-Net": 1}
    assert run(variables, "rectal_nnformer", "study", "run", folder).splitlines()[0] == "0 steps to do, 9 done before"


ADOPTING = f"""
dataset = "{DATASET}"
baseline = "stock"
folds = [0]
device = "cpu"
[external]
images = "{{site}}/images"
masks = "{{site}}/masks"
[[recipe]]
name = "ours"
trainer = "nnUNetTrainerSMIT_CPU_1epoch_1iteration_seed0"
plans = "{PLANS}"
[[recipe]]
name = "stock"
trainer = "nnUNetTrainer_1epoch_1iteration_seed0"
plans = "nnUNetPlans"
"""


def test_what_was_trained_is_adopted_and_predicts_another_site(in_peace, tmp_path, capsys):
    """Scans of another size and spacing, of which one cannot be read; nnU-Net's run has no scores of ours yet."""
    variables = moved(in_peace[0], tmp_path, PREPROCESSED, RESULTS)
    (validation,) = Path(variables[RESULTS]).glob(f"{DATASET}/nnUNetTrainer_*/fold_0/validation")
    for scores in validation.glob("lesion_detection.*"):
        scores.unlink()
    site, folder = tmp_path / "site", tmp_path / "study"
    write_cohort(site, 3, size=(48, 48, 10), spacing=(2.5, 2.5, 5.0))
    cut_off = site / "images/case_02.nii.gz"
    cut_off.write_bytes(cut_off.read_bytes()[:1000])
    folder.mkdir()
    (folder / "study.toml").write_text(ADOPTING.format(site=site))
    before = checkpoints(variables)
    run(variables, "rectal_nnformer", "study", "run", folder)
    assert checkpoints(variables) == before and not list(folder.glob("jobs/train-*"))
    assert (validation / "lesion_detection.json").is_file()
    rows = list(csv.DictReader((folder / "study.csv").open()))
    assert [(row["recipe"], row["external_tumours"]) for row in rows] == [("ours", "2"), ("stock", "2")]
    for recipe in ("ours", "stock"):
        masks = sorted((folder / "external" / recipe).glob("*.nii.gz"))
        assert [mask.name for mask in masks] == ["case_00.nii.gz", "case_01.nii.gz"]
        assert read_image(masks[0]).GetSize() == (48, 48, 10)
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert "left out for all recipes: case_02." in page and "external-froc-0-description" in page
    run_here(variables, "rectal_nnformer", "study", "run", folder)
    assert "0 steps to do" in capsys.readouterr().out


@pytest.mark.skipif(bool(why_not()), reason=f"SLURM cannot be started: {why_not()}")
def test_slurm_runs_a_study_of_which_a_job_is_requeued(in_peace, tmp_path):
    """Beside it the folds of a cross-validation are an array, of which one reaches its time limit and goes on."""
    variables, uninterrupted = in_peace
    variables = moved(variables, tmp_path, RAW, PREPROCESSED)
    folder = study(tmp_path, engine="slurm")
    with running_slurm(tmp_path / "slurm") as slurm:
        variables = {**slurm, **variables, "PATH": slurm["PATH"]}
        printed = run(variables, "rectal_nnformer", "study", "run", folder)
        assert printed.splitlines()[-1] == "7 steps to do, all in the queue"
        submitted = jobs_of(folder)
        wait_for(lambda: is_running(folder, "train-planned-0"))
        requeued = submitted["train planned 0"]["job"]
        run(variables, "/usr/bin/scontrol", "requeuehold", requeued)
        wait_for(lambda: f"waits in the queue as job {requeued}" in status_of(variables, folder, "train planned 0"))
        run(variables, "/usr/bin/scontrol", "release", requeued)
        limited, other = submit_limited(variables)
        # Submitted again while jobs are in the queue: none is doubled.
        run(variables, "rectal_nnformer", "study", "run", folder)
        assert jobs_of(folder) == submitted
        assert "train planned 0" in run(variables, "rectal_nnformer", "study", "status", folder)
        reach_time_limit(variables, limited)
        wait_for(lambda: not run(variables, "/usr/bin/squeue", "-h").strip())
    assert not started_by(slurm[MARK])
    assert (folder / "study.csv").read_text() == (uninterrupted / "study.csv").read_text()
    attempts = {step: record_of(folder, f"train-{step}-0")["attempts"] for step in ("planned", "cube")}
    assert attempts == {"planned": 2, "cube": 1}
    status = run(variables, "rectal_nnformer", "study", "status", folder)
    assert status.splitlines()[-1].startswith("3 of 3 folds finished")
    # What reached its time limit was saved, and went on with the epoch that was under way, none of those before.
    attempts = [record_of(limited.model.path, f"train-{LIMITED}-{fold}")["attempts"] for fold in (0, 1)]
    assert attempts == [2, 1] and limited.is_finished and other.is_finished
    epochs = [int(epoch) for epoch in re.findall(r": Epoch (\d+)", log_of(limited))]
    assert epochs == sorted(epochs) and len(epochs) == 61
    assert (limited.model.path / "report.html").is_file()


def status_of(variables, folder, step):
    lines = run(variables, "rectal_nnformer", "study", "status", folder).splitlines()
    return next(line for line in lines if line.startswith(f"{step} "))


def jobs_of(folder):
    return json.loads((folder / "jobs/slurm_jobs.json").read_text())


def submit_limited(variables):
    """Submit two folds of a cross-validation, as one array, and return their folders."""
    model = ("-d", 7, "-tr", LIMITED, "-p", PLANS, "-f", 0, 1, "-device", "cpu")
    run(variables, "rectal_nnformer", "crossval", *model, "--slurm", "cpus=1", "hours=1", "mem=2G")
    folder = ModelFolder(Path(variables[RESULTS]), DATASET, LIMITED, PLANS, "3d_fullres")
    jobs = [jobs_of(folder.path)[f"train {LIMITED} {fold}"]["job"] for fold in (0, 1)]
    assert jobs[0].endswith("_0") and jobs[1] == jobs[0].replace("_0", "_1")
    return folder.fold(0), folder.fold(1)


def log_of(fold: FoldFolder):
    return "".join(path.read_text() for path in sorted(fold.path.glob("training_log_*.txt")))


def reach_time_limit(variables, fold):
    """Shorten the time limit of the job of a fold, when some epochs are trained, until it has saved itself."""
    wait_for(lambda: ": Epoch 2" in log_of(fold))
    job = jobs_of(fold.model.path)[f"train {LIMITED} 0"]["job"]
    (elapsed,) = run(variables, "/usr/bin/squeue", "-h", f"--jobs={job}", "--format=%M").split()
    minutes = int(elapsed.split(":")[-2])
    for limit, sign in ((minutes + 2, "Stopped by SIGTERM"), (60, "")):
        run(variables, "/usr/bin/scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        wait_for(lambda sign=sign: sign in log_of(fold))
