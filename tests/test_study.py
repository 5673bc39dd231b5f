"""The study: its file, what is missing, jobs on one machine and for SLURM, adopting trained folds, table and page.

Finished folds are made as files, and jobs run in this process; the slow tests train, kill and queue for real.
"""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from report_runs import (
    CASES,
    DATASET,
    DATASET_JSON,
    FAR,
    NEAR,
    mask_of,
    plans,
    write_prediction,
    write_run,
    write_volume,
)

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.operating_point import read_point
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.reporting.findings import PredictingModel, ScanFindings
from rectal_nnformer.reporting.writing import write_findings
from rectal_nnformer.study import jobs, steps
from rectal_nnformer.study.jobs import run_here
from rectal_nnformer.study.page import _forest
from rectal_nnformer.study.progress import fold_progress, status_lines
from rectal_nnformer.study.record import check_study, read_study
from rectal_nnformer.study.steps import missing_steps, missing_weights, steps_of
from rectal_nnformer.study.table import against_baseline
from rectal_nnformer.training import run_folds

PLANS = "nnUNetRectalSMITPlans"
STUDY = f"""
dataset = "{DATASET}"
baseline = "stock"
folds = [0, 1]
device = "cpu"
side_by_side = 2
[[recipe]]
name = "ACT"
trainer = "nnUNetTrainerSMIT_ACT"
plans = "{PLANS}"
backbone = "smit"
[[recipe]]
name = "stock"
trainer = "nnUNetTrainer"
plans = "{PLANS}"
epochs = "own"
"""


@pytest.fixture
def base(tmp_path, monkeypatch):
    return write_planned(tmp_path, monkeypatch)


def write_planned(tmp_path, monkeypatch):
    """Folders of nnU-Net with a planned dataset of four cases in two folds, no trained model, and a pretrained file."""
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/model_smit_ct10k.pth").write_bytes(b"weights")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    folder = tmp_path / "nnUNet_preprocessed" / DATASET
    data = folder / "nnUNetRectalPlans_3d_fullres_1.0x1.0x1.0mm"
    data.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (folder / f"{PLANS}.json").write_text(json.dumps(plans()))
    cases = list(CASES)
    splits = [{"train": cases[1 - fold :: 2], "val": cases[fold::2]} for fold in range(2)]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    for case in cases:
        (data / f"{case}.pkl").write_bytes(b"\x80\x04}\x94.")  # an empty dictionary
    return tmp_path


def trained(base, trainer, scored=True, **options):
    """Make the folds of a trainer as they are when they are finished, `scored` by our trainers or not by nnU-Net's."""
    folder = write_run(base, trainer=trainer, analysed=scored, **options)
    for fold in folder.glob("fold_*"):
        write_checkpoint(fold / "checkpoint_final.pth", trainer)
        (fold / "validation/summary.json").write_text("{}")
        if not scored:
            for name in ("json", "csv"):
                (fold / f"validation/lesion_detection.{name}").unlink()
    return folder


def study_in(folder, text=STUDY, **changed):
    """Write a study; `changed` are lines at its beginning, such as epochs=3."""
    folder.mkdir(exist_ok=True)
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in changed.items())
    (folder / "study.toml").write_text(lines + text)
    return folder


def names(found):
    return [step.name for step in found]


@pytest.fixture
def jobs_here(monkeypatch):
    """Let jobs of the local executor run in this process, at once; return their steps."""
    done, numbers = [], count(1)

    class Job:
        def __init__(self, step):
            self.job_id = str(next(numbers))
            self.paths = type("Paths", (), {"stdout": f"log_{self.job_id}"})
            done.append(step.name)
            with suppress(RectalError):
                jobs.StepJob(step)()

        def done(self):
            return True

    monkeypatch.setattr(jobs, "_submit_here", lambda step, gpu: Job(step))
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0)
    return done


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Reports and summaries have tests of their own."""
    monkeypatch.setattr("rectal_nnformer.reporting.writing.draw_examples", lambda examples, labels, path: None)
    monkeypatch.setattr(steps, "write_report", lambda model: (model / "report.html").touch())


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"nnU-Net was started: {arguments}")

    monkeypatch.setattr(run_folds, "start_command", refuse)


def test_what_is_missing_follows_from_the_files(base):
    study = read_study(study_in(base / "study"))
    everything = [
        f"plan {PLANS}",
        *("train ACT 0", "train ACT 1", "summarize ACT", "train stock 0", "train stock 1", "summarize stock", "page"),
    ]
    assert names(steps_of(study)) == everything
    assert names(missing_steps(steps_of(study))) == everything[1:]  # it is planned
    stock = trained(base, "nnUNetTrainer", scored=False)
    assert names(missing_steps(steps_of(study))) == [everything[i] for i in (1, 2, 3, 6, 7)]
    trained(base, "nnUNetTrainerSMIT_ACT")
    shutil.rmtree(base / f"nnUNet_preprocessed/{DATASET}/nnUNetRectalPlans_3d_fullres_1.0x1.0x1.0mm")
    # All folds are trained: data that were removed since are not made again.
    assert names(missing_steps(steps_of(study))) == ["summarize ACT", "summarize stock", "page"]
    assert next(status_lines(steps_of(study))) == f"{everything[0]:40s} not needed, all its folds are trained"
    (study.model(study.recipe[0]).path / "crossval_summary.json").write_text('{"folds": {"0": {}, "1": {}}}')
    report = study.model(study.recipe[0]).path / "report.html"
    report.touch()
    assert names(missing_steps(steps_of(study))) == ["summarize stock", "page"]
    scores = study.model(study.recipe[0]).fold(0).validation / "lesion_detection.json"
    scores.rename(scores.with_name("kept"))
    assert names(missing_steps(steps_of(study))) == ["summarize ACT", "summarize stock", "page"]
    scores.with_name("kept").rename(scores)
    (stock / "fold_1/validation/summary.json").unlink()
    assert names(missing_steps(steps_of(study)))[:2] == [f"plan {PLANS}", "train stock 1"]


def test_the_length_of_trainings_is_part_of_their_names(base):
    study = read_study(study_in(base / "study", epochs=3, iterations=1, seed=0))
    act, stock = (study.model(recipe).trainer for recipe in study.recipe)
    assert (act, stock) == ("nnUNetTrainerSMIT_ACT_3epochs_1iteration_seed0", "nnUNetTrainer")


def test_a_stock_run_trained_by_hand_is_adopted(base, jobs_here, no_training, capsys):
    """Two folds of nnU-Net's own, without scores of ours: they are scored and compared, and nothing is trained."""
    trained(base, "nnUNetTrainerSMIT_ACT")
    stock = trained(base, "nnUNetTrainer", scored=False)
    before = {path: path.stat().st_mtime_ns for path in base.rglob("checkpoint_final.pth")}
    study = read_study(study_in(base / "study"))
    run_here(study, steps_of(study))
    assert jobs_here == ["summarize ACT", "summarize stock", "page"]
    assert (stock / "fold_0/validation/lesion_detection.json").is_file() and (stock / "report.html").is_file()
    assert {path: path.stat().st_mtime_ns for path in base.rglob("checkpoint_final.pth")} == before
    run_here(study, steps_of(study))
    assert len(jobs_here) == 3
    assert capsys.readouterr().out.endswith("0 steps to do, 8 done before\n")
    # Validated again by nnU-Net, as for probabilities, it is scored again.
    scores = [stock / f"fold_{fold}/validation/lesion_detection.json" for fold in (0, 1)]
    os.utime(scores[0], ns=(0, 0))
    before = scores[1].stat().st_mtime_ns
    next(step for step in steps_of(study) if step.name == "summarize stock").run()
    assert (scores[0].stat().st_mtime_ns > 0, scores[1].stat().st_mtime_ns) == (True, before)


def test_a_failure_holds_up_what_needs_it_alone(base, jobs_here, monkeypatch):
    trained(base, "nnUNetTrainer")
    study = read_study(study_in(base / "study"))

    def train(self):
        if self.fold == 1:
            raise RectalError("no space left")
        trained(base, "nnUNetTrainerSMIT_ACT")
        shutil.rmtree(self.model.fold(1).path)

    monkeypatch.setattr(steps.TrainStep, "run", train)
    with pytest.raises(
        RectalError, match=r"1 step failed:\ntrain ACT 1 failed: no space left[\s\S]*summarize ACT, page"
    ):
        run_here(study, steps_of(study))
    assert jobs_here == ["train ACT 0", "train ACT 1", "summarize stock"]
    record = json.loads((study.folder / "jobs/train-ACT-1.json").read_text())
    assert record["model"] == f"nnUNetTrainerSMIT_ACT__{PLANS}__3d_fullres"
    assert (record["state"], record["error"], record["attempts"]) == ("failed", "no space left", 1)
    told = list(status_lines(steps_of(study)))
    assert f"{'train ACT 1':40s} not begun, FAILED: no space left" in told
    assert told[-1] == "3 of 4 folds finished; of 1 fold no epoch tells how long they take"
    for state, how in (("stopped", "stopped"), ("running", "killed")):
        (study.folder / "jobs/train-ACT-1.json").write_text(json.dumps({**record, "state": state}))
        assert f"{'train ACT 1':40s} not begun, {how}; the same command goes on" in list(status_lines(steps_of(study)))
    (study.folder / "jobs/train-ACT-1.json").write_text(json.dumps({**record, "model": "another"}))
    assert f"{'train ACT 1':40s} not begun" in list(status_lines(steps_of(study)))


def write_other_site(base, folder="other"):
    """Write scans and masks of two cases of another cohort."""
    for case in ("far_1", "far_2"):
        for name in (f"masks/{case}", f"images/{case}_0000"):
            write_volume(base / f"{folder}/{name}.nii.gz", mask_of([NEAR]).astype("uint8"))


def naming_site(folder="~/other", text=STUDY):
    """Return the text of a study that names another cohort, below the home."""
    places = f'[external]\nimages = "{folder}/images"\nmasks = "~/other/masks"\n'
    return text.replace("[[recipe]]", f"{places}[[recipe]]", 1)


def predict_two(command, arguments, variables, sure=False, code=0, failed=()):
    """Stand in for `predict` with two scans of another cohort, of which all but the baseline find both."""
    output = Path(arguments[arguments.index("-o") + 1])
    assert command == "rectal_nnformer" and "--continue_prediction" in arguments
    model = ModelFolder.named(*(arguments[arguments.index(option) + 1] for option in ("-d", "-tr", "-p", "-c")))
    point = read_point(model.path)
    predicting = PredictingModel(model, ["0", "1"], "checkpoint_final.pth", "", str(point) if point else "")
    write_findings(failed, predicting, output)
    for case in ("far_1", "far_2"):
        found = [NEAR] if case == "far_1" or "ACT" in str(output) else []
        write_prediction(output / f"{case}.nii.gz", found, found, sure)
    return code


def test_another_cohort_is_predicted_and_scored(base, jobs_here, monkeypatch):
    """And an edited study does again what depends on what was changed, and nothing else; status says so before."""
    for trainer in ("nnUNetTrainerSMIT_ACT", "nnUNetTrainer"):
        trained(base, trainer, sure=trainer.endswith("ACT"))
    write_other_site(base)
    shutil.copytree(base / "other/images", base / "new/images")
    monkeypatch.setenv("HOME", str(base))
    monkeypatch.setattr(steps, "run_command", predict_two)
    folder = base / "study"

    def run(site="~/other", **changed):
        study = read_study(study_in(folder, naming_site(site), **changed))
        check_study(study)
        told = "\n".join(status_lines(steps_of(study)))
        before = len(jobs_here)
        run_here(study, steps_of(study))
        assert missing_steps(steps_of(study)) == []
        return jobs_here[before:], told

    everything = ["summarize ACT", "external ACT", "summarize stock", "external stock", "page"]
    assert run()[0] == everything
    rows = list(csv.DictReader((folder / "study.csv").open()))
    assert [(row["recipe"], row["external_detected"], row["external_tumours"]) for row in rows] == [
        ("ACT", "2", "2"),
        ("stock", "1", "2"),
    ]
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert "Difference in Dice to stock, external" in page
    # Nothing tells how sure one of them is of lesions, so that it has no curve, and the page says why.
    of_folds, _, external = page.partition("External cohort</h2>")
    assert "FROC of ACT<" in of_folds and "No curve of ACT" not in of_folds
    assert "No curve of stock: 4 cases without known confidence of lesions: found, invented" in of_folds
    assert "-tr nnUNetTrainer -p nnUNetRectalSMITPlans --val --npz" in page
    # Neither is it told of lesions of the other cohort, until that is predicted anew.
    unsure = "2 cases without known confidence of lesions: far_1, far_2. Remove"
    assert f"No curve of stock: {unsure} {folder}/external/stock and run the study again" in external
    assert f"No curve of ACT: {unsure}" in external and "external-froc" not in page
    shutil.rmtree(folder / "external")
    monkeypatch.setattr(steps, "run_command", partial(predict_two, sure=True))
    assert run()[0] == ["external ACT", "external stock", "page"]
    page = (folder / "study.html").read_text(encoding="utf-8")
    _, _, external = page.partition("External cohort</h2>")
    assert "FROC of ACT and stock" in external and 'aria-describedby="external-froc-0-description"' in external
    assert "ACT: 100.0 % at 1/8" in external and "; stock: 50.0 % at 1/8" in external
    assert "without known confidence of lesions: far" not in page

    monkeypatch.setattr("rectal_nnformer.study.page.write_page", lambda study: (study.folder / "study.html").touch())
    done, told = run(operating_point="f1")
    assert sorted(done) == sorted(everything)
    assert f"{'summarize ACT':40s} to do: its operating point is for none, and not for f1" in told
    assert f"{'external ACT':40s} to do again, after what it tells of" in told
    assert run(operating_point="f1")[0] == ["page"]  # the file of the study was written again
    done, told = run("~/new", operating_point="f1")
    assert done == ["external ACT", "external stock", "page"]
    assert f"{'external stock':40s} to do: other images were predicted" in told
    (base / "new/images/far_3_0000.nii.gz").touch()
    study = read_study(folder)
    assert names(missing_steps(steps_of(study))) == ["external ACT", "external stock", "page"]
    shutil.rmtree(base / "new")  # what was predicted of them is there
    assert missing_steps(steps_of(study)) == []
    write_checkpoint(
        base / f"nnUNet_results/{DATASET}/nnUNetTrainer__{PLANS}__3d_fullres/fold_0/checkpoint_final.pth", "x"
    )
    assert "external stock" in names(missing_steps(steps_of(study)))  # it was trained again


def external_of(folder):
    """Return what a study's table tells of another cohort: tumours found and all, of each recipe."""
    cli.main(["study", "report", str(folder)])
    rows = csv.DictReader((folder / "study.csv").open())
    return [(row.get("external_detected"), row.get("external_tumours")) for row in rows]


@pytest.fixture
def two_sites(base, monkeypatch):
    return write_two_sites(base, monkeypatch)


def write_two_sites(base, monkeypatch, sure=False):
    """Two trained recipes, another cohort, and what predicts it: a study runs the step of a recipe for it."""
    for trainer in ("nnUNetTrainerSMIT_ACT", "nnUNetTrainer"):
        trained(base, trainer, sure=sure)
    write_other_site(base)
    monkeypatch.setenv("HOME", str(base))

    def run(study, *recipes, **how):
        monkeypatch.setattr(steps, "run_command", partial(predict_two, **how))
        for step in steps_of(study):
            if step.name in [f"external {recipe}" for recipe in recipes]:
                step.run()
                assert step.is_done()

    return run


def test_the_page_tells_of_the_cohort_that_the_study_names(base, two_sites, capsys):
    """Neither of one that it named before nor of some recipes on one and others on another."""
    shutil.copytree(base / "other", base / "new")
    folder = study_in(base / "study", naming_site())
    two_sites(read_study(folder), "ACT", "stock")
    assert external_of(folder) == [("2", "2"), ("1", "2")]
    study_in(folder, naming_site("~/new"))
    page = folder / "study.html"
    assert external_of(folder) == [(None, None)] * 2
    two_sites(read_study(folder), "ACT")
    assert external_of(folder) == [("2", "2"), ("", "")]
    assert "Not scored yet, or not as it is now, and not in what follows: stock." in page.read_text(encoding="utf-8")
    two_sites(read_study(folder), "stock")
    # Other masks by the same names, as old as those before.
    for case, ball in (("far_1", FAR), ("far_2", NEAR)):
        write_volume(base / f"other/masks/{case}.nii.gz", mask_of([ball]).astype("uint8"))
        os.utime(base / f"other/masks/{case}.nii.gz", ns=(0, 0))
    os.utime(base / "other/masks", ns=(0, 0))
    two_sites(read_study(folder), "ACT")
    with pytest.raises(SystemExit):
        external_of(folder)
    assert "case far_1 was scored against different references: lesion 1 of" in capsys.readouterr().err
    study_in(folder)
    assert external_of(folder) == [(None, None)] * 2
    assert "None. Name one under [external]" in page.read_text(encoding="utf-8")


def test_a_scan_that_cannot_be_used_is_left_out_for_all_recipes(base, two_sites, monkeypatch, capsys):
    write_volume(base / "other/masks/far_3.nii.gz", mask_of([FAR]).astype("uint8"))
    (base / "other/images/far_3_0000.nii.gz").touch()
    folder = study_in(base / "study", naming_site())
    study = read_study(folder)
    failed = [ScanFindings("far_3", problem="cannot be read")]
    with pytest.raises(RectalError, match=r"predict .* failed with exit code 3"):
        two_sites(study, "ACT", code=3, failed=failed)  # scans that can be used were not predicted: again
    two_sites(study, "ACT", "stock", code=1, failed=failed)
    assert capsys.readouterr().out.count("the page leaves their cases out for all recipes") == 2
    assert external_of(folder) == [("2", "2"), ("1", "2")]
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert "1 case without a prediction, such as a scan that cannot be read, left out for all recipes: far_3." in page
    assert "1 case more, without a prediction, counted for no recipe." in page
    # It ended with an error before it told what it found: not what the findings of another run say.
    monkeypatch.setattr(steps, "run_command", lambda *_: 1)
    with pytest.raises(RectalError, match=r"predict of .*/other/images failed with exit code 1"):
        next(step for step in steps_of(study) if step.name == "external ACT").run()


@pytest.fixture
def planned_anew(base, monkeypatch):
    """Let plans be made at once, and return the spacing of each."""
    made = []

    def plan(number, backbone, plans_name, overwrite_target_spacing):
        made.append(overwrite_target_spacing)
        new = plans()
        new["configurations"]["3d_fullres"]["spacing"] = list(overwrite_target_spacing)
        (base / f"nnUNet_preprocessed/{DATASET}/{PLANS}.json").write_text(json.dumps(new))

    monkeypatch.setattr("rectal_nnformer.planning.api.plan_dataset", plan)
    return made


def test_another_spacing_is_planned_and_trained_again(base, planned_anew):
    """What the study trained is set aside before; what was trained by hand is not."""
    act = trained(base, "nnUNetTrainerSMIT_ACT")
    study = read_study(study_in(base / "study", spacing=[1.0, 1.0, 1.0]))
    plan, *_ = everything = names(steps_of(study))
    assert "train ACT 0" not in names(missing_steps(steps_of(study)))
    study = read_study(study_in(base / "study", spacing=[3.0, 1.0, 1.0]))
    assert names(missing_steps(steps_of(study))) == everything
    told = list(status_lines(steps_of(study)))
    assert f"{plan:40s} to do: planned for a spacing of 1 x 1 x 1 mm, and not 3 x 1 x 1 mm" in told
    again = "finished, to do again: trained on a spacing of 1 x 1 x 1 mm, and not 3 x 1 x 1 mm"
    assert f"{'train ACT 0':40s} {again}" in told and told[-1].startswith("0 of 4 folds finished")
    step = steps_of(study)[0]
    with pytest.raises(RectalError, match=r"fold_0 was trained on another spacing .* and not by this study"):
        step.run()
    assert not planned_anew and act.is_dir()
    for name in ("train-ACT-0", "train-ACT-1"):
        (study.folder / "jobs").mkdir(exist_ok=True)
        (study.folder / f"jobs/{name}.json").write_text(json.dumps({"model": act.name, "state": "done"}))
    step.run()
    assert planned_anew == [(3.0, 1.0, 1.0)] and step.is_done()
    (aside,) = act.parent.glob(f"set_aside/*/{act.name}")
    assert (aside / "fold_1/checkpoint_final.pth").is_file() and not act.exists()
    assert "train ACT 0" in names(missing_steps(steps_of(study)))


def test_the_page_and_its_table(base, capsys):
    worse = {case: (reference, predicted if case != "found" else []) for case, (reference, predicted) in CASES.items()}
    trained(base, "nnUNetTrainerSMIT_ACT", sure=True)
    trained(base, "nnUNetTrainer", cases=worse, sure=True)
    folder = study_in(base / "study")
    fold = base / f"nnUNet_results/{DATASET}/nnUNetTrainerSMIT_ACT__{PLANS}__3d_fullres/fold_1"
    (fold / "training_log_2026.txt").write_text(LOG + VALIDATION)
    model = fold.parent.name
    (folder / "jobs").mkdir()
    (folder / "jobs/train-ACT-1.json").write_text(json.dumps({"model": model, "host_memory_gb": 9.5}))
    (folder / "jobs/train-ACT-0.json").write_text(json.dumps({"model": "before", "host_memory_gb": 99}))
    cli.main(["study", "report", str(folder)])
    assert f"The page of the study is {folder / 'study.html'}" in capsys.readouterr().out
    act, stock = csv.DictReader((folder / "study.csv").open())
    assert (act["detected"], act["tumours"], stock["detected"]) == ("3", "5", "2")
    assert (float(act["detection_rate_difference"]), float(act["detection_p_holm"])) == (pytest.approx(0.2), 1.0)
    assert stock["detection_rate_difference"] == ""
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert "<title>2 recipes against stock: Dataset501_Rectal, 2 recipes</title>" in page
    assert '<th scope="row">found</th><td class="number">1</td>' in page  # the case of the tumour on which they differ
    for words in ("Wilcoxon", "Holm", "ADI per stage", "parameters (millions)", "nnUNetTrainerSMIT_ACT on"):
        assert words in page
    costs = list(csv.DictReader((folder / "study_costs.csv").open()))
    assert [(row["recipe"], row["fold"]) for row in costs] == [
        (name, fold) for name in ("ACT", "stock") for fold in "01"
    ]
    told = {"epochs": "2", "seconds": "140.0", "validation_seconds": "600.0", "host_memory_gb": "9.5"}
    assert told.items() <= costs[1].items() and "2 min" in page and '<td class="number">9.5</td>' in page
    # FROC side by side, with the rates in a table and in words.
    assert 'aria-describedby="froc-0-description"' in page and "froc-1" not in page
    assert "FROC of ACT and stock" in page and "ACT: 0.0 % at 1/8, 100.0 % at 1/4" in page
    assert '<th scope="row">ACT</th><td class="number">0.' in page and "No curve of" not in page
    assert (folder / "compare.md").is_file()


def test_the_page_tells_of_the_folds_that_the_study_names(base):
    trained(base, "nnUNetTrainerSMIT_ACT")
    stock = trained(base, "nnUNetTrainer", cases=dict(reversed(CASES.items())))
    folder = study_in(base / "study")

    def told(folds):
        study_in(folder, STUDY.replace("[0, 1]", str(folds)))
        cli.main(["study", "report", str(folder)])
        act, _ = csv.DictReader((folder / "study.csv").open())
        costs = [row["fold"] for row in csv.DictReader((folder / "study_costs.csv").open())]
        return act["cases"], costs, (folder / "study.html").read_text(encoding="utf-8")

    cases, costs, page = told([0, 1])
    assert (cases, costs) == ("4", ["0", "1"] * 2) and "the same 2 folds" not in page
    assert "cross-validation on 4 cases of 4 patients with 5 tumours, of which 4 were held out in folds of " in page
    shutil.rmtree(stock)
    trained(base, "nnUNetTrainer")
    cases, costs, page = told([0])
    assert (cases, costs) == ("2", ["0"] * 2)
    assert "on the same 1 fold of 2 cases of 2 patients" in page


def test_a_page_needs_the_baseline(base):
    trained(base, "nnUNetTrainerSMIT_ACT")
    with pytest.raises(SystemExit):
        cli.main(["study", "report", str(study_in(base / "study"))])


def case(name, dice, detected, patient=None):
    lesion = type("L", (), {"detected": detected})
    values = {"case": name, "patient": patient or name, "dice": dice, "lesions": [lesion], "n_false_positive": 1}
    return type("C", (), values)


def test_recipes_are_tested_against_the_baseline_with_holm():
    base = [case(f"c{i}", 0.1, False) for i in range(6)]
    better = [case(f"c{i}", 0.2 + i / 10, True) for i in range(6)]
    cohorts = {name: type("T", (), {"cases": cases}) for name, cases in (("b", base), ("x", better), ("y", base))}
    found = against_baseline(cohorts, "b")
    assert list(found) == ["x", "y"]
    # Six tumours found by one alone: 2 / 2**6, times the two recipes. Six patients all better: the same.
    assert found["x"].detection.p_holm == pytest.approx(2 * 2 / 64) == found["x"].dice_p_holm
    assert (found["x"].detection_rate.value, found["y"].dice.value, found["y"].dice_p) == (1.0, 0.0, 1.0)
    assert CaseDetection  # the records that stand behind these
    # Twelve tumours found by one alone: 2 / 2**12, which three decimals would make 0.
    cohorts = {
        name: type("T", (), {"cases": [case(f"c{i}", 0.1 + i * better / 20, better) for i in range(12)]})
        for name, better in (("b", False), ("x", True))
    }
    rate, dice = _forest(against_baseline(cohorts, "b"), "b", "external").values()
    assert "adjusted p &lt; 0.001" in rate and ">p &lt; 0.001<" in rate and "p &lt; 0.001" in dice


def test_a_new_study_explains_itself_and_takes_what_is_trained(base, capsys):
    trained(base, "nnUNetTrainer")
    cli.main(["study", "init", "-d", "501", "-o", str(base / "s"), "--backbones", "smit", "swin_unetr"])
    study = read_study(base / "s")
    made = {recipe.name: recipe for recipe in study.recipe}
    assert [name for name in made if name.startswith("SMIT-")] == [
        f"SMIT-{name}" for name in ("Base", "TA", "Crop", "ACT", "Scratch", "MaskedPadding")
    ]
    assert {"nnU-Net", "ResEnc-L", "Primus-M"} <= set(made) and study.baseline == "nnU-Net"
    adopted = made[f"nnUNetTrainer-{PLANS}-3d_fullres"]
    assert (adopted.epochs, adopted.planner) == ("own", None)
    assert "Trained before, and part of it" in capsys.readouterr().out
    # All recipes but what was trained before have one length and seed, and a FROC: nnU-Net's by probabilities.
    lengths = {
        study.model(recipe).trainer.removeprefix(recipe.trainer) for name, recipe in made.items() if recipe != adopted
    }
    assert lengths == {"_1000epochs_seed0"}
    assert [name for name, recipe in made.items() if recipe.npz] == ["nnU-Net", "ResEnc-L", "Primus-M"]
    saved = {step.recipe.name: step.job().save_probabilities for step in steps_of(study) if hasattr(step, "fold")}
    assert (saved["nnU-Net"], saved["SMIT-ACT"], study.npz) == (True, False, False)
    with pytest.raises(SystemExit):
        cli.main(["study", "init", "-d", "501", "-o", str(base / "s")])
    assert "is there already" in capsys.readouterr().err


def test_a_baseline_that_was_trained_before_is_taken_as_it_is(base):
    """By nnU-Net's command, or by an earlier study."""
    stock = trained(base, "nnUNetTrainer", scored=False)
    stock.rename(stock.with_name("nnUNetTrainer__nnUNetPlans__3d_fullres"))
    trained(base, "nnUNetTrainerSMIT_ACT_1000epochs_seed0")
    cli.main(["study", "init", "-d", "501", "-o", str(base / "s")])
    study = read_study(base / "s")
    made = {recipe.name: recipe for recipe in study.recipe}
    assert len(made) == 9 and (made["nnU-Net"].epochs, made["nnU-Net"].npz) == ("own", None)
    missing = names(missing_steps(steps_of(study)))
    for name, is_trained in (("nnU-Net", True), ("SMIT-ACT", True), ("ResEnc-L", False)):
        assert (f"train {name} 0" not in missing) == is_trained, name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline = "stock"', 'baseline = "stok"', "Did you mean stock?"),
        ('baseline = "stock"', "baseline = stock", "cannot be read as TOML"),
        ("side_by_side = 2", "side_by_sid = 2", "there is no key side_by_sid. Did you mean side_by_side?"),
        ("side_by_side = 2", 'folder = "x"', "there is no key folder."),
        ("side_by_side = 2", "fold = 2", "there is no key fold. Did you mean folds?"),
        ("folds = [0, 1]", 'epochs = "many"', 'epochs is "many", but must be a whole number above 0, or "own".'),
        ("folds = [0, 1]", "folds = [-1]", "folds is [-1], but must be numbers of folds"),
        ("folds = [0, 1]", "folds = [1, 1]", "folds names 1 more than once"),
        ("folds = [0, 1]", 'operating_point = "fp=2"', "operating_point: 'fp=2' is no wish"),
        ('dataset = "Dataset501_Rectal"', "", "dataset is missing; it must be the name of a dataset, DatasetXXX_Name."),
        ('device = "cpu"', 'device = "gpu"', 'device is "gpu", but must be "cuda", "cpu" or "mps".'),
        ('device = "cpu"', "slurm = { nodes = [1] }", "slurm.nodes is [1], but must be a text, a number, true or"),
        ('device = "cpu"', 'external = { images = "x" }', "external.masks is missing; it must be the folder of"),
        ('backbone = "smit"', 'backbon = "smit"', "there is no key backbon in the recipe ACT. Did you mean backbone?"),
        ('backbone = "smit"', "epochs = 0", "recipe ACT, epochs is 0, but must be a whole number above 0"),
        ('backbone = "smit"', 'backbone = "smitt"', "Did you mean smit?"),
        ('backbone = "smit"', 'backbone = "smit"\nplanner = "ExperimentPlanner"', "has a backbone and a planner"),
        ('name = "ACT"', 'name = "stock"', "2 recipes have the name stock"),
        ("nnUNetTrainerSMIT_ACT", "nnUNetTrainer", "2 recipes have the model"),
        ('device = "cpu"', 'device = "cpu"\nslurm = { hours = "long" }', "slurm.hours"),
        ("nnUNetTrainerSMIT_ACT", "nnUNetTrainer__SMIT", "__ may stand only between trainer, plans and configuration."),
        (f'plans = "{PLANS}"', 'plans = "P__Q"', "makes the model nnUNetTrainerSMIT_ACT__P__Q__3d_fullres"),
    ],
)
def test_a_study_that_cannot_be_is_refused(base, old, new, message):
    assert old in STUDY
    with pytest.raises(RectalError, match=r"study\.toml cannot be") as refused:
        read_study(study_in(base / "study", STUDY.replace(old, new, 1)))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            DATASET,
            "Dataset501_Rectum",
            "dataset is Dataset501_Rectum, .*Did you mean Dataset501_Rectal",
        ),
        ("folds = [0, 1]", "folds = [1, 4, 7]", "folds names 4, 7, but Dataset501_Rectal has the folds 0 to 1"),
        ("nnUNetTrainerSMIT_ACT", "nnUNetTrainerSMIT_AC", r"Check trainer of the recipe ACT in .*/study\.toml against"),
        (
            'backbone = "smit"',
            'configuration = "3d_lowres"',
            "configuration is 3d_lowres, but nnUNetRectalS",
        ),
        (
            'backbone = "smit"',
            'backbone = "swin_unetr"',
            "backbone is swin_unetr, but .*/nnUNetRectalSMITPlans.json holds",
        ),
        ('backbone = "smit"', 'planner = "ExperimentPlanner"', "planner is ExperimentPlanner, but .* holds smit"),
        (
            f'{PLANS}"\nbackbone = "smit"',
            'P"\nbackbone = "swin_unetr"',
            "recipe ACT, .* needs plans with the backbone 'smit', but the plans 'P' hold the backbone 'swin_unetr'",
        ),
        (f'{PLANS}"\nbackbone = "smit"', 'P"\nplanner = "ExperimentPlanner"', "'P' were not made by rectal_nnformer"),
        (
            'backbone = "smit"',
            'backbone = "smit"\nconfiguration = "3d_fullres_cubic"',
            "recipe ACT, .*_ACT trains on the planned, anisotropic patch and refuses",
        ),
        ('backbone = "smit"', 'planner = "Experimentplanner"', "which nnU-Net does not have. Did you mean Exp"),
        (f'plans = "{PLANS}"\nepochs', 'plans = "Own"\nepochs', "recipe stock, plans is Own, but .*/Own.json does not"),
        (
            "[[recipe]]",
            '[external]\nimages = "~/a"\nmasks = "~/b"\n[[recipe]]',
            "external.images is .*/home/a, ",
        ),
        (
            "[[recipe]]",
            '[external]\nimages = "~/c"\nmasks = "~/b"\n[[recipe]]',
            ".*, which is empty",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(base, monkeypatch, capsys, old, new, message):
    monkeypatch.setenv("HOME", str(base / "home"))
    (base / "home/c").mkdir(parents=True)
    folder = study_in(base / "study", STUDY.replace(old, new, 1))
    with pytest.raises(SystemExit):
        cli.main(["study", "run", str(folder)])
    assert re.search(message, capsys.readouterr().err)
    assert not (folder / "jobs").exists()


def test_a_study_without_a_gpu_is_told_what_to_write(base, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = study_in(base / "study", STUDY.replace('device = "cpu"', 'device = "cuda"'))
    with pytest.raises(SystemExit):
        cli.main(["study", "run", str(folder)])
    told = capsys.readouterr().err
    assert f'or write device = "cpu" into {folder}/study.toml' in told and "-device" not in told


SLURM = """
engine = "slurm"
[slurm]
hours = 2
cpus = 4
partition = "gpu"
gpus = { "gpu:small:1" = 8, "gpu:large:1" = 80 }
setup = ["module load cuda"]
"""


def test_scripts_for_slurm_are_shown_without_it(base, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(base))
    (base / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json").unlink()
    text = STUDY.replace('device = "cpu"', 'device = "cuda"').replace("[[recipe]]", f"{SLURM}[[recipe]]", 1)
    text = text.replace('epochs = "own"', 'backbone = "smit"')
    cli.main(["study", "run", str(study_in(base / "study", text)), "--dry-run"])
    told = capsys.readouterr().out
    plan, act, summary, *_ = told.split("#!/bin/bash")[1:]
    assert "--dependency" not in plan and "gres" not in plan and "module load cuda" in plan
    for line in ("array=0-1%2", "requeue", "time=120", "cpus-per-task=4", "partition=gpu", "signal=USR2@120"):
        assert f"#SBATCH --{line}" in act
    assert f"#SBATCH --dependency='afterok:<plan {PLANS}>'" in act
    assert "#SBATCH --gres=gpu:large:1" in act and "#SBATCH --mem=32G" in act  # not planned yet: 24 GB
    assert "afterok:<train ACT 0>:<train ACT 1>" in summary and "array" not in summary
    assert told.endswith("8 steps to do; nothing was submitted\n")
    assert not list((base / "study").glob("jobs/*.json"))
    (base / "nnUNet_preprocessed" / DATASET / f"{PLANS}.json").write_text(json.dumps(plans()))
    cli.main(["study", "run", str(base / "study"), "--dry-run"])
    assert "#SBATCH --gres=gpu:small:1" in capsys.readouterr().out  # the plans take 7 GB
    with pytest.raises(SystemExit):
        cli.main(["study", "run", str(base / "study")])
    assert "There is no SLURM here" in capsys.readouterr().err


@pytest.fixture
def queue(base, monkeypatch):
    """Stand in for SLURM's commands: squeue lists the jobs that sbatch took; both can be told to fail."""
    listed = """seq -f "%g $(cat state)" 1 "$(cat jobs)\""""
    for name, answer in (("squeue", listed), ("sbatch", "echo Submitted batch job $(cat jobs)")):
        count_up = "echo $(($(cat jobs) + 1)) > jobs; " if name == "sbatch" else ""
        script = base / name
        script.write_text(
            f"#!/bin/sh\ncd {base}\n[ -s {name}.fails ] && cat {name}.fails >&2 && exit 1\n{count_up}{answer}\n"
        )
        script.chmod(0o755)
    (base / "jobs").write_text("0")
    (base / "state").write_text("PENDING")
    shutil.copy(base / "squeue", base / "srun")
    monkeypatch.setenv("PATH", f"{base}:{os.environ['PATH']}")
    return lambda name: base / f"{name}.fails"


def test_jobs_in_the_queue_are_matched_by_model_and_step(base, queue, capsys):
    def submitted(**changed):
        text = STUDY.replace("[[recipe]]", '[slurm]\narray = "0"\n[[recipe]]', 1).replace(
            "folds = [0, 1]", "folds = [0]"
        )
        cli.main(["study", "run", str(study_in(base / "study", text, engine="slurm", **changed))])
        return [line.split(": job ")[0] for line in capsys.readouterr().out.splitlines() if ": job " in line]

    assert submitted() == ["train ACT", "summarize ACT", "train stock", "summarize stock", "page"]
    assert submitted() == []
    # The same steps, of another model: stock keeps the length of its own.
    assert submitted(epochs=3) == ["train ACT", "summarize ACT"]
    assert submitted(epochs=3) == []


def test_status_tells_what_waits_in_the_queue_again(base, queue, capsys):
    """A fold that was requeued was stopped before, and one that was killed, too."""
    text = STUDY.replace("folds = [0, 1]", "folds = [0]").replace("[[recipe]]", '[slurm]\narray = "0"\n[[recipe]]', 1)
    study = read_study(study_in(base / "study", text, engine="slurm"))
    record = {"model": study.model(study.recipe[0]).name, "state": "stopped"}
    jobs_folder = study.folder / "jobs"

    def told(number=1):
        cli.main(["study", "status", str(study.folder)])
        return capsys.readouterr().out.splitlines()[number]

    jobs_folder.mkdir()
    (jobs_folder / "train-ACT-0.json").write_text(json.dumps(record))
    stopped = f"{'train ACT 0':40s} not begun, stopped; the same command goes on"
    queue("squeue").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    assert told() == stopped  # nothing was submitted, so that SLURM is not asked
    queue("squeue").unlink()
    cli.main(["study", "run", str(study.folder)])
    capsys.readouterr()
    assert told() == f"{'train ACT 0':40s} not begun, waits in the queue as job 1"
    assert told(2) == f"{'summarize ACT':40s} to do, waits in the queue as job 2"
    (jobs_folder / "train-ACT-0.json").write_text(json.dumps({**record, "state": "running"}))
    (base / "state").write_text("REQUEUED")
    assert told() == f"{'train ACT 0':40s} not begun, waits in the queue as job 1"
    with run_folds.claim_log(study.model(study.recipe[0]).fold(0)):
        assert told() == f"{'train ACT 0':40s} not begun, running"
    (base / "state").write_text("COMPLETING")
    assert told() == stopped.replace("stopped", "killed")
    queue("squeue").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    assert told() == stopped.replace("stopped", "killed")
    unknown = "SLURM does not tell its queue: slurm_load_jobs error: Unable to contact slurm controller. Which jobs "
    assert told(-2) == f"{unknown}wait in it is not known. See whether 'squeue' works here, and run it again."


def test_a_missing_pretrained_file_is_told_before_anything_runs(base, capsys):
    (base / "weights/model_smit_ct10k.pth").unlink()
    (base / f"nnUNet_preprocessed/{DATASET}/{PLANS}.json").unlink()
    folder = study_in(base / "study", STUDY.replace('epochs = "own"', 'backbone = "smit"'))
    with pytest.raises(SystemExit) as ended:
        cli.main(["study", "run", str(folder)])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("rectal_nnformer study: ACT: ") and told.count("\n") == 1
    assert "model_smit_ct10k.pth" in told and "download" in told and not (folder / "jobs").exists()
    cli.main(["study", "run", str(folder), "--dry-run"])
    shown = capsys.readouterr()
    assert shown.err == told.replace("rectal_nnformer study", "WARNING") and "#SBATCH --array=0-1%2" in shown.out
    # Folds that have begun go on without it, and their file is no longer asked for.
    trained(base, "nnUNetTrainerSMIT_ACT")
    assert missing_weights(steps_of(read_study(folder))) == []


def test_what_slurm_refuses_is_one_sentence_with_its_remedy(base, queue, capsys):
    def refused():
        with pytest.raises(SystemExit):
            cli.main(["study", "run", str(study_in(base / "study", engine="slurm"))])
        return capsys.readouterr().err

    queue("sbatch").write_text(
        "sbatch: error: invalid partition: x\nsbatch: error: Batch job submission failed: No such\n"
    )
    told = "SLURM did not take train ACT: invalid partition: x; Batch job submission failed: No such"
    assert refused() == f"rectal_nnformer study: {told}. Fix [slurm] of the study, or --slurm, and run it again.\n"
    queue("squeue").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    told = "SLURM does not tell its queue: slurm_load_jobs error: Unable to contact slurm controller"
    remedy = "Nothing was submitted. See whether 'squeue' works here, and run it again."
    assert refused() == f"rectal_nnformer study: {told}. {remedy}\n"


CROSSVAL = ["crossval", "-d", "501", "-tr", "nnUNetTrainerSMIT_ACT_Scratch", "-p", PLANS]


def test_a_cross_validation_becomes_jobs_of_slurm(base, capsys):
    cli.main([*CROSSVAL, "--slurm", "partition=gpu", "hours=3", "--dry-run"])
    folds, summary = capsys.readouterr().out.split("#!/bin/bash")[1:]
    assert "#SBATCH --array=0-1%2" in folds and "#SBATCH --partition=gpu" in folds and "time=180" in folds
    assert "afterok:<train nnUNetTrainerSMIT_ACT_Scratch 0>" in summary
    for wrong, message in ((["--dry-run"], "goes with --slurm"), (["--slurm", "hours=x"], "slurm.hours")):
        with pytest.raises(SystemExit):
            cli.main([*CROSSVAL, *wrong])
        assert message in capsys.readouterr().err
    cli.main([*CROSSVAL, "--slurm", "hours=0.001", "--dry-run"])
    assert "#SBATCH --time=1\n" in capsys.readouterr().out  # 0 would be no limit


def test_memory_is_the_sum_over_all_processes():
    """Two processes that hold 100 MB each; what they share with this one is counted once."""
    hold = "import sys; held = b'x' * 10**8; print(flush=True); sys.stdin.read()"
    with jobs.most_memory() as before:
        pass
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen([sys.executable, "-c", hold], **pipes) for _ in range(2)]
    try:
        for process in processes:
            process.stdout.readline()
        with jobs.most_memory() as most:
            pass
    finally:
        for process in processes:
            process.communicate()
    assert before[0] + 0.19 < most[0] < before[0] + 0.25


def test_workers_that_a_job_forks_end_and_do_not_requeue_it(monkeypatch):
    """submitit ignores SIGTERM, by which process pools end their workers, and requeues the job on SIGUSR2."""
    requeued = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGUSR2, lambda *_: requeued.append(os.getpid()))
        with jobs._own_signals():
            with multiprocessing.get_context("fork").Pool(1) as pool:
                assert pool.apply(os.kill, (pool.apply(os.getpid), signal.SIGUSR2)) is None
                assert pool.apply(len, (requeued,)) == 0
            os.kill(os.getpid(), signal.SIGUSR2)
        assert requeued == [os.getpid()]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_plans_for_primus_are_those_of_resenc_with_a_patch_that_its_tokens_divide(base, monkeypatch):
    recipe = 'name = "Primus"\ntrainer = "nnUNet_Primus_M_Trainer"\nplans = "P"\nplanner = "primus"\n'
    study = read_study(study_in(base / "study", STUDY + "[[recipe]]\n" + recipe))
    file = base / "nnUNet_preprocessed" / DATASET / "P.json"
    called = []

    def run(command, *arguments):
        called.append(command)
        if command == "nnUNetv2_plan_experiment":
            assert arguments[2:] == ("-pl", "nnUNetPlannerResEncL", "-overwrite_plans_name", "P")
            made = plans("P")
            made["configurations"]["3d_fullres"]["patch_size"] = [20, 100, 96]
            file.write_text(json.dumps(made))

    monkeypatch.setattr(steps, "_run", run)
    step = next(step for step in steps_of(study) if step.name == "plan P")
    step.run()
    assert json.loads(file.read_text())["configurations"]["3d_fullres"]["patch_size"] == [24, 104, 96]
    # The data of these plans are there, of another planner: they are not made again.
    assert called == ["nnUNetv2_extract_fingerprint", "nnUNetv2_plan_experiment"]
    assert step.is_done()
    other = json.loads(file.read_text())
    other["configurations"]["3d_fullres"]["spacing"] = [3.0, 1.0, 1.0]
    file.write_text(json.dumps(other))
    with pytest.raises(RectalError, match=r"P and nnUNetRectalSMITPlans share the data .*, but not the target spacing"):
        step.run()
    assert not step.is_done()


LOG = """
2026-01-01 10:00:00.0: Epoch 0
2026-01-01 10:00:00.0: Epoch time: 60.0 s
2026-01-01 10:01:00.0: Epoch 1
2026-01-01 10:02:00.0: Epoch time: 80.0 s
2026-01-01 10:02:00.0: Epoch 2
"""


VALIDATION = """
2026-01-01 10:00:00.5: predicting found
2026-01-01 10:05:00.0: predicting silent
2026-01-01 10:10:00.5: Validation complete
"""


def test_status_of_a_cross_validation_tells_epochs_and_time_left(base, capsys):
    fold = trained(base, "nnUNetTrainerSMIT_ACT_Scratch") / "fold_1"
    (fold / "checkpoint_final.pth").unlink()
    (fold / "training_log_2026.txt").write_text(LOG)
    (fold / "debug.json").write_text(json.dumps({"num_epochs": "500"}))
    cli.main([*CROSSVAL, "--status"])
    first, second, summary, told = capsys.readouterr().out.splitlines()
    assert first.endswith("finished") and second.endswith("epoch 2 of 500, about 9.7 h left")
    assert summary.endswith("to do")
    left = "1 of 2 folds finished; trainings take about 9.7 h more, one after the other"
    assert told == f"{left}, and their validation"
    # The other fold tells how long the validation takes, ten minutes; this one was stopped and saved itself.
    (fold.with_name("fold_0") / "training_log_2026.txt").write_text(VALIDATION)
    with (fold / "training_log_2026.txt").open("a") as log:
        log.write("2026-01-01 10:02:30.0: Stopped by SIGTERM in epoch 2; saved. --c goes on with this epoch.\n")
    cli.main([*CROSSVAL, "--status", "--npz"])
    first, second, summary, told = capsys.readouterr().out.splitlines()
    assert first.endswith("finished, about 10 min left, to do again: no probabilities were saved (npz)")
    assert second.endswith("epoch 2 of 500, stopped by SIGTERM and saved, about 9.8 h left")
    assert told.startswith("0 of 2 folds finished; trainings take about 10.0 h more")


def test_epochs_that_were_repeated_cost_time_and_do_not_count(base):
    study = read_study(study_in(base / "study"))
    fold = study.model(study.recipe[0]).fold(0)
    fold.path.mkdir(parents=True)
    (fold.path / "training_log_1.txt").write_text(LOG)
    (fold.path / "training_log_2.txt").write_text(textwrap.dedent(LOG).replace("Epoch 2\n", "Epoch 2\n"))
    progress = fold_progress(fold)
    assert (progress.epoch, progress.seconds, progress.epochs_left_seconds) == (2, 280.0, None)
