"""Damaged JSON and CSV files: a reader returns what is right, or refuses with the name; nothing else comes."""

import csv
import io
import json
import os
import random
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from limits import at_most
from report_runs import attention, reuse
from sharing_inputs import PLANS, write_dataset

from rectal_nnformer.analysis.records import read_attention, read_epochs, read_reuse
from rectal_nnformer.cli.training_hint import training_commands
from rectal_nnformer.demo.cohort.rectum_outline import read_rectum_outlines
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import MOST_CANDIDATES, Candidate
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.detection import StrictCounts
from rectal_nnformer.evaluation.fold import read_evaluation, write_evaluation
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.networks.starting_weights import recorded_pretrained_file
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import PreprocessedDataset, check_configuration
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.splits import check_folds_of, read_splits
from rectal_nnformer.planning.api import _measured_cases
from rectal_nnformer.planning.outdated import differing_settings
from rectal_nnformer.sharing.dataset import export_dataset
from rectal_nnformer.sharing.deidentify import pseudonyms
from rectal_nnformer.training.recovery import Recovery, read_recoveries, write_recoveries
from rectal_nnformer.utils.files import MAX_VALUES, count_values, csv_text, read_json_if_whole, read_table

NUM_VARIANTS = 75
SECONDS = 10
NESTED = b"[" * 500 + b"]" * 500
WHOLE_VARIANTS = (
    *(b"", b"\x00", b"null", b"[]", b"{}", b"3", b'"text"', b"NaN", b"[[]]", b"[{}]", b"[null]", b"{", b"\xff\xfe{}"),
    *(
        NESTED,
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b"9" * 5000,
        b'{"a": 1e999}',
        b'["\\ud800"]',
        b",;\n",
    ),
)
STRANGE = (
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "../x",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
)


def places(content, found):
    """Return every container in a content of JSON with a key or index in it."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        found.append((content, key))
        places(value, found)
    return found


def damaged(whole, number):
    """Return the content of a file, damaged in the way of this number; the same for each call."""
    if number < len(WHOLE_VARIANTS):
        return WHOLE_VARIANTS[number]
    rng = random.Random(number)
    if number % 4 == 0:
        return whole[: rng.randrange(len(whole))]
    if number % 4 == 1 or not whole.startswith((b"{", b"[")):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    content = json.loads(whole)
    for _ in range(rng.randrange(1, 3)):
        if found := places(content, []):
            container, key = rng.choice(found)
            if number % 4 == 2:
                container[key] = rng.choice(STRANGE)
            elif isinstance(container, dict):
                container[rng.choice(["other", "", "1"])] = container.pop(key)
            else:
                container.append(container.pop(key))
                container.append(container[0])
    return json.dumps(content).encode()


CASE = CaseDetection("a", "a", "", False, 0, 0, 0, 0, 0, StrictCounts(0, 0, 0), 1.0, (), ())
OUTLINE = {"series": [{"z": z, "center_xy": [10, 10], "radii_xy": [3, 3]} for z in (1, 5)]}


def write_all(folder):
    """Write one of each file that is read; return the folder of the preprocessed dataset."""
    dataset = write_dataset(folder / "nnUNet_preprocessed", cases=("a", "b"), size=(8, 8, 8))
    (dataset / "patients.csv").write_text("case,patient\na,P1\nb,P2\n")
    (dataset / "pseudonyms.csv").write_text("case,pseudonym\na,PBCDFGHJK\nb,PBCDFGHJL\n")
    shapes = {"spacings": [[1.0, 1.0, 1.0]] * 2, "shapes_after_crop": [[8, 8, 8]] * 2}
    fingerprint = {**shapes, "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}}}
    (dataset / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    network = {"backbone": "smit", "backbone_kwargs": {}, "intensity_window": [[0, 1]], "spatial_axes": [2, 1, 0]}
    plans = json.loads((dataset / f"{PLANS}.json").read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["ZScoreNormalization"]
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] = network
    (dataset / f"{PLANS}.json").write_text(json.dumps(plans))
    write_evaluation(summarize_cases([CASE]), dataset)
    (dataset / "attention_dilution.json").write_text(json.dumps(attention(0.2)))
    (dataset / "feature_reuse.json").write_text(json.dumps(reuse(0.9)))
    (dataset / "attention_epochs.json").write_text("[]")
    (dataset / "starting_weights.json").write_text('{"source": "pretrained", "file": "w.pt", "md5": "0"}')
    write_recoveries(dataset, [Recovery(1, 0, 0.1, "loss")])
    (dataset / "outlines.json").write_text(json.dumps(OUTLINE))
    return dataset


def read_plans(path):
    check_configuration(path, "3d_fullres")
    plans = Plans.read(path)
    differing_settings(path, plans)
    return plans.record


READERS = {
    "splits": ("splits_final.json", read_splits),
    "folds": ("splits_final.json", lambda path: check_folds_of(PreprocessedDataset(path.parent), ["a", "b"])),
    "dataset": ("dataset.json", lambda path: read_dataset_json(path, "Restore it.")),
    "plans": (f"{PLANS}.json", read_plans),
    "names of plans": (f"{PLANS}.json", lambda path: PreprocessedDataset(path.parent).plans_names()),
    "hints": (f"{PLANS}.json", lambda path: training_commands(path.parent)),
    "patients": ("patients.csv", lambda path: read_patients(path.parent)),
    "pseudonyms": ("pseudonyms.csv", lambda path: pseudonyms(path.parent, ["a", "b"])),
    "fingerprint": ("dataset_fingerprint.json", _measured_cases),
    "what can be made anew": ("rectal_fingerprint.json", read_json_if_whole),
    "evaluation": ("lesion_detection.json", lambda path: read_evaluation(path.parent)),
    "attention": ("attention_dilution.json", lambda path: read_attention(path.parent)),
    "reuse": ("feature_reuse.json", lambda path: read_reuse(path.parent)),
    "epochs": ("attention_epochs.json", lambda path: read_epochs(path.parent)),
    "start": ("starting_weights.json", lambda path: recorded_pretrained_file(path.parent)),
    "recoveries": ("recoveries.json", lambda path: read_recoveries(path.parent)),
    "outlines": ("outlines.json", read_rectum_outlines),
}
EXPORTED = ("dataset.json", f"{PLANS}.json", "splits_final.json", "dataset_fingerprint.json", "rectal_fingerprint.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a dataset in which nothing is damaged; tests put files back."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        base = tmp_path_factory.mktemp("damaged")
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "RECTAL_NNFORMER_WEIGHTS"):
            (base / name).mkdir()
            monkeypatch.setenv(name, str(base / name))
        yield write_all(base)


@contextmanager
def replaced(path):
    content = path.read_bytes()
    path.unlink()
    try:
        yield content
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_right_or_refused(whole, reader):
    name, read = READERS[reader]
    read(whole / name)
    refused = 0
    with replaced(whole / name) as content:
        for number in range(NUM_VARIANTS):
            (whole / name).write_bytes(damaged(content, number))
            try:
                with at_most(SECONDS):
                    read(whole / name)
            except RectalError as error:
                refused += 1
                assert name in str(error) or "data_identifier" in str(error) or "rectum outline" in str(error), number
    assert refused > NUM_VARIANTS / 4 or reader in ("names of plans", "fingerprint", "what can be made anew", "start")


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_of_damaged_files_ends_with_a_message(whole, tmp_path, name):
    with replaced(whole / name) as content:
        for number in range(NUM_VARIANTS):
            (whole / name).write_bytes(damaged(content, number))
            try:
                with at_most(SECONDS):
                    export_dataset(501, tmp_path / "out.zip")
            except RectalError:
                assert not (tmp_path / "out.zip").exists()
            (tmp_path / "out.zip").unlink(missing_ok=True)


@pytest.mark.parametrize("reader", [name for name in READERS if name not in ("names of plans", "hints")])
@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a link to nothing"])
def test_what_is_no_file_is_named_and_not_waited_for(whole, reader, kind):
    name, read = READERS[reader]
    path = whole / name
    with replaced(path), at_most(SECONDS):
        if kind == "a named pipe":
            os.mkfifo(path)
        elif kind == "a folder":
            path.mkdir()
        else:
            path.symlink_to("absent")
        if reader in ("fingerprint", "what can be made anew"):
            assert not read(path)
        else:
            with pytest.raises(RectalError, match=f"{name}.*{kind}"):
                read(path)


def test_plans_beside_a_named_pipe_are_found(whole):
    os.mkfifo(whole / "pipe.json")
    with at_most(SECONDS):
        assert PreprocessedDataset(whole).plans_names() == [PLANS]
    (whole / "pipe.json").unlink()


def test_a_small_file_of_very_many_values_is_refused(tmp_path):
    """Each of them would become an error of its own, of a kilobyte."""
    path = tmp_path / "splits_final.json"
    path.write_bytes(b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]")
    with at_most(SECONDS), pytest.raises(RectalError, match=rf"splits_final\.json .*more than the {MAX_VALUES} values"):
        read_splits(path)


def test_the_scores_of_a_large_cohort_are_read(tmp_path):
    candidate = Candidate(1, 20, 0.02, (1.0, 2.0, 3.0), confidence=0.5, in_mask=False, shared_voxels=(0, 0))
    write_evaluation(summarize_cases([replace(CASE, candidates=(candidate,) * (MOST_CANDIDATES + 2))]), tmp_path)
    assert count_values((tmp_path / "lesion_detection.json").read_bytes()) * 2000 < MAX_VALUES


FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd", "@SUM(A1)", "\t=1", "=HYPERLINK('x')", "--", "-case", "\r=1")


def test_no_cell_is_a_formula_and_lists_are_read_back_as_they_were(tmp_path):
    rows = [{"case": text, "patient": f"P{number}"} for number, text in enumerate(FORMULAS)]
    text = csv_text(("case", "patient"), rows)
    assert text.startswith("case,patient\n")
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    (tmp_path / "patients.csv").write_text(text, encoding="utf-8", newline="")
    assert list(read_patients(tmp_path)) == [text for text in FORMULAS if "\r" not in text] + ["' =1"]


def test_numbers_in_tables_stay_numbers(tmp_path):
    row = {"a": -1.5, "b": "-1.5 2.0 -3e-05", "c": np.float64(-2), "d": None, "e": "-", "f": True}
    assert csv_text(row, [row]) == "a,b,c,d,e,f\n-1.5,-1.5 2.0 -3e-05,-2.0,,'-,True\n"
    (tmp_path / "t.csv").write_text("a;b\r\n 1 ;'=x\r\n", encoding="utf-8-sig")
    assert read_table(tmp_path / "t.csv", ("b",), "The table", "") == [(2, {"b": "=x"})]
