"""Datasets as single files: what travels, what does not, and that nothing of a file from elsewhere is trusted."""

import csv
import json
import pickle
import re
import socket

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from limits import largest_file
from safetensors.numpy import load, save
from sharing_inputs import (
    CASES,
    DATA,
    HOST,
    NAME,
    PLANS,
    SECRETS,
    USER,
    all_files,
    contents,
    evil_pickle,
    repacked,
    set_folders,
    write_dataset,
)

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import trainers_folder
from rectal_nnformer.planning import BACKBONES
from rectal_nnformer.sharing import bundle as bundles
from rectal_nnformer.sharing import dataset as datasets
from rectal_nnformer.sharing import export_dataset, import_dataset, inspect_file
from rectal_nnformer.sharing.cases import read_case, write_case

CASE = f"{DATA}/{CASES[1]}"
MASK = f"gt_segmentations/{CASES[0]}"


def as_sender(monkeypatch, base):
    """Write the dataset of a sender, who is logged in; return its folder."""
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setenv("LOGNAME", USER)
    return write_dataset(set_folders(monkeypatch, base))


@pytest.fixture
def home(tmp_path, monkeypatch):
    return as_sender(monkeypatch, tmp_path / "home_of_sender")


@pytest.fixture(scope="module")
def sender(tmp_path_factory):
    """Folder of a dataset and a bundle of it, which no test may change."""
    base = tmp_path_factory.mktemp("sender")
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = as_sender(monkeypatch, base)
        return folder, export_dataset(501, base / "sent.zip")


@pytest.fixture
def bundle(sender, tmp_path, monkeypatch):
    """The bundle, with nnU-Net's folders those of somebody else."""
    set_folders(monkeypatch, tmp_path / "away")
    return sender[1]


def everything(bundle):
    """Return all bytes of a bundle, packed and unpacked, names included."""
    files, manifest = contents(bundle)
    return b"\n".join([bundle.read_bytes(), json.dumps(manifest).encode(), *map(str.encode, files), *files.values()])


def traces(home):
    return {USER, HOST, HOST.partition(".")[0], str(home), str(home.parents[1]), "/tmp/", *SECRETS}


def refused(path, tmp_path, message):
    """Importing `path` must fail with `message` and leave nothing."""
    before = all_files(tmp_path / "away")
    with pytest.raises(RectalError, match=message):
        import_dataset(path)
    assert all_files(tmp_path / "away") == before


def same_case(one, other, case, new_name=None):
    for ending in ("", "_seg"):
        ours = blosc2.open(str(one / DATA / f"{case}{ending}.b2nd"))
        theirs = blosc2.open(str(other / DATA / f"{new_name or case}{ending}.b2nd"))
        assert ours.dtype == theirs.dtype and ours.chunks == theirs.chunks and ours.blocks == theirs.blocks
        assert np.array_equal(ours[:], theirs[:])


def test_a_dataset_arrives_as_it_was(sender, bundle, tmp_path):
    home, folder = sender[0], import_dataset(bundle)
    assert folder == tmp_path / "away/nnUNet_preprocessed" / NAME
    for case in CASES:
        same_case(home, folder, case)
        ours, theirs = (pickle.loads((place / DATA / f"{case}.pkl").read_bytes()) for place in (home, folder))
        assert np.array_equal(ours["class_locations"][1], theirs["class_locations"][1])
        assert theirs["class_locations"][1].dtype == ours["class_locations"][1].dtype
        assert theirs["class_locations"][(1, 2)] == []
        assert theirs.keys() == ours.keys() - {"patient_name"}
        for key in theirs.keys() - {"class_locations"}:
            assert theirs[key] == ours[key] and type(theirs[key]) is type(ours[key])
        images = [sitk.ReadImage(str(place / "gt_segmentations" / f"{case}.nii.gz")) for place in (home, folder)]
        assert np.array_equal(*map(sitk.GetArrayFromImage, images))
        assert images[0].GetSpacing() == images[1].GetSpacing() and images[0].GetDirection() == images[1].GetDirection()
        assert images[0].GetOrigin() == images[1].GetOrigin() and images[0].GetPixelID() == images[1].GetPixelID()
    splits = [json.loads((place / "splits_final.json").read_text()) for place in (home, folder)]
    assert splits[0] == splits[1]
    assert not [path for path in all_files(folder) if path.startswith(".")]


@pytest.mark.parametrize("num_bytes", [0, 2_000, 50_000, 54_000])
def test_an_import_that_does_not_fit_is_named_and_leaves_nothing(bundle, tmp_path, capsys, num_bytes):
    with largest_file(num_bytes), pytest.raises(SystemExit) as ended:
        cli.main(["import_dataset", str(bundle)])
    preprocessed = tmp_path / "away/nnUNet_preprocessed"
    assert ended.value.code == 2 and str(preprocessed / NAME) in capsys.readouterr().err
    assert not list(preprocessed.iterdir())


def test_a_case_that_does_not_fit_is_named(sender, tmp_path):
    arrays, properties, _ = read_case(sender[0] / CASE)
    with largest_file(1000), pytest.raises(RectalError, match=r"/case could not be written \(.*MB left"):
        write_case(tmp_path / "case", arrays, properties, None)


def test_grids_of_nibabel_arrive(home, tmp_path, monkeypatch):
    path = home / DATA / f"{CASES[0]}.pkl"
    content = pickle.loads(path.read_bytes())
    del content["sitk_stuff"]
    content["nibabel_stuff"] = {"original_affine": np.eye(4) * 1.5, "reoriented_affine": np.eye(4)}
    path.write_bytes(pickle.dumps(content))
    sent = export_dataset(501, tmp_path / "sent.zip")
    set_folders(monkeypatch, tmp_path / "away")
    arrived = pickle.loads((import_dataset(sent) / DATA / f"{CASES[0]}.pkl").read_bytes())["nibabel_stuff"]
    assert np.array_equal(arrived["original_affine"], np.eye(4) * 1.5)


def test_the_manifest_lists_every_file(bundle):
    files, manifest = contents(bundle)
    assert manifest["files"].keys() == files.keys()
    assert all(entry.keys() == {"sha256", "size"} for entry in manifest["files"].values())
    assert not {"patients.csv", f"{DATA}_source.json", "notes.txt"} & files.keys()
    assert {"rectal_fingerprint.json", "dataset_fingerprint.json", f"{PLANS}.json"} < files.keys()
    assert {path.rpartition(".")[2] for path in files} == {"json", "safetensors"}
    assert list(manifest["removed"]) == sorted(manifest["removed"])  # so that equal bundles are equal bytes


def test_nothing_of_sender_or_patients_is_in_the_bytes(sender):
    content = everything(sender[1])
    assert [text for text in traces(sender[0]) if text.encode() in content] == []
    assert all(case.encode() in content for case in CASES)


def test_pseudonyms_are_everywhere_and_their_key_stays(home, tmp_path, monkeypatch):
    sent = export_dataset(501, tmp_path / "sent.zip", pseudonymize=True)
    content = everything(sent)
    assert [text for text in traces(home) | set(CASES) if text.encode() in content] == []
    key = dict(list(csv.reader((home / "pseudonyms.csv").open()))[1:])
    assert set(key) == set(CASES)
    assert (home / "pseudonyms.csv").stat().st_mode & 0o077 == 0
    assert export_dataset(501, tmp_path / "again.zip", pseudonymize=True).read_bytes() == sent.read_bytes()
    set_folders(monkeypatch, tmp_path / "away")
    folder = import_dataset(sent)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert [fold["val"] for fold in splits] == [[key[case]] for case in CASES]
    fingerprint = json.loads((folder / "rectal_fingerprint.json").read_text())
    assert set(fingerprint["cases"]) == set(key.values())
    assert fingerprint["outliers"][0]["reason"] == f"mask of {key[CASES[0]]} equals that of {key[CASES[-1]]}"
    for case in CASES:
        same_case(home, folder, case, key[case])


def test_a_key_that_gives_two_cases_one_pseudonym_is_refused(home, tmp_path):
    export_dataset(501, tmp_path / "sent.zip", pseudonymize=True)
    rows = (home / "pseudonyms.csv").read_text().splitlines()
    same = f"{rows[2].partition(',')[0]},{rows[1].partition(',')[2]}"
    (home / "pseudonyms.csv").write_text("\n".join([*rows[:2], same, *rows[3:]]) + "\n")
    with pytest.raises(RectalError, match="is not the key file that this program wrote"):
        export_dataset(501, tmp_path / "again.zip", pseudonymize=True)
    assert not (tmp_path / "again.zip").exists()


def test_numbers_as_case_names_are_told_from_other_numbers(tmp_path, monkeypatch):
    preprocessed = set_folders(monkeypatch, tmp_path / "home_of_sender")
    home = write_dataset(preprocessed, ("005", "100", "250"), size=(8, 8, 8))
    fingerprint = {"volume": {"0": 1.0, "100": 2.0, "250": 3.0, "9": 4.0}, "cases": {"100": 1, "250": 2}}
    (home / "rectal_fingerprint.json").write_text(json.dumps(fingerprint))
    files, _ = contents(export_dataset(501, tmp_path / "sent.zip", pseudonymize=True))
    key = dict(list(csv.reader((home / "pseudonyms.csv").open()))[1:])
    sent = json.loads(files["rectal_fingerprint.json"])
    assert sent["volume"] == fingerprint["volume"]
    assert sent["cases"] == {key["100"]: 1, key["250"]: 2}


def test_bundles_do_not_depend_on_when_and_where_they_are_written(home, sender, tmp_path, monkeypatch):
    for path in home.rglob("*"):
        path.touch()
    monkeypatch.setenv("USER", "somebody_else")
    assert export_dataset(501, tmp_path / "other/two.zip").read_bytes() == sender[1].read_bytes()


def test_records_of_cases_that_stay_do_not_travel(home, tmp_path):
    splits = [{"train": list(CASES[1:3]), "val": [CASES[3]]}]
    (home / "splits_final.json").write_text(json.dumps(splits))
    files, _ = contents(export_dataset(501, tmp_path / "sent.zip", folds=[0]))
    fingerprint = json.loads(files["rectal_fingerprint.json"])
    assert fingerprint["outliers"] == [] and set(fingerprint["cases"]) == set(CASES[1:4])
    assert "mask_digest" not in json.dumps(fingerprint)


def test_a_failed_export_leaves_the_file_that_was_there(home, tmp_path):
    (tmp_path / "sent.zip").write_bytes(b"the one of last week")
    (home / DATA / f"{CASES[0]}.pkl").unlink()
    with pytest.raises(RectalError, match=CASES[0]):
        export_dataset(501, tmp_path / "sent.zip")
    assert (tmp_path / "sent.zip").read_bytes() == b"the one of last week"
    assert [path for path in all_files(tmp_path) if not path.startswith("home")] == ["sent.zip"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(RectalError, match="is a folder"):
        export_dataset(501, tmp_path / "folder")


def test_chosen_folds_keep_their_numbers(home, tmp_path, monkeypatch):
    splits = json.loads((home / "splits_final.json").read_text())
    splits[1] = {"train": [CASES[0], CASES[2]], "val": [CASES[1]]}
    (home / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(RectalError, match="has no fold 7"):
        export_dataset(501, tmp_path / "sent.zip", folds=[7])
    sent = export_dataset(501, tmp_path / "sent.zip", folds=[1])
    content = everything(sent)
    assert CASES[3].encode() not in content and CASES[4].encode() not in content
    set_folders(monkeypatch, tmp_path / "away")
    arrived = json.loads((import_dataset(sent) / "splits_final.json").read_text())
    assert arrived[1] == splits[1]
    assert all(fold == {"train": [], "val": []} for number, fold in enumerate(arrived) if number != 1)


def test_ground_truth_can_stay(home, tmp_path, monkeypatch):
    sent = export_dataset(501, tmp_path / "sent.zip", with_ground_truth=False)
    set_folders(monkeypatch, tmp_path / "away")
    assert not (import_dataset(sent) / "gt_segmentations").exists()


def test_metadata_in_arrays_are_left_behind(home, tmp_path):
    array = blosc2.open(str(home / DATA / f"{CASES[0]}.b2nd"), mode="a")
    array.schunk.vlmeta["note"] = "Dr. Mueller"
    sent = export_dataset(501, tmp_path / "sent.zip")
    assert b"Mueller" not in everything(sent)
    assert np.array_equal(load(contents(sent)[0][f"{DATA}/{CASES[0]}.safetensors"])["data"], array[:])


def test_own_pickles_that_run_code_are_not_run(home, tmp_path):
    (home / DATA / f"{CASES[0]}.pkl").write_bytes(evil_pickle(tmp_path / "executed"))
    with pytest.raises(RectalError, match="which opening it would import and could run"):
        export_dataset(501, tmp_path / "sent.zip")
    assert not (tmp_path / "executed").exists()


def test_a_dataset_that_is_there_is_not_replaced(bundle, tmp_path):
    (tmp_path / "away/nnUNet_preprocessed" / NAME).mkdir()
    refused(bundle, tmp_path, f"{NAME} exists")


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_id_of_another_dataset_is_refused(bundle, tmp_path, variable):
    (tmp_path / "away" / variable / "Dataset501_Other").mkdir()
    refused(bundle, tmp_path, "Dataset501_Other")


def test_a_bundle_that_does_not_fit_on_the_disk_is_refused(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    refused(bundle, tmp_path, "has room for 1000")


def test_interruption_leaves_nothing(bundle, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "write_reference", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(bundle)
    assert [path for path in all_files(tmp_path / "away") if "/" in path] == []


@pytest.mark.parametrize("part", range(6))
def test_a_flipped_byte_is_found_and_nothing_is_left(bundle, tmp_path, part):
    content = bytearray(bundle.read_bytes())
    content[part * len(content) // 7 + 1000] ^= 0x20
    (tmp_path / "flipped.zip").write_bytes(content)
    refused(tmp_path / "flipped.zip", tmp_path, "cannot be read|differs")


SIZE = (20, 24, 28)


def properties(**changes):
    """The JSON of a case's properties, with other or without some of them."""
    content = {
        "spacing": [1.0, 1.0, 1.0],
        "shape_before_cropping": SIZE,
        "bbox_used_for_cropping": [[0, n] for n in SIZE],
        "shape_after_cropping_and_before_resampling": SIZE,
    }
    return json.dumps({key: value for key, value in {**content, **changes}.items() if value is not None}).encode()


def cropped(*box, **changes):
    """Properties of a case that was cropped to a box of other than the whole volume."""
    sizes = tuple(high - low for low, high in box)
    return properties(
        bbox_used_for_cropping=[*map(list, box)], shape_after_cropping_and_before_resampling=sizes, **changes
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (properties(note="Dr. Mueller"), "note"),
        (properties(class_locations={"1": [[0, 1, 2, 99]]}), "class_locations"),
        (properties(spacing=[1.0, "x"]), "spacing"),
        (properties(spacing=[1.0, 1.0, -1.0]), "spacing"),
        (properties(spacing=[1.0, 1.0, 10**400]), "spacing|JSON"),
        (properties(spacing=[1.0, 1.0]), "spacing"),
        (properties(spacing=[True, 1.0, 1.0]), "spacing"),
        (properties(spacing=[1.0, 1.0, 1.1]), "do not become"),
        (properties(spacing=[1.0, 1.0, 1e308]), "spacing"),
        (properties(spacing=[1.0, 1.0, 9e5]), "do not become"),
        (properties(shape_before_cropping=None), "shape_before_cropping"),
        (properties(shape_before_cropping=(20, 24, -28)), "shape_before_cropping"),
        (properties(shape_before_cropping=(20, 24)), "shape_before_cropping"),
        (properties(shape_before_cropping=(20, 24, 28, 1)), "shape_before_cropping"),
        (properties(shape_before_cropping=(20, 24, 28.5)), "shape_before_cropping"),
        (properties(shape_before_cropping=(20, 24, 10**12)), "shape_before_cropping"),
        (properties(shape_before_cropping=(60_000, 60_000, 60_000)), "shape_before_cropping"),
        (properties(shape_before_cropping=(20, 24, 27)), "does not lie within"),
        (properties(bbox_used_for_cropping=None), "bbox_used_for_cropping"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [0]]), "bbox_used_for_cropping"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [-1, 27]]), "does not lie within"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [28, 28]]), "does not lie within"),
        (properties(bbox_used_for_cropping=[[0, 20], [0, 24], [1, 28]]), "is not of the size"),
        (cropped((0, 20), (0, 24), (1, 28)), "do not become"),
        (cropped((0, 20), (0, 24), (0, 30), shape_before_cropping=(20, 24, 30)), "do not become"),
        (properties(sitk_stuff={"spacing": (1.0,) * 3, "origin": (0.0,) * 3, "direction": (1.0,) * 4}), "of no image"),
        (properties(sitk_stuff={"spacing": (0.0,) * 3}), "spacing"),
        (b"no JSON", "JSON"),
    ],
)
def test_properties_of_other_content_are_refused(bundle, tmp_path, content, message):
    refused(repacked(bundle, tmp_path / "evil.zip", {f"{CASE}.json": content}), tmp_path, message)


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
    files = changed_plans(bundle, lambda plans: plans["configurations"]["3d_fullres"].update(settings))
    import_dataset(repacked(bundle, tmp_path / "other.zip", files | {f"{CASE}.json": content}))


def test_the_order_of_axes_is_that_of_the_plans(bundle, tmp_path):
    files = changed_plans(bundle, lambda plans: plans.update(transpose_forward=[2, 0, 1]))
    turned = cropped((0, 20), (0, 24), (0, 14), spacing=[1.0, 2.0, 1.0])
    import_dataset(repacked(bundle, tmp_path / "other.zip", files | {f"{CASE}.json": turned}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape_before_cropping": (20, 24, 27)}, f"{CASES[1]}.pkl cannot be used"),
        ({"spacing": [1.0, 1.0, 2.0]}, f"{CASES[1]} cannot be of .* move the folder {DATA} away"),
        ({"spacing": "text"}, f"{CASES[1]}.pkl cannot be used"),
        ({"class_locations": {1: np.array([[0, 1, 2, 99]])}}, "outside of its volume"),
        ({"class_locations": None}, "does not hold a case's properties"),
    ],
)
def test_properties_that_do_not_fit_are_not_sent(home, tmp_path, changes, message):
    path = home / DATA / f"{CASES[1]}.pkl"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), **changes}))
    with pytest.raises(RectalError, match=message):
        export_dataset(501, tmp_path / "sent.zip")


def changed_plans(bundle, change):
    plans = json.loads(contents(bundle)[0][f"{PLANS}.json"])
    change(plans)
    return {f"{PLANS}.json": json.dumps(plans).encode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["configurations"]["3d_fullres"].update(data_identifier="../../evil"), "data_identifier"),
        (lambda p: p["configurations"]["3d_fullres"].update(data_identifier="/tmp"), "data_identifier"),
        (lambda p: p["configurations"]["3d_fullres"].update(data_identifier="nul"), "data_identifier"),
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
        (lambda p: p["configurations"]["3d_fullres"].update(evil=1), "evil"),
        (lambda p: p["configurations"].update({"../x": {}}), "configurations"),
        (lambda p: p.update(transpose_forward=[0, 1, 1]), "transpose_forward"),
        (lambda p: p.update(dataset_name="../x"), "dataset_name"),
        (lambda p: p.update(dataset_name="Dataset502_Other"), "dataset_name"),
        (lambda p: p.update(plans_name="../x"), "plans_name"),
        (lambda p: p.update(evil="key"), "evil"),
    ],
)
def test_plans_that_lead_elsewhere_are_refused(bundle, tmp_path, change, message):
    refused(repacked(bundle, tmp_path / "evil.zip", changed_plans(bundle, change)), tmp_path, message)


def test_plans_inherit_in_circles_without_end_neither_here_nor_there(bundle, tmp_path):
    circle = {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}
    files = changed_plans(bundle, lambda plans: plans["configurations"].update(circle))
    import_dataset(repacked(bundle, tmp_path / "circle.zip", files))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer.py", b"import os", "does not belong"),
        ("report.html", b"<script>run</script>", "does not belong"),
        (f"{DATA}/evil.pkl", evil_pickle("executed"), "lacks or has too much"),
        ("gt_segmentations/deep/case.json", b"{}", "is in no plans"),
        ("other/case.json", b"{}", "is in no plans"),
        (f"{DATA}/extra.json", properties(), "lacks or has too much"),
        (f"{DATA}/{CASES[0]}_seg.json", properties(), "lacks or has too much"),
        ("dataset.json", b"[" * 100_000, "recursion|JSON"),
        ("dataset.json", b'{"labels": {}, "labels": {}}', "twice"),
        ("dataset_fingerprint.json", b'{"spacings": [NaN]}', "NaN"),
        ("dataset_fingerprint.json", b'{"host": "Dr. Mueller"}', "host"),
        ("rectal_fingerprint.json", b"[1]", "rectal_fingerprint"),
        ("splits_final.json", b'[{"train": ["unknown"], "val": []}]', "unknown"),
        ("splits_final.json", b'[{"train": [], "val": [], "test": []}]', "test"),
        ("dataset.json", b'{"labels": {"a": 1}, "file_ending": "/../../x"}', "file_ending"),
        ("dataset.json", b'{"labels": {"a": -1}, "file_ending": ".nii.gz"}', "labels"),
    ],
)
def test_files_of_other_content_are_refused(bundle, tmp_path, name, content, message):
    refused(repacked(bundle, tmp_path / "evil.zip", {name: content}), tmp_path, message)


def arrays(**changes):
    content = {
        "data": np.zeros((1, *SIZE), np.float32),
        "seg": np.zeros((1, *SIZE), np.int8),
        "class_locations.1": np.zeros((1, 4), np.int64),
    }
    return save({key: value for key, value in {**content, **changes}.items() if value is not None})


HEADER = b'{"data":{"dtype":"F32","shape":[1,99999,99999,99999],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (arrays(data=None), "types|shapes"),
        (arrays(seg=np.zeros((1, 20, 24, 27), np.int8)), "shapes"),
        (arrays(data=np.zeros((1, 20, 24, 27), np.float32)), "shapes|become"),
        (arrays(data=np.zeros((20, 24, 28), np.float32)), "shapes"),
        (arrays(data=np.zeros((1, *SIZE), np.int16)), "types"),
        (arrays(seg=np.zeros((1, *SIZE), np.float32)), "types"),
        (arrays(data=np.zeros((1, 0, 24, 28), np.float32), seg=np.zeros((1, 0, 24, 28), np.int8)), "shapes"),
        (arrays(**{"class_locations.1": np.array([[0, 1, 2, 99]])}), "outside of its volume"),
        (arrays(**{"class_locations.1": np.array([[0, -1, 2, 3]])}), "outside of its volume"),
        (arrays(**{"class_locations.1": np.zeros((3, 3), int)}), "no list of voxels"),
        (arrays(**{"class_locations.x": np.zeros((1, 4), int)}), "no list of voxels"),
        (arrays(evil=np.zeros(3)), "no list of voxels"),
        (b"no arrays", "cannot be read as safetensors"),
        (b"", "cannot be read as safetensors"),
        (len(HEADER).to_bytes(8, "little") + HEADER + b"\0" * 4, "cannot be read as safetensors"),
        (arrays()[:-1], "cannot be read as safetensors"),
        (arrays() + b"\0", "cannot be read as safetensors"),
        (b"\xff" * 8 + arrays()[8:], "cannot be read as safetensors"),
        (evil_pickle("executed"), "cannot be read as safetensors"),
    ],
)
def test_arrays_of_other_content_are_refused(bundle, tmp_path, content, message):
    refused(repacked(bundle, tmp_path / "evil.zip", {f"{CASE}.safetensors": content}), tmp_path, message)


GRID = {"spacing": [1.0, 1.0, 1.0], "origin": [0.0, 0.0, 0.0], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}


@pytest.mark.parametrize(
    ("grid", "mask", "message"),
    [
        ({"spacing": [1.0, 1.0]}, None, "grid of no image"),
        ({"direction": [0] * 9}, None, "cannot be written"),
        ({"note": "Dr. Mueller"}, None, "note"),
        ({"spacing": [1.0, 1.0, 0.0]}, None, "spacing"),
        ({}, np.zeros((2, 2), np.uint8), "no mask of three axes"),
        ({}, np.zeros((2, 2, 2), bool), "no mask of three axes"),
        ({}, np.zeros((2, 0, 2), np.uint8), "no mask of three axes"),
    ],
)
def test_masks_of_other_content_are_refused(bundle, tmp_path, grid, mask, message):
    changes = {f"{MASK}.json": json.dumps({**GRID, **grid}).encode()}
    if mask is not None:
        changes[f"{MASK}.safetensors"] = save({"mask": mask})
    refused(repacked(bundle, tmp_path / "evil.zip", changes), tmp_path, message)


def test_masks_of_a_format_that_cannot_be_written_are_refused(bundle, tmp_path):
    dataset = json.loads(contents(bundle)[0]["dataset.json"]) | {"file_ending": ".exe"}
    evil = repacked(bundle, tmp_path / "evil.zip", {"dataset.json": json.dumps(dataset).encode()})
    refused(evil, tmp_path, "could not be written whole.*Unable to determine ImageIO writer")


def test_huge_texts_are_not_read(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_BYTES", 100_000)
    evil = repacked(bundle, tmp_path / "evil.zip", {"dataset_fingerprint.json": b" " * 100_001})
    refused(evil, tmp_path, "dataset_fingerprint.json has more than the 100000 bytes")
    many = {f"plans_{number}.json": b" " * 90_000 for number in range(30)}
    refused(repacked(bundle, tmp_path / "many.zip", many), tmp_path, "plans of the bundle have more than")


def test_missing_files_are_noticed(bundle, tmp_path):
    gone = repacked(bundle, tmp_path / "evil.zip", {f"{DATA}/{CASES[0]}.safetensors": None})
    refused(gone, tmp_path, "lacks or has too much")
    refused(
        repacked(bundle, tmp_path / "evil2.zip", {"dataset_fingerprint.json": None}),
        tmp_path,
        "has no dataset_fingerprint.json",
    )
    no_data = {name: None for name in contents(bundle)[0] if name.startswith(DATA)}
    refused(repacked(bundle, tmp_path / "evil3.zip", no_data), tmp_path, "no preprocessed data")


def test_inspecting_tells_the_manifest_in_words(home, tmp_path):
    (home / "a name that tells something").write_text("Dr. Mueller")
    for name in ("imagesTr", "a second one"):
        (home / name).mkdir()
    lines = inspect_file(export_dataset(501, tmp_path / "sent.zip")).splitlines()
    assert {f"dataset: {NAME}", "cases: 5", f"plans: {PLANS}", "folds: all", "ground truth: yes"} <= set(lines)
    assert "pseudonymised: no" in lines and not any("{" in line or "None" in line for line in lines)
    (software,) = [line for line in lines if line.startswith("software: ")]
    assert re.match(r"software: rectal_nnformer [\d.]+, nnunetv2 [\d.]+, torch [\d.]+", software)
    removed = lines[lines.index("left out by the sender:") + 1 :]
    # Three above and notes.txt; their names could tell something.
    assert {"  patients.csv", "  records of raw files", "  files and folders of other names (4 times)"} <= set(removed)
    assert any(re.fullmatch(rf"  {DATA}: [\d.]+ KB in 10 files", line) for line in removed)
    sent = export_dataset(501, tmp_path / "sent.zip", folds=[0, 3], pseudonymize=True, with_ground_truth=False)
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

    cli.main(["import_dataset", str(repacked(bundle, tmp_path / "sent.zip", changed_plans(bundle, change)))])
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == f"  rectal_nnformer train {NAME} 3d_fullres FOLD -p {PLANS} -tr {trainer}"
    assert (trainers_folder() / f"{trainer.partition('_')[0]}.py").read_text().count(
        f"class {trainer.split()[0]}("
    ) == 1


def test_stock_plans_are_trained_by_nnunet_alone(bundle, tmp_path, capsys):
    def change(plans):
        plans["configurations"]["3d_fullres"].pop("architecture")

    stock = changed_plans(bundle, change)[f"{PLANS}.json"]
    sent = repacked(bundle, tmp_path / "sent.zip", {f"{PLANS}.json": None, "a $(name).json": stock})
    cli.main(["import_dataset", str(sent)])
    assert capsys.readouterr().out.endswith(f"\n  nnUNetv2_train {NAME} 3d_fullres FOLD -p 'a $(name)'\n")


def test_the_commands(home, tmp_path, monkeypatch, capsys):
    sent = tmp_path / "sent.zip"
    options = ["--pseudonymize", "--without-ground-truth", "-f", "0"]
    cli.main(["export_dataset", "-d", "501", "-o", str(sent), *options])
    digests = re.findall(r"SHA-256 of sent.zip: ([0-9a-f]{64})", capsys.readouterr().out)
    cli.main(["inspect", str(sent)])
    told = capsys.readouterr().out
    assert len(digests) == 1 and digests[0] in told and "every file is as it was written" in told
    set_folders(monkeypatch, tmp_path / "away")
    cli.main(["import_dataset", str(sent)])
    told = capsys.readouterr().out
    assert PLANS in told and f"SHA-256 of sent.zip: {digests[0]}\n" in told
    with pytest.raises(SystemExit) as error:
        cli.main(["import_dataset", str(sent)])
    assert error.value.code == 2


DAMAGED_LABELS = "lists voxels of other labels, so that its segmentation is damaged"


def test_labels_that_are_not_where_the_properties_say_are_not_sent(home, tmp_path):
    path = home / DATA / f"{CASES[1]}_seg.b2nd"
    labels = blosc2.open(str(path))[:]
    path.unlink()
    blosc2.asarray(np.zeros_like(labels), urlpath=str(path))
    with pytest.raises(RectalError, match=DAMAGED_LABELS):
        export_dataset(501, tmp_path / "damaged.zip")
    assert not (tmp_path / "damaged.zip").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (arrays(), DAMAGED_LABELS),
        (arrays(data=np.full((1, *SIZE), np.inf, np.float32), seg=np.ones((1, *SIZE), np.int8)), "not finite"),
    ],
)
def test_damaged_arrays_of_a_bundle_do_not_arrive(bundle, tmp_path, content, message):
    refused(repacked(bundle, tmp_path / "evil.zip", {f"{CASE}.safetensors": content}), tmp_path, message)
