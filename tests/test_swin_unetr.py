"""Swin UNETR V1 and V2: the published numbers, agreement with MONAI, options, compilation."""

import pytest
import torch
from golden_networks import assert_golden, golden_input, golden_outputs, golden_shapes, shapes, with_golden_weights
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from small_networks import small_swin_unetr

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import SwinUNETR

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "out_channels"), [("swin_unetr", 1), pytest.param("swin_unetr_v2", 3, marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_names_shapes_hidden_states_and_logits_are_the_published_ones(name, out_channels):
    network = with_golden_weights(SwinUNETR(1, out_channels, use_v2=name.endswith("v2")))
    output = {"out.conv.conv.weight": (out_channels, 48, 1, 1, 1), "out.conv.conv.bias": (out_channels,)}
    assert shapes(network) == {**golden_shapes(name), **output}
    golden = golden_outputs(f"{name}_96x96x64")
    image = golden_input((96, 96, 64))
    for state, hidden in enumerate(network.encode(image)):
        assert_golden(hidden[0, ::12, ::4, ::4, ::4], golden[f"hidden{state}"])
    # The recipe draws the output layer class by class, so the first classes have the weights of the two-class network.
    batch = image if name == "swin_unetr" else torch.cat([image.flip(2), image])
    logits = network(batch)
    classes = min(out_channels, 2)
    assert_golden(logits[-1, :classes, ::8, ::8, ::8], golden["logits"][:classes])


@pytest.mark.parametrize(("use_v2", "in_channels", "out_channels"), [(False, 1, 1), (True, 2, 3)])
def test_corrected_merging_is_monais_own_network(use_v2, in_channels, out_channels):
    """Values and gradients, on grids that windows of 7 do not divide and on grids that are smaller than a window."""
    network = small_swin_unetr(in_channels, out_channels, use_v2=use_v2, merging="corrected")
    monai = MonaiSwinUNETR(in_channels, out_channels, feature_size=12, use_v2=use_v2).eval()
    monai.load_state_dict(network.state_dict())
    image = torch.rand(1, in_channels, 64, 32, 32)
    logits, expected = network(image), monai(image)
    assert logits.shape == (1, out_channels, 64, 32, 32)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    logits.square().mean().backward()
    expected.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in monai.named_parameters()}
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_merging_order_makes_a_difference():
    image = torch.rand(1, 1, 64, 32, 32)
    assert not torch.allclose(small_swin_unetr()(image), small_swin_unetr(merging="corrected")(image), atol=1e-3)
    with pytest.raises(ValueError, match="merging"):
        small_swin_unetr(merging="sideways")


@pytest.mark.parametrize("size", [(64, 48, 32), (32, 32, 32)])
def test_sizes_it_cannot_take_are_refused(size):
    with pytest.raises(RectalError, match="multiples of 32"):
        small_swin_unetr()(torch.rand(1, 1, *size))


def test_drop_path_acts_in_training_only():
    network = small_swin_unetr(drop_path_rate=0.5)
    image = torch.rand(1, 1, 64, 32, 32)
    assert torch.equal(network(image), network(image))
    network.train()
    assert not torch.equal(network(image), network(image))
