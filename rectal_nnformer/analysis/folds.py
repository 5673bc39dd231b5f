"""Networks and cases of a trained fold, found by its folder or by nnU-Net's names."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from rectal_nnformer.analysis.cases import PreprocessedCases
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.networks.pretrained import find_pretrained, load_pretrained
from rectal_nnformer.networks.starting_weights import recorded_pretrained_file
from rectal_nnformer.nnunet.find_trainer import find_trainer
from rectal_nnformer.nnunet.layout import check_fold_folder, find_dataset, nnunet_folder, plans_of_model
from rectal_nnformer.nnunet.plans import Plans

FINAL = "checkpoint_final.pth"


@dataclass(frozen=True)
class Fold:
    """One fold of a model, trained or not.

    Attributes:
        dataset: DatasetXXX_Name.
        trainer: Name of the trainer.
        plans: nnU-Net's plans.
        configuration: A configuration of the plans.
        dataset_json: nnU-Net's description of the dataset.
        fold: Number of the fold, or "all".
    """

    dataset: str
    trainer: str
    plans: Plans
    configuration: str
    dataset_json: dict[str, Any]
    fold: str

    @property
    def folder(self) -> Path:
        """The folder in which nnU-Net keeps it."""
        model = f"{self.trainer}__{self.plans.name}__{self.configuration}"
        return nnunet_folder("nnUNet_results") / self.dataset / model / f"fold_{self.fold}"

    def cases(self) -> PreprocessedCases:
        """Return the validation cases, or all for the fold "all".

        Raises:
            RectalError: The dataset is not preprocessed, or has no such fold.
        """
        preprocessed = find_dataset("nnUNet_preprocessed", self.dataset)
        configuration = self.plans.configuration(self.configuration)
        folder = preprocessed / configuration.data_identifier
        if not folder.is_dir():
            raise RectalError(f"{folder} does not exist. Preprocess the dataset with 'plan_and_preprocess'.")
        return PreprocessedCases(
            folder=folder,
            names=self._names(folder, preprocessed / "splits_final.json"),
            patch_size=configuration.patch_size,
            spacing=configuration.spacing,
            tumor_labels=tuple(tumor_labels(self.dataset_json)),
        )

    def _names(self, folder: Path, splits_file: Path) -> tuple[str, ...]:
        if self.fold == "all":
            return tuple(sorted(infer_dataset_class(str(folder)).get_identifiers(str(folder))))
        if not splits_file.is_file():
            raise RectalError(f"{splits_file} does not exist: it is not known which cases fold {self.fold} validates.")
        splits = json.loads(splits_file.read_text(encoding="utf-8"))
        if not self.fold.isdecimal() or int(self.fold) >= len(splits):
            raise RectalError(f"{self.dataset} has the folds 0 to {len(splits) - 1}; there is no fold {self.fold}.")
        return tuple(sorted(splits[int(self.fold)]["val"]))

    def network(self, weights: str = FINAL) -> tuple[str, PlannedNetwork]:
        """Return what the weights are called, and the network with them.

        Args:
            weights: "random" (the same ones every time), "pretrained" (the file that the fold started from; for an
                untrained fold, or one from random weights, the file of its backbone), or a checkpoint of the fold.

        Raises:
            RectalError: There are no such weights, or the trainer is none of this project's.
        """
        network = self._random_network()
        if weights == "random":
            return weights, network
        if weights == "pretrained":
            path = self._pretrained_file(network.backbone_name)
            load_pretrained(network.backbone, path)
            return path.name, network
        path = self.folder / (weights if weights.endswith(".pth") else f"{weights}.pth")
        if not path.is_file():
            present = ", ".join(sorted(other.name for other in self.folder.glob("checkpoint_*.pth"))) or "none"
            raise RectalError(f"There is no {path}; checkpoints of this fold: {present}.")
        network.load_state_dict(read_checkpoint(path)["network_weights"])
        return path.name, network

    def _pretrained_file(self, backbone: str) -> Path:
        try:
            return recorded_pretrained_file(self.folder)
        except RectalError:
            return find_pretrained(backbone)

    def _random_network(self) -> PlannedNetwork:
        manager = PlansManager(self.plans.content)
        configuration = manager.get_configuration(self.configuration)
        torch.manual_seed(0)
        network = find_trainer(self.trainer).build_network_architecture(
            manager,
            configuration,
            determine_num_input_channels(manager, configuration, self.dataset_json),
            manager.get_label_manager(self.dataset_json).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        if not isinstance(network, PlannedNetwork):
            raise RectalError(f"The network of {self.trainer} has no attention that is known here.")
        return network


def named_fold(dataset: str, trainer: str, plans: str, configuration: str, fold: str) -> Fold:
    """Return a fold by nnU-Net's names; its plans are those that it was trained by, if it was.

    Raises:
        RectalError: There is no such dataset, or there are no such plans, or they lack the configuration.
    """
    preprocessed, path = plans_of_model(dataset, trainer, plans, configuration)
    dataset_json = _read_json(preprocessed / "dataset.json")
    return Fold(preprocessed.name, trainer, Plans.read(path), configuration, dataset_json, fold)


def fold_in(folder: Path) -> Fold:
    """Return the fold that nnU-Net trained into a folder `.../DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION/fold_X`.

    Raises:
        RectalError: It is no such folder.
    """
    trainer, configuration = check_fold_folder(folder)
    folder = folder.resolve()
    plans, dataset_json = Plans.read(folder.parent / "plans.json"), _read_json(folder.parent / "dataset.json")
    return Fold(folder.parents[1].name, trainer, plans, configuration, dataset_json, folder.name.removeprefix("fold_"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RectalError(f"{path} cannot be read ({error!r}).") from error
