"""The console script: help without any variable, exit codes, the environment it sets."""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet import commands as nnunet_commands
from rectal_nnformer.nnunet.layout import environment_with_trainers, find_dataset

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", [None, *cli.COMMANDS, "convert nifti", "convert dicom"])
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


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """nnU-Net's folders with plans of Dataset501_Rectal and no data; the folder of these plans."""
    for name in VARIABLES[:3]:
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name / "Dataset501_Rectal").mkdir(parents=True)
    folder = tmp_path / "nnUNet_preprocessed/Dataset501_Rectal"
    (folder / "nnUNetRectalSMITPlans.json").write_text('{"configurations": {"3d_fullres": {}}}')
    return folder


@pytest.mark.parametrize(("command", "stock"), [("train", "nnUNetv2_train"), ("predict", "nnUNetv2_predict")])
def test_all_arguments_are_passed_through(command, stock, monkeypatch, planned):
    calls = []
    monkeypatch.setattr(nnunet_commands, "run_command", lambda name, arguments: calls.append((name, arguments)) or 7)
    arguments = [
        "501",
        "3d_fullres",
        "0",
        "-tr",
        "nnUNetTrainerSMIT_ACT",
        "-p",
        "nnUNetRectalSMITPlans",
        "--npz",
        "-device",
        "cpu",
        "--c",
    ]
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, *arguments])
    assert exit_.value.code == 7
    assert calls == [(stock, arguments)]


@pytest.mark.parametrize("option", [("-p", "Mine"), ("-p=Mine",), ("-pMine",)])
def test_plans_are_found_by_every_way_to_name_them(option, monkeypatch, planned):
    (planned / "Mine.json").write_text('{"configurations": {"2d": {}}}')
    monkeypatch.setattr(nnunet_commands, "run_command", lambda name, arguments: 7)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "501", "2d", "0", "-tr", "T", *option, "-pretrained_weights", "file.pth", "-device", "cpu"])
    assert exit_.value.code == 7


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


WRONG_INPUTS = {
    "plan -d 502 -b smit": "No dataset is called 502",
    "plan -d 501 -p OtherPlans": "OtherPlans.json does not exist. Plans of this dataset: nnUNetRectalSMITPlans",
    "plan_and_preprocess -d 502 -b smit": "No dataset is called 502",
    "train 502 3d_fullres 0 -tr T -p nnUNetRectalSMITPlans": "No dataset is called 502",
    "train 501 2d 0 -tr T -p nnUNetRectalSMITPlans": "has no configuration '2d', but 3d_fullres",
    "train 501 3d_fullres 0": "nnUNetPlans.json does not exist. Plans of this dataset: nnUNetRectalSMITPlans",
    "crossval -d 501 -tr T -p OtherPlans": "OtherPlans.json does not exist",
    "crossval -d 501 -tr T -p nnUNetRectalSMITPlans -c 2d": "has no configuration '2d'",
    "attention -d 502 -tr T -p P": "No dataset is called 502",
    "attention -d 501 -tr T -p OtherPlans": "OtherPlans.json does not exist",
    "evaluate -gt absent -pred .": "there is no folder absent",
    "report absent": "absent. Name a model folder",
    "compare absent elsewhere": "absent. Name a model folder",
    "feature_reuse absent absent": "is not the folder of a fold",
    "weights verify absent.pth": "There is no weights file absent.pth",
    "weights import absent.pth --output model": "There is no weights file absent.pth",
}


@pytest.mark.parametrize(("command", "message"), WRONG_INPUTS.items())
def test_a_wrong_name_is_answered_before_anything_large_is_imported(command, message, planned):
    """Importing PyTorch and nnU-Net takes seconds; a module that is None cannot be imported."""
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'nnunetv2', 'SimpleITK', 'numpy', 'matplotlib')))\n"
        "from rectal_nnformer import cli\n"
        f"cli.main({command.split()})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rectal_nnformer.cli.crossval.run", interrupt)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["crossval", "-d", "501", "-tr", "T", "-p", "P"])
    assert exit_.value.code == 130
    assert "Interrupted. Finished folds are kept: the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *((f"plan -d 501 -b smit -gpu_memory_target {value}", "above 0") for value in ("-1", "0", "nan", "inf", "big")),
        ("plan_and_preprocess -d 501 -b smit -overwrite_target_spacing 1 0 1", "above 0, not 0"),
        ("plan_and_preprocess -d 501 -b smit -overwrite_plans_name a__b", "single '_', not a__b"),
        ("plan_and_preprocess -d 501 -b smit -overwrite_plans_name a/b", "not a/b"),
        ("plan_and_preprocess -d 501 -b smit -np 0", "whole number from 1, not 0"),
        ("plan -d 501 -b smit -npfp -1", "whole number from 1, not -1"),
        ("crossval -d 501 -tr T -p P -f 0 -1", "whole number from 0, not -1"),
        ("attention -d 501 -tr T -p P -f x", "whole number from 0, not x"),
        ("evaluate -gt a -pred b -np 0", "whole number from 1, not 0"),
        ("report a -np 0", "whole number from 1, not 0"),
        ("weights import a --output b --spacing 1 1 -1", "above 0, not -1"),
        ("weights import a --output b --patch_size 96 96 0", "whole number from 1, not 0"),
        ("weights import a --output b --window 0 inf", "must be a number, not inf"),
        ("demo --output a --seed -1", "whole number from 0, not -1"),
        ("convert nifti --images a -d 1 --name N -np 0", "whole number from 1, not 0"),
    ],
)
def test_an_impossible_value_is_refused_where_it_is_read(command, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(command.split())
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "error: argument -" in error and message in error


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
        "from rectal_nnformer import cli\n"
        "from rectal_nnformer.cli import env\n"
        "env.run = lambda _: print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n"
        "cli.main(['env'])"
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
