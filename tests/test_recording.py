"""Recording attention: what is handed over, that masked padding gets none, that nothing stays behind."""

import itertools
import math
import weakref

import pytest
import torch
from small_networks import small_smit, small_swin_unetr

from rectal_nnformer.analysis import attention_flow
from rectal_nnformer.networks import SMIT
from rectal_nnformer.networks.recording import record_attention

torch.set_num_threads(1)
SIZES = {"smit": (24, 20, 24), "swin_unetr": (64, 32, 32), "swin_unetr_v2": (64, 32, 32)}


def small(backbone, **options):
    return small_smit(**options) if backbone == "smit" else small_swin_unetr(use_v2=backbone.endswith("v2"), **options)


def padded_input(backbone):
    """Two images of noise: z from 13 on is padding in the first; the second is padding alone."""
    real = torch.ones(2, 1, *SIZES[backbone], dtype=torch.bool)
    real[0, ..., 13:] = False
    real[1] = False
    return torch.rand(real.shape), real


def flows(network, image, real):
    recorded = {}
    with torch.no_grad(), record_attention(network, real, lambda b, *a: recorded.update({b.name: attention_flow(*a)})):
        network.encode(image, real)
    return recorded


@pytest.mark.parametrize("backbone", SIZES)
def test_masked_padding_dilutes_no_block(backbone):
    image, real = padded_input(backbone)
    masked = flows(small(backbone, mask_padding=True), image, real)
    plain = flows(small(backbone), image, real)
    assert len(masked) == len(plain) == (4 if backbone == "smit" else 8)
    assert all(flow.a_rp == 0 and flow.adi in (0, pytest.approx(math.nan, nan_ok=True)) for flow in masked.values())
    first = next(iter(masked))
    assert masked[first].adi == 0 and plain[first].adi > 0.1 and plain[first].a_rp > 0.1
    assert all(flow.real_queries for flow in masked.values())


def watched(blocks):
    """Return a dict that the next run fills: by block, the windows that its attention reads, and its output."""
    calls = {}
    for block in blocks:

        def hook(_, inputs, output, name=block.name):
            calls[name] = inputs[0], output

        block.attention.register_forward_hook(hook)
    return calls


@pytest.mark.parametrize("backbone", SIZES)
def test_recorded_attention_is_the_one_that_the_network_uses(backbone):
    """Values weighted by it, and projected, are the update; the logits are those without recording, but rounded."""
    network = small(backbone)
    image, real = padded_input(backbone)
    blocks = network.attention_blocks(SIZES[backbone])
    calls = watched(blocks)
    recorded = {}
    with torch.no_grad():
        expected = network(image)
        with record_attention(network, real, lambda block, *handed: recorded.update({block.name: handed})):
            torch.testing.assert_close(network(image), expected, atol=1e-4, rtol=1e-4)
        assert list(recorded) == [block.name for block in blocks]
        for block in blocks:
            attention, tokens = recorded[block.name]
            windows, output = calls[block.name]
            assert network.get_submodule(block.name).attn is block.attention
            assert tokens.shape == attention.shape[::2] == (windows.shape[0] * windows.shape[1], windows.shape[2])
            value = block.attention.qkv(windows).flatten(0, 1).chunk(3, dim=-1)[2]
            heads = value.unflatten(-1, (block.attention.num_heads, -1)).transpose(1, 2)
            update = block.attention.proj((attention @ heads).transpose(1, 2).flatten(2))
            torch.testing.assert_close(update.view_as(output), output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", SIZES)
def test_real_tokens_are_those_that_hold_anything_of_the_image(backbone):
    """An image whose real part alone varies: before the first attention, padding tokens are all equal."""
    network = small(backbone)
    image, real = padded_input(backbone)
    image[~real] = 0
    blocks = network.attention_blocks(SIZES[backbone])
    calls = watched(blocks[:1])
    handed = []
    with torch.no_grad(), record_attention(network, real, lambda block, _, tokens: handed.append((block, tokens))):
        network.encode(image, real)
    tokens, expected = calls[blocks[0].name][0].flatten(0, 1), handed[0][1]
    padding = tokens[len(tokens) // 2, 0]  # of the image that is padding alone; what completes a window is 0
    if backbone != "swin_unetr_v2":  # the convolution before the first stage spreads content over padding tokens
        assert torch.equal((tokens != 0).any(-1) & ((tokens - padding).abs().amax(-1) > 1e-6), expected)
    assert expected.any() and not expected.all()
    assert handed[1][0].shift != (0, 0, 0)
    assert handed[1][1].sum() == expected.sum()


def test_no_attention_is_kept_and_the_recording_ends():
    network = small("smit")
    image, real = padded_input("smit")
    references = []

    def note(_, attention, __):
        assert all(reference() is None for reference in references)
        references.append(weakref.ref(attention))

    with torch.no_grad(), record_attention(network, real, note):
        network(image)
    assert len(references) == 4
    with pytest.raises(RuntimeError, match="stop"), record_attention(network, real, note):
        raise RuntimeError("stop")
    network(image)
    assert len(references) == 4


def test_the_pretraining_geometry_lists_the_published_windows():
    with torch.device("meta"):
        blocks = SMIT().attention_blocks((128, 128, 128))
    assert [len(list(group)) for _, group in itertools.groupby(block.stage for block in blocks)] == [2, 2, 12, 2]
    assert {block.window for block in blocks} == {(4, 4, 4)}
    windows = [(block.window, block.shift) for block in small("swin_unetr").attention_blocks((96, 96, 64))]
    assert windows[1] == ((7, 7, 7), (3, 3, 3))
    assert windows[5] == ((7, 7, 7), (3, 3, 3))
    assert windows[7] == ((6, 6, 4), (0, 0, 0))
