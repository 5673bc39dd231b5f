"""Folds are checked when planning, in train and in crossval; what did not come along from raw data is copied."""

import json
import os
import shutil

import numpy as np
import pytest
from small_datasets import set_folders, write_raw_dataset

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import PreprocessedDataset, RawDataset
from rectal_nnformer.nnunet.splits import (
    Fold,
    check_folds_of,
    inspect_folds,
    preprocessed_cases,
    read_splits,
    refuse_split,
    settle_folds,
)

NAME = "Dataset501_Rectal"
CASES = [f"case_{number}" for number in range(6)]
PATIENTS = {case: f"P{int(case[-1]) // 2}" for case in CASES}
BY_PATIENT = [
    {"train": CASES[2:], "val": CASES[:2]},
    {"train": CASES[:2] + CASES[4:], "val": CASES[2:4]},
    {"train": CASES[:4], "val": CASES[4:]},
]
LEAKING = [{"train": CASES[1:5], "val": [CASES[0], CASES[5]]}]


def findings(*folds, cases=CASES, patients=PATIENTS, **options):
    return inspect_folds([Fold(tuple(train), tuple(val)) for train, val in folds], cases, patients, **options)


def test_folds_by_patient_have_nothing_wrong():
    found = findings(*((fold["train"], fold["val"]) for fold in BY_PATIENT))
    assert (found.problems, found.notes) == ((), ())


@pytest.mark.parametrize(
    ("fold", "problem"),
    [
        ((CASES, CASES[:2]), "fold 0 has 2 cases in training and validation (case_0, case_1)"),
        (([*CASES[2:], "x"], CASES[:2]), "fold 0 names 1 case that are not there (x)"),
        (([], CASES[:2]), "fold 0 has no case in training"),
        ((CASES[1:], CASES[:1]), "fold 0 has 1 patient in training and validation (P0 with case_1 and case_0)"),
    ],
)
def test_what_folds_must_not_be(fold, problem):
    assert findings(fold).problems == (problem,)


def test_what_users_may_want_is_a_note():
    found = findings((CASES[2:], CASES[:2]), (CASES[2:], CASES[:2]))
    assert found.problems == ()
    assert found.notes == (
        "2 cases validated more than once (case_0, case_1)",
        "4 cases validated in no fold (case_2, case_3, case_4, case_5)",
    )


def test_folds_that_are_meant_to_part_patients_are_a_note():
    found = findings((CASES[1:5], [CASES[0], CASES[5]]), by_case=True, cases=None)
    assert found.problems == () and "2 patients in training and validation" in found.notes[0]


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b"null",
        b"[1]",
        b'[{"train": ["a"]}]',
        b'[{"train": "a", "val": []}]',
        b'[{"train": [1], "val": []}]',
        b'[{"train": ["a"], "train": ["b"], "val": ["c"]}]',
        *(b"", b"\xff", b"\xef\xbb\xbf[]", b'[{"train": [', b"[" * 100000, b'[{"train": [NaN], "val": [null]}]'),
    ],
)
def test_a_damaged_file_of_folds_is_named(tmp_path, content):
    (tmp_path / "splits_final.json").write_bytes(content)
    with pytest.raises(RectalError, match=f"{tmp_path}/splits_final.json cannot be (used|read as JSON)"):
        read_splits(tmp_path / "splits_final.json")


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A raw dataset with folds and patients, and a preprocessed one without, as nnUNetv2_preprocess leaves it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name / NAME).mkdir(parents=True)
    write_folds(tmp_path / "nnUNet_raw" / NAME, BY_PATIENT)
    write_patients(tmp_path / "nnUNet_raw" / NAME)
    return PreprocessedDataset.at(NAME)


def write_folds(folder, folds):
    (folder / "splits_final.json").write_text(json.dumps(folds))


def write_patients(folder):
    (folder / "patients.csv").write_text("case,patient\n" + "".join(f"{c},{p}\n" for c, p in PATIENTS.items()))


def train_fold(base, fold="fold_0"):
    folder = base / "nnUNet_results" / NAME / "nnUNetTrainer__Plans__3d_fullres" / fold
    folder.mkdir(parents=True)
    (folder / "checkpoint_best.pth").touch()


def folds_there(dataset):
    return json.loads(dataset.splits.read_text())


def test_what_did_not_come_along_is_copied_and_said(dataset, tmp_path):
    notes = settle_folds(dataset, CASES)
    assert folds_there(dataset) == BY_PATIENT
    assert (dataset.path / "patients.csv").read_bytes() == (tmp_path / f"nnUNet_raw/{NAME}/patients.csv").read_bytes()
    assert len(notes) == 2 and all("was missing; that of" in note for note in notes)
    assert settle_folds(dataset, CASES) == []


def test_looking_alone_copies_nothing(dataset):
    assert len(check_folds_of(dataset, CASES)) == 2
    assert not any(dataset.path.iterdir())


@pytest.mark.parametrize("folds", [LEAKING, [{"train": ["x"], "val": ["y"]}], "damaged"])
def test_wrong_folds_give_way_to_those_of_the_raw_dataset(dataset, folds):
    write_folds(dataset.path, folds)
    train_fold(dataset.path.parents[1], "fold_all")  # reads no folds
    assert "; that of" in settle_folds(dataset, CASES)[-1]
    assert folds_there(dataset) == BY_PATIENT


def test_folds_that_something_was_trained_by_are_refused_and_stay(dataset, tmp_path):
    write_folds(dataset.path, LEAKING)
    train_fold(tmp_path)
    with pytest.raises(RectalError) as refusal:
        settle_folds(dataset, CASES)
    message = str(refusal.value)
    assert f"{dataset.splits} cannot be used" in message
    assert "fold 0 has 2 patients in training and validation (P0 with case_1 and case_0" in message
    assert "Move away what was trained by these folds: nnUNetTrainer__Plans__3d_fullres/fold_0." in message
    assert folds_there(dataset) == LEAKING and not (dataset.path / "patients.csv").exists()


def test_right_folds_of_the_users_own_are_used_and_the_difference_said(dataset):
    write_folds(dataset.path, BY_PATIENT[:1])
    assert "holds other folds than" in settle_folds(dataset, CASES)[1]
    assert folds_there(dataset) == BY_PATIENT[:1]
    with pytest.raises(RectalError, match="holds other folds than"):
        settle_folds(dataset, CASES, planning=True)


def test_more_folds_than_the_raw_dataset_has_are_the_users(dataset):
    own = [*BY_PATIENT, {"train": CASES[2:], "val": CASES[:2]}]
    write_folds(dataset.path, own)
    assert "validated more than once" in settle_folds(dataset, CASES)[-1]
    assert folds_there(dataset) == own


def test_wrong_folds_of_the_raw_dataset_are_refused_before_they_are_copied(dataset, tmp_path):
    write_folds(tmp_path / "nnUNet_raw" / NAME, LEAKING)
    with pytest.raises(RectalError, match=f"{tmp_path}/nnUNet_raw/{NAME}/splits_final.json cannot be used"):
        settle_folds(dataset, CASES, planning=True)
    assert not any(dataset.path.iterdir())


def test_folds_by_case_that_were_asked_for_are_taken(dataset, tmp_path):
    raw = tmp_path / "nnUNet_raw" / NAME
    write_folds(raw, LEAKING)
    (raw / "dataset.json").write_text('{"split_by_case": true}')
    assert any("2 patients in training and validation" in note for note in settle_folds(dataset, CASES))
    assert folds_there(dataset) == LEAKING


def test_without_folds_random_ones_are_refused_where_patients_have_several_scans(dataset, tmp_path):
    (tmp_path / "nnUNet_raw" / NAME / "splits_final.json").unlink()
    with pytest.raises(RectalError, match=r"3 patients of patients.csv have several scans \(P0, P1, P2\)"):
        settle_folds(dataset, CASES)
    assert not any(dataset.path.iterdir())


def test_a_dataset_from_elsewhere_keeps_its_own_patients(dataset):
    (dataset.path / "patients.csv").write_text("case,patient\nPABC,1\n")
    write_folds(dataset.path, [{"train": ["PABC"], "val": ["PDEF"]}])
    settle_folds(dataset, ["PABC", "PDEF"])
    assert (dataset.path / "patients.csv").read_text() == "case,patient\nPABC,1\n"


def test_without_raw_data_the_folds_that_are_there_are_checked(dataset, tmp_path):
    shutil.rmtree(tmp_path / "nnUNet_raw")
    assert settle_folds(dataset, CASES) == []
    write_folds(dataset.path, LEAKING)
    assert settle_folds(dataset, None) == []
    write_patients(dataset.path)
    with pytest.raises(RectalError, match="cannot be used"):
        settle_folds(dataset, None)


def test_a_split_that_nnunet_made_is_refused_where_it_parts_a_patient(dataset):
    write_patients(dataset.path)
    with pytest.raises(RectalError, match="P0 with case_1 and case_0"):
        refuse_split(dataset, Fold(tuple(CASES[1:]), tuple(CASES[:1])))
    refuse_split(dataset, Fold(tuple(CASES[2:]), tuple(CASES[:2])))


def test_cases_of_preprocessed_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.b.pkl").touch()
    (tmp_path / "data/a.b.b2nd").touch()
    assert preprocessed_cases(tmp_path / "data") == {"a.b"}
    assert preprocessed_cases(tmp_path / "absent") is None


def test_data_outside_of_the_dataset_are_refused(dataset):
    for identifier in ("../elsewhere", "/etc", "", ".", "a/../../b", None, 3):
        with pytest.raises(RectalError, match="data_identifier is"):
            dataset.data_folder({"data_identifier": identifier})
    assert dataset.data_folder({"data_identifier": "a/b"}) == dataset.path / "a/b"


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A raw dataset of six small cases of three patients, without folds."""
    set_folders(monkeypatch, tmp_path)
    monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
    pairs = {}
    for number, name in enumerate(CASES):
        image = np.random.default_rng(number).normal(200, 30, (8, 20, 24)).astype(np.float32)
        mask = np.zeros(image.shape, np.uint8)
        mask[2:6, 5:12, 5 + number : 14 + number] = 1
        pairs[name] = image, mask
    folder = write_raw_dataset(tmp_path / "nnUNet_raw" / NAME, pairs, (1.0, 1.0, 3.0))
    write_patients(folder)
    return folder


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code, "".join(capsys.readouterr())


PLAN = ("plan", "-d", "501", "--backbone", "smit_small", "-npfp", "1")


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (LEAKING, "fold 0 has 2 patients in training and validation (P0 with case_1 and case_0"),
        ([{"train": CASES[2:], "val": ["case_O"]}], "fold 0 names 1 case that are not there (case_O)"),
        ([{"train": CASES, "val": CASES[:1]}], "fold 0 has 1 case in training and validation (case_0)"),
        ([], "it holds no fold"),
        (None, "3 patients of patients.csv have several scans"),
        ("a named pipe", "it is a named pipe"),
    ],
)
def test_planning_and_doctor_refuse_folds_before_anything_is_written(raw, capsys, folds, message):
    if folds == "a named pipe":
        os.mkfifo(raw / "splits_final.json")
    elif folds is not None:
        write_folds(raw, folds)
    code, printed = command(capsys, *PLAN)
    assert code == 2 and message in printed and "Traceback" not in printed
    assert not any((raw.parents[1] / "nnUNet_preprocessed").iterdir())
    code, printed = command(capsys, "doctor", "-d", "501")
    assert code == 1 and message in printed


def test_doctor_names_wrong_folds_of_preprocessed_data(dataset, capsys):
    (dataset.path / "dataset.json").write_text('{"labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}')
    write_folds(dataset.path, LEAKING)
    train_fold(dataset.path.parents[1])
    code, printed = command(capsys, "doctor")
    assert code == 1 and "fold 0 has 2 patients in training and validation (P0 with case_1 and case_0" in printed


def test_a_list_of_patients_that_names_no_case_is_refused(dataset):
    raw = RawDataset.at(dataset.name)
    (raw.path / "patients.csv").write_text("case,patient\na.nii.gz,P\nb.nii.gz,P\n")
    with pytest.raises(RectalError, match=r"names none of the \d cases of .*, but a.nii.gz, b.nii.gz"):
        settle_folds(dataset, CASES)


def test_cases_that_the_list_of_patients_lacks_are_told(dataset):
    raw = RawDataset.at(dataset.name)
    first = sorted(CASES)[0]
    (raw.path / "patients.csv").write_text(f"case,patient\n{first},P\n")
    (raw.path / "splits_final.json").unlink(missing_ok=True)
    assert any("names no patient of" in note for note in check_folds_of(dataset, CASES))
