"""The console script: help without any variable, exit codes, the environment it sets."""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from rectal_nnformer import cli, nnunet_commands
from rectal_nnformer.errors import RectalError
from rectal_nnformer.paths import environment_with_trainers, find_dataset

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


@pytest.mark.parametrize(("command", "stock"), [("train", "nnUNetv2_train"), ("predict", "nnUNetv2_predict")])
def test_all_arguments_are_passed_through(command, stock, monkeypatch):
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


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rectal_nnformer.cli.crossval.run", interrupt)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["crossval", "-d", "501", "-tr", "T", "-p", "P"])
    assert exit_.value.code == 130
    assert "Interrupted. Finished folds are kept: the same command goes on" in capsys.readouterr().err


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
