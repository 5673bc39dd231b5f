"""Window attention on grids of any size against a reference that asks, for each pair of tokens, whether they meet."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectal_nnformer.networks.window_attention import (
    WindowAttention,
    attend_in_windows,
    cut_windows,
    restore_windows,
    window_masks,
)

CHANNELS, HEADS = 6, 2
sizes = st.tuples(*[st.integers(1, 7)] * 3)
windows = st.integers(2, 4)
reverses = st.sampled_from(["published", "inverse"])


def make_attention(window):
    torch.manual_seed(window)
    attention = WindowAttention(CHANNELS, HEADS, window).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    return attention


def reference(attention, grid, window, shift, real, reverse):
    """Attend token by token on one grid (x, y, z, channel); `real` (x, y, z) hides the other keys, None hides none."""
    counts = [-(-n // window) for n in grid.shape[:3]]
    lengths = [n * window for n in counts]
    padded = np.zeros((*lengths, CHANNELS))
    padded[tuple(slice(n) for n in grid.shape[:3])] = grid
    visible = np.ones(lengths, dtype=bool)
    if real is not None:
        visible[:] = False
        visible[tuple(slice(n) for n in real.shape)] = real
    parameters = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    query, key, value = np.split(padded @ parameters["qkv.weight"].T + parameters["qkv.bias"], 3, axis=-1)
    result = np.zeros_like(padded)
    for home in np.ndindex(*counts):
        places = list(itertools.product(range(window), repeat=3))
        rolled = np.array([[w * window + i for w, i in zip(home, place, strict=True)] for place in places])
        origin = [tuple(int(p) for p in (position + shift) % lengths) for position in rolled]
        wrapped = rolled >= np.array(lengths) - shift
        seen = np.array([visible[token] for token in origin])
        seen |= not seen.any()
        for index, token in enumerate(origin):
            update = np.zeros(CHANNELS)
            for head in range(HEADS):
                part = slice(head * CHANNELS // HEADS, (head + 1) * CHANNELS // HEADS)
                logits = np.array([query[token][part] @ key[other][part] for other in origin])
                logits /= (CHANNELS // HEADS) ** 0.5
                offset = np.array(places[index]) - np.array(places) + window - 1
                rows = np.ravel_multi_index(tuple(offset.T), (2 * window - 1,) * 3)
                logits += parameters["relative_position_bias_table"][rows, head]
                logits -= 100 * (wrapped != wrapped[index]).any(axis=1)
                weights = np.where(seen, np.exp(logits - logits[seen].max()), 0)
                update[part] = weights @ np.array([value[other][part] for other in origin]) / weights.sum()
            target = token
            if reverse == "published":
                (a, b, c), (i, j, k) = home, places[index]
                order = (counts[0], counts[2], window, counts[1], window, window)
                scattered = np.unravel_index(np.ravel_multi_index((a, c, j, b, i, k), order), lengths)
                target = tuple((np.array(scattered) + shift) % lengths)
            result[target] = update @ parameters["proj.weight"].T + parameters["proj.bias"]
    return result[tuple(slice(n) for n in grid.shape[:3])]


def attend(attention, grid, window, shift, real, reverse):
    cube, shifts = (window,) * 3, (shift,) * 3
    masks = window_masks(grid, cube, (window // 2,) * 3, real)
    return attend_in_windows(attention, grid, cube, shifts, masks[1 if shift else 0], reverse)


@given(sizes, windows, st.booleans(), reverses, st.sampled_from([None, 0.2, 0.7]))
@settings(max_examples=30)
@torch.no_grad()
def test_grids_of_any_size_agree_with_the_reference(size, window, shifted, reverse, share):
    rng = np.random.default_rng(sum(size))
    grid = rng.standard_normal((2, *size, CHANNELS))
    real = None if share is None else rng.random((2, *size)) < share
    shift = window // 2 if shifted else 0
    attention = make_attention(window)
    found = attend(
        attention, torch.from_numpy(grid), window, shift, None if real is None else torch.from_numpy(real), reverse
    )
    expected = [
        reference(attention, grid[i], window, shift, None if real is None else real[i], reverse) for i in range(2)
    ]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-6)


@given(sizes, windows, st.booleans(), st.integers(0, 2**31))
@settings(max_examples=30)
@torch.no_grad()
def test_real_tokens_do_not_feel_hidden_ones(size, window, shifted, seed):
    torch.manual_seed(seed)
    real = torch.rand(1, *size) < 0.5
    grid = torch.randn(1, *size, CHANNELS, dtype=torch.float64)
    changed = torch.where(real.unsqueeze(-1), grid, 100 * torch.randn_like(grid))
    attention = make_attention(window)
    shift = window // 2 if shifted else 0
    before, after = (attend(attention, g, window, shift, real, "inverse") for g in (grid, changed))
    torch.testing.assert_close(after[real], before[real])


@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_inverse_restores_every_token(counts, window):
    size = tuple(n * w for n, w in zip(counts, window, strict=True))
    grid = torch.arange(2 * size[0] * size[1] * size[2] * 3).reshape(2, *size, 3)
    assert torch.equal(restore_windows(cut_windows(grid, window), size, window, "inverse"), grid)


def test_published_order_sends_nearly_every_token_elsewhere():
    size, window = (64, 64, 32), (4, 4, 4)
    grid = torch.arange(64 * 64 * 32).reshape(1, *size, 1)
    scattered = restore_windows(cut_windows(grid, window), size, window, "published")
    assert torch.equal(scattered.flatten().sort().values, grid.flatten())
    assert (scattered != grid).float().mean().item() >= 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_mixed_precision_takes_masks_of_its_own_type(dtype):
    attention = make_attention(4).to(torch.float32)
    grid = torch.rand(1, 6, 5, 4, CHANNELS)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert attend(attention, grid, 4, 2, torch.rand(1, 6, 5, 4) < 0.5, "inverse").dtype == dtype
