"""The network that is pretrained: a planned encoder that may see masked images, and three heads on its last grid."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.networks.pretrained import SOURCES
from rectal_nnformer.networks.smit import SMIT

PUBLISHED_CHANNELS = 768
HEAD_HIDDEN, HEAD_BOTTLENECK, HEAD_OUTPUTS = 2048, 256, 8192
"""Layers of a distillation head on `PUBLISHED_CHANNELS`, as in iBOT; narrower encoders get narrower heads."""
STORED_AXES = (2, 1, 0)
"""Scans are stored as (z, y, x)."""


class Student(nn.Module):
    """A backbone's encoder behind intensity window and axes of fine-tuning, and the heads of the pretraining.

    Args:
        channels: Image channels.
        backbone: "smit", "swin_unetr" or "swin_unetr_v2".
        backbone_kwargs: Arguments of its constructor.
        window: One (low, high) per channel.
    """

    def __init__(
        self, channels: int, backbone: str, backbone_kwargs: dict[str, Any], window: Sequence[Sequence[float]]
    ) -> None:
        super().__init__()
        self.network = PlannedNetwork(
            channels,
            2,
            backbone=backbone,
            backbone_kwargs=backbone_kwargs,
            intensity_window=window,
            spatial_axes=STORED_AXES,
        )
        planned: Any = self.network.backbone
        for name in [name for name, _ in planned.named_children() if name not in SOURCES]:
            delattr(planned, name)  # the decoder
        self.patch_embed = [next(iter(planned.children())).patch_embed]  # in a list: it is registered already
        width = self.patch_embed[0].proj.out_channels
        stages = 1 + max(block.stage for block in planned.attention_blocks((64, 64, 64)))
        self.stride = 2 ** (stages + 1)
        self.channels = tokens = width * 2**stages
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.restoration = nn.Linear(tokens, channels * self.stride**3)
        self.patch_head = DistillationHead(tokens)
        self.image_head = DistillationHead(tokens)
        for head in (self.restoration, self.patch_head, self.image_head):
            head.apply(_begin_small)

    def encode(self, image: Tensor, real: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the normalized tokens (batch, x, y, z, channel) of the encoder's last grid.

        Args:
            image: (batch, channels, x, y, z), as `PlannedNetwork.prepare` gives it.
            real: Bool (batch, 1, x, y, z).
            hidden: Bool (batch, 1, x, y, z), of whole 2 x 2 x 2 tokens: these are replaced by a learned one before
                anything mixes tokens, so that nothing of their voxels reaches the encoder. None hides nothing.
        """
        backbone: Any = self.network.backbone
        if hidden is None:
            grid = backbone.encode(image, real)[-1]
        else:
            of_tokens = hidden[:, :, ::2, ::2, ::2]
            last = isinstance(backbone, SMIT)  # whose tokens are channels-last

            def replace(_: nn.Module, __: object, tokens: Tensor) -> Tensor:
                where = of_tokens.permute(0, 2, 3, 4, 1) if last else of_tokens
                token = self.mask_token.to(tokens.dtype)
                return torch.where(where, token if last else token[:, None, None, None], tokens)

            handle = self.patch_embed[0].register_forward_hook(replace)
            try:
                grid = backbone.encode(image, real)[-1]
            finally:
                handle.remove()
        tokens = grid.permute(0, 2, 3, 4, 1)
        return F.layer_norm(tokens, tokens.shape[-1:])

    def restore(self, tokens: Tensor) -> Tensor:
        """Return the image (batch, channels, x, y, z) that tokens stand for, `stride` voxels per axis each."""
        batch, x, y, z, _ = tokens.shape
        s = self.stride
        voxels = self.restoration(tokens).reshape(batch, x, y, z, -1, s, s, s).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return voxels.reshape(batch, -1, x * s, y * s, z * s)

    def encoder_weights(self) -> dict[str, Tensor]:
        """Return the encoder's weights by the names in the published files, and nothing else."""
        state = self.network.backbone.state_dict()
        return {f"backbone.{name}": value.detach().cpu().clone() for name, value in state.items()}


def _begin_small(layer: nn.Module) -> None:
    """Draw the weights of a linear layer as iBOT does for its heads."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class DistillationHead(nn.Module):
    """Three layers to a unit vector, compared with as many learned unit vectors as there are outputs (DINO, iBOT)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden, bottleneck, outputs = (
            max(8, n * channels // PUBLISHED_CHANNELS) for n in (HEAD_HIDDEN, HEAD_BOTTLENECK, HEAD_OUTPUTS)
        )
        self.outputs = outputs
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last = nn.Linear(bottleneck, outputs, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return cosines (..., outputs) of tokens (..., channel)."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.last.weight, dim=-1))
