"""The subcommand `weights`: what it lists, what it verifies, how it fails."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rectal_nnformer.cli import main
from rectal_nnformer.networks import SMIT, SwinUNETR
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, md5_of
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


def test_list_says_of_each_file_where_it_is_had_from_whom_its_size_and_its_licence(monkeypatch, capsys):
    monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
    main(["weights"])
    printed = capsys.readouterr().out.partition("smit ")[2]
    of_file = {}
    for file in PRETRAINED_FILES:
        of_file[file.name], _, printed = printed.partition(f"licence: {file.licence}")
        for stated in (file.publisher, file.address or file.page, file.licence):
            assert stated and stated in of_file[file.name] + file.licence
    assert "size 770 MB, MD5 8903" in of_file["model_smit_ct10k.pth"]
    assert "https://mskcc.box.com/s/df1qdt2js9495ahtldgkooh1cigrwml8 (a web page)" in of_file["voxelfox_swinvit.pt"]
    assert "size 393 MB" in of_file["model_swinvit.pt"] and "'weights fetch'" in of_file["model_swinvit.pt"]
    assert "size not stated, MD5 not stated" in of_file["voco_b_swinvit.pt"]
    licences = {file.name: file.licence for file in PRETRAINED_FILES}
    assert all("not stated for the weights" in text for name, text in licences.items() if name != "model_swinvit.pt")
    assert "Apache-2.0" in licences["model_swinvit.pt"]


def test_a_web_page_in_place_of_a_file_is_told_by_every_action(tmp_path, monkeypatch, capsys):
    """Whether the MD5 is published or not; nothing takes it for weights."""
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
    for name in ("model_smit_ct10k.pth", "voco_b_swinvit.pt"):
        (tmp_path / name).write_text("\n<!DOCTYPE html><html><title>Sign in</title></html>", encoding="utf-8")
    main(["weights"])
    printed = capsys.readouterr().out
    assert printed.count("found, WARNING: it is a web page: the download failed") == 2
    code, printed = checked(capsys, "nnUNetTrainerSMIT_ACT")
    assert code == 1 and "it is a web page: the download failed. Remove it, and get it again: download" in printed
    with pytest.raises(SystemExit) as ended:
        main(["weights", "fetch", "voco_b_swinvit.pt"])
    assert (
        ended.value.code == 2 and "is not the published file. To download it, move it away" in capsys.readouterr().err
    )


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


def checked(capsys, trainer):
    """Return the exit code of `weights check`, and what it printed."""
    code = 0
    try:
        main(["weights", "check", "-tr", trainer])
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().out


class TestCheck:
    @pytest.mark.parametrize("trainer", ["nnUNetTrainerSMIT_ACT_Scratch", "nnUNetTrainerSMIT_CPU", "nnUNetTrainer"])
    def test_a_trainer_that_starts_from_no_file_needs_none(self, monkeypatch, capsys, trainer):
        monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
        assert checked(capsys, trainer) == (0, f"{trainer} starts from no pretrained file.\n")

    def test_a_missing_file_is_named_with_how_to_get_it(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        code, printed = checked(capsys, "nnUNetTrainerSMIT_ACT")
        assert code == 1 and "download model_smit_ct10k.pth from https://mskcc.box.com/" in printed
        code, printed = checked(capsys, "nnUNetTrainerSwinUNETR_Base")
        assert code == 1 and "'rectal_nnformer weights fetch model_swinvit.pt' downloads it" in printed

    def test_the_published_file_is_known_by_its_md5(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        (tmp_path / "model_swinvit.pt").write_bytes(b"as published")
        known = [
            replace(file, md5=md5_of(tmp_path / file.name)) if file.name == "model_swinvit.pt" else file
            for file in PRETRAINED_FILES
        ]
        monkeypatch.setattr("rectal_nnformer.cli.models.PRETRAINED_FILES", known)
        code, printed = checked(capsys, "nnUNetTrainerSwinUNETR_ACT")
        assert code == 0 and f"{tmp_path / 'model_swinvit.pt'}: found, MD5 correct" in printed

    def test_another_file_has_to_fit(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        path = tmp_path / "voco_b_swinvit.pt"
        path.write_bytes(b"<html>")
        code, printed = checked(capsys, "nnUNetTrainerSwinUNETRV2_ACT")
        assert code == 1 and "it is a web page" in printed
        values = SwinUNETR(use_v2=True).swinViT.named_parameters()
        torch.save({name: torch.zeros(1).expand(value.shape) for name, value in values}, path)
        code, printed = checked(capsys, "nnUNetTrainerSwinUNETRV2_ACT")
        assert code == 0 and "The file fits swin_unetr_v2." in printed

    def test_a_class_of_the_users_needs_what_it_inherits(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path))
        monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
        (tmp_path / "mine.py").write_text(
            "from rectal_nnformer.trainers.nnUNetTrainerSMIT import nnUNetTrainerSMIT_ACT\n"
            "class MySMIT(nnUNetTrainerSMIT_ACT):\n    pass\n"
            "class MyScratchSMIT(nnUNetTrainerSMIT_ACT):\n    pretrained = False\n"
        )
        code, printed = checked(capsys, "MySMIT")
        assert code == 1 and "model_smit_ct10k.pth" in printed
        assert checked(capsys, "MyScratchSMIT")[0] == 0


AT_ONCE = """
import contextlib, io, socket, sys
from rectal_nnformer.cli import main

def refuse(*_):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
for command in ("", "list", "check -tr nnUNetTrainerSMIT_ACT", "fetch model_smit_ct10k.pth"):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(["weights", *command.split()])
print(sorted({"torch", "nnunetv2", "monai", "numpy", "requests"} & set(sys.modules)))
"""


def test_nothing_large_is_imported_and_no_network_used_to_list_and_to_miss_a_file():
    result = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout == "[]\n"
