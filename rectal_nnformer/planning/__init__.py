"""From a raw dataset to plans and preprocessed data: fingerprint, intensity window, planning rules, planner."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
