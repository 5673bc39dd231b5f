from .augmentation import plan_augmentation, planned_augmentation
from .outliers import describe_outliers
from .store import extract_tumor_fingerprint, load_tumor_fingerprint

__all__ = [
    "describe_outliers",
    "extract_tumor_fingerprint",
    "load_tumor_fingerprint",
    "plan_augmentation",
    "planned_augmentation",
]
