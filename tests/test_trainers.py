"""nnU-Net finds our trainers by name, they refuse what they cannot train, and one fold runs through its commands."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from pipeline import run, run_here

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.adapter import NETWORK_CLASSES
from rectal_nnformer.nnunet.layout import trainers_folder
from rectal_nnformer.nnunet.names import TRAINER_FAMILIES
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.preflight import pretrained_network
from rectal_nnformer.nnunet.source import names_in
from rectal_nnformer.planning.backbones import SMALL_SMIT
from rectal_nnformer.training.data_loader import BoundedDataLoader
from rectal_nnformer.training.trainer import RectalTrainer

torch.set_num_threads(1)

RECIPES = {
    "Base": (True, False, False),
    "TA": (True, True, False),
    "ACT": (True, True, True),
    "Base_Scratch": (False, False, False),
    "ACT_Scratch": (False, True, True),
}
PLANS = "nnUNetRectalSMITSmallPlans"


@pytest.mark.parametrize(
    ("name", "backbone"), [("SMIT", "smit"), ("SwinUNETR", "swin_unetr"), ("SwinUNETRV2", "swin_unetr_v2")]
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_nnunet_finds_each_trainer_with_its_recipe(name, backbone, recipe, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    trainer = recursive_find_trainer_class_by_name(f"nnUNetTrainer{name}_{recipe}")
    assert trainer.backbone == backbone
    assert (trainer.pretrained, trainer.tumor_aware, trainer.planned_patch_only) == RECIPES[recipe]


def test_recipes_are_what_the_names_of_our_trainers_tell(monkeypatch):
    """So that what a recipe needs is known before PyTorch is imported."""
    ours = sorted(name for name in names_in(trainers_folder()) if name.startswith(tuple(TRAINER_FAMILIES.values())))
    assert len(ours) == 28
    for name in ours:
        trainer = trainer_class(name, monkeypatch)
        assert pretrained_network(name) == (trainer.backbone if trainer.pretrained else None)
        assert trainer.planned_patch_only == ("ACT" in name.split("_"))
    assert pretrained_network("nnUNetTrainerSMIT_ACT_Mine") is None


@pytest.mark.parametrize(
    ("name", "recipe", "options"),
    [
        ("SMIT_ACT_MaskedPadding", "ACT", {"mask_padding": True}),
        ("SMIT_ACT_InverseWindows", "ACT", {"window_reverse": "inverse"}),
        ("SMIT_ACT_Scratch_InverseWindows", "ACT_Scratch", {"window_reverse": "inverse"}),
        ("SwinUNETR_ACT_MaskedPadding", "ACT", {"mask_padding": True}),
        ("SwinUNETR_ACT_Scratch_CorrectedMerging", "ACT_Scratch", {"merging": "corrected"}),
        ("SwinUNETRV2_ACT_MaskedPadding", "ACT", {"mask_padding": True}),
    ],
)
def test_a_variant_builds_another_network_from_the_same_plans_and_weights(name, recipe, options, monkeypatch):
    """As prediction builds it: on the class. The numbers are those of a backbone with the variant's options."""
    variant = trainer_class(f"nnUNetTrainer{name}", monkeypatch)
    assert (variant.pretrained, variant.tumor_aware, variant.planned_patch_only) == RECIPES[recipe]
    small = SMALL_SMIT if variant.backbone == "smit" else {"feature_size": 12}
    torch.manual_seed(0)
    plain, network = built(RectalTrainer, variant.backbone, small), built(variant, variant.backbone, small)
    network.load_state_dict(plain.state_dict())
    expected = NETWORK_CLASSES[variant.backbone](1, 2, **small, **options).eval()
    expected.load_state_dict(plain.backbone.state_dict())
    patch = torch.rand(1, 1, 32, 32, 64)
    patch[:, :, 20:] = 0
    with torch.no_grad():
        logits = network(patch)
        torch.testing.assert_close(logits, xyz(expected(xyz(patch), xyz(patch) != 0)), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(logits, plain(patch), atol=1e-4)


def built(trainer, backbone, kwargs):
    """Return the network that a trainer class builds from plans; the window is [0, 1]."""
    arch_kwargs = {
        "backbone": backbone,
        "backbone_kwargs": kwargs,
        "intensity_window": [[0.0, 1.0]],
        "spatial_axes": [2, 1, 0],
    }
    configuration = SimpleNamespace(network_arch_init_kwargs=arch_kwargs)
    return trainer.build_network_architecture(None, configuration, 1, 2, enable_deep_supervision=False).eval()


def xyz(array):
    return array.permute(0, 1, 4, 3, 2)


def test_stochastic_depth_is_the_recipes_unless_the_plans_say_otherwise():
    def last_rate(network):
        return network.backbone.transformer.layers[-1].blocks[-1].drop_path.drop_prob

    assert last_rate(built(RectalTrainer, "smit", SMALL_SMIT)) == 0.1
    assert last_rate(built(RectalTrainer, "smit", {**SMALL_SMIT, "drop_path_rate": 0.3})) == 0.3


def test_trainer_modules_carry_no_name_of_an_installed_module():
    """nnU-Net imports them flat; a clash would shadow or be shadowed."""
    import importlib.util

    for path in trainers_folder().glob("*.py"):
        if path.stem != "__init__":
            assert importlib.util.find_spec(path.stem) is None


@pytest.fixture
def plans(small_dataset):
    _, base = small_dataset
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


def test_missing_weights_are_named_with_file_folder_and_variable(small_dataset, plans, monkeypatch, tmp_path):
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
    plans = copy.deepcopy(plans)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["backbone_kwargs"] = {}
    trainer = prepared(plans, small_dataset, monkeypatch, "nnUNetTrainerSMIT_Base")
    trainer.initialize()
    with pytest.raises(RectalError) as elsewhere:
        trainer.on_train_start()
    for word in (str(tmp_path), "model_smit_ct10k.pth", "RECTAL_NNFORMER_WEIGHTS"):
        assert word in str(elsewhere.value)


def test_a_file_that_does_not_fit_the_plans_is_not_asked_for(small_dataset, plans, monkeypatch, tmp_path, capsys):
    """Through the console script, as a user; the small network of these plans is no published one."""
    variables, _ = small_dataset
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
    arguments = ("7", "3d_fullres", "0", "-tr", "nnUNetTrainerSMIT_Base", "-p", PLANS, "-device", "cpu")
    with pytest.raises(SystemExit, match="2"):
        run_here({**variables, "RECTAL_NNFORMER_WEIGHTS": str(tmp_path)}, "rectal_nnformer", "train", *arguments)
    said = "".join(capsys.readouterr())
    assert "No published pretrained file fits this network" in said and "embed_dim 16, depths [2, 2]" in said
    assert "model_smit_ct10k.pth" not in said and "Traceback" not in said
    trainer = prepared(plans, small_dataset, monkeypatch, "nnUNetTrainerSMIT_Base")
    (tmp_path / "model_smit_ct10k.pth").write_bytes(b"of the user's, for this network")
    assert trainer.pretrained_file(Plans.of(plans), "3d_fullres") == tmp_path / "model_smit_ct10k.pth"


def test_a_fold_that_does_not_exist_is_refused_and_not_made_up(plans, small_dataset, monkeypatch):
    with pytest.raises(RectalError, match="has the folds 0 to 4, and no 5"):
        prepared(plans, small_dataset, monkeypatch, fold=5).do_split()


@pytest.mark.slow
def test_a_fold_trains_validates_and_tells_its_lesions(small_dataset):
    """Through the stock command, with a trainer of the user's that subclasses ours."""
    variables, base = small_dataset
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
    dilution = json.loads((fold / "validation/attention_dilution.json").read_text())
    assert {case["case"] for case in dilution["cases"]} == set(splits[0]["val"])
    assert all(case["stages"][0]["tumor_adi"] is not None for case in dilution["cases"])
    assert "Attention dilution by stage: 0: ADI" in printed
    assert "Feature reuse was not measured. The training started from random weights." in printed
    assert (fold / "checkpoint_final.pth").is_file()
    assert not list(Path(fold).glob(".*partial*"))


def prepared(plans, small_dataset, monkeypatch, name="nnUNetTrainerSMIT_ACT_Scratch", fold=0):
    """A trainer of the small dataset, ready to be asked what it would do."""
    variables, base = small_dataset
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, variables[variable])
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset_json = json.loads((base / "nnUNet_preprocessed/Dataset007_Small/dataset.json").read_text())
    trainer = trainer_class(name, monkeypatch)
    return trainer(plans, "3d_fullres", fold, dataset_json, torch.device("cpu"))


def test_folds_that_part_a_patient_are_refused_in_the_stock_command_too(plans, small_dataset, monkeypatch, tmp_path):
    trainer = prepared(plans, small_dataset, monkeypatch)
    monkeypatch.delenv("nnUNet_raw")
    cases = sorted(path.stem for path in Path(trainer.preprocessed_dataset_folder).glob("*.pkl"))
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    (tmp_path / "patients.csv").write_text(f"case,patient\n{cases[0]},P\n{cases[1]},P\n")
    with pytest.raises(RectalError, match="nnU-Net would make folds by case"):
        trainer.on_train_start()
    assert not (tmp_path / "splits_final.json").exists()
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": cases[:1]}]))
    for start in (trainer.on_train_start, trainer.do_split):
        with pytest.raises(RectalError, match=f"training and validation .P with {cases[1]} and {cases[0]}"):
            start()


def test_a_fold_that_is_being_trained_is_refused(plans, small_dataset, monkeypatch, tmp_path):
    trainer = prepared(plans, small_dataset, monkeypatch)
    trainer.output_folder = str(tmp_path)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom rectal_nnformer.utils.files import locked\n"
        "with locked(Path(sys.argv[1]), ''):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / ".training.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(RectalError, match="is being trained by another process"):
            trainer.run_training()
        holder.kill()


def test_asked_for_the_device_augments_what_the_loader_only_crops(plans, small_dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_augment_on_device", "t")
    trainer = prepared(plans, small_dataset, monkeypatch)
    trainer.initialize()
    training, validation = trainer.get_dataloaders()
    patch = tuple(trainer.configuration_manager.patch_size)
    batch = next(training)
    assert all(crop > size for crop, size in zip(batch["data"].shape[2:], patch, strict=True))
    assert next(validation)["data"].shape[2:] == patch
    augmented = trainer._augmentation(batch)
    assert augmented["data"].shape[2:] == augmented["target"].shape[2:] == patch and augmented["target"].min() == 0
    assert np.isfinite(trainer.train_step(next(training))["loss"])


def test_on_a_cpu_the_number_of_threads_is_kept_to(plans, small_dataset, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    try:
        prepared(plans, small_dataset, monkeypatch).initialize()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_recipe_reaches_loaders_optimizer_and_schedule(plans, small_dataset, monkeypatch):
    trainer = prepared(plans, small_dataset, monkeypatch)
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


def with_augmentation(plans):
    """The plans with planned ranges of the tumour-aware augmentation."""
    channels = [{"name": "T2w", "scale": [0.8, 1.3], "shift": [-0.05, 0.1]}]
    record = {"ranges": "planned", "lesion_wise": True, "channels": channels}
    return {**plans, "rectal_nnformer": {**plans["rectal_nnformer"], "augmentation": record}}


def test_the_plans_augmentation_reaches_the_loader(plans, small_dataset, monkeypatch):
    trainer = prepared(with_augmentation(plans), small_dataset, monkeypatch)
    trainer.initialize()
    training, _ = (augmenter.data_loader for augmenter in trainer.get_dataloaders())
    (tumor,) = (t.transform for t in training.transforms.transforms if "TumorIntensityTransform" in repr(t))
    assert (tumor.scale, tumor.shift, tumor.lesion_wise) == ([(0.8, 1.3)], [(-0.05, 0.1)], True)


def test_a_checkpoint_is_replaced_in_one_step(plans, small_dataset, monkeypatch):
    """A failure while it is written leaves the previous one whole and nothing beside it."""
    trainer = prepared(plans, small_dataset, monkeypatch)
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


def test_a_fold_by_other_plans_than_its_siblings_is_refused(plans, small_dataset, monkeypatch):
    trainer = prepared(plans, small_dataset, monkeypatch, fold=1)
    model = Path(trainer.output_folder_base)
    (model / "fold_0").mkdir(exist_ok=True)
    (model / "fold_0/checkpoint_final.pth").touch()
    (model / "plans.json").write_text(json.dumps({k: v for k, v in plans.items() if k != "continue_training"}))
    trainer._refuse_other_plans()
    (model / "plans.json").write_text(json.dumps(with_augmentation(plans)))
    with pytest.raises(RectalError, match="trained by other plans"):
        trainer._refuse_other_plans()
    (model / "plans.json").write_text(json.dumps({k: v for k, v in plans.items() if k != "continue_training"}))
    changed = json.loads((model / "plans.json").read_text())
    changed["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    (model / "plans.json").write_text(json.dumps(changed))
    with pytest.raises(RectalError, match="trained by other plans"):
        trainer._refuse_other_plans()
