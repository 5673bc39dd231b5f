"""Token and window accounting against brute force, published numbers and the networks' own partition."""

import json
from dataclasses import astuple
from itertools import product
from math import ceil, prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.networks.nets.swin_unetr import get_window_size, window_partition

from rectal_nnformer.analysis import attention_flow
from rectal_nnformer.geometry import (
    mask_budget,
    scattered_padding_share,
    shrunk_window,
    token_budget,
    token_masks,
    uniform_dilution,
    window_partition_mask,
)

SIZES = st.tuples(*[st.integers(1, 9)] * 3)
WINDOWS = st.tuples(*[st.integers(1, 4)] * 3)
SHIFTS = st.tuples(*[st.integers(0, 3)] * 3)
MASKS = SIZES.flatmap(lambda size: arrays(bool, size))

PUBLISHED = [
    # patch (x, y, z), window, shrunk, real tokens of all processed ones by stage, for an image of 192 x 192 x 57
    ((128, 128, 128), 4, False, [0.453, 0.469, 0.500, 0.500]),
    ((128, 128, 64), 4, False, [0.906, 0.938, 1.000, 1.000]),
    ((96, 96, 96), 7, True, [0.568, 0.394, 0.420, 0.667]),
    ((96, 96, 64), 7, True, [0.795, 0.525, 0.420, 1.000]),
]


def brute_force_windows(mask, window, shift):
    """Look up every token of every window by its place on the padded, rolled grid."""
    padded_size = [ceil(n / w) * w for n, w in zip(mask.shape, window, strict=True)]
    windows = []
    for corner in product(*(range(0, n, w) for n, w in zip(padded_size, window, strict=True))):
        tokens = []
        for offset in product(*map(range, window)):
            place = [(c + o + s) % n for c, o, s, n in zip(corner, offset, shift, padded_size, strict=True)]
            inside = all(p < n for p, n in zip(place, mask.shape, strict=True))
            tokens.append(inside and bool(mask[tuple(place)]))
        windows.append(tokens)
    return np.array(windows)


def brute_force_dilution(mask, window, shift):
    """Add up the entropy of uniform attention, real query by real query, over all windows."""
    total = on_padding = 0.0
    for tokens in window_partition_mask(mask, window, shift):
        weight = 1 / len(tokens)
        entropy = -weight * np.log(weight)
        for _ in range(int(tokens.sum())):
            total += len(tokens) * entropy
            on_padding += int((~tokens).sum()) * entropy
    return on_padding / total if total else float("nan")


def as_numbers(stage):
    """A budget in a form in which nan equals nan."""
    return [str(round(value, 12)) if isinstance(value, float) else value for value in astuple(stage)]


def box_mask(size, start, extent):
    mask = np.zeros(size, dtype=bool)
    mask[tuple(slice(s, s + e) for s, e in zip(start, extent, strict=True))] = True
    return mask


@given(MASKS, st.integers(1, 3), st.integers(1, 4))
def test_token_is_real_if_any_voxel_of_its_cube_is(mask, patch, num_stages):
    for stage, tokens in enumerate(token_masks(mask, patch, num_stages)):
        edge = patch * 2**stage
        assert tokens.shape == tuple(ceil(n / edge) for n in mask.shape)
        for place in np.ndindex(tokens.shape):
            cube = tuple(slice(p * edge, (p + 1) * edge) for p in place)
            assert tokens[place] == mask[cube].any()


@given(MASKS, WINDOWS, SHIFTS)
def test_window_partition_agrees_with_looking_up_each_token(mask, window, shift):
    np.testing.assert_array_equal(window_partition_mask(mask, window, shift), brute_force_windows(mask, window, shift))


@given(st.tuples(*[st.integers(1, 3)] * 3), WINDOWS, st.integers(0, 2**32 - 1))
def test_window_partition_is_that_of_monai(counts, window, seed):
    size = [c * w for c, w in zip(counts, window, strict=True)]
    mask = torch.from_numpy(np.random.default_rng(seed).random((2, *size)) < 0.5)
    expected = window_partition(mask.unsqueeze(-1), window).squeeze(-1)
    assert torch.equal(window_partition_mask(mask, window), expected)


def test_arrays_and_tensors_with_and_without_batch_axes_agree():
    batch = np.random.default_rng(0).random((2, 1, 9, 6, 5)) < 0.1
    for array_mask, tensor_mask in zip(token_masks(batch), token_masks(torch.from_numpy(batch)), strict=True):
        assert isinstance(tensor_mask, torch.Tensor)
        np.testing.assert_array_equal(array_mask, tensor_mask.numpy())
    for batch_mask, mask in zip(token_masks(batch), token_masks(batch[1, 0]), strict=True):
        np.testing.assert_array_equal(batch_mask[1, 0], mask)
    single = np.concatenate([window_partition_mask(case[0], 4, 2) for case in batch])
    np.testing.assert_array_equal(window_partition_mask(batch, 4, 2), single)


@pytest.mark.parametrize("mask", [np.ones((4, 4, 4)), np.ones((4, 4), dtype=bool)])
def test_masks_that_are_not_boolean_volumes_are_refused(mask):
    with pytest.raises(ValueError, match="bool with at least three axes"):
        token_masks(mask)


@given(SIZES, WINDOWS, SHIFTS)
def test_small_grids_shrink_windows_as_in_monai(grid, window, shift):
    assert shrunk_window(grid, window, shift) == get_window_size(grid, window, shift)


@pytest.mark.parametrize(("patch", "window", "shrink", "expected"), PUBLISHED)
def test_real_fractions_of_a_real_series(patch, window, shrink, expected):
    budget = token_budget(patch, (192, 192, 57), window, shrink_window=shrink)
    assert [round(stage.real_fraction, 3) for stage in budget] == expected


@given(st.data())
def test_budget_counts_the_tokens_of_the_masks(data):
    patch = data.draw(st.tuples(*[st.integers(1, 40)] * 3))
    extent = tuple(data.draw(st.integers(1, n)) for n in patch)
    start = tuple(data.draw(st.integers(0, n - e)) for n, e in zip(patch, extent, strict=True))
    window, shift, shrink = data.draw(WINDOWS), data.draw(SHIFTS), data.draw(st.booleans())
    embedding, num_stages = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    budget = token_budget(
        patch,
        extent,
        window,
        shrink_window=shrink,
        shift=shift,
        real_start=start,
        embedding_patch=embedding,
        num_stages=num_stages,
    )
    masks = token_masks(box_mask(patch, start, extent), embedding, num_stages)
    assert [stage.stage for stage in budget] == list(range(num_stages))
    for stage, mask in zip(budget, masks, strict=True):
        used, used_shift = get_window_size(mask.shape, window, shift) if shrink else (window, shift)
        windows = window_partition_mask(mask, used, used_shift)
        assert stage.grid == mask.shape
        assert stage.window == tuple(used)
        assert (stage.real_tokens, stage.processed_tokens) == (windows.sum(), windows.size)
        assert stage.processed_tokens == prod(stage.padded_grid)
        assert stage.shift == tuple(used_shift)
        for adi, moved in ((stage.uniform_adi, 0), (stage.shifted_uniform_adi, used_shift)):
            assert adi == pytest.approx(brute_force_dilution(mask, used, moved), nan_ok=True)
    as_mask = mask_budget(
        box_mask(patch, start, extent),
        window,
        shrink_window=shrink,
        shift=shift,
        embedding_patch=embedding,
        num_stages=num_stages,
    )
    assert [as_numbers(stage) for stage in as_mask] == [as_numbers(stage) for stage in budget]


def test_budget_centres_images_smaller_than_the_patch():
    # 2 of 8 voxels: in the middle they are voxels 3 and 4, of two tokens; at the start they share a token.
    centred = token_budget((8, 8, 8), (8, 8, 2), 4, num_stages=1)[0]
    at_start = token_budget((8, 8, 8), (8, 8, 2), 4, num_stages=1, real_start=(0, 0, 0))[0]
    assert (centred.real_tokens, at_start.real_tokens) == (2 * 16, 16)


@given(MASKS, WINDOWS, SHIFTS)
def test_uniform_dilution_is_that_of_uniform_attention(mask, window, shift):
    windows = torch.from_numpy(window_partition_mask(mask, window, shift))
    tokens = windows.shape[1]
    flow = attention_flow(torch.full((len(windows), 2, tokens, tokens), 1 / tokens), windows)
    dilution = uniform_dilution(mask, window, shift)
    assert dilution == pytest.approx(flow.adi, abs=1e-6, nan_ok=True)
    assert dilution == pytest.approx(brute_force_dilution(mask, window, shift), abs=1e-9, nan_ok=True)
    if tokens > 1:
        assert dilution == pytest.approx(flow.a_rp, abs=1e-6, nan_ok=True)


def test_dilution_of_a_real_series():
    # 28.5 of 64 layers of voxels real: at the last stage of SMIT a window of 4 tokens holds 2 layers, unless shifted.
    last = token_budget((128, 128, 128), (192, 192, 57), 4)[-1]
    assert (last.uniform_adi, last.shifted_uniform_adi) == (0.5, 0.0)
    assert all(stage.uniform_adi == 0 for stage in token_budget((128, 128, 64), (192, 192, 64), 4))


@pytest.mark.parametrize("start", [(0, 0, 5), (0, 0, -1)])
def test_budget_refuses_a_box_outside_the_patch(start):
    with pytest.raises(ValueError, match="does not lie in a patch"):
        token_budget((8, 8, 8), (8, 8, 4), 4, real_start=start)


@pytest.mark.parametrize(
    ("depth", "expected"), [(128, [0.545, 0.525, 0.500, 0.500]), (64, [0.091, 0.050, 0.000, 0.000])]
)
def test_scattered_share_of_a_real_series(depth, expected):
    masks = token_masks(box_mask((128, 128, depth), (0, 0, (depth - 57) // 2), (128, 128, 57)))
    assert [round(scattered_padding_share(mask, 4), 3) for mask in masks] == expected


def test_nothing_is_scattered_from_padding_without_padding_or_without_image():
    assert scattered_padding_share(np.ones((8, 8, 4), dtype=bool), 4) == 0
    assert np.isnan(scattered_padding_share(np.zeros((8, 8, 4), dtype=bool), 4))


@pytest.mark.parametrize("case", json.loads((Path(__file__).parent / "data" / "window_partition.json").read_text()))
def test_partition_gives_the_published_attention_flow(case):
    mask = np.zeros(case["grid"], dtype=bool)
    mask[..., : case["real_tokens_last_axis"]] = True
    windows = window_partition_mask(mask, case["window"], case["shift"] or 0)
    assert windows.shape == (case["nW"], case["N"])
    logits = np.random.default_rng(case["seed"]).standard_normal((case["nW"], case["heads"], case["N"], case["N"]))
    mass = (
        (torch.softmax(torch.from_numpy(logits.astype(np.float32) * 2), -1) * torch.from_numpy(windows)[:, None, None])
        .sum(-1)
        .mean(1)
    )
    kept = windows.any(axis=1)
    assert float(mass[windows].mean()) == pytest.approx(case["A_rr"], abs=1e-5)
    if case["A_pr"] is not None:
        assert float(mass[kept][~windows[kept]].mean()) == pytest.approx(case["A_pr"], abs=1e-5)
