"""Window, padding and axes between nnU-Net's arrays and a backbone."""

import itertools

import pytest
import torch

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.adapter import PlannedNetwork

SMALL = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)}


def planned(window=((-1.0, 3.0),), axes=(2, 1, 0), channels=1, **kwargs):
    torch.manual_seed(0)
    return PlannedNetwork(
        channels,
        2,
        backbone="smit",
        backbone_kwargs={**SMALL, **kwargs},
        intensity_window=window,
        spatial_axes=axes,
    )


def test_window_is_mapped_to_unit_range_and_clamped_outside_of_training():
    image = torch.tensor([-3.0, -1.0, 1.0, 3.0, 7.0]).view(1, 1, 1, 1, 5)
    network = planned()
    assert network.eval().prepare(image)[0].flatten().tolist() == [0, 0, 0.5, 1, 1]
    assert network.train().prepare(image)[0].flatten().tolist() == [-0.5, 0, 0.5, 1, 2]


def test_exact_zero_is_padding_and_becomes_black():
    image = torch.full((1, 1, 2, 2, 2), 1.0)
    image[..., 1] = 0
    inputs, real = planned().prepare(image)
    assert not inputs[:, :, 1].any() and (inputs[:, :, 0] == 0.5).all()
    assert real.dtype == torch.bool and real[:, :, 0].all() and not real[:, :, 1].any()


def test_a_voxel_is_real_if_any_channel_is():
    image = torch.zeros(1, 2, 1, 1, 2)
    image[0, 1, 0, 0, 0] = 2.0
    inputs, real = planned(window=((-1, 3), (0, 4)), channels=2).prepare(image)
    assert real.flatten().tolist() == [True, False]
    assert inputs[0, :, 0, 0, 0].tolist() == [0, 0.5]


@pytest.mark.parametrize("transpose", list(itertools.permutations(range(3))))
def test_the_backbone_sees_xyz_and_the_logits_return_in_stored_order(transpose):
    """Whatever nnU-Net's transpose_forward does to (z, y, x), the same anatomy gives the same logits."""
    zyx = torch.randn(1, 1, 16, 24, 32)
    stored = zyx.permute(0, 1, *(axis + 2 for axis in transpose))
    axes = tuple(transpose.index(axis) for axis in (2, 1, 0))
    expected = planned(axes=(2, 1, 0)).eval()(zyx)
    result = planned(axes=axes).eval()(stored)
    assert result.shape[2:] == stored.shape[2:]
    back = result.permute(0, 1, *(transpose.index(axis) + 2 for axis in range(3)))
    torch.testing.assert_close(back, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_whole_network_compiles_without_a_graph_break(training):
    torch._dynamo.reset()
    network = planned(mask_padding=True).train(training)
    image = torch.randn(2, 1, 12, 10, 16)
    image[..., 10:] = 0
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(image), network(image))


def test_the_window_travels_with_the_weights():
    state = planned(window=((-1.0, 3.0),)).state_dict()
    other = planned(window=((0.0, 1.0),))
    other.load_state_dict(state)
    assert (other.window_low.item(), other.window_high.item()) == (-1.0, 3.0)
    other.set_intensity_window([[0.0, 1.0]])
    assert (other.window_low.item(), other.window_high.item()) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": ((1.0, 1.0),)}, "empty intensity window"),
        ({"channels": 2}, "1 intensity windows for 2 channels"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    with pytest.raises(RectalError, match=message):
        planned(**changes)


def test_an_unknown_backbone_is_refused_by_name():
    with pytest.raises(RectalError, match="'unet'"):
        PlannedNetwork(1, 2, backbone="unet", backbone_kwargs={}, intensity_window=[[0, 1]], spatial_axes=(2, 1, 0))
