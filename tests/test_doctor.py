"""`doctor` names what would go wrong later, with its remedy, and its exit code tells scripts."""

import json

import pytest
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


def test_a_sound_machine_has_no_problem(folders, capsys):
    code, found = run(capsys)
    assert code == 0 and ("nnUNet_raw", "ok") in found and ("versions", "ok") in found and ("memory", "ok") in found
    assert not [key for key in found if key[1] == "problem"]


def test_variables_that_are_missing_or_wrong(folders, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_results", str(folders / "nowhere"))
    code, found = run(capsys)
    assert code == 1
    assert found["nnUNet_raw", "problem"]["text"] == "is not set"
    assert "rectal_nnformer env --base" in found["nnUNet_raw", "problem"]["remedy"]
    assert "nowhere, which is no folder yet" in found["nnUNet_results", "note"]["text"]


def test_versions_that_do_not_fit_are_named(folders, capsys, monkeypatch):
    real = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.9.1" if name == "torch" else real(name))
    code, found = run(capsys)
    assert code == 1 and "has the version 2.9.1; nnunetv2 needs" in found["torch", "problem"]["text"]


def test_little_disk_memory_and_shared_memory(folders, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 1e9, "total": 64 << 20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.__getitem__)
    code, found = run(capsys)
    assert code == 1 and found["shared memory", "problem"]["text"] == "0.1 GB in /dev/shm"
    assert found["disk of nnUNet_raw", "note"]["text"] == "1 GB left" and found["memory", "note"]["text"] == "4 GB"


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
    assert found["GPU 0", "note"]["text"] == "has less than the 24 GB of P of Dataset501_Tiny"
    assert found["GPU 0", "note"]["remedy"] == "Plan again with -gpu_memory_target 11."


def test_a_pretrained_file_that_is_not_the_published_one(folders, capsys, monkeypatch):
    (folders / "model_swinvit.pt").write_bytes(b"other")
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(folders))
    _, found = run(capsys)
    assert [key for key in found if key[0] == "model_swinvit.pt"]


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
    assert code == 1 and found["Dataset501_Tiny", "problem"]["text"] == "P has no data in gone"
    (dataset / "P.json").write_text('{"configurations": 3')
    code, found = run(capsys)
    assert code == 1 and "P.json cannot be read" in found["Dataset501_Tiny", "problem"]["text"]


def test_unfinished_and_damaged_folds(folders, capsys):
    model = folders / "nnUNet_results/Dataset501_Tiny" / MODEL
    for fold in range(4):
        write_checkpoint(model / f"fold_{fold}/checkpoint_final.pth", "nnUNetTrainerSMIT_ACT")
        (model / f"fold_{fold}/validation").mkdir()
        (model / f"fold_{fold}/validation/summary.json").write_text("{}")
    (model / "fold_1/checkpoint_final.pth").write_bytes(b"")
    (model / "fold_2/checkpoint_final.pth").rename(model / "fold_2/checkpoint_latest.pth")
    (model / "fold_3/validation/summary.json").unlink()
    code, found = run(capsys)
    assert code == 1 and (f"{MODEL} fold_0", "ok") not in found
    assert found[f"{MODEL} fold_1", "problem"]["text"] == "checkpoint_final.pth is empty"
    assert found[f"{MODEL} fold_2", "note"]["text"] == "is not trained to its end"
    assert "crossval -d Dataset501_Tiny -tr nnUNetTrainerSMIT_ACT" in found[f"{MODEL} fold_2", "note"]["remedy"]
    assert found[f"{MODEL} fold_3", "note"]["text"] == "is trained and not validated"


def test_for_people_each_finding_has_its_remedy_below(folders, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(SystemExit):
        cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "problem nnUNet_raw: is not set" and lines[1].startswith("        Set it with")
    assert lines[-1].startswith("1 problem, ")
