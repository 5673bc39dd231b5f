"""Swin UNETR and Swin UNETR V2: MONAI's layers and parameter names, with the merging that the public weights know.

Source: Hatamizadeh et al., Swin UNETR, 2022, arXiv 2201.01266; He et al., SwinUNETR-V2, MICCAI 2023; fine-tuned for
rectal MRI by Rangnekar et al., arXiv 2605.05522.

MONAI's attention is replaced by `WindowAttention`: the same parameters and numbers, without keeping every attention map
for the backward pass, and with masks that may differ from sample to sample.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from monai.networks.nets.swin_unetr import MERGING_MODE, PatchMerging, get_window_size
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from torch import Tensor

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import window_attention as attention
from rectal_nnformer.networks.residual import use_residual_blocks

WINDOW = 7
SIZE_MULTIPLE = 32
"""Patch embedding and four mergings halve each axis five times."""

LEGACY_OFFSETS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""Offsets (x, y, z) of the tokens that MONAI joined until version 1.4: (0, 1, 0) and (0, 0, 1) twice, (1, 1, 0) and
(0, 1, 1) never."""


class LegacyPatchMerging(PatchMerging):
    """Patch merging as MONAI had it until version 1.4, which the public weights were trained with."""

    def forward(self, grid: Tensor) -> Tensor:
        """Return a grid of half the size and twice the channels; both are (batch, x, y, z, channel)."""
        grid = attention.pad_end(grid, (2, 2, 2))
        parts = [grid[:, x::2, y::2, z::2] for x, y, z in LEGACY_OFFSETS]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


MERGING: dict[str, Any] = {"published": LegacyPatchMerging, "corrected": MERGING_MODE["merging"]}


class SwinUNETR(MonaiSwinUNETR):
    """The Swin UNETR segmentation network: (batch, channel, x, y, z) in [0, 1] to logits of the same grid.

    Sizes must be multiples of 32, at least one of them above 32.

    Args:
        in_channels: Image channels.
        out_channels: Classes, background included.
        feature_size: Channels of the first stage, a multiple of 12; doubled at each of the following.
        use_v2: Swin UNETR V2, with a residual convolution block before each stage.
        depths: Blocks in each of the four stages.
        num_heads: Attention heads in each of the four stages.
        drop_path_rate: Probability of skipping the last block for a sample in training; rises linearly from 0 at the
            first block (stochastic depth, Huang et al. 2016).
        merging: "published" joins the eight tokens that MONAI joined until version 1.4, two of them twice, as the
            public weights expect; "corrected" joins the eight distinct ones, for training from scratch.
        mask_padding: Hide padding keys from the attention of all blocks, so that no real token attends to padding.
            Needs `real_voxels` in `forward`. Changes no parameter.

    Raises:
        ValueError: `merging` is unknown, or an argument is none that MONAI accepts.

    Example:
        >>> network = SwinUNETR(feature_size=12)
        >>> network(torch.rand(1, 1, 64, 32, 32)).shape
        torch.Size([1, 2, 64, 32, 32])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        *,
        feature_size: int = 48,
        use_v2: bool = False,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        drop_path_rate: float = 0.0,
        merging: Literal["published", "corrected"] = "published",
        mask_padding: bool = False,
    ) -> None:
        if merging not in MERGING:
            raise ValueError(f"merging must be one of {sorted(MERGING)}, not {merging!r}")
        super().__init__(
            in_channels,
            out_channels,
            feature_size=feature_size,
            depths=depths,
            num_heads=num_heads,
            window_size=WINDOW,
            norm_name="instance",
            dropout_path_rate=drop_path_rate,
            downsample=MERGING[merging],
            use_v2=use_v2,
        )
        self.mask_padding = mask_padding
        for stage in self._stages():
            for block in stage.blocks:
                block.attn = attention.WindowAttention(block.dim, block.num_heads, WINDOW)
        use_residual_blocks(self)

    def forward(self, x: Tensor, real_voxels: Tensor | None = None) -> Tensor:
        """Return logits (batch, class, x, y, z); arguments are as for `rectal_nnformer.networks.smit.SMIT`.

        Raises:
            RectalError: A size is no multiple of 32, or all are 32, which leaves instance norm a single token.
        """
        self._check_input_size(x.shape[2:])
        x, real_voxels = attention.set_padding_to_zero(x, real_voxels, self.mask_padding)
        hidden = self._encode(x, real_voxels)
        decoded = self.decoder5(self.encoder10(hidden[4]), hidden[3])
        decoded = self.decoder4(decoded, self.encoder4(hidden[2]))
        decoded = self.decoder3(decoded, self.encoder3(hidden[1]))
        decoded = self.decoder2(decoded, self.encoder2(hidden[0]))
        return self.out(self.decoder1(decoded, self.encoder1(x)))

    def encode(self, x: Tensor, real_voxels: Tensor | None = None) -> list[Tensor]:
        """Return MONAI's hidden states 0 to 4, each (batch, channel, x, y, z), normalized over channels.

        They are the patch embedding and the output of every stage after merging: 48, 96, 192, 384 and 768 channels on
        grids of 1/2, 1/4, 1/8, 1/16 and 1/32 of the image. Arguments and errors as in `forward`.
        """
        self._check_input_size(x.shape[2:])
        return self._encode(*attention.set_padding_to_zero(x, real_voxels, self.mask_padding))

    def _encode(self, x: Tensor, real: Tensor | None) -> list[Tensor]:
        x = self.swinViT.patch_embed(x)
        hidden = [x]
        for number, stage in enumerate(self._stages(), start=1):
            if self.swinViT.use_v2:
                x = getattr(self.swinViT, f"layers{number}c")[0](x)
            real = None if real is None else attention.pool_real(real)
            x = _run_stage(stage, x.permute(0, 2, 3, 4, 1), real).permute(0, 4, 1, 2, 3)
            hidden.append(x)
        return [self.swinViT.proj_out(x, normalize=True) for x in hidden]

    def attention_blocks(self, image_size: Sequence[int]) -> list[attention.AttentionBlock]:
        """Return all blocks in the order in which they run, with their windows for images of (x, y, z) voxels."""
        blocks = []
        for s, stage in enumerate(self._stages()):
            token_size = 2 ** (s + 1)
            grid = tuple(-(-n // token_size) for n in image_size)
            window, shift = get_window_size(grid, stage.window_size, stage.shift_size)
            shifts = ((0, 0, 0), shift)
            blocks += [
                attention.AttentionBlock(
                    f"swinViT.layers{s + 1}.0.blocks.{i}", s, token_size, block.attn, window, shifts[i % 2]
                )
                for i, block in enumerate(stage.blocks)
            ]
        return blocks

    def _stages(self) -> list[Any]:
        return [getattr(self.swinViT, f"layers{number}")[0] for number in (1, 2, 3, 4)]

    def _check_input_size(self, spatial_shape: Sequence[int]) -> None:
        # Plain comparisons: MONAI's own check calls numpy, which breaks the graph of torch.compile.
        if any(n % SIZE_MULTIPLE for n in spatial_shape) or max(spatial_shape) == SIZE_MULTIPLE:
            raise RectalError(
                f"Swin UNETR needs sizes that are multiples of {SIZE_MULTIPLE}, at least one of them above it; "
                f"the patch size is {tuple(spatial_shape)}. Choose another patch size."
            )


def _run_stage(stage: Any, grid: Tensor, real: Tensor | None) -> Tensor:
    """Return the merged grid (batch, x, y, z, channel) after the blocks of one of MONAI's stages."""
    window, shift = get_window_size(tuple(grid.shape[1:4]), stage.window_size, stage.shift_size)
    masks = attention.window_masks(grid, window, shift, None if real is None else real[:, 0])
    shifts = ((0, 0, 0), shift)
    for i, block in enumerate(stage.blocks):
        tokens = block.norm1(grid)
        update = attention.attend_in_windows(block.attn, tokens, window, shifts[i % 2], masks[i % 2], "inverse")
        grid = grid + block.drop_path(update)
        grid = grid + block.forward_part2(grid)
    return stage.downsample(grid)
