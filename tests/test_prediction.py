"""Predicting before the training, or with folds that are not there, is refused in words."""

import pytest

from rectal_nnformer import cli
from rectal_nnformer.nnunet import commands as nnunet_commands

MODEL = ["-c", "3d_fullres", "-tr", "Trainer", "-p", "Plans"]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """A folder with a scan, and results of one model with folds 0 and 2."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    for fold in (0, 2):
        folder = tmp_path / f"results/Dataset501_Rectal/Trainer__Plans__3d_fullres/fold_{fold}"
        folder.mkdir(parents=True)
        (folder / "checkpoint_final.pth").touch()
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "case_0000.nii.gz").touch()
    return scans


@pytest.fixture
def predicted(monkeypatch):
    """The calls of nnU-Net, on a machine with a GPU."""
    calls = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(nnunet_commands, "run_command", lambda name, arguments: calls.append(arguments) or 0)
    return calls


def predict(*arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["predict", *map(str, arguments)])
    return exit_.value.code


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["-tr", "Other"],
            "has Trainer__Plans__3d_fullres: fix -tr, -p or -c. Did you mean Trainer__Plans__3d_fullres?",
        ),
        (["-f", "0", "1"], "no checkpoint_final.pth of fold 1; take those that do: -f 0 2"),
        ([], "no checkpoint_final.pth of fold 1, 3, 4"),
        (["-d", "502"], "No dataset is called 502 in nnUNet_results"),
        (["-i", "elsewhere"], "elsewhere is no folder"),
    ],
)
def test_what_is_missing_is_said(scans, predicted, capsys, changes, message):
    assert predict("-i", scans, "-o", "out", "-d", "501", *MODEL, *changes) == 2
    assert message in capsys.readouterr().err
    assert not predicted


@pytest.mark.parametrize("names", [["scan.nii.gz"], ["a_0000.nii.gz", "scan.nii.gz"]])
def test_images_without_the_number_of_their_channel_are_refused(scans, predicted, capsys, names):
    folder = scans.with_name("unnumbered")
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    assert predict("-i", folder, "-o", "out", "-d", "501", *MODEL, "-f", "0") == 2
    assert "finds them: scan.nii.gz. Call them <case>_0000.nii.gz" in capsys.readouterr().err


def test_other_files_beside_the_images_are_left_alone(scans, predicted):
    for name in ("notes.txt", "mask.nrrd"):
        (scans / name).touch()
    assert predict("-i", scans, "-o", "out", "-d", "501", *MODEL, "-f", "0") == 0


def test_what_is_there_goes_to_nnunet_as_it_stands(scans, predicted):
    arguments = ["-i", str(scans), "-o", "out", "-d", "501", *MODEL, "-f", "0", "2", "--disable_tta"]
    assert predict(*arguments) == 0
    assert predicted == [arguments]


def test_incomplete_arguments_are_refused_as_nnunet_does(scans, predicted, capsys):
    assert predict("-i", scans) == 2
    assert "the following arguments are required: -o, -d" in capsys.readouterr().err
    assert not predicted


def test_the_configuration_has_a_default(scans, predicted):
    arguments = ["-i", str(scans), "-o", "out", "-d", "501", *MODEL[2:], "-f", "0", "2"]
    assert predict(*arguments) == 0
    assert predicted == [[*arguments, "-c", "3d_fullres"]]


def test_options_that_begin_like_others_are_not_taken_for_them(scans, predicted):
    arguments = ["-i", str(scans), "-o", "out", "-d", "501", *MODEL, "-f", "0", "2"]
    arguments += ["-device", "cpu", "-num_parts", "2", "-part_id", "0", "-prev_stage_predictions", "elsewhere"]
    assert predict(*arguments) == 0
    assert predicted == [arguments]


def test_a_missing_gpu_is_said_with_the_way_out(scans, predicted, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = ["-i", scans, "-o", "out", "-d", "501", *MODEL, "-f", "0"]
    assert predict(*arguments) == 2
    error = capsys.readouterr().err
    assert "PyTorch sees no GPU on this machine" in error and "give -device cpu" in error
    assert predict(*arguments, "-device", "cpu") == 0
