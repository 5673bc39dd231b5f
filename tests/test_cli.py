"""The console script: help without any variable, exit codes, the environment it sets."""

import argparse
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet import commands as nnunet_commands
from rectal_nnformer.nnunet.layout import environment_with_trainers, find_dataset
from rectal_nnformer.nnunet.preflight import check_file, check_output_folder, check_trainer
from rectal_nnformer.nnunet.source import add_options, trainer_names
from rectal_nnformer.training import run_folds

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


COMMANDS = [command.name for command in cli.COMMANDS]
ACTIONS = ["convert nifti", "convert dicom", "weights list", "weights verify", "weights import"]


@pytest.mark.parametrize("command", [None, *COMMANDS, *ACTIONS])
def test_help_needs_no_variables_and_exits_0(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*(command or "").split(), "--help"])
    assert exit_.value.code == 0
    assert "usage: rectal_nnformer" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["export_dataset", "import_dataset", "export_model", "import_model", "inspect"])
def test_help_says_what_each_argument_is_and_where_is_written(command):
    (commands,) = [action for action in cli.build_parser()._actions if isinstance(action.choices, dict)]
    parser = commands.choices[command]
    assert [action.dest for action in parser._actions if not action.help] == []
    described = " ".join(parser.description.split())
    assert any(word in described for word in ("Writes nnUNet_", "and writes FILE", "Nothing is written"))


def test_help_imports_neither_torch_nor_nnunet():
    program = "import sys; from rectal_nnformer.cli import build_parser; build_parser(); print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    ).stdout.split()
    assert not {"torch", "nnunetv2", "monai", "SimpleITK", "numpy"} & set(modules)


def exported(capsys, *arguments):
    cli.main(["env", *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("export ") for line in lines)
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


def test_env_names_exactly_one_absolute_trainers_folder(capsys):
    variables = exported(capsys)
    assert set(variables) == {"nnUNet_extTrainer"}
    folder = Path(variables["nnUNet_extTrainer"])
    assert folder.is_absolute() and (folder / "nnUNetTrainerSMIT.py").is_file()


def test_env_sets_the_three_folders_in_a_base_with_spaces(capsys, tmp_path):
    base = tmp_path / "my data"
    variables = exported(capsys, "--base", str(base))
    assert {name: variables[name] for name in VARIABLES[:3]} == {name: str(base / name) for name in VARIABLES[:3]}


def test_env_keeps_what_is_set(capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/data/raw")
    assert exported(capsys)["nnUNet_raw"] == "/data/raw"


def test_trainer_folders_of_the_user_stay_in_reach(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/home/me/trainers")
    ours, theirs = environment_with_trainers()["nnUNet_extTrainer"].split(os.pathsep)
    assert Path(ours, "nnUNetTrainerSMIT.py").is_file()
    assert theirs == "/home/me/trainers"


SMIT = ["-tr", "nnUNetTrainerSMIT_ACT", "-p", "nnUNetRectalSMITPlans"]


def make_folders(base):
    """Fill nnU-Net's folders with plans and an untrained model of Dataset501_Rectal; return the variables."""
    for name in VARIABLES[:3]:
        (base / name / "Dataset501_Rectal").mkdir(parents=True)
    folder = base / "nnUNet_preprocessed/Dataset501_Rectal"
    network = {"backbone": "smit", "backbone_kwargs": {}, "intensity_window": [[0, 1]], "spatial_axes": [2, 1, 0]}
    fullres = {
        "data_identifier": "data",
        "patch_size": [64, 128, 128],
        "spacing": [1.0, 1.0, 1.0],
        "batch_size": 2,
        "normalization_schemes": ["ZScoreNormalization"],
        "architecture": {"arch_kwargs": network},
    }
    configurations = {"3d_fullres": fullres, "3d_fullres_cubic": {"inherits_from": "3d_fullres"}}
    plans = json.dumps({"plans_name": "P", "dataset_name": folder.name, "configurations": configurations})
    (folder / "nnUNetRectalSMITPlans.json").write_text(plans)
    (folder / "data").mkdir()
    for case in "ab":
        (folder / f"data/{case}.pkl").write_bytes(b"\x80\x04}\x94.")  # an empty dictionary
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}')
    (folder / "splits_final.json").write_text('[{"train": ["a"], "val": ["b"]}]')
    fold = base / "nnUNet_results/Dataset501_Rectal/nnUNetTrainerSMIT_ACT__nnUNetRectalSMITPlans__3d_fullres/fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_final.pth").touch()
    (fold.parent / "plans.json").write_text(plans)
    return {name: str(base / name) for name in VARIABLES[:3]}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """nnU-Net's folders; the preprocessed dataset in them."""
    for name, folder in make_folders(tmp_path).items():
        monkeypatch.setenv(name, folder)
    return tmp_path / "nnUNet_preprocessed/Dataset501_Rectal"


def passed_to_nnunet(monkeypatch, *arguments):
    """Return the command of nnU-Net that a command runs, and its arguments."""
    calls = []
    monkeypatch.setattr(nnunet_commands, "run_command", lambda name, passed: calls.append((name, passed)) or 7)
    monkeypatch.setattr(run_folds, "train_fold", lambda fold, passed, _: calls.append(("nnUNetv2_train", passed)) or 7)
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 7
    return calls[0]


def test_all_arguments_are_passed_through(monkeypatch, planned):
    arguments = ["501", "3d_fullres", "0", *SMIT, "--npz", "-device", "cpu", "--c"]
    assert passed_to_nnunet(monkeypatch, "train", *arguments) == ("nnUNetv2_train", arguments)


def test_train_refuses_folds_that_part_a_patient_but_for_the_fold_all(monkeypatch, planned, capsys):
    (planned / "patients.csv").write_text("case,patient\na,P\nb,P\n")
    arguments = ["-tr", "nnUNetTrainerSMIT_ACT_Scratch", *PLANS.split(), "-device", "cpu"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "501", "0", *arguments])
    assert exit_.value.code == 2
    assert "fold 0 has 1 patient in training and validation (P with a and b)" in capsys.readouterr().err
    passed_to_nnunet(monkeypatch, "train", "501", "all", *arguments)


def test_train_refuses_cases_that_the_preprocessed_data_lack(planned, capsys):
    (planned / "data/b.pkl").unlink()
    arguments = ["-tr", "nnUNetTrainerSMIT_Base_Scratch", *PLANS.split(), "-device", "cpu"]
    for configuration in ("3d_fullres", "3d_fullres_cubic"):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["train", "501", configuration, "0", *arguments])
        assert exit_.value.code == 2
        assert "fold 0 names 1 case that are not there (b)" in capsys.readouterr().err


def test_a_dataset_that_was_planned_and_not_preprocessed_is_told(planned, capsys):
    for path in (planned / "data").iterdir():
        path.unlink()
    for command in (["train", "501", "3d_fullres", "0"], ["crossval", "-d", "501"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main([*command, "-tr", "nnUNetTrainerSMIT_ACT_Scratch", *PLANS.split(), "-device", "cpu"])
        assert exit_.value.code == 2
        told = "Run 'rectal_nnformer plan_and_preprocess -d 501 -p nnUNetRectalSMITPlans'"
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parents", "problem"),
    [
        ({"3d_fullres": "3d_fullres"}, "3d_fullres inherits from itself"),
        ({"3d_fullres": "low", "low": "3d_fullres"}, "low inherits from itself"),
        ({"3d_fullres": "low"}, "3d_fullres inherits from low, which is missing"),
    ],
)
def test_plans_that_inherit_without_end_or_from_nothing_are_refused(planned, capsys, parents, problem):
    plans = {"plans_name": "P", "dataset_name": planned.name, "configurations": {}}
    plans["configurations"] = {child: {"inherits_from": parent} for child, parent in parents.items()}
    (planned / "nnUNetRectalSMITPlans.json").write_text(json.dumps(plans))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["crossval", "-d", "501", *SMIT])
    assert exit_.value.code == 2
    assert f"the configuration {problem}). Plan the dataset again." in capsys.readouterr().err


@pytest.mark.parametrize("fold", ["0", "all"])
def test_training_has_a_default_configuration(monkeypatch, planned, fold):
    options = ["-tr", "nnUNetTrainerSMIT_ACT_Scratch", *SMIT[2:], "-device", "cpu"]
    _, passed = passed_to_nnunet(monkeypatch, "train", "501", fold, *options)
    assert passed == ["501", "3d_fullres", fold, *options]


@pytest.mark.parametrize("option", [("-p", "Mine"), ("-p=Mine",), ("-pMine",)])
def test_plans_are_found_by_every_way_to_name_them(option, monkeypatch, planned):
    plans = json.loads((planned / "nnUNetRectalSMITPlans.json").read_text())
    stock = {key: value for key, value in plans["configurations"]["3d_fullres"].items() if key != "architecture"}
    (planned / "Mine.json").write_text(json.dumps({**plans, "configurations": {"2d": stock}}))
    weights = write_checkpoint(planned / "file.pth", "Trainer")
    arguments = ["501", "2d", "0", *option, "-pretrained_weights", str(weights), "-device", "cpu"]
    assert passed_to_nnunet(monkeypatch, "train", *arguments) == ("nnUNetv2_train", arguments)


@pytest.mark.parametrize(
    ("command", "module", "entry"),
    [
        ("nnUNetv2_train", "nnunetv2.run.run_training", "run_training_entry"),
        ("nnUNetv2_predict", "nnunetv2.inference.predict_from_raw_data", "predict_entry_point"),
    ],
)
def test_options_read_from_the_source_are_those_of_nnunet(command, module, entry, monkeypatch):
    class Parsed(Exception):
        pass

    def stop(parser):
        raise Parsed(parser)

    ours = argparse.ArgumentParser()
    add_options(ours, command)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
        getattr(importlib.import_module(module), entry)()
    described = [
        [(a.option_strings, a.dest, a.nargs, a.type, a.required, type(a)) for a in parser._actions]
        for parser in (ours, parsed.value.args[0])
    ]
    assert described[0] == described[1]


def test_trainers_named_in_sources_are_those_that_nnunet_finds(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from collections import OrderedDict as Other\nclass Mine:\n    pass\nSame = Mine\n"
    )
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/__init__.py").touch()
    (tmp_path / "inside/more.py").write_text("class Deeper:\n    pass\n")
    (tmp_path / "no-package").mkdir()
    (tmp_path / "no-package/hidden.py").write_text("class Hidden:\n    pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    names = trainer_names()
    ours = ("nnUNetTrainer", "nnUNetTrainerNoMirroring", "nnUNetTrainerSMIT_ACT", "nnUNetTrainerSwinUNETRV2_Base")
    assert {*ours, "Mine", "Same", "Other", "Deeper"} <= names
    assert not {"Hidden", "*"} & names
    (tmp_path / "mine.py").write_text("from elsewhere import *\n")
    check_trainer("OfElsewhere")
    (tmp_path / "broken.py").write_text("class :\n")
    with pytest.raises(RectalError, match=r"broken\.py is not Python"):
        trainer_names()


def test_other_commands_refuse_unknown_arguments(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["env", "--bogus"])
    assert exit_.value.code == 2
    assert "--bogus" in capsys.readouterr().err


def test_a_users_error_is_one_message_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["crossval", "-d", "501", "-tr", "T", "-p", "P"])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert "nnUNet_preprocessed is not set" in error and "Traceback" not in error


SMIT_MODEL = " ".join(SMIT)
PLANS = "-p nnUNetRectalSMITPlans"
MODEL_FOLDER = "nnUNet_results/Dataset501_Rectal/nnUNetTrainerSMIT_ACT__nnUNetRectalSMITPlans__3d_fullres"
WRONG_INPUTS = {
    "plan -d 502 --backbone smit": "No dataset is called 502",
    "plan -d 501 --backbone smitt": "Did you mean smit?",
    "pretrain -d 501 -b smitt": "Did you mean smit?",
    "plan -d 501 -p nnUNetRectalPlans": "nnUNetRectalPlans.json does not exist. Plans of this dataset: "
    "nnUNetRectalSMITPlans. Fix -p, or run 'rectal_nnformer plan_and_preprocess' first. "
    "Did you mean nnUNetRectalSMITPlans?",
    "plan -d 501 --backbone smit --lesion_wise": "unrecognized arguments: --lesion_wise. Did you mean --lesion-wise?",
    "study init -d 502": "nnU-Net's folders hold no dataset 502",
    "study run nowhere": "nowhere/study.toml does not exist. Make it with 'rectal_nnformer study init -o nowhere'.",
    "study init -d 501 --external-images scans": "--external-images and --external-masks go together",
    f"crossval -d 501 {SMIT_MODEL} --dry-run": "--dry-run goes with --slurm.",
    "plan_and_preprocess -d 502 --backbone smit": "No dataset is called 502",
    "plan_and_preprocess -d Dataset501_Rektal --backbone smit": "Did you mean Dataset501_Rectal?",
    "plan_and_preprocess -d 501 --backbone swin_untr": "Did you mean swin_unetr or swin_unetr_v2?",
    "plan_and_preprocess -d 501 --backbone smit -c 3d_fulres": "Did you mean 3d_fullres",
    f"train 502 3d_fullres 0 {SMIT_MODEL}": "Did you mean 501?",
    f"train 501 2d 0 {SMIT_MODEL}": "has no configuration '2d', but 3d_fullres",
    f"train 501 3d_fulres 0 {SMIT_MODEL}": "Did you mean 3d_fullres or 3d_fullres_cubic?",
    "train 501 3d_fullres 0": "nnUNetPlans.json does not exist. Plans of this dataset: nnUNetRectalSMITPlans",
    "train 501 0 -p nnUNetRectalSMITPlans -tr nnUNetTrainerSMIT_ATC": "Did you mean nnUNetTrainerSMIT_ACT",
    "train 501 0 -p nnUNetRectalSMITPlans -tr nnUNetTrainerNoMirorring": "Did you mean nnUNetTrainerNoMirroring",
    f"train 501 0 {PLANS} -tr nnUNetTrainerSwinUNETR_ACT": "needs plans with the backbone 'swin_unetr', but the plans "
    "'nnUNetRectalSMITPlans' hold the backbone 'smit'. Run 'rectal_nnformer plan_and_preprocess -d 501 "
    "--backbone swin_unetr' and name its plans with -p",
    f"crossval -d 501 {PLANS} -tr nnUNetTrainerSwinUNETRV2_Base -c 3d_fullres_cubic": "backbone 'swin_unetr_v2'",
    f"train 501 3d_fullres first {SMIT_MODEL}": "The fold is a number or 'all', not first",
    f"train 501 0 {PLANS} -tr nnUNetTrainerSMIT_ACT_Scratch -device cdua": "no device cdua, but cuda, cpu, mps. "
    "Did you mean cuda",
    f"train 501 3d_fullres 0 {SMIT_MODEL} --val_bst": "unrecognized arguments: --val_bst. Did you mean --val_best",
    f"train 501 3d_fullres 0 {SMIT_MODEL} -pretrained_weights absent.pth": "There is no weights file absent.pth",
    f"predict -i scans -o out -d 502 {SMIT_MODEL}": "No dataset is called 502",
    f"predict -i scans -d 501 {SMIT_MODEL}": "the following arguments are required: -o",
    f"predict -i scams -o out -d 501 {SMIT_MODEL}": "There is no scams. Name by -i a folder of scans, or one scan. "
    "Did you mean scans?",
    f"predict -i scans -o file/out -d 501 {SMIT_MODEL}": "file is a file, not a folder",
    "predict -i scans -o out -d 501 -tr nnUNetTrainerSMIT_TA -p nnUNetRectalSMITPlans": "There is no model",
    f"predict -i scans -o out -d 501 {SMIT_MODEL} -f 0 1": "of fold 1; take those that do: -f 0",
    f"predict -i scans -o out -d 501 {SMIT_MODEL} -f 0 -device gpu": "There is no device gpu, but cuda, cpu, mps",
    f"predict -i scans -o out -d 501 {SMIT_MODEL} -f 0 --planes axial": "--planes chooses DICOM series, and "
    "scans/case_0000.nii.gz is none. Leave it out",
    f"predict -i scans/case_0000.nii.gz -o out -d 501 {SMIT_MODEL} -f 0 --desc t2": "--description chooses DICOM",
    f"crossval -d 501 {SMIT_MODEL} --operating-point f2": "'f2' is no wish for an operating point. Write",
    "crossval -d 501 -tr nnUNetTrainerSMIT_ACT -p OtherPlans": "OtherPlans.json does not exist",
    f"crossval -d 501 {SMIT_MODEL} -c 2d": "has no configuration '2d'",
    "crossval -d 501 -p nnUNetRectalSMITPlans -tr nnunettrainersmit_act": "Did you mean nnUNetTrainerSMIT_ACT",
    f"crossval -d 501 {SMIT_MODEL} -f 0 7": "has the folds 0 to 0, and no 7",
    f"crossval -d 501 {SMIT_MODEL} --gpus 0 1 -device cpu": "--gpus goes with -device cuda, not with -device cpu",
    f"crossval -d 501 {SMIT_MODEL} -c 3d_fullres_cubic": "refuses the configuration 3d_fullres_cubic",
    f"train 501 3d_fullres_cubic 0 {SMIT_MODEL}": "refuses the configuration 3d_fullres_cubic",
    f"crossval -d 501 {PLANS} -tr nnUNetTrainerSMIT_TA": "RECTAL_NNFORMER_WEIGHTS is not set",
    f"train 501 0 {SMIT_MODEL}": "RECTAL_NNFORMER_WEIGHTS is not set",
    f"crossval -d 501 {SMIT_MODEL} -device gpu": "there is no gpu, but cuda, cpu, mps",
    "attention -d 502 -tr T -p P": "No dataset is called 502",
    "attention -d 501 -tr T -p OtherPlans": "OtherPlans.json does not exist",
    "attention -d 501 -tr nnUNetTrainerSMIT_ATC -p nnUNetRectalSMITPlans": "Did you mean nnUNetTrainerSMIT_ACT",
    f"attention -d 501 {SMIT_MODEL} -f 3": "has the folds 0 to 0, and no 3",
    f"attention -d 501 {SMIT_MODEL} --weights pretraned": "Did you mean pretrained?",
    f"attention -d 501 {SMIT_MODEL} --weights checkpoint_best": "checkpoints of this fold: checkpoint_final.pth",
    "attention -d 501 -tr nnUNetTrainerSMIT_TA -p nnUNetRectalSMITPlans": "the fold is not trained. Train it first",
    "evaluate --gt absent --pred .": "There is no folder absent",
    "evaluate --gt scans --pred scams": "There is no folder scams. Check its name. Did you mean scans?",
    "evaluate --gt scans --pred scans -djfile absent.json": "There is no file absent.json",
    "report absent": "absent. Name a model folder",
    f"report {MODEL_FOLDER} -o scans": "scans is a folder. Name a file with -o",
    f"report {MODEL_FOLDER[:-1]}": "Did you mean nnUNetTrainerSMIT_ACT__nnUNetRectalSMITPlans__3d_fullres?",
    "compare absent elsewhere": "absent. Name a model folder",
    f"compare {MODEL_FOLDER} {MODEL_FOLDER}": "two or more different models",
    f"compare {MODEL_FOLDER}": "two or more different models",
    "feature_reuse absent absent": "is not the folder of a fold",
    f"feature_reuse {MODEL_FOLDER}/fold_0 absent.pt": "absent.pt does not exist",
    "weights verify absent.pth": "There is no weights file absent.pth",
    "weights verify weihgts.pth": "Did you mean weights.pth?",
    "weights verify weights.pth --backbone swinunetr": "Did you mean swin_unetr",
    "weights verfy weights.pth": "Did you mean verify?",
    "weights check -tr nnUNetTrainerSMIT_ATC": "Did you mean nnUNetTrainerSMIT_ACT",
    "weights fetch model_swinvit.pth": "Did you mean model_swinvit.pt",
    "weights fetch model_swinvit.pt": "RECTAL_NNFORMER_WEIGHTS is not set",
    "weights import absent.pth -o model": "There is no weights file absent.pth",
    "weights import weights.pth -o scans": "scans exists and is not an empty folder",
    "weights import weights.pth -d 502": "hold no dataset 502",
    "weights import weights.pth -d Rectal": "A dataset is called DatasetXXX_Name",
    "convert nifti --imgs scans -d 502 --name A": "unrecognized arguments: --imgs scans. Did you mean --images?",
    "convert nifti --images scans -d 502 --name A --patient p.csv": "Did you mean --patients or --test?",
    "inspect scans": "scans is a folder, not a file",
    "plan -d 501 --bakbone smit": "Did you mean --backbone?",
    f"train 501 3d_fullres 7 -tr nnUNetTrainerSMIT_ACT_Scratch {PLANS}": "has the folds 0 to 0, and no 7",
    f"train 501 3d_fullres 0 -tr nnUNetTrainer {PLANS}": "trains nnU-Net's own networks, but the plans "
    "'nnUNetRectalSMITPlans' hold the backbone 'smit'",
    "convert nifty --images scans -d 502 --name A": "Did you mean nifti?",
    "convert nifti --images scams -d 502 --name A": "There is no folder scams. Check its name. Did you mean scans?",
    "convert nifti --images scans --masks absent -d 502 --name A": "There is no folder absent",
    "convert nifti --images scans -d 502 --name A --patients absent.csv": "There is no file absent.csv",
    "convert dicom --series scans -d 1000 --name A": "must be a whole number from 1 to 999, not 1000",
    "convert dicom --series scans -d 502 --name A --planes axail": "Did you mean axial?",
    "export_dataset -d 502 -o out.zip": "No dataset is called 502",
    "export_dataset -d 501 -o out.zip -f 3": "has the folds 0 to 0, and no 3",
    "export_dataset -d 501 -o scans": "scans is a folder. Name a file with -o",
    f"export_model -d 501 -o out.zip -tr nnUNetTrainerSMIT_ATC {PLANS}": "Did you mean nnUNetTrainerSMIT_",
    f"export_model -d 501 -o out.zip {SMIT_MODEL} -f 1": "no checkpoint_final.pth of fold 1",
    f"export_model -d 501 -o file/out.zip {SMIT_MODEL}": "file is a file, not a folder",
    "import_dataset absent.zip": "There is no file absent.zip",
    "import_model weihgts.pth": "Did you mean weights.pth?",
    "inspect absent.zip": "There is no file absent.zip",
    "evidence -o file": "file is a file, not a folder",
    "evidence -o new --preset pages": "Did you mean page?",
    "demo -o scans": "scans exists and is not an empty folder",
    "demo -o new --dicom absent --rectum file": "There is no folder absent",
    "demo -o new --dicom scans --rectum absent": "There is no file absent",
    "doctor --jsn": "unrecognized arguments: --jsn. Did you mean --json?",
    "env --bse scans": "unrecognized arguments: --bse scans. Did you mean --base?",
    "inspct weights.pth": "Did you mean inspect?",
}

ANSWERING = """
import contextlib, io, json, sys
from rectal_nnformer import cli

answers = {}
for command in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            cli.main(command.split())
            code = 0
        except SystemExit as end:
            code = end.code
    large = {"torch", "nnunetv2", "monai", "SimpleITK", "numpy", "matplotlib"} & set(sys.modules)
    answers[command] = code, said.getvalue(), sorted(large)
print(json.dumps(answers))
"""
"""Runs commands one after the other; prints exit code, message and large imported modules of each."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    base = tmp_path_factory.mktemp("wrong")
    (base / "scans").mkdir()
    for name in ("scans/case_0000.nii.gz", "weights.pth", "file"):
        (base / name).touch()
    result = subprocess.run(
        [sys.executable, "-c", ANSWERING],
        input=json.dumps([*WRONG_INPUTS]),
        env={**os.environ, **make_folders(base), "RECTAL_NNFORMER_WEIGHTS": ""},
        cwd=base,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return json.loads(result.stdout)


@pytest.mark.parametrize(("command", "message"), WRONG_INPUTS.items())
def test_a_wrong_name_is_answered_before_anything_large_is_imported(command, message, answers):
    """Importing PyTorch and nnU-Net takes seconds."""
    code, said, large = answers[command]
    assert (code, large) == (2, [])
    *usage, told = said.splitlines()
    assert message in told
    assert not usage or usage[0].startswith("usage: rectal_nnformer")


def test_every_command_is_given_something_wrong():
    assert {command.split()[0] for command in WRONG_INPUTS} >= set(COMMANDS)


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    def crossval(_):
        raise KeyboardInterrupt

    (command,) = [command for command in cli.COMMANDS if command.name == "crossval"]
    monkeypatch.setattr(cli, "COMMANDS", [replace(command, run=crossval)])
    with pytest.raises(SystemExit) as exit_:
        cli.main(["crossval", "-d", "501", "-tr", "T", "-p", "P"])
    assert exit_.value.code == 130
    assert "Interrupted. Finished folds are kept: the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *(
            (f"plan -d 501 --backbone smit -gpu_memory_target {value}", "above 0")
            for value in ("-1", "0", "nan", "inf", "big")
        ),
        ("plan_and_preprocess -d 501 --backbone smit -overwrite_target_spacing 1 0 1", "above 0, not 0"),
        ("plan_and_preprocess -d 501 --backbone smit -overwrite_plans_name a__b", "single '_', not a__b"),
        ("plan_and_preprocess -d 501 --backbone smit -overwrite_plans_name a/b", "not a/b"),
        ("plan_and_preprocess -d 501 --backbone smit -np 0", "whole number from 1, not 0"),
        ("plan -d 501 --backbone smit -npfp -1", "whole number from 1, not -1"),
        ("crossval -d 501 -tr T -p P -f 0 -1", "whole number from 0, not -1"),
        ("attention -d 501 -tr T -p P -f x", "whole number from 0, not x"),
        ("evaluate --gt a --pred b -np 0", "whole number from 1, not 0"),
        ("report a -np 0", "whole number from 1, not 0"),
        ("weights import a -o b --spacing 1 1 -1", "above 0, not -1"),
        ("weights import a -o b --patch-size 96 96 0", "whole number from 1, not 0"),
        ("weights import a -o b --window 0 inf", "must be a number, not inf"),
        ("demo -o a --seed -1", "whole number from 0, not -1"),
        ("convert nifti --images a -d 1 --name N -np 0", "whole number from 1, not 0"),
        ("convert nifti --images a -d 0 --name N", "from 1 to 999, not 0"),
        ("export_dataset -d 1 -o a -f -1", "whole number from 0, not -1"),
        ("export_model -d 1 -tr T -p P -o a -f x", "whole number from 0, not x"),
    ],
)
def test_an_impossible_value_is_refused_where_it_is_read(command, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(command.split())
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "error: argument -" in error and message in error


def test_a_folder_without_permission_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(RectalError, match=f"{tmp_path} cannot be written to"):
        check_output_folder(tmp_path / "new/folder")


def test_datasets_are_found_by_id_and_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    for name in ("Dataset501_Rectal", "Dataset502_A", "Dataset502_B"):
        (tmp_path / name).mkdir()
    assert find_dataset("nnUNet_raw", 501).name == "Dataset501_Rectal"
    assert find_dataset("nnUNet_raw", "501").name == "Dataset501_Rectal"
    assert find_dataset("nnUNet_raw", "Dataset502_B").name == "Dataset502_B"
    with pytest.raises(RectalError, match="More than one"):
        find_dataset("nnUNet_raw", 502)
    with pytest.raises(RectalError, match=r"503.*Dataset501_Rectal"):
        find_dataset("nnUNet_raw", 503)


def test_commands_leave_sigterm_to_process_pools():
    """nnU-Net ends the workers that it forks by SIGTERM; a handler of Python's can miss it while they wait."""
    program = (
        "import signal\n"
        "from dataclasses import replace\n"
        "from rectal_nnformer import cli\n"
        "asked = lambda _: print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n"
        "cli.COMMANDS = [replace(cli.COMMANDS[0], run=asked, add_arguments=None)]\n"
        "cli.main([cli.COMMANDS[0].name])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8").stdout == "True\n"


@contextmanager
def handled_by(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_waiting_on_a_command_is_interrupted_by_sigterm_and_sighup(number):
    with handled_by(number, signal.SIG_DFL):
        with pytest.raises(KeyboardInterrupt), nnunet_commands.interruptible():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_DFL


def test_what_nohup_ignores_stays_ignored():
    with handled_by(signal.SIGHUP, signal.SIG_IGN), nnunet_commands.interruptible():
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_pipe_is_not_called_missing(tmp_path):
    os.mkfifo(tmp_path / "patients.csv")
    with pytest.raises(RectalError, match=r"patients\.csv is a named pipe, not a file"):
        check_file(tmp_path / "patients.csv")
