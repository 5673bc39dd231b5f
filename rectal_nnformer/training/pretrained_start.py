"""The pretrained file that a trainer starts from, known before nnU-Net is imported."""

from collections.abc import Mapping
from typing import Any

from rectal_nnformer.networks.pretrained_files import find_pretrained
from rectal_nnformer.nnunet import preflight
from rectal_nnformer.nnunet.layout import ModelFolder, PreprocessedDataset, find_dataset, find_plans
from rectal_nnformer.planning.backbones import BACKBONES


def start_of(trainer: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return the network whose pretrained file a trainer starts from, with the options that the trainer sets.

    None where it starts from none. A class of a user's is imported, which takes seconds.
    """
    if network := preflight.pretrained_network(trainer):
        return network, {}
    if preflight.is_of_user(trainer):
        from rectal_nnformer.nnunet.find_trainer import find_trainer
        from rectal_nnformer.training.trainer import RectalTrainer

        recipe = find_trainer(trainer)
        if issubclass(recipe, RectalTrainer) and recipe.pretrained:
            return recipe.backbone, recipe.backbone_options
    return None


def check_pretrained_file(model: ModelFolder, planned_by: str | None = None) -> None:
    """Refuse to begin a training without the file that it starts from, or with a network that none fits.

    Args:
        model: What is to be trained.
        planned_by: The backbone by which its plans will be made, where there are none yet.

    Raises:
        RectalError: The file is not there or does not fit, or there are no plans.
    """
    if start := start_of(model.trainer):
        backbone, options = start
        find_pretrained(backbone, {**_planned_arguments(model, planned_by), **options})


def _planned_arguments(model: ModelFolder, planned_by: str | None) -> Mapping[str, Any]:
    """Return the arguments of the network in plans, or in those that a backbone will make."""
    if planned_by is not None and not PreprocessedDataset.at(model.dataset).plans_file(model.plans).is_file():
        return BACKBONES[planned_by].kwargs
    from rectal_nnformer.nnunet.plans import Plans

    plans = Plans.read(find_plans(find_dataset("nnUNet_preprocessed", model.dataset), model.plans))
    network = plans.configuration(model.configuration).network
    return network.backbone_kwargs if network else {}
