"""Names that the command line, the plans and the networks share; this module imports nothing of the project."""

import re
from typing import Literal, NamedTuple

Device = Literal["cuda", "cpu", "mps"]
"""Where networks compute, by nnU-Net's `-device`."""
TRAINER_FAMILIES = {
    "smit": "nnUNetTrainerSMIT",
    "swin_unetr": "nnUNetTrainerSwinUNETR",
    "swin_unetr_v2": "nnUNetTrainerSwinUNETRV2",
}
"""How the names of each network's trainers begin; the recipe follows: _Base, _TA, _ACT."""


class Length(NamedTuple):
    """How a training differs from its trainer's own: epochs, iterations of each, and the seed of what is drawn."""

    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = None

    def name(self, trainer: str) -> str:
        """Return what a trainer is called with this length: `nnUNetTrainer_20epochs_100iterations_seed0`."""
        parts = {"epochs": self.epochs, "iterations": self.iterations}
        told = [f"_{number}{what[:-1] if number == 1 else what}" for what, number in parts.items() if number]
        return "".join([trainer, *told, f"_seed{self.seed}" if self.seed is not None else ""])


def split_length(trainer: str) -> tuple[str, Length]:
    """Return a trainer and the length that its name ends in; that of nnU-Net's own `nnUNetTrainer_5epochs`, too."""
    found = re.fullmatch(r"(.+?)(?:_(\d+)epochs?)?(?:_(\d+)iterations?)?(?:_seed(\d+))?", trainer, re.ASCII)
    if found is None:
        return trainer, Length()
    return found[1], Length(*(None if number is None else int(number) for number in found.groups()[1:]))


NETWORKS = tuple(TRAINER_FAMILIES)
"""Networks, as plans and pretrained files know them."""

FULLRES, CUBIC = "3d_fullres", "3d_fullres_cubic"
"""Configurations: the planned patch, and the input of pretraining."""

NUM_FOLDS, SPLITS_SEED = 5, 12345
"""How nnU-Net splits a dataset that has no folds."""

PLANNED_NETWORK = "rectal_nnformer.networks.adapter.PlannedNetwork"
"""The class of every network that is planned here, as plans name it."""

FINGERPRINT_FILE, WINDOW_FILE = "rectal_fingerprint.json", "rectal_intensity_window.json"
"""What planning measures, in a preprocessed dataset."""

PLANES = ("sagittal", "coronal", "axial")
"""Planes of slices, by the axis of the patient (x, y, z) that they lie across."""

RECORD_KEY = "rectal_nnformer"
"""Key of the plans under which the planner's reasons stand; nnU-Net does not read it."""

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
"""Files that are taken for images where a folder of them is given."""

NIFTI, DICOM_OBJECTS = "nifti", ("dicom-seg", "rtstruct")
"""Formats in which predictions are had; objects lie on the series that was predicted."""
