"""The convolutional half of the networks: MONAI's residual blocks, with the same parameters, in less time and memory.

Nearly all arithmetic is in convolutions of few channels on large grids, and between them memory is the limit. So on a
GPU maps stay channels-last in memory, which cuDNN's half-precision kernels need (else each call reorders what it reads
and writes); on a CPU where convolutions take fewer multiplications so. Each normalization takes the form that is
cheapest for its device and order of memory.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor, nn

from rectal_nnformer.networks.convolution import channels_last, convolve, takes_less

EPSILON = 1e-5
"""Added to the variance, as in PyTorch's instance norm."""

NEGATIVE_SLOPE = 0.01
"""Of the leaky ReLU."""

VALUES_AT_A_TIME = 2**18
"""Of a map that is normalized on a CPU, so that what lies between the steps stays in the cache."""


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions with instance norm and leaky ReLU, and a shortcut around them.

    Args:
        block: MONAI's, whose convolutions it takes over under their names. Its norms have no parameters.
    """

    def __init__(self, block: UnetResBlock) -> None:
        super().__init__()
        self.conv1 = block.conv1
        self.conv2 = block.conv2
        self.conv3 = block.conv3 if block.downsample else None

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the grid of `x`; both are (batch, channel, x, y, z)."""
        convolution1, convolution2 = self.conv1.conv, self.conv2.conv
        if x.device.type == "cpu" and not takes_less(x, convolution2):
            x = x.contiguous()
        else:
            x = x.to(memory_format=torch.channels_last_3d)
        out = F.leaky_relu(instance_norm(convolve(x, convolution1)), NEGATIVE_SLOPE, inplace=True)
        out = instance_norm(convolve(out, convolution2))
        out += x if self.conv3 is None else instance_norm(self._shortcut(x, self.conv3.conv))
        return F.leaky_relu(out, NEGATIVE_SLOPE, inplace=True)

    def _shortcut(self, x: Tensor, convolution: nn.Conv3d) -> Tensor:
        """Return the convolution with a kernel of one voxel, which PyTorch does slowly in 3D on a CPU."""
        if x.device.type != "cpu":
            return convolution(x)
        if x.is_contiguous():
            return F.conv2d(x.flatten(3), convolution.weight.flatten(3)).unflatten(3, x.shape[3:])
        return F.linear(x.permute(0, 2, 3, 4, 1), convolution.weight.flatten(1)).permute(0, 4, 1, 2, 3)


def instance_norm(x: Tensor) -> Tensor:
    """Return a map (batch, channel, x, y, z) with mean 0 and variance 1 in each channel of each sample.

    The numbers are those of `torch.nn.functional.instance_norm` (Ulyanov et al. 2016, without affine parameters), which
    copies channels-last maps on a GPU and is slow on a CPU.
    """
    if torch.compiler.is_compiling():
        return norm_to_fuse(x)
    if x.device.type != "cpu":
        return norm_by_sample(x)
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
        return cast(Tensor, ChannelsLastNorm.apply(x))
    return F.group_norm(x, x.shape[1], eps=EPSILON)


def norm_to_fuse(x: Tensor) -> Tensor:
    """Return `instance_norm` in plain operations, which a compiler fuses with what follows."""
    values = x.float()
    variance, mean = torch.var_mean(values, dim=(2, 3, 4), keepdim=True, correction=0)
    return ((values - mean) * torch.rsqrt(variance + EPSILON)).to(x.dtype)


def norm_by_sample(x: Tensor) -> Tensor:
    """Return `instance_norm` as batch norm of each sample, which has kernels for channels-last maps."""
    samples = [F.batch_norm(sample, None, None, training=True, eps=EPSILON) for sample in x.split(1)]
    return samples[0] if len(samples) == 1 else torch.cat(samples)


class ChannelsLastNorm(torch.autograd.Function):
    """`instance_norm` of channels-last maps on a CPU, where PyTorch's sums of a million values lose three digits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the normalized map, channels-last in memory."""
        maps = channels_last(x)
        out = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last_3d)
        mean = _sums(maps) / maps[0, ..., 0].numel()
        pairs = _parts(maps, channels_last(out))
        squares = torch.stack([_sums(torch.sub(part, mean, out=result).square()) for part, result in pairs]).sum(0)
        scale = (squares / maps[0, ..., 0].numel() + EPSILON).rsqrt()
        for _, result in pairs:
            result *= scale
        ctx.save_for_backward(maps, mean, scale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of the map, channels-last in memory."""
        maps, mean, scale = ctx.saved_tensors
        gradient, voxels = channels_last(gradients[0]), maps[0, ..., 0].numel()
        out = torch.empty_like(maps)
        triples = _parts(maps, gradient, out)
        products = torch.stack([_sums((part - mean) * change) for part, change, _ in triples]).sum(0)
        mean_change, slope = _sums(gradient) / voxels, products / voxels * scale.square()
        for part, change, result in triples:
            torch.sub(part, mean, out=result).mul_(slope).add_(mean_change)
            torch.sub(change, result, out=result).mul_(scale)
        return out.permute(0, 4, 1, 2, 3)


def _sums(maps: Tensor) -> Tensor:
    """Return sums over the grid, (batch, 1, 1, 1, channel), axis by axis so that they round little."""
    return maps.sum(3, keepdim=True).sum(2, keepdim=True).sum(1, keepdim=True)


def _parts(*maps: Tensor) -> list[tuple[Tensor, ...]]:
    """Return maps (batch, x, y, z, channel) as parts along x."""
    slices = max(1, VALUES_AT_A_TIME // maps[0][:, 0].numel())
    return list(zip(*(each.split(slices, dim=1) for each in maps), strict=True))


def use_residual_blocks(network: nn.Module) -> None:
    """Put `ResidualBlock` in the place of MONAI's block everywhere in a network."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is UnetResBlock:
                setattr(module, name, ResidualBlock(child))
