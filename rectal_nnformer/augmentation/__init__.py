"""Augmentation transforms for batchgeneratorsv2 and their place in nnU-Net's training pipeline."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
