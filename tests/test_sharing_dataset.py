"""Datasets as single files: what travels, what does not, and that nothing of a file from elsewhere is trusted."""

import csv
import gzip
import json
import lzma
import pickle
import re
import socket
import struct
import tracemalloc

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from sharing_inputs import (
    CASES,
    DATA,
    HOST,
    NAME,
    PLANS,
    SECRETS,
    USER,
    all_files,
    evil_pickle,
    nifti_with_extension,
    repacked,
    set_folders,
    unpacked,
    write_dataset,
)

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import trainers_folder
from rectal_nnformer.planning import BACKBONES
from rectal_nnformer.sharing import export_dataset, import_dataset, strict_json
from rectal_nnformer.sharing.dataset_import import BundleReader
from rectal_nnformer.sharing.inspection import inspect_file
from rectal_nnformer.sharing.strict_json import load_json


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setenv("LOGNAME", USER)
    folder = write_dataset(set_folders(monkeypatch, tmp_path / "home_of_sender"))
    return folder


@pytest.fixture
def bundle(home, tmp_path, monkeypatch):
    """A bundle, with nnU-Net's folders now those of somebody else."""
    path = export_dataset(501, tmp_path / "sent.tar")
    set_folders(monkeypatch, tmp_path / "away")
    return path


def all_bytes(bundle, folder):
    """Return everything that is in a bundle, paths included, with compressed files unpacked."""
    texts = []
    for path in sorted(unpacked(bundle, folder).rglob("*")):
        texts.append(path.relative_to(folder).as_posix().encode())
        if path.is_file():
            texts.append(path.read_bytes())
            if path.suffix == ".gz":
                texts.append(gzip.decompress(path.read_bytes()))
            if path.suffix == ".b2nd":
                texts.append(blosc2.open(str(path))[:].tobytes())
    raw = bundle.read_bytes()
    opened = {b"\x1f\x8b": gzip.decompress, b"\xfd7": lzma.decompress}.get(raw[:2], bytes)(raw)
    return b"\n".join([*texts, raw, opened])


def traces(home):
    return {USER, HOST, HOST.partition(".")[0], str(home), str(home.parents[1]), "/tmp/", *SECRETS}


def refused(path, tmp_path, message):
    """Importing `path` must fail with `message` and leave nothing."""
    before = all_files(tmp_path / "away")
    with pytest.raises(RectalError, match=message):
        import_dataset(path)
    assert all_files(tmp_path / "away") == before


@pytest.mark.parametrize("name", ["sent.tar", "sent.tar.gz", "sent.tgz", "sent.tar.xz", "sent"])
def test_a_dataset_arrives_as_it_was(home, tmp_path, monkeypatch, name):
    assert export_dataset(501, tmp_path / name) == tmp_path / name
    preprocessed = set_folders(monkeypatch, tmp_path / "away")
    folder = import_dataset(tmp_path / name)
    assert folder == preprocessed / NAME
    for case in CASES:
        for file in (f"{case}.b2nd", f"{case}_seg.b2nd"):
            assert (folder / DATA / file).read_bytes() == (home / DATA / file).read_bytes()
        ours, theirs = (pickle.loads((place / DATA / f"{case}.pkl").read_bytes()) for place in (home, folder))
        assert np.array_equal(ours["class_locations"][1], theirs["class_locations"][1])
        assert theirs.keys() == ours.keys() - {"patient_name"}
        assert theirs["spacing"] == ours["spacing"] and theirs["sitk_stuff"] == ours["sitk_stuff"]
        images = [sitk.ReadImage(str(place / "gt_segmentations" / f"{case}.nii.gz")) for place in (home, folder)]
        assert np.array_equal(*map(sitk.GetArrayFromImage, images))
        assert images[0].GetSpacing() == images[1].GetSpacing() and images[0].GetDirection() == images[1].GetDirection()
    assert json.loads((folder / "splits_final.json").read_text()) == json.loads(
        (home / "splits_final.json").read_text()
    )


def test_the_manifest_lists_every_file(bundle, tmp_path):
    folder = unpacked(bundle, tmp_path / "unpacked")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    present = {path for path in all_files(folder) if (folder / path).is_file()}
    assert set(files) | {"manifest.json"} == present
    assert all(entry.keys() == {"sha256", "size"} for entry in files.values())
    assert not {"patients.csv", f"{DATA}_source.json", "notes.txt"} & present
    assert {"rectal_fingerprint.json", "dataset_fingerprint.json", f"{PLANS}.json"} < present


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz"])
def test_nothing_of_sender_or_patients_is_in_the_bytes(home, tmp_path, ending):
    content = all_bytes(export_dataset(501, tmp_path / f"sent.{ending}"), tmp_path / "unpacked")
    assert [text for text in traces(home) if text.encode() in content] == []
    assert all(case.encode() in content for case in CASES)


def test_pseudonyms_are_everywhere_and_their_key_stays(home, tmp_path, monkeypatch):
    sent = export_dataset(501, tmp_path / "sent.tar", pseudonymize=True)
    content = all_bytes(sent, tmp_path / "unpacked")
    assert [text for text in traces(home) | set(CASES) if text.encode() in content] == []
    key = dict(list(csv.reader((home / "pseudonyms.csv").open()))[1:])
    assert set(key) == set(CASES)
    assert (home / "pseudonyms.csv").stat().st_mode & 0o077 == 0
    set_folders(monkeypatch, tmp_path / "away")
    folder = import_dataset(sent)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert [fold["val"] for fold in splits] == [[key[case]] for case in CASES]
    fingerprint = json.loads((folder / "rectal_fingerprint.json").read_text())
    assert set(fingerprint["cases"]) == set(key.values())
    assert fingerprint["outliers"][0]["reason"] == f"mask of {key[CASES[0]]} equals that of {key[CASES[-1]]}"
    for case in CASES:
        assert (folder / DATA / f"{key[case]}.b2nd").read_bytes() == (home / DATA / f"{case}.b2nd").read_bytes()


def test_numbers_as_case_names_are_told_from_other_numbers(tmp_path, monkeypatch):
    preprocessed = set_folders(monkeypatch, tmp_path / "home_of_sender")
    home = write_dataset(preprocessed, ("005", "100", "250"), size=(8, 8, 8))
    fingerprint = {"volume": {"0": 1.0, "100": 2.0, "250": 3.0, "9": 4.0}, "cases": {"100": 1, "250": 2}}
    (home / "rectal_fingerprint.json").write_text(json.dumps(fingerprint))
    folder = unpacked(export_dataset(501, tmp_path / "sent.tar", pseudonymize=True), tmp_path / "unpacked")
    key = dict(list(csv.reader((home / "pseudonyms.csv").open()))[1:])
    sent = json.loads((folder / "rectal_fingerprint.json").read_text())
    assert sent["volume"] == fingerprint["volume"]
    assert sent["cases"] == {key["100"]: 1, key["250"]: 2}


def test_later_exports_use_the_same_pseudonyms(home, tmp_path):
    bundles = [export_dataset(501, tmp_path / name, pseudonymize=True) for name in ("one.tar", "two.tar")]
    assert bundles[0].read_bytes() == bundles[1].read_bytes()


def test_bundles_do_not_depend_on_when_and_where_they_are_written(home, tmp_path, monkeypatch):
    first = export_dataset(501, tmp_path / "one.tar.gz").read_bytes()
    for path in home.rglob("*"):
        path.touch()
    monkeypatch.setenv("USER", "somebody_else")
    assert export_dataset(501, tmp_path / "other/two.tar.gz").read_bytes() == first


def test_records_of_cases_that_stay_do_not_travel(home, tmp_path):
    splits = [{"train": list(CASES[1:3]), "val": [CASES[3]]}]
    (home / "splits_final.json").write_text(json.dumps(splits))
    sent = export_dataset(501, tmp_path / "sent.tar", folds=[0])
    fingerprint = json.loads((unpacked(sent, tmp_path / "unpacked") / "rectal_fingerprint.json").read_text())
    assert fingerprint["outliers"] == [] and set(fingerprint["cases"]) == set(CASES[1:4])
    assert "mask_digest" not in json.dumps(fingerprint)


def test_a_failed_export_leaves_the_file_that_was_there(home, tmp_path):
    (tmp_path / "sent.tar").write_bytes(b"the one of last week")
    (home / DATA / f"{CASES[0]}.pkl").unlink()
    with pytest.raises(RectalError, match=CASES[0]):
        export_dataset(501, tmp_path / "sent.tar")
    assert (tmp_path / "sent.tar").read_bytes() == b"the one of last week"
    (tmp_path / "folder").mkdir()
    with pytest.raises(RectalError, match="is a folder"):
        export_dataset(501, tmp_path / "folder")


def test_chosen_folds_keep_their_numbers(home, tmp_path, monkeypatch):
    splits = json.loads((home / "splits_final.json").read_text())
    splits[1] = {"train": [CASES[0], CASES[2]], "val": [CASES[1]]}
    (home / "splits_final.json").write_text(json.dumps(splits))
    sent = export_dataset(501, tmp_path / "sent.tar", folds=[1])
    content = all_bytes(sent, tmp_path / "unpacked")
    assert CASES[3].encode() not in content and CASES[4].encode() not in content
    set_folders(monkeypatch, tmp_path / "away")
    arrived = json.loads((import_dataset(sent) / "splits_final.json").read_text())
    assert arrived[1] == splits[1]
    assert all(fold == {"train": [], "val": []} for number, fold in enumerate(arrived) if number != 1)
    set_folders(monkeypatch, tmp_path / "home_of_sender")
    with pytest.raises(RectalError, match="has no fold 7"):
        export_dataset(501, tmp_path / "sent.tar", folds=[7])


def test_ground_truth_can_stay(home, tmp_path, monkeypatch):
    sent = export_dataset(501, tmp_path / "sent.tar", with_ground_truth=False)
    set_folders(monkeypatch, tmp_path / "away")
    assert not (import_dataset(sent) / "gt_segmentations").exists()


def test_metadata_in_arrays_are_left_behind(home, tmp_path):
    path = home / DATA / f"{CASES[0]}.b2nd"
    array = blosc2.open(str(path), mode="a")
    array.schunk.vlmeta["note"] = "Dr. Mueller"
    voxels = array[:]
    sent = export_dataset(501, tmp_path / "sent.tar")
    content = all_bytes(sent, tmp_path / "unpacked")
    assert b"Mueller" not in content
    arrived = blosc2.open(str(tmp_path / "unpacked" / DATA / f"{CASES[0]}.b2nd"))
    assert np.array_equal(arrived[:], voxels)


def test_incomplete_datasets_are_not_sent(home, tmp_path):
    (home / DATA / f"{CASES[2]}_seg.b2nd").unlink()
    with pytest.raises(RectalError, match=CASES[2]):
        export_dataset(501, tmp_path / "sent.tar")
    assert [path for path in all_files(tmp_path) if not path.startswith("home")] == []


def test_a_dataset_that_is_there_is_not_replaced(bundle, tmp_path):
    folder = import_dataset(bundle)
    (folder / "mine.txt").write_text("mine")
    refused(bundle, tmp_path, f"{NAME} exists")


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_id_of_another_dataset_is_refused(bundle, tmp_path, variable):
    (tmp_path / "away" / variable / "Dataset501_Other").mkdir()
    refused(bundle, tmp_path, "Dataset501_Other")


def test_a_bundle_that_does_not_fit_on_the_disk_is_refused(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    refused(bundle, tmp_path, "has room for 1000")


def test_interruption_leaves_nothing(bundle, tmp_path, monkeypatch):
    extract = BundleReader.extract

    def interrupted(self, folder):
        extract(self, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(BundleReader, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(bundle)
    assert [path for path in all_files(tmp_path / "away") if "/" in path] == []


@pytest.mark.parametrize("part", range(12))
def test_a_flipped_byte_is_found_and_nothing_is_left(bundle, tmp_path, part):
    content = bytearray(bundle.read_bytes())
    content[part * len(content) // 12 + 7] ^= 0x20
    bundle.write_bytes(content)
    refused(bundle, tmp_path, "cannot be read|no bundle")


def test_a_pickle_that_runs_code_is_refused_and_not_run(bundle, tmp_path):
    proof = tmp_path / "executed"
    evil = repacked(bundle, tmp_path / "evil.tar", {f"{DATA}/{CASES[1]}.pkl": evil_pickle(proof)}, tmp_path)
    refused(evil, tmp_path, "which opening it would import")
    assert not proof.exists()


SIZE = (20, 24, 28)


def properties(**changes):
    content = {
        "spacing": [1.0, 1.0, 1.0],
        "shape_before_cropping": SIZE,
        "bbox_used_for_cropping": [[0, n] for n in SIZE],
        "shape_after_cropping_and_before_resampling": SIZE,
        "class_locations": {1: np.zeros((1, 4), int)},
    }
    return pickle.dumps({key: value for key, value in {**content, **changes}.items() if value is not None})


def cropped(*box, **changes):
    """Properties of a case that was cropped to a box of other than the whole volume."""
    sizes = tuple(high - low for low, high in box)
    return properties(
        bbox_used_for_cropping=[*map(list, box)], shape_after_cropping_and_before_resampling=sizes, **changes
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (properties(note="Dr. Mueller"), "fields that nnU-Net does not write"),
        (properties(class_locations={1: np.array([[0, 1, 2, 99]])}), "outside of its volume"),
        (properties(spacing=[1.0, "x"]), "'spacing'"),
        (properties(spacing=[1.0, 1.0, -1.0]), "'spacing'"),
        (properties(spacing=[1.0, 1.0, 10**400]), "'spacing'"),
        (properties(spacing=[1.0, 1.0]), "'spacing'"),
        (properties(spacing=[1.0, 1.0, 1.1]), "do not become"),
        (properties(spacing=[1.0, 1.0, 1e308]), "do not become"),
        (properties(shape_before_cropping=None), "lacks the property 'shape_before_cropping'"),
        (properties(shape_before_cropping=(20, 24, -28)), "'shape_before_cropping'"),
        (properties(shape_before_cropping=(20, 24)), "'shape_before_cropping'"),
        (properties(shape_before_cropping=(20, 24, 28, 1)), "'shape_before_cropping'"),
        (properties(shape_before_cropping=(20, 24, 28.0)), "'shape_before_cropping'"),
        (properties(shape_before_cropping=(20, 24, 10**12)), "'shape_before_cropping'"),
        (properties(shape_before_cropping=(60_000, 60_000, 60_000)), "'shape_before_cropping'"),
        (properties(shape_before_cropping=(20, 24, 27)), "does not lie within"),
        (properties(bbox_used_for_cropping=None), "lacks the property 'bbox_used_for_cropping'"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [0]]), "'bbox_used_for_cropping'"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [-1, 27]]), "does not lie within"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [28, 28]]), "does not lie within"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [1, 28]]), "is not of the size"),
        (cropped((0, 20), (0, 24), (1, 28)), "do not become"),
        (cropped((0, 20), (0, 24), (0, 30), shape_before_cropping=(20, 24, 30)), "do not become"),
        (properties(sitk_stuff={"spacing": (1.0,) * 3, "origin": (0.0,) * 3, "direction": (1.0,) * 4}), "of no image"),
        (properties(sitk_stuff={"spacing": (0.0,) * 3}), "'spacing'"),
        (properties(class_locations=np.array([None, object])), "array of type|instruction|names"),
        (b"no pickle", "damaged"),
    ],
)
def test_properties_of_other_content_are_refused(bundle, tmp_path, content, message):
    evil = repacked(bundle, tmp_path / "evil.tar", {f"{DATA}/{CASES[1]}.pkl": content}, tmp_path)
    refused(evil, tmp_path, message)


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (cropped((3, 23), (0, 24), (5, 33), shape_before_cropping=(30, 24, 40)), {}),
        (cropped((0, 10), (0, 24), (0, 28), spacing=[2.0, 1.0, 1.0]), {}),
        (cropped((0, 10), (0, 24), (0, 28), spacing=[2.04, 1.0, 1.0]), {}),
        (cropped((0, 20), (0, 12), (0, 28), spacing=[7.0, 2.0, 1.0]), {"spacing": [1, 1]}),
        (cropped((0, 10), (0, 24), (0, 28)), {"preprocessor_name": "OtherPreprocessor"}),
    ],
    ids=["cropped", "resampled", "rounded", "in 2D", "by another preprocessor"],
)
def test_properties_of_cropped_and_resampled_cases_are_taken(bundle, tmp_path, content, settings):
    files = changed_plans(bundle, tmp_path, lambda plans: plans["configurations"]["3d_fullres"].update(settings))
    import_dataset(repacked(bundle, tmp_path / "other.tar", files | {f"{DATA}/{CASES[1]}.pkl": content}, tmp_path))


def test_the_order_of_axes_is_that_of_the_plans(bundle, tmp_path):
    files = changed_plans(bundle, tmp_path, lambda plans: plans.update(transpose_forward=[2, 0, 1]))
    turned = cropped((0, 20), (0, 24), (0, 14), spacing=[1.0, 2.0, 1.0])
    import_dataset(repacked(bundle, tmp_path / "other.tar", files | {f"{DATA}/{CASES[1]}.pkl": turned}, tmp_path))


def test_properties_that_do_not_fit_are_not_sent(home, tmp_path):
    (home / DATA / f"{CASES[1]}.pkl").write_bytes(properties(shape_before_cropping=(20, 24, 27)))
    with pytest.raises(RectalError, match=f"{CASES[1]}.pkl cannot be of .* move the folder {DATA} away"):
        export_dataset(501, tmp_path / "sent.tar")


def changed_plans(bundle, tmp_path, change):
    plans = json.loads((unpacked(bundle, tmp_path / "plans") / f"{PLANS}.json").read_text())
    change(plans)
    return {f"{PLANS}.json": json.dumps(plans).encode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["configurations"]["3d_fullres"].update(data_identifier="../../evil"), "data_identifier"),
        (lambda p: p["configurations"]["3d_fullres"].update(data_identifier="/tmp"), "data_identifier"),
        (
            lambda p: p["configurations"]["3d_fullres"]["architecture"].update(network_class_name="os.system"),
            "os.system",
        ),
        (
            lambda p: p["configurations"]["3d_fullres"]["architecture"].update(
                _kw_requires_import=["backbone"], arch_kwargs={"backbone": "subprocess.Popen"}
            ),
            "subprocess.Popen",
        ),
        (lambda p: p["configurations"]["3d_fullres"].update(patch_size=[10**9] * 3), "patch_size"),
        (lambda p: p["configurations"]["3d_fullres"].update(preprocessor_name="a.b"), "preprocessor_name"),
        (lambda p: p["configurations"]["3d_fullres"].update(spacing=[1.0, 0.0, 1.0]), "spacing"),
        (lambda p: p["configurations"]["3d_fullres"].update(spacing=[1.0]), "spacing"),
        (lambda p: p.update(transpose_forward=[0, 1, 1]), "transpose_forward"),
        (lambda p: p.update(dataset_name="../x"), "dataset_name"),
        (lambda p: p.update(plans_name="../x"), "plans_name"),
    ],
)
def test_plans_that_lead_elsewhere_are_refused(bundle, tmp_path, change, message):
    evil = repacked(bundle, tmp_path / "evil.tar", changed_plans(bundle, tmp_path, change), tmp_path)
    refused(evil, tmp_path, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer.py", b"import os", "does not belong"),
        ("gt_segmentations/deep/case.nii.gz", b"", "does not belong"),
        ("other/case.pkl", b"", "is in no plans"),
        (f"{DATA}/extra.pkl", b"", "lacks or has too much"),
        ("dataset.json", b"[" * 100_000, "nested too deep|recursion|JSON"),
        ("dataset.json", b'{"labels": {}, "labels": {}}', "twice"),
        ("dataset_fingerprint.json", b'{"spacings": [NaN]}', "NaN"),
        ("splits_final.json", b'[{"train": ["unknown"], "val": []}]', "unknown"),
        ("dataset.json", b'{"file_ending": "/../../x"}', "file_ending"),
        (f"gt_segmentations/{CASES[0]}.nii.gz", gzip.compress(nifti_with_extension(b"Dr. Mueller")), "header"),
        (f"gt_segmentations/{CASES[0]}.nii.gz", b"<html>", "no gzip"),
    ],
)
def test_files_of_other_content_are_refused(bundle, tmp_path, name, content, message):
    refused(repacked(bundle, tmp_path / "evil.tar", {name: content}, tmp_path), tmp_path, message)


@pytest.mark.parametrize("more", [gzip.compress(b""), gzip.compress(b"Dr. Mueller"), b"\0", b"Dr. Mueller"])
def test_masks_that_go_on_behind_their_gzip_member_are_refused(bundle, tmp_path, more):
    name = f"gt_segmentations/{CASES[0]}.nii.gz"
    mask = (unpacked(bundle, tmp_path / "unpacked") / name).read_bytes()
    refused(repacked(bundle, tmp_path / "evil.tar", {name: mask + more}, tmp_path), tmp_path, "more follows its end")


def test_masks_that_end_early_are_refused(bundle, tmp_path):
    name = f"gt_segmentations/{CASES[0]}.nii.gz"
    mask = (unpacked(bundle, tmp_path / "unpacked") / name).read_bytes()
    refused(repacked(bundle, tmp_path / "evil.tar", {name: mask[:-1]}, tmp_path), tmp_path, "ends early")


def test_huge_texts_are_not_read(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(strict_json, "MAX_BYTES", 100_000)
    evil = repacked(bundle, tmp_path / "evil.tar", {"dataset_fingerprint.json": b" " * 100_001}, tmp_path)
    refused(evil, tmp_path, "dataset_fingerprint.json has more than the 100000 bytes")


def test_texts_that_are_large_in_memory_are_read_one_after_the_other(bundle, tmp_path):
    deep = b"[" + b",".join([b'{"":' * 20 + b"0" + b"}" * 20] * 3000) + b"]"
    files = {f"plans_{number}.json": deep for number in range(20)}
    evil = repacked(bundle, tmp_path / "evil.tar", files, tmp_path)
    tracemalloc.start()
    try:
        load_json(deep, "one of them")
        one = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        refused(evil, tmp_path, "plans_0.json cannot be used")
        assert tracemalloc.get_traced_memory()[1] < 4 * one
    finally:
        tracemalloc.stop()


def test_missing_files_are_noticed(bundle, tmp_path):
    gone = repacked(bundle, tmp_path / "evil.tar", {f"{DATA}/{CASES[0]}.b2nd": None}, tmp_path)
    refused(gone, tmp_path, "lacks or has too much")
    gone = repacked(bundle, tmp_path / "evil2.tar", {"dataset_fingerprint.json": None}, tmp_path)
    refused(gone, tmp_path, "has no dataset_fingerprint.json")


def array_with_metadata(tmp_path):
    path = tmp_path / "array.b2nd"
    array = blosc2.asarray(np.zeros((1, 20, 24, 28), np.float32), urlpath=str(path), mode="w", meta={"b2o": {"x": 1}})
    del array
    return path.read_bytes()


def test_arrays_with_metadata_are_refused(bundle, tmp_path):
    evil = repacked(bundle, tmp_path / "evil.tar", {f"{DATA}/{CASES[0]}.b2nd": array_with_metadata(tmp_path)}, tmp_path)
    refused(evil, tmp_path, "were not opened")


@pytest.mark.parametrize("where", ["header", "codec", "chunk", "trailer", "end", "shape"])
def test_arrays_of_other_content_are_refused(bundle, home, tmp_path, where):
    content = bytearray((home / DATA / f"{CASES[0]}.b2nd").read_bytes())
    header = struct.unpack(">i", content[11:15])[0]
    if where == "header":
        content[68] = 0xC3
    elif where == "codec":
        content[77] = 160
    elif where == "chunk":
        content[header + 22] = 160
    elif where == "trailer":
        content[-30] ^= 1
    elif where == "end":
        content += b"more"
    else:
        content[content.index(b"b2nd", 80) + 25 + 9 + 1 : content.index(b"b2nd", 80) + 25 + 9 + 3] = b"\x7f\xff"
    evil = repacked(bundle, tmp_path / "evil.tar", {f"{DATA}/{CASES[0]}.b2nd": bytes(content)}, tmp_path)
    refused(evil, tmp_path, "were not opened")


def test_inspecting_tells_the_manifest_in_words(home, tmp_path):
    (home / "a name that tells something").write_text("Dr. Mueller")
    for name in ("imagesTr", "a second one"):
        (home / name).mkdir()
    lines = inspect_file(export_dataset(501, tmp_path / "sent.tar")).splitlines()
    assert {f"dataset: {NAME}", "cases: 5", f"plans: {PLANS}", "folds: all", "ground truth: yes"} <= set(lines)
    assert "pseudonymised: no" in lines and not any("{" in line or "None" in line for line in lines)
    (software,) = [line for line in lines if line.startswith("software: ")]
    assert re.match(r"software: rectal_nnformer [\d.]+, nnunetv2 [\d.]+, torch [\d.]+", software)
    removed = lines[lines.index("left out by the sender:") + 1 :]
    # Three above and notes.txt; their names could tell something.
    assert {"  patients.csv", "  records of raw files", "  files and folders of other names (4 times)"} <= set(removed)
    assert any(re.fullmatch(rf"  {DATA}: [\d.]+ KB in 15 files", line) for line in removed)
    sent = export_dataset(501, tmp_path / "sent.tar", folds=[0, 3], pseudonymize=True, with_ground_truth=False)
    lines = inspect_file(sent).splitlines()
    assert {"folds: 0, 3", "pseudonymised: yes", "ground truth: no"} <= set(lines)


@pytest.mark.parametrize(
    ("backbone", "options", "trainer"),
    [
        ("smit", {}, "nnUNetTrainerSMIT_ACT"),
        ("smit", {"drop_path_rate": 0.2}, "nnUNetTrainerSMIT_ACT"),
        ("smit", dict(BACKBONES["smit_small"].kwargs), "nnUNetTrainerSMIT_CPU -device cpu"),
        ("swin_unetr", {}, "nnUNetTrainerSwinUNETR_ACT"),
        ("swin_unetr_v2", {}, "nnUNetTrainerSwinUNETRV2_ACT"),
    ],
)
def test_the_trainer_of_the_imported_plans_is_named(bundle, tmp_path, capsys, backbone, options, trainer):
    def change(plans):
        settings = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        settings.update(backbone=backbone, backbone_kwargs=options)

    cli.main(
        [
            "import_dataset",
            str(repacked(bundle, tmp_path / "sent.tar", changed_plans(bundle, tmp_path, change), tmp_path)),
        ]
    )
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == f"  rectal_nnformer train {NAME} 3d_fullres FOLD -p {PLANS} -tr {trainer}"
    assert (trainers_folder() / f"{trainer.partition('_')[0]}.py").read_text().count(
        f"class {trainer.split()[0]}("
    ) == 1


def test_stock_plans_are_trained_by_nnunet_alone(bundle, tmp_path, capsys):
    def change(plans):
        plans["configurations"]["3d_fullres"].pop("architecture")

    stock = changed_plans(bundle, tmp_path, change)[f"{PLANS}.json"]
    sent = repacked(bundle, tmp_path / "sent.tar", {f"{PLANS}.json": None, "a $(name).json": stock}, tmp_path)
    cli.main(["import_dataset", str(sent)])
    assert capsys.readouterr().out.endswith(f"\n  nnUNetv2_train {NAME} 3d_fullres FOLD -p 'a $(name)'\n")


def test_the_commands(home, tmp_path, monkeypatch, capsys):
    sent = tmp_path / "sent.tgz"
    cli.main(["export_dataset", "-d", "501", "-o", str(sent), "--pseudonymize", "--without-ground-truth", "-f", "0"])
    cli.main(["inspect", str(sent)])
    told = capsys.readouterr().out
    assert "every byte is as it was written" in told
    set_folders(monkeypatch, tmp_path / "away")
    cli.main(["import_dataset", str(sent)])
    assert PLANS in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        cli.main(["import_dataset", str(sent)])
    assert error.value.code == 2
