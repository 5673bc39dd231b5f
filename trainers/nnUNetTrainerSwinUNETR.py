"""Trainers for Swin UNETR, one class per recipe; what they do is in rectal_nnformer.training.trainer."""

from types import MappingProxyType

from rectal_nnformer.training.trainer import RectalTrainer


class nnUNetTrainerSwinUNETR_Base(RectalTrainer):
    """CT-pretrained Swin UNETR with nnU-Net's own augmentation."""

    backbone = "swin_unetr"


class nnUNetTrainerSwinUNETR_TA(nnUNetTrainerSwinUNETR_Base):
    """CT-pretrained Swin UNETR with tumour-aware augmentation."""

    tumor_aware = True


class nnUNetTrainerSwinUNETR_ACT(nnUNetTrainerSwinUNETR_TA):
    """CT-pretrained Swin UNETR with tumour-aware augmentation on the planned, anisotropic patch."""

    planned_patch_only = True


class nnUNetTrainerSwinUNETR_Base_Scratch(nnUNetTrainerSwinUNETR_Base):
    """Swin UNETR from random weights with nnU-Net's own augmentation."""

    pretrained = False


class nnUNetTrainerSwinUNETR_ACT_Scratch(nnUNetTrainerSwinUNETR_ACT):
    """Swin UNETR from random weights with tumour-aware augmentation on the planned, anisotropic patch."""

    pretrained = False


class nnUNetTrainerSwinUNETR_ACT_MaskedPadding(nnUNetTrainerSwinUNETR_ACT):
    """ACT with padding masked out of the attention."""

    backbone_options = MappingProxyType({"mask_padding": True})


class nnUNetTrainerSwinUNETR_ACT_Scratch_CorrectedMerging(nnUNetTrainerSwinUNETR_ACT_Scratch):
    """ACT from random weights, merging all eight neighbours instead of two of them twice."""

    backbone_options = MappingProxyType({"merging": "corrected"})
