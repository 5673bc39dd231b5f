"""What changes from step to step, as pure functions of how far a pretraining is."""

import math

from rectal_nnformer.pretraining.student import PUBLISHED_CHANNELS
from rectal_nnformer.training.learning_rate import warmup_cosine

LEARNING_RATE = 1e-4
"""Per scan of a batch."""
WARMUP = 20 / 500
"""Share of the steps with a rising learning rate: 20 of the published 500 epochs."""
TEMPERATURES = (0.04, 0.07)
SHARPENING = 30 / 500
"""Share of the steps over which the teacher's temperature rises: 30 of the published 500 epochs."""
MOMENTUM = 0.996


def learning_rate(step: int, steps: int, batch_size: int, channels: int = PUBLISHED_CHANNELS) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay.

    Encoders with fewer channels in their last grid than the published ones need more, by the root of the ratio.
    """
    peak = LEARNING_RATE * batch_size * math.sqrt(PUBLISHED_CHANNELS / channels)
    return warmup_cosine(step, steps, round(WARMUP * steps), peak)


def teacher_temperature(step: int, steps: int) -> float:
    """Return the temperature of the teacher's softmax in a step."""
    first, last = TEMPERATURES
    return first + (last - first) * min(1.0, step / (SHARPENING * steps))


def teacher_momentum(step: int, steps: int) -> float:
    """Return the share of itself that the teacher keeps after a step: from 0.996 to 1 by a cosine."""
    return 1 - (1 - MOMENTUM) * 0.5 * (1 + math.cos(math.pi * step / steps))
