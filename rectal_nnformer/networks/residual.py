"""The convolutional half of the networks: MONAI's residual blocks, with the same parameters, in less time and memory.

Nearly all arithmetic is in convolutions of few channels on large grids, and between them memory is the limit. So on a
GPU maps stay channels-last in memory, which cuDNN's half-precision kernels need (else each call reorders what it reads
and writes), and each normalization takes the form that is cheapest on its device.
"""

import torch
import torch.nn.functional as F
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor, nn

EPSILON = 1e-5
"""Added to the variance, as in PyTorch's instance norm."""

NEGATIVE_SLOPE = 0.01
"""Of the leaky ReLU."""


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
        x = x.contiguous() if x.device.type == "cpu" else x.to(memory_format=torch.channels_last_3d)
        out = F.leaky_relu(instance_norm(self.conv1(x)), NEGATIVE_SLOPE, inplace=True)
        out = instance_norm(self.conv2(out))
        out += x if self.conv3 is None else instance_norm(self.conv3(x))
        return F.leaky_relu(out, NEGATIVE_SLOPE, inplace=True)


def instance_norm(x: Tensor) -> Tensor:
    """Return a map (batch, channel, x, y, z) with mean 0 and variance 1 in each channel of each sample.

    The numbers are those of `torch.nn.functional.instance_norm` (Ulyanov et al. 2016, without affine parameters), which
    copies channels-last maps on a GPU and is slow on a CPU.
    """
    if torch.compiler.is_compiling():
        return norm_to_fuse(x)
    return F.group_norm(x, x.shape[1], eps=EPSILON) if x.device.type == "cpu" else norm_by_sample(x)


def norm_to_fuse(x: Tensor) -> Tensor:
    """Return `instance_norm` in plain operations, which a compiler fuses with what follows."""
    values = x.float()
    variance, mean = torch.var_mean(values, dim=(2, 3, 4), keepdim=True, correction=0)
    return ((values - mean) * torch.rsqrt(variance + EPSILON)).to(x.dtype)


def norm_by_sample(x: Tensor) -> Tensor:
    """Return `instance_norm` as batch norm of each sample, which has kernels for channels-last maps."""
    samples = [F.batch_norm(sample, None, None, training=True, eps=EPSILON) for sample in x.split(1)]
    return samples[0] if len(samples) == 1 else torch.cat(samples)


def use_residual_blocks(network: nn.Module) -> None:
    """Put `ResidualBlock` in the place of MONAI's block everywhere in a network."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is UnetResBlock:
                setattr(module, name, ResidualBlock(child))
