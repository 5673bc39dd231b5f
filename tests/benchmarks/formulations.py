"""Networks to compare with: the same ones written plainly, as their authors published them, and nnU-Net's ResEnc-L.

In `plain(network)` attention is two matrix products with a softmax between them, whose results stay for the backward
pass; residual blocks normalize by PyTorch's instance norm; maps are in PyTorch's usual order of memory.
"""

import copy
from typing import Any

import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

from rectal_nnformer.networks.residual import EPSILON, NEGATIVE_SLOPE, ResidualBlock
from rectal_nnformer.networks.window_attention import WindowAttention


class PlainResidualBlock(nn.Module):
    """`ResidualBlock` as MONAI writes it."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = block.conv1, block.conv2, block.conv3

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the grid of `x`; both are (batch, channel, x, y, z)."""
        out = F.leaky_relu(F.instance_norm(self.conv1(x), eps=EPSILON), NEGATIVE_SLOPE, inplace=True)
        out = F.instance_norm(self.conv2(out), eps=EPSILON)
        out += x if self.conv3 is None else F.instance_norm(self.conv3(x), eps=EPSILON)
        return F.leaky_relu(out, NEGATIVE_SLOPE, inplace=True)


class PlainAttention(nn.Module):
    """`WindowAttention` as the authors of SMIT and Swin UNETR write it."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.register_buffer("relative_position_index", attention.relative_position_index)
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the update of each token; as `WindowAttention.forward`."""
        batch, count, tokens, channels = windows.shape
        qkv: Any = self.qkv(windows).reshape(batch * count, tokens, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        index: Any = self.relative_position_index
        bias = self.relative_position_bias_table[index[:tokens, :tokens].reshape(-1)].reshape(tokens, tokens, -1)
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + bias.permute(2, 0, 1).contiguous()
        if mask is not None:
            logits = logits.reshape(batch, count, self.num_heads, tokens, tokens) + mask.unsqueeze(2)
            logits = logits.reshape(batch * count, self.num_heads, tokens, tokens)
        update = (logits.softmax(dim=-1) @ value).transpose(1, 2)
        return self.proj(update.reshape(windows.shape))


def plain(network: nn.Module) -> nn.Module:
    """Return a copy of a network with the same weights, in the plain formulation."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ResidualBlock):
                setattr(module, name, PlainResidualBlock(child))
            if isinstance(child, WindowAttention):
                setattr(module, name, PlainAttention(child))
    return network


def resenc_l() -> nn.Module:
    """Return nnU-Net's ResEnc-L with one output, as nnU-Net plans it for 384 x 384 x 24 voxels of 0.52 and 3.3 mm."""
    flat, cubic = (1, 3, 3), (3, 3, 3)
    return ResidualEncoderUNet(
        input_channels=1,
        num_classes=2,
        n_stages=7,
        features_per_stage=(32, 64, 128, 256, 320, 320, 320),
        conv_op=nn.Conv3d,
        kernel_sizes=(flat, flat, *[cubic] * 5),
        strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)),
        n_blocks_per_stage=(1, 3, 4, 6, 6, 6, 6),
        n_conv_per_stage_decoder=(1,) * 6,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


RESENC_L_PATCH = (24, 384, 384)
"""Its patch there (z, y, x)."""
