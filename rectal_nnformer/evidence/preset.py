"""How large a study of evidence is, and what it trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rectal_nnformer.nnunet.names import CUBIC, FULLRES, Device
from rectal_nnformer.planning.backbones import BACKBONES

BACKBONE = "smit_small"
PLANS = BACKBONES[BACKBONE].plans_name


@dataclass(frozen=True)
class Preset:
    """Sizes of cohorts, network and trainings.

    Attributes:
        ct_scans: Scans to pretrain on.
        training_cases: MRI cases to train on; few.
        held_out_cases: MRI cases of the same site that no training sees.
        external_cases: MRI cases of the other site.
        in_plane: Voxel size in the slices of the made scans, mm.
        spacing: Target spacing, mm.
        patch: Voxels per axis of the pretraining cube.
        network: Arguments of the network.
        pretraining_epochs: Times that each CT scan is taken.
        epochs: Of a training.
        iterations: Of an epoch.
        seeds: Of first weights and draws; each trains every recipe.
    """

    ct_scans: int
    training_cases: int
    held_out_cases: int
    external_cases: int
    pretraining_epochs: int
    epochs: int
    iterations: int
    seeds: tuple[int, ...]
    in_plane: float = 2.0
    spacing: float = 4.0
    patch: int = 32
    network: Mapping[str, Any] = field(default_factory=lambda: {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4]})


PRESETS = {
    "smallest": Preset(12, 8, 12, 12, 60, 3, 50, (0,)),
    "page": Preset(40, 10, 24, 24, 100, 6, 50, (0, 1, 2)),
    "gpu": Preset(
        ct_scans=400,
        training_cases=30,
        held_out_cases=100,
        external_cases=100,
        pretraining_epochs=300,
        epochs=50,
        iterations=250,
        seeds=(0, 1, 2),
        in_plane=1.0,
        spacing=3.0,
        patch=48,
        network={"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]},
    ),
}
"""Ten minutes and two hours on two cores, and a night on a GPU."""


class EvidenceRecipe(NamedTuple):
    """What a training differs in: its trainer, after `TRAINERS`, and the configuration of the plans."""

    name: str
    trainer: str
    configuration: str


TRAINERS = "nnUNetTrainerSMIT_Evidence_"
RECIPES = (
    EvidenceRecipe("Base", "Base", CUBIC),
    EvidenceRecipe("TA", "TA", CUBIC),
    EvidenceRecipe("Crop", "Base", FULLRES),
    EvidenceRecipe("ACT", "ACT", FULLRES),
    EvidenceRecipe("Scratch", "ACT_Scratch", FULLRES),
    EvidenceRecipe("MaskedPadding", "MaskedPadding", CUBIC),
    EvidenceRecipe("InverseWindows", "ACT_Scratch_InverseWindows", FULLRES),
)
"""The two by two of the paper (cube or planned patch, without or with tumour-aware augmentation), ACT from random
weights, Base with masked padding, and Scratch with windows put back in place."""

PRETRAINING, TIMES_FILE = "pretraining", "times.json"
"""Folder of the pretraining, and what each step took, in the folder of a study."""


@dataclass(frozen=True)
class EvidenceRun:
    """A study in a folder, which holds all that it makes.

    Attributes:
        name: Of the preset.
        device: Where networks compute.
        workers: Processes that make and prepare cases, and on a CPU trainings side by side.
    """

    folder: Path
    name: str
    preset: Preset
    device: Device
    workers: int
    recipes: tuple[EvidenceRecipe, ...] = RECIPES

    @property
    def weights(self) -> Path:
        """Folder of the pretrained file."""
        return self.folder / PRETRAINING
