"""The predictor against nnU-Net's own: logits, masks, and all that is written."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from limits import largest_file
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from random_models import set_trainers, write_random_model, write_stock_model_2d

from rectal_nnformer.nnunet.resampling import interpolation_orders
from rectal_nnformer.prediction import predictor, resampling
from rectal_nnformer.prediction.predictor import BatchedPredictor, predict_folder
from rectal_nnformer.prediction.resampling import resample_labels

CPU = torch.device("cpu")
TINY = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def write_scan(folder, size, spacing=(1.0, 1.0, 3.0), name="case"):
    """A bright ball in noise."""
    folder.mkdir(exist_ok=True)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size[::-1]), indexing="ij"))
    values = np.random.default_rng(0).uniform(100, 300, size[::-1]) + 500 * (np.square(grid).sum(0) < 0.5)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing(spacing)
    image.SetOrigin((5, -7, 11))
    sitk.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    return folder


def predictor_of(kind, model, folds=(0,), **options):
    made = kind(device=CPU, allow_tqdm=False, **options)
    made.initialize_from_trained_model_folder(str(model), folds)
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "classes": write_random_model(folder / "classes", TINY, folds=2),
        "regions": write_random_model(folder / "regions", TINY, labels=REGIONS),
        "thick": write_random_model(folder / "thick", TINY, force_separate_z=None, order_z=0),
        "stock": write_stock_model_2d(folder / "stock"),
        "splines": write_random_model(folder / "splines", TINY, order=3),
    }


@pytest.fixture(autouse=True)
def _trainers(monkeypatch):
    set_trainers(monkeypatch)
    monkeypatch.setattr(predictor, "cpu_count", lambda: 1)


@pytest.mark.parametrize("mirroring", [True, False])
@pytest.mark.parametrize(("size", "folds"), [((24, 18, 10), (0, 1)), ((12, 17, 5), (0,))])
def test_logits_are_those_of_nnunet(models, monkeypatch, mirroring, size, folds):
    image = torch.rand(1, *size[::-1]) * 1000
    options = {"use_mirroring": mirroring, "folds": folds}
    logits = predictor_of(BatchedPredictor, models["classes"], **options).predict_logits_from_preprocessed_data(image)
    # Its sums have half precision, in which the outermost weights of a window are all but lost.
    monkeypatch.setattr(torch, "half", torch.float32)
    expected = predictor_of(nnUNetPredictor, models["classes"], **options).predict_logits_from_preprocessed_data(image)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "size"),
    [("classes", (40, 30, 10)), ("classes", (20, 21, 4)), ("regions", (40, 20, 6)), ("thick", (20, 40, 6)),
     ("splines", (20, 21, 6)), ("stock", (30, 40, 3))],
)  # fmt: skip
def test_masks_are_those_of_nnunet(models, tmp_path, monkeypatch, model, size):
    scans = write_scan(tmp_path / "scans", size, (0.6, 0.7, 4.0))
    options = ["-f", "0", "-device", "cpu", "--disable_tta", "--disable_progress_bar"]
    assert predict_folder(models[model], ["-i", str(scans), "-o", str(tmp_path / "ours"), *options]) == 0
    monkeypatch.setattr(torch, "half", torch.float32)  # see above
    stock = predictor_of(nnUNetPredictor, models[model], use_mirroring=False)
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential([[str(scans / "case_0000.nii.gz")]], [str(tmp_path / "stock/case")])
    ours, theirs = (sitk.ReadImage(str(tmp_path / name / "case.nii.gz")) for name in ("ours", "stock"))
    for same in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
        assert getattr(ours, same)() == getattr(theirs, same)()
    mask, expected = map(sitk.GetArrayFromImage, (ours, theirs))
    assert 0 < np.mean(expected > 0) < 1
    assert np.mean(mask != expected) < 1e-4


def test_all_files_of_nnunet_are_written(models, tmp_path, monkeypatch):
    scans = write_scan(tmp_path / "scans", (16, 14, 8))
    write_scan(scans, (16, 14, 8), name="second")
    arguments = ["-i", str(scans), "-o", str(tmp_path / "ours"), "-f", "0", "1", "-device", "cpu", "--disable_tta"]
    assert predict_folder(models["classes"], [*arguments, "--save_probabilities"]) == 0
    notes = {"dataset.json", "plans.json", "predict_from_raw_data_args.json"}
    cases = {f"{case}{end}" for case in ("case", "second") for end in (".nii.gz", ".npz", ".pkl")}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == notes | cases | {"candidates"}
    assert json.loads((tmp_path / "ours/dataset.json").read_text())["labels"] == {"background": 0, "tumor": 1}
    monkeypatch.setattr(torch, "half", torch.float32)  # see above
    stock = predictor_of(nnUNetPredictor, models["classes"], (0, 1), use_mirroring=False)
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(
        [[str(scans / "second_0000.nii.gz")]], [str(tmp_path / "stock/second")], save_probabilities=True
    )
    ours, theirs = (np.load(tmp_path / name / "second.npz")["probabilities"] for name in ("ours", "stock"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    before = (tmp_path / "ours/second.nii.gz").stat().st_mtime_ns
    (tmp_path / "ours/case.nii.gz").unlink()
    assert predict_folder(models["classes"], [*arguments, "--continue_prediction"]) == 0
    assert (tmp_path / "ours/case.nii.gz").exists()
    assert (tmp_path / "ours/second.nii.gz").stat().st_mtime_ns == before


def test_a_case_that_cannot_be_written_is_named_and_the_others_go_on(models, tmp_path, capsys):
    scans, output = write_scan(tmp_path / "scans", (16, 14, 8)), tmp_path / "ours"
    write_scan(scans, (8, 8, 4), name="small")
    output.mkdir()
    (output / "case.nii.gz").touch()  # of another prediction
    arguments = ["-i", str(scans), "-o", str(output), "-f", "0", "-device", "cpu", "--disable_tta"]
    with largest_file(6_000):
        assert predict_folder(models["classes"], [*arguments, "--save_probabilities"]) == 1
    printed = capsys.readouterr().err
    assert f"File too large: '{output}/case.npz'" in printed and "Traceback" not in printed
    assert not [path for path in output.rglob("*case*") if path.is_file()]
    assert {path.name for path in output.rglob("small.*")} >= {"small.nii.gz", "small.npz", "small.pkl"}


def test_windows_of_padding_are_background_and_not_predicted(models):
    image = torch.rand(1, 8, 16, 48) * 1000
    image[..., 20:] = 0
    ours = predictor_of(BatchedPredictor, models["classes"], use_mirroring=False)
    seen = []
    ours.network.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    logits = ours.predict_logits_from_preprocessed_data(image)
    assert len(seen) == 3  # from 0, 8 and 16 on; those from 24 and 32 on are empty
    assert (logits[:, ..., 32:].argmax(0) == 0).all()
    assert logits[:, ..., 32:].softmax(0)[0].min() > 0.9999
    assert logits.isfinite().all()


def test_a_full_gpu_halves_the_batch_down_to_one_window(models, monkeypatch):
    image = torch.rand(1, 8, 18, 20) * 1000
    ours = predictor_of(BatchedPredictor, models["classes"])
    expected = ours.predict_logits_from_preprocessed_data(image)
    network, tried = ours.network, []

    class Full(torch.nn.Module):
        def forward(self, inputs):
            tried.append(len(inputs))
            if len(inputs) > most:
                raise torch.OutOfMemoryError
            return network(inputs)

    most, ours.network, ours.batch_size = 2, Full(), 8
    torch.testing.assert_close(ours.predict_logits_from_preprocessed_data(image), expected)
    assert (tried[:3], set(tried[3:])) == ([8, 4, 2], {2})
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        ours.predict_logits_from_preprocessed_data(image)


@pytest.mark.parametrize(("free", "windows"), [(100, 4), (67, 3), (31, 1)])
def test_a_batch_takes_up_to_half_of_the_free_memory_of_a_gpu(models, monkeypatch, free, windows):
    """That is what the driver says is free, and what PyTorch holds without need; a window takes 10 of it."""
    ours = predictor_of(BatchedPredictor, models["classes"])
    ours.device, held, benchmark = SimpleNamespace(type="cuda"), 20, torch.backends.cudnn.benchmark
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: held)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: held + 10)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: held + 30)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free - 30, 1000))
    with torch.no_grad():
        assert ours._fitting_batch(torch.rand(1, 1, 8, 16, 16)) == windows
    assert torch.backends.cudnn.benchmark == benchmark


def test_what_fails_is_told_by_the_exit_code(models, tmp_path, capsys):
    scans = write_scan(tmp_path / "scans", (16, 14, 8))
    (scans / "case_0000.nii.gz").write_bytes(b"")
    arguments = ["-i", str(scans), "-o", str(tmp_path / "ours"), "-f", "0", "-device", "cpu"]
    assert predict_folder(models["classes"], arguments) == 1
    assert "case_0000.nii.gz" in capsys.readouterr().err


def smooth_logits(heads, shape):
    coarse = torch.randn(1, heads, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]


@pytest.mark.parametrize("slab", [1, 2**27])
@pytest.mark.parametrize(
    ("spacing", "new_spacing", "shape", "new_shape", "options"),
    [
        ((3.0, 1.0, 1.0), (4.0, 0.5, 0.6), (12, 20, 18), (9, 40, 30), {"force_separate_z": False}),
        ((3.0, 1.0, 1.0), (6.0, 0.5, 0.5), (12, 20, 18), (6, 40, 36), {}),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), (12, 20, 18), (35, 20, 18), {"force_separate_z": None}),
        ((4.0, 1.0, 1.0), (2.8, 2.1, 0.7), (11, 20, 18), (16, 9, 27), {"force_separate_z": None, "order_z": 1}),
        ((1.0, 1.0, 4.0), (1.0, 0.8, 5.0), (20, 18, 11), (20, 22, 9), {"force_separate_z": None}),
    ],
)
@pytest.mark.parametrize("labels", [{"background": 0, "a": 1, "b": 2}, REGIONS])
def test_labels_are_those_of_nnunets_resampling(
    monkeypatch, slab, spacing, new_spacing, shape, new_shape, options, labels
):
    monkeypatch.setattr(resampling, "SLAB_BYTES", slab)
    manager = LabelManager(labels, [1, 2])
    logits = smooth_logits(manager.num_segmentation_heads, shape)
    options = {"is_seg": False, "order": 1, "order_z": 0, **options}
    named = {
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": options,
    }
    orders = interpolation_orders(named, "probabilities", spacing, new_spacing)
    expected = resample_data_or_seg_to_shape(logits.double().numpy(), new_shape, spacing, new_spacing, **options)
    expected = manager.convert_logits_to_segmentation(expected)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(resample_labels(logits, new_shape, orders, manager), expected)


def test_an_island_is_resampled_as_the_whole_volume_is():
    logits = torch.stack((torch.zeros(8, 20, 20), torch.full((8, 20, 20), -1.0)))
    logits[1, 3, 5:7, 9] = torch.tensor([2.0, 0.4])
    expected = resample_data_or_seg_to_shape(logits.numpy(), (16, 50, 31), (1, 1, 1), (1, 1, 1), order=1).argmax(0)
    manager = LabelManager({"background": 0, "tumor": 1}, None)
    assert expected.any()
    np.testing.assert_array_equal(resample_labels(logits, (16, 50, 31), (1, 1, 1), manager), expected)
    assert not resample_labels(logits * 0, (16, 50, 31), (1, 1, 1), manager).any()
