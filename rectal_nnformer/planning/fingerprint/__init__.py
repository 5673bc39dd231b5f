"""The tumour fingerprint of a dataset: size, place and look of every lesion, and masks that look wrong."""

from rectal_nnformer.planning.fingerprint.augmentation import plan_augmentation, planned_augmentation
from rectal_nnformer.planning.fingerprint.outliers import describe_outliers
from rectal_nnformer.planning.fingerprint.store import extract_tumor_fingerprint, load_tumor_fingerprint

__all__ = [
    "describe_outliers",
    "extract_tumor_fingerprint",
    "load_tumor_fingerprint",
    "plan_augmentation",
    "planned_augmentation",
]
