"""Attention dilution over tiles and cases: against sums by hand, against nnU-Net's own tiles, in parts and at once."""

import json
import math
from collections import defaultdict
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from benchmarks.recording_cost import PATCH_SIZES, largest_attention, measure_cost
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from small_datasets import write_preprocessed_case
from small_networks import SMALL, small_planned

from rectal_nnformer.analysis import attention_flow
from rectal_nnformer.analysis.dilution import (
    Tile,
    block_records,
    measure_dilution,
    pooled,
    stage_records,
)
from rectal_nnformer.analysis.dilution_files import analyze_dilution, write_dilution
from rectal_nnformer.analysis.epochs import epochs_between, fixed_crop
from rectal_nnformer.analysis.records import read_attention
from rectal_nnformer.analysis.tiles import PreprocessedCases, sliding_window
from rectal_nnformer.analysis.validation import forget_analysis
from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import scattered_padding_share
from rectal_nnformer.networks import SMIT
from rectal_nnformer.networks.adapter import NETWORK_CLASSES
from rectal_nnformer.networks.recording import record_attention, stream_attention
from rectal_nnformer.networks.window_attention import attend_in_windows

torch.set_num_threads(1)
CPU = torch.device("cpu")


def padded_tile(seed=0, size=(32, 32, 64), real_slices=13):
    """A tile (z, y, x) of noise, of which the lowest slices are image and hold a tumour."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, *size, generator=generator) + 0.1
    image[:, real_slices:] = 0
    tumor = torch.zeros(size, dtype=torch.bool)
    tumor[4:9, 10:16, 20:30] = True
    return Tile(image, tumor)


@pytest.mark.parametrize("backbone", SMALL)
def test_what_is_measured_in_parts_is_what_the_whole_attention_gives(backbone):
    network, tile = small_planned(backbone), padded_tile()
    blocks = measure_dilution(network, [tile], CPU)
    inputs, real = network.prepare(tile.image[None])
    whole = {}
    with torch.no_grad(), record_attention(network.backbone, real, lambda b, *a: whole.update({b.name: a})):
        network.backbone.encode(inputs, real)
    assert [block.name for block in blocks] == list(whole)
    for block in blocks:
        expected = attention_flow(*whole[block.name])
        for name in ("real_queries", "padding_queries", "adi", "a_rp", "a_pp", "entropy", "padding_entropy"):
            value = getattr(expected, name)
            assert getattr(block.flow, name) == pytest.approx(value, abs=1e-5, rel=1e-5, nan_ok=True)
    assert blocks[0].flow.adi > 0.05


@pytest.mark.parametrize("elements", [1, 5000, 10**9])
def test_parts_are_no_larger_than_asked_and_together_the_whole(elements):
    network = small_planned().backbone
    image, parts, whole = torch.rand(2, 1, 24, 20, 24), defaultdict(list), {}
    with (
        torch.no_grad(),
        stream_attention(network, (24, 20, 24), lambda block, *given: parts[block.name].append(given), elements),
    ):
        updated = network.encode(image)
    torch.testing.assert_close(updated, network.encode(image), atol=1e-4, rtol=1e-4)
    real = torch.ones(2, 1, 24, 20, 24, dtype=torch.bool)
    with torch.no_grad(), record_attention(network, real, lambda b, a, _: whole.update({b.name: a})):
        network.encode(image)
    for name, handed in parts.items():
        assert all(a.numel() <= max(elements, math.prod(a.shape[1:])) for _, a in handed)
        assert [part.start for part, _ in handed] == [0, *np.cumsum([len(a) for _, a in handed])[:-1]]
        torch.testing.assert_close(torch.cat([a for _, a in handed]), whole[name])


def test_uniform_attention_gives_the_uniform_index_and_it_is_counted_right():
    """Without queries and position bias every key gets the same. 16 of 64 slices of 4 tokens: padding by counting."""
    network = small_planned()
    for block in network.backbone.attention_blocks((64, 32, 32)):
        torch.nn.init.zeros_(block.attention.qkv.weight)
        torch.nn.init.zeros_(block.attention.relative_position_bias_table)
    tile = padded_tile(real_slices=12)
    first, shifted, *_ = measure_dilution(network, [tile], CPU)
    # Six layers of tokens along z are real: windows of four layers, the second one half real.
    assert first.flow.uniform_adi == pytest.approx(2 / 6 * 2 / 4)
    assert first.flow.adi == pytest.approx(first.flow.uniform_adi, abs=1e-6)
    assert first.flow.a_rp == pytest.approx(first.flow.uniform_adi, abs=1e-6)
    # Shifted by two layers, the windows are 2-5 (all real) and 14, 15, 0, 1, whose halves do not see each other.
    assert shifted.flow.uniform_adi == pytest.approx(2 / 6 * 2 / 4)
    assert shifted.flow.adi == pytest.approx(0, abs=1e-6)
    assert first.tokens == 16 * 16 * 32 and first.flow.real_queries == 6 * 16 * 32


def test_tumor_queries_are_those_whose_token_holds_tumor():
    network, tile = small_planned(), padded_tile()
    block = measure_dilution(network, [tile], CPU)[0]
    assert block.tumor.real_queries == 3 * 3 * 5  # z 4-8 touches the tokens 2-4, y 10-15 the tokens 5-7
    assert 0 < block.tumor.a_rp < 1
    without = measure_dilution(network, [Tile(tile.image, torch.zeros_like(tile.tumor))], CPU)
    assert block_records(without)[0].tumor is None
    stage = stage_records(without)[0]
    assert (
        stage.tumor_adi is None
        and stage.tumor_a_rp is None
        and stage.adi == pytest.approx(stage_records(measure_dilution(network, [tile], CPU))[0].adi)
    )


def test_tiles_and_cases_are_summed_before_they_are_divided():
    network = small_planned()
    tiles = [padded_tile(0, real_slices=13), padded_tile(1, real_slices=25)]
    together = measure_dilution(network, tiles, CPU)
    each = [measure_dilution(network, [tile], CPU) for tile in tiles]
    for block, one, other, sums in zip(together, *each, pooled(each), strict=True):
        adi = (one.flow.padding_entropy_sum + other.flow.padding_entropy_sum) / (
            one.flow.entropy_sum + other.flow.entropy_sum
        )
        assert block.flow.adi == pytest.approx(adi) == pytest.approx(sums.flow.adi)
        assert block.tokens == sums.tokens == one.tokens + other.tokens
    stage = stage_records(together)[0]
    assert stage.adi == pytest.approx(np.mean([block.flow.adi for block in together[:2]]))
    assert stage.real_token_fraction == pytest.approx(together[0].flow.real_queries / together[0].tokens)


@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from([0, 2]))
@settings(max_examples=25)
def test_scattered_share_is_what_the_network_does(seed, size, shift):
    """Each token carries whether it is real through the network's own cutting, scattering and rolling."""
    real = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.6
    carried = attend_in_windows(
        lambda windows, _: windows, real[None, ..., None].float(), (4, 4, 4), (shift,) * 3, None, "published"
    )[0, ..., 0]
    expected = float((real & (carried == 0)).sum() / real.sum()) if real.any() else math.nan
    assert scattered_padding_share(real, 4, shift) == pytest.approx(expected, nan_ok=True)


def test_only_scattering_networks_have_a_scattered_share():
    tile = padded_tile()
    assert block_records(measure_dilution(small_planned(), [tile], CPU))[0].scattered_padding_share > 0
    for network in (small_planned(window_reverse="inverse"), small_planned("swin_unetr")):
        records = stage_records(measure_dilution(network, [tile], CPU))
        assert all(record.scattered_padding_share is None for record in records)


@pytest.mark.parametrize("shape", [(20, 70, 60), (40, 48, 100), (33, 49, 47)])
def test_tiles_are_those_of_nnunets_prediction(shape):
    patch = (32, 48, 48)
    image, tumor = torch.rand(1, *shape), torch.rand(shape) < 0.5
    predictor = nnUNetPredictor()
    predictor.configuration_manager = SimpleNamespace(patch_size=patch)
    padded = pad_nd_image(image, patch, "constant", {"value": 0})
    expected = [padded[box] for box in predictor._internal_get_sliding_window_slicers(padded.shape[1:])]
    tiles = list(sliding_window(Tile(image, tumor), patch))
    assert len(tiles) == len(expected)
    assert all(torch.equal(tile.image, other) for tile, other in zip(tiles, expected, strict=True))
    assert all(tile.tumor.shape == patch for tile in tiles)


@pytest.fixture
def cases(tmp_path):
    """Two preprocessed cases as nnU-Net stores them, the second without tumour."""
    for number in range(2):
        image = np.random.default_rng(number).random((1, 20, 40, 50), dtype=np.float32) + 0.1
        labels = np.full((1, 20, 40, 50), -1 if number else 0, dtype=np.int16)
        labels[0, 5:9, 10:20, 10:20] = 0 if number else 1
        write_preprocessed_case(tmp_path, f"case_{number}", image, labels)
    return PreprocessedCases(tmp_path, ("case_0", "case_1"), (32, 32, 48), (3.0, 3.0, 3.0), (1,))


def test_files_hold_blocks_stages_and_cases(cases, tmp_path):
    content = analyze_dilution(small_planned(), cases, CPU, "random", "3d_fullres")
    write_dilution(content, tmp_path / "out")
    read = json.loads((tmp_path / "out/attention_dilution.json").read_text())
    assert read == json.loads(json.dumps(asdict(content)))
    assert read_attention(tmp_path / "out") == content
    assert (read["backbone"], read["weights"], read["patch_size"]) == ("smit", "random", [48, 32, 32])
    assert (read["window_reverse"], read["mask_padding"]) == ("published", False)
    assert [len(read[name]) for name in ("blocks", "stages", "cases")] == [4, 2, 2]
    assert [case["tiles"] for case in read["cases"]] == [4, 4]
    assert read["stages"][0]["real_token_fraction"] == pytest.approx(20 / 32)
    assert read["cases"][0]["stages"][0]["tumor_adi"] is not None
    assert read["cases"][1]["stages"][0]["tumor_adi"] is None
    assert [len(case["blocks"]) for case in read["cases"]] == [4, 4]
    assert {"adi", "a_rr", "a_rp", "a_pr", "a_pp", "entropy", "padding_entropy", "uniform_adi"} <= set(
        read["blocks"][0]
    )
    lines = (tmp_path / "out/attention_dilution.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 + 2 + 2 * 2
    assert lines[0].startswith("case,stage,block,adi")


def test_a_new_training_removes_what_was_written_of_an_earlier_one(tmp_path):
    names = ("attention_epochs.json", "validation/attention_dilution.json", "validation/attention_dilution.csv")
    kept = tmp_path / "validation/summary.json"
    (tmp_path / "validation").mkdir()
    for path in (*(tmp_path / name for name in names), tmp_path / "validation/feature_reuse.json", kept):
        path.touch()
    forget_analysis(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


@pytest.mark.parametrize(("value", "expected"), [(None, 3), ("", 3), ("0", 0), ("10", 10)])
def test_the_variable_overrides_the_recipe(monkeypatch, value, expected):
    monkeypatch.delenv("RECTAL_NNFORMER_ATTENTION_EVERY", raising=False)
    if value is not None:
        monkeypatch.setenv("RECTAL_NNFORMER_ATTENTION_EVERY", value)
    assert epochs_between(3) == expected


@pytest.mark.parametrize("value", ["often", "-1", "2.5"])
def test_a_variable_that_is_no_number_of_epochs_is_refused(monkeypatch, value):
    monkeypatch.setenv("RECTAL_NNFORMER_ATTENTION_EVERY", value)
    with pytest.raises(RectalError, match="RECTAL_NNFORMER_ATTENTION_EVERY"):
        epochs_between(0)


def test_the_fixed_crop_holds_the_tumor_of_the_first_case_with_one(cases):
    crop = fixed_crop(replace(cases, names=("case_1", "case_0")))
    assert crop.image.shape == (1, 32, 32, 48) and crop.tumor.shape == (32, 32, 48)
    assert int(crop.tumor.sum()) == 4 * 10 * 10
    assert int((crop.image[0] != 0).any(dim=2).any(dim=1).sum()) == 20


def test_recording_holds_less_than_one_attention_more_than_a_plain_pass():
    network = SMIT(embed_dim=12, depths=(2, 2), num_heads=(2, 4)).eval()
    cost = measure_cost(network, (64, 64, 64), CPU, repeats=1, decoder=False)
    assert largest_attention(network, (64, 64, 64)) == 512 * 2 * 64 * 64 * 4
    assert cost.added_attentions < 1


@pytest.mark.slow
@pytest.mark.parametrize("backbone", PATCH_SIZES)
def test_recording_takes_at_most_three_tenths_of_a_forward_pass(backbone):
    torch.manual_seed(0)
    network = NETWORK_CLASSES[backbone](1, 2).eval()
    cost = measure_cost(network, PATCH_SIZES[backbone], CPU, repeats=2, decoder=True)
    assert cost.time_ratio < 1.3
    assert cost.added_attentions < 1
