"""How much GPU memory one training step takes, counted without a GPU, and whether that fits.

The step is run on PyTorch's `meta` device, whose tensors have a size and a type but no data, in the same mixed
precision as nnU-Net's training. Every tensor that comes into being is counted until it is freed: what autograd saves
for the backward pass, and what forward and backward need in between. The size of the patch makes no difference.
"""

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import Size
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.planning.backbones import Backbone

GIB = 2**30
BLOCK = 512
"""PyTorch's allocator gives out multiples of this many bytes."""

OUTSIDE_TENSORS = 0.7 * GIB
"""Bytes that CUDA and its libraries take beside PyTorch's memory (measured on an H100)."""

RESERVE = 1.2
"""PyTorch's memory over what the tensors counted here take: workspaces of cuDNN, and what its allocator cannot use.
Measured on an H100 with SMIT: it reserves 1.06 times what is counted."""

ALIGNMENT = 8
"""The memory-efficient attention takes heads of a multiple of 8 channels, and biases of a multiple of 8 keys."""

DEFAULT_TARGET = 24.0
"""GB of a GPU unless the user says otherwise."""

MIN_BATCH_SIZE = 2
"""nnU-Net's."""


@dataclass(frozen=True)
class StepMemory:
    """Memory of one training step with AdamW, bytes: weights with buffers, two moments of each, gradients, activations.

    Activations are what lives between forward and backward pass besides: input, target, and the tensors that autograd
    saved, among them the half-precision copies of the weights. `forward_backward` is the most that lives during both
    passes, linear in the batch size; `update` while AdamW updates all at once, with two temporary tensors for each.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    forward_backward: int
    update: int

    @property
    def peak(self) -> int:
        """The most that lives at any time of the step."""
        return max(self.forward_backward, self.update)

    @property
    def reserved(self) -> float:
        """What PyTorch needs of the GPU."""
        return RESERVE * self.peak

    @property
    def required(self) -> float:
        """What the process needs of the GPU, everything included."""
        return OUTSIDE_TENSORS + self.reserved


def training_loss() -> nn.Module:
    """Return the loss that nnU-Net's trainer builds for labels without regions: Dice and cross-entropy."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)


def planned_network(backbone: str, in_channels: int, out_channels: int, kwargs: Mapping[str, Any]) -> PlannedNetwork:
    """Return a network as trainers build it, its intensity window and axes being of no account here."""
    return PlannedNetwork(
        in_channels,
        out_channels,
        backbone=backbone,
        backbone_kwargs={"drop_path_rate": 0.1, **kwargs},
        intensity_window=[[0.0, 1.0]] * in_channels,
        spatial_axes=(2, 1, 0),
    )


def step_memory(
    backbone: str,
    patch_size: Sequence[int],
    batch_size: int,
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    backbone_kwargs: Mapping[str, Any] | None = None,
) -> StepMemory:
    """Count the memory of one training step in mixed precision on patches of so many voxels (x, y, z).

    The backbone is a key of `rectal_nnformer.networks.adapter.NETWORK_CLASSES`.

    Returns:
        Bytes that tensors take. What is no tensor is not in it: the CUDA context, workspaces of cuDNN, and memory that
        PyTorch's allocator reserves and does not use.
    """
    kwargs = json.dumps(dict(backbone_kwargs or {}), sort_keys=True)
    return _count(_meta_network(backbone, in_channels, out_channels, kwargs), tuple(patch_size), batch_size)


Counter = Callable[[Size, int], StepMemory]
"""Gives the memory of a training step on a patch (x, y, z) and a batch of so many."""


@dataclass(frozen=True)
class MemoryTarget:
    """The GPU that is planned for, and what counts a training step. A GB is 2**30 bytes here, as cards are sold."""

    gigabytes: float
    count: Counter = field(repr=False)

    def required(self, patch_size: Size, batch_size: int) -> float:
        """Return the GB that a training step takes of a GPU, everything included; at least 2 in a batch."""
        memory = self.count(patch_size, MIN_BATCH_SIZE)
        if batch_size > MIN_BATCH_SIZE:
            more = (batch_size - MIN_BATCH_SIZE) * self._each_more(patch_size)
            memory = replace(memory, forward_backward=memory.forward_backward + more)
        return memory.required / GIB

    def fits(self, patch_size: Size, batch_size: int = MIN_BATCH_SIZE) -> bool:
        """Whether a training step fits."""
        return self.required(patch_size, batch_size) <= self.gigabytes

    def largest_batch(self, patch_size: Size, limit: int) -> int:
        """Return the largest batch that fits, at least 2 and at most `limit`."""
        if limit <= MIN_BATCH_SIZE:
            return MIN_BATCH_SIZE
        available = (self.gigabytes * GIB - OUTSIDE_TENSORS) / RESERVE
        left = available - self.count(patch_size, MIN_BATCH_SIZE).forward_backward
        more = int(left // self._each_more(patch_size))
        return MIN_BATCH_SIZE + min(max(more, 0), limit - MIN_BATCH_SIZE)

    def _each_more(self, patch_size: Size) -> int:
        """Return the bytes of tensors that each further patch in the batch adds: memory is linear in the batch size."""
        two, three = (self.count(patch_size, n).forward_backward for n in (MIN_BATCH_SIZE, MIN_BATCH_SIZE + 1))
        return three - two


def memory_target(gigabytes: float | None, backbone: Backbone, in_channels: int, out_channels: int) -> MemoryTarget:
    """Return the target for a network of so many image channels and segmentation heads; None is the default of 24 GB.

    Raises:
        RectalError: No positive number of gigabytes.
    """
    target = DEFAULT_TARGET if gigabytes is None else float(gigabytes)
    if not 0 < target < float("inf"):
        raise RectalError(f"The GPU memory target must be a positive number of GB, not {gigabytes}.")
    count = partial(step_memory, backbone.network, in_channels=in_channels, out_channels=out_channels)
    return MemoryTarget(target, partial(count, backbone_kwargs=backbone.kwargs))


@cache
def _meta_network(backbone: str, in_channels: int, out_channels: int, kwargs: str) -> PlannedNetwork:
    return planned_network(backbone, in_channels, out_channels, json.loads(kwargs)).train().to_empty(device="meta")


@cache
def _count(network: PlannedNetwork, patch_size: tuple[int, ...], batch_size: int) -> StepMemory:
    parameters = [*network.parameters()]
    shape = (batch_size, 1, *reversed(patch_size))
    with LiveBytes() as live:
        live.add([*parameters, *network.buffers()])
        weights = live.now
        image = torch.empty(batch_size, network.window_low.shape[1], *shape[2:], device="meta")
        target = torch.empty(shape, dtype=torch.int16, device="meta")
        with MixedPrecision():
            loss = training_loss()(network(image), target)
        after_forward = live.now
        loss.backward()
    gradients = sum(_rounded(p.grad.nbytes) for p in parameters if p.grad is not None)
    network.zero_grad(set_to_none=True)
    optimizer = 2 * gradients
    return StepMemory(
        weights,
        optimizer,
        gradients,
        activations=after_forward - weights,
        forward_backward=live.peak + optimizer,
        update=weights + gradients + optimizer + 2 * gradients,
    )


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is active, until each is freed: now and at the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it returns."""
        result = func(*args, **(kwargs or {}))
        self.add([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        return result

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Count tensors; those that share memory with one that is counted already add nothing."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            key = storage._cdata
            if key in self._known:
                continue
            self._known.add(key)
            size = _rounded(storage.nbytes())
            self.now += size
            weakref.finalize(storage, self._free, key, size)
        self.peak = max(self.peak, self.now)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _FusedAttention(torch.autograd.Function):
    """Takes the memory of the attention that PyTorch runs on a GPU when the bias needs a gradient.

    That is the memory-efficient kernel: it saves its arguments, its result and one number for each query, and gives
    back the gradient of the bias for every window. `WindowAttention` keeps less, as it computes attention again in the
    backward pass; counting all of it leaves a margin.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Return an update for each query, (windows, heads, tokens, channel)."""
        update = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)
        normalizer = query.new_empty((*query.shape[:2], _rounded(query.shape[2], 32)), dtype=torch.float32)
        ctx.save_for_backward(query, key, value, bias, update, normalizer)
        return update

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """Return gradients of query, key, value and bias."""
        query, key, value, bias, _, _ = ctx.saved_tensors
        bias_gradient = query.new_empty((*query.shape[:3], _rounded(key.shape[2], ALIGNMENT)))[..., : key.shape[2]]
        if len(bias) < len(query):
            bias_gradient = bias_gradient.sum(0, keepdim=True)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), bias_gradient


class MixedPrecision(TorchFunctionMode):
    """What `torch.autocast("cuda")` does to the functions that these networks and their loss call.

    Autocast itself does nothing on the `meta` device. Sources: PyTorch's documentation of autocast, its lists of CUDA
    operations that run in float16 and in float32.
    """

    HALF = (F.linear, F.conv3d, F.conv_transpose3d, torch.matmul, Tensor.matmul, Tensor.__matmul__)
    FULL = (F.layer_norm, F.softmax, torch.softmax, F.cross_entropy)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of PyTorch on tensors of its precision."""
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        if func in self.HALF or func in self.FULL:
            dtype = torch.float16 if func in self.HALF else torch.float32
            args = tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
        return func(*args, **(kwargs or {}))


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, scale: float | None = None) -> Tensor:
    """Attend as PyTorch does on a GPU: by its memory-efficient kernel where that can, else by plain operations."""
    query, key, value, bias = (tensor.half() for tensor in (query, key, value, attn_mask))
    if query.shape[-1] % ALIGNMENT or bias.stride(-1) != 1:
        return torch._scaled_dot_product_attention_math(query, key, value, bias)[0]
    if unaligned := -bias.shape[-1] % ALIGNMENT:
        bias = F.pad(bias, (0, unaligned))[..., : key.shape[2]]
    return _FusedAttention.apply(query, key, value, bias)


def _rounded(size: int, multiple: int = BLOCK) -> int:
    """Return the size rounded up to a multiple."""
    return -(-size // multiple) * multiple
