"""The networks, exactly as published, and how pretrained weights get into them."""

from rectal_nnformer.networks.pretrained import find_pretrained, load_pretrained
from rectal_nnformer.networks.smit import SMIT
from rectal_nnformer.networks.swin_unetr import SwinUNETR

__all__ = ["SMIT", "SwinUNETR", "find_pretrained", "load_pretrained"]
