"""A fine-tuned checkpoint becomes a model folder that nnU-Net predicts with; other geometries are refused."""

import argparse
import json

import numpy as np
import pytest
import torch
from golden_networks import golden_shapes, with_golden_weights
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from pipeline import environment, run_here

from rectal_nnformer.cli import main
from rectal_nnformer.networks import SMIT
from rectal_nnformer.nnunet.layout import trainers_folder

torch.set_num_threads(1)
STORED = {"roi_x": 128, "roi_y": 128, "roi_z": 64, "space_x": 1.0, "space_y": 1.0, "space_z": 1.0}


def checkpoint(folder, name="smit", arguments=STORED, leave_out=(), namespace=True, classes=2):
    """A checkpoint with true names and shapes, but one element of storage for each parameter."""
    shapes = golden_shapes(name)
    shapes.update({"out.conv.conv.weight": (classes, 48, 1, 1, 1), "out.conv.conv.bias": (classes,)})
    weights = {
        f"module.{key}": torch.zeros(1).expand(shape)
        for key, shape in shapes.items()
        if not key.endswith("relative_position_index") and not key.startswith(tuple(leave_out))
    }
    stored = argparse.Namespace(**arguments) if namespace else dict(arguments)
    torch.save({"state_dict": weights, "args": stored, "epoch": 3}, folder / "model_final.pt")
    return folder / "model_final.pt"


def run_import(path, folder, *options):
    main(["weights", "import", str(path), "-o", str(folder / "model"), *options])
    return folder / "model"


@pytest.mark.slow
def test_nnunet_predicts_a_prepared_volume_as_the_published_network_does(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    network = with_golden_weights(SMIT())
    arguments = argparse.Namespace(**{**STORED, "roi_x": 64, "roi_y": 64})
    torch.save({"state_dict": network.state_dict(), "args": arguments}, tmp_path / "model_final.pt")
    folder = run_import(tmp_path / "model_final.pt", tmp_path)
    predictor = nnUNetPredictor(use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    volume = np.random.default_rng(0).uniform(0.001, 900, (1, 64, 64, 50)).astype(np.float32)
    properties = {"spacing": [1.0, 1.0, 1.0]}
    _, probabilities = predictor.predict_single_npy_array(volume, properties, None, None, True)
    padded = np.zeros((64, 64, 64), np.float32)
    padded[..., 7:57] = volume[0].clip(0, 800) / 800
    with torch.no_grad():
        expected = network(torch.from_numpy(padded).permute(2, 1, 0)[None, None]).softmax(1)[0].permute(0, 3, 2, 1)
    np.testing.assert_allclose(probabilities, expected[..., 7:57].numpy(), atol=2e-3)


@pytest.mark.parametrize("namespace", [True, False])
def test_window_and_geometry_are_stored_in_nnunets_order(tmp_path, namespace, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    path = checkpoint(tmp_path, "swin_unetr", {"roi_size": (96, 96, 64), "pixdim": [1, 1, 1.5]}, namespace=namespace)
    main(["weights", "import", str(path), "-d", "Dataset900_Prepared"])
    printed = capsys.readouterr().out
    name = "nnUNetTrainerSwinUNETR_Base__nnUNetRectalSwinUNETRPreparedPlans__3d_fullres"
    folder = tmp_path / "results/Dataset900_Prepared" / name
    plans = json.loads((folder / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert (configuration["patch_size"], configuration["spacing"]) == ([64, 96, 96], [1.5, 1, 1])
    assert configuration["normalization_schemes"] == ["NoNormalization"]
    assert configuration["architecture"]["arch_kwargs"]["intensity_window"] == [[0, 800]]
    assert plans["dataset_name"] == "Dataset900_Prepared"
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "tumor": 1}
    assert "nnUNetv2_predict -d Dataset900_Prepared" in printed
    assert str(folder / "fold_0/checkpoint_final.pth") in printed


@pytest.mark.parametrize(
    ("options", "stored", "message"),
    [
        (["--patch-size", "128", "128", "128"], STORED, "trained with the patch_size 128 128 64"),
        (["--spacing", "1", "1", "1.5"], STORED, "trained with the spacing 1 1 1"),
        ([], {"space_x": 1, "space_y": 1, "space_z": 1}, "hold no roi_x, roi_y, roi_z"),
        ([], {"roi_size": 128}, "hold no space_x, space_y, space_z"),
        ([], {**STORED, "roi_z": 96}, "multiples of 64"),
        ([], {**STORED, "roi_z": -64}, "three positive numbers"),
        ([], {**STORED, "roi_z": "deep"}, "no patch_size can be read"),
        ([], {**STORED, "a_min": -175, "a_max": 250}, "a_min, a_max = -175 250"),
    ],
)
def test_another_geometry_is_refused(tmp_path, capsys, options, stored, message):
    with pytest.raises(SystemExit) as caught:
        run_import(checkpoint(tmp_path, arguments=stored), tmp_path, *options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leave_out": ("out.",)}, "no checkpoint of a whole network"),
        ({"leave_out": ("decoder3.",)}, "missing: decoder3.transp_conv"),
        ({"leave_out": ("transformer.",)}, "no checkpoint of smit"),
        ({"classes": 1}, "1 output"),
    ],
)
def test_what_is_no_whole_network_is_refused(tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit):
        run_import(checkpoint(tmp_path, **changes), tmp_path)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["900", "nonsense"])
def test_a_missing_file_is_told_before_anything_of_the_dataset(tmp_path, capsys, dataset, monkeypatch):
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(SystemExit):
        main(["weights", "import", str(tmp_path / "absent.pt"), "-d", dataset])
    assert "absent.pt" in capsys.readouterr().err


@pytest.mark.slow
def test_an_imported_model_travels_in_nnunets_zip(tmp_path):
    """By its commands: exported from here, installed elsewhere, file by file the same, and a predictor takes it."""
    variables = environment(tmp_path)
    run_here(variables, "rectal_nnformer", "weights", "import", checkpoint(tmp_path), "-d", "Dataset900_Prepared")
    name = "Dataset900_Prepared/nnUNetTrainerSMIT_Base__nnUNetRectalSMITPreparedPlans__3d_fullres"
    options = ("-tr", "nnUNetTrainerSMIT_Base", "-p", "nnUNetRectalSMITPreparedPlans", "-c", "3d_fullres", "-f", "0")
    run_here(variables, "nnUNetv2_export_model_to_zip", "-d", "900", *options, "-o", tmp_path / "model.zip")
    elsewhere = {**variables, "nnUNet_results": str(tmp_path / "elsewhere")}
    run_here(elsewhere, "nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")
    here, there = tmp_path / "nnUNet_results" / name, tmp_path / "elsewhere" / name
    files = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(there) for path in there.rglob("*") if path.is_file())
    assert all((here / file).read_bytes() == (there / file).read_bytes() for file in files)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
        predictor.initialize_from_trained_model_folder(str(there), (0,))
    assert predictor.network.window_high.item() == 800


def test_what_the_checkpoint_does_not_say_is_given_and_nothing_is_overwritten(tmp_path, capsys):
    path = checkpoint(tmp_path, arguments={"a_min": -175, "a_max": 250}, classes=3)
    options = ("--patch-size", "128", "128", "64", "--spacing", "1", "1", "1", "--window", "0", "800")
    folder = run_import(path, tmp_path, *options)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "class_1": 1, "class_2": 2}
    with pytest.raises(SystemExit):
        run_import(path, tmp_path, *options)
    assert "is not an empty folder" in capsys.readouterr().err
