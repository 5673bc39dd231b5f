"""Names of model and fold folders: what is one, and what to name instead."""

import pytest

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import FoldFolder, ModelFolder, check_compared, planned_model

MODEL = "Trainer__Plans__3d_fullres"


@pytest.fixture
def fold(tmp_path, monkeypatch):
    """The folder of a trained fold in nnUNet_results; its dataset was preprocessed by plans of the same name."""
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name / "Dataset501_Rectal").mkdir(parents=True)
    folder = tmp_path / "nnUNet_results/Dataset501_Rectal" / MODEL / "fold_0"
    (folder / "validation").mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
    for path in (folder.parent / "plans.json", tmp_path / "nnUNet_preprocessed/Dataset501_Rectal/Plans.json"):
        path.write_text('{"configurations": {"3d_fullres": {}}}')
    return folder


def test_folders_tell_what_they_are_of(fold):
    model = ModelFolder.from_path(fold.parent)
    assert (model.dataset, model.trainer, model.plans, model.configuration) == ("Dataset501_Rectal", *MODEL.split("__"))
    assert FoldFolder.from_path(fold) == model.fold(0) and (model.path, model.fold("0").path) == (fold.parent, fold)


def test_the_fold_around_what_was_named_is_suggested(fold):
    for path in (fold / "checkpoint_final.pth", fold / "validation"):
        with pytest.raises(RectalError, match=f"Name that folder instead: {fold}$"):
            FoldFolder.from_path(path)
    with pytest.raises(RectalError, match=f"Did you mean {fold.parent}"):
        ModelFolder.from_path(fold)


def test_features_are_compared_with_a_fold_or_a_pretrained_file(fold, tmp_path):
    (tmp_path / "pretrained.pt").touch()
    check_compared(fold)
    check_compared(tmp_path / "pretrained.pt")
    with pytest.raises(RectalError, match=f"no pretrained file. Name the folder itself.*: {fold}$"):
        check_compared(fold / "checkpoint_final.pth")
    with pytest.raises(RectalError, match="not the folder of a fold"):
        check_compared(tmp_path)
    with pytest.raises(RectalError, match=r"absent\.pt does not exist. Name the folder of a trained fold, or a pretr"):
        check_compared(tmp_path / "absent.pt")


def test_the_plans_of_a_model_are_those_that_trained_it_or_else_those_of_the_dataset(fold, tmp_path):
    model = planned_model("501", "Trainer", "Plans", "3d_fullres")
    assert model.path == fold.parent and model.current_plans_file() == fold.parent / "plans.json"
    dataset = tmp_path / "nnUNet_preprocessed/Dataset501_Rectal"
    assert planned_model("501", "Another", "Plans", "3d_fullres").current_plans_file() == dataset / "Plans.json"


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_plans_are_named(fold, content):
    (fold.parent / "plans.json").write_text(content)
    with pytest.raises(RectalError, match=r"plans\.json cannot be .*Plan the dataset again"):
        planned_model("501", "Trainer", "Plans", "3d_fullres")
