"""Trainers for SMIT, one class per recipe; what they do is in rectal_nnformer.training.trainer."""

from types import MappingProxyType

from rectal_nnformer.training.cpu_trial import CPUTrialTrainer
from rectal_nnformer.training.trainer import RectalTrainer


class nnUNetTrainerSMIT_Base(RectalTrainer):
    """CT-pretrained SMIT with nnU-Net's own augmentation."""

    backbone = "smit"


class nnUNetTrainerSMIT_TA(nnUNetTrainerSMIT_Base):
    """CT-pretrained SMIT with tumour-aware augmentation."""

    tumor_aware = True


class nnUNetTrainerSMIT_ACT(nnUNetTrainerSMIT_TA):
    """CT-pretrained SMIT with tumour-aware augmentation on the planned, anisotropic patch."""

    planned_patch_only = True


class nnUNetTrainerSMIT_Base_Scratch(nnUNetTrainerSMIT_Base):
    """SMIT from random weights with nnU-Net's own augmentation."""

    pretrained = False


class nnUNetTrainerSMIT_ACT_Scratch(nnUNetTrainerSMIT_ACT):
    """SMIT from random weights with tumour-aware augmentation on the planned, anisotropic patch."""

    pretrained = False


class nnUNetTrainerSMIT_ACT_MaskedPadding(nnUNetTrainerSMIT_ACT):
    """ACT with padding masked out of the attention."""

    backbone_options = MappingProxyType({"mask_padding": True})


class nnUNetTrainerSMIT_ACT_InverseWindows(nnUNetTrainerSMIT_ACT):
    """ACT with every token put back where it came from, by weights that were pretrained scattering them."""

    backbone_options = MappingProxyType({"window_reverse": "inverse"})


class nnUNetTrainerSMIT_ACT_Scratch_InverseWindows(nnUNetTrainerSMIT_ACT_Scratch):
    """ACT from random weights with every token put back where it came from."""

    backbone_options = MappingProxyType({"window_reverse": "inverse"})


class nnUNetTrainerSMIT_CPU(CPUTrialTrainer):
    """A small SMIT from random weights, trained for minutes on a CPU, for trying things out."""

    backbone = "smit"
