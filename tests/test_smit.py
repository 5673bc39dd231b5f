"""SMIT: the published numbers, sizes beyond the published ones, options, compilation."""

import pytest
import torch
from golden_networks import assert_golden, golden_input, golden_outputs, golden_shapes, shapes, with_golden_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import small_smit

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import SMIT

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def published():
    return with_golden_weights(SMIT())


def test_parameter_names_and_shapes_are_the_published_ones(published):
    assert shapes(published) == golden_shapes("smit")


@torch.no_grad()
def test_maps_are_the_published_ones(published):
    golden = golden_outputs("smit_64x64x64")
    *skips, bottleneck = published.encode(golden_input((64, 64, 64)))
    for stage, skip in enumerate(skips):
        assert_golden(skip[0, ::8, ::4, ::4, ::4], golden[f"skip{stage}"])
        assert_golden(torch.stack([skip.mean(), skip.std()]), golden["skip_stats"][stage])
    assert_golden(bottleneck.flatten(2).transpose(1, 2)[0, ::4, ::32], golden["bottleneck"])


@pytest.mark.parametrize("size", [(64, 64, 64), pytest.param((128, 128, 64), marks=pytest.mark.slow)])
@torch.no_grad()
def test_logits_are_the_published_ones(published, size):
    golden = golden_outputs("smit_{}x{}x{}".format(*size))
    logits = published(golden_input(size))
    assert_golden(logits[0, :, ::8, ::8, ::8], golden["logits"])
    assert_golden(torch.stack([logits.mean(), logits.std(), logits.min(), logits.max()]), golden["logits_stats"])


@pytest.mark.parametrize("out_channels", [1, pytest.param(3, marks=pytest.mark.slow)])
@torch.no_grad()
def test_batch_of_two_and_other_numbers_of_classes_give_the_published_numbers(published, out_channels):
    # The recipe draws the output layer class by class, so the first classes have the weights of the two-class network.
    with torch.device("meta"):
        network = SMIT(1, out_channels)
    output = with_golden_weights(SMIT(1, out_channels, depths=(1,), num_heads=(4,))).out.state_dict(prefix="out.")
    network.load_state_dict({**published.state_dict(), **output}, assign=True)
    image = golden_input((64, 64, 64))
    logits = network(torch.cat([image.flip(2), image]))
    assert logits.shape == (2, out_channels, 64, 64, 64)
    classes = min(out_channels, 2)
    assert_golden(logits[1, :classes, ::8, ::8, ::8], golden_outputs("smit_64x64x64")["logits"][:classes])


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_fewer_stages_keep_the_names_of_the_levels(stages):
    with torch.device("meta"):
        network = SMIT(depths=(2, 2, 12, 2)[:stages], num_heads=(4, 4, 8, 16)[:stages])
    golden = golden_shapes("smit")
    for key, shape in shapes(network).items():
        if not key.startswith("encoder10"):
            assert shape == golden[key]
    assert shapes(network)["encoder10.layer.conv1.conv.weight"][0] == 48 * 2**stages


@given(st.tuples(*[st.integers(9, 22)] * 3), st.sampled_from(["published", "inverse"]))
@settings(max_examples=6)
@torch.no_grad()
def test_any_size_comes_back_with_its_shape(size, window_reverse):
    network = small_smit(out_channels=3, window_reverse=window_reverse)
    image = torch.rand(1, 1, *size)
    logits = network(image)
    assert logits.shape == (1, 3, *size)
    assert logits.isfinite().all()
    grid = [-(-n // 2) for n in size]
    for channels, skip in zip((12, 24, 48), network.encode(image), strict=True):
        assert skip.shape == (1, channels, *grid)
        grid = [-(-n // 2) for n in grid]


def test_a_single_token_at_the_bottleneck_is_refused():
    with pytest.raises(RectalError, match=r"\(8, 8, 8\)"):
        small_smit()(torch.rand(1, 1, 8, 8, 8))


@torch.no_grad()
def test_scattering_makes_a_difference():
    image = torch.rand(1, 1, 32, 32, 16)
    assert not torch.allclose(small_smit()(image), small_smit(window_reverse="inverse")(image), atol=1e-3)
    with pytest.raises(ValueError, match="window_reverse"):
        small_smit(window_reverse="sideways")


def test_drop_path_rises_linearly_and_acts_in_training_only():
    network = small_smit(depths=(2, 3), drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for stage in network.transformer.layers for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    image = torch.rand(4, 1, 16, 16, 16)
    assert torch.equal(network(image), network(image))
    network.train()
    assert not torch.equal(network(image), network(image))
