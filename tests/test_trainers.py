"""nnU-Net finds our trainers by name, they refuse what they cannot train, and one fold runs through its commands."""

import json
import os
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from pipeline import environment, run, write_cohort

from rectal_nnformer.errors import RectalError
from rectal_nnformer.paths import trainers_folder
from rectal_nnformer.training.data_loader import BoundedDataLoader

RECIPES = {
    "Base": (True, False, False),
    "TA": (True, True, False),
    "ACT": (True, True, True),
    "Base_Scratch": (False, False, False),
    "ACT_Scratch": (False, True, True),
}
PLANS = "nnUNetRectalSMITSmallPlans"


@pytest.mark.parametrize(("name", "backbone"), [("SMIT", "smit"), ("SwinUNETR", "swin_unetr")])
@pytest.mark.parametrize("recipe", RECIPES)
def test_nnunet_finds_each_trainer_with_its_recipe(name, backbone, recipe, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    trainer = recursive_find_trainer_class_by_name(f"nnUNetTrainer{name}_{recipe}")
    assert trainer.backbone == backbone
    assert (trainer.pretrained, trainer.tumor_aware, trainer.planned_patch_only) == RECIPES[recipe]


def test_trainer_modules_carry_no_name_of_an_installed_module():
    """nnU-Net imports them flat; a clash would shadow or be shadowed."""
    import importlib.util

    for path in trainers_folder().glob("*.py"):
        if path.stem != "__init__":
            assert importlib.util.find_spec(path.stem) is None


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A converted, planned and preprocessed dataset of six small cases; its environment and folder."""
    base = tmp_path_factory.mktemp("trainers")
    variables = environment(base)
    write_cohort(base / "cohort", 6)
    images, masks = base / "cohort/images", base / "cohort/masks"
    run(
        variables,
        "rectal_nnformer",
        "convert",
        "nifti",
        "--images",
        images,
        "--masks",
        masks,
        "-d",
        7,
        "--name",
        "Small",
    )
    run(variables, "rectal_nnformer", "plan_and_preprocess", "-d", 7, "-b", "smit_small", "-np", 1, "-npfp", 1)
    return variables, base


@pytest.fixture
def plans(planned):
    _, base = planned
    content = json.loads((base / f"nnUNet_preprocessed/Dataset007_Small/{PLANS}.json").read_text())
    return {**content, "continue_training": False}


def trainer_class(name, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    return recursive_find_trainer_class_by_name(name)


def test_act_refuses_the_cubic_configuration(plans, monkeypatch):
    with pytest.raises(RectalError, match="refuses the configuration 3d_fullres_cubic"):
        trainer_class("nnUNetTrainerSMIT_ACT", monkeypatch)(plans, "3d_fullres_cubic", 0, {})


def test_plans_of_another_backbone_are_refused(plans, monkeypatch):
    with pytest.raises(RectalError, match=r"needs plans with the backbone 'swin_unetr'.*hold the backbone 'smit'"):
        trainer_class("nnUNetTrainerSwinUNETR_Base", monkeypatch)(plans, "3d_fullres", 0, {})


def test_missing_weights_are_named_with_file_folder_and_variable(planned, tmp_path):
    variables, _ = planned
    arguments = ("7", "3d_fullres", "0", "-tr", "nnUNetTrainerSMIT_Base", "-p", PLANS, "-device", "cpu")
    unset = run(variables, "rectal_nnformer", "train", *arguments, code=1)
    assert "RECTAL_NNFORMER_WEIGHTS" in unset and "model_smit_ct10k.pth" in unset
    elsewhere = run(
        {**variables, "RECTAL_NNFORMER_WEIGHTS": str(tmp_path)}, "rectal_nnformer", "train", *arguments, code=1
    )
    assert str(tmp_path) in elsewhere and "model_smit_ct10k.pth" in elsewhere


def test_a_fold_trains_validates_and_tells_its_lesions(planned):
    """Through the stock command, with a trainer of the user's that subclasses ours."""
    variables, base = planned
    both = os.pathsep.join([str(trainers_folder()), variables["nnUNet_extTrainer"]])
    printed = run(
        {**variables, "nnUNet_extTrainer": both},
        "nnUNetv2_train",
        *("7", "3d_fullres", "0", "-tr", "ShortSMIT_CPU", "-p", PLANS, "-device", "cpu"),
    )
    fold = base / f"nnUNet_results/Dataset007_Small/ShortSMIT_CPU__{PLANS}__3d_fullres/fold_0"
    splits = json.loads((base / "nnUNet_preprocessed/Dataset007_Small/splits_final.json").read_text())
    result = json.loads((fold / "validation/lesion_detection.json").read_text())
    assert result["n_reference"] == len(splits[0]["val"]) == result["n_detected"] + result["n_missed"]
    assert {case["case"] for case in result["cases"]} == set(splits[0]["val"])
    assert f"of {result['n_reference']} lesions" in printed
    assert (fold / "validation/lesion_detection.csv").is_file()
    assert (fold / "checkpoint_final.pth").is_file()
    assert not list(Path(fold).glob(".*partial*"))


def prepared(plans, planned, monkeypatch, fold=0):
    """A trainer of the planned dataset, ready to be asked what it would do."""
    variables, base = planned
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, variables[name])
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset_json = json.loads((base / "nnUNet_preprocessed/Dataset007_Small/dataset.json").read_text())
    trainer = trainer_class("nnUNetTrainerSMIT_ACT_Scratch", monkeypatch)
    return trainer(plans, "3d_fullres", fold, dataset_json, torch.device("cpu"))


def test_the_recipe_reaches_loaders_optimizer_and_schedule(plans, planned, monkeypatch):
    trainer = prepared(plans, planned, monkeypatch)
    trainer.initialize()
    assert trainer.num_epochs == 1000 and not trainer.enable_deep_supervision
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    group = trainer.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (3e-4, 1e-5)
    trainer.lr_scheduler.step(0)
    assert group["lr"] == pytest.approx(3e-4 / 50)
    training, validation = (augmenter.data_loader for augmenter in trainer.get_dataloaders())
    assert isinstance(training, BoundedDataLoader) and isinstance(validation, BoundedDataLoader)
    names = [type(t).__name__ for t in training.transforms.transforms]
    assert {"RecordPaddingTransform", "ClampToWindowTransform", "RestorePaddingTransform"} <= set(names)
    (tumor,) = (t for t in training.transforms.transforms if "TumorIntensityTransform" in repr(t))
    assert tumor.apply_probability == 0.3
    window = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["intensity_window"]
    assert trainer.network.window_low.flatten().tolist() == pytest.approx([low for low, _ in window])


def test_a_checkpoint_is_replaced_in_one_step(plans, planned, monkeypatch):
    """A failure while it is written leaves the previous one whole and nothing beside it."""
    trainer = prepared(plans, planned, monkeypatch)
    trainer.initialize()
    path = Path(trainer.output_folder) / "checkpoint_latest.pth"
    path.write_text("previous")

    def break_off(content, filename):
        Path(filename).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(path))
    assert path.read_text() == "previous"
    assert not list(path.parent.glob(".*partial*"))


def test_a_fold_by_other_plans_than_its_siblings_is_refused(plans, planned, monkeypatch):
    trainer = prepared(plans, planned, monkeypatch, fold=1)
    model = Path(trainer.output_folder_base)
    (model / "fold_0").mkdir(exist_ok=True)
    (model / "fold_0/checkpoint_final.pth").touch()
    (model / "plans.json").write_text(json.dumps({k: v for k, v in plans.items() if k != "continue_training"}))
    trainer._refuse_other_plans()
    changed = json.loads((model / "plans.json").read_text())
    changed["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    (model / "plans.json").write_text(json.dumps(changed))
    with pytest.raises(RectalError, match="trained by other plans"):
        trainer._refuse_other_plans()
