from .padding import CarryPaddingTransform, RecordPaddingTransform, RestorePaddingTransform
from .pipeline import extend_training_transforms
from .settings import TumorAugmentation, augmentation_of_plans
from .tumor_intensity import TumorIntensityTransform
from .window import ClampToWindowTransform

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
