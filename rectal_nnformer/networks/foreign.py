"""Any other network behind what the analyses ask for, such as MONAI's UNETR or nnU-Net's own networks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.recording import FeatureLayer
from rectal_nnformer.networks.window_attention import AttentionBlock, PartCallback

DROPOUTS = ("drop_weights", "attn_drop")
"""What MONAI's and timm's attention calls its dropout, which is given the attention after softmax."""
FUSED_FLAGS = ("use_flash_attention", "fused_attn")
"""How either is told to leave attention to a kernel that does not hand it out."""


class ForeignNetwork(nn.Module):
    """A network as `rectal_nnformer.analysis` takes it, for attention dilution, CKA or both.

    Attention is that of every MONAI or timm attention layer inside, global over the grid of tokens: one window. A token
    is real if any of its voxels is, and a voxel is padding where all channels are exactly 0, as nnU-Net pads.

    Args:
        network: Takes (batch, channel, *patch), axes as stored; not compiled.
        name: What records call it.
        token_size: Voxels per axis of a token; None where its attention is not asked for.
        layers: Modules whose outputs are features to compare, by their names in the network: maps
            (batch, channel, *grid), or tokens (batch, tokens, channel).
        spatial_axes: Permutation p such that `array.transpose(p)` has the axes (x, y, z), as in the plans.

    Example:
        >>> from monai.networks.nets import UNETR
        >>> unetr = ForeignNetwork(UNETR(1, 2, (32, 32, 32), hidden_size=48, num_heads=4), "UNETR", token_size=16)
        >>> len(unetr.attention_blocks((32, 32, 32)))
        12
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        *,
        token_size: int | None = None,
        layers: Sequence[str] = (),
        spatial_axes: Sequence[int] = (2, 1, 0),
    ) -> None:
        super().__init__()
        self.network, self.backbone_name = network, name
        self.token_size, self.layers = token_size, tuple(layers)
        self.to_xyz = (0, 1, *(axis + 2 for axis in spatial_axes))
        self.from_xyz = tuple(int(axis) for axis in torch.argsort(torch.tensor(self.to_xyz)))

    @property
    def backbone(self) -> "ForeignNetwork":
        """Itself: nothing stands between it and the images."""
        return self

    def prepare(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return image and real voxels with the axes (batch, channel or 1, x, y, z)."""
        return image.permute(self.to_xyz), (image != 0).any(dim=1, keepdim=True).permute(self.to_xyz)

    def encode(self, x: Tensor, real_voxels: Tensor | None = None) -> object:
        """Run the whole network on (batch, channel, x, y, z)."""
        return self.network(x.permute(self.from_xyz))

    def attention_blocks(self, image_size: Sequence[int]) -> list[AttentionBlock]:
        """Return its attention layers, those that do not run too, for images of (x, y, z) voxels."""
        if self.token_size is None:
            return []
        x, y, z = self._grid(image_size)
        numbers = torch.arange(x * y * z).reshape([(x, y, z)[axis - 2] for axis in self.from_xyz[2:]])
        order = numbers.permute([axis - 2 for axis in self.to_xyz[2:]]).flatten()
        return [
            AttentionBlock(name, 0, self.token_size, GlobalAttention(module, order), (x, y, z), (0, 0, 0))
            for name, module in self.network.named_modules()
            if any(hasattr(module, dropout) for dropout in DROPOUTS)
        ]

    def feature_layers(self, image_size: Sequence[int]) -> list[FeatureLayer]:
        """Return the layers that were named; maps are stages of their own, tokens all of one."""
        return [
            FeatureLayer(name, number if self.token_size is None else 0, partial(self._watched, name, image_size))
            for number, name in enumerate(self.layers)
        ]

    def _grid(self, image_size: Sequence[int]) -> tuple[int, int, int]:
        assert self.token_size is not None
        x, y, z = (-(-n // self.token_size) for n in image_size)
        return x, y, z

    @contextmanager
    def _watched(
        self, name: str, image_size: Sequence[int], callback: Callable[[Tensor, tuple[int, ...]], None]
    ) -> Iterator[None]:
        def hand_over(_: nn.Module, __: object, output: Tensor) -> None:
            if output.ndim == 3:
                grid = [self._grid(image_size)[axis - 2] for axis in self.from_xyz[2:]]
                output = output.transpose(1, 2).unflatten(2, grid)
            features = output.permute(self.to_xyz).permute(0, 2, 3, 4, 1)
            edges = tuple(-(-n // tokens) for n, tokens in zip(image_size, features.shape[1:4], strict=True))
            callback(features, edges)

        handle = self.network.get_submodule(name).register_forward_hook(hand_over)
        try:
            yield
        finally:
            handle.remove()


class GlobalAttention:
    """A MONAI or timm attention layer, read where it drops attention out.

    Args:
        module: The layer.
        order: Its tokens in C order of (x, y, z).
    """

    def __init__(self, module: nn.Module, order: Tensor) -> None:
        self._module, self._order = module, order

    @contextmanager
    def watched(self, callback: PartCallback, elements: int) -> Iterator[None]:
        """Hand the attention (batch, heads, N, N) over; one window cannot be parted, whatever `elements` are.

        Raises:
            RectalError: There are other tokens than those of the grid, such as registers.
        """

        def hand_over(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            attention = inputs[0]
            if attention.shape[-1] != len(self._order):
                raise RectalError(
                    f"{type(self._module).__name__} attends to {attention.shape[-1]} tokens, but the patch has "
                    f"{len(self._order)}. Give the right token_size; class tokens, registers and windows cannot be "
                    "measured."
                )
            order = self._order.to(attention.device)
            callback(slice(0, len(attention)), attention[..., order, :][..., order])

        layer: Any = self._module
        with ExitStack() as undone:
            for flag in FUSED_FLAGS:
                if hasattr(layer, flag):
                    undone.callback(setattr, layer, flag, getattr(layer, flag))
                    setattr(layer, flag, False)
            dropout = next(getattr(layer, name) for name in DROPOUTS if hasattr(layer, name))
            undone.callback(dropout.register_forward_pre_hook(hand_over).remove)
            yield
