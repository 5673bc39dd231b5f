"""Model folders as a training leaves them, with networks of random weights."""

import torch

from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.nnunet.layout import trainers_folder
from rectal_nnformer.planning.from_checkpoint import prepared_configuration, prepared_dataset_json, prepared_plans
from rectal_nnformer.utils.files import write_json

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


def set_trainers(monkeypatch):
    """Let nnU-Net find our trainers in this process."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
