"""Augmentation transforms for batchgeneratorsv2 and their place in nnU-Net's training pipeline."""

from rectal_nnformer.augmentation.padding import (
    CarryPaddingTransform,
    RecordPaddingTransform,
    RestorePaddingTransform,
)
from rectal_nnformer.augmentation.pipeline import extend_training_transforms
from rectal_nnformer.augmentation.settings import TumorAugmentation, augmentation_of_plans
from rectal_nnformer.augmentation.tumor_intensity import TumorIntensityTransform
from rectal_nnformer.augmentation.window import ClampToWindowTransform

__all__ = [
    "CarryPaddingTransform",
    "ClampToWindowTransform",
    "RecordPaddingTransform",
    "RestorePaddingTransform",
    "TumorAugmentation",
    "TumorIntensityTransform",
    "augmentation_of_plans",
    "extend_training_transforms",
]
