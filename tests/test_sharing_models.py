"""Models as single files: what travels, and that checkpoints and zips from elsewhere run nothing."""

import json
import os
import pickle
import socket
import stat
import subprocess
import zipfile

import pytest
import torch
from limits import largest_file
from safetensors.torch import load, save
from sharing_inputs import (
    CASES,
    DATA,
    HOST,
    NAME,
    PLANS,
    USER,
    Runs,
    all_files,
    contents,
    evil_pickle,
    repacked,
    set_folders,
    texts,
    write_dataset,
)

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import read_evaluation
from rectal_nnformer.evaluation.log_odds import read_counts
from rectal_nnformer.evaluation.operating_point import OperatingPoint, read_point
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.sharing import export_dataset, export_model, import_model, inspect_file
from rectal_nnformer.sharing import model as models
from rectal_nnformer.utils import zips

TRAINER = "nnUNetTrainerSMIT_ACT"
MODEL = f"{TRAINER}__{PLANS}__3d_fullres"
CHECKPOINT = "fold_0/checkpoint_final.pth"
WEIGHTS = "fold_0/checkpoint_final.safetensors"
LESION = {"label": 1, "voxels": 20, "volume_cm3": 0.02, "centroid": [1.0, 2.0, 3.0]}
FLOW = {"stage": 0, "adi": 0.25, "a_rr": 0.75, "a_rp": None, "a_pr": 0.5, "a_pp": 0.5, "uniform_adi": 0.5}
FLOW |= {"scattered_padding_share": None}
STAGE = {**FLOW, "tumor_adi": None, "tumor_a_rp": 0.1, "real_token_fraction": 0.5}
BLOCK = {**FLOW, "name": "stage 0 block 0", "entropy": 1.0, "padding_entropy": 1.0, "tumor": {"adi": 0.1, "a_rp": None}}
BIASED = {"matrix": [[1.0]], "diagonal": [1.0], "mean_diagonal": 1.0, "drift": 0.0, "best_match_distance": 0.0}
SIMILARITY = {**BIASED, "null": {"mean": [0.0], "p95": [0.1]}, "intervals": {"diagonal": [[0.5, 1.0]], "drift": None}}


POINT = {
    "wish": "f1", "point": {"min_confidence": 0.5, "min_volume_cm3": 0.25}, "met": True, "note": "",
    "n_cases": 2, "n_reference": 2, "n_detected": 2, "n_false_positive": 0,
}  # fmt: skip


def results(folder):
    """What the validation of a fold leaves, with what must not travel in every free place."""
    case = {"case": CASES[0], "patient": "MRN4711", "note": "", "prediction_missing": False, "dice": 0.5}
    case |= {"n_reference": 1, "n_predicted": 2, "n_detected": 1, "n_missed": 0, "n_false_positive": 1}
    case |= {"strict": {"n_detected": 1, "n_missed": 0, "n_false_positive": 1}, "false_positives": [LESION]}
    scored = {"size_bin": "0-5", "group": 1, "iou": 0.5, "detected": True, "detected_strict": True, "dice": 0.5}
    case["lesions"] = [{**LESION, **scored}]
    case["candidates"] = [{**LESION, "confidence": 0.75, "in_mask": True, "shared_voxels": [5]}]
    reuse = {"first": "checkpoint_final.pth", "second": f"{folder}/weights.pt", "blocks": ["stage 0 block 0"]}
    reuse |= {"backbone": "smit", "second_backbone": "smit", "stages": [0], "num_crops": 4, "num_cases": 4, "note": ""}
    reuse |= {"debiased": SIMILARITY, "biased": BIASED, "settings": {"cases": list(CASES), "path": str(folder)}}
    attention = {"backbone": "smit", "patch_size": [96, 96, 96], "window_reverse": None, "mask_padding": True}
    attention |= {"weights": "checkpoint_final", "configuration": "3d_fullres", "blocks": [BLOCK], "stages": [STAGE]}
    attention |= {"cases": [{"case": CASES[1], "tiles": 1, "stages": [STAGE], "blocks": [BLOCK]}], "settings": {}}
    return {
        "validation/summary.json": {
            "mean": {"1": {"Dice": float("nan")}},
            "metric_per_case": [{"reference_file": f"{folder}/x.nii.gz"}],
        },
        "validation/lesion_detection.json": {"cases": [case], "settings": {"path": str(folder)}},
        "validation/log_odds_counts.json": {"places": [5, 9], "counts": [2, 1], "by": "hmueller"},
        "validation/attention_dilution.json": {**attention, "by": "hmueller"},
        "validation/feature_reuse.json": reuse,
        "attention_epochs.json": [{"epoch": 0, "stages": [STAGE]}],
    }


def write_model(base):
    """Write a trained model with its preprocessed dataset; return its folder."""
    write_dataset(base / "nnUNet_preprocessed", size=(8, 8, 8))
    (base / "nnUNet_preprocessed" / NAME / "patients.csv").write_text(f"case,patient\n{CASES[0]},MRN4711\n")
    folder = base / "nnUNet_results" / NAME / MODEL
    files = texts(folder, CASES)
    for fold in (0, 1):
        (folder / f"fold_{fold}/validation").mkdir(parents=True)
        torch.save(checkpoint(folder, fold), folder / f"fold_{fold}/checkpoint_final.pth")
        (folder / f"fold_{fold}/training_log.txt").write_text("by hmueller")
    for name, content in results(folder).items():
        (folder / "fold_0" / name).write_text(json.dumps(content))
    for name in ("dataset.json", "dataset_fingerprint.json"):
        (folder / name).write_text(json.dumps(files[name]))
    (folder / "operating_point.json").write_text(json.dumps({**POINT, "by": "hmueller"}))
    (folder / "plans.json").write_text(json.dumps(files[f"{PLANS}.json"]))
    (folder / "crossval_summary.csv").write_text(f"fold,case,patient,dice\n0,{CASES[0]},MRN4711,0.5\n")
    (folder / "report.html").write_text("<script>run</script><img src='data:PATIENT'>")
    return folder


def checkpoint(folder, fold):
    return {
        "network_weights": {"encoder.weight": torch.arange(6.0).reshape(2, 3).T, "encoder.index": torch.arange(3)},
        "optimizer_state": {"state": {0: torch.ones(1000)}},
        "logging": {"epoch_start_timestamps": [1.0], "host": "radiology-ws17"},
        "_best_ema": 0.5,
        "current_epoch": 2,
        "init_args": {
            "plans": texts(folder, CASES)[f"{PLANS}.json"],
            "configuration": "3d_fullres",
            "fold": fold,
            "dataset_json": {"description": "MRN4711"},
            "device": torch.device("cpu"),
        },
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def as_sender(monkeypatch, base):
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setenv("LOGNAME", USER)
    set_folders(monkeypatch, base)
    return write_model(base)


@pytest.fixture
def home(tmp_path, monkeypatch):
    return as_sender(monkeypatch, tmp_path / "home_of_sender")


def sent(folder, name="model.zip", **options):
    return export_model(501, folder / name, trainer=TRAINER, plans=PLANS, **options)


@pytest.fixture(scope="module")
def sender(tmp_path_factory):
    """Folder of a model and a bundle of it, which no test may change."""
    base = tmp_path_factory.mktemp("sender")
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = as_sender(monkeypatch, base)
        return folder, sent(base)


@pytest.fixture
def bundle(sender, tmp_path, monkeypatch):
    """The bundle, with nnU-Net's folders those of somebody else."""
    set_folders(monkeypatch, tmp_path / "away")
    return sender[1]


def refused(path, tmp_path, message):
    """Importing `path` must fail with `message` and leave nothing."""
    before = all_files(tmp_path / "away")
    with pytest.raises(RectalError, match=message):
        import_model(path)
    assert all_files(tmp_path / "away") == before


def test_a_model_arrives_as_it_was(sender, bundle, tmp_path):
    home, (folder,) = sender[0], import_model(bundle)
    assert folder == tmp_path / "away/nnUNet_results" / NAME / MODEL
    ours, theirs = (torch.load(place / CHECKPOINT, weights_only=False) for place in (home, folder))
    assert theirs.keys() == {"network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes"}
    assert theirs["network_weights"].keys() == ours["network_weights"].keys()
    for name, value in ours["network_weights"].items():
        assert torch.equal(theirs["network_weights"][name], value)
        assert theirs["network_weights"][name].dtype == value.dtype
    assert theirs["trainer_name"] == TRAINER and theirs["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert theirs["init_args"].keys() == {"plans", "configuration", "fold", "dataset_json"}
    assert theirs["init_args"]["plans"] == json.loads((folder / "plans.json").read_text())
    refused(bundle, tmp_path, "exists")


def test_results_arrive(sender, bundle):
    (folder,) = import_model(bundle)
    ours = sender[0] / "fold_0/validation"
    validation = folder / "fold_0/validation"
    assert json.loads((validation / "summary.json").read_text()) == {"mean": {"1": {"Dice": None}}}
    (case,) = read_evaluation(validation).cases
    assert (case.case, case.patient, case.n_detected, case.lesions[0].iou) == (CASES[0], CASES[0], 1, 0.5)
    assert (case.candidates[0].confidence, case.candidates[0].shared_voxels) == (0.75, (5,))
    assert read_counts(validation).counts.sum() == 3
    assert read_point(folder).point == OperatingPoint(0.5, 0.25)
    before, arrived = (json.loads((place / "attention_dilution.json").read_text()) for place in (ours, validation))
    assert arrived == {key: value for key, value in before.items() if key != "by"}
    assert json.loads((folder / "fold_0/attention_epochs.json").read_text()) == [{"epoch": 0, "stages": [STAGE]}]
    reuse = json.loads((validation / "feature_reuse.json").read_text())
    assert reuse["debiased"] == SIMILARITY and reuse["second"] == "" and reuse["settings"] == {"cases": list(CASES)}
    assert not (folder / "fold_1/validation/lesion_detection.json").exists()


@pytest.mark.parametrize("pseudonymize", [False, True])
def test_nothing_of_sender_or_patients_is_in_the_bytes(home, tmp_path, pseudonymize):
    path = sent(tmp_path, pseudonymize=pseudonymize)
    files, manifest = contents(path)
    content = b"\n".join([path.read_bytes(), json.dumps(manifest).encode(), *files.values()])
    secrets = {str(home), "hmueller", "radiology-ws17", "MRN4711", "Dr. Mueller", "PATIENT", "script"}
    assert [text for text in secrets | (set(CASES) if pseudonymize else set()) if text.encode() in content] == []
    assert pseudonymize or CASES[0].encode() in content
    checkpoints = {f"fold_{n}/checkpoint_final{ending}" for n in (0, 1) for ending in (".json", ".safetensors")}
    expected = {"plans.json", "dataset.json", "dataset_fingerprint.json", "operating_point.json", *checkpoints}
    assert files.keys() == expected | {f"fold_0/{name}" for name in results(home)}


def test_model_and_dataset_have_the_same_pseudonyms(home, tmp_path):
    dataset = contents(export_dataset(501, tmp_path / "dataset.zip", pseudonymize=True))[0]
    model = contents(sent(tmp_path, pseudonymize=True))[0]
    case = json.loads(model["fold_0/validation/lesion_detection.json"])["cases"][0]["case"]
    assert f"{DATA}/{case}.safetensors" in dataset


def test_chosen_folds_travel_alone(home, tmp_path, monkeypatch):
    path = sent(tmp_path, folds=[1])
    set_folders(monkeypatch, tmp_path / "away")
    (folder,) = import_model(path)
    assert sorted(path.name for path in folder.glob("fold_*")) == ["fold_1"]


def test_what_is_missing_is_named(home, tmp_path):
    with pytest.raises(RectalError, match=MODEL):
        export_model(501, tmp_path / "model.zip", trainer="Other", plans=PLANS)
    with pytest.raises(RectalError, match="fold_4"):
        sent(tmp_path, folds=[4])
    assert not (tmp_path / "model.zip").exists()


def test_a_dataset_is_no_model(sender, tmp_path, monkeypatch):
    set_folders(monkeypatch, sender[0].parents[2])
    dataset = export_dataset(501, tmp_path / "dataset.zip")
    set_folders(monkeypatch, tmp_path / "away")
    refused(dataset, tmp_path, "import_dataset")


def model_zip(home, path, changes=()):
    """Write a model zip as nnU-Net does, with other or more files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(home.rglob("*")):
            name = file.relative_to(home.parents[1]).as_posix()
            if file.is_file() and name not in dict(changes):
                archive.write(file, name)
        for name, content in dict(changes).items():
            archive.writestr(name, content)
    return path


def test_a_zip_of_nnunet_is_imported_without_running_anything(sender, bundle, tmp_path):
    proof = tmp_path / "executed"
    postprocessing = f"{NAME}/{MODEL}/crossval_results_folds_0/postprocessing.pkl"
    path = model_zip(sender[0], tmp_path / "model.zip", {postprocessing: evil_pickle(proof)})
    assert "looks like a model" in inspect_file(path)
    (folder,) = import_model(path)
    assert (folder / CHECKPOINT).is_file() and not (folder / "crossval_results_folds_0").exists()
    assert not proof.exists() and not (folder / "report.html").exists()
    ours, theirs = (torch.load(place / CHECKPOINT, weights_only=False) for place in (sender[0], folder))
    assert torch.equal(*(content["network_weights"]["encoder.weight"] for content in (ours, theirs)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plans.json", b"[]", "plans.json"),
        ("plans.json", b'{"configurations": 1}', "plans.json"),
        ("dataset.json", b"[" * 3000, "dataset.json"),
        ("dataset_fingerprint.json", b'{"spacings": [["x"]]}', "dataset_fingerprint.json"),
        ("fold_0/validation/lesion_detection.json", b'{"cases": [{"case": 1}]}', "lesion_detection.json"),
        ("fold_0/validation/lesion_detection.json", b'"text"', "lesion_detection.json"),
        ("fold_0/validation/summary.json", b'{"mean": {"1": {"Dice": "<script>"}}}', "summary.json"),
        ("plans.json", b'{"plans_name": "../x"}', "plans.json"),
    ],
)
def test_zips_of_other_content_are_refused(sender, bundle, tmp_path, name, content, message):
    refused(model_zip(sender[0], tmp_path / "evil.zip", {f"{NAME}/{MODEL}/{name}": content}), tmp_path, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.html", b"<script>run</script>", "too much of a model"),
        ("crossval_summary.md", b"[a](javascript:run)", "too much of a model"),
        ("fold_0/checkpoint_final.pth", b"", "too much of a model"),
        ("fold_0/trainer.py", b"", "too much of a model"),
        ("fold_x/checkpoint_final.json", b"{}", "too much of a model"),
        ("fold_1/checkpoint_final.json", None, "lacks or has too much"),
        ("plans.json", None, "lacks or has too much"),
        ("fold_0/validation/lesion_detection.json", b'{"cases": [], "html": "<script>"}', "html"),
        ("fold_0/validation/attention_dilution.json", b'{"stages": [{"stage": "<script>"}]}', "stage"),
        ("fold_0/validation/feature_reuse.json", b"{}", "feature_reuse.json"),
        ("attention_epochs.json", b"[]", "too much of a model"),
        ("fold_0/attention_epochs.json", b"[1]", "attention_epochs.json"),
    ],
)
def test_bundles_of_other_files_are_refused(bundle, tmp_path, name, content, message):
    refused(repacked(bundle, tmp_path / "evil.zip", {name: content}), tmp_path, message)


def test_a_bundle_of_another_name_than_its_files_is_refused(bundle, tmp_path):
    for model in ("Other__Plans__3d_fullres", MODEL.replace("SMIT_ACT", "SMIT")):
        refused(repacked(bundle, tmp_path / "evil.zip", about={"model": model}), tmp_path, "is of fold_0 of")
    for model in ("../x__y__z", "a__b", "os.system__b__c"):
        refused(repacked(bundle, tmp_path / "evil.zip", about={"model": model}), tmp_path, "model is")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer_name": "os.system"}, "trainer_name"),
        ({"configuration": "../x"}, "configuration"),
        ({"configuration": "2d"}, "is of fold_0 of"),
        ({"fold": "../0"}, "fold"),
        ({"fold": 1}, "is of fold_1 of"),
        ({"inference_allowed_mirroring_axes": [7]}, "mirroring"),
        ({"shared": {"a": "not there"}}, "of no network"),
        ({"shared": {"a b": "encoder.index"}}, "of no network"),
        ({"optimizer_state": {}}, "optimizer_state"),
    ],
)
def test_checkpoints_of_bundles_of_other_content_are_refused(bundle, tmp_path, changes, message):
    name = "fold_0/checkpoint_final.json"
    content = {**json.loads(contents(bundle)[0][name]), **changes}
    refused(repacked(bundle, tmp_path / "evil.zip", {name: json.dumps(content).encode()}), tmp_path, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "safetensors"),
        (evil_pickle("executed"), "safetensors"),
        (save({"a b": torch.ones(1)}), "of no network"),
        (save({}), "no weights"),
        (save({"a": torch.ones(2)})[:-1], "safetensors"),
    ],
)
def test_weights_of_bundles_of_other_content_are_refused(bundle, tmp_path, content, message):
    refused(repacked(bundle, tmp_path / "evil.zip", {WEIGHTS: content}), tmp_path, message)


def torch_file(path, content):
    torch.save(content, path)
    return path.read_bytes()


def refused_checkpoint(sender, tmp_path, content, message):
    """A checkpoint must be refused in nnU-Net's zip."""
    name = f"{NAME}/{MODEL}/{CHECKPOINT}"
    refused(model_zip(sender[0], tmp_path / "evil.zip", {name: content}), tmp_path, message)


def test_checkpoints_that_run_code_are_refused_and_not_run(sender, bundle, tmp_path):
    proof = tmp_path / "executed"
    evil = torch_file(tmp_path / "evil.pth", {**checkpoint(sender[0], 0), "logging": Runs(proof)})
    refused_checkpoint(sender, tmp_path, evil, "cannot be read as weights")
    told = inspect_file(tmp_path / "evil.pth")
    assert "NOT SAFE" in told and "pathlib" in told
    assert not proof.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert proof.exists(), "the checkpoint does nothing, so the test shows nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer_name": "os.system"}, "trainer_name"),
        ({"trainer_name": torch.ones(1)}, "trainer_name"),
        ({"network_weights": {"a": "text"}}, "weight a"),
        ({"network_weights": {"a b": torch.ones(1)}}, "name of a weight"),
        ({"network_weights": {"a": torch.ones(1).expand(1 << 40)}}, "size of a"),
        ({"network_weights": {"a": torch.ones(2).to_sparse()}}, "weight a"),
        ({"network_weights": {"a": torch.ones(2, dtype=torch.complex64)}}, "weight a"),
        ({"network_weights": {}}, "network_weights"),
        ({"init_args": {"configuration": "../x", "fold": 0}}, "configuration"),
        ({"init_args": {"configuration": "3d_fullres", "fold": "../0"}}, "fold"),
        ({"init_args": {"configuration": "3d_fullres", "fold": 1}}, "is of fold_1 of"),
        ({"init_args": None}, "init_args"),
        ({"inference_allowed_mirroring_axes": (7,)}, "mirroring"),
    ],
)
def test_checkpoints_of_other_content_are_refused(sender, bundle, tmp_path, change, message):
    evil = torch_file(tmp_path / "evil.pth", {**checkpoint(sender[0], 0), **change})
    refused_checkpoint(sender, tmp_path, evil, message)


def test_checkpoints_that_explode_are_refused(sender, bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02N.")
        archive.writestr("bomb/data/0", bytes(20 << 20))
    refused_checkpoint(sender, tmp_path, (tmp_path / "bomb.pth").read_bytes(), "would unpack to")
    assert "NOT SAFE" in inspect_file(tmp_path / "bomb.pth")
    refused_checkpoint(sender, tmp_path, b"text", "no checkpoint")


def test_checkpoints_that_claim_what_they_do_not_hold_are_refused(sender, bundle, tmp_path):
    values = torch.zeros(10_000)
    views = {f"w{n}": values[n:-1000] for n in range(50)}
    evil = torch_file(tmp_path / "views.pth", {**checkpoint(sender[0], 0), "network_weights": views})
    refused_checkpoint(sender, tmp_path, evil, "size of w")
    nowhere = {"a": torch.empty(1 << 40, device="meta")}
    evil = torch_file(tmp_path / "meta.pth", {**checkpoint(sender[0], 0), "network_weights": nowhere})
    refused_checkpoint(sender, tmp_path, evil, "weight a")


def test_weights_of_several_names_stay_one(home, tmp_path, monkeypatch):
    values = torch.rand(100_000)
    shared = {**checkpoint(home, 0), "network_weights": {f"w{n}": values for n in range(9)}}
    torch_file(home / CHECKPOINT, shared)
    path = sent(tmp_path, folds=[0])
    assert load(contents(path)[0][WEIGHTS]).keys() == {"w0"}
    set_folders(monkeypatch, tmp_path / "away")
    (folder,) = import_model(path)
    assert (folder / CHECKPOINT).stat().st_size < 2 * values.nbytes
    weights = torch.load(folder / CHECKPOINT, weights_only=False)["network_weights"]
    assert weights.keys() == shared["network_weights"].keys()
    assert all(torch.equal(value, values) for value in weights.values())


def test_a_zip_that_only_pytorch_would_open_is_not_opened(sender, tmp_path):
    plain = zipfile.ZipFile(sender[0] / CHECKPOINT)
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
        archive.writestr("zeros", bytes(10 << 20))
    content = (tmp_path / "bomb.pth").read_bytes()
    # Python refuses entries that need a later version; PyTorch does not look.
    (tmp_path / "bomb.pth").write_bytes(content.replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\x63"))
    with pytest.raises(RectalError, match="cannot be read as weights"):
        read_checkpoint(tmp_path / "bomb.pth")


@pytest.mark.parametrize("program", [b"ctorch\nTensor\nJ\0\0\0\1\x85R.", b"cbuiltins\nbytearray\nJ\0\0\0\1\x85R."])
def test_checkpoints_that_make_gigabytes_of_nothing_are_refused(tmp_path, program):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\2" + program)
        archive.writestr("a/version", "3\n")
    with pytest.raises(RectalError, match="no checkpoint needs"):
        read_checkpoint(tmp_path / "bomb.pth")


def link(target):
    info = zipfile.ZipInfo(f"{NAME}/{MODEL}/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


@pytest.mark.parametrize(
    "name",
    ["../escaped", "/tmp/escaped", f"{NAME}/../../escaped", "C:/escaped", "a\\..\\b", f"{NAME.upper()}/x/y.json"],
)
def test_zips_that_leave_the_folder_are_refused(sender, bundle, tmp_path, name):
    path = model_zip(sender[0], tmp_path / "evil.zip", {name: b"", f"{NAME}/x/y.json": b""})
    refused(path, tmp_path, "cannot hold")
    assert not (tmp_path / "escaped").exists()


def test_zips_with_links_or_bombs_are_refused(sender, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "FREE_EXPANSION", 1 << 20)
    path = model_zip(sender[0], tmp_path / "link.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(*link("/etc"))
    refused(path, tmp_path, "link")
    path = model_zip(sender[0], tmp_path / "bomb.zip", {f"{NAME}/{MODEL}/fold_0/zeros": bytes(40 << 20)})
    refused(path, tmp_path, "no dataset or model does")
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:5000])
    refused(tmp_path / "cut.zip", tmp_path, "cannot be read")
    (tmp_path / "page.zip").write_bytes(b"<html>login</html>")
    refused(tmp_path / "page.zip", tmp_path, "cannot be read")


def test_several_models_of_a_zip_arrive_or_none(sender, bundle, tmp_path):
    other = sender[0].with_name(MODEL.replace("3d_fullres", "3d_fullres_cubic"))
    evil = {**checkpoint(sender[0], 0), "trainer_name": "Other"}
    files = {f"{NAME}/{other.name}/{name}": (sender[0] / name).read_bytes() for name in ("plans.json", "dataset.json")}
    files[f"{NAME}/{other.name}/{CHECKPOINT}"] = torch_file(tmp_path / "evil.pth", evil)
    refused(model_zip(sender[0], tmp_path / "two.zip", files), tmp_path, "is of fold_0 of Other")
    good = {**checkpoint(sender[0], 0)}
    good["init_args"] = {**good["init_args"], "configuration": "3d_fullres_cubic"}
    files[f"{NAME}/{other.name}/{CHECKPOINT}"] = torch_file(tmp_path / "good.pth", good)
    folders = import_model(model_zip(sender[0], tmp_path / "two.zip", files))
    assert [folder.name for folder in folders] == [MODEL, other.name]


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_id_of_another_dataset_is_refused(bundle, tmp_path, variable):
    (tmp_path / "away" / variable / "Dataset501_Other").mkdir()
    refused(bundle, tmp_path, "Dataset501_Other")


def test_interruption_leaves_nothing(bundle, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "write_evaluation", interrupted)
    before = all_files(tmp_path / "away")
    with pytest.raises(KeyboardInterrupt):
        import_model(bundle)
    assert all_files(tmp_path / "away") == before


def test_a_case_name_within_a_word_is_not_sent(home, tmp_path):
    plans = json.loads((home / "plans.json").read_text())
    plans["rectal_nnformer"]["largest"] = f"x{CASES[0]}y"
    (home / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(RectalError, match=f"plans.json still names case {CASES[0]}"):
        sent(tmp_path, pseudonymize=True)


def test_what_is_told_of_a_file_has_an_end(tmp_path):
    value = ["x" * 100_000] * 4
    for _ in range(6):
        value = [value] * 4
    torch_file(tmp_path / "file.pth", {"a": value, "b": 10**500, "c": "x" * 10**6, "d\x1b": {"e" * 10**5: 1}})
    told = inspect_file(tmp_path / "file.pth")
    assert len(told) < 2000 and "\x1b" not in told


def test_models_are_told_in_words(sender, bundle):
    lines = inspect_file(bundle).splitlines()
    assert f"model: trainer {TRAINER}, plans {PLANS}, configuration 3d_fullres" in lines
    assert "folds: 0, 1" in lines and not any(line.startswith(("ground truth", "cases")) for line in lines)
    removed = lines[lines.index("left out by the sender:") + 1 :]
    assert "  optimizer state and training curves of checkpoints" in removed
    told = inspect_file(sender[0] / CHECKPOINT)
    assert "  inference_allowed_mirroring_axes: 0, 1, 2\n" in told + "\n"
    assert "    encoder.weight: tensor of 3 x 2 (torch.float32)\n" in told
    assert not any(word in told for word in ("dict", "None", "tuple", "list of"))


def test_many_entries_are_told_by_their_number(tmp_path):
    content = {f"a{n}": {f"b{n}": {f"c{n}": 1 for n in range(3)} for n in range(50)} for n in range(50)}
    torch_file(tmp_path / "file.pth", content)
    lines = inspect_file(tmp_path / "file.pth").splitlines()
    assert len(lines) == 201 and lines[-1].startswith("  and ")
    torch_file(tmp_path / "file.pth", {f"a{n}": n for n in range(50)})
    assert inspect_file(tmp_path / "file.pth").endswith("  a39: 39\n  and 10 more")


def test_everything_can_be_inspected(sender, bundle, tmp_path):
    proof = tmp_path / "executed"
    (tmp_path / "evil.pkl").write_bytes(evil_pickle(proof))
    (tmp_path / "data.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "page.pth").write_bytes(b"<html>login</html>")
    (tmp_path / "text").write_bytes(b"\x1b[31mred")
    preprocessed = sender[0].parents[2] / "nnUNet_preprocessed" / NAME / DATA
    expected = {
        bundle: "bundle of a model",
        sender[0] / CHECKPOINT: "encoder.weight",
        tmp_path / "evil.pkl": "would import",
        tmp_path / "data.pkl": "not opened",
        tmp_path / "page.pth": "web page",
        tmp_path / "text": "nothing more",
        preprocessed / f"{CASES[0]}.pkl": "nothing but numpy's arrays",
        preprocessed / f"{CASES[0]}.b2nd": "1 x 8 x 8 x 8",
    }
    for path, words in expected.items():
        told = inspect_file(path)
        assert words in told
        assert "\x1b" not in told
    assert not proof.exists()


def test_inspecting_never_starts_a_program(tmp_path, monkeypatch, capsys):
    evil = torch_file(tmp_path / "evil.pth", {"a": Runs(tmp_path / "executed")})
    (tmp_path / "raw.pkl").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    for function in (os.system, subprocess.Popen):
        monkeypatch.setattr(f"{function.__module__.replace('posix', 'os')}.{function.__name__}", None)
    cli.main(["inspect", str(tmp_path / "raw.pkl")])
    cli.main(["inspect", str(tmp_path / "evil.pth")])
    assert evil and "os.system" in capsys.readouterr().out and not (tmp_path / "executed").exists()


@pytest.mark.parametrize("num_bytes", [0, 3_000, 300_000])
def test_an_export_that_does_not_fit_is_named_and_leaves_nothing(home, tmp_path, capsys, num_bytes):
    weights = {"network_weights": {"a": torch.rand(100_000)}}
    torch.save({**checkpoint(home, 0), **weights}, home / CHECKPOINT)
    folder = tmp_path / "sent"
    folder.mkdir()
    command = ["export_model", "-d", "501", "-o", str(folder / "model.zip"), "-tr", TRAINER, "-p", PLANS]
    with largest_file(num_bytes), pytest.raises(SystemExit) as ended:
        cli.main(command)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "model.zip" in told and "File too large" in told and not list(folder.iterdir())


@pytest.mark.parametrize("num_bytes", [0, 100, 1500])
@pytest.mark.parametrize("of_nnunet", [False, True])
def test_an_import_that_does_not_fit_is_named_and_leaves_nothing(
    sender, bundle, tmp_path, capsys, num_bytes, of_nnunet
):
    path = model_zip(sender[0], tmp_path / "model.zip") if of_nnunet else bundle
    with largest_file(num_bytes), pytest.raises(SystemExit) as ended:
        cli.main(["import_model", str(path)])
    results = tmp_path / "away/nnUNet_results"
    assert ended.value.code == 2 and str(results) in capsys.readouterr().err and not list(results.iterdir())


def test_the_commands(home, tmp_path, monkeypatch, capsys):
    path = tmp_path / "model.zip"
    cli.main(["export_model", "-d", "501", "-o", str(path), "-tr", TRAINER, "-p", PLANS, "-f", "0", "--pseudonymize"])
    set_folders(monkeypatch, tmp_path / "away")
    cli.main(["import_model", str(path)])
    told = capsys.readouterr().out
    assert f"-tr {TRAINER} -p {PLANS} -c 3d_fullres -f 0" in told and told.count("SHA-256 of model.zip: ") == 2
