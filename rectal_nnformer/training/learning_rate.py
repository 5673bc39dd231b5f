"""The learning rate as a pure function of the epoch, so that a resumed training continues exactly."""

import math

from torch.optim import Optimizer


def warmup_cosine(epoch: int, num_epochs: int, warmup_epochs: int, peak: float) -> float:
    """Return the learning rate of an epoch: linear warm-up to `peak`, then cosine decay towards 0.

    The first epoch trains with `peak / warmup_epochs`, the last of the warm-up with `peak`, and the rate would reach 0
    at `num_epochs`, the first epoch that is not trained any more. A training of at most `warmup_epochs` warms up only.
    """
    if epoch < warmup_epochs:
        return peak * (epoch + 1) / warmup_epochs
    progress = (epoch - warmup_epochs) / (num_epochs - warmup_epochs)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


class WarmupCosineScheduler:
    """Sets `warmup_cosine` on an optimizer.

    nnU-Net calls `step(epoch)` when an epoch starts and saves no state of the scheduler.
    """

    def __init__(self, optimizer: Optimizer, num_epochs: int, warmup_epochs: int, peak: float) -> None:
        self.optimizer = optimizer
        self.num_epochs = num_epochs
        self.warmup_epochs = warmup_epochs
        self.peak = peak

    def step(self, epoch: int) -> None:
        """Set the learning rate of `epoch` on every parameter group."""
        rate = warmup_cosine(epoch, self.num_epochs, self.warmup_epochs, self.peak)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
