"""What was found, in tables, pictures and pages: of one model, of its folds, of several models side by side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
