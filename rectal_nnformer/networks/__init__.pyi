from .pretrained import find_pretrained, load_pretrained
from .smit import SMIT
from .swin_unetr import SwinUNETR

__all__ = ["SMIT", "SwinUNETR", "find_pretrained", "load_pretrained"]
