"""What a network does with padding, and how far its features are from those that it started from."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
