"""Recipes of the evidence: small SMITs trained for minutes, which differ as the published recipes do."""

from types import MappingProxyType

from rectal_nnformer.training.cpu_trial import CPUTrialTrainer


class nnUNetTrainerSMIT_Evidence_Base(CPUTrialTrainer):
    """Pretrained, with nnU-Net's own augmentation."""

    backbone = "smit"
    pretrained = True
    tumor_aware = False


class nnUNetTrainerSMIT_Evidence_TA(nnUNetTrainerSMIT_Evidence_Base):
    """Pretrained, with tumour-aware augmentation."""

    tumor_aware = True


class nnUNetTrainerSMIT_Evidence_MaskedPadding(nnUNetTrainerSMIT_Evidence_Base):
    """Base with padding masked out of the attention."""

    backbone_options = MappingProxyType({"mask_padding": True})


class nnUNetTrainerSMIT_Evidence_ACT(nnUNetTrainerSMIT_Evidence_TA):
    """Pretrained, with tumour-aware augmentation on the planned, anisotropic patch."""

    planned_patch_only = True


class nnUNetTrainerSMIT_Evidence_ACT_Scratch(nnUNetTrainerSMIT_Evidence_ACT):
    """ACT from random weights."""

    pretrained = False


class nnUNetTrainerSMIT_Evidence_ACT_Scratch_InverseWindows(nnUNetTrainerSMIT_Evidence_ACT_Scratch):
    """ACT from random weights with every token put back where it came from."""

    backbone_options = MappingProxyType({"window_reverse": "inverse"})
