"""Residual blocks and attention beside their plain formulations."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from benchmarks.formulations import plain
from small_networks import small_smit, small_swin_unetr

from rectal_nnformer.networks import convolution
from rectal_nnformer.networks.residual import instance_norm, norm_by_sample, norm_to_fuse

torch.set_num_threads(1)


@pytest.mark.parametrize("norm", [instance_norm, norm_by_sample, norm_to_fuse])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_each_form_of_instance_norm_gives_pytorchs_numbers_and_gradients(norm, memory_format):
    torch.manual_seed(0)
    values = (3 * torch.randn(2, 4, 6, 5, 3) + 7).to(memory_format=memory_format)
    weights = torch.randn(values.shape)
    found, expected = values.clone().requires_grad_(), values.clone().requires_grad_()
    norm(found).mul(weights).sum().backward()
    F.instance_norm(expected, eps=1e-5).mul(weights).sum().backward()
    torch.testing.assert_close(norm(values), F.instance_norm(values, eps=1e-5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", [norm_by_sample, norm_to_fuse])
def test_statistics_of_half_precision_maps_are_those_of_float32(norm):
    torch.manual_seed(0)
    values = (torch.randn(1, 2, 16, 16, 16) + 100).bfloat16()
    expected = F.instance_norm(values.float(), eps=1e-5)
    torch.testing.assert_close(norm(values).float(), expected, atol=0.02, rtol=0.01)


def test_a_large_channels_last_map_is_normalized_as_exactly_as_a_small_one():
    torch.manual_seed(0)
    values = (2 * torch.randn(1, 2, 128, 64, 64) + 3).to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(instance_norm(values).double(), F.instance_norm(values.double()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("filtering", [False, True], ids=["plain convolutions", "minimal filtering"])
@pytest.mark.parametrize("build", [small_smit, small_swin_unetr], ids=["smit", "swin_unetr"])
def test_networks_give_the_numbers_and_gradients_of_the_plain_formulation(build, filtering, monkeypatch):
    torch.manual_seed(0)
    if filtering:
        monkeypatch.setattr(convolution, "FEWEST_CHANNELS", 2)
        monkeypatch.setattr(convolution, "FEWEST_VOXELS", 1)
    network = build().train()
    image = torch.rand(1, 1, 64, 32, 32)
    plain_network = plain(network)
    outputs = []
    for each in (network, plain_network):
        logits = each(image)
        logits.square().mean().backward()
        outputs.append((logits.detach(), {name: p.grad for name, p in each.named_parameters()}))
    (found, gradients), (expected, plain_gradients) = outputs
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - plain_gradients[name]).norm() <= 3e-3 * plain_gradients[name].norm() + 1e-6, name


@pytest.mark.parametrize("build", [small_smit, small_swin_unetr], ids=["smit", "swin_unetr"])
@torch.no_grad()
def test_in_mixed_precision_networks_are_as_exact_as_the_plain_formulation(build):
    torch.manual_seed(0)
    network = build()
    plain_network, image = plain(network), torch.rand(1, 1, 64, 32, 32)
    exact = plain_network(image)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = network(image), plain_network(image)
    assert found.dtype == expected.dtype == torch.bfloat16
    error, plain_error = ((logits.float() - exact).square().mean().sqrt() for logits in (found, expected))
    assert 0 < error <= 1.2 * plain_error < 0.05 * exact.square().mean().sqrt()


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler, which PyTorch needs")
def test_a_compiled_network_gives_the_numbers_and_gradients_of_the_plain_formulation():
    """By the code that PyTorch makes of it, which a compiled training runs."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = small_smit(depths=(2, 1)).train()
    plain_network, image = plain(network), torch.rand(1, 1, 32, 32, 32)
    outputs = []
    for run, each in ((torch.compile(network, fullgraph=True), network), (plain_network, plain_network)):
        logits = run(image)
        logits.square().mean().backward()
        outputs.append((logits.detach(), [parameter.grad for parameter in each.parameters()]))
    (found, gradients), (expected, plain_gradients) = outputs
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for gradient, plain_gradient in zip(gradients, plain_gradients, strict=True):
        assert (gradient - plain_gradient).norm() <= 3e-3 * plain_gradient.norm() + 1e-6


def test_blocks_keep_the_parameter_names_of_monai():
    from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

    ours, monais = small_swin_unetr(), MonaiSwinUNETR(1, 2, feature_size=12)
    assert {*ours.state_dict()} == {*monais.state_dict()}
    assert {*copy.deepcopy(ours).state_dict()} == {*monais.state_dict()}
