"""Trainers for Swin UNETR V2, one class per recipe; what they do is in rectal_nnformer.training.trainer."""

from types import MappingProxyType

from rectal_nnformer.training.trainer import RectalTrainer


class nnUNetTrainerSwinUNETRV2_Base(RectalTrainer):
    """CT-pretrained Swin UNETR V2 with nnU-Net's own augmentation."""

    backbone = "swin_unetr_v2"


class nnUNetTrainerSwinUNETRV2_TA(nnUNetTrainerSwinUNETRV2_Base):
    """CT-pretrained Swin UNETR V2 with tumour-aware augmentation."""

    tumor_aware = True


class nnUNetTrainerSwinUNETRV2_ACT(nnUNetTrainerSwinUNETRV2_TA):
    """CT-pretrained Swin UNETR V2 with tumour-aware augmentation on the planned, anisotropic patch."""

    planned_patch_only = True


class nnUNetTrainerSwinUNETRV2_Base_Scratch(nnUNetTrainerSwinUNETRV2_Base):
    """Swin UNETR V2 from random weights with nnU-Net's own augmentation."""

    pretrained = False


class nnUNetTrainerSwinUNETRV2_ACT_Scratch(nnUNetTrainerSwinUNETRV2_ACT):
    """Swin UNETR V2 from random weights with tumour-aware augmentation on the planned, anisotropic patch."""

    pretrained = False


class nnUNetTrainerSwinUNETRV2_ACT_MaskedPadding(nnUNetTrainerSwinUNETRV2_ACT):
    """ACT with padding masked out of the attention."""

    backbone_options = MappingProxyType({"mask_padding": True})
