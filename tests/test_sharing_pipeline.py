"""A dataset and a model sent to somebody else with nnU-Net's own commands before and after, and large bundles."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.bundle_memory import measure
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from pipeline import environment, run
from sharing_inputs import unpacked

PLANS = "nnUNetRectalSMITSmallPlans"
MODEL = f"nnUNet_results/Dataset007_Small/ShortSMIT_CPU__{PLANS}__3d_fullres"
STOCK_TRAINER = """
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class ShortStockAlone(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 1
        self.num_iterations_per_epoch = 1
        self.num_val_iterations_per_epoch = 1
        self.inference_allowed_mirroring_axes = None

    def do_split(self):
        training, validation = super().do_split()
        return training, validation[:1]
"""


@pytest.fixture(scope="module")
def partner(small_dataset, tmp_path_factory):
    """Environment and folders of a partner who imported the dataset, and the bundle, with pseudonyms."""
    variables, _ = small_dataset
    for arguments in (
        ("nnUNetv2_plan_experiment", "-d", 7, "-overwrite_target_spacing", 3, 3, 3),
        ("nnUNetv2_preprocess", "-d", 7, "-c", "3d_fullres", "-np", 1),
    ):
        run(variables, *arguments)
    away = tmp_path_factory.mktemp("partner")
    bundle = away / "sent.zip"
    run(variables, "rectal_nnformer", "export_dataset", "-d", 7, "-o", bundle, "--pseudonymize")
    theirs = environment(away / "data") | {"HOME": str(away), "LOGNAME": "partner", "USER": "partner"}
    run(theirs, "rectal_nnformer", "import_dataset", bundle)
    return theirs, away / "data", bundle


@pytest.fixture(scope="module")
def trained(partner):
    """The partner's folders after training a fold with this package."""
    variables, base, _ = partner
    arguments = (7, "3d_fullres", 0, "-p", PLANS, "-tr", "ShortSMIT_CPU", "-device", "cpu")
    run(variables, "nnUNetv2_train", *arguments)
    return variables, base


def logits(folder, volume):
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    return predictor.predict_logits_from_preprocessed_data(volume)


@pytest.mark.slow
def test_no_case_name_of_the_sender_is_in_the_bundle(partner, tmp_path):
    folder = unpacked(partner[2], tmp_path / "unpacked")
    assert not [path for path in folder.rglob("*") if "case_0" in path.name]
    assert not [path for path in folder.rglob("*") if path.is_file() and b"case_0" in path.read_bytes()]


@pytest.mark.slow
def test_a_fold_is_trained_with_this_package(trained):
    _, base = trained
    assert (base / MODEL / "fold_0/validation/summary.json").is_file()
    assert (base / MODEL / "fold_0/validation/lesion_detection.json").is_file()


@pytest.mark.slow
def test_a_fold_of_stock_plans_is_trained_without_this_package(partner, tmp_path):
    variables, base, _ = partner
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers/stock_alone.py").write_text(STOCK_TRAINER)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/rectal_nnformer.py").write_text("raise ImportError('this package is not here')")
    alone = variables | {"nnUNet_extTrainer": str(tmp_path / "trainers"), "PYTHONPATH": str(tmp_path / "blocked")}
    run(alone, "nnUNetv2_train", 7, "3d_fullres", 0, "-tr", "ShortStockAlone", "-device", "cpu")
    model = base / "nnUNet_results/Dataset007_Small/ShortStockAlone__nnUNetPlans__3d_fullres"
    assert (model / "fold_0/validation/summary.json").is_file()


@pytest.mark.slow
def test_a_model_predicts_the_same_logits_after_it_was_sent(trained, small_dataset, tmp_path, monkeypatch):
    variables, base = trained
    bundle = tmp_path / "model.zip"
    options = ("-d", 7, "-tr", "ShortSMIT_CPU", "-p", PLANS)
    run(variables, "rectal_nnformer", "export_model", *options, "-o", bundle)
    third = environment(tmp_path / "third")
    run(third, "rectal_nnformer", "import_model", bundle)
    monkeypatch.setenv("nnUNet_extTrainer", third["nnUNet_extTrainer"])
    volume = torch.randn(1, 24, 60, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(base / MODEL, volume), logits(tmp_path / "third" / MODEL, volume))
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    source = small_dataset[1] / "nnUNet_raw/Dataset007_Small/imagesTr/case_00_0000.nii.gz"
    (images / source.name).write_bytes(source.read_bytes())
    arguments = ("-i", images, "-o", output, "-c", "3d_fullres", "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)
    run(third, "rectal_nnformer", "predict", *options, *arguments)
    assert (output / "case_00.nii.gz").is_file()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_bundle(tmp_path):
    """Hundreds of megabytes more in a bundle must not take tens of megabytes more of memory."""
    small_size, small = measure(tmp_path / "small", 0)
    size, large = measure(tmp_path / "large", 5e8)
    assert size - small_size > 2.5e8
    for command, (_, mebibytes) in large.items():
        assert mebibytes < small[command][1] + 64, (command, mebibytes, small[command][1])


@pytest.mark.slow
def test_plans_and_folds_of_the_partner_are_those_sent(partner, small_dataset):
    theirs, ours = (base / "nnUNet_preprocessed/Dataset007_Small" for base in (partner[1], small_dataset[1]))
    one, other = (json.loads(Path(folder / f"{PLANS}.json").read_text(encoding="utf-8")) for folder in (ours, theirs))
    for plans in (one, other):
        # These name cases, the partner's by pseudonyms.
        del plans["rectal_nnformer"]["warnings"], plans["rectal_nnformer"]["largest_lesion"]["cases"]
    assert one == other
    sizes = [
        [len(fold["val"]) for fold in json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))]
        for folder in (ours, theirs)
    ]
    assert sizes[0] == sizes[1]
