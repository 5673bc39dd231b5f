"""The report on predictions that were scored, as of an external test set, and what a paper can take over."""

import json
import re

import pytest
from report_runs import CASES, DATASET_JSON, FAR, NEAR, write_run, write_test_set

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.reporting import write_crossval_summary, write_report
from rectal_nnformer.reporting.cohort import analyse_results
from rectal_nnformer.reporting.methods import CLAIM, claim_table, methods_text
from rectal_nnformer.reporting.results import read_results, read_scored

MODEL = {
    "dataset": "Dataset501_Rectal",
    "trainer": "nnUNetTrainerSMIT_ACT",
    "plans": "P",
    "configuration": "3d_fullres",
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return write_test_set(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def page(scored):
    return write_report(scored).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("model"), patients=dict.fromkeys(CASES, "patient_1"))


def methods_of(results):
    return methods_text(results, analyse_results(results))


def claim_of(results):
    return claim_table(results, analyse_results(results))


def sections(page):
    return re.findall(r'<section id="(\w+)"', page)


def test_scored_predictions_have_the_page_of_a_model_without_what_training_alone_tells(page, model):
    of_model = sections(write_report(model).read_text(encoding="utf-8"))
    assert sections(page) == [name for name in of_model if name not in ("attention", "features", "plan")]
    assert "<strong>3</strong> of 5 tumours detected" in page and "fold 0" not in page
    assert page.count('loading="lazy"') > 20 and "Dataset502_<wbr>External" in page


def test_the_page_tells_no_folder_of_this_computer(scored, page):
    assert str(scored.parent) not in page


def test_pictures_come_from_the_folder_that_is_named(scored, tmp_path):
    page = write_report(scored, tmp_path / "page.html", images=scored).read_text(encoding="utf-8")
    assert page.count('loading="lazy"') > 20
    without = write_report(scored, tmp_path / "page.html", images=tmp_path).read_text(encoding="utf-8")
    assert 'loading="lazy"' not in without and "6 of 6 cards have no picture" in without


def test_the_model_is_told_where_predict_noted_it(tmp_path):
    folder = write_test_set(tmp_path, {"one": ([NEAR], [NEAR]), "two": ([FAR], [])})
    (folder / "findings.json").write_text(json.dumps({"model": {**MODEL, "folds": "0, 1"}}))
    (folder / "trained_on.json").write_text(json.dumps({"two": "case_7", "other": "case_8"}))
    page = write_report(folder).read_text(encoding="utf-8")
    assert "The model was trained on two: the rates are too good for them" in page
    assert "nnUNetTrainerSMIT_ACT" in page
    told = dict(row[::2] for row in claim_of(read_scored(folder)).rows)
    assert told["27"] == "The mean of 2 networks, one per fold." and told["20"].startswith("The model was trained on 1")


def test_the_command_takes_a_folder_that_evaluate_wrote_into(scored, tmp_path, capsys):
    output = tmp_path / "page.html"
    cli.main(["report", str(scored), "-o", str(output), "-np", "1"])
    assert output.is_file() and str(output) in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["empty", "earlier", "fold"])
def test_other_folders_are_refused_with_what_to_do(tmp_path, model, kind, capsys):
    folder = model / "fold_0/validation" if kind == "fold" else tmp_path
    if kind == "earlier":
        (tmp_path / "lesion_detection.json").write_text('{"cases": []}')
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(folder)])
    assert ended.value.code == 2
    assert {"empty": "evaluate", "earlier": "evaluate' again", "fold": "Did you mean"}[kind] in capsys.readouterr().err


def test_no_tumour_at_all_and_a_single_case_have_a_page(tmp_path):
    page = write_report(write_test_set(tmp_path, {"clean": ([], [])})).read_text(encoding="utf-8")
    assert "<strong>0</strong> of 0 tumours detected" in page


# --- for a paper -----------------------------------------------------------------------------------------------------


def test_methods_say_what_the_files_say(model):
    text = methods_of(read_results(model))
    for words in (
        "5 tumours in 4 cases of 1 patient were segmented by cross-validation on T2w (Dataset501_Rectal)",
        "resampled to 1.0 x 1.0 x 1.0 mm",
        "Patches had 64 x 128 x 128 voxels, batches 2 patches, planned for a GPU of 24 GB",
        "epochs 500; learning rate 0.0003; trained with torch 2.6.0",
        "Folds share 1 patient",
        "Detected 3 of 5 lesions (60.0 %, 95 % CI 23.1-88.2), 1 false positive in 4 cases",
    ):
        assert words in text
    # A line each, and no paths of this computer.
    assert str(model.parent) not in text and all(": " in line or ". " in line for line in text.splitlines())


def test_items_of_claim_are_numbered_and_what_no_file_tells_is_left_to_the_authors(model):
    rows = {row[0]: row[2] for row in claim_of(read_results(model)).rows}
    assert list(rows) == [str(number) for number in range(1, 45)] and len(CLAIM) == 44
    assert all(rows.values())
    for number in (2, 5, 16, 34, 44):
        assert rows[str(number)] == "To be written by the authors."
    assert rows["20"].startswith("Folds share 1 patient") and rows["32"] == "Cross-validation over 2 folds."


def test_the_summary_of_a_cross_validation_holds_both(model):
    base = model.parents[2]
    raw, masks = base / "nnUNet_raw/Dataset501_Rectal", base / "nnUNet_preprocessed/Dataset501_Rectal/gt_segmentations"
    write_crossval_summary(model, raw / "imagesTr", masks, DATASET_JSON, folds=(0, 1))
    text = (model / "crossval_summary.md").read_text(encoding="utf-8")
    assert "```text\nSegmentation. 5 tumours" in text and "| 44 | Funding and the role of funders |" in text


def test_methods_of_a_cohort_without_cases_of_a_kind_are_words_too(tmp_path):
    results = read_scored(write_test_set(tmp_path, {"clean": ([], [])}))
    assert "No lesion in the references" in methods_of(results)
    with pytest.raises(RectalError, match="nowhere"):
        read_scored(results.path, tmp_path / "nowhere")
