"""Model folders as a training leaves them, with networks of random weights."""

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.nnunet.layout import trainers_folder
from rectal_nnformer.planning.from_checkpoint import prepared_configuration, prepared_dataset_json, prepared_plans
from rectal_nnformer.utils.files import read_json, write_json

TRAINER = "nnUNetTrainerSMIT_Base"


def write_random_model(
    folder, options, patch_size=(16, 16, 8), spacing=(1.0, 1.0, 3.0), folds=1, labels=None, **resampling
):
    """Write a SMIT for volumes of 0 to 1000 and return its folder; sizes and mm are (x, y, z).

    `options` are those of the network, `resampling` those of the logits.
    """
    configuration = prepared_configuration("smit", patch_size, spacing, [[0.0, 1000.0]])
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["backbone_kwargs"] = options
    configuration["resampling_fn_probabilities_kwargs"] |= resampling
    plans = {**prepared_plans("smit", configuration, {"imported_from": "random numbers"}), "dataset_name": "Dataset501"}
    description = prepared_dataset_json(1, 2)
    if labels:
        description |= {"labels": labels, "regions_class_order": [1, 2]}
    heads = len(description["labels"]) - bool(labels)
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", description)
    for fold in range(folds):
        torch.manual_seed(fold)
        checkpoint = {
            "network_weights": PlannedNetwork(1, heads, **arguments).state_dict(),
            "trainer_name": TRAINER,
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}/checkpoint_final.pth")
    return folder


def write_stock_model_2d(folder):
    """Write a small U-Net of nnU-Net's own trainer for slices, normalized by their mean and deviation."""
    write_random_model(folder, {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)})
    plans = read_json(folder / "plans.json")
    network = {
        "n_stages": 2, "features_per_stage": [4, 8], "conv_op": "torch.nn.modules.conv.Conv2d", "kernel_sizes": 3,
        "strides": [1, 2], "n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1, "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d", "norm_op_kwargs": {"affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.ReLU", "nonlin_kwargs": {},
    }  # fmt: skip
    plans["configurations"]["3d_fullres"] |= {
        "patch_size": [16, 16],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    write_json(folder / "plans.json", plans)
    torch.manual_seed(0)
    built = get_network_from_plans(*plans["configurations"]["3d_fullres"]["architecture"].values(), 1, 2, True, False)
    path = folder / "fold_0/checkpoint_final.pth"
    checkpoint = {"network_weights": built.state_dict(), "trainer_name": "nnUNetTrainer"}
    torch.save({**torch.load(path), **checkpoint, "inference_allowed_mirroring_axes": (0, 1)}, path)
    return folder


def set_trainers(monkeypatch):
    """Let nnU-Net find our trainers in this process."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
