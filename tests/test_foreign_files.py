"""What somebody sent runs nothing in our commands: pickles and checkpoints are looked at before nnU-Net opens them."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from limits import at_most
from sharing_inputs import CASES, DATA, PLANS, Runs, evil_pickle, set_folders, write_dataset

from rectal_nnformer import cli
from rectal_nnformer.analysis.tiles import PreprocessedCases
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import check_checkpoint, check_checkpoints
from rectal_nnformer.nnunet import commands
from rectal_nnformer.nnunet.case_files import check_properties, read_arrays, read_blosc2
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.training import run_folds
from rectal_nnformer.training.crossval import cross_validate
from rectal_nnformer.utils import pickles

TRAINER = "nnUNetTrainer"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A preprocessed dataset whose plans are whole."""
    folder = write_dataset(set_folders(monkeypatch, tmp_path))
    (folder / "patients.csv").unlink()  # where all are one patient
    path = folder / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["ZScoreNormalization"]
    del plans["configurations"]["3d_fullres"]["architecture"]
    path.write_text(json.dumps(plans))
    return folder


@pytest.fixture
def executed(tmp_path):
    """A file that is there if anything was executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def run(monkeypatch):
    """Commands of nnU-Net that were run, none of which is."""
    calls = []
    monkeypatch.setattr(commands, "run_command", lambda name, arguments: calls.append(name) or 0)
    monkeypatch.setattr(run_folds, "train_fold", lambda fold, arguments: calls.append("train") or 0)
    return calls


@pytest.fixture
def model(dataset, tmp_path):
    """A trained model of the dataset with one fold."""
    folder = ModelFolder(tmp_path / "nnUNet_results", dataset.name, TRAINER, PLANS, "3d_fullres")
    folder.fold(0).path.mkdir(parents=True)
    weights = {"network_weights": {"a": torch.ones(3)}, "trainer_name": TRAINER, "init_args": {"fold": 0}}
    torch.save(weights, folder.fold(0).checkpoint_final)
    shutil.copy(dataset / f"{PLANS}.json", folder.plans_file)
    shutil.copy(dataset / "dataset.json", folder.path)
    return folder


def evil_checkpoint(path, executed):
    torch.save({"network_weights": {}, "trainer_name": TRAINER, "x": Runs(executed)}, path)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def train(*options):
    return ("train", "501", "3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu", *options)


def test_arrays_are_read_without_the_properties(dataset, executed):
    (dataset / DATA / f"{CASES[0]}.pkl").write_bytes(evil_pickle(executed))
    cases = PreprocessedCases(dataset / DATA, CASES[:1], (16, 16, 16), (1.0, 1.0, 1.0), (1,))
    tile = cases.load(CASES[0])
    image, labels = read_arrays(dataset / DATA, CASES[0])
    assert torch.equal(tile.image, torch.from_numpy(image)) and torch.equal(
        tile.tumor, torch.from_numpy(labels[0] == 1)
    )


@pytest.mark.parametrize("content", [b"", b"b2frame", b"\x80\x04."])
def test_a_damaged_array_is_named(dataset, content):
    path = dataset / DATA / f"{CASES[0]}.b2nd"
    path.write_bytes(content)
    with pytest.raises(RectalError, match=rf"{CASES[0]}\.b2nd cannot be read"):
        read_arrays(dataset / DATA, CASES[0])
    path.unlink()
    with pytest.raises(RectalError, match=CASES[0]):
        read_arrays(dataset / DATA, CASES[0])


def test_a_pipe_among_properties_or_arrays_is_not_waited_for(dataset, run, capsys):
    os.mkfifo(dataset / DATA / "zz.pkl")
    os.mkfifo(dataset / DATA / "zz.b2nd")
    with at_most(seconds=60):
        assert "zz.pkl cannot be used: it is a named pipe" in refused(capsys, *train())
        with pytest.raises(RectalError, match=r"zz\.pkl cannot be used: it is a named pipe"):
            cross_validate(501, trainer=TRAINER, plans=PLANS, device="cpu")
        with pytest.raises(RectalError, match=r"zz\.b2nd cannot be read: it is a named pipe"):
            read_blosc2(dataset / DATA / "zz.b2nd")
    assert run == []


def test_properties_too_large_for_a_case_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_PICKLE_BYTES", 100)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.zeros(100)))
    with pytest.raises(RectalError, match=r"a\.pkl cannot be used: it has more than the 100 bytes"):
        check_properties(tmp_path)


def test_an_array_that_is_an_expression_is_not_opened(tmp_path):
    for name in (b"b2o", b"proxy-source", b"LazyArray"):
        (tmp_path / "a.b2nd").write_bytes(b"\x9e\xa8b2frame\0" + name)
        with pytest.raises(RectalError, match="what opening it would evaluate"):
            read_blosc2(tmp_path / "a.b2nd")


def test_an_array_of_objects_is_not_unpickled(tmp_path, executed):
    np.save(tmp_path / "a.npy", np.array([Runs(executed)], dtype=object), allow_pickle=True)
    with pytest.raises(RectalError, match="allow_pickle=False"):
        read_arrays(tmp_path, "a")


def test_train_and_crossval_refuse_properties_that_run_code(dataset, executed, run, capsys):
    check_properties(dataset / DATA)
    (dataset / DATA / f"{CASES[2]}.pkl").write_bytes(evil_pickle(executed))
    assert f"{CASES[2]}.pkl was not opened: it names pathlib.Path.touch" in refused(capsys, *train())
    with pytest.raises(RectalError, match=rf"{CASES[2]}\.pkl was not opened"):
        cross_validate(501, trainer=TRAINER, plans=PLANS, device="cpu")
    assert run == []


def test_train_and_crossval_refuse_checkpoints_that_run_code(dataset, model, executed, run, capsys):
    model.fold(0).checkpoint_final.unlink()
    evil_checkpoint(model.fold(0).path / "checkpoint_latest.pth", executed)
    assert "checkpoint_latest.pth cannot be read as weights: it holds an object" in refused(capsys, *train("--c"))
    with pytest.raises(RectalError, match=r"checkpoint_latest\.pth cannot be read as weights"):
        cross_validate(501, trainer=TRAINER, plans=PLANS, device="cpu")
    assert run == []


def test_predict_refuses_checkpoints_that_run_code(model, executed, run, tmp_path, capsys, monkeypatch):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a_0000.nii.gz").touch()
    monkeypatch.setattr("rectal_nnformer.prediction.run.predict", lambda job: run.append("predict") or 0)
    folders = ("-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out"))
    command = ("predict", *folders, "-d", "501", "-tr", TRAINER, "-p", PLANS, "-f", "0", "-device", "cpu")
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)
    assert (exit_.value.code, run.pop()) == (0, "predict")
    evil_checkpoint(model.fold(0).checkpoint_final, executed)
    assert "it holds an object of the type" in refused(capsys, *command)
    assert run == []


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_checkpoint_of_the_old_format_is_looked_at_too(model, executed, protocol):
    path = model.fold(0).path / "checkpoint_latest.pth"
    path.write_bytes(pickle.dumps(Runs(executed), protocol))
    for check in (lambda: check_checkpoint(path), lambda: check_checkpoints(model.fold(0))):
        with pytest.raises(RectalError, match=r"checkpoint_latest\.pth cannot be read as weights"):
            check()


def test_a_checkpoint_that_ends_early_is_left_to_the_training(model):
    path = model.fold(0).path / "checkpoint_latest.pth"
    path.write_bytes(model.fold(0).checkpoint_final.read_bytes()[:-100])
    check_checkpoints(model.fold(0))
    path.write_bytes(b"")
    check_checkpoints(model.fold(0))


def test_data_outside_of_the_dataset_are_not_trained_on(dataset, run, capsys):
    path = dataset / f"{PLANS}.json"
    path.write_text(path.read_text().replace(DATA, f"../{DATA}"))
    assert f"their data_identifier is '../{DATA}', which is no folder in that of the dataset" in refused(
        capsys, *train()
    )
    with pytest.raises(RectalError, match="data_identifier"):
        cross_validate(501, trainer=TRAINER, plans=PLANS, device="cpu")
    assert run == []


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        (
            {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {"conv_op": "torch.nn.modules.conv.Conv3d", "nonlin": "subprocess.Popen"},
                "_kw_requires_import": ["conv_op", "nonlin"],
            },
            "subprocess.Popen",
        ),
        ({"network_class_name": "subprocess.Popen", "arch_kwargs": {}, "_kw_requires_import": []}, "subprocess.Popen"),
        (
            {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {"nonlin": "torch.os.system"},
                "_kw_requires_import": ["nonlin"],
            },
            "torch.os.system",
        ),
    ],
)
def test_plans_name_nothing_but_networks_and_layers(dataset, model, run, tmp_path, capsys, architecture, named):
    """nnU-Net imports and calls what they name."""
    for path in (dataset / f"{PLANS}.json", model.plans_file):
        plans = json.loads(path.read_text())
        plans["configurations"]["3d_fullres"]["architecture"] = architecture
        path.write_text(json.dumps(plans))
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a_0000.nii.gz").touch()
    names = ("-tr", TRAINER, "-p", PLANS, "-device", "cpu")
    folders = ("-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out"))
    for command in (("train", "501", "3d_fullres", "0"), ("crossval", "-d", "501"), ("predict", *folders, "-d", "501")):
        fold = ("-f", "0") if command[0] == "predict" else ()
        assert f"names {named}, which is no layer" in refused(capsys, *command, *names, *fold)
    assert run == []


def test_plans_of_nnunets_own_networks_are_taken():
    layers = {"conv_op": "torch.nn.modules.conv.Conv3d", "nonlin": "torch.nn.LeakyReLU", "dropout_op": None}
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    settings = {"network_class_name": name, "arch_kwargs": layers, "_kw_requires_import": list(layers)}
    base = {"patch_size": [8, 8, 8], "spacing": [1, 1, 1], "batch_size": 2, "data_identifier": "data"}
    configuration = {**base, "normalization_schemes": ["ZScoreNormalization"], "architecture": settings}
    content = {"plans_name": "P", "dataset_name": "D", "configurations": {"3d_fullres": configuration}}
    assert Plans.of(content).configuration("3d_fullres").network is None
