"""Models as single files: what travels, and that checkpoints, zips and pages from elsewhere run nothing."""

import json
import os
import pickle
import socket
import stat
import subprocess
import zipfile

import pytest
import torch
from sharing_inputs import (
    CASES,
    DATA,
    HOST,
    NAME,
    PLANS,
    USER,
    Runs,
    all_files,
    evil_pickle,
    repacked,
    set_folders,
    texts,
    unpacked,
    write_dataset,
)

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.sharing import export_dataset
from rectal_nnformer.sharing.identity import Renamer
from rectal_nnformer.sharing.inspection import inspect_file
from rectal_nnformer.sharing.model_export import export_model
from rectal_nnformer.sharing.model_files import rewrite_model
from rectal_nnformer.sharing.model_import import import_model
from rectal_nnformer.sharing.pages import clean_page

TRAINER = "nnUNetTrainerSMIT_ACT"
MODEL = f"{TRAINER}__{PLANS}__3d_fullres"
CHECKPOINT = "fold_0/checkpoint_final.pth"
PAGE = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><style>p {{ color: red }}</style>
<style>p {{ background: url(http://example.org) }}</style><script>alert("run")</script></head>
<body onload="alert('run')"><h1 id="top">Report of {CASES[0]}</h1><p>written 2026-01-31 in /home/hmueller/x</p>
<a href="javascript:alert('run')">a</a><a href="#top">b</a><img src="data:image/png;base64,PATIENT">
<iframe src="x">hidden</iframe><svg viewBox="0 0 1 1"><path d="M0 0"/><script>run</script></svg>
<table><tr><td>{CASES[1]}</td><td>a &lt; b</td></tr></table></body></html>"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setenv("LOGNAME", USER)
    preprocessed = set_folders(monkeypatch, tmp_path / "home_of_sender")
    write_dataset(preprocessed, size=(8, 8, 8))
    (preprocessed / NAME / "patients.csv").write_text(f"case,patient\n{CASES[0]},MRN4711\n")
    folder = tmp_path / "home_of_sender/nnUNet_results" / NAME / MODEL
    files = texts(folder, CASES)
    for fold in (0, 1):
        (folder / f"fold_{fold}/validation").mkdir(parents=True)
        torch.save(checkpoint(folder, fold), folder / f"fold_{fold}/checkpoint_final.pth")
        summary = {"mean": {"1": {"Dice": float("nan")}}, "metric_per_case": [{"reference_file": f"{folder}/x.nii.gz"}]}
        (folder / f"fold_{fold}/validation/summary.json").write_text(json.dumps(summary))
        (folder / f"fold_{fold}/training_log.txt").write_text("by hmueller")
    for name in ("dataset.json", "dataset_fingerprint.json"):
        (folder / name).write_text(json.dumps(files[name]))
    (folder / "plans.json").write_text(json.dumps(files[f"{PLANS}.json"]))
    (folder / "crossval_summary.csv").write_text(f"fold,case,patient,dice\n0,{CASES[0]},MRN4711,0.5\n")
    (folder / "crossval_summary.json").write_text(json.dumps({"n_detected": 3, "picture_note": f"no {folder}/x.png"}))
    (folder / "crossval_summary.md").write_text(f"# Lesions\n![picture](crossval_summary.png)\nlook at {CASES[1]}\n")
    (folder / "report.html").write_text(PAGE)
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


def sent(tmp_path, name="model.tar.gz", **options):
    return export_model(501, tmp_path / name, trainer=TRAINER, plans=PLANS, **options)


@pytest.fixture
def bundle(home, tmp_path, monkeypatch):
    path = sent(tmp_path)
    set_folders(monkeypatch, tmp_path / "away")
    return path


def refused(path, tmp_path, message):
    """Importing `path` must fail with `message` and leave nothing."""
    before = all_files(tmp_path / "away")
    with pytest.raises(RectalError, match=message):
        import_model(path)
    assert all_files(tmp_path / "away") == before


def test_a_model_arrives_as_it_was(home, bundle, tmp_path):
    (folder,) = import_model(bundle)
    assert folder == tmp_path / "away/nnUNet_results" / NAME / MODEL
    ours, theirs = (torch.load(place / CHECKPOINT, weights_only=False) for place in (home, folder))
    assert theirs.keys() == {"network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes"}
    for name, value in ours["network_weights"].items():
        assert torch.equal(theirs["network_weights"][name], value)
    assert theirs["trainer_name"] == TRAINER and theirs["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert theirs["init_args"].keys() == {"plans", "configuration", "fold", "dataset_json"}
    assert json.loads((folder / "fold_0/validation/summary.json").read_text()) == {"mean": {"1": {"Dice": None}}}
    assert (folder / "crossval_summary.csv").read_text() == f"fold,case,dice\n0,{CASES[0]},0.5\n"
    refused(bundle, tmp_path, "exists")


@pytest.mark.parametrize("pseudonymize", [False, True])
def test_nothing_of_sender_or_patients_is_in_the_bytes(home, tmp_path, pseudonymize):
    folder = unpacked(sent(tmp_path, "model.tar", pseudonymize=pseudonymize), tmp_path / "unpacked")
    content = b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    secrets = {str(home), "hmueller", "radiology-ws17", "MRN4711", "Dr. Mueller", "PATIENT", "2026-01-31"}
    assert [text for text in secrets | (set(CASES) if pseudonymize else set()) if text.encode() in content] == []
    assert pseudonymize or CASES[0].encode() in content
    files = {path for path in all_files(folder) if (folder / path).is_file()}
    assert files == {
        "manifest.json",
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "crossval_summary.csv",
        "crossval_summary.json",
        "crossval_summary.md",
        "report.html",
        *(f"fold_{n}/{name}" for n in (0, 1) for name in ("checkpoint_final.pth", "validation/summary.json")),
    }


def test_model_and_dataset_have_the_same_pseudonyms(home, tmp_path):
    dataset = unpacked(export_dataset(501, tmp_path / "dataset.tar", pseudonymize=True), tmp_path / "dataset")
    model = unpacked(sent(tmp_path, pseudonymize=True), tmp_path / "model")
    case = (model / "crossval_summary.csv").read_text().splitlines()[1].split(",")[1]
    assert (dataset / DATA / f"{case}.b2nd").is_file()


def test_chosen_folds_travel_alone(home, tmp_path, monkeypatch):
    path = sent(tmp_path, folds=[1])
    set_folders(monkeypatch, tmp_path / "away")
    (folder,) = import_model(path)
    assert sorted(path.name for path in folder.glob("fold_*")) == ["fold_1"]


def test_what_is_missing_is_named(home, tmp_path):
    with pytest.raises(RectalError, match=MODEL):
        export_model(501, tmp_path / "model.tar", trainer="Other", plans=PLANS)
    with pytest.raises(RectalError, match="fold_4"):
        sent(tmp_path, folds=[4])
    assert not (tmp_path / "model.tar").exists()


def test_a_dataset_is_no_model(bundle, tmp_path, monkeypatch):
    set_folders(monkeypatch, tmp_path / "home_of_sender")
    dataset = export_dataset(501, tmp_path / "dataset.tar")
    set_folders(monkeypatch, tmp_path / "away")
    refused(dataset, tmp_path, "import_dataset")


def model_zip(home, path, changes=()):
    """Write a model zip as nnU-Net does, with other or more files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(home.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(home.parents[1]))
        for name, content in dict(changes).items():
            archive.writestr(name, content)
    return path


def test_a_zip_of_nnunet_is_imported_without_running_anything(home, bundle, tmp_path):
    proof = tmp_path / "executed"
    postprocessing = f"{NAME}/{MODEL}/crossval_results_folds_0/postprocessing.pkl"
    path = model_zip(home, tmp_path / "model.zip", {postprocessing: evil_pickle(proof)})
    assert "looks like a model" in inspect_file(path)
    (folder,) = import_model(path)
    assert (folder / CHECKPOINT).is_file() and not (folder / "crossval_results_folds_0").exists()
    assert not proof.exists()


def torch_file(path, content):
    torch.save(content, path)
    return path.read_bytes()


def test_checkpoints_that_run_code_are_refused_and_not_run(home, bundle, tmp_path):
    proof = tmp_path / "executed"
    evil = torch_file(tmp_path / "evil.pth", {**checkpoint(home, 0), "logging": Runs(proof)})
    refused(
        repacked(bundle, tmp_path / "evil.tar", {CHECKPOINT: evil}, tmp_path), tmp_path, "cannot be read as weights"
    )
    name = f"{NAME}/{MODEL}/fold_0/checkpoint_final.pth"
    (home / CHECKPOINT).unlink()
    refused(model_zip(home, tmp_path / "evil.zip", {name: evil}), tmp_path, "cannot be read as weights")
    told = inspect_file(tmp_path / "evil.pth")
    assert "NOT SAFE" in told and "pathlib" in told
    assert not proof.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert proof.exists(), "the checkpoint does nothing, so the test shows nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer_name": "os.system"}, "trainer_name"),
        ({"network_weights": {"a": "text"}}, "weight a"),
        ({"network_weights": {"a b": torch.ones(1)}}, "name of a weight"),
        ({"network_weights": {"a": torch.ones(1).expand(1 << 40)}}, "size of a"),
        ({"network_weights": {"a": torch.ones(2).to_sparse()}}, "weight a"),
        ({"network_weights": {}}, "network_weights"),
        ({"init_args": {"configuration": "../x", "fold": 0}}, "configuration"),
        ({"init_args": {"configuration": "3d_fullres", "fold": "../0"}}, "fold"),
        ({"init_args": None}, "init_args"),
        ({"inference_allowed_mirroring_axes": (7,)}, "mirroring"),
    ],
)
def test_checkpoints_of_other_content_are_refused(home, bundle, tmp_path, change, message):
    evil = torch_file(tmp_path / "evil.pth", {**checkpoint(home, 0), **change})
    refused(repacked(bundle, tmp_path / "evil.tar", {CHECKPOINT: evil}, tmp_path), tmp_path, message)


def test_checkpoints_that_explode_are_refused(home, bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02N.")
        archive.writestr("bomb/data/0", bytes(100 << 20))
    bomb = (tmp_path / "bomb.pth").read_bytes()
    refused(repacked(bundle, tmp_path / "evil.tar", {CHECKPOINT: bomb}, tmp_path), tmp_path, "would unpack to")
    assert "NOT SAFE" in inspect_file(tmp_path / "bomb.pth")
    refused(repacked(bundle, tmp_path / "evil2.tar", {CHECKPOINT: b"text"}, tmp_path), tmp_path, "no checkpoint")


def test_checkpoints_that_claim_what_they_do_not_hold_are_refused(home, bundle, tmp_path):
    values = torch.zeros(10_000)
    views = {f"w{n}": values[n:-1000] for n in range(50)}
    evil = torch_file(tmp_path / "views.pth", {**checkpoint(home, 0), "network_weights": views})
    refused(repacked(bundle, tmp_path / "views.tar", {CHECKPOINT: evil}, tmp_path), tmp_path, "size of w")
    nowhere = {"a": torch.empty(1 << 40, device="meta")}
    evil = torch_file(tmp_path / "meta.pth", {**checkpoint(home, 0), "network_weights": nowhere})
    refused(repacked(bundle, tmp_path / "meta.tar", {CHECKPOINT: evil}, tmp_path), tmp_path, "weight a")


def test_weights_of_several_names_stay_one(home, bundle, tmp_path):
    values = torch.zeros(100_000)
    shared = torch_file(
        tmp_path / "shared.pth", {**checkpoint(home, 0), "network_weights": {f"w{n}": values for n in range(9)}}
    )
    (folder,) = import_model(repacked(bundle, tmp_path / "shared.tar", {CHECKPOINT: shared}, tmp_path))
    assert (folder / CHECKPOINT).stat().st_size < 2 * values.nbytes


def test_a_zip_that_only_pytorch_would_open_is_not_opened(home, tmp_path):
    plain = zipfile.ZipFile(home / CHECKPOINT)
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
def test_zips_that_leave_the_folder_are_refused(home, bundle, tmp_path, name):
    path = model_zip(home, tmp_path / "evil.zip", {name: b"", f"{NAME}/x/y.json": b""})
    refused(path, tmp_path, "cannot hold")
    assert not (tmp_path / "escaped").exists()


def test_zips_with_links_or_bombs_are_refused(home, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("rectal_nnformer.sharing.zips.FREE_EXPANSION", 1 << 20)
    path = model_zip(home, tmp_path / "link.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(*link("/etc"))
    refused(path, tmp_path, "link")
    path = model_zip(home, tmp_path / "bomb.zip", {f"{NAME}/{MODEL}/fold_0/zeros": bytes(40 << 20)})
    refused(path, tmp_path, "no model does")
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:5000])
    refused(tmp_path / "cut.zip", tmp_path, "cannot be unpacked")


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_id_of_another_dataset_is_refused(bundle, tmp_path, variable):
    (tmp_path / "away" / variable / "Dataset501_Other").mkdir()
    refused(bundle, tmp_path, "Dataset501_Other")


def test_reports_lose_scripts_pictures_and_links():
    page = clean_page(PAGE, str)
    for text in ("script", "alert", "onload", "<img", "PATIENT", "iframe", "hidden", "javascript", "url(", "2026-01"):
        assert text not in page
    for text in ("color: red", f"Report of {CASES[0]}", 'href="#top"', 'viewBox="0 0 1 1"', "a &lt; b", 'd="M0 0"'):
        assert text in page
    assert clean_page(page, str) == page


@pytest.mark.parametrize(
    "page",
    [
        '<meta charset="iso-2022-jp"><p title="\x1b$B">a</p><p title=" onclick=run x=\x1b(B">',
        '<svg><rect fill="url(http://example.org/x.svg#a)"/></svg>',
        "<style>p{background:u</x>rl(http://example.org)}</style>",
        '<meta http-equiv="refresh" content="0;url=http://example.org">',
        '<base href="http://example.org">',
    ],
)
def test_pages_fetch_nothing_and_are_utf_8(page):
    cleaned = clean_page(page, str)
    assert "example.org" not in cleaned and "2022" not in cleaned and "\x1b" not in cleaned
    assert cleaned.count("charset") == 1 and "default-src 'none'" in cleaned and clean_page(cleaned, str) == cleaned


def test_tables_and_markdown_lose_formulas_and_links(home, tmp_path):
    (home / "crossval_summary.csv").write_text("=cmd(),case,dice\n==HYPERLINK(1),-1+cmd|calc,-0.5\n")
    (home / "crossval_summary.md").write_text("[a](http://x) [b][ref]\n[ref]: http://x\n<b>bold</b>\n")
    rewrite_model(home, tmp_path, NAME, Renamer({}))
    assert (tmp_path / "crossval_summary.csv").read_text() == "cmd(),case,dice\nHYPERLINK(1),1+cmd|calc,-0.5\n"
    written = (tmp_path / "crossval_summary.md").read_text(encoding="utf-8")
    assert not any(link in written for link in ("](", "]:", "][", "<b"))
    (home / "crossval_summary.csv").write_text("a,b\n" + "x" * 200_000)
    with pytest.raises(RectalError, match=r"crossval_summary\.csv cannot be read"):
        rewrite_model(home, make(tmp_path / "other"), NAME, Renamer({}))


def make(folder):
    folder.mkdir()
    return folder


def test_a_case_name_within_a_word_of_the_report_is_not_sent(home, tmp_path):
    (home / "report.html").write_text(f"<p>x{CASES[0]}y</p>")
    with pytest.raises(RectalError, match=f"report.html still names {CASES[0]}"):
        sent(tmp_path, pseudonymize=True)


@pytest.mark.parametrize(
    "page",
    ["<scr<script>ipt>run</script>", "<style><script>run</style>", "<!--[if IE]><script>run</script>-->", "<p\x00>"],
)
def test_pages_made_to_deceive_stay_harmless(page):
    cleaned = clean_page(page, str)
    assert "<script" not in cleaned and clean_page(cleaned, str) == cleaned


def test_what_is_told_of_a_file_has_an_end(tmp_path):
    value = ["x" * 100_000] * 4
    for _ in range(6):
        value = [value] * 4
    (tmp_path / "file.pkl").write_bytes(pickle.dumps({"a": value, "b": 10**5000, "c": "x" * 10**6}, 4))
    assert len(inspect_file(tmp_path / "file.pkl")) < 1000


def test_models_are_told_in_words(home, bundle):
    lines = inspect_file(bundle).splitlines()
    assert f"model: trainer {TRAINER}, plans {PLANS}, configuration 3d_fullres" in lines
    assert "folds: 0, 1" in lines and not any(line.startswith(("ground truth", "cases")) for line in lines)
    removed = lines[lines.index("left out by the sender:") + 1 :]
    assert "  optimizer state and training curves of checkpoints" in removed
    told = inspect_file(home / CHECKPOINT)
    assert "  inference_allowed_mirroring_axes: 0, 1, 2\n" in told + "\n"
    assert "    encoder.weight: tensor of 3 x 2 (torch.float32)\n" in told
    assert not any(word in told for word in ("dict", "None", "tuple", "list of"))


def test_many_entries_are_told_by_their_number(tmp_path):
    content = {f"a{n}": {f"b{n}": {f"c{n}": 1 for n in range(3)} for n in range(50)} for n in range(50)}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content, 4))
    lines = inspect_file(tmp_path / "file.pkl").splitlines()
    assert len(lines) == 201 and lines[-1].startswith("  and ")
    (tmp_path / "file.pkl").write_bytes(pickle.dumps({f"a{n}": n for n in range(50)}, 4))
    assert inspect_file(tmp_path / "file.pkl").endswith("  a39: 39\n  and 10 more")


def test_everything_can_be_inspected(home, bundle, tmp_path):
    proof = tmp_path / "executed"
    (tmp_path / "evil.pkl").write_bytes(evil_pickle(proof))
    (tmp_path / "page.pth").write_bytes(b"<html>login</html>")
    (tmp_path / "text").write_bytes(b"\x1b[31mred")
    preprocessed = tmp_path / "home_of_sender/nnUNet_preprocessed" / NAME / DATA
    expected = {
        bundle: "bundle of a model",
        home / CHECKPOINT: "2 tensor|encoder.weight",
        tmp_path / "evil.pkl": "would import",
        tmp_path / "page.pth": "web page",
        tmp_path / "text": "nothing more",
        preprocessed / f"{CASES[0]}.pkl": "nothing that could run",
        preprocessed / f"{CASES[0]}.b2nd": "nothing else in the file",
    }
    for path, words in expected.items():
        told = inspect_file(path)
        assert any(word in told for word in words.split("|")), told
        assert "\x1b" not in told
    assert not proof.exists()


def test_inspecting_never_starts_a_program(home, bundle, tmp_path, monkeypatch, capsys):
    evil = torch_file(tmp_path / "evil.pth", {"a": Runs(tmp_path / "executed")})
    (tmp_path / "raw.pkl").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    for function in (os.system, subprocess.Popen):
        monkeypatch.setattr(f"{function.__module__.replace('posix', 'os')}.{function.__name__}", None)
    cli.main(["inspect", str(tmp_path / "raw.pkl")])
    cli.main(["inspect", str(tmp_path / "evil.pth")])
    assert evil and "os.system" in capsys.readouterr().out and not (tmp_path / "executed").exists()


def test_the_commands(home, tmp_path, monkeypatch, capsys):
    path = tmp_path / "model.tar"
    cli.main(["export_model", "-d", "501", "-o", str(path), "-tr", TRAINER, "-p", PLANS, "-f", "0", "--pseudonymize"])
    set_folders(monkeypatch, tmp_path / "away")
    cli.main(["import_model", str(path)])
    assert f"-tr {TRAINER} -p {PLANS} -c 3d_fullres -f 0" in capsys.readouterr().out
