"""Test cohorts, cases added to a dataset, labels of a dataset.json, and dry runs."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conversion_inputs import as_image, every_byte_of, scan, tumor, write_cohort, write_series
from hypothesis import given
from hypothesis import strategies as st

from rectal_nnformer.cli import main
from rectal_nnformer.dataset_conversion import raw_dataset
from rectal_nnformer.dataset_conversion.dicom import convert_dicom
from rectal_nnformer.dataset_conversion.labels import parse_labels
from rectal_nnformer.dataset_conversion.nifti import convert_nifti
from rectal_nnformer.dataset_conversion.patient_folds import extend_folds, make_folds
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import PreprocessedDataset
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.nnunet.splits import Fold, check_folds_of, read_splits, settle_folds
from rectal_nnformer.utils import files

DATASET = "Dataset501_Rectal"


@pytest.fixture(autouse=True)
def no_contact_sheet(monkeypatch):
    monkeypatch.setattr(raw_dataset, "draw_contact_sheet", lambda *_: None)


def convert(folder, places, name="Rectal", **options):
    return convert_nifti(*places, 501, name, raw=folder / "raw", **options)


def add(folder, places, **options):
    return convert(folder, places, None, **options)


def more(folder, *names, seed=100):
    """Write further cases; return the folders of their images and masks."""
    images, masks = folder / "more/images", folder / "more/masks"
    for place in (images, masks):
        place.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        sitk.WriteImage(scan(seed + number), str(images / f"{name}.nii.gz"))
        sitk.WriteImage(tumor(), str(masks / f"{name}.nii.gz"))
    return images, masks


def refusal(folder, convert, *arguments, **options):
    """Return the message of a conversion that is refused, and changes nothing."""
    before = every_byte_of(folder)
    with pytest.raises(RectalError) as caught:
        convert(folder, *arguments, **options)
    assert every_byte_of(folder) == before
    return str(caught.value)


def validated(folder):
    return [set(fold.val) for fold in read_splits(folder / "splits_final.json")]


def patients_csv(folder, **patients):
    path = folder / "p.csv"
    path.write_text("case,patient\n" + "".join(f"{case},{patient}\n" for case, patient in patients.items()))
    return path


# Test cohorts


def test_one_case_makes_a_test_cohort_that_evaluate_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    images, masks = write_cohort(tmp_path, count=1)
    again = more(tmp_path, "again")
    for source, target in zip(again, (images, masks), strict=True):
        shutil.copy(source / "again.nii.gz", target)
    table = patients_csv(tmp_path, case_a="Jane", again="Jane")
    options = ["--images", str(images), "--masks", str(masks), "-np", "1", "--patients", str(table)]
    main(["convert", "nifti", *options, "-d", "502", "--name", "External", "--test"])
    folder = tmp_path / "raw/Dataset502_External"
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.json", "imagesTs", "labelsTs", "patients.csv"]
    assert sorted(p.name for p in (folder / "labelsTs").iterdir()) == ["again.nii.gz", "case_a.nii.gz"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 0
    assert "2 cases with masks in imagesTs and labelsTs" in capsys.readouterr().out
    predicted = tmp_path / "predicted"
    shutil.copytree(masks, predicted)
    shutil.copy(folder / "dataset.json", predicted)  # as nnU-Net's prediction leaves one
    main(["evaluate", "--gt", str(folder / "labelsTs"), "--pred", str(predicted), "-np", "1"])
    result = json.loads((predicted / "lesion_detection.json").read_text())
    assert [case["patient"] for case in result["cases"]] == ["patient_001", "patient_001"]
    assert "2 of 2" in capsys.readouterr().out


def test_fewer_cases_than_folds_are_told_which_options_need_none(tmp_path):
    places = write_cohort(tmp_path, count=2)
    message = refusal(tmp_path, convert, places)
    for option in ("--test", "--add", "without masks"):
        assert option in message


@pytest.mark.parametrize(
    ("masks", "options", "reason"),
    [(False, {}, "--test concern masks"), (True, {"split_by_case": True}, "concern the folds")],
)
def test_options_that_do_not_go_with_a_test_cohort_are_refused(tmp_path, masks, options, reason):
    images, mask_folder = write_cohort(tmp_path, count=1)
    assert reason in refusal(tmp_path, convert, (images, mask_folder if masks else None), test=True, **options)


# Cases that are added


def test_added_cases_leave_the_others_as_they_were(tmp_path, capsys):
    folder = convert(tmp_path, write_cohort(tmp_path))
    (folder / "imagesTs").mkdir()
    (folder / "imagesTs/notes.txt").write_text("of the user")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("case_*")}
    folds, patients = validated(folder), read_patients(folder)
    assert add(tmp_path, more(tmp_path, "new_a", "new_b")) == folder
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("case_*")} == before
    assert (folder / "imagesTs/notes.txt").read_text() == "of the user"
    assert [old <= new for old, new in zip(folds, validated(folder), strict=True)] == [True] * 5
    assert sorted(map(len, validated(folder))) == [1, 1, 2, 2, 2]
    assert read_patients(folder) == {**patients, "new_a": "patient_007", "new_b": "patient_008"}
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["numTraining"], content["name"]) == (8, DATASET)
    for fold in read_splits(folder / "splits_final.json"):
        assert len(fold.train) + len(fold.val) == 8
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [DATASET]
    assert "plan_and_preprocess' runs again" in capsys.readouterr().out


def test_cases_that_are_there_already_are_known_by_their_voxels(tmp_path, capsys):
    images, masks = write_cohort(tmp_path)
    folder = convert(tmp_path, (images, masks))
    before = every_byte_of(folder)
    assert add(tmp_path, (images, masks)) == folder
    assert every_byte_of(folder) == before
    assert "Nothing was written" in capsys.readouterr().out
    (images / "case_a_0000.nii.gz").rename(images / "renamed_0000.nii.gz")
    (masks / "case_a.nii.gz").unlink()
    for source, target in zip(more(tmp_path, "new_a"), (images, masks), strict=True):
        shutil.copy(source / "new_a.nii.gz", target)
    add(tmp_path, (images, masks))
    names = sorted(path.name for path in (folder / "labelsTr").iterdir())
    assert names == [*(f"case_{c}.nii.gz" for c in "abcdef"), "new_a.nii.gz"]
    sitk.WriteImage(scan(9), str(images / "case_b_0000.nii.gz"))
    message = refusal(tmp_path, add, (images, masks))
    assert "case_b: the dataset has a case of this name with other voxels; rename the new one" in message


def test_a_list_tells_which_patient_of_the_dataset_a_new_case_is_of(tmp_path):
    folder = convert(tmp_path, write_cohort(tmp_path))
    folds = validated(folder)
    places = more(tmp_path, "new_a", "new_b", "new_c")
    add(tmp_path, places, patients=patients_csv(tmp_path, case_c="Jo", new_a="Jo", new_b="patient_005", new_c="Al"))
    patients = read_patients(folder)
    assert [patients[name] for name in ("new_a", "new_b", "new_c")] == ["patient_003", "patient_005", "patient_007"]
    for old, new in zip(folds, validated(folder), strict=True):
        assert old <= new
        assert ("case_c" in old) == ("new_a" in new) and ("case_e" in old) == ("new_b" in new)
    assert b"Jo" not in every_byte_of(folder)


def write_scans(folder, numbers):
    """Write series t2_N of patient SECRET-(N modulo 6), with masks named by folder; return both folders."""
    (folder / "masks").mkdir(parents=True)
    for number in numbers:
        write_series(folder / f"dicom/t2_{number}", scan(number), f"1.2.{number}", patient=f"SECRET-{number % 6}")
        sitk.WriteImage(tumor(), str(folder / f"masks/t2_{number}.nii.gz"))
    return folder / "dicom", folder / "masks"


def test_patients_of_dicom_are_known_where_their_series_are_there_again_and_refused_where_not(tmp_path, capsys):
    def convert(folder, places, name=None, **options):
        return convert_dicom(*places, 501, name, raw=folder / "raw", **options)

    folder = convert(tmp_path, write_scans(tmp_path / "one", range(6)), "Rectal")
    folds = validated(folder)
    alone = write_scans(tmp_path / "two", [7, 12])
    message = refusal(tmp_path, convert, alone)
    assert f"{folder}: it holds no PatientID, so that new scans of its patients (6 cases) could get" in message
    assert "list with --patients" in message and "a folder that holds the series of its cases" in message
    both = write_scans(tmp_path / "three", [*range(6), 7, 12])
    (both[1] / "t2_0.nii.gz").unlink()  # the dataset has it
    convert(tmp_path, both)
    for old, new in zip(folds, validated(folder), strict=True):
        assert ("t2_1" in old) == ("t2_7" in new) and ("t2_0" in old) == ("t2_12" in new)
    assert b"SECRET" not in every_byte_of(folder)
    shutil.rmtree(folder)
    convert(tmp_path, (tmp_path / "one/dicom", tmp_path / "one/masks"), "Rectal")
    convert(tmp_path, alone, patients=patients_csv(tmp_path, t2_7="patient_002", t2_12="patient_001"))
    assert [read_patients(folder)[name] for name in ("t2_7", "t2_12")] == ["patient_002", "patient_001"]


def test_a_folder_name_that_a_case_has_already_gets_a_suffix(tmp_path):
    images, masks = write_scans(tmp_path / "one", range(6))
    folder = convert_dicom(images, masks, 501, "Rectal", raw=tmp_path / "raw")
    write_series(tmp_path / "two/t2_0", scan(50), "1.2.50", patient="SECRET-0")
    (tmp_path / "two/masks").mkdir()
    sitk.WriteImage(tumor(), str(tmp_path / "two/masks/t2_0.nii.gz"))
    name = f"t2_0_{hashlib.sha256(b'1.2.50').hexdigest()[:8]}"
    table = patients_csv(tmp_path, **{name: "patient_001"})
    convert_dicom(tmp_path / "two/t2_0", tmp_path / "two/masks", 501, None, raw=tmp_path / "raw", patients=table)
    assert (folder / f"labelsTr/{name}.nii.gz").is_file()
    (fold,) = [fold for fold in validated(folder) if name in fold]
    assert "t2_0" in fold


def _without_folds(folder):
    (folder / "splits_final.json").unlink()


def _of_another_format(folder):
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nrrd"}))


def _of_several_scans(folder):
    table = (folder / "patients.csv").read_text().replace("patient_002", "patient_001")
    (folder / "patients.csv").write_text(table)


@pytest.mark.parametrize(
    ("spoil", "options", "reason"),
    [
        (_without_folds, {}, "splits_final.json does not exist: --add keeps the folds in it"),
        (_of_another_format, {}, "names files of its own, or of the ending .nrrd"),
        (_of_several_scans, {}, "it holds no PatientID"),
        (shutil.rmtree, {}, "holds no Dataset501 to add cases to: correct -d, or give --name"),
        (lambda folder: None, {"test": True}, "leave --test and --dataset-json out"),
        (lambda folder: None, {"split_by_case": True}, "leave --split-by-case out"),
        (lambda folder: None, {"channels": ("T2",)}, "The channels are T2, but "),
        (lambda folder: None, {"labels": parse_labels(["gtv=1"])}, "no such label of one number, but tumor"),
    ],
)
def test_what_cannot_be_added_to_is_refused(tmp_path, spoil, options, reason):
    spoil(convert(tmp_path, write_cohort(tmp_path)))
    assert reason in refusal(tmp_path, add, more(tmp_path, "new_a"), **options)


def test_patients_that_contradict_the_dataset_are_refused(tmp_path):
    convert(tmp_path, write_cohort(tmp_path))
    table = patients_csv(tmp_path, case_a="Jo", case_b="Jo", new_a="Jo")
    message = refusal(tmp_path, add, more(tmp_path, "new_a"), patients=table)
    assert "case_b: of one patient with others now, and in " in message


def test_cases_of_a_dataset_by_case_are_added_by_case(tmp_path):
    table = patients_csv(tmp_path, **{f"case_{c}": "Jo" for c in "abcdef"})
    folder = convert(tmp_path, write_cohort(tmp_path), patients=table, split_by_case=True)
    add(tmp_path, more(tmp_path, "new_a", "new_b", "new_c", "new_d"))
    assert sorted(map(len, validated(folder))) == [2] * 5
    assert json.loads((folder / "dataset.json").read_text())["split_by_case"] is True


def test_two_processes_do_not_add_to_one_dataset(tmp_path):
    folder = convert(tmp_path, write_cohort(tmp_path))
    places = more(tmp_path, "new_a")
    holding = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    holding += "from pathlib import Path; from rectal_nnformer.nnunet.layout import claimed_id\n"
    holding += f"with claimed_id(Path({str(folder)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        assert "Another process is writing a Dataset501" in refusal(tmp_path, add, places)
        process.stdin.close()
    add(tmp_path, places)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_interruption_leaves_the_dataset_as_it_was(tmp_path, monkeypatch, can_exchange):
    folder = convert(tmp_path, write_cohort(tmp_path))
    before = every_byte_of(tmp_path / "raw")
    if not can_exchange:
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)

    def interrupt(*_):
        raise KeyboardInterrupt

    places = more(tmp_path, "new_a", "new_b")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(raw_dataset, "write_text", interrupt)
        add(tmp_path, places)
    assert every_byte_of(tmp_path / "raw") == before
    if not can_exchange:
        rename = files.Path.rename
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(files.Path, "rename", lambda p, t: interrupt() if "partial" in p.name else rename(p, t))
            add(tmp_path, places)
        assert every_byte_of(tmp_path / "raw") == before
    add(tmp_path, places)
    assert (folder / "labelsTr/new_b.nii.gz").is_file() and len(list((tmp_path / "raw").iterdir())) == 1


def test_preprocessed_folds_follow_when_the_dataset_is_planned_again(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / ("raw" if variable == "nnUNet_raw" else variable)))
    folder = convert_nifti(*write_cohort(tmp_path), 501, "Rectal")
    preprocessed = PreprocessedDataset(tmp_path / "nnUNet_preprocessed" / DATASET)
    shutil.copytree(folder, preprocessed.path, ignore=lambda *_: ["imagesTr", "labelsTr"])
    old = read_splits(preprocessed.splits)
    cases = {case for fold in old for case in fold.val}
    checkpoint = tmp_path / f"nnUNet_results/{DATASET}/T__P__3d_fullres/fold_2/checkpoint_latest.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    convert_nifti(*more(tmp_path, "new_a"), 501, None)
    (note,) = check_folds_of(preprocessed, cases)[1:]
    assert "cases that were added since: to train on them, run" in note
    assert read_splits(preprocessed.splits) == old
    notes = settle_folds(preprocessed, {*cases, "new_a"}, planning=True)
    (note,) = [note for note in notes if "lacked cases that were added; " in note]
    assert note.endswith("Trained on fewer cases: T__P__3d_fullres/fold_2.")
    assert read_splits(preprocessed.splits) == read_splits(folder / "splits_final.json")


@given(st.lists(st.integers(1, 4), min_size=5, max_size=20), st.lists(st.integers(0, 30), max_size=20))
def test_added_cases_stay_with_their_patient_and_old_ones_where_they_were(sizes, added):
    groups = {f"c{p:02d}_{i}": f"p{p}" for p, size in enumerate(sizes) for i in range(size)}
    folds = [Fold(tuple(f["train"]), tuple(f["val"])) for f in make_folds(groups)]
    both = {**groups, **{f"n{i:02d}": f"p{p}" for i, p in enumerate(added)}}
    longer = extend_folds(folds, both)
    for old, new in zip(folds, longer, strict=True):
        assert set(old.train) <= set(new["train"]) and set(old.val) <= set(new["val"])
        assert sorted(new["train"] + new["val"]) == sorted(both)
        assert not {both[c] for c in new["train"]} & {both[c] for c in new["val"]}
    assert sorted(case for fold in longer for case in fold["val"]) == sorted(both)


# Labels of a dataset.json


REGIONS = {
    "channel_names": {"0": "T2"},
    "labels": {"background": 0, "whole tumor": [1, 2], "core": 2, "ignore": 3},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
    "description": "of Jane Doe",
}


def write_described(folder, content, *values, count=5):
    """Write a dataset.json, and a cohort whose masks hold these values in slabs one above the other."""
    images, masks = write_cohort(folder, count=count)
    for path in masks.iterdir():
        array = np.zeros((9, 10, 12), np.uint8)
        for z, value in enumerate(values):
            array[z + 1, 2:8, 2:9] = value
        sitk.WriteImage(as_image(array), str(path))
    (folder / "dataset.json").write_text(json.dumps(content))
    return images, masks


def test_regions_and_the_ignore_label_are_kept(tmp_path):
    places = write_described(tmp_path, REGIONS, 1, 2, 3)
    folder = convert(tmp_path, places, dataset_json=tmp_path / "dataset.json")
    content = json.loads((folder / "dataset.json").read_text())
    for key in ("labels", "regions_class_order", "channel_names"):
        assert content[key] == REGIONS[key]
    assert "description" not in content
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr/case_a.nii.gz")))
    assert mask[:5, 5, 5].tolist() == [0, 1, 2, 3, 0]
    add(tmp_path, more(tmp_path, "new_a"))
    assert json.loads((folder / "dataset.json").read_text())["labels"] == REGIONS["labels"]


def test_values_get_the_numbers_that_a_dataset_json_gives_to_their_names(tmp_path):
    content = {**REGIONS, "labels": {"background": 0, "rectum": 1, "tumor": 2}}
    places = write_described(tmp_path, content, 7, 9)
    labels = parse_labels(["tumor=7", "rectum=9"])
    folder = convert(tmp_path, places, dataset_json=tmp_path / "dataset.json", labels=labels)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr/case_a.nii.gz")))
    assert mask[:4, 5, 5].tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize(
    ("content", "values", "labels", "reason"),
    [
        (REGIONS, (4,), [], "mask has foreign labels 4 (dataset.json has 0, 1, 2, 3, nothing else)"),
        (REGIONS, (3,), [], "mask has no tumour (no voxel is 1 or 2)"),
        (REGIONS, (1,), ["whole tumor=1"], "has no such label of one number, but core, ignore"),
        ({**REGIONS, "labels": {"background": 0, "tumor": 2}}, (2,), [], "needs 0, 1, 2 and so on without gaps"),
        ({"labels": {}}, (1,), [], "dataset.json cannot be used: it lacks file_ending"),
    ],
)
def test_masks_and_labels_that_do_not_fit_a_dataset_json_are_refused(tmp_path, content, values, labels, reason):
    places = write_described(tmp_path, content, *values)
    options = {"dataset_json": tmp_path / "dataset.json", "labels": parse_labels(labels)}
    assert reason in refusal(tmp_path, convert, places, **options)


# Dry runs


def test_a_dry_run_prints_what_would_be_made_of_what_and_writes_nothing(tmp_path, capsys):
    images, masks = write_cohort(tmp_path)
    before = every_byte_of(tmp_path)
    convert(tmp_path, (images, masks), dry_run=True)
    assert every_byte_of(tmp_path) == before
    output = capsys.readouterr().out
    assert ["case_b", "imagesTr", f"{images}/case_b_0000.nii.gz", f"{masks}/case_b.nii.gz"] in [
        line.split() for line in output.splitlines()
    ]
    assert "in folds of 2 + 1 + 1 + 1 + 1." in output and output.endswith("Nothing was written.\n")
    (masks / "case_b.nii.gz").unlink()
    message = refusal(tmp_path, convert, (images, masks), dry_run=True)
    assert "case_b: no mask case_b.nii.gz" in message
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert named == ["case", "case_a", "case_c", "case_d", "case_e", "case_f"]


def test_a_dry_run_of_added_cases_tells_those_that_are_there(tmp_path, capsys):
    images, masks = write_cohort(tmp_path)
    folder = convert(tmp_path, (images, masks))
    before = every_byte_of(folder)
    for source, target in zip(more(tmp_path, "new_a"), (images, masks), strict=True):
        shutil.copy(source / "new_a.nii.gz", target)
    capsys.readouterr()
    add(tmp_path, (images, masks), dry_run=True)
    assert every_byte_of(folder) == before
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["case_a", "there", "already", "as", "case_a"] in lines
    assert ["new_a", "imagesTr", f"{images}/new_a.nii.gz", f"{masks}/new_a.nii.gz"] in lines
