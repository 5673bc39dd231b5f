"""The tumour fingerprint of a dataset: size, place and look of every lesion, and masks that look wrong."""

from rectal_nnformer.planning.fingerprint.augmentation import planned_augmentation
from rectal_nnformer.planning.fingerprint.store import extract_tumor_fingerprint, load_tumor_fingerprint

__all__ = ["extract_tumor_fingerprint", "load_tumor_fingerprint", "planned_augmentation"]
