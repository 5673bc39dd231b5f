"""A short training for trying things out without a GPU."""

from typing import Any

import torch

from rectal_nnformer.training.trainer import RectalTrainer


class CPUTrialTrainer(RectalTrainer):
    """A training of minutes on two cores, for small networks on coarse spacing; not for results.

    Few epochs, since nnU-Net draws its progress plot after each; a higher learning rate, since the network is small and
    starts from random weights; half of the crops around a lesion; no mirroring, which would take
    eight times as long in prediction.
    """

    pretrained = False
    tumor_aware = True
    drop_path_rate = 0.0

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 4
        self.warmup_epochs = 1
        self.num_iterations_per_epoch = 100
        self.num_val_iterations_per_epoch = 5
        self.initial_lr = 3e-3
        self.oversample_foreground_percent = 0.5

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, tuple[int, ...]]:
        """Return nnU-Net's settings with mirroring left out, in training and in prediction."""
        rotation, dummy_2d, initial_patch_size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, ()
