"""CT-pretrained SMIT and Swin UNETR for rectal cancer MRI, as a self-configuring nnU-Net v2 extension."""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
