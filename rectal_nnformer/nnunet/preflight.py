"""Check what a command was given, before anything is imported that takes seconds.

Each function refuses one kind of wrong input with a RectalError that names it, what there is instead, and what to do.
Datasets are given by id or name; trainers, plans and configurations by name; folds by number, or as "all".
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import (
    ALL_CASES,
    CHECKPOINT_FINAL,
    TRAINERS_VARIABLE,
    FoldFolder,
    ModelFolder,
    PreprocessedDataset,
    check_configuration,
    dataset_number,
    dataset_prefix,
    environment_with_trainers,
    find_dataset,
    find_plans,
    folder_variables,
    is_evaluated,
    most_alike,
    planned_model,
    trainers_folder,
)
from rectal_nnformer.nnunet.names import CUBIC, IMAGE_SUFFIXES, NUM_FOLDS, TRAINER_FAMILIES
from rectal_nnformer.nnunet.source import base_trainer, names_in, stock_trainers_folder, trainer_names
from rectal_nnformer.utils.files import is_there, kind_of
from rectal_nnformer.utils.text import nearest, some

DEVICES = ("cuda", "cpu", "mps")
UNTRAINED = ("pretrained", "random")
"""Weights that need no trained fold."""


def check_training(
    dataset: str, trainer: str, plans: str, configuration: str, folds: Sequence[int] = ()
) -> ModelFolder:
    """Return the model to train; refuse what cannot be trained, as something named is not there or does not fit."""
    from rectal_nnformer.nnunet.dataset_json import read_dataset_json
    from rectal_nnformer.nnunet.plans import Plans

    preprocessed = find_dataset("nnUNet_preprocessed", dataset)
    plans_file = find_plans(preprocessed, plans)
    check_configuration(plans_file, configuration)
    read_dataset_json(PreprocessedDataset(preprocessed).dataset_json, "Plan the dataset again.")
    check_trainer(trainer)
    planned = Plans.read(plans_file).configuration(configuration)
    backbone = planned.network.backbone if planned.network else None
    check_recipe(trainer, backbone, plans, configuration, preprocessed.name)
    if backbone is not None and base_trainer(trainer) in names_in(stock_trainers_folder()):
        number = int(dataset_number(preprocessed.name))
        raise RectalError(
            f"{trainer} trains nnU-Net's own networks, but the plans '{plans}' hold the backbone '{backbone}'. Run "
            f"'nnUNetv2_plan_and_preprocess -d {number}' and name its plans with -p nnUNetPlans, or take a trainer of "
            "documentation/reference/trainers.md."
        )
    check_folds(preprocessed, folds)
    data = PreprocessedDataset(preprocessed).data_folder(planned.settings)
    if not any(data.glob("*.pkl")):
        command = "rectal_nnformer plan_and_preprocess" if backbone else f"nnUNetv2_preprocess -c {configuration}"
        option = "-p" if backbone else "-plans_name"
        raise RectalError(
            f"{preprocessed.name} has not been preprocessed for {configuration} of {plans}: {data} holds no case. Run "
            f"'{command} -d {int(dataset_number(preprocessed.name))} {option} {plans}'."
        )
    return ModelFolder.named(preprocessed.name, trainer, plans, configuration)


def _family(trainer: str) -> str | None:
    """Return the network of a trainer whose name begins as ours do."""
    return next((name for name, prefix in TRAINER_FAMILIES.items() if trainer.startswith(f"{prefix}_")), None)


def _recipe(trainer: str) -> set[str]:
    """Return the parts of the name of a trainer of ours; none of a user's, which may change what it inherits."""
    base = base_trainer(trainer)
    return set(base.split("_")) if base in names_in(trainers_folder()) else set()


def pretrained_network(trainer: str) -> str | None:
    """Return the network whose pretrained file a trainer of ours begins with.

    None where it begins with none, or where it is a class of a user's, which tells only when it is imported.
    """
    recipe = _recipe(trainer)
    return _family(trainer) if recipe and not {"Scratch", "CPU"} & recipe else None


def is_of_user(trainer: str) -> bool:
    """Whether a trainer is a class of a user's, which tells only when it is imported what it needs."""
    return base_trainer(trainer) not in names_in(trainers_folder(), stock_trainers_folder())


def check_recipe(trainer: str, backbone: str | None, plans: str, configuration: str, dataset: str) -> None:
    """Refuse plans of another network, or a patch, than a trainer takes, as it does itself; nothing is imported."""
    if (family := _family(trainer)) is not None:
        check_backbone(trainer, family, backbone, plans, dataset)
    if "ACT" in _recipe(trainer):
        check_planned_patch(trainer, configuration)


def check_planned_patch(trainer: str, configuration: str) -> None:
    """Refuse the input of pretraining for a trainer of the planned patch."""
    if configuration == CUBIC:
        raise RectalError(
            f"{trainer} trains on the planned, anisotropic patch and refuses the configuration {CUBIC}, whose "
            "patch is the pretraining input. Use the configuration 3d_fullres, or a Base or TA trainer."
        )


def settle_training_folds(dataset: str, plans: str, configuration: str) -> list[str]:
    """Refuse folds that must not be trained by, copy what did not come along, and return what to know of them."""
    from rectal_nnformer.nnunet.plans import Plans
    from rectal_nnformer.nnunet.splits import preprocessed_cases, settle_folds

    preprocessed = PreprocessedDataset.find(dataset)
    settings = Plans.read(find_plans(preprocessed.path, plans)).configuration(configuration).settings
    return settle_folds(preprocessed, preprocessed_cases(preprocessed.data_folder(settings)))


def check_trainer(name: str, given_by: str = "-tr") -> None:
    """Refuse a trainer that nnU-Net will not find. Sources are searched, nothing is imported."""
    names = trainer_names()
    if base_trainer(name) not in names and "*" not in names:
        raise RectalError(
            f"There is no trainer called {name} in nnU-Net or in {environment_with_trainers()[TRAINERS_VARIABLE]}."
            f"{nearest(name, names)} Check {given_by} against the table in documentation/reference/trainers.md."
        )


def check_backbone(trainer: str, needed: str, planned: str | None, plans: str, dataset: str) -> None:
    """Refuse plans of another network than the trainer needs; None is planned in plans that are not this project's."""
    if planned != needed:
        held = f"hold the backbone '{planned}'" if planned else "were not made by rectal_nnformer"
        raise RectalError(
            f"{trainer} needs plans with the backbone '{needed}', but the plans '{plans}' {held}. Run 'rectal_nnformer "
            f"plan_and_preprocess -d {int(dataset_number(dataset))} --backbone {needed}' and name its plans with -p."
        )


def check_folds(preprocessed: Path, folds: Sequence[int | str] = ()) -> int:
    """Return the number of folds; refuse folds that a preprocessed dataset does not have. "all" always exists."""
    path = PreprocessedDataset(preprocessed).splits
    if not is_there(path):  # nnU-Net makes its own, whatever their number
        return NUM_FOLDS
    from rectal_nnformer.nnunet.splits import read_splits

    number = len(read_splits(path))
    if outside := [fold for fold in folds if fold != ALL_CASES and int(fold) >= number]:
        raise RectalError(
            f"{preprocessed.name} has the folds 0 to {number - 1}, and no {', '.join(map(str, outside))}."
        )
    return number


def check_model(
    dataset: int | str,
    trainer: str,
    plans: str,
    configuration: str,
    folds: Sequence[str] = (),
    checkpoint: str = CHECKPOINT_FINAL,
) -> ModelFolder:
    """Return a model; refuse one that has not been trained, or not on all folds that are asked for."""
    found = find_dataset("nnUNet_results", dataset)
    model = ModelFolder(found.parent, found.name, trainer, plans, configuration)
    if not model.path.is_dir():
        present = [other.name for other in map(ModelFolder.parse, sorted(found.iterdir())) if other]
        raise RectalError(
            f"There is no model {model.path}."
            + (f" {found.name} has {some(present)}: fix -tr, -p or -c." if present else " Train it first.")
            + nearest(model.name, present)
        )
    trained = [fold.fold for fold in model.folds() if (fold.path / checkpoint).is_file()]
    if missing := [fold for fold in folds if fold not in trained]:
        remedy = f"take those that do: -f {' '.join(trained)}" if trained else "train them first"
        raise RectalError(f"{model.path} has no {checkpoint} of fold {', '.join(missing)}; {remedy}.")
    return model


def check_analysis(
    dataset: str, trainer: str, plans: str, configuration: str, folds: Sequence[str], weights: str, output: Path | None
) -> None:
    """Refuse folds or weights whose attention cannot be measured.

    Weights are "pretrained", "random" or a checkpoint; without output the folds must have been trained.
    """
    model = planned_model(dataset, trainer, plans, configuration)
    check_trainer(trainer)
    check_folds(find_dataset("nnUNet_preprocessed", dataset), folds)
    for fold in map(model.fold, folds):
        check_fold(fold, weights, output)
    if output is not None:
        check_output_folder(output)


def check_fold(fold: FoldFolder, weights: str, output: Path | None) -> None:
    """Refuse a fold that is not trained, unless there is an output, and weights that it does not have."""
    if output is None and not fold.path.is_dir():
        remedy = "Train it first" if weights not in UNTRAINED else f"For {weights} weights name a folder with -o"
        raise RectalError(f"{fold.path} does not exist: the fold is not trained. {remedy}.")
    if weights not in UNTRAINED and not (fold.path / f"{weights.removesuffix('.pth')}.pth").is_file():
        present = [path.name for path in fold.checkpoints()]
        raise RectalError(
            f"There is no {weights} in {fold.path}; checkpoints of this fold: {', '.join(present) or 'none'}. "
            f"'pretrained' and 'random' need none.{nearest(weights, (*present, *UNTRAINED))}"
        )


def named_dataset(dataset: str) -> str:
    """Return a dataset's name, given so, when it may be new, or as the id of one that nnU-Net's folders hold."""
    if re.fullmatch(r"Dataset\d{3}_\w+", dataset):
        return dataset
    if not dataset.isdecimal():
        raise RectalError(f"A dataset is called DatasetXXX_Name, XXX being three digits; got {dataset}. Fix -d.")
    folders = [Path(folder) for folder in folder_variables().values()]
    names = {path.name for folder in folders for path in folder.glob(f"{dataset_prefix(dataset)}_*")}
    if len(names) != 1:
        raise RectalError(
            f"nnU-Net's folders hold no dataset {dataset}, or more than one of that id. Give -d its whole name, "
            "DatasetXXX_Name; it may be a new one."
        )
    return names.pop()


def check_comparison(folders: Sequence[Path]) -> None:
    """Refuse folders that are not two or more different trained models."""
    different = dict.fromkeys(folder.expanduser().resolve() for folder in folders)
    for folder in different:
        ModelFolder.from_path(folder)
    if len(different) < 2 or len(different) < len(folders):
        raise RectalError("A comparison needs two or more different models. Name the model folder of each, once.")


def check_reported(folder: Path) -> None:
    """Refuse a folder that is neither a trained model's nor one that `evaluate` wrote into."""
    try:
        if not is_evaluated(folder):
            ModelFolder.from_path(folder)
    except RectalError as error:
        raise RectalError(f"{error} Or name a folder that 'rectal_nnformer evaluate' wrote into.") from None


def check_input(place: Path) -> None:
    """Refuse scans that do not exist, and an empty folder."""
    if not place.exists():
        raise RectalError(f"There is no {place}. Name by -i a folder of scans, or one scan.{most_alike(place)}")
    if place.is_dir() and not any(place.iterdir()):
        raise RectalError(f"{place} is empty. Name by -i a folder of scans, or one scan.")


def find_image(place: Path) -> Path | None:
    """Return an image file, by its name, that a folder holds or that a place is; None where there is none."""
    paths = sorted(place.iterdir()) if place.is_dir() else [place]
    images = (p for p in paths if p.name.lower().endswith(IMAGE_SUFFIXES) and not p.name.startswith("."))
    return next(images, None)


def check_file(path: Path) -> None:
    """Refuse what is no file, or does not exist."""
    if not is_there(path):
        raise RectalError(f"There is no file {path}. Check its name.{most_alike(path)}")
    if kind := kind_of(path):
        raise RectalError(f"{path} is {kind}, not a file. Name a file.")


def check_output_file(path: Path) -> None:
    """Refuse to write a file where a folder is, or below a file."""
    if path.is_dir():
        raise RectalError(f"{path} is a folder. Name a file with -o.")
    check_output_folder(path.parent)


def check_output_folder(folder: Path) -> None:
    """Refuse a folder that is a file, or below one, or that cannot be written to."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise RectalError(f"{there} is a file, not a folder. Name another place with -o.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RectalError(f"{there} cannot be written to by this user. Name another place with -o, or ask for access.")


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that holds something already."""
    check_output_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise RectalError(f"{folder} exists and is not an empty folder. Name a new one with -o.")


def check_gpus(gpus: Sequence[str | None], device: str) -> None:
    """Refuse GPUs for a device that is none."""
    if any(gpus) and device != "cuda":
        raise RectalError(f"--gpus goes with -device cuda, not with -device {device}.")


def check_device(device: str, remedy: str = "give -device cpu") -> None:
    """Refuse a device that does not exist, or a GPU that is not there. Imports PyTorch, so check all else first."""
    if device not in DEVICES:
        raise RectalError(
            f"There is no device {device}, but {', '.join(DEVICES)}.{nearest(device, DEVICES)} Fix -device."
        )
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise RectalError(
                f"PyTorch sees no GPU on this machine. Check the driver and CUDA_VISIBLE_DEVICES, or {remedy}: "
                "there a prediction takes longer, and the training of full-size networks takes days."
            )
