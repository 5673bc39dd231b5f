"""Networks that are not this project's: attention dilution of global attention, CKA of any layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.nets import UNETR
from small_datasets import six_preprocessed_cases
from small_networks import small_planned

from rectal_nnformer.analysis import attention_flow
from rectal_nnformer.analysis.dilution import Tile, measure_dilution
from rectal_nnformer.analysis.dilution_files import analyze_dilution, write_dilution
from rectal_nnformer.analysis.features import feature_grams
from rectal_nnformer.analysis.records import read_attention
from rectal_nnformer.analysis.reuse import ComparedNetwork, compare_features
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.foreign import ForeignNetwork
from rectal_nnformer.networks.recording import record_attention
from rectal_nnformer.reporting.analyses import attention_over_folds

torch.set_num_threads(1)
CPU = torch.device("cpu")
PATCH = (16, 32, 48)
"""As stored, (z, y, x)."""


def unetr(**options):
    torch.manual_seed(0)
    sizes = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2}
    return ForeignNetwork(UNETR(1, 2, PATCH, **sizes, **options), "UNETR", token_size=16)


def primus():
    torch.manual_seed(0)
    network = Primus(1, 24, (8, 8, 8), 2, eva_depth=2, eva_numheads=2, input_shape=PATCH)
    return ForeignNetwork(network, "Primus", token_size=8)


def stock(seed=0, **options):
    """A network as nnU-Net's default plans build it, but for its size."""
    torch.manual_seed(seed)
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2)]
    layers = [f"encoder.stages.{stage}" for stage in range(3)]
    network = PlainConvUNet(1, 3, [4, 8, 8], torch.nn.Conv3d, 3, strides, 1, 2, 1, True, torch.nn.InstanceNorm3d)
    return ForeignNetwork(network, "nnU-Net", layers=layers, **options)


def tile(real_columns):
    """Noise; along x the first voxels are image and the others padding."""
    image = torch.rand(1, *PATCH, generator=torch.Generator().manual_seed(0)) + 0.1
    image[..., real_columns:] = 0
    tumor = torch.zeros(PATCH, dtype=torch.bool)
    tumor[4:9, 4:9, 4:9] = True
    return Tile(image, tumor)


@pytest.mark.parametrize(("make", "blocks", "tokens", "columns"), [(unetr, 12, 6, 3), (primus, 2, 48, 6)])
def test_uniform_global_attention_is_diluted_by_the_share_of_padding(make, blocks, tokens, columns):
    """Without queries and keys every token gets the same: of so many columns of tokens two hold image."""
    network = make().eval()
    for name, weight in network.named_parameters():
        if any(part in name for part in ("qkv", "q_proj", "k_proj", "q_bias")):
            torch.nn.init.zeros_(weight)
    found = measure_dilution(network, [tile(2 * 48 // columns - 1)], CPU)
    assert len(found) == blocks
    for block in found:
        assert (block.tokens, block.flow.real_queries) == (tokens, tokens * 2 / columns)
        assert block.flow.adi == pytest.approx(1 - 2 / columns, abs=1e-6)
        assert block.flow.a_rp == pytest.approx(block.flow.uniform_adi) == pytest.approx(1 - 2 / columns)
        assert block.tumor.real_queries == {unetr: 1, primus: 8}[make] and block.scattered is None


def test_attention_is_read_token_by_token_in_the_order_of_the_patch():
    network, image = unetr(save_attn=True).eval(), tile(17).image[None]
    inputs, real = network.prepare(image)
    handed = {}
    with torch.no_grad(), record_attention(network, real, lambda block, *given: handed.update({block.name: given})):
        network.encode(inputs, real)
    assert all(windows.sum() == 4 for _, windows in handed.values())  # two columns of two tokens
    stored = torch.tensor([[True, True, False, True, True, False]])  # (z, y, x)
    for name, given in handed.items():
        kept = network.network.get_submodule(name).att_mat
        assert attention_flow(*given).adi == pytest.approx(attention_flow(kept, stored).adi)


def test_reading_leaves_a_network_as_it_was():
    network, image = primus().eval(), tile(17).image[None]
    with torch.no_grad():
        before = network.network(image)
        inputs, real = network.prepare(image)
        with record_attention(network, real, lambda *_: None):
            torch.testing.assert_close(network.encode(inputs, real), before, atol=1e-4, rtol=1e-4)
    layers = [module for module in network.modules() if hasattr(module, "fused_attn")]
    assert layers and all(layer.fused_attn for layer in layers)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_wrong_token_size_is_told():
    network = ForeignNetwork(primus().network, "Primus", token_size=16).eval()
    with pytest.raises(RectalError, match="attends to 48 tokens, but the patch has 6"):
        measure_dilution(network, [tile(17)], CPU)


@pytest.fixture
def cases(tmp_path):
    return six_preprocessed_cases(tmp_path, PATCH)


def test_the_files_of_a_fold_hold_any_network(cases, tmp_path):
    record = analyze_dilution(primus(), cases, CPU, "random", "3d_fullres")
    write_dilution(record, tmp_path / "out")
    read = read_attention(tmp_path / "out")
    assert (read.backbone, read.patch_size, read.mask_padding) == ("Primus", PATCH[::-1], False)
    assert [(block.name, block.stage) for block in read.blocks] == [("eva.blocks.0.attn", 0), ("eva.blocks.1.attn", 0)]
    (stage,) = attention_over_folds({0: read})  # as the report tells it
    assert stage.means["adi"] == pytest.approx(np.mean([block.adi for block in record.blocks]))


def test_layers_of_stock_nnunet_are_compared_with_their_pretrained_ones(cases):
    first, pretrained = stock(), stock(seed=1)
    pretrained.network.encoder.stages[0].load_state_dict(first.network.encoder.stages[0].state_dict())
    found = compare_features(*(ComparedNetwork("fold", one, cases) for one in (first, pretrained)), CPU)
    assert found.backbone == "nnU-Net" and found.stages == (0, 1, 2)
    assert found.debiased.diagonal[0] == pytest.approx(1)
    assert max(found.debiased.diagonal[1:]) < 0.999


def test_features_do_not_depend_on_which_axis_is_called_what(cases):
    """A convolution that copies its input has the features of the image: crops are alike, cell by cell."""
    copy = torch.nn.Conv3d(1, 1, 1, bias=False)
    torch.nn.init.ones_(copy.weight)
    xyz, zyx = (ForeignNetwork(copy, "copy", layers=[""], spatial_axes=axes) for axes in ((2, 1, 0), (0, 1, 2)))
    grams = [feature_grams(xyz, cases, (96, 60, 30), CPU), feature_grams(zyx, cases, (30, 60, 96), CPU)]
    torch.testing.assert_close(*grams, atol=1e-5, rtol=1e-5)  # features are float32, summed in another order
    across = compare_features(ComparedNetwork("ours", small_planned(), cases), ComparedNetwork("copy", xyz, cases), CPU)
    assert [len(across.debiased.matrix), len(across.debiased.matrix[0])] == [4, 1]


def test_tokens_of_a_transformer_are_compared_too(cases):
    first = unetr()
    first.layers = ("vit.blocks.0", "vit.blocks.11")
    found = compare_features(*(ComparedNetwork("fold", first, cases) for _ in range(2)), CPU)
    assert found.debiased.diagonal == pytest.approx([1, 1]) and found.blocks[1] == "stage 0 block 1"


def test_a_network_without_attention_is_told():
    with pytest.raises(RectalError, match="nnU-Net runs no attention layer that can be read"):
        measure_dilution(stock(token_size=16).eval(), [tile(17)], CPU)


def test_the_documented_examples_run(cases, capsys):
    page = (Path(__file__).parents[1] / "documentation/reference/python.md").read_text(encoding="utf-8")
    attention, features = (
        part.split("```")[0] for part in page.split("## Other networks")[1].split("```python\n")[1:3]
    )
    exec(attention, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[0].startswith("vit.blocks.0.attn ")
    assert all(0 < float(line.split()[1]) < 1 for line in lines)
    exec(features, {"folder": cases.folder})
    assert "trained against pretrained: debiased CKA " in capsys.readouterr().out
