"""SMIT: a Swin encoder with 4 x 4 x 4 windows, and the convolutional decoder that segments from its maps.

Source: Jiang et al., Self-supervised 3D anatomy segmentation using self-distilled masked image transformer (SMIT),
MICCAI 2022, as fine-tuned for rectal MRI by Rangnekar et al., arXiv 2605.05522. Module names are those of the published
weights.

Inside the encoder grids are channels-last, (batch, x, y, z, channel). Published code runs only where every grid is a
multiple of the window; elsewhere tokens of zeros are added at the end of each axis and cropped again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from monai.networks.layers import DropPath
from torch import Tensor, nn

from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import Size
from rectal_nnformer.networks import window_attention as attention
from rectal_nnformer.networks.residual import use_residual_blocks

MERGING_OFFSETS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1))
"""Offsets (x, y, z) of the eight tokens that become one, in the order in which their channels are joined."""


class PatchEmbedding(nn.Module):
    """2 x 2 x 2 voxels to one token: a strided convolution, then LayerNorm."""

    def __init__(self, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, embed_dim, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Return tokens (batch, x, y, z, channel) of an image (batch, channel, x, y, z); odd sizes are padded."""
        missing = [n % 2 for n in image.shape[2:]]
        if any(missing):
            image = F.pad(image, (0, missing[2], 0, missing[1], 0, missing[0]))
        return self.norm(self.proj(image).permute(0, 2, 3, 4, 1))


class PatchMerging(nn.Module):
    """Eight neighbouring tokens to one with twice the channels; odd grids are padded with zeros at the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * channels)
        self.reduction = nn.Linear(8 * channels, 2 * channels, bias=False)

    def forward(self, grid: Tensor) -> Tensor:
        """Return a grid of half the size."""
        grid = attention.pad_end(grid, (2, 2, 2))
        parts = [grid[:, x::2, y::2, z::2] for x, y, z in MERGING_OFFSETS]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the update of each token."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class SwinBlock(nn.Module):
    """Window attention and a feed-forward layer, each on normalized tokens and added to its input.

    `drop_path` is the probability of skipping either half for a sample in training; the others are as for `SMIT`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: Size,
        shift: Size,
        mlp_ratio: float,
        drop_path: float,
        window_reverse: attention.WindowReverse,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.window_reverse: attention.WindowReverse = window_reverse
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention.WindowAttention(channels, num_heads, window[0])
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, grid: Tensor, mask: Tensor | None) -> Tensor:
        """Return the grid after both halves; `mask` is the one of the grid's windows at this block's shift."""
        update = attention.attend_in_windows(
            self.attn, self.norm1(grid), self.window, self.shift, mask, self.window_reverse
        )
        grid = grid + self.drop_path(update)
        return grid + self.drop_path(self.mlp(self.norm2(grid)))


class Stage(nn.Module):
    """Blocks on one grid, every second one shifted by half a window, and the merging after them."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: int,
        mlp_ratio: float,
        drop_path: Sequence[float],
        window_reverse: attention.WindowReverse,
    ) -> None:
        super().__init__()
        self.window: Size = (window, window, window)
        self.shift: Size = (window // 2, window // 2, window // 2)
        shifts = ((0, 0, 0), self.shift)
        self.blocks = nn.ModuleList(
            SwinBlock(channels, num_heads, self.window, shifts[i % 2], mlp_ratio, rate, window_reverse)
            for i, rate in enumerate(drop_path)
        )
        self.downsample = PatchMerging(channels)

    def forward(self, grid: Tensor, real_tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the grid before and after merging; keys at other tokens than real ones, if given, are hidden."""
        masks = attention.window_masks(grid, self.window, self.shift, real_tokens)
        for i, block in enumerate(self.blocks):
            grid = block(grid, masks[i % 2])
        return grid, self.downsample(grid)


class Encoder(nn.Module):
    """Patch embedding and stages; each stage halves the grid and doubles the channels after its output is taken."""

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window: int,
        mlp_ratio: float,
        drop_path_rate: float,
        window_reverse: attention.WindowReverse,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(in_channels, embed_dim)
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            channels = embed_dim * 2**i
            stage_rates = [next(rates) for _ in range(depth)]
            self.layers.append(Stage(channels, heads, window, mlp_ratio, stage_rates, window_reverse))
            self.add_module(f"norm{i}", nn.LayerNorm(channels))

    def forward(self, image: Tensor, real_voxels: Tensor | None) -> list[Tensor]:
        """Return the normalized output of each stage and the last merged grid, as (batch, channel, x, y, z)."""
        grid = self.patch_embed(image)
        maps = []
        real = real_voxels
        for i, stage in enumerate(self.layers):
            real = None if real is None else attention.pool_real(real)
            output, grid = stage(grid, None if real is None else real[:, 0])
            maps.append(self.get_submodule(f"norm{i}")(output))
        return [x.permute(0, 4, 1, 2, 3) for x in (*maps, grid)]


class UpBlock(UnetrUpBlock):
    """MONAI's block that upsamples and joins a skip, for skips of odd size too."""

    def forward(self, inp: Tensor, skip: Tensor) -> Tensor:
        """Return a map on the grid of `skip`; both are (batch, channel, x, y, z)."""
        x, y, z = skip.shape[2:]
        upsampled = self.transp_conv(inp)[:, :, :x, :y, :z]
        return self.conv_block(torch.cat((upsampled, skip), dim=1))


class SMIT(nn.Module):
    """The SMIT segmentation network: (batch, channel, x, y, z) in [0, 1] to logits of the same grid.

    With the default architecture parameter names, shapes and outputs are those of the published weights. With k stages
    the network has the encoders 1 (on the image), 2 to k + 1 (on stage outputs) and 10 (on the bottleneck), and the
    decoders k + 1 to 1.

    Args:
        in_channels: Image channels.
        out_channels: Classes, background included.
        embed_dim: Channels of the first stage; doubled at each of the following.
        depths: Blocks per stage.
        num_heads: Attention heads per stage.
        window_size: Tokens per axis of the cubic windows; shifted by half of it in every second block.
        mlp_ratio: Hidden channels of the feed-forward layers, in units of their input.
        drop_path_rate: Probability of skipping the last block for a sample in training; rises linearly from 0 at the
            first block (stochastic depth, Huang et al. 2016).
        window_reverse: "published" scatters the output of attention over the grid as the published code does, in
            pretraining as in fine-tuning; "inverse" returns every token to its place, for training from scratch.
        mask_padding: Hide padding keys from the attention of all blocks, so that no real token attends to padding.
            Needs `real_voxels` in `forward`. Changes no parameter.

    Raises:
        ValueError: `depths` and `num_heads` differ in length, or `window_reverse` is unknown.

    Example:
        >>> network = SMIT(embed_dim=8, depths=(1, 1), num_heads=(1, 2))
        >>> image = torch.rand(1, 1, 16, 16, 8)
        >>> network(image).shape
        torch.Size([1, 2, 16, 16, 8])
        >>> [tuple(features.shape[1:]) for features in network.encode(image)]
        [(8, 8, 8, 4), (16, 4, 4, 2), (32, 2, 2, 1)]
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        *,
        embed_dim: int = 48,
        depths: Sequence[int] = (2, 2, 12, 2),
        num_heads: Sequence[int] = (4, 4, 8, 16),
        window_size: int = 4,
        mlp_ratio: float = 4,
        drop_path_rate: float = 0.0,
        window_reverse: attention.WindowReverse = "published",
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        if window_reverse not in attention.REVERSE_ORDERS:
            raise ValueError(
                f"window_reverse must be one of {sorted(attention.REVERSE_ORDERS)}, not {window_reverse!r}"
            )
        self.window_reverse = window_reverse
        self.mask_padding = mask_padding
        self.num_stages = len(depths)
        self.transformer = Encoder(
            in_channels, embed_dim, depths, num_heads, window_size, mlp_ratio, drop_path_rate, window_reverse
        )
        self.encoder1 = _skip_block(in_channels, embed_dim)
        for stage in range(self.num_stages):
            channels = embed_dim * 2**stage
            self.add_module(f"encoder{stage + 2}", _skip_block(channels, channels))
            self.add_module(f"decoder{stage + 2}", _up_block(2 * channels, channels))
        bottleneck = embed_dim * 2**self.num_stages
        self.encoder10 = _skip_block(bottleneck, bottleneck)
        self.decoder1 = _up_block(embed_dim, embed_dim)
        self.out = UnetOutBlock(spatial_dims=3, in_channels=embed_dim, out_channels=out_channels)
        use_residual_blocks(self)

    def forward(self, x: Tensor, real_voxels: Tensor | None = None) -> Tensor:
        """Return logits (batch, class, x, y, z).

        Args:
            x: Image (batch, channel, x, y, z), intensities in [0, 1], padding 0.
            real_voxels: Bool (batch, 1, x, y, z), False where the image was padded. Read only if the network was built
                with `mask_padding=True`; None then means that every voxel is real.

        Raises:
            RectalError: The image is so small that the bottleneck is a single token, which instance norm cannot take.
        """
        single = 2 ** (self.num_stages + 1)
        if max(x.shape[2:]) <= single:
            raise RectalError(
                f"SMIT with {self.num_stages} stages needs more than {single} voxels on at least one axis; "
                f"the patch size is {tuple(x.shape[2:])}. Choose a larger patch size."
            )
        x, real_voxels = attention.set_padding_to_zero(x, real_voxels, self.mask_padding)
        *maps, bottleneck = self.transformer(x, real_voxels)
        decoded = self.encoder10(bottleneck)
        for level in range(self.num_stages + 1, 1, -1):
            skip = self.get_submodule(f"encoder{level}")(maps[level - 2])
            decoded = self.get_submodule(f"decoder{level}")(decoded, skip)
        return self.out(self.decoder1(decoded, self.encoder1(x)))

    def encode(self, x: Tensor, real_voxels: Tensor | None = None) -> list[Tensor]:
        """Return the maps that the decoder reads, each (batch, channel, x, y, z).

        They are the output of every stage before merging, after its LayerNorm, and the bottleneck: with the default
        architecture five maps of 48, 96, 192, 384 and 768 channels on grids of 1/2, 1/4, 1/8, 1/16 and 1/32 of the
        image. Arguments as in `forward`.
        """
        return self.transformer(*attention.set_padding_to_zero(x, real_voxels, self.mask_padding))

    def attention_blocks(self, image_size: Sequence[int]) -> list[attention.AttentionBlock]:
        """Return all blocks in the order in which they run; windows are the same for every `image_size`."""
        stages: list[Any] = list(self.transformer.layers)
        return [
            attention.AttentionBlock(
                f"transformer.layers.{s}.blocks.{i}",
                s,
                2 ** (s + 1),
                block.attn,
                block.window,
                block.shift,
                scatters=block.window_reverse == "published",
            )
            for s, stage in enumerate(stages)
            for i, block in enumerate(stage.blocks)
        ]


def _skip_block(in_channels: int, out_channels: int) -> nn.Module:
    return UnetrBasicBlock(3, in_channels, out_channels, kernel_size=3, stride=1, norm_name="instance", res_block=True)


def _up_block(in_channels: int, out_channels: int) -> nn.Module:
    return UpBlock(
        3, in_channels, out_channels, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True
    )
