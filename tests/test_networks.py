"""What SMIT and Swin UNETR have in common: they compile whole, and can hide padding from their attention."""

from functools import partial

import pytest
import torch
from small_networks import small_smit, small_swin_unetr

torch.set_num_threads(1)

SMALL = {"smit": (small_smit, (24, 20, 24)), "swin_unetr": (small_swin_unetr, (64, 32, 32))}
"""How each is made, and the size of its images."""


@pytest.mark.parametrize(
    ("make", "size", "options", "training"),
    [
        (partial(small_smit, depths=(2,), num_heads=(2,)), (12, 10, 9), {}, False),
        (partial(small_smit, depths=(2,), num_heads=(2,)), (12, 10, 9), {"mask_padding": True}, True),
        (small_smit, (12, 10, 9), {"window_reverse": "inverse", "drop_path_rate": 0.1}, True),
        pytest.param(small_swin_unetr, (64, 32, 32), {}, False, marks=pytest.mark.slow),
        pytest.param(
            small_swin_unetr,
            (64, 32, 32),
            {"use_v2": True, "mask_padding": True, "drop_path_rate": 0.1},
            True,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_compiles_without_a_graph_break(make, size, options, training):
    torch._dynamo.reset()
    network = make(**options).train(training)
    image = torch.rand(2, 1, *size)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    logits = compiled(image, image > 0.5)
    logits.sum().backward()
    torch.manual_seed(1)
    torch.testing.assert_close(logits, network(image, image > 0.5))


class TestMaskPadding:
    """Images of which z from 13 on is padding: also half of a token, and half windows."""

    @pytest.fixture(params=SMALL)
    def backbone(self, request):
        return request.param

    @pytest.fixture
    def make(self, backbone):
        return SMALL[backbone][0]

    @pytest.fixture
    def real(self, backbone):
        real = torch.ones(2, 1, *SMALL[backbone][1], dtype=torch.bool)
        real[..., 13:] = False
        return real

    @pytest.mark.parametrize(
        ("backbone", "options"),
        [
            ("smit", {"window_reverse": "inverse"}),
            ("smit", {"window_reverse": "published"}),
            ("swin_unetr", {}),
            ("swin_unetr", {"use_v2": True}),
        ],
        indirect=["backbone"],
    )
    @torch.no_grad()
    def test_features_and_logits_do_not_depend_on_what_the_padding_holds(self, make, real, options):
        network = make(mask_padding=True, **options)
        black = torch.rand(real.shape) * real
        noise = torch.where(real, black, torch.rand(real.shape))
        for expected, found in zip(network.encode(black, real), network.encode(noise, real), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(network(noise, real), network(black, real), atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_hiding_padding_changes_real_features(self, make, real):
        image = torch.rand(real.shape) * real
        masked, plain = make(mask_padding=True), make()
        first_real_tokens = (..., slice(0, 3))
        assert not torch.allclose(
            masked.encode(image, real)[1][first_real_tokens], plain.encode(image)[1][first_real_tokens], atol=1e-4
        )
        assert torch.equal(plain(image, real), plain(image))

    @torch.no_grad()
    def test_without_padding_nothing_changes(self):
        image = torch.rand(1, 1, 32, 32, 16)  # whole windows: what completes them is padding as well
        expected = small_smit()(image)
        torch.testing.assert_close(small_smit(mask_padding=True)(image), expected)
        everything = torch.ones_like(image, dtype=torch.bool)
        torch.testing.assert_close(small_smit(mask_padding=True)(image, everything), expected)

    def test_a_sample_of_padding_alone_gives_no_nan(self, make, real):
        real[1] = False
        network = make(mask_padding=True).train()
        logits = network(torch.rand(real.shape), real)
        logits.square().mean().backward()
        assert logits.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
