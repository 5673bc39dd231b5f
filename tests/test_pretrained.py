"""Pretrained files: every published layout loads whole; what does not fit is refused by name and changes nothing."""

import argparse
import gzip
import re
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_networks import golden_shapes

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import SMIT, SwinUNETR, find_pretrained, load_pretrained, pretrained, pretrained_files
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, PretrainedFile, md5_of
from rectal_nnformer.planning.backbones import SMALL_SMIT

torch.set_num_threads(1)


def constants(name):
    """One number per parameter, in its true shape but with one element of storage, so that files are small."""
    parameters = {k: shape for k, shape in golden_shapes(name).items() if not k.endswith("relative_position_index")}
    return OrderedDict((k, torch.full((1,), i / 64).expand(shape)) for i, (k, shape) in enumerate(parameters.items()))


def encoder_of(name, prefix, mlp=None):
    """Return the encoder of a golden key list under a file's prefix, its MLP layers renamed to `mlp` 1 and 2."""
    renamed = OrderedDict()
    for key, value in constants(name).items():
        encoder, _, rest = key.partition(".")
        if encoder in ("transformer", "swinViT"):
            rest = re.sub(r"mlp\.[a-z]+", f"mlp.{mlp}", rest) if mlp else rest
            renamed[prefix + rest] = value
    return renamed


def heads(prefix="module."):
    return {f"{prefix}rotation_head.weight": torch.zeros(4, 768), f"{prefix}mask_token": torch.zeros(1, 48)}


def smit_ct10k():
    student = encoder_of("smit", "module.backbone.transformer.")
    teacher = {key: value + 1 for key, value in student.items()}
    options = argparse.Namespace(lr=1e-4, out=Path("/data/out"), best=np.float64(0.5))
    return {"student": {**student, **heads()}, "teacher": teacher, "epoch": 3, "args": options}


def swinvit():
    return {"state_dict": {**encoder_of("swin_unetr", "module.", mlp="fc"), **heads()}, "epoch": np.int64(7)}


def nested_swinvit():
    return {"state_dict": {**encoder_of("swin_unetr", "module.swinViT.", mlp="linear"), **heads()}}


def voxelfox():
    teacher = encoder_of("swin_unetr_v2", "module.backbone.swinViT.")
    return {"student": {key: value + 1 for key, value in teacher.items()}, "teacher": {**teacher, **heads()}}


def voco():
    return {**encoder_of("swin_unetr_v2", "swinViT.", mlp="fc"), **heads("")}


def nested_voco():
    return {"state_dict": encoder_of("swin_unetr_v2", "module.")}


def fine_tuned(name):
    return {"state_dict": constants(name), "args": argparse.Namespace(roi_z=64), "best_acc": np.float32(0.7)}


LAYOUTS = {
    "smit_ct10k": ("smit", smit_ct10k, "student"),
    "swinvit": ("swin_unetr", swinvit, "state_dict"),
    "nested_swinvit": ("swin_unetr", nested_swinvit, "state_dict"),
    "voxelfox": ("swin_unetr_v2", voxelfox, "teacher"),
    "voco": ("swin_unetr_v2", voco, "file"),
    "nested_voco": ("swin_unetr_v2", nested_voco, "state_dict"),
    "fine_tuned_smit": ("smit", lambda: fine_tuned("smit"), "state_dict"),
    "fine_tuned_swin_unetr": ("swin_unetr", lambda: fine_tuned("swin_unetr"), "state_dict"),
}


@pytest.fixture(scope="module")
def networks():
    return {"smit": SMIT(), "swin_unetr": SwinUNETR(), "swin_unetr_v2": SwinUNETR(use_v2=True)}


def saved(tmp_path, content, name="weights.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def weights_in(content, source):
    return content if source == "file" else content[source]


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_every_layout_loads_whole(networks, tmp_path, layout):
    backbone, build, source = LAYOUTS[layout]
    network, path = networks[backbone], saved(tmp_path, build())
    for parameter in network.parameters():
        parameter.fill_(-1)
    report = load_pretrained(network, str(path))

    whole = layout.startswith("fine_tuned")
    parameters = dict(network.named_parameters())
    encoder = {name for name in parameters if name.startswith(("transformer.", "swinViT."))}
    expected = constants(backbone)
    for name, parameter in parameters.items():
        value = expected[name].flatten()[0] if whole or name in encoder else -1
        assert (parameter == value).all(), name
    assert set(report.loaded) == (set(parameters) if whole else encoder)
    assert set(report.missing) == set(parameters) - set(report.loaded)
    assert (report.path, report.md5, report.recognized) == (path, md5_of(path), None)
    assert (report.source, report.whole_network, report.spread) == (source, whole, ())
    assert sorted(report.unexpected) == sorted(k for k in weights_in(build(), source) if "head" in k or "mask" in k)


@pytest.mark.parametrize("damage", ["removed", "renamed", "reshaped"])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_one_damaged_key_is_named_and_nothing_is_loaded(networks, tmp_path, layout, damage):
    backbone, build, source = LAYOUTS[layout]
    content = build()
    weights = weights_in(content, source)
    key = next(name for name in weights if "blocks.1.mlp" in name)
    if damage == "reshaped":
        weights[key] = weights[key][1:]
    else:
        value = weights.pop(key)
        if damage == "renamed":
            weights[key.replace("blocks.1", "blocks.one")] = value
    network = networks[backbone]
    first = next(network.parameters())
    first.fill_(-1)
    with pytest.raises(RectalError) as caught:
        load_pretrained(network, saved(tmp_path, content))
    named = re.sub(r"^(module\.|backbone\.|transformer\.|swinViT\.)*", "", key).replace("linear", "fc")
    assert named in str(caught.value).replace("linear", "fc")
    assert (first == -1).all()


def test_every_missing_key_is_named(networks, tmp_path):
    with pytest.raises(RectalError) as caught:
        load_pretrained(networks["smit"], saved(tmp_path, {"state_dict": {"conv.weight": torch.zeros(3)}}))
    encoder = [name for name, _ in networks["smit"].named_parameters() if name.startswith("transformer.")]
    assert all(f"missing: {name}\n" in f"{caught.value}\n" for name in encoder)


def test_a_decoder_key_missing_in_a_whole_network_is_named(networks, tmp_path):
    content = fine_tuned("smit")
    del content["state_dict"]["decoder3.conv_block.conv2.conv.weight"]
    with pytest.raises(RectalError, match=r"missing: decoder3\.conv_block\.conv2\.conv\.weight"):
        load_pretrained(networks["smit"], saved(tmp_path, content))


@pytest.mark.parametrize(
    ("layout", "backbone"), [("voxelfox", "swin_unetr"), ("swinvit", "swin_unetr_v2"), ("voco", "smit")]
)
def test_files_of_another_backbone_are_refused(networks, tmp_path, layout, backbone):
    with pytest.raises(RectalError, match=r"does not fit .*\n.*(layers1c|missing)"):
        load_pretrained(networks[backbone], saved(tmp_path, LAYOUTS[layout][1]()))


def test_integer_buffers_must_agree(networks, tmp_path):
    key = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
    content = voco()
    content[key] = networks["swin_unetr_v2"].state_dict()[key].clone()
    report = load_pretrained(networks["swin_unetr_v2"], saved(tmp_path, content))
    assert key not in report.unexpected
    content[key] = content[key].flip(0)
    with pytest.raises(RectalError, match=f"buffer {key} differs"):
        load_pretrained(networks["swin_unetr_v2"], saved(tmp_path, content))


def test_one_weight_under_two_names_is_refused(networks, tmp_path):
    content = voco()
    content["module.patch_embed.proj.bias"] = content["swinViT.patch_embed.proj.bias"]
    with pytest.raises(RectalError, match="twice"):
        load_pretrained(networks["swin_unetr_v2"], saved(tmp_path, content))


@pytest.mark.parametrize("prefix", ["module.", "module.backbone.", "backbone.module.", "_orig_mod."])
def test_wrappers_of_a_whole_network_are_dropped(tmp_path, prefix):
    network = SMIT(embed_dim=12, depths=(1,), num_heads=(2,))
    weights = {prefix + key: torch.full_like(value, 0.5) for key, value in network.named_parameters()}
    assert load_pretrained(network, saved(tmp_path, {"state_dict": weights})).whole_network
    assert all((parameter == 0.5).all() for parameter in network.parameters())


def test_a_wrapped_network_is_refused_instead_of_left_as_it_is(tmp_path):
    network = SMIT(embed_dim=12, depths=(1,), num_heads=(2,))
    path = saved(tmp_path, network.state_dict())
    for wrapped in (torch.compile(network, backend="eager"), torch.nn.Sequential(network)):
        with pytest.raises(TypeError, match="itself, not into"):
            load_pretrained(wrapped, path)


def test_a_file_of_another_number_of_channels_is_refused(tmp_path):
    four, two = (SMIT(channels, embed_dim=12, depths=(1,), num_heads=(2,)) for channels in (4, 2))
    path = saved(tmp_path, {"state_dict": four.transformer.state_dict()})
    with pytest.raises(RectalError, match=r"patch_embed\.proj\.weight: \(12, 4, .* in the file, \(12, 2, "):
        load_pretrained(two, path)


@pytest.mark.parametrize("whole", [False, True])
@torch.no_grad()
def test_equal_channels_give_the_response_of_the_single_channel(tmp_path, whole):
    architecture = {"embed_dim": 12, "depths": (2,), "num_heads": (2,)}
    single, multi = SMIT(1, 2, **architecture).eval(), SMIT(3, 2, **architecture).eval()
    weights = single.state_dict() if whole else single.transformer.state_dict()
    report = load_pretrained(multi, saved(tmp_path, {"state_dict": weights}))
    assert report.spread[0] == "transformer.patch_embed.proj.weight"
    image = torch.rand(1, 1, 16, 16, 16)
    for expected, found in zip(single.encode(image), multi.encode(image.expand(-1, 3, -1, -1, -1)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if whole:
        torch.testing.assert_close(multi(image.expand(-1, 3, -1, -1, -1)), single(image), atol=1e-4, rtol=1e-4)


class TestUnreadable:
    @pytest.fixture
    def network(self):
        return SMIT(embed_dim=12, depths=(1,), num_heads=(2,))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
            (b"", "it is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"begins with 'version https://git-lfs\."),
            (b'{"error": "not found"}', "it is text and begins with"),
            (gzip.compress(bytes(99), mtime=0), "compressed by gzip"),
            (b"\x89PNG\r\n", "damaged, incomplete or no PyTorch file"),
            (bytes(range(256)) * 9, "damaged, incomplete or no PyTorch file"),
        ],
    )
    def test_a_foreign_file_is_told_and_no_advice_to_trust_it_is_given(self, network, tmp_path, content, message):
        path = tmp_path / "model.pt"
        path.write_bytes(content)
        with pytest.raises(RectalError, match=message) as caught:
            load_pretrained(network, path)
        assert str(path) in str(caught.value)
        assert "weights_only" not in str(caught.value)

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_a_truncated_file(self, network, tmp_path, zipped, share):
        path = tmp_path / "model.pt"
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(RectalError, match=re.escape(str(path))):
            load_pretrained(network, path)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_file_that_would_run_code_is_not_run_and_its_type_is_named(self, network, tmp_path, zipped):
        path = tmp_path / "model.pt"
        content = {"state_dict": network.state_dict(), "args": Trap(tmp_path / "sprung")}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(RectalError, match=r"object of the type \S+.*state_dict") as caught:
            load_pretrained(network, path)
        assert "weights_only" not in str(caught.value)
        assert not (tmp_path / "sprung").exists()

    def test_a_program_is_no_file_of_weights(self, network, tmp_path):
        path = tmp_path / "model.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
            with pytest.raises(RectalError, match="TorchScript"):
                load_pretrained(network, path)

    @pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {}}, {"epoch": 3}])
    def test_a_file_without_weights(self, network, tmp_path, content):
        with pytest.raises(RectalError, match="no weights"):
            load_pretrained(network, saved(tmp_path, content))

    def test_no_file(self, network, tmp_path):
        with pytest.raises(RectalError, match=r"no weights file .*absent\.pt"):
            load_pretrained(network, tmp_path / "absent.pt")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_old_files_name_numpy_and_paths_by_their_old_modules(tmp_path):
    network = SMIT(embed_dim=12, depths=(1,), num_heads=(2,))
    path = tmp_path / "old.pt"
    content = {"state_dict": network.state_dict(), "best": np.float64(0.5), "args": argparse.Namespace(out=tmp_path)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert load_pretrained(network, path).whole_network


def test_published_files_are_recognized_by_their_md5(networks, tmp_path, monkeypatch):
    path = saved(tmp_path, voco(), "renamed.pt")
    known = PretrainedFile("voco_b_swinvit.pt", "swin_unetr_v2", md5_of(path), "origin", "authors")
    monkeypatch.setattr(pretrained, "PRETRAINED_FILES", (known,))
    report = load_pretrained(networks["swin_unetr_v2"], path)
    assert report.recognized == "voco_b_swinvit.pt"
    assert "voco_b_swinvit.pt" in str(report)


def test_a_known_name_with_another_md5_is_reported(networks, tmp_path):
    report = load_pretrained(networks["smit"], saved(tmp_path, smit_ct10k(), "model_smit_ct10k.pth"))
    assert "WARNING" in str(report) and "used all the same" in str(report)
    assert "89038a82d29ed5462d6a49dd14c515b2" in str(report)
    assert "2 (mask_token, rotation_head)" in str(report)


class TestFindPretrained:
    @pytest.mark.parametrize("file", PRETRAINED_FILES, ids=lambda file: file.name)
    def test_files_are_found_by_name(self, tmp_path, monkeypatch, file):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        (tmp_path / file.name).touch()
        assert find_pretrained(file.backbone) == tmp_path / file.name

    def test_a_missing_file_names_file_folder_and_variable(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        with pytest.raises(RectalError) as caught:
            find_pretrained("smit")
        for word in ("model_smit_ct10k.pth", str(tmp_path), "RECTAL_NNFORMER_WEIGHTS"):
            assert word in str(caught.value)

    def test_a_folder_that_does_not_exist_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path / "absent"))
        with pytest.raises(RectalError, match=r"absent, which .* names, is not a folder"):
            find_pretrained("smit")

    def test_an_unset_variable_is_named(self, monkeypatch):
        monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
        with pytest.raises(RectalError, match=r"RECTAL_NNFORMER_WEIGHTS is not set.*model_swinvit\.pt"):
            find_pretrained("swin_unetr")

    @pytest.mark.parametrize(
        ("backbone", "arguments"),
        [
            ("smit", {"mask_padding": True, "window_reverse": "inverse", "drop_path_rate": 0.3}),
            ("smit", {"embed_dim": 48, "depths": [2, 2, 12, 2], "num_heads": (4, 4, 8, 16), "window_size": 4}),
            ("swin_unetr", {"merging": "corrected", "feature_size": 48}),
            ("swin_unetr_v2", {"depths": [2, 2, 2, 2]}),
        ],
    )
    def test_arguments_that_the_published_network_has_too_ask_for_its_file(
        self, tmp_path, monkeypatch, backbone, arguments
    ):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        with pytest.raises(RectalError, match="are missing: there is no"):
            find_pretrained(backbone, arguments)

    def test_no_published_file_is_asked_for_or_taken_for_another_network(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        with pytest.raises(RectalError, match=r"embed_dim 16, depths \[2, 2\], num_heads \[2, 4\]") as caught:
            find_pretrained("smit", SMALL_SMIT)
        assert "model_smit_ct10k.pth" not in str(caught.value)
        own = tmp_path / "model_smit_ct10k.pth"
        own.write_bytes(b"of the user's")
        assert find_pretrained("smit", SMALL_SMIT) == own
        published = [replace(file, md5=md5_of(own)) for file in PRETRAINED_FILES if file.name == own.name]
        monkeypatch.setattr(pretrained_files, "PRETRAINED_FILES", published)
        assert find_pretrained("smit", {}) == own
        with pytest.raises(RectalError, match="No published pretrained file fits"):
            find_pretrained("smit", SMALL_SMIT)

    def test_an_unknown_backbone(self):
        with pytest.raises(RectalError, match=r"'unet'.*smit"):
            find_pretrained("unet")
