import argparse
import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.stats import binomtest

from rectal_nnformer.cli import evaluate as evaluate_command
from rectal_nnformer.display import REFERENCE_COLOR, grey_window, radiological_array, slice_with_most
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.crossval import summarize_crossval
from rectal_nnformer.evaluation.fold import CASES_PER_PROCESS, evaluate_fold, read_evaluation
from rectal_nnformer.evaluation.overlays import Example, draw_examples
from rectal_nnformer.evaluation.rates import cluster_bootstrap, wilson_interval
from rectal_nnformer.evaluation.summary import detection_line

SHAPE = (12, 40, 40)
SPACING = (0.5, 0.5, 3.0)
DATASET = {"labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
# [z0, z1, y0, y1, x0, x1]; the second lies well apart from the first.
LESION, OTHER, SHIFTED = (3, 8, 10, 20, 10, 20), (3, 8, 25, 35, 25, 35), (3, 8, 12, 22, 10, 20)


def boxes_image(*boxes, value=1, dtype=np.uint8):
    array = np.zeros(SHAPE, dtype)
    for z0, z1, y0, y1, x0, x1 in boxes:
        array[z0:z1, y0:y1, x0:x1] = value
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    return image


def write(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_case(root, case, reference, prediction, fold=0):
    """Write reference, image and, unless it is None, prediction of one case, each given as a list of boxes."""
    write(boxes_image(*reference), root / "gt" / f"{case}.nii.gz")
    write(boxes_image(*reference, value=100, dtype=np.int16), root / "imagesTr" / f"{case}_0000.nii.gz")
    if prediction is not None:
        write(boxes_image(*prediction), root / f"fold_{fold}" / "validation" / f"{case}.nii.gz")


def evaluate(root, cases, fold=0, **options):
    return evaluate_fold(root / f"fold_{fold}" / "validation", root / "gt", DATASET, cases, **options)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- rates -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_interval_is_scipys(counts):
    expected = binomtest(*counts).proportion_ci(0.95, "wilson")
    assert wilson_interval(*counts) == pytest.approx((expected.low, expected.high))


def test_no_interval_without_trials_and_no_impossible_counts():
    assert wilson_interval(0, 0) is None
    with pytest.raises(ValueError):
        wilson_interval(3, 2)


def test_bootstrap_over_patients_is_wider_when_lesions_of_a_patient_go_together():
    together = cluster_bootstrap([4] * 10 + [0] * 10, [4] * 20)
    apart = cluster_bootstrap([1] * 40 + [0] * 40, [1] * 80)
    assert together[0] < apart[0] < 0.5 < apart[1] < together[1]
    # Twenty draws with chance one half: 0.5 +- 1.96 sqrt(0.25 / 20).
    assert together == pytest.approx((0.5 - 0.219, 0.5 + 0.219), abs=0.04)


def test_bootstrap_repeats_itself_and_leaves_out_patients_without_trials():
    counts, totals = [1, 0, 2, 1], [1, 1, 2, 3]
    assert cluster_bootstrap(counts, totals) == cluster_bootstrap(counts, totals)
    assert cluster_bootstrap([*counts, 0], [*totals, 0]) == cluster_bootstrap(counts, totals)
    assert cluster_bootstrap([1], [2]) is None


# --- a fold ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fold(tmp_path):
    write_case(tmp_path, "hit", [LESION], [SHIFTED])
    write_case(tmp_path, "half", [LESION, OTHER], [LESION])
    write_case(tmp_path, "invented", [], [OTHER])
    write_case(tmp_path, "silent", [LESION], [])
    write_case(tmp_path, "nothing", [], [])
    write_case(tmp_path, "lost", [LESION, OTHER], None)
    return tmp_path


CASES = ("hit", "half", "invented", "silent", "nothing", "lost")


def test_fold_counts_every_case(fold):
    result = evaluate(fold, CASES)
    counts = (result.n_cases, result.n_reference, result.n_detected, result.n_missed, result.n_false_positive)
    assert counts == (6, 6, 2, 4, 1)
    special = (
        result.n_cases_without_reference,
        result.n_cases_without_prediction,
        result.n_cases_prediction_missing,
    )
    assert special == (2, 2, 1)
    assert (result.case_rate.count, result.case_rate.total) == (2, 4)
    assert result.false_positives_per_case == pytest.approx(1 / 6)
    notes = {case.case: case.note for case in result.cases}
    assert notes == {
        "hit": "",
        "half": "",
        "invented": "no lesion in the reference",
        "silent": "nothing predicted",
        "nothing": "no lesion in the reference; nothing predicted",
        "lost": "prediction file missing",
    }


def test_fold_files_hold_what_was_returned(fold):
    result = evaluate(fold, CASES)
    folder = fold / "fold_0" / "validation"
    content = json.loads((folder / "lesion_detection.json").read_text())
    for name in ("n_cases", "n_reference", "n_detected", "n_missed", "n_false_positive"):
        assert content[name] == getattr(result, name)
    assert {case["case"] for case in content["cases"]} == set(CASES)
    assert content["detection_rate"]["wilson_95"] == pytest.approx(wilson_interval(2, 6))
    assert read_evaluation(folder) == result

    rows = rows_of(folder / "lesion_detection.csv")
    kinds = sorted((row["case"], row["kind"]) for row in rows)
    assert kinds == [
        ("half", "reference"),
        ("half", "reference"),
        ("hit", "reference"),
        ("invented", "false_positive"),
        ("lost", "reference"),
        ("lost", "reference"),
        ("nothing", "none"),
        ("silent", "reference"),
    ]
    hit = next(row for row in rows if row["case"] == "hit")
    assert (hit["detected"], hit["voxels"], float(hit["dice"])) == ("True", "500", pytest.approx(0.8))


def test_detection_line(fold):
    line = detection_line(evaluate(fold, CASES))
    low, high = wilson_interval(2, 6)
    rate = f"33.3 %, 95 % CI {100 * low:.1f}-{100 * high:.1f}"
    assert line == f"Detected 2 of 6 lesions ({rate}), 1 false positive in 6 cases, 1 prediction missing"
    assert detection_line(evaluate(fold, ["nothing"])) == "No lesion in the references, 0 false positives in 1 case"


def test_case_dice_is_nnunets(fold):
    result = {case.case: case.dice for case in evaluate(fold, CASES).cases}
    for case in ("hit", "half", "invented", "silent"):
        files = [str(folder / f"{case}.nii.gz") for folder in (fold / "gt", fold / "fold_0" / "validation")]
        assert result[case] == pytest.approx(compute_metrics(*files, SimpleITKIO(), [1])["metrics"][1]["Dice"])
    assert (result["nothing"], result["lost"]) == (None, 0)


def test_lesions_of_one_patient_are_drawn_together(fold):
    apart = evaluate(fold, CASES)
    together = evaluate(fold, CASES, patients=dict.fromkeys(CASES, "one"))
    assert (apart.n_patients, together.n_patients) == (6, 1)
    assert apart.detection_rate.patient_bootstrap_95 is not None
    assert together.detection_rate.patient_bootstrap_95 is None


def test_tumor_labels_and_the_ignore_label_of_the_dataset_are_respected(tmp_path):
    labels = {"background": 0, "rectum": 1, "tumor": 2, "tumor_mucinous": 3, "ignore": 4}
    reference = sitk.GetArrayFromImage(boxes_image(LESION, value=2))
    reference[3:8, 20:25, 10:20] = 3
    reference[:, 30:, :] = 4
    for array, folder in ((reference, "gt"), (np.where(reference == 0, 1, 2), "fold_0/validation")):
        image = sitk.GetImageFromArray(array.astype(np.uint8))
        image.SetSpacing(SPACING)
        write(image, tmp_path / folder / "case.nii.gz")
    dataset = {**DATASET, "labels": labels}
    result = evaluate_fold(tmp_path / "fold_0" / "validation", tmp_path / "gt", dataset, ["case"])
    (lesion,) = result.cases[0].lesions
    assert (lesion.voxels, lesion.iou, result.n_false_positive) == (750, 1, 0)


def test_a_prediction_on_another_grid_is_refused_by_name(tmp_path):
    write_case(tmp_path, "moved", [LESION], None)
    image = boxes_image(LESION)
    image.SetOrigin((0, 0, 30))
    write(image, tmp_path / "fold_0" / "validation" / "moved.nii.gz")
    with pytest.raises(RectalError, match=r"moved.*different grids"):
        evaluate(tmp_path, ["moved"])
    assert not (tmp_path / "fold_0" / "validation" / "lesion_detection.json").exists()


def test_missing_reference_unreadable_mask_and_no_case_are_refused(fold):
    with pytest.raises(RectalError, match=r"absent.*no reference"):
        evaluate(fold, ["absent"])
    (fold / "gt" / "hit.nii.gz").write_text("no image")
    with pytest.raises(RectalError, match=r"hit.*cannot be read"):
        evaluate(fold, ["hit"])
    with pytest.raises(RectalError, match="no case"):
        evaluate(fold, [])


@pytest.mark.slow
def test_several_processes_give_the_same(tmp_path):
    cases = [f"case_{number:02d}" for number in range(2 * CASES_PER_PROCESS)]
    for number, case in enumerate(cases):
        write_case(tmp_path, case, [LESION], [SHIFTED] if number % 3 else [])
    assert evaluate(tmp_path, cases, num_processes=2) == evaluate(tmp_path, cases, num_processes=1)


# --- a cross-validation ----------------------------------------------------------------------------------------------


@pytest.fixture
def crossval(fold):
    evaluate(fold, CASES)
    write_case(fold, "perfect", [LESION, OTHER], [LESION, OTHER], fold=1)
    write_case(fold, "bridged", [LESION, OTHER], [(3, 8, 10, 35, 10, 35)], fold=1)
    evaluate(fold, ["perfect", "bridged"], fold=1)
    return fold


def summarize(root, folds=(0, 1), **options):
    return summarize_crossval(root, root / "imagesTr", root / "gt", DATASET, folds=folds, **options)


def test_crossval_pools_the_folds(crossval):
    summary = summarize(crossval)
    content = json.loads((crossval / "crossval_summary.json").read_text())
    top = {name: content[name] for name in ("n_reference", "n_detected", "n_missed", "n_false_positive")}
    assert top == {"n_reference": 10, "n_detected": 6, "n_missed": 4, "n_false_positive": 1}
    assert (content["strict"]["n_detected"], content["strict"]["n_false_positive"]) == (4, 2)
    assert [content["folds"][fold]["n_detected"] for fold in ("0", "1")] == [2, 4]
    # Two lesions bridged by one prediction are one group.
    assert content["detected_groups"]["dice"]["count"] == 5
    assert content["size_bins"]["0-5"]["total"] == 10
    assert summary.pooled.case_dice.count == 7

    rows = {row["case"]: row for row in rows_of(crossval / "crossval_summary.csv")}
    assert set(rows) == {*CASES, "perfect", "bridged"}
    bridged = rows["bridged"]
    assert [bridged[name] for name in ("fold", "n_detected", "n_detected_strict", "n_missed")] == ["1", "2", "0", "0"]
    assert float(rows["perfect"]["dice"]) == 1
    assert (rows["nothing"]["dice"], rows["lost"]["note"]) == ("", "prediction file missing")


def test_crossval_page_says_it_in_words(crossval):
    summarize(crossval)
    page = (crossval / "crossval_summary.md").read_text()
    low, high = wilson_interval(6, 10)
    assert f"**6 of 10 tumours detected (60.0 %, 95 % CI {100 * low:.1f}-{100 * high:.1f})**" in page
    assert "| 1 | 2 | 4/4 | 100.0 % |" in page
    assert "| 0 | silent | 1 |" in page
    assert "fold 0, lost: prediction file missing" in page
    assert "![Best, median and worst case](crossval_summary.png)" in page


def test_crossval_takes_other_patients_without_scoring_again(crossval):
    for path in crossval.glob("fold_*/validation/*.nii.gz"):
        path.unlink()
    summary = summarize(crossval, patients={"perfect": "p", "bridged": "p"})
    assert (summary.pooled.n_patients, summary.pooled.n_detected) == (7, 6)


def test_crossval_names_a_fold_that_is_missing_or_broken(crossval):
    with pytest.raises(RectalError, match="fold 2"):
        summarize(crossval, folds=(0, 1, 2))
    path = crossval / "fold_1" / "validation" / "lesion_detection.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(RectalError, match="fold_1"):
        summarize(crossval)
    assert not (crossval / "crossval_summary.json").exists()


def test_crossval_without_an_image_leaves_the_picture_out_and_says_so(crossval):
    summarize(crossval)
    picture = crossval / "crossval_summary.png"
    assert picture.is_file()
    (crossval / "imagesTr" / "perfect_0000.nii.gz").unlink()
    note = summarize(crossval).picture_note
    assert "perfect_0000.nii.gz" in note
    assert not picture.exists()
    assert f"No picture: {note}" in (crossval / "crossval_summary.md").read_text()


# --- display ---------------------------------------------------------------------------------------------------------


ORIENTATIONS = st.permutations(["RL", "AP", "SI"]).flatmap(
    lambda axes: st.tuples(*(st.sampled_from(axis) for axis in axes)).map("".join)
)


@settings(deadline=None, max_examples=48)
@given(ORIENTATIONS, st.floats(-0.3, 0.3))
def test_any_orientation_is_displayed_radiologically(orientation, tilt):
    array = np.zeros((4, 6, 8), np.uint8)
    # In LPS: the first slice is the lowest, the first row the front, the first column the patient's right.
    array[0, 1, 2] = 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 2.0, 3.0))
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(tilt, tilt / 2, -tilt)
    image.SetDirection(rotation.GetMatrix())
    shown, aspect = radiological_array(sitk.DICOMOrient(image, orientation))
    assert np.array_equal(shown, array)
    assert aspect == 4.0


def test_the_slice_with_most_tumor_is_the_middle_one_of_equals():
    mask = np.zeros((9, 4, 4), bool)
    assert slice_with_most(mask) == 4
    mask[1:4] = True
    assert slice_with_most(mask) == 2
    mask[3, 0] = False
    mask[2, 0, 0] = False
    assert slice_with_most(mask) == 1


def test_grey_window_ignores_a_few_extreme_and_undefined_values():
    grey = np.linspace(0, 100, 10_000).reshape(100, 100)
    grey[0, :3] = (1e6, np.nan, np.inf)
    low, high = grey_window(grey)
    assert 0 < low < 2
    assert 98 < high < 100


def test_picture_shows_the_tumor_where_it_is(tmp_path):
    # Stored right to left and back to front, so that careless drawing would mirror it.
    right_front = boxes_image((3, 8, 4, 14, 6, 16))
    for name, image in (("mask", right_front), ("image", sitk.Cast(right_front, sitk.sitkInt16))):
        write(sitk.DICOMOrient(image, "RAS"), tmp_path / f"{name}.nii.gz")
    example = Example("case", tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz", None)
    draw_examples([example], [1], tmp_path / "picture.png")
    picture = imread(tmp_path / "picture.png")[..., :3]
    whole = picture[: len(picture) // 2]
    rows, columns = np.nonzero(np.abs(whole - to_rgb(REFERENCE_COLOR)).max(axis=2) < 0.05)
    assert columns.size > 20
    # The display is 40 x 40 voxels; the tumour's centre is a quarter down and a good quarter from the left.
    white_margin = np.nonzero((whole < 0.9).any(axis=(0, 2)))[0]
    assert (columns.mean() - white_margin[0]) / np.ptp(white_margin) == pytest.approx(11 / 40, abs=0.04)
    assert rows.mean() < len(whole) * 0.55


# --- command ---------------------------------------------------------------------------------------------------------


def run_command(*arguments):
    parser = argparse.ArgumentParser()
    evaluate_command.add_arguments(parser)
    evaluate_command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_evaluate_command_scores_folders(fold, capsys):
    predictions = fold / "fold_0" / "validation"
    with pytest.raises(RectalError, match="-djfile"):
        run_command("-gt", fold / "gt", "-pred", predictions)
    (predictions / "dataset.json").write_text(json.dumps(DATASET))
    run_command("-gt", fold / "gt", "-pred", predictions, "-o", fold / "result")
    assert "Detected 2 of 6 lesions" in capsys.readouterr().out
    assert read_evaluation(fold / "result").n_cases == 6


def test_evaluate_command_refuses_folders_that_cannot_be_right(fold):
    dataset_file = fold / "dataset.json"
    dataset_file.write_text(json.dumps({**DATASET, "file_ending": ".nrrd"}))
    with pytest.raises(RectalError, match="no folder"):
        run_command("-gt", fold / "gt", "-pred", fold / "absent")
    with pytest.raises(RectalError, match=r"\.nrrd"):
        run_command("-gt", fold / "gt", "-pred", fold / "fold_0" / "validation")
    dataset_file.write_text("{}")
    with pytest.raises(RectalError, match=r"not nnU-Net's dataset\.json"):
        run_command("-gt", fold / "gt", "-pred", fold / "fold_0" / "validation")
