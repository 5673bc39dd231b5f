"""Trainers for Swin UNETR, one class per recipe; what they do is in rectal_nnformer.training.trainer."""

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
