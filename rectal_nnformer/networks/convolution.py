"""3 x 3 x 3 convolutions in float32 on a CPU with half the multiplications.

Winograd's minimal filtering (Lavin and Gray, CVPR 2016, section 4.1) along the first axis of the grid: a tile of four
values takes six products with a kernel of three, not twelve. Each product is here a 3 x 3 convolution along the other
two axes by PyTorch. What is combined before and after costs little beside it where channels are many.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

TILE, KERNEL = 4, 3
SLICES = TILE + KERNEL - 1
"""Of the input that a tile of the output is made of."""

NODES = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
"""Where the method evaluates polynomials, besides infinity: of those tried the ones that round least."""

FEWEST_CHANNELS = 48
FEWEST_VOXELS = 16 * 16 * 8
"""With fewer of either, a plain convolution takes no longer."""

VOXELS_AT_A_TIME = 64 * 64
"""Of slices that are convolved together, so that what lies between the steps stays in the cache."""


def minimal_filtering() -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices of slices, kernels and products: (6, 6), (6, 3) and (4, 6), in float64.

    A tile is `products @ ((kernels @ kernel) * (slices @ values))`: the product of two polynomials by their values at
    `NODES` (Toom and Cook), transposed. Rows of the first are scaled by powers of two to about 1, of the second back.
    """

    def powers(degree: int) -> np.ndarray:
        at_infinity = np.eye(degree)[-1:]
        return np.vstack([np.power.outer(np.array(NODES, dtype=float), np.arange(degree)), at_infinity])

    slices, kernels, products = np.linalg.inv(powers(SLICES)).T, powers(KERNEL), powers(TILE).T
    scale = 2.0 ** -np.round(np.log2(np.abs(slices).max(axis=1, keepdims=True)))
    return torch.from_numpy(slices * scale), torch.from_numpy(kernels / scale), torch.from_numpy(products.copy())


_OF_SLICES, _OF_KERNELS, _OF_PRODUCTS = minimal_filtering()


def convolve(x: Tensor, convolution: nn.Conv3d) -> Tensor:
    """Return the convolution of a map (batch, channel, x, y, z).

    Where `takes_less` says so, it takes about 0.6 of the usual time, differs from the usual result by a few millionths
    of the largest value, and is channels-last in memory.
    """
    if takes_less(x, convolution):
        return cast(Tensor, Filtering.apply(x, convolution.weight))
    return convolution(x)


def takes_less(x: Tensor, convolution: nn.Conv3d) -> bool:
    """Tell whether minimal filtering is made for this convolution, and faster."""
    return (
        x.device.type == "cpu"
        and x.dtype == convolution.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and convolution.kernel_size == (KERNEL,) * 3
        and convolution.stride == convolution.padding == convolution.dilation == (1, 1, 1)
        and convolution.groups == 1
        and convolution.bias is None
        and x.shape[2] % TILE == 0
        and min(convolution.weight.shape[:2]) >= FEWEST_CHANNELS
        and math.prod(x.shape[2:]) >= FEWEST_VOXELS
    )


class Filtering(torch.autograd.Function):
    """The convolution of a map with a kernel (out, in, 3, 3, 3), padded by 0 to the same grid, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Return the map (batch, out, x, y, z), channels-last in memory; x is best so, too."""
        ctx.save_for_backward(x, weight)
        return _filtered(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the map and of the kernel, by the same method."""
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last_3d)
        mirrored = weight.flip(2, 3, 4).transpose(0, 1)
        of_x = _filtered(gradient, mirrored) if ctx.needs_input_grad[0] else None
        of_weight = _gradient_of_weight(x, gradient, weight) if ctx.needs_input_grad[1] else None
        return of_x, of_weight


def channels_last(x: Tensor) -> Tensor:
    """Return a map as (batch, x, y, z, channel), contiguous in memory: slices of the first axis lie together."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def _filtered(x: Tensor, weight: Tensor) -> Tensor:
    out = x.new_empty(len(x), *x.shape[2:], len(weight)).permute(0, 4, 1, 2, 3)
    kernels = torch.einsum("kd,ocdhw->kochw", _OF_KERNELS.to(weight), weight)
    images = [kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels]
    for values, result in _groups_of_tiles(channels_last(x), channels_last(out)):
        combined = _combined(values)
        products = values.new_empty(*combined.shape[:-1], len(weight))
        for image, kernel, product in zip(combined, images, products, strict=True):
            product.copy_(F.conv2d(_image(image), kernel, padding=1).permute(0, 2, 3, 1))
        for number, tile in enumerate(result.flatten(1).split(TILE)):
            torch.mm(_OF_PRODUCTS.to(x), products[:, number].flatten(1), out=tile)
    return out


def _gradient_of_weight(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    kernels = weight.new_zeros(SLICES, *weight.shape[:2], *weight.shape[3:])
    for values, result in _groups_of_tiles(channels_last(x), channels_last(gradient)):
        combined = _combined(values)
        products = values.new_empty(*combined.shape[:-1], len(weight))
        for number, tile in enumerate(result.flatten(1).split(TILE)):
            torch.mm(_OF_PRODUCTS.T.to(x), tile, out=products[:, number].flatten(1))
        for image, product, kernel in zip(combined, products, kernels, strict=True):
            kernel += conv2d_weight(_image(image), kernel.shape, _image(product), padding=1)
    return torch.einsum("kd,kochw->ocdhw", _OF_KERNELS.to(weight), kernels)


def _groups_of_tiles(maps: Tensor, results: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield slices of the input, 0 beyond its ends, and the slices of the result that come from them."""
    depth, height, width = maps.shape[1:4]
    step = TILE * max(1, VOXELS_AT_A_TIME // (height * width))
    for sample, result in zip(maps, results, strict=True):
        for first in range(0, depth, step):
            last = min(first + step, depth)
            inside = sample[max(first - 1, 0) : last + 1]
            beyond = (0, 0, 0, 0, 0, 0, int(first == 0), int(last == depth))
            yield F.pad(inside, beyond) if any(beyond) else inside, result[first:last]


def _combined(values: Tensor) -> Tensor:
    """Return what is to be convolved, (6, tile, y, z, channel)."""
    combined = values.new_empty(SLICES, (len(values) - SLICES) // TILE + 1, *values.shape[1:])
    for number in range(combined.shape[1]):
        slices = values[number * TILE : number * TILE + SLICES].flatten(1)
        torch.mm(_OF_SLICES.to(values), slices, out=combined[:, number].flatten(1))
    return combined


def _image(values: Tensor) -> Tensor:
    return values.permute(0, 3, 1, 2)
