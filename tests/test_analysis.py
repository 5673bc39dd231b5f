"""Attention flow and CKA: the golden numbers, hand-made cases, what is undefined."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectal_nnformer.analysis import attention_flow, linear_cka
from rectal_nnformer.geometry import window_partition_mask

GOLDEN = json.loads((Path(__file__).parent / "data/analysis.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["attention"], ids=lambda case: str(case["seed"]))
def test_attention_flow_is_the_published_one(case):
    grid = torch.zeros(case["grid"], dtype=torch.bool)
    grid[..., : case["real_tokens_last_axis"]] = True
    real = window_partition_mask(grid, case["window"], case["shift"] or 0)
    shape = (case["nW"], case["heads"], case["N"], case["N"])
    drawn = np.random.default_rng(case["seed"]).standard_normal(shape).astype(np.float32)
    flow = attention_flow((torch.from_numpy(drawn) * 2).softmax(-1), real)
    expected = {
        **{name.lower(): case[name] for name in ("adi", "A_rr", "A_rp", "A_pr", "A_pp")},
        "entropy": case["mean_H_total"],
        "padding_entropy": case["mean_H_rp"],
    }
    for name, value in expected.items():
        assert float(getattr(flow, name)) == pytest.approx(math.nan if value is None else value, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("case", GOLDEN["cka"], ids=lambda case: str(case["seed"]))
def test_linear_cka_is_the_published_one(case):
    rng = np.random.default_rng(case["seed"])
    n, p, q = case["n"], case["p"], case["q"]
    x, weights, noise = (rng.standard_normal(size).astype(np.float32) for size in ((n, p), (p, q), (n, q)))
    y = x @ weights + noise * p**0.5 * case["noise"]
    assert float(linear_cka(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(case["cka"], abs=1e-4)


def test_nine_tenths_of_the_mass_on_one_padding_key_are_an_eighth_of_the_entropy():
    weights = torch.full((1, 1, 64, 64), 0.1 / 63)
    weights[..., 63] = 0.9
    real = torch.ones(1, 64, dtype=torch.bool)
    real[0, 63] = False
    flow = attention_flow(weights, real)
    assert flow.adi == pytest.approx(0.13, abs=0.005)
    assert flow.a_rp == pytest.approx(0.9)


def test_heads_are_averaged_before_the_entropy():
    one_each = torch.eye(2).flip(0).expand(1, 2, 2, 2).clone()
    one_each[0, 1] = torch.eye(2)
    flow = attention_flow(one_each, torch.tensor([[True, False]]))
    assert flow.entropy == pytest.approx(math.log(2))
    assert flow.adi == pytest.approx(0.5)


def test_what_is_undefined_is_nan():
    alone = attention_flow(torch.ones(1, 1, 1, 1), torch.tensor([[True]]))
    assert math.isnan(alone.adi) and (alone.entropy, alone.a_rr, alone.a_rp) == (0, 1, 0)
    assert math.isnan(alone.a_pr) and math.isnan(alone.a_pp)
    padding = attention_flow(torch.full((2, 3, 4, 4), 0.25), torch.zeros(2, 4, dtype=torch.bool))
    names = ("adi", "a_rr", "a_rp", "a_pr", "a_pp", "entropy", "padding_entropy")
    assert all(math.isnan(getattr(padding, name)) for name in names)


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=25)
def test_flows_of_crops_add_up_and_windows_of_padding_take_no_part(seed, split):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randn(5, 2, 6, 6, generator=generator).softmax(-1)
    real = torch.rand(5, 6, generator=generator) < 0.5
    real[0], real[1, 0] = False, True
    whole, rest = attention_flow(attention, real), attention_flow(attention[1:], real[1:])
    parts = attention_flow(attention[:split], real[:split]) + attention_flow(attention[split:], real[split:])
    assert whole.real_queries == parts.real_queries == int(real.sum())
    for name in ("adi", "a_rr", "a_rp", "a_pr", "a_pp", "entropy", "padding_entropy"):
        value = getattr(whole, name)
        assert getattr(parts, name) == pytest.approx(value, abs=1e-6, nan_ok=True)
        assert getattr(rest, name) == pytest.approx(value, abs=1e-6, nan_ok=True)
    assert 0 <= whole.adi <= 1


@pytest.mark.parametrize(
    ("attention", "real", "message"),
    [
        (torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), "windows, heads, N, N"),
        (torch.ones(1, 1, 2, 2), torch.ones(2, 2, dtype=torch.bool), "windows, heads, N, N"),
        (torch.ones(1, 1, 2, 2), torch.ones(1, 2), "must be bool"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(attention, real, message):
    with pytest.raises(ValueError, match=message):
        attention_flow(attention, real)


def test_cka_knows_neither_rotation_nor_scale_nor_offset():
    x = torch.randn(12, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5)).Q
    assert float(linear_cka(x, 3 * x @ rotation + 7)) == pytest.approx(1)
    assert math.isnan(float(linear_cka(x, torch.ones(12, 3))))
    with pytest.raises(ValueError, match="same samples"):
        linear_cka(x, torch.randn(11, 5))
