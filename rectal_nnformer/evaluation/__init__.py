"""Lesion detection: of one case, of a folder of cases, over the folds of a cross-validation."""

from rectal_nnformer.evaluation.detection import Component, Lesion, LesionDetection, StrictCounts, detect_lesions

__all__ = ["Component", "Lesion", "LesionDetection", "StrictCounts", "detect_lesions"]
