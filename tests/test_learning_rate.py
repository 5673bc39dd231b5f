"""The learning rate is a function of the epoch alone."""

import itertools

import pytest
import torch

from rectal_nnformer.training.learning_rate import WarmupCosineScheduler, warmup_cosine


def test_warm_up_is_linear_and_ends_at_the_peak():
    rates = [warmup_cosine(epoch, 500, 50, 3e-4) for epoch in range(50)]
    steps = [b - a for a, b in itertools.pairwise(rates)]
    assert rates[0] == pytest.approx(3e-4 / 50)
    assert rates[-1] == pytest.approx(3e-4)
    assert steps == pytest.approx([3e-4 / 50] * 49)


def test_decay_is_a_half_cosine_to_almost_nothing():
    assert warmup_cosine(50, 500, 50, 3e-4) == pytest.approx(3e-4)
    assert warmup_cosine(275, 500, 50, 3e-4) == pytest.approx(1.5e-4)
    rates = [warmup_cosine(epoch, 500, 50, 3e-4) for epoch in range(50, 500)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-8


def test_a_training_shorter_than_the_warm_up_only_warms_up():
    assert [warmup_cosine(epoch, 2, 50, 1.0) for epoch in range(2)] == pytest.approx([0.02, 0.04])


def test_the_scheduler_needs_no_history():
    """A training resumed at epoch 100 has the rate of an uninterrupted one."""
    optimizers = [torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]) for _ in range(2)]
    uninterrupted, resumed = (WarmupCosineScheduler(optimizer, 500, 50, 3e-4) for optimizer in optimizers)
    for epoch in range(101):
        uninterrupted.step(epoch)
    resumed.step(100)
    assert (
        optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"] == warmup_cosine(100, 500, 50, 3e-4)
    )
