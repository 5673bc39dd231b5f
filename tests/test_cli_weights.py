"""The subcommand `weights`: what it lists, what it verifies, how it fails."""

import pytest
import torch

from rectal_nnformer.cli import main
from rectal_nnformer.networks import SMIT, SwinUNETR
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES
from rectal_nnformer.nnunet.names import NETWORKS

torch.set_num_threads(1)


@pytest.mark.parametrize("arguments", [["weights"], ["weights", "list"]])
def test_list_names_every_file_and_what_was_found(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
    (tmp_path / "model_swinvit.pt").write_text("not the published bytes", encoding="utf-8")
    (tmp_path / "voco_b_swinvit.pt").touch()
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert str(tmp_path) in lines[0]
    status = {file.name: next(line for line in lines if file.name in line) for file in PRETRAINED_FILES}
    assert "not found" in status["model_smit_ct10k.pth"]
    assert "WARNING: its MD5 is" in status["model_swinvit.pt"]
    assert "used all the same" in status["model_swinvit.pt"]
    assert "found, MD5 not known" in status["voco_b_swinvit.pt"]
    assert all(any(file.md5 in line for line in lines) for file in PRETRAINED_FILES if file.md5)


def test_list_says_that_the_variable_is_not_set(monkeypatch, capsys):
    monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
    main(["weights"])
    assert "RECTAL_NNFORMER_WEIGHTS is not set" in capsys.readouterr().out


def test_list_says_that_the_folder_does_not_exist(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path / "absent"))
    main(["weights"])
    first, *others = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "absent") in first and "there is no such folder" in first
    assert sum("not found" in line for line in others) == len(PRETRAINED_FILES)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mine.pt", ["--backbone", "smit"]), ("model_smit_ct10k.pth", []), ("x.pt", ["--backbone", "swin_unetr_v2"])],
)
def test_verify_prints_the_report(tmp_path, capsys, name, options):
    network = SwinUNETR(use_v2=True).swinViT if "swin_unetr_v2" in options else SMIT().transformer
    values = {key: torch.zeros(1).expand(value.shape) for key, value in network.named_parameters()}
    torch.save({"state_dict": values}, tmp_path / name)
    main(["weights", "verify", str(tmp_path / name), *options])
    printed = capsys.readouterr().out
    assert f"loaded: {len(values)} parameters (encoder), from 'state_dict'" in printed


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["weights", "verify", *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--backbone", "smit"]])
def test_verify_says_what_a_file_is_whatever_it_is_called(tmp_path, capsys, options):
    path = tmp_path / "mine.pt"
    assert "no weights file" in refusal(capsys, str(path), *options)
    path.write_text("\ufeff<html>", encoding="utf-8")
    message = refusal(capsys, str(path), *options)
    assert str(path) in message and "web page" in message
    assert "weights_only" not in message


def test_verify_asks_for_the_backbone_of_a_file_of_another_name(tmp_path, capsys):
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "mine.pt")
    assert "Name one with --backbone" in refusal(capsys, str(tmp_path / "mine.pt"))


def test_every_backbone_with_a_file_can_be_verified():
    assert {file.backbone for file in PRETRAINED_FILES} == set(NETWORKS)
