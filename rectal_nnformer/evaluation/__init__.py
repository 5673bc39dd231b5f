"""Lesion detection: of one case, of a folder of cases, over the folds of a cross-validation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
