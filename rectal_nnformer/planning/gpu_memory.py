"""Whether a training step fits a GPU, and how large a batch does."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import Size
from rectal_nnformer.planning.backbones import Backbone
from rectal_nnformer.planning.memory import GIB, OUTSIDE_TENSORS, RESERVE, StepMemory, step_memory

DEFAULT_TARGET = 24.0
"""GB of a GPU unless the user says otherwise."""

MIN_BATCH_SIZE = 2
"""nnU-Net's."""

Counter = Callable[[Size, int], StepMemory]
"""Gives the memory of a training step on a patch (x, y, z) and a batch of so many."""


@dataclass(frozen=True)
class MemoryTarget:
    """The GPU that is planned for. A GB is 2**30 bytes here, as cards are sold.

    Attributes:
        gigabytes: Its memory.
        count: Counts a training step.
    """

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
    """Return the target for a network.

    Args:
        gigabytes: Memory of the GPU; None for the default of 24.
        backbone: The network.
        in_channels: Image channels.
        out_channels: Segmentation heads.

    Raises:
        RectalError: No positive number of gigabytes.
    """
    target = DEFAULT_TARGET if gigabytes is None else float(gigabytes)
    if not 0 < target < float("inf"):
        raise RectalError(f"The GPU memory target must be a positive number of GB, not {gigabytes}.")
    count = partial(
        step_memory,
        backbone.network,
        in_channels=in_channels,
        out_channels=out_channels,
        backbone_kwargs=backbone.kwargs,
    )
    return MemoryTarget(target, count)
