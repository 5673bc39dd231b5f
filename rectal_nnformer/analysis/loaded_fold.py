"""A fold with its plans: its network with any weights, and the cases that it validates."""

from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from rectal_nnformer.analysis.tiles import PreprocessedCases
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.networks.pretrained import find_pretrained, load_pretrained
from rectal_nnformer.networks.starting_weights import recorded_pretrained_file
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.find_trainer import find_trainer
from rectal_nnformer.nnunet.layout import ALL_CASES, CHECKPOINT_FINAL, DATASET_JSON, FoldFolder, PreprocessedDataset
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.splits import read_splits
from rectal_nnformer.utils.files import is_there


@dataclass(frozen=True)
class LoadedFold:
    """One fold of a model, trained or not; the plans of an untrained one are those of its dataset."""

    folder: FoldFolder
    plans: Plans
    dataset_json: dict[str, Any]

    @property
    def label(self) -> str:
        """How the fold is called in results."""
        return f"{self.folder.model.trainer} {self.folder.model.configuration} fold {self.folder.fold}"

    def cases(self) -> PreprocessedCases:
        """Return the validation cases, or all for the fold "all".

        Raises:
            RectalError: The dataset is not preprocessed, or has no such fold.
        """
        preprocessed = PreprocessedDataset.find(self.folder.model.dataset)
        configuration = self.plans.configuration(self.folder.model.configuration)
        folder = preprocessed.data_folder(configuration.settings)
        if not folder.is_dir():
            raise RectalError(f"{folder} does not exist. Preprocess the dataset with 'plan_and_preprocess'.")
        fold, path = self.folder.fold, preprocessed.splits
        if fold == ALL_CASES:
            names = infer_dataset_class(str(folder)).get_identifiers(str(folder))
        elif not is_there(path):
            raise RectalError(f"{path} does not exist: it is not known which cases fold {fold} validates.")
        else:
            splits = read_splits(path)
            if not fold.isdecimal() or int(fold) >= len(splits):
                raise RectalError(f"{preprocessed.name} has the folds 0 to {len(splits) - 1}; there is no fold {fold}.")
            names = splits[int(fold)].val
        return PreprocessedCases(
            folder=folder,
            names=tuple(sorted(names)),
            patch_size=configuration.patch_size,
            spacing=configuration.spacing,
            tumor_labels=tuple(tumor_labels(self.dataset_json)),
        )

    def network(self, weights: str = CHECKPOINT_FINAL) -> tuple[str, PlannedNetwork]:
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
            planned = self.plans.configuration(self.folder.model.configuration).network
            arguments = planned.backbone_kwargs if planned else {}
            recorded = recorded_pretrained_file(self.folder.path)[0]
            path = recorded or find_pretrained(network.backbone_name, arguments)
            load_pretrained(network.backbone, path)
            return path.name, network
        path = self.folder.path / (weights if weights.endswith(".pth") else f"{weights}.pth")
        network.load_state_dict(read_checkpoint(path)["network_weights"])
        return path.name, network

    def _random_network(self) -> PlannedNetwork:
        manager = PlansManager(self.plans.content)
        configuration = manager.get_configuration(self.folder.model.configuration)
        torch.manual_seed(0)
        network = find_trainer(self.folder.model.trainer).build_network_architecture(
            manager,
            configuration,
            determine_num_input_channels(manager, configuration, self.dataset_json),
            manager.get_label_manager(self.dataset_json).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        if not isinstance(network, PlannedNetwork):
            raise RectalError(f"The network of {self.folder.model.trainer} has no attention that is known here.")
        return network


def load_fold(folder: FoldFolder) -> LoadedFold:
    """Read the plans and dataset.json of a fold.

    Raises:
        RectalError: There are none, or they are damaged.
    """
    plans_file = folder.model.current_plans_file()
    dataset_json = read_dataset_json(plans_file.with_name(DATASET_JSON), "Restore it.")
    return LoadedFold(folder, Plans.read(plans_file), dataset_json)
