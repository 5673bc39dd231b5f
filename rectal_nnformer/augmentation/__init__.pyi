from .on_device import DeviceAugmentation, is_on_device_wanted
from .padding import CarryPaddingTransform, RecordPaddingTransform, RestorePaddingTransform
from .pipeline import extend_training_transforms
from .settings import TumorAugmentation, augmentation_of_plans
from .tumor_intensity import TumorIntensityTransform
from .window import ClampToWindowTransform

__all__ = [
    "CarryPaddingTransform",
    "ClampToWindowTransform",
    "DeviceAugmentation",
    "RecordPaddingTransform",
    "RestorePaddingTransform",
    "TumorAugmentation",
    "TumorIntensityTransform",
    "augmentation_of_plans",
    "extend_training_transforms",
    "is_on_device_wanted",
]
