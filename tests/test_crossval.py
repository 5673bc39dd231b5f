"""What a cross-validation checks before it trains, and what it summarizes without raw data or our trainers."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from checkpoints import write_checkpoint
from confidence_cases import random_cases
from report_runs import attention, reuse

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import read_evaluation, write_evaluation
from rectal_nnformer.evaluation.operating_point import read_point
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.networks.pretrained_files import md5_of
from rectal_nnformer.networks.starting_weights import write_starting_weights
from rectal_nnformer.nnunet.find_trainer import find_trainer
from rectal_nnformer.nnunet.layout import TRAINERS_VARIABLE
from rectal_nnformer.training import crossval
from rectal_nnformer.training.crossval import cross_validate

CASES = [f"case_{i}" for i in range(5)]
MODEL = {"trainer": "nnUNetTrainerSMIT_ACT_Scratch", "plans": "Plans", "device": "cpu"}


@pytest.fixture
def preprocessed(tmp_path, monkeypatch):
    """A preprocessed dataset of five cases without splits, and no raw data."""
    monkeypatch.delenv("nnUNet_raw", raising=False)
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "nnUNet_preprocessed/Dataset501_Rectal"
    for name in ("gt_segmentations", "data"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "nnUNet_results").mkdir()
    (folder / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "T2w"}})
    )
    for name, backbone in (("Plans", "smit"), ("SwinPlans", "swin_unetr")):
        arguments = {
            "backbone": backbone,
            "backbone_kwargs": {},
            "intensity_window": [[0, 1]],
            "spatial_axes": [2, 1, 0],
        }
        fullres = {
            "data_identifier": "data",
            "patch_size": [64, 128, 128],
            "spacing": [1.0, 1.0, 1.0],
            "batch_size": 2,
            "normalization_schemes": ["ZScoreNormalization"],
            "architecture": {
                "network_class_name": "rectal_nnformer.networks.adapter.PlannedNetwork",
                "arch_kwargs": arguments,
                "_kw_requires_import": [],
            },
        }
        configurations = {"3d_fullres": fullres}
        plans = {"plans_name": name, "dataset_name": folder.name, "configurations": configurations}
        (folder / f"{name}.json").write_text(json.dumps(plans))
    for case in CASES:
        write_mask(folder / f"gt_segmentations/{case}.nii.gz")
        (folder / f"data/{case}.pkl").write_bytes(b"\x80\x04}\x94.")  # an empty dictionary
    return folder


def write_mask(path):
    mask = np.zeros((6, 12, 12), dtype=np.uint8)
    mask[1:4, 3:8, 3:8] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(path))


@pytest.fixture
def trained_by_nnunet(preprocessed, monkeypatch):
    """Stand in for the trainings: each fold ends as nnU-Net leaves it, with perfect predictions."""
    trained = []

    def train(job, folds, gpus):
        splits = json.loads((preprocessed / "splits_final.json").read_text())
        for fold in folds:
            trained.append(fold)
            if job.is_finished(fold):  # left as it is
                continue
            validation = job.model.fold(fold).path / "validation"
            for case in splits[fold]["val"]:
                write_mask(validation / f"{case}.nii.gz")
            (validation / "summary.json").write_text("{}")
            write_checkpoint(job.model.fold(fold).checkpoint_final, job.model.trainer)

    monkeypatch.setattr(crossval, "train_folds", train)
    return trained


def test_folds_of_any_trainer_are_evaluated_and_summarized_without_raw_data(preprocessed, trained_by_nnunet):
    folder, summary = cross_validate("501", **MODEL)
    assert sorted(trained_by_nnunet) == [0, 1, 2, 3, 4]
    assert (summary.pooled.n_reference, summary.pooled.n_detected) == (5, 5)
    assert summary.picture_note and (folder / "crossval_summary.md").is_file()


COMMAND = ["crossval", "-d", "501", "-tr", MODEL["trainer"], "-p", "Plans", "-device", "cpu"]


def test_the_command_ends_with_a_report(preprocessed, trained_by_nnunet, tmp_path, capsys):
    model = tmp_path / "nnUNet_results/Dataset501_Rectal/nnUNetTrainerSMIT_ACT_Scratch__Plans__3d_fullres"
    model.mkdir(parents=True)
    shutil.copy(preprocessed / "dataset.json", model)
    shutil.copy(preprocessed / "Plans.json", model / "plans.json")
    cli.main(COMMAND)
    assert f"The report is {model / 'report.html'}" in capsys.readouterr().out
    assert "5 of 5 tumours detected" in (model / "report.html").read_text(encoding="utf-8")


def test_trouble_with_the_report_does_not_lose_the_result(
    preprocessed, trained_by_nnunet, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("rectal_nnformer.reporting.writing.read_scored", lambda *folders: 1 / 0)
    cli.main(COMMAND)
    printed = capsys.readouterr().out
    model = tmp_path / "nnUNet_results/Dataset501_Rectal/nnUNetTrainerSMIT_ACT_Scratch__Plans__3d_fullres"
    assert "Detected 5 of 5 lesions" in printed and (model / "crossval_summary.md").is_file()
    assert "The report could not be written (division by zero)" in printed
    assert f"rectal_nnformer report {model}" in printed


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ((), ["attention 1", "features"]),
        (("attention_dilution.json",), ["features"]),
        (("attention_dilution.json", "feature_reuse.json"), []),
    ],
)
def test_what_an_interruption_left_unmeasured_is_measured(preprocessed, trained_by_nnunet, monkeypatch, left, expected):
    model, _ = cross_validate("Dataset501_Rectal", folds=[1], **MODEL)
    pretrained = preprocessed / "weights.pt"
    pretrained.write_bytes(b"weights")
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(preprocessed))
    write_starting_weights(model / "fold_1", "pretrained", pretrained.name, md5_of(pretrained))
    for name in left:
        content = attention(0.2) if name == "attention_dilution.json" else reuse(0.9)
        (model / "fold_1/validation" / name).write_text(json.dumps(content))
    measured = []

    def measure(*arguments, device):
        measured.append("features" if arguments[-1] == pretrained else f"attention {arguments[-1].fold}")
        raise RuntimeError("nothing of it loses the result")

    monkeypatch.setattr(crossval, "dilution_of_fold", measure)
    monkeypatch.setattr(crossval, "reuse_of_fold", measure)
    _, summary = cross_validate("Dataset501_Rectal", folds=[1], **MODEL)
    assert measured == expected
    assert summary.pooled.n_detected == 1


def test_splits_are_those_that_nnunet_would_make(preprocessed, trained_by_nnunet):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cross_validate("501", **MODEL)
    assert json.loads((preprocessed / "splits_final.json").read_text()) == generate_crossval_split(CASES, 12345, 5)


def test_a_fold_named_twice_is_trained_once(preprocessed, trained_by_nnunet):
    cross_validate("501", folds=[2, 2], **MODEL)
    assert trained_by_nnunet == [2]


def test_results_of_other_folds_are_not_taken_for_finished(preprocessed, trained_by_nnunet):
    cross_validate("501", **MODEL)
    splits = json.loads((preprocessed / "splits_final.json").read_text())
    (preprocessed / "splits_final.json").write_text(json.dumps([*splits[1:], splits[0]]))
    with pytest.raises(RectalError, match="validated on other cases"):
        cross_validate("501", **MODEL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plans": "OtherPlans"}, r"OtherPlans\.json does not exist\. Plans of this dataset: Plans, SwinPlans"),
        ({"configuration": "2d"}, "has no configuration '2d', but 3d_fullres"),
        ({"folds": [5]}, r"folds 0 to 4, and no 5"),
        ({"gpus": ["0"]}, "--gpus goes with -device cuda"),
        ({"trainer": "nnUNetTrainerSMIT_ATC"}, "no trainer called nnUNetTrainerSMIT_ATC"),
        ({"trainer": "nnUNetTrainerSMIT_ACT"}, "RECTAL_NNFORMER_WEIGHTS is not set"),
        ({"trainer": "nnUNetTrainerSMIT_ACT", "plans": "SwinPlans"}, "needs plans with the backbone 'smit'"),
        ({"device": "cuda"}, "sees no GPU"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(preprocessed, trained_by_nnunet, monkeypatch, changes, message):
    monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RectalError, match=message):
        cross_validate("501", **{**MODEL, **changes})
    assert not trained_by_nnunet


def test_folds_that_could_not_be_scored_are_not_trained(preprocessed, trained_by_nnunet):
    path = preprocessed / "splits_final.json"
    path.write_text(json.dumps([{"train": CASES[1:], "val": CASES[:1]}]))
    (preprocessed / f"gt_segmentations/{CASES[0]}.nii.gz").unlink()
    with pytest.raises(RectalError, match="could be trained but not scored"):
        cross_validate("501", **MODEL, folds=[0])
    path.write_text(json.dumps([{"train": CASES[1:], "val": CASES[:1]}, {"train": [], "val": []}]))
    with pytest.raises(RectalError, match="are empty"):
        cross_validate("501", **MODEL, folds=[1])
    assert trained_by_nnunet == []


@pytest.mark.parametrize("trained_before", [False, True])
def test_folds_that_part_a_patient_are_not_trained(preprocessed, trained_by_nnunet, trained_before):
    if trained_before:
        cross_validate("501", **MODEL, folds=[0])
    (preprocessed / "patients.csv").write_text("case,patient\ncase_0,P\ncase_1,P\n")
    message = r"training and validation \(P with case_1 and case_0\)" if trained_before else "have several scans"
    with pytest.raises(RectalError, match=message):
        cross_validate("501", **MODEL)
    assert trained_by_nnunet == [0] * trained_before


def test_folds_and_patients_come_along_from_the_raw_dataset(
    preprocessed, trained_by_nnunet, tmp_path, monkeypatch, capsys
):
    raw = tmp_path / "nnUNet_raw" / preprocessed.name
    raw.mkdir(parents=True)
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    folds = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:2], "val": CASES[2:]}]
    (raw / "splits_final.json").write_text(json.dumps(folds))
    (raw / "patients.csv").write_text("case,patient\ncase_0,P\ncase_1,P\n")
    _, summary = cross_validate("501", **MODEL)
    assert json.loads((preprocessed / "splits_final.json").read_text()) == folds
    assert capsys.readouterr().out.count("was missing; that of") == 2
    assert trained_by_nnunet == [0, 1] and summary.pooled.n_patients == 4


def test_too_few_cases_for_five_folds_are_refused(preprocessed, trained_by_nnunet):
    (preprocessed / "gt_segmentations/case_0.nii.gz").unlink()
    with pytest.raises(RectalError, match="4 training cases, too few for 5 folds"):
        cross_validate("501", **MODEL)


def test_a_dataset_that_was_never_planned_says_what_to_run(preprocessed):
    with pytest.raises(RectalError, match=r"No dataset is called 502.*plan_and_preprocess"):
        cross_validate("502", **MODEL)
    for path in preprocessed.glob("*Plans.json"):
        path.unlink()
    with pytest.raises(RectalError, match=r"Plans\.json does not exist\. Run 'rectal_nnformer plan_and_preprocess'"):
        cross_validate("501", **MODEL)


def test_finished_folds_need_neither_gpu_nor_weights(preprocessed, trained_by_nnunet, monkeypatch):
    cross_validate("501", **MODEL)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cross_validate("501", **{**MODEL, "device": "cuda"})


def test_a_trainers_folder_that_cannot_be_imported_is_not_taken_for_a_missing_trainer(
    preprocessed, trained_by_nnunet, tmp_path, monkeypatch
):
    (tmp_path / "my_trainers").mkdir()
    (tmp_path / "my_trainers/broken.py").write_text("raise RuntimeError('library mismatch')")
    (tmp_path / "my_trainers/mine.py").write_text("class MyTrainer:\n    pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "my_trainers"))
    with pytest.raises(RectalError, match="MyTrainer, nnU-Net met an error: library mismatch"):
        cross_validate("501", **{**MODEL, "trainer": "MyTrainer"})


def test_looking_for_a_trainer_leaves_out_one_warning_and_sets_no_variable(tmp_path, monkeypatch, recwarn):
    (tmp_path / "my_trainers").mkdir()
    (tmp_path / "my_trainers/warning_trainer.py").write_text(
        "import warnings\n"
        "warnings.warn('`torch.jit.interface` is deprecated. Please use another.', FutureWarning)\n"
        "warnings.warn('something else is deprecated', FutureWarning)\n"
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class WarningTrainer(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "my_trainers"))
    assert find_trainer("WarningTrainer").__name__ == "WarningTrainer"
    assert os.environ[TRAINERS_VARIABLE] == str(tmp_path / "my_trainers")
    said = [str(warning.message) for warning in recwarn if warning.category is FutureWarning]
    assert "something else is deprecated" in said and not any("torch.jit.interface" in text for text in said)


# The operating point


@pytest.fixture
def scored(preprocessed, trained_by_nnunet, monkeypatch):
    """A model whose five folds are finished, of cases whose confidence is known; return its folder."""
    folder, _ = cross_validate("501", **MODEL)
    cases = random_cases(40, seed=2)[0]
    known = [case for case in cases if case.n_reference == 1 and case.candidates][:5]
    for fold in range(5):
        validation = folder / f"fold_{fold}/validation"
        (case,) = read_evaluation(validation).cases
        write_evaluation(summarize_cases([replace(known[fold], case=case.case, patient=case.patient)]), validation)
    return folder


def test_crossval_chooses_the_point_keeps_the_wish_and_takes_it_back(scored, capsys):
    cross_validate("501", **MODEL, operating_point="fp-per-case=0.5")
    told = capsys.readouterr().out
    assert "Operating point for fp-per-case=0.5: a confidence of at least" in told
    assert "masks as they are: sensitivity" in told and "nested: sensitivity" in told
    chosen = read_point(scored)
    assert chosen.wish == "fp-per-case=0.5" and chosen.n_false_positive <= 0.5 * chosen.n_cases
    cross_validate("501", **MODEL)
    assert read_point(scored) == chosen
    cross_validate("501", **MODEL, operating_point="none")
    assert read_point(scored) is None


def test_a_wish_that_is_none_is_refused_before_anything_is_trained(preprocessed, monkeypatch, capsys):
    monkeypatch.setattr(crossval, "train_folds", lambda *_: pytest.fail("trained"))
    with pytest.raises(RectalError, match="'f2' is no wish for an operating point"):
        cross_validate("501", **MODEL, operating_point="f2")
    with pytest.raises(SystemExit):
        cli.main([*COMMAND, "--operating-point", "sensitivity=2"])
    assert "no wish for an operating point" in capsys.readouterr().err


def test_without_known_confidence_there_is_no_point_and_that_is_told(preprocessed, trained_by_nnunet, capsys):
    folder, _ = cross_validate("501", **MODEL, operating_point="f1")
    assert "No operating point for f1: 5 cases without known confidence" in capsys.readouterr().out
    assert not (folder / "operating_point.json").exists()
    assert json.loads((folder / "crossval_summary.json").read_text())["n_detected"] == 5
