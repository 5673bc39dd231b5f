"""Networks of the real kinds that are small enough to run in a blink."""

import torch

from rectal_nnformer.networks import SMIT, SwinUNETR
from rectal_nnformer.networks.adapter import PlannedNetwork

SMALL = {
    "smit": {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)},
    "swin_unetr": {"feature_size": 12},
    "swin_unetr_v2": {"feature_size": 12},
}
"""What makes each backbone small."""


def small_planned(backbone="smit", seed=0, **options):
    """A small network as plans build it, in evaluation mode; patches are stored as (z, y, x)."""
    torch.manual_seed(seed)
    kwargs = {**SMALL[backbone], **options}
    window = {"intensity_window": [[0.0, 1.0]], "spatial_axes": [2, 1, 0]}
    return PlannedNetwork(1, 2, backbone=backbone, backbone_kwargs=kwargs, **window).eval()


def small_smit(in_channels=1, out_channels=2, **options):
    torch.manual_seed(0)
    return SMIT(in_channels, out_channels, **{**SMALL["smit"], **options}).eval()


def small_swin_unetr(in_channels=1, out_channels=2, **options):
    torch.manual_seed(0)
    return SwinUNETR(in_channels, out_channels, feature_size=12, **options).eval()
