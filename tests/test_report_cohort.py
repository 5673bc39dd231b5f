"""Pages on confidence, volumes and groups: curves, operating point, calibration, cases to look at first."""

import html
import json
import re
import warnings
from dataclasses import replace

import pytest
from confidence_cases import random_cases
from hypothesis import given
from hypothesis import strategies as st
from report_runs import DATASET, DATASET_JSON, FAR, NEAR, SMALL, write_run, write_test_set

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.calibration import calibrate
from rectal_nnformer.evaluation.fold import write_evaluation
from rectal_nnformer.evaluation.froc import detection_curves
from rectal_nnformer.evaluation.log_odds import read_counts
from rectal_nnformer.evaluation.operating_point import nested_point, read_point
from rectal_nnformer.evaluation.review import review_order
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.evaluation.wish import parse_wish
from rectal_nnformer.reporting import compare_models, write_comparison, write_crossval_summary, write_report
from rectal_nnformer.reporting.charts import Axis, Curve, plane_chart, round_axis
from rectal_nnformer.reporting.cohort import analyse_cohort, kept_groups, point_lines
from rectal_nnformer.reporting.report_page import report_page
from rectal_nnformer.reporting.results import NO_FOLD, read_results, read_scored
from rectal_nnformer.utils.text import percent

GROUPS = "case,site,age\nfound,A,50\nhalf_found,A,61\ninvented,B,\nelsewhere,C,40\n"


def summarize(model, **options):
    base = model.parents[2]
    masks = base / f"nnUNet_preprocessed/{DATASET}/gt_segmentations"
    # Without images there is no picture, which takes long.
    return write_crossval_summary(model, base / "nowhere", masks, DATASET_JSON, folds=(0, 1), **options)


def section(page, name):
    return re.search(rf'<section id="{name}".*?</section>', page, re.S)[0]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "table.csv"
    path.write_text(GROUPS)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("sure"), sure=True)


@pytest.fixture(scope="module")
def page(model, groups):
    summarize(model, operating_point="f1", groups=groups)
    return write_report(model).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def unsure(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("unsure"))


# --- the page of a model ---------------------------------------------------------------------------------------------


def test_the_curve_stands_with_its_numbers(model, page):
    curves = detection_curves(read_results(model).pooled.cases)
    shown = section(page, "curves")
    for one in curves.merged.sensitivities:
        assert f'<td class="number">{percent(one.sensitivity.value)}</td>' in shown
    assert f'<td class="number">{curves.merged.average_precision.value:.3f}</td>' in shown
    assert "There is no ROC curve per case: all cases have a tumour." in shown
    assert 'class="band style-0"' in shown and "the operating point, nested" in shown


def test_the_operating_point_is_nested_on_the_page_and_of_all_folds_in_the_folder(model, page):
    folds = {fold: result.cases for fold, result in read_results(model).folds.items()}
    point = nested_point(folds, parse_wish("f1"))
    assert read_point(model) == point.chosen
    shown = section(page, "curves")
    assert f"{point.nested.sensitivity.count}/{point.nested.sensitivity.total}" in shown
    for fold, choice in point.folds.items():
        assert f'without fold {fold}</th><td class="number">{choice.point.min_confidence:.3f}' in shown


def test_calibration_is_shown_before_and_after_the_temperature(model, page):
    counts = {fold: read_counts(model / f"fold_{fold}/validation") for fold in (0, 1)}
    result, shown = calibrate(counts), section(page, "calibration")
    for one in (result.before.near_tumor, result.after.near_tumor, result.before.all_voxels):
        assert f'<td class="number">{one.ece:.4f}</td><td class="number">{one.brier:.4f}</td>' in shown
    assert f"fold 0 {result.fold_temperatures[0]:.2f}" in shown


def test_the_least_sure_case_comes_first_and_leads_to_its_pictures(model, page):
    names = re.findall(r'<th scope="row"><a href="#card-\d+"><bdi title="(\w+)"', section(page, "first"))
    assert names == [case.case for case in review_order(read_results(model).pooled.cases)]
    assert "disagreement" not in section(page, "first")


def test_rates_are_given_by_group_and_a_group_may_be_empty(page):
    shown = section(page, "groups")
    assert "table.csv" not in shown and "groups.csv has lines for 1 case without a scored case: elsewhere" in shown
    assert re.search(r">A</th><td[^>]*>2</td><td[^>]*>2/3 \(20.8-93.9 %\)</td>", shown)
    assert re.search(r">C</th><td[^>]*>0</td>(<td[^>]*>-</td>){10}", shown)
    assert re.search(r">C</th><td[^>]*>0</td>(<td[^>]*>-</td>){4}</tr>", shown)  # volumes
    assert re.search(r">A</th><td[^>]*>2</td><td[^>]*>-?\d+\.\d\d \(-?\d+\.\d\d to", shown)
    assert "1 case without a value left out" in shown


def test_every_chart_has_a_description_and_a_table_or_caption(page):
    for name, charts in {"curves": 1, "calibration": 1, "volumes": 1}.items():
        shown = section(page, name)
        assert shown.count("<svg") == shown.count("<desc") == charts and "<table" in shown


def test_a_paper_can_take_over_what_is_known(page):
    shown = section(page, "paper")
    for words in ("Operating point. For the wish f1", "Average precision", "ICC", "Groups. Differences", "FROC and"):
        assert words in shown


def test_the_summary_holds_all_of_it(model, page):
    content = json.loads((model / "crossval_summary.json").read_text())
    assert content["curves"]["n_reference"] == 5 and content["point"]["wish"] == "f1"
    assert [column["column"] for column in content["groups"]] == ["site", "age"]
    text = (model / "crossval_summary.md").read_text(encoding="utf-8")
    for heading in ("Found against false alarms", "Probabilities", "The least sure cases", "Volumes", "By group"):
        assert f"## {heading}" in text


# --- keeping a wish and groups ---------------------------------------------------------------------------------------


def test_a_wish_stays_until_another_one_or_none(tmp_path):
    folder = write_run(tmp_path, sure=True, analysed=False)
    assert summarize(folder).analysis.wish is None and read_point(folder) is None
    summarize(folder, operating_point="sensitivity=0.5")
    assert summarize(folder).analysis.wish == read_point(folder).wish == "sensitivity=0.5"
    summarize(folder, operating_point="fp-per-case=1")
    assert read_point(folder).wish == "fp-per-case=1"
    summarize(folder, operating_point="none")
    assert read_point(folder) is None and summarize(folder).analysis.wish is None


def test_a_table_that_cannot_be_used_is_not_kept(tmp_path):
    folder = write_run(tmp_path, sure=True, analysed=False)
    bad, good = tmp_path / "bad.csv", tmp_path / "good.csv"
    bad.write_text("case,date\n" + "".join(f"c{number},day {number}\n" for number in range(200)))
    good.write_text(GROUPS)
    with pytest.raises(RectalError, match="200 texts in 200 lines"):
        summarize(folder, groups=bad)
    assert kept_groups(folder) is None
    assert len(summarize(folder, groups=good).analysis.groups) == 2
    with pytest.raises(RectalError, match="200 texts in 200 lines"):
        summarize(folder, groups=bad)
    assert kept_groups(folder).read_text() == GROUPS


def test_where_no_fold_has_a_candidate_no_point_is_written_and_the_pages_say_why(tmp_path):
    folder = write_run(tmp_path, sure=True, analysed=False)
    summarize(folder, operating_point="f1")
    for fold, result in read_results(folder).folds.items():
        silent = [replace(case, candidates=()) for case in result.cases]
        write_evaluation(summarize_cases(silent), folder / f"fold_{fold}/validation")
    told = summarize(folder).analysis.point
    assert read_point(folder) is None
    reason = "No operating point for f1: no case has a candidate, whose confidence could be chosen."
    assert point_lines(told)[0] == reason
    assert reason in (folder / "crossval_summary.md").read_text(encoding="utf-8")
    assert "None can be chosen for f1: no case has a candidate" in write_report(folder).read_text(encoding="utf-8")


# --- what is not known -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer, ends", [("nnUNetTrainerSMIT_ACT", "--val. Then"), ("nnUNetTrainer", "--npz. Then")])
def test_what_is_not_known_says_how_to_get_it(unsure, trainer, ends):
    results = read_results(unsure)
    shown = report_page(replace(results, folder=replace(results.folder, trainer=trainer)), [], "today")
    for name in ("curves", "calibration", "first"):
        assert ends in section(shown, name) and "<svg" not in section(shown, name)


def test_a_test_set_tells_at_which_point_it_was_predicted(tmp_path):
    folder = write_test_set(tmp_path, sure=True)
    changed, as_they_are = "masks at the operating point of the prediction", "masks as they are"
    for point, masks in {
        "a confidence of at least 0.500, chosen for f1": changed,
        "none: lesions are those of the network's mask": as_they_are,
    }.items():
        (folder / "findings.json").write_text(json.dumps({"model": {"operating_point": point}}))
        shown = section(write_report(folder).read_text(encoding="utf-8"), "curves")
        assert point in html.unescape(shown) and "<svg" in shown
        assert [words in shown for words in (changed, as_they_are)] == [
            words == masks for words in (changed, as_they_are)
        ]


# --- groups by command -----------------------------------------------------------------------------------------------


def test_evaluate_writes_rates_by_group_and_the_report_finds_the_table(tmp_path, groups, capsys):
    folder = write_test_set(tmp_path)
    references = tmp_path / "nnUNet_raw/Dataset502_External/labelsTs"
    cli.main(["evaluate", "--gt", str(references), "--pred", str(folder), "--groups", str(groups)])
    assert str(folder / "group_rates.md") in capsys.readouterr().out
    assert "| A | 2 | 2/3 (20.8-93.9 %) |" in (folder / "group_rates.md").read_text(encoding="utf-8")
    column = json.loads((folder / "group_rates.json").read_text())["groups"][0]
    assert column["groups"][0]["detection_rate"]["count"] == 2
    assert 'id="groups"' in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["evaluate", "report", "compare"])
def test_a_table_that_tells_no_group_is_refused(tmp_path, model, unsure, command, capsys):
    (tmp_path / "bad.csv").write_text("patient\n1\n")
    given = {"evaluate": ["--gt", str(model), "--pred", str(model)], "report": [str(model)]}
    arguments = given.get(command, [str(model), str(unsure)])
    with pytest.raises(SystemExit):
        cli.main([command, *arguments, "--groups", str(tmp_path / "bad.csv")])
    assert "table of groups" in capsys.readouterr().err


# --- models side by side ---------------------------------------------------------------------------------------------


def test_models_are_compared_by_their_curves(model, unsure, groups, tmp_path):
    comparison = compare_models([model, write_run(tmp_path, trainer="Other", sure=True), unsure], groups)
    text = write_comparison(comparison, tmp_path)[0].read_text(encoding="utf-8")
    value = comparison.models[0].analysis.curves.merged.average_precision.value
    curves, rest = text.split("## Tumours found against false alarms")[1].split("## Probabilities")
    assert curves.count(f"| {value:.2f}") == 2 and "Not known of " in curves
    assert all(f"## {heading}" in rest for heading in ("Whether being unsure tells failures", "Volumes", "By group"))
    assert rest.count("elsewhere") == 1
    assert json.loads((tmp_path / "compare.json").read_text())["runs"][0]["analysis"]["curves"]["n_reference"] == 5


# --- all there can be ------------------------------------------------------------------------------------------------

COHORTS = {
    "one case": {"one": ([NEAR], [NEAR])},
    "no tumour": {"clean": ([], []), "invented": ([], [SMALL])},
    "all missed": {"one": ([NEAR], []), "two": ([FAR], [])},
    "nothing at all": {"clean": ([], [])},
    "with and without": {"one": ([NEAR], [NEAR]), "clean": ([], [SMALL])},
}


@pytest.mark.parametrize("name", COHORTS)
def test_every_cohort_has_a_page_and_no_warning(tmp_path, name, groups):
    folder = write_test_set(tmp_path, COHORTS[name], sure=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = write_report(folder, groups=groups).read_text(encoding="utf-8")
    assert "nan" not in re.sub(r"data:image[^\"]*|<style>.*</style>", "", page, flags=re.S)
    assert ('id="froc-name"' in page) == (name not in ("no tumour", "nothing at all"))
    assert ('id="roc-name"' in page) == (name == "with and without")


@pytest.mark.parametrize("folds", [{}, {0: []}])
def test_no_case_at_all_is_defined(folds):
    analysis = analyse_cohort({fold: summarize_cases(cases) for fold, cases in folds.items()}, {}, None, None)
    assert analysis.curves.reason == analysis.point.reason == "there is no case"


@pytest.mark.parametrize("number", [300, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("error")
def test_many_cases_take_less_than_20_seconds(tmp_path, number):
    import time  # of the processor: others may keep the machine busy

    few, _ = random_cases(60 if number == 300 else number)  # drawing them takes longer than what is tested
    cases = [
        replace(few[i % len(few)], case=f"case_{i}", patient=f"patient_{i % (number * 9 // 10)}") for i in range(number)
    ]
    (tmp_path / "groups.csv").write_text("case,site\n" + "".join(f"{c.case},{i % 4}\n" for i, c in enumerate(cases)))
    results = read_scored(write_test_set(tmp_path / "set", {"one": ([NEAR], [NEAR])}))
    begun = time.process_time()
    report_page(replace(results, folds={NO_FOLD: summarize_cases(cases)}), [], "today", tmp_path / "groups.csv")
    assert time.process_time() - begun < 20


# --- charts ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_a_round_axis_holds_its_values_with_few_ticks(values):
    axis = round_axis("", values)
    slack = 1e-8 * (axis.high - axis.low)
    assert axis.low <= min([0, *values]) + slack and axis.high >= max([0, *values]) - slack and axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 7 and all(axis.low <= tick <= axis.high for tick in axis.ticks)


def test_a_logarithmic_axis_draws_0_at_its_beginning():
    axis = Axis("x", 0.125, 8, {1: "1"}, logarithmic=True)
    assert [axis.share(value) for value in (0, 0.125, 1, 8, 100)] == pytest.approx([0, 0, 0.5, 1, 1])
    chart = str(
        plane_chart("c", "<b>", "<i>", axis, Axis("y", 0, 1, {}), [Curve("<u>", [(0, 0), (8, 1)], kind="both")])
    )
    assert "<b>" not in chart and "<u>" not in chart and 'points="66.0,274.0 346.0,34.0"' in chart


def test_a_model_without_a_readable_table_of_groups_says_which(model, tmp_path):
    with pytest.raises(RectalError, match=r"gone\.csv"):
        write_report(model, tmp_path / "page.html", groups=tmp_path / "gone.csv")
