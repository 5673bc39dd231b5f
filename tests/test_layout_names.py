"""nnU-Net's folders: names and paths go back and forth, and a JSON file that cannot be used is named with its cause."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import FoldFolder, ModelFolder, PreprocessedDataset, RawDataset
from rectal_nnformer.utils.files import read_json, read_json_if_whole
from rectal_nnformer.utils.json_records import read_own


@dataclass(frozen=True)
class Pair:
    a: int


NAMES = st.lists(st.text("aZ09-", min_size=1, max_size=4), min_size=1, max_size=3).map("_".join)
MODELS = st.builds(ModelFolder, st.just(Path("/results")), NAMES, NAMES, NAMES, NAMES)
FOLDS = st.one_of(st.integers(0, 999), st.just("all"))


@given(MODELS)
def test_a_model_is_found_again_by_its_path(model):
    assert ModelFolder.parse(model.path) == model
    assert model.path == Path("/results", model.dataset, model.name)


@given(MODELS, FOLDS)
def test_a_fold_is_found_again_by_its_path_and_by_what_lies_in_it(model, number):
    fold = model.fold(number)
    assert FoldFolder.parse(fold.path) == fold
    assert FoldFolder.around(fold.validation) == FoldFolder.around(fold.checkpoint_final) == fold
    assert FoldFolder.around(fold.path) is None


@given(st.text().filter(lambda name: "/" not in name and "\0" not in name and name.count("__") != 2))
def test_other_names_are_no_models(name):
    assert ModelFolder.parse(Path("/results/Dataset501_Rectal") / name) is None


@pytest.mark.parametrize("name", ["fold_", "fold_x", "fold_0.bak", "fold_-1", "Fold_0", "fold_01x", "validation"])
def test_other_names_are_no_folds(name):
    assert FoldFolder.parse(Path("/results/Dataset501_Rectal/Trainer__Plans__3d_fullres") / name) is None


def test_folds_of_a_model_in_their_order(tmp_path):
    model = ModelFolder(tmp_path, "Dataset501_Rectal", "Trainer", "Plans", "3d_fullres")
    assert model.folds() == []
    for name in ("fold_10", "fold_all", "fold_2", "fold_0.bak", "fold_0"):
        (model.path / name).mkdir(parents=True)
    assert [fold.fold for fold in model.folds()] == ["0", "2", "10", "all"]
    assert model.fold_numbers() == [0, 2, 10]


def test_what_a_fold_has_reached(tmp_path):
    fold = ModelFolder(tmp_path, "Dataset501_Rectal", "Trainer", "Plans", "3d_fullres").fold(0)
    fold.validation.mkdir(parents=True)
    assert not fold.checkpoints() and not fold.is_trained
    (fold.path / "checkpoint_best.pth").touch()
    assert [path.name for path in fold.checkpoints()] == ["checkpoint_best.pth"] and not fold.is_trained
    write_checkpoint(fold.checkpoint_final, "Trainer")
    assert fold.is_trained and not fold.is_finished
    summary = fold.validation / "summary.json"
    summary.touch()  # as a process leaves it that is killed while it writes
    assert not fold.is_finished
    summary.write_text("{}")
    assert fold.is_finished


def test_files_of_a_dataset(tmp_path):
    raw, preprocessed = RawDataset(tmp_path / "Dataset501_Rectal"), PreprocessedDataset(tmp_path / "Dataset501_Rectal")
    assert raw.image("a", ".nii.gz", 1).relative_to(tmp_path) == Path("Dataset501_Rectal/imagesTr/a_0001.nii.gz")
    assert raw.label("a", ".nii.gz").relative_to(raw.path) == Path("labelsTr/a.nii.gz")
    assert preprocessed.reference("a", ".nrrd").relative_to(raw.path) == Path("gt_segmentations/a.nrrd")
    assert preprocessed.data_folder({"data_identifier": "data"}) == raw.path / "data"
    raw.path.mkdir()
    plans = {"configurations": {}}
    for name, content in (("B", plans), ("A", plans), (".left.partial", plans), ("dataset", {"labels": {}})):
        (raw.path / f"{name}.json").write_text(json.dumps(content))
    assert preprocessed.plans_names() == ["A", "B"]


def test_the_dataset_of_a_model_lies_beside_the_results_or_where_the_variable_points(tmp_path, monkeypatch):
    model = ModelFolder(tmp_path / "nnUNet_results", "Dataset501_Rectal", "Trainer", "Plans", "3d_fullres")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    beside = tmp_path / "nnUNet_raw/Dataset501_Rectal"
    assert model.data_folder("nnUNet_raw") == beside
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "elsewhere"))
    assert model.data_folder("nnUNet_raw") == tmp_path / "elsewhere/Dataset501_Rectal"
    beside.mkdir(parents=True)
    assert model.data_folder("nnUNet_raw") == beside


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"a": 1', "cannot be read as JSON .*line 1"),
        (b"", "cannot be read as JSON"),
        (b'{"a": "\xff"}', "cannot be read as JSON .*utf-8"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1]", "holds a list instead of an object"),
        (b"null", "holds null instead of an object"),
        (b'{"b": 1}', r"lacks a\."),
    ],
)
def test_json_that_cannot_be_used_is_named_with_cause_and_remedy(tmp_path, content, cause):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(RectalError, match=rf"(?s)file\.json .*{cause}.*Do this\.$"):
        read_json(path, ["a"], "Do this.")


def test_missing_json_is_named(tmp_path):
    for read in (read_json, partial(read_own, tuple[Pair, ...])):
        with pytest.raises(RectalError, match=r"absent\.json does not exist\. Do this\."):
            read(tmp_path / "absent.json", remedy="Do this.")
    assert read_json_if_whole(tmp_path / "absent.json") is None


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{}", "valid array"),
        ("[1]", "0: Input should be an object"),
        ('[{"a": 1}, {}]', "1.a: Field required"),
    ],
)
def test_a_list_of_objects_is_checked_one_by_one(tmp_path, content, cause):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(RectalError, match=cause):
        read_own(tuple[Pair, ...], path, "Do this.")


def test_json_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": "é"}', encoding="utf-8")
    assert read_json(path, ["a"]) == read_json_if_whole(path) == {"a": "é"}
    path.write_text('[{"a": 1}]')
    assert read_own(tuple[Pair, ...], path, "Do this.") == (Pair(1),)
    assert read_json_if_whole(path) is None
    path.write_text("[")
    assert read_json_if_whole(path) is None
