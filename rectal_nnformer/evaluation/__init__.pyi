from .detection import Component, Lesion, LesionDetection, StrictCounts, detect_lesions

__all__ = ["Component", "Lesion", "LesionDetection", "StrictCounts", "detect_lesions"]
