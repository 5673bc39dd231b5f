import csv
import gzip
import json
import math
import re
from itertools import groupby

import numpy as np
import pytest
import report_runs
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.stats import binomtest

from rectal_nnformer.cli import build_parser
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.detection import StrictCounts
from rectal_nnformer.evaluation.fold import CASES_PER_PROCESS, evaluate_fold, read_evaluation
from rectal_nnformer.evaluation.rates import cluster_bootstrap, rate_of, wilson_interval
from rectal_nnformer.evaluation.summary import detection_line, patient_interval_words
from rectal_nnformer.imaging.display import (
    PREDICTION_COLOR,
    REFERENCE_COLOR,
    grey_window,
    radiological_array,
    slice_with_most,
)
from rectal_nnformer.reporting.crossval_summary import pick_examples
from rectal_nnformer.reporting.overlays import Example, draw_examples
from rectal_nnformer.reporting.writing import write_crossval_summary

SHAPE = (12, 40, 40)
SPACING = (0.5, 0.5, 3.0)
DATASET = {"labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
# [z0, z1, y0, y1, x0, x1]; the second lies well apart from the first.
LESION, OTHER, SHIFTED = (3, 8, 10, 20, 10, 20), (3, 8, 25, 35, 25, 35), (3, 8, 12, 22, 10, 20)


def boxes_image(*boxes, value=1, dtype=np.uint8, spacing=SPACING):
    array = np.zeros(SHAPE, dtype)
    for z0, z1, y0, y1, x0, x1 in boxes:
        array[z0:z1, y0:y1, x0:x1] = value
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
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


@pytest.mark.parametrize(("counts", "totals"), [([1, 2, 1], [1, 2, 1]), ([0, 0], [1, 3]), ([1, 2], [3, 6])])
def test_patients_who_are_all_alike_give_no_interval_by_resampling(counts, totals):
    assert cluster_bootstrap(counts, totals) is None
    assert rate_of(counts, totals).wilson_95 == wilson_interval(sum(counts), sum(totals))
    assert patient_interval_words(rate_of(counts, totals)) == "none: no two patients differ"
    assert patient_interval_words(rate_of([0], [0])) == "-"


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


@pytest.mark.parametrize("ignored", [4, "4"])
def test_tumor_labels_and_the_ignore_label_of_the_dataset_are_respected(tmp_path, ignored):
    """Numbers may be texts, as nnU-Net takes those of other labels."""
    labels = {"background": 0, "rectum": 1, "tumor": 2, "tumor_mucinous": 3, "ignore": ignored}
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


def test_lesions_are_counted_in_the_bin_of_their_size(tmp_path):
    # 20 mm3 a voxel: 500 voxels are 10 cm3, on the bound of two bins, and 250 are 5 cm3.
    large, small = LESION, (3, 8, 25, 35, 25, 30)
    for folder, boxes in (("gt", (large, small)), ("fold_0/validation", (large,))):
        write(boxes_image(*boxes, spacing=(2.0, 2.0, 5.0)), tmp_path / folder / "case.nii.gz")
    rates = {name: (rate.count, rate.total) for name, rate in evaluate(tmp_path, ["case"]).size_bins.items()}
    assert rates == {"0-5": (0, 0), "5-10": (0, 1), "10-20": (1, 1), "20-40": (0, 0), "40+": (0, 0)}


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


def test_a_label_placed_or_stored_otherwise_than_its_image_is_scored_as_nnunet_trains_on_it(tmp_path):
    """The prediction has the image's geometry; the label lacks the origin, and is stored from left to right."""
    image = boxes_image(LESION)
    image.SetOrigin((5, 6, 30))
    write(image, tmp_path / "fold_0" / "validation" / "case.nii.gz")
    label = sitk.DICOMOrient(boxes_image(LESION), "RPS")
    write(label, tmp_path / "gt" / "case.nii.gz")
    result = evaluate_fold(tmp_path / "fold_0/validation", tmp_path / "gt", DATASET, ["case"], ignore_position=True)
    assert (result.n_detected, result.cases[0].dice) == (1, 1)


@pytest.mark.parametrize("folder", ["gt", "fold_0/validation"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_mask_file_that_ends_early_is_refused(tmp_path, folder, share):
    # SimpleITK reads either as a whole volume, with zeros for what is missing.
    write_case(tmp_path, "torn", [LESION, OTHER], [LESION, OTHER])
    path = tmp_path / folder / "torn.nii.gz"
    content = path.read_bytes()
    if share > 0.9:
        path.write_bytes(content[: int(share * len(content))])
    else:
        whole = gzip.decompress(content)
        path.write_bytes(gzip.compress(whole[: int(share * len(whole))]))
    assert sitk.ReadImage(str(path)).GetSize() == SHAPE[::-1]
    with pytest.raises(RectalError, match=rf"case torn: .*{folder}/torn\.nii\.gz"):
        evaluate(tmp_path, ["torn"])


@pytest.mark.parametrize("folder", ["gt", "fold_0/validation"])
@pytest.mark.parametrize(("value", "dtype", "shown"), [(255, np.uint8, "255"), (0.75, np.float32, "0.75")])
def test_values_that_are_no_labels_are_refused(tmp_path, folder, value, dtype, shown):
    write_case(tmp_path, "foreign", [LESION], [LESION])
    write(boxes_image(LESION, value=value, dtype=dtype), tmp_path / folder / "foreign.nii.gz")
    with pytest.raises(
        RectalError, match=rf"case foreign: .*{folder}/foreign\.nii\.gz.*no labels.*\({shown};.* 0, 1\)"
    ):
        evaluate(tmp_path, ["foreign"])


def test_regions_are_tumor_with_each_of_their_labels(tmp_path):
    write(boxes_image(LESION, value=1), tmp_path / "gt" / "case.nii.gz")
    write(boxes_image(LESION, value=2), tmp_path / "fold_0" / "validation" / "case.nii.gz")
    dataset = {**DATASET, "labels": {"background": 0, "tumor": [1, 2]}}
    result = evaluate_fold(tmp_path / "fold_0" / "validation", tmp_path / "gt", dataset, ["case"])
    assert (result.n_detected, result.case_dice.mean) == (1, 1)


@pytest.mark.parametrize("kind", ["4D", "2D", "vectors"])
def test_only_one_volume_is_scored(tmp_path, kind):
    mask = boxes_image(LESION)
    image = {"4D": sitk.JoinSeries([mask, mask]), "2D": mask[:, :, 5], "vectors": sitk.Compose(mask, mask)}[kind]
    for folder in ("gt", "fold_0/validation"):
        write(image, tmp_path / folder / "odd.nii.gz")
    with pytest.raises(RectalError, match=r"case odd: .*odd\.nii\.gz (is not a 3D|does not have one real)"):
        evaluate(tmp_path, ["odd"])


@pytest.mark.parametrize("name", ["reference", "prediction"])
def test_a_mask_without_a_usable_grid_is_not_scored(tmp_path, name):
    """By the check that images go through: axes that are not orthogonal have no volumes in mm."""
    sheared = boxes_image(LESION)
    sheared.SetDirection((1, 0.3, 0, 0, 1, 0, 0, 0, 1))
    for role, folder in (("reference", "gt"), ("prediction", "fold_0/validation")):
        write(sheared if role == name else boxes_image(LESION), tmp_path / folder / "odd.nrrd")
    with pytest.raises(RectalError, match=rf"case odd: the {name} cannot be scored: .* axes that are not orthogonal"):
        evaluate_fold(tmp_path / "fold_0/validation", tmp_path / "gt", {**DATASET, "file_ending": ".nrrd"}, ["odd"])


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
    return write_crossval_summary(root, root / "imagesTr", root / "gt", DATASET, folds=folds, **options)


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


def test_names_of_cases_stay_text_in_the_page_and_the_picture(tmp_path):
    names = ["<script>alert(1)", "[x](javascript:alert(1))", "a|b*c*`d`&lt;", "$\\frac$", "\u202eturned", "_em_"]
    for name in names:
        write_case(tmp_path, name, [LESION], [])
    evaluate(tmp_path, names)
    summary = summarize(tmp_path, [0])
    assert summary.picture_note == ""
    page = (tmp_path / "crossval_summary.md").read_text(encoding="utf-8")
    missed = page.split("## Missed lesions")[1].split("##")[0]
    cells = [re.split(r"(?<!\\)\|", line)[2].strip() for line in missed.splitlines() if line.startswith("| 0 ")]
    assert sorted(cells) == sorted(
        [
            "&lt;script>alert(1)",
            "\\[x\\](javascript:alert(1))",
            "a\\|b\\*c\\*\\`d\\`&amp;lt;",
            "\\$\\\\frac\\$",
            "\ufffdturned",
            "\\_em\\_",
        ]
    )
    notes = page.split("## Cases to look at")[1].split("##")[0]
    assert "- fold 0, \\_em\\_: nothing predicted" in notes and "<" not in notes


def test_crossval_page_says_it_in_words(crossval):
    summarize(crossval)
    page = (crossval / "crossval_summary.md").read_text(encoding="utf-8")
    low, high = wilson_interval(6, 10)
    assert f"**6 of 10 tumours detected (60.0 %, 95 % CI {100 * low:.1f}-{100 * high:.1f})**" in page
    low, high = wilson_interval(4, 4)
    assert f"| 1 | 2 | 4/4 | 100.0 % | {100 * low:.1f}-100.0 % | none: no two patients differ |" in page
    assert "100.0-100.0" not in page
    assert "| 0 | silent | 1 |" in page
    assert "fold 0, lost: prediction file missing" in page
    assert "![Best, median and worst case](crossval_summary.png)" in page


def test_crossval_tells_attention_and_features_by_fold_and_over_the_folds(crossval):
    summarize(crossval)
    assert "Not analysed: 'rectal_nnformer attention' measures it." in (crossval / "crossval_summary.md").read_text(
        encoding="utf-8"
    )
    for fold in (0, 1):
        validation = crossval / f"fold_{fold}/validation"
        (validation / "attention_dilution.json").write_text(json.dumps(report_runs.attention(0.02 + 0.02 * fold)))
    (crossval / "fold_1/validation/feature_reuse.json").write_text(json.dumps(report_runs.reuse(0.9)))
    summarize(crossval)
    page = (crossval / "crossval_summary.md").read_text(encoding="utf-8")
    content = json.loads((crossval / "crossval_summary.json").read_text())
    assert "| fold 1 | 0.040 | 0.020 |" in page and "| mean over the folds | 0.030 | 0.015 |" in page
    assert "| fold 1 | 34 | 0.690 | 0.310 | 0.270 to 0.350 |" in page
    first = content["attention_dilution"][0]
    assert first["adi_of_folds"] == {"0": 0.02, "1": 0.04} and first["means"]["adi"] == pytest.approx(0.03)
    assert content["feature_reuse"]["folds"] == {"1": pytest.approx(0.69)}
    assert "Without fold 0: 'rectal_nnformer feature_reuse' measures it." in page
    assert "'rectal_nnformer attention' measures it" not in page


def test_crossval_takes_other_patients_without_scoring_again(crossval):
    for path in crossval.glob("fold_*/validation/*.nii.gz"):
        path.unlink()
    summary = summarize(crossval, patients={"perfect": "p", "bridged": "p"})
    assert (summary.pooled.n_patients, summary.pooled.n_detected) == (7, 6)


def test_crossval_says_where_patients_are_shared_between_folds(crossval):
    def written():
        content = json.loads((crossval / "crossval_summary.json").read_text())
        page = (crossval / "crossval_summary.md").read_text(encoding="utf-8")
        return content["patients_shared_between_folds"], "optimistic" in page, page

    assert summarize(crossval).patients_shared_between_folds == 0
    assert written()[:2] == (0, False)
    # Two cases of a patient in one fold are as they should be.
    summarize(crossval, patients={"hit": "p", "half": "p", "perfect": "q", "bridged": "q"})
    assert written()[:2] == (0, False)
    shared = {"hit": "p", "half": "p", "perfect": "p", "silent": "q", "bridged": "q", "lost": "r"}
    assert summarize(crossval, patients=shared).patients_shared_between_folds == 2
    assert written()[:2] == (2, True)
    assert "share 2 patients" in written()[2]


def test_crossval_refuses_a_case_in_two_folds(crossval):
    write_case(crossval, "hit", [LESION], [LESION], fold=1)
    evaluate(crossval, ["perfect", "hit"], fold=1)
    with pytest.raises(RectalError, match=r"case hit .*fold 0 .*fold 1"):
        summarize(crossval)


def test_evaluated_cases_are_those_of_the_fold(crossval):
    def evaluated(fold):
        return {case.case for case in read_evaluation(crossval / f"fold_{fold}/validation").cases}

    assert evaluated(0) == set(CASES)
    assert evaluated(1) == {"perfect", "bridged"}
    with pytest.raises(RectalError, match="fold_2"):
        evaluated(2)


def case_of_dice(name, dice):
    return CaseDetection(name, name, "", False, 1, 1, 1, 0, 0, StrictCounts(1, 0, 0), dice, (), ())


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ({"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.7, "e": 0.2}, {"best": "b", "median": "a", "worst": "c"}),
        ({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}, {"best": "d", "median": "b", "worst": "a"}),
        ({"a": 0.5, "b": None, "c": 0.1}, {"best": "a", "worst": "c"}),
        ({"a": 0.5}, {"best": "a"}),
        ({"a": None}, {}),
    ],
)
def test_examples_are_the_best_the_median_and_the_worst_case(dice, expected):
    picked = pick_examples([case_of_dice(*case) for case in dice.items()])
    assert {name: case.case for name, case in picked.items()} == expected


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
    assert f"No picture: {note}" in (crossval / "crossval_summary.md").read_text(encoding="utf-8")


# --- display ---------------------------------------------------------------------------------------------------------


ORIENTATIONS = st.permutations(["RL", "AP", "SI"]).flatmap(
    lambda axes: st.tuples(*(st.sampled_from(axis) for axis in axes)).map("".join)
)


@settings(max_examples=24)
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


# --- pictures --------------------------------------------------------------------------------------------------------


# In display order: a tumour on the patient's right, a smaller prediction further left and back.
SEEN, GUESSED = (3, 8, 14, 20, 10, 16), (3, 8, 24, 28, 20, 24)


def write_example(folder):
    """Write an example with a black image, stored right to left and back to front: mirrored if drawn as stored."""
    images = {
        "image": boxes_image(dtype=np.int16),
        "reference": boxes_image(SEEN),
        "prediction": boxes_image(GUESSED),
    }
    for name, image in images.items():
        write(sitk.DICOMOrient(image, "RAS"), folder / f"{name}.nii.gz")
    return Example("case", *(folder / f"{name}.nii.gz" for name in images))


def draw(example, path):
    draw_examples([example], [1], path)
    return imread(path)[..., :3]


def panels(picture):
    """Return the whole slice and the close-up, cut out of the picture of one black example."""
    dark = (picture < 0.9).any(axis=2)
    # Rows of a panel are mostly dark, also under the white frame of the close-up; title and legend are not so high.
    runs = groupby(np.arange(len(dark)), lambda row: dark[row].mean() > 0.2)
    whole, close_up = (rows for rows in (list(run) for is_dark, run in runs if is_dark) if len(rows) > 100)
    return [picture[np.ix_(rows, np.flatnonzero(dark[rows].mean(axis=0) > 0.2))] for rows in (whole, close_up)]


def center_of(color, panel):
    """Return where a colour is, as shares of the panel's width and height."""
    rows, columns = np.nonzero(np.abs(panel - to_rgb(color)).max(axis=2) < 0.05)
    assert rows.size > 20
    height, width, _ = panel.shape
    return (columns.min() + columns.max() + 1) / 2 / width, (rows.min() + rows.max() + 1) / 2 / height


def test_picture_shows_reference_and_prediction_where_they_are(tmp_path):
    whole, _ = panels(draw(write_example(tmp_path), tmp_path / "picture.png"))
    assert center_of(REFERENCE_COLOR, whole) == pytest.approx((13 / 40, 17 / 40), abs=0.01)
    assert center_of(PREDICTION_COLOR, whole) == pytest.approx((22 / 40, 26 / 40), abs=0.01)


def test_picture_has_a_close_up_of_both(tmp_path):
    _, close_up = panels(draw(write_example(tmp_path), tmp_path / "picture.png"))
    # Both together are 14 x 14 voxels around (17, 21); nine tenths of that are shown to each side.
    for color, (x, y) in ((REFERENCE_COLOR, (13, 17)), (PREDICTION_COLOR, (22, 26))):
        expected = ((x - 17) / 25.2 + 0.5, (y - 21) / 25.2 + 0.5)
        assert center_of(color, close_up) == pytest.approx(expected, abs=0.02)


def test_picture_without_a_prediction_has_none(tmp_path):
    example = write_example(tmp_path)
    alone = Example(example.title, example.image, example.reference, None)
    whole, _ = panels(draw(alone, tmp_path / "picture.png"))
    assert center_of(REFERENCE_COLOR, whole) == pytest.approx((13 / 40, 17 / 40), abs=0.01)
    assert not (np.abs(whole - to_rgb(PREDICTION_COLOR)).max(axis=2) < 0.05).any()


def test_picture_letters_the_sides_of_the_patient(tmp_path):
    whole, _ = panels(draw(write_example(tmp_path), tmp_path / "picture.png"))
    white = (whole > 0.7).all(axis=2)
    height, width = white.shape

    def letter(rows, columns):
        part = white[int(rows[0] * height) : int(rows[1] * height), int(columns[0] * width) : int(columns[1] * width)]
        used_rows, used_columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        assert used_rows.size > 4, "no letter there"
        return part[used_rows[0] : used_rows[-1] + 1, used_columns[0] : used_columns[-1] + 1]

    def upper_right(glyph):
        return glyph[: glyph.shape[0] // 3, glyph.shape[1] // 2 :].any()

    # An R has ink in its upper right, an L has none; an A begins narrow and ends wide.
    assert upper_right(letter((0.45, 0.55), (0, 0.06)))
    assert not upper_right(letter((0.45, 0.55), (0.94, 1)))
    front = letter((0, 0.08), (0.45, 0.55))
    assert np.ptp(np.flatnonzero(front[0])) < np.ptp(np.flatnonzero(front[-1])) / 2


def test_picture_is_the_same_if_rounding_tilts_a_mask_across_45_degrees(tmp_path):
    example = write_example(tmp_path)
    pictures = []
    for step in (-1e-4, 1e-4):
        for path, tilt in ((example.image, -1e-4), (example.reference, step), (example.prediction, step)):
            image = sitk.ReadImage(str(path))
            rotation = sitk.Euler3DTransform()
            rotation.SetRotation(math.pi / 4 + tilt, 0, 0)
            image.SetDirection(rotation.GetMatrix())
            write(image, path)
        pictures.append(draw(example, tmp_path / "picture.png"))
    assert sitk.DICOMOrient(sitk.ReadImage(str(example.image))).GetSize() != sitk.DICOMOrient(image).GetSize()
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("name", ["reference", "prediction"])
def test_picture_refuses_a_mask_that_lies_elsewhere(tmp_path, name):
    example = write_example(tmp_path)
    mask = sitk.ReadImage(str(getattr(example, name)))
    mask.SetOrigin([position + 2 for position in mask.GetOrigin()])
    write(mask, getattr(example, name))
    with pytest.raises(RectalError, match=rf"{name}\.nii\.gz.*grid"):
        draw(example, tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()


# --- command ---------------------------------------------------------------------------------------------------------


def run_command(*arguments):
    parsed = build_parser().parse_args(["evaluate", *map(str, arguments)])
    parsed.command.run(parsed)


def test_evaluate_command_scores_folders(fold, capsys):
    predictions = fold / "fold_0" / "validation"
    with pytest.raises(RectalError, match="-djfile"):
        run_command("--gt", fold / "gt", "--pred", predictions)
    (predictions / "dataset.json").write_text(json.dumps(DATASET))
    run_command("--gt", fold / "gt", "--pred", predictions, "-o", fold / "result")
    assert "Detected 2 of 6 lesions" in capsys.readouterr().out
    assert read_evaluation(fold / "result").n_cases == 6


def test_evaluate_command_refuses_predictions_of_another_format_and_lists_some_of_it(fold, capsys):
    """Taken for missing they would be scored as "0 of 6 detected"."""
    predictions = fold / "fold_0" / "validation"
    (predictions / "dataset.json").write_text(json.dumps(DATASET))
    masks = sorted(predictions.glob("*.nii.gz"))
    for path in masks:
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).removesuffix(".gz"))
    run_command("--gt", fold / "gt", "--pred", predictions)
    assert f"{len(masks)} files of another format than .nii.gz: half.nii" in capsys.readouterr().out
    for path in masks:
        path.unlink()
    with pytest.raises(RectalError, match=r"no prediction for any of the 6 references, .* but half.nii"):
        run_command("--gt", fold / "gt", "--pred", predictions)


def test_references_of_another_format_are_named(fold, capsys):
    predictions = fold / "fold_0" / "validation"
    (predictions / "dataset.json").write_text(json.dumps(DATASET))
    left = sorted((fold / "gt").glob("*.nii.gz"))[0]
    sitk.WriteImage(sitk.ReadImage(str(left)), str(left).removesuffix(".gz"))
    left.unlink()
    run_command("--gt", fold / "gt", "--pred", predictions, "-o", fold / "result")
    assert f"1 reference of another format than .nii.gz not scored: {left.stem}" in capsys.readouterr().out
    assert read_evaluation(fold / "result").n_cases == 5


def test_endings_in_capitals_are_of_the_same_format(fold, capsys):
    """Taken for missing, references would be left out, and predictions count as missed."""
    predictions = fold / "fold_0" / "validation"
    expected = evaluate(fold, CASES)
    (predictions / "dataset.json").write_text(json.dumps(DATASET))
    for path in (predictions / "hit.nii.gz", predictions / "half.nii.gz", fold / "gt" / "hit.nii.gz"):
        path.rename(path.with_name(f"{path.name.partition('.')[0]}.NII.GZ"))
    run_command("--gt", fold / "gt", "--pred", predictions)
    assert read_evaluation(predictions) == expected
    assert "Not scored" not in capsys.readouterr().out


@pytest.mark.parametrize("order", ["RAS", "SAL"])
def test_a_prediction_whose_axes_are_flipped_or_permuted_is_scored(fold, order):
    expected = evaluate(fold, CASES)
    for path in (fold / "fold_0" / "validation").glob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), order), str(path))
    assert evaluate(fold, CASES) == expected


def test_evaluate_command_names_predictions_without_a_reference(fold, capsys):
    predictions = fold / "fold_0" / "validation"
    (predictions / "dataset.json").write_text(json.dumps(DATASET))
    run_command("--gt", fold / "gt", "--pred", predictions)
    assert "without a reference" not in capsys.readouterr().out
    (fold / "gt" / "invented.nii.gz").rename(fold / "gt" / "._invented.nii.gz")
    (fold / "gt" / "half.nii.gz").unlink()
    run_command("--gt", fold / "gt", "--pred", predictions)
    output = capsys.readouterr().out
    assert "2 predictions without a reference: half, invented\n" in output
    assert f"Left aside in {fold / 'gt'}, hidden: ._invented.nii.gz\n" in output
    assert "in 4 cases" in output


def test_evaluate_command_refuses_folders_that_cannot_be_right(fold):
    dataset_file = fold / "dataset.json"
    dataset_file.write_text(json.dumps({**DATASET, "file_ending": ".nrrd"}))
    with pytest.raises(RectalError, match="no folder"):
        run_command("--gt", fold / "gt", "--pred", fold / "absent")
    with pytest.raises(RectalError, match=r"\.nrrd"):
        run_command("--gt", fold / "gt", "--pred", fold / "fold_0" / "validation")
    old_format, listed = {"0": "background", "1": "tumor"}, ["background", "tumor"]
    for content in ({}, [], {**DATASET, "labels": listed}, {**DATASET, "labels": old_format}):
        dataset_file.write_text(json.dumps(content))
        with pytest.raises(RectalError, match=r"dataset\.json (is not|cannot be used)"):
            run_command("--gt", fold / "gt", "--pred", fold / "fold_0" / "validation")
