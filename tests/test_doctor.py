"""`doctor` names what would go wrong later, with its remedy, and its exit code tells scripts."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from checkpoints import write_checkpoint
from small_datasets import write_dataset_json

from rectal_nnformer import cli, doctor

MODEL = "nnUNetTrainerSMIT_ACT__nnUNetRectalSMITPlans__3d_fullres"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """nnU-Net's three folders, empty."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
    return tmp_path


def run(capsys, *arguments):
    """Return the exit code and the findings."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--json", *arguments])
    return ended.value.code, {(f["about"], f["state"]): f for f in json.loads(capsys.readouterr().out)}


ENV = "et it with 'eval \"$(rectal_nnformer env --base DIR)\"', DIR being where your data shall lie."


def words(found, about, state):
    """Return a finding and its remedy as they are told."""
    return found[about, state]["text"], found[about, state]["remedy"]


def test_a_sound_machine_has_no_problem(folders, capsys):
    code, found = run(capsys)
    assert code == 0 and ("nnUNet_raw", "ok") in found and ("versions", "ok") in found and ("memory", "ok") in found
    assert not [key for key in found if key[1] == "problem"]


def test_variables_that_are_missing_or_wrong(folders, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_results", str(folders / "nowhere"))
    code, found = run(capsys)
    assert code == 1
    assert words(found, "nnUNet_raw", "problem") == ("is not set", f"S{ENV}")
    assert words(found, "nnUNet_results", "note") == (
        f"names {folders}/nowhere, which is no folder yet",
        "It is made when it is needed.",
    )
    assert words(found, "nnUNet_preprocessed", "ok") == (f"is {folders}/nnUNet_preprocessed", "")
    monkeypatch.setenv("nnUNet_raw", str(folders / "nowhere"))
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    code, found = run(capsys)
    told = (f"names {folders}/nowhere, which is no folder", f"Make it, or s{ENV}")
    assert code == 1 and words(found, "nnUNet_raw", "problem") == told
    told = (f"is {folders}/nnUNet_preprocessed, in which you may not write", "Ask for the right, or set another.")
    assert words(found, "nnUNet_preprocessed", "note") == told


def test_versions_that_do_not_fit_are_named(folders, capsys, monkeypatch):
    real = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.9.1" if name == "torch" else real(name))
    code, found = run(capsys)
    assert code == 1
    text, remedy = words(found, "torch", "problem")
    assert re.fullmatch(r"has the version 2\.9\.1; nnunetv2 needs \S*!=2\.9\.\S*", text)
    assert remedy == "Install another: pip install 'torch' with that range."
    assert ("versions", "ok") not in found

    def missing(name):
        if name == "SimpleITK":
            raise doctor.metadata.PackageNotFoundError
        return real(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    _, found = run(capsys)
    assert re.fullmatch(r"is not installed; \w+ needs it", words(found, "SimpleITK", "problem")[0])
    monkeypatch.setattr(doctor.metadata, "version", real)
    names = ("rectal_nnformer", "nnunetv2", "torch", "numpy")
    assert words(run(capsys)[1], "versions", "ok") == (", ".join(f"{name} {real(name)}" for name in names), "")


def test_little_disk_memory_and_shared_memory(folders, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 1e9, "total": 64 << 20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.__getitem__)
    code, found = run(capsys)
    assert code == 1 and words(found, "shared memory", "problem") == (
        "0.1 GB in /dev/shm",
        "Start the container with --ipc=host or --shm-size=8g.",
    )
    assert words(found, "disk of nnUNet_raw", "note") == (
        "1 GB left",
        "Free some, or set the variable to a folder on another disk.",
    )
    assert words(found, "memory", "note") == ("4 GB", "Use fewer processes: -np 1, and nnUNet_n_proc_DA=2.")
    usage.free, usage.total = 1e12, 8 << 30
    monkeypatch.setattr(doctor.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 23}.__getitem__)
    code, found = run(capsys)
    assert code == 0 and words(found, "shared memory", "ok") == ("8.0 GB in /dev/shm", "")
    assert words(found, "disk of nnUNet_raw", "ok") == ("1000 GB left", "")
    assert words(found, "memory", "ok") == ("32 GB", "")


def test_a_gpu_smaller_than_planned_for(folders, capsys, monkeypatch):
    dataset = folders / "nnUNet_preprocessed/Dataset501_Tiny"
    dataset.mkdir()
    record = {"gpu_memory_target": 24.0}
    plans = {"plans_name": "P", "dataset_name": dataset.name, "configurations": {}, "rectal_nnformer": record}
    (dataset / "P.json").write_text(json.dumps(plans))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    card = type("Card", (), {"name": "Card", "total_memory": 11 << 30})
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: card)
    _, found = run(capsys)
    assert words(found, "GPU 0", "ok") == ("Card, 11 GB", "")
    assert words(found, "GPU 0", "note") == (
        "has less than the 24 GB of P of Dataset501_Tiny",
        "Plan again with -gpu_memory_target 11.",
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert words(run(capsys)[1], "GPU", "note") == (
        "PyTorch sees none",
        "Check the driver and CUDA_VISIBLE_DEVICES, or train the small networks with -device cpu.",
    )


def test_pretrained_files(folders, capsys, monkeypatch):
    """Missing, of unknown MD5, of another MD5 than published, or a web page."""
    consequence = "trainers that start from a pretrained file will refuse"
    remedy = "Set it to the folder of the pretrained files; 'rectal_nnformer weights' lists them."
    told = words(run(capsys)[1], "RECTAL_NNFORMER_WEIGHTS", "note")
    assert told == (f"is not set: {consequence}", remedy)
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(folders / "none"))
    told = words(run(capsys)[1], "RECTAL_NNFORMER_WEIGHTS", "note")
    assert told == (f"names {folders}/none, which is no folder: {consequence}", remedy)
    (folders / "model_swinvit.pt").write_bytes(b"other")
    (folders / "voco_b_swinvit.pt").write_bytes(b"other")
    (folders / "voxelfox_swinvit.pt").write_bytes(b"<html>")
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(folders))
    code, found = run(capsys)
    assert code == 1
    assert words(found, "model_swinvit.pt", "problem") == (
        "found, WARNING: its MD5 is 795f3202b17cb6bc3d4b771d8c6c9eaf, so it is not the published file; it is used all "
        "the same, if everything in it fits",
        "Download it again.",
    )
    assert words(found, "voxelfox_swinvit.pt", "problem") == (
        "found, WARNING: it is a web page: the download failed",
        "Download it again.",
    )
    assert words(found, "voco_b_swinvit.pt", "ok") == ("found, MD5 not known", "")
    assert words(found, "model_smit_ct10k.pth", "ok") == ("not found", "")


def test_damaged_plans_and_missing_data(folders, capsys):
    dataset = folders / "nnUNet_preprocessed/Dataset501_Tiny"
    dataset.mkdir()
    write_dataset_json(dataset, 5)
    settings = {
        "data_identifier": "gone",
        "patch_size": [16, 16, 16],
        "spacing": [1.0, 1.0, 1.0],
        "batch_size": 2,
        "normalization_schemes": ["ZScoreNormalization"],
    }
    plans = {"plans_name": "P", "dataset_name": dataset.name, "configurations": {"3d_fullres": settings}}
    (dataset / "P.json").write_text(json.dumps(plans))
    code, found = run(capsys)
    remedy = "Run 'rectal_nnformer plan_and_preprocess'."
    assert code == 1 and words(found, "Dataset501_Tiny", "problem") == ("P has no data in gone", remedy)
    (dataset / "gone").mkdir()
    assert words(run(capsys)[1], "Dataset501_Tiny", "ok") == ("planned: P", "")
    (dataset / "P.json").write_text('{"configurations": 3')
    code, found = run(capsys)
    assert code == 1 and "P.json cannot be read" in found["Dataset501_Tiny", "problem"]["text"]


def test_unfinished_and_damaged_folds(folders, capsys, monkeypatch):
    model = folders / "nnUNet_results/Dataset501_Tiny" / MODEL
    for fold in range(4):
        write_checkpoint(model / f"fold_{fold}/checkpoint_final.pth", "nnUNetTrainerSMIT_ACT")
        (model / f"fold_{fold}/validation").mkdir()
        (model / f"fold_{fold}/validation/summary.json").write_text("{}")
    (model / "fold_1/checkpoint_final.pth").write_bytes(b"")
    (model / "fold_2/checkpoint_final.pth").rename(model / "fold_2/checkpoint_latest.pth")
    (model / "fold_3/validation/summary.json").unlink()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, found = run(capsys)
    assert code == 1 and (f"{MODEL} fold_0", "ok") not in found
    assert words(found, f"{MODEL} fold_1", "problem") == (
        "checkpoint_final.pth is empty",
        f"Restore or remove the file in {model}/fold_1, then go on with --c.",
    )
    command = (
        "rectal_nnformer crossval -d Dataset501_Tiny -tr nnUNetTrainerSMIT_ACT -p nnUNetRectalSMITPlans -c 3d_fullres "
    )
    assert words(found, f"{MODEL} fold_2", "note") == (
        "is not trained to its end",
        f"Go on with '{command}-f 2 -device cpu', unless it is running.",
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert words(run(capsys)[1], f"{MODEL} fold_3", "note") == (
        "is trained and not validated",
        f"Go on with '{command}-f 3', unless it is running.",
    )
    for fold in (1, 2, 3):
        shutil.rmtree(model / f"fold_{fold}")
    assert words(run(capsys)[1], MODEL, "ok") == ("1 fold of Dataset501_Tiny trained and validated", "")


def test_a_raw_dataset_is_read_whole(folders, capsys):
    """By the checks of planning; what is named stands in their tests."""
    code, found = run(capsys, "-d", "501")
    text, remedy = words(found, "raw dataset 501", "problem")
    assert code == 1 and "No dataset is called 501" in text
    assert remedy == "Put right what is named, then plan again."
    raw = folders / "nnUNet_raw/Dataset501_Tiny"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for number in range(5):
        image = np.random.default_rng(number).normal(size=(4, 6, 6)).astype(np.float32)
        mask = (image > 1).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(raw / f"imagesTr/c{number}_0000.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(raw / f"labelsTr/c{number}.nii.gz"))
    write_dataset_json(raw, 5)
    code, found = run(capsys, "-d", "501", "-np", "1")
    assert code == 0 and words(found, raw.name, "ok") == ("every image and mask can be used", "")
    (raw / "imagesTr/stray.txt").touch()
    code, found = run(capsys, "-d", "501", "-np", "1")
    assert code == 0 and words(found, raw.name, "note") == (
        f"{raw}/imagesTr holds 1 file of no case, left aside: stray.txt.",
        "Look at it before you train.",
    )


def test_for_people_each_finding_has_its_remedy_below(folders, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SystemExit):
        cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "problem nnUNet_raw: is not set" and lines[1].startswith("        Set it with")
    assert lines[-1].startswith("1 problem, ")
