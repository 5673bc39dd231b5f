"""Minimal filtering beside PyTorch's convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rectal_nnformer.networks.convolution import Filtering, convolve, minimal_filtering, takes_less

torch.set_num_threads(1)


def test_a_tile_of_four_is_the_correlation_with_a_kernel_of_three():
    slices, kernels, products = minimal_filtering()
    values, kernel = torch.rand(6, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    expected = torch.stack([kernel @ values[start : start + 3] for start in range(4)])
    torch.testing.assert_close(products @ ((kernels @ kernel) * (slices @ values)), expected)


@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 4),
    st.tuples(st.integers(1, 5).map(lambda tiles: 4 * tiles), st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from([torch.contiguous_format, torch.channels_last_3d]),
)
def test_a_map_and_its_gradients_are_those_of_the_plain_convolution(batch, channels, kernels, size, memory_format):
    x = torch.randn(batch, channels, *size, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(kernels, channels, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    change = torch.randn(batch, kernels, *size, dtype=torch.float64)
    found, expected = Filtering.apply(x, weight), F.conv3d(x, weight, padding=1)
    torch.testing.assert_close(found, expected)
    found_gradients = torch.autograd.grad(found, (x, weight), change)
    torch.testing.assert_close(found_gradients, torch.autograd.grad(expected, (x, weight), change))


def test_many_slices_are_filtered_in_groups():
    x, weight = torch.randn(1, 2, 16, 64, 48, dtype=torch.float64), torch.randn(3, 2, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(Filtering.apply(x, weight), F.conv3d(x, weight, padding=1))


def test_float32_differs_by_millionths_of_the_largest_value():
    x, layer = torch.randn(1, 96, 32, 32, 16), nn.Conv3d(96, 48, 3, padding=1, bias=False)
    assert takes_less(x, layer)
    with torch.no_grad():
        found, expected = convolve(x, layer), layer.double()(x.double())
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


LAYER = {"in_channels": 48, "out_channels": 48, "kernel_size": 3, "padding": 1, "bias": False}


@pytest.mark.parametrize(
    ("size", "changed"),
    [
        ((32, 32, 8), {"kernel_size": 1, "padding": 0}),
        ((32, 32, 8), {"stride": 2}),
        ((32, 32, 8), {"bias": True}),
        ((32, 32, 8), {"groups": 2}),
        ((32, 32, 8), {"out_channels": 12}),
        ((30, 32, 8), {}),
        ((8, 8, 8), {}),
    ],
)
def test_what_is_no_faster_so_is_convolved_plainly(size, changed):
    x, layer = torch.randn(1, 48, *size), nn.Conv3d(**{**LAYER, **changed})
    assert takes_less(torch.randn(1, 48, 32, 32, 8), nn.Conv3d(**LAYER))
    assert not takes_less(x, layer)
    assert torch.equal(convolve(x, layer), layer(x))


def test_half_precision_is_left_to_pytorch():
    x, layer = torch.randn(1, 48, 32, 32, 8), nn.Conv3d(**LAYER)
    assert not takes_less(x.bfloat16(), layer.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not takes_less(x, layer.float())
