"""Debiased CKA, its null and intervals; features of the same physical crops; what a comparison says."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import six_preprocessed_cases
from small_networks import SMALL, small_planned

from rectal_nnformer.analysis import debiased_cka, linear_cka
from rectal_nnformer.analysis.cka import bootstrap_diagonal, gram, permutation_null, weighted_hsic
from rectal_nnformer.analysis.dilution import Tile
from rectal_nnformer.analysis.features import block_features, common_extent, cut_crop, pool_features
from rectal_nnformer.analysis.reuse import (
    ComparedNetwork,
    compare_features,
    debiased_record,
    reuse_line,
    similarity_record,
)
from rectal_nnformer.analysis.tiles import PreprocessedCases

torch.set_num_threads(1)
CPU = torch.device("cpu")

# --- the estimators --------------------------------------------------------------------------------------------------


def unrelated(samples=34, features=24576):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, features, generator=generator) for _ in range(2)]


def test_the_headline_is_near_zero_for_unrelated_features_and_the_null_shows_it():
    x, y = unrelated()
    assert float(linear_cka(x, y)) > 0.99
    assert abs(float(debiased_cka(x, y))) < 0.15
    record = debiased_record(gram(x)[None], gram(y)[None])
    assert abs(record.null.mean[0]) < 0.02
    assert record.diagonal[0] < record.null.p95[0] < 0.15
    low, high = record.intervals.diagonal[0]
    assert low < 0 < high < 0.2


def test_the_headline_finds_what_is_shared():
    x, noise = unrelated()
    assert float(debiased_cka(x, 3 * x + 7)) == pytest.approx(1)
    half = float(debiased_cka(x, x + noise))
    assert 0.2 < half < 0.7
    record = debiased_record(gram(x)[None], gram(x + noise)[None])
    assert record.null.p95[0] < record.intervals.diagonal[0][0] < half


def distinct_mean(function, weights, count):
    """Weighted mean over all tuples of distinct indices, by going through them."""
    tuples = [(t, math.prod(weights[i] for i in t)) for t in itertools.permutations(range(len(weights)), count)]
    return sum(weight * function(*t) for t, weight in tuples) / sum(weight for _, weight in tuples)


@given(st.integers(0, 2**31), st.lists(st.integers(0, 3), min_size=6, max_size=6))
@settings(max_examples=15)
def test_hsic_is_the_mean_over_tuples_of_distinct_samples(seed, weights):
    """With equal weights that is the unbiased estimate by definition; the debiased CKA uses it in closed form."""
    weights = weights if sum(w > 0 for w in weights) >= 4 else [1] * 6
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.standard_normal((6, 3))) for _ in range(2))
    first, second = (gram(z) * (1 - torch.eye(6)) for z in (x, y))

    def by_hand(a, b, weights):
        return (
            distinct_mean(lambda i, j: a[i, j] * b[i, j], weights, 2)
            - 2 * distinct_mean(lambda i, j, q: a[i, j] * b[i, q], weights, 3)
            + distinct_mean(lambda i, j, q, r: a[i, j] * b[q, r], weights, 4)
        )

    found = weighted_hsic(first[None], second[None], torch.tensor([weights]).double())
    assert float(found) == pytest.approx(float(by_hand(first, second, weights)), abs=1e-9)
    equal = [1] * 6
    expected = by_hand(first, second, equal) / (by_hand(first, first, equal) * by_hand(second, second, equal)).sqrt()
    assert float(debiased_cka(x, y)) == pytest.approx(float(expected), abs=1e-9)


def test_fewer_than_four_samples_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        debiased_cka(torch.randn(3, 5), torch.randn(3, 5))


@pytest.mark.parametrize(("samples", "known"), [(4, False), (7, False), (8, True)])
def test_draws_of_too_few_different_cases_give_no_interval(samples, known):
    """Four cases leave a single draw, all of them once: an interval would be a point."""
    x, noise = unrelated(samples, 50)
    intervals = debiased_record(gram(x)[None], gram(x + noise)[None]).intervals
    assert (intervals.drift is not None) == (intervals.diagonal[0] is not None) == known


def test_null_and_intervals_repeat_themselves():
    grams = [gram(x)[None] for x in unrelated(8, 50)]
    assert torch.equal(permutation_null(*grams)[0], permutation_null(*grams)[0])
    first, again = (bootstrap_diagonal(*grams) for _ in range(2))
    assert torch.equal(first.nan_to_num(), again.nan_to_num())


def test_what_follows_from_a_matrix():
    matrix = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.3], [0.9, 0.2, 0.4]])
    record = similarity_record(matrix)
    assert record.diagonal == pytest.approx([0.9, 0.5, 0.4])
    assert record.drift == pytest.approx(0.4)
    assert record.best_match_distance == pytest.approx((0 + 1 + 2) / 3)
    assert similarity_record(matrix[:2]).diagonal is None
    assert similarity_record(torch.full((2, 2), math.nan)).mean_diagonal is None


# --- features of crops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", SMALL)
def test_features_are_what_each_block_returns(backbone):
    """What a block returns is what enters the next of its stage."""
    network = small_planned(backbone).backbone
    blocks = network.attention_blocks((64, 32, 32))
    entering, found = {}, {}
    hooks = [
        network.get_submodule(block.name).norm1.register_forward_pre_hook(
            lambda _, inputs, name=block.name: entering.update({name: inputs[0]})
        )
        for block in blocks
    ]
    with torch.no_grad(), block_features(network, (64, 32, 32), lambda block, x, _: found.update({block.name: x})):
        network.encode(torch.rand(1, 1, 64, 32, 32))
    assert list(found) == [block.name for block in blocks]
    for block, following in itertools.pairwise(blocks):
        if block.stage == following.stage:
            torch.testing.assert_close(found[block.name], entering[following.name])
    for hook in hooks:
        hook.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_features_are_averaged_over_real_tokens_of_each_cell():
    features = torch.arange(24.0).reshape(4, 3, 2, 1)
    real = torch.ones(4, 3, 2, dtype=torch.bool)
    assert torch.equal(pool_features(features, real, (0, 0, 0), (4, 3, 2)), features.flatten())
    real[2:] = False
    pooled = pool_features(features, real, (1, 0, 0), (2, 3, 2)).reshape(2, 3, 2)
    assert torch.equal(pooled[0], features[1, ..., 0])
    assert not pooled[1].any()
    long = torch.arange(32.0).reshape(32, 1, 1, 1)
    cells = pool_features(long, torch.ones(32, 1, 1, dtype=torch.bool), (0, 0, 0), (32, 1, 1))
    assert cells.tolist() == [1.5 + 4 * i for i in range(8)]


@given(
    st.tuples(*[st.integers(4, 40)] * 3),
    st.tuples(*[st.floats(0, 0.99)] * 3),
    st.tuples(*[st.sampled_from([8, 16, 24])] * 3),
    st.tuples(*[st.sampled_from([0, 8, 15])] * 3),
)
@settings(max_examples=40)
def test_networks_with_other_patches_are_given_the_same_box(shape, position, size, larger):
    """Whatever lies around the box is padding: both patches hold the same voxels in it and nothing else."""
    image = torch.arange(1.0, math.prod(shape) + 1).reshape(1, *shape)
    tumor = torch.zeros(shape, dtype=torch.bool)
    tumor[tuple(int(p * n) for p, n in zip(position, shape, strict=True))] = True
    case = Tile(image, tumor)
    tight = cut_crop(case, size, size)
    roomy = cut_crop(case, [a + b for a, b in zip(size, larger, strict=True)], size)
    box = tuple(slice(s, s + n) for s, n in zip(roomy.start, size, strict=True))
    assert tight.start == (0, 0, 0)
    assert torch.equal(roomy.image[0][box], tight.image[0])
    assert int((roomy.image != 0).sum()) == math.prod(map(min, size, shape))
    index = int(image[0][tumor][0])
    assert (tight.image == index).any()


@pytest.fixture
def cases(tmp_path):
    return six_preprocessed_cases(tmp_path, (16, 32, 48))


def test_a_network_is_like_itself_and_less_like_another(cases):
    network, other = small_planned(), small_planned(seed=1)
    same = compare_features(ComparedNetwork("a", network, cases), ComparedNetwork("a", network, cases), CPU)
    assert same.debiased.diagonal == pytest.approx([1.0] * 4)
    assert same.debiased.drift == pytest.approx(0, abs=1e-9)
    assert (same.num_cases, same.num_crops, same.stages) == (6, 6, (0, 0, 1, 1))
    assert same.blocks[2] == "stage 1 block 0"
    different = compare_features(ComparedNetwork("a", network, cases), ComparedNetwork("b", other, cases), CPU)
    assert different.debiased.drift > 0.01
    assert len(different.debiased.matrix) == len(different.biased.matrix) == 4
    assert len(different.debiased.intervals.diagonal) == len(different.debiased.null.mean) == 4
    chance = np.mean(different.debiased.null.p95)
    assert "drift" in reuse_line(different) and f"; by chance up to {chance:.3f}" in reuse_line(different)
    assert compare_features(ComparedNetwork("a", network, cases), ComparedNetwork("b", other, cases), CPU) == different


def test_networks_with_other_patches_and_spacings_are_compared_on_the_smaller_extent(cases):
    padded = PreprocessedCases(cases.folder, cases.names, (32, 32, 48), cases.spacing, (1,))
    network = small_planned()
    assert common_extent([(network, cases), (network, padded)]) == (144, 96, 48)
    content = compare_features(
        ComparedNetwork("planned", network, cases), ComparedNetwork("padded", network, padded), CPU
    )
    assert 0.5 < content.debiased.mean_diagonal <= 1


def test_other_backbones_have_a_matrix_and_no_diagonal(cases):
    larger = PreprocessedCases(cases.folder, cases.names, (32, 32, 64), cases.spacing, (1,))
    content = compare_features(
        ComparedNetwork("smit", small_planned(), cases),
        ComparedNetwork("swin", small_planned("swin_unetr"), larger),
        CPU,
    )
    assert [len(content.debiased.matrix), len(content.debiased.matrix[0])] == [4, 8]
    assert content.debiased.diagonal is None and content.debiased.intervals is None
    assert "undefined" in reuse_line(content)


def test_with_three_cases_the_headline_is_left_out_and_the_reason_given(cases):
    few = PreprocessedCases(cases.folder, cases.names[:3], cases.patch_size, cases.spacing, (1,))
    content = compare_features(
        ComparedNetwork("a", small_planned(), few), ComparedNetwork("b", small_planned(seed=1), few), CPU
    )
    assert content.debiased is None
    assert content.biased.mean_diagonal > 0
    assert "at least 4 cases" in content.note and "at least 4 cases" in reuse_line(content)


def test_a_token_belongs_to_the_cell_that_its_middle_lies_in():
    features = torch.arange(6.0).reshape(6, 1, 1, 1)
    real = torch.ones(6, 1, 1, dtype=torch.bool)
    assert pool_features(features, real, (0.4, 0, 0), (4, 1, 1)).tolist() == [0, 1, 2, 3]
    assert pool_features(features, real, (0.6, 0, 0), (4, 1, 1)).tolist() == [1, 2, 3, 4]
