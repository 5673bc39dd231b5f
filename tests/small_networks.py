"""Networks of the real kinds that are small enough to run in a blink."""

import torch

from rectal_nnformer.networks import SMIT, SwinUNETR


def small_smit(in_channels=1, out_channels=2, **options):
    torch.manual_seed(0)
    architecture = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), **options}
    return SMIT(in_channels, out_channels, **architecture).eval()


def small_swin_unetr(in_channels=1, out_channels=2, **options):
    torch.manual_seed(0)
    return SwinUNETR(in_channels, out_channels, feature_size=12, **options).eval()
