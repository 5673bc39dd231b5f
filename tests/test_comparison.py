"""Runs side by side: the tests against scipy and hand-made values, what is paired, what is refused, what is written."""

import csv
import json
import math
import re
import shutil
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from report_runs import CASES, DATASET, FAR, NEAR, SMALL, attention, reuse, write_run
from scipy.stats import binomtest, bootstrap

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.agreement import means_and_differences
from rectal_nnformer.evaluation.review import review_order
from rectal_nnformer.evaluation.statistics import agreements, holm, mcnemar_exact, paired_difference
from rectal_nnformer.reporting.comparison import compare_models
from rectal_nnformer.reporting.comparison_figure import comparison_figure
from rectal_nnformer.reporting.pages import comparison_page
from rectal_nnformer.reporting.writing import write_comparison

counts = st.integers(0, 60)


# --- McNemar's test --------------------------------------------------------------------------------------------------


@given(counts, counts)
def test_mcnemar_is_the_sign_test_on_the_lesions_that_one_alone_detected(only_first, only_second):
    p = mcnemar_exact(only_first, only_second)
    trials = only_first + only_second
    assert p == pytest.approx(binomtest(only_first, trials).pvalue if trials else 1.0)
    assert p == mcnemar_exact(only_second, only_first)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    # By hand: 2 (1 + 6) / 2^6, 2 / 2^10, and nothing to decide by.
    [(1, 5, 14 / 64), (0, 10, 2 / 1024), (4, 4, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_by_hand(only_first, only_second, p):
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p)


def test_mcnemar_stays_exact_with_many_lesions_and_refuses_negative_counts():
    assert mcnemar_exact(900, 1100) == pytest.approx(binomtest(900, 2000).pvalue)
    with pytest.raises(ValueError):
        mcnemar_exact(-1, 2)


# --- several pairs ---------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # Holm's own procedure: 3 x 0.01, then 2 x 0.02, then 0.04 which may not fall below the one before.
    assert holm([0.02, 0.04, 0.01]) == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_between_the_value_itself_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p) or math.isclose(p, q)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert all(adjusted[a] <= adjusted[b] for a, b in pairwise(order))


def test_agreement_counts_each_lesion_once_and_adjusts_for_the_pairs():
    first = [(True, False)] * 8 + [(True, True)] * 3 + [(False, False)]
    second = [(False, True)] * 2 + [(True, True)] * 10
    one, two = agreements([first, second])
    assert (one.both, one.only_first, one.only_second, one.neither) == (3, 8, 0, 1)
    assert (one.p, one.p_holm) == pytest.approx((2 / 256, 4 / 256))
    assert (two.p, two.p_holm) == pytest.approx((0.5, 0.5))


# --- differences -----------------------------------------------------------------------------------------------------


def test_the_paired_bootstrap_agrees_with_scipys():
    rng = np.random.default_rng(3)
    first, second = rng.random(40), rng.random(40) - 0.1
    difference = paired_difference([f"p{i}" for i in range(40)], first.tolist(), second.tolist())
    expected = bootstrap((first - second,), np.mean, method="percentile", n_resamples=20_000, rng=1)
    assert difference.value == pytest.approx(np.mean(first - second))
    assert difference.patient_bootstrap_95 == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


def test_patients_are_drawn_whole():
    """Ten patients with four lesions each that go together have the interval of ten, not of forty, lesions."""
    values = [1.0, 0.0] * 5
    apart = paired_difference([f"p{i}" for i in range(40)], values * 4, [0.5] * 40)
    together = paired_difference([f"p{i % 10}" for i in range(40)], values * 4, [0.5] * 40)
    low, high = together.patient_bootstrap_95
    # Half of the patients with chance one half: +- 1.96 sqrt(0.25 / 10).
    assert (low, high) == pytest.approx((-0.31, 0.31), abs=0.05)
    assert low < apart.patient_bootstrap_95[0] and apart.patient_bootstrap_95[1] < high


def test_a_difference_that_is_the_same_for_all_patients_has_no_interval():
    alike = paired_difference(["a", "b", "c"], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    assert (alike.value, alike.patient_bootstrap_95) == (1.0, None)
    assert paired_difference(["a", "b"], [1.0, 1.0], [0.0, 1.0]).patient_bootstrap_95 == (0.0, 1.0)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_other_way_round_the_difference_is_its_negative(rows):
    patients, first, second = ([str(row[0]) for row in rows], *([row[i] for row in rows] for i in (1, 2)))
    one, other = paired_difference(patients, first, second), paired_difference(patients, second, first)
    assert one.value == pytest.approx(-other.value)
    if one.patient_bootstrap_95 is None:
        assert other.patient_bootstrap_95 is None
    else:
        low, high = other.patient_bootstrap_95
        assert one.patient_bootstrap_95 == pytest.approx((-high, -low), abs=1e-9)


# --- runs ------------------------------------------------------------------------------------------------------------

ACT = {**CASES, "half_found": ([NEAR, FAR], [NEAR, FAR]), "only_here": ([NEAR], [NEAR])}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Base detects 3 of 5 tumours, ACT 4 of the same 5 and one of a case that Base lacks; scratch is not analysed."""
    base = tmp_path_factory.mktemp("comparison")
    models = [
        write_run(base, ACT, trainer="nnUNetTrainerSMIT_ACT"),
        write_run(base, CASES, trainer="nnUNetTrainerSMIT_Base"),
        write_run(base, CASES, trainer="nnUNetTrainerSMIT_Base_Scratch", analysed=False),
    ]
    for fold in (0, 1):
        validation = models[1] / f"fold_{fold}/validation"
        (validation / "attention_dilution.json").write_text(json.dumps(attention(0.2)))
        (validation / "feature_reuse.json").write_text(json.dumps(reuse(0.97)))
    return models


@pytest.fixture(scope="module")
def comparison(runs):
    return compare_models(runs)


def test_runs_are_compared_on_the_cases_that_they_share(comparison):
    assert (comparison.num_shared_cases, comparison.num_shared_patients) == (4, 4)
    assert [run.num_left_out for run in comparison.models] == [1, 0, 0]
    detected = [(run.detection.n_detected, run.detection.n_reference) for run in comparison.models]
    assert detected == [(4, 5), (3, 5), (3, 5)]


def test_lesions_are_paired_one_by_one(comparison):
    pair = comparison.pairs[0]
    assert (pair.first, pair.second) == ("SMIT_ACT", "SMIT_Base")
    agreement = pair.detection
    assert (agreement.both, agreement.only_first, agreement.only_second, agreement.neither) == (3, 1, 0, 1)
    assert (agreement.p, agreement.p_holm) == (1.0, 1.0)
    assert pair.detection_rate.value == pytest.approx(1 / 5) and pair.detection_rate.count == 5
    assert pair.dice.value > 0 and pair.dice.count == 4
    assert pair.false_positives_per_case.value == 0


def test_encoders_stand_beside_each_other(comparison):
    act, base, scratch = comparison.models
    assert act.stages[0].means["adi"] == pytest.approx(0.025) and base.stages[0].means["adi"] == pytest.approx(0.2)
    assert base.reuse.mean_diagonal > act.reuse.mean_diagonal
    assert [point.fold for point in base.fold_points] == [0, 1]
    # Fold 0 holds `found` and `invented`, fold 1 the two with a missed tumour.
    assert [point.detection_rate for point in base.fold_points] == [1.0, pytest.approx(1 / 3)]
    assert scratch.stages == () and scratch.reuse is None and scratch.fold_points == ()


def test_all_files_are_written_and_say_what_is_compared(comparison, tmp_path):
    paths = write_comparison(comparison, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    page = (tmp_path / "new/compare.md").read_text(encoding="utf-8")
    assert "On 4 cases of 4 patients with 5 tumours" in page and "1 case left out" in page
    assert "| SMIT_ACT | SMIT_Base | 3 | 1 | 0 | 1 | 1.000 | 1.000 |" in page
    assert "Not analysed: SMIT_Base_Scratch." in page and "Holm" in page
    assert "| half_found | 2 | " in page
    content = json.loads((tmp_path / "new/compare.json").read_text())
    assert content["pairs"][0]["detection"]["only_first"] == 1 and len(content["lesions"]) == 5
    with (tmp_path / "new/compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["detected: SMIT_ACT"] for row in rows].count("True") == 4
    assert imread(tmp_path / "new/compare.png").shape[1] > 1000


def test_the_command_prints_what_each_run_found(runs, tmp_path, capsys):
    cli.main(["compare", *map(str, runs[:2]), "-o", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "SMIT_ACT: Detected 4 of 5 lesions" in printed and str(tmp_path / "compare.md") in printed
    sentence = "4 of 5 cases are in all models; the others are left out: only_here."
    assert f"Note: {sentence}" in printed
    page = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert page.index(f"**{sentence}**") < page.index("On 4 cases")
    assert json.loads((tmp_path / "compare.json").read_text())["left_out_cases"] == ["only_here"]


def test_many_cases_that_are_left_out_are_counted(tmp_path, capsys):
    more = {f"more_{number}": ([NEAR], [NEAR]) for number in range(8)}
    models = [write_run(tmp_path, {**CASES, **more}, trainer="A"), write_run(tmp_path, trainer="B")]
    cli.main(["compare", *map(str, models), "-o", str(tmp_path)])
    named = ", ".join(f"more_{number}" for number in range(5))
    assert f"4 of 12 cases are in all models; the others are left out: {named} and 3 more." in capsys.readouterr().out


def test_runs_on_the_same_cases_leave_none_out(runs, tmp_path, capsys):
    cli.main(["compare", *map(str, runs[1:]), "-o", str(tmp_path)])
    assert "left out" not in capsys.readouterr().out + (tmp_path / "compare.md").read_text(encoding="utf-8")


def test_the_page_says_at_the_p_values_that_holms_are_for_several_pairs(runs, comparison, tmp_path):
    page = write_comparison(comparison, tmp_path)[0].read_text(encoding="utf-8")
    detection, differences = (page.split(f"## {title}")[1].split("##")[0] for title in ("Detection", "Differences"))
    assert "3 pairs are tested: read *p, Holm*" in detection
    assert "not adjusted for the 3 pairs" in differences
    page = write_comparison(compare_models(runs[:2]), tmp_path)[0].read_text(encoding="utf-8")
    assert "pairs are tested" not in page and "for the 1 pair" not in page


def test_p_values_of_four_runs_are_adjusted_for_six_pairs_by_hand(tmp_path):
    """A finds all of nine tumours, B and C none of them, D the first three; each case is a patient."""
    names = [f"case_{number}" for number in range(9)]
    found = {"A": 9, "B": 0, "C": 0, "D": 3}
    models = [
        write_run(tmp_path, {n: ([SMALL], [SMALL] if i < number else []) for i, n in enumerate(names)}, trainer=trainer)
        for trainer, number in found.items()
    ]
    tests = {(pair.first, pair.second): pair.detection for pair in compare_models(models).pairs}
    # 2 / 2^9 against B and C, 2 / 2^6 against D, 2 / 2^3 of D against B and C, and 1 where none differ.
    assert [tests["A", other].p for other in "BCD"] == pytest.approx([1 / 256, 1 / 256, 1 / 32])
    assert [tests[pair].p for pair in (("B", "C"), ("B", "D"), ("C", "D"))] == pytest.approx([1, 0.25, 0.25])
    # Holm: 6 / 256 twice (5 / 256 may not fall below it), 4 / 32, 3 / 4 twice, 1.
    assert [tests["A", other].p_holm for other in "BCD"] == pytest.approx([6 / 256, 6 / 256, 4 / 32])
    assert [tests[pair].p_holm for pair in (("B", "C"), ("B", "D"), ("C", "D"))] == pytest.approx([1, 0.75, 0.75])


def test_runs_without_any_analysis_are_compared_all_the_same(tmp_path):
    models = [write_run(tmp_path, trainer=f"nnUNetTrainer{name}", analysed=False) for name in ("A", "B")]
    comparison = compare_models(models)
    paths = write_comparison(comparison, tmp_path / "out")
    assert all(path.is_file() for path in paths)
    assert [title.split(",")[0].split("\n")[0] for title in panel_titles(comparison)] == [
        "Detection rate",
        "Difference in detection rate",
        "Volumes",
    ]


def test_volumes_stand_with_their_limits_and_cases_in_the_order_to_look_at_them(tmp_path):
    models = [write_run(tmp_path, trainer=name, sure=True) for name in ("A", "B")]
    comparison = compare_models(models)
    axes = next(axes for axes in comparison_figure(comparison).axes if axes.get_title().startswith("Volumes"))
    cases, limits = comparison.models[0].detection.cases, comparison.models[0].analysis.volumes.difference_cm3
    drawn = axes.lines[0].get_xydata()
    assert drawn == pytest.approx(means_and_differences(cases)) and len(drawn) == len(cases)
    levels = [line.get_ydata()[0] for line in axes.lines[2:5]]
    assert levels == pytest.approx([limits.bias, limits.lower, limits.upper])
    listed = comparison_page(comparison, "").split("## Which cases to look at first")[1].split("\n## ")[0]
    names = [case.case for case in review_order(cases)]
    assert re.findall(r"^\| (\S+) \|", listed.split("### B")[0], re.M)[-len(names) :] == names
    assert listed.count("### ") == 2


def test_means_of_some_folds_only_are_called_so(tmp_path):
    models = [write_run(tmp_path, trainer=f"nnUNetTrainer{name}") for name in ("A", "B")]
    pages = [write_comparison(compare_models(models), tmp_path)[0].read_text(encoding="utf-8")]
    (models[1] / "fold_1/validation/attention_dilution.json").unlink()
    pages.append(write_comparison(compare_models(models), tmp_path)[0].read_text(encoding="utf-8"))
    assert [page.count("Not of all folds: B without fold 1.") for page in pages] == [0, 1]


def panel_titles(comparison):
    return [axes.get_title() for axes in comparison_figure(comparison).axes]


def test_the_picture_has_no_empty_panel_and_names_runs_without_data(comparison):
    figure = comparison_figure(comparison)
    assert len(figure.axes) == 7 and all(axes.lines for axes in figure.axes)
    titled = {axes.get_title(): legend.texts for axes in figure.axes if (legend := axes.get_legend())}
    assert len(titled) == 5
    for title, texts in titled.items():
        last = "SMIT_Base_Scratch" if title.startswith("Volumes") else "SMIT_Base_Scratch: not analysed"
        assert [text.get_text() for text in texts] == ["SMIT_ACT", "SMIT_Base", last]


def test_attention_alone_has_one_panel_more(tmp_path):
    models = [write_run(tmp_path, trainer=name) for name in ("A", "B")]
    for path in tmp_path.rglob("feature_reuse.json"):
        path.unlink()
    titles = panel_titles(compare_models(models))
    assert len(titles) == 4 and titles[1].startswith("Attention dilution index")


def test_dollars_in_names_of_runs_are_no_formulas(tmp_path):
    models = [write_run(tmp_path, trainer=f"{name}$\\frac$") for name in ("A", "B")]
    page, *_, picture = write_comparison(compare_models(models), tmp_path / "out")
    assert picture.is_file() and "A\\$\\\\frac\\$" in page.read_text(encoding="utf-8")


HOSTILE = "<script>alert(1)</script>|[x](javascript:alert(1))*`\u202e&lt;"


def test_hostile_names_are_text_in_the_page(tmp_path):
    """Names of cases can be anything that a file can be called, except that no file name holds a slash."""
    name = HOSTILE.replace("/", "")
    models = [
        write_run(tmp_path, {**CASES, name: ([NEAR], predicted), f"{name}_2": ([NEAR], [])}, trainer=trainer)
        for trainer, predicted in (("A", [NEAR]), ("B", []))
    ]
    shutil.rmtree(models[1] / "fold_1")
    page = write_comparison(compare_models(models), tmp_path)[0].read_text(encoding="utf-8")
    assert "alert(1)" in page and "<" not in page.replace("< 0.001", "") and "\u202e" not in page
    rows = [line for line in page.splitlines() if line.startswith("| ") and "alert" in line]
    assert [len(re.split(r"(?<!\\)\|", row)) for row in rows] == [7]
    assert "&lt;script>alert(1)&lt;script>\\|\\[x\\](javascript:alert(1))\\*\\`\ufffd&amp;lt;" in rows[0]
    assert "the others are left out" in page


def test_names_say_as_much_as_tells_runs_apart(tmp_path):
    models = [write_run(tmp_path, configuration=name) for name in ("3d_fullres", "3d_fullres_cubic")]
    names = [run.name for run in compare_models(models).models]
    assert names == ["SMIT_ACT, 3d_fullres", "SMIT_ACT, 3d_fullres_cubic"]


def test_runs_of_one_name_in_two_places_are_numbered(tmp_path):
    models = [write_run(tmp_path / place) for place in ("here", "there")]
    comparison = compare_models(models)
    assert [run.name for run in comparison.models] == ["SMIT_ACT (1)", "SMIT_ACT (2)"]
    assert str(tmp_path / "there") in write_comparison(comparison, tmp_path)[0].read_text(encoding="utf-8")


def test_folds_that_differ_are_pointed_out(tmp_path):
    models = [write_run(tmp_path, trainer="A")]
    models.append(write_run(tmp_path, dict(reversed(CASES.items())), trainer="B"))
    comparison = compare_models(models)
    assert comparison.num_cases_in_other_folds == 4
    assert "**The folds differ**" in write_comparison(comparison, tmp_path)[0].read_text(encoding="utf-8")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([NEAR, SMALL], "case found was scored against different references: 1 and 2 lesions"),
        ([SMALL], "lesion 1 of .* voxels and lesion 1 of"),
    ],
)
def test_other_references_are_refused_by_case(tmp_path, references, message):
    first = write_run(tmp_path / "one", trainer="A")
    second = write_run(tmp_path / "two", {**CASES, "found": (references, [NEAR])}, trainer="B")
    with pytest.raises(RectalError, match=message):
        compare_models([first, second])


def test_a_lesion_elsewhere_is_not_the_same_lesion(tmp_path):
    moved = type(NEAR)((30, 30, 8), 9)
    first = write_run(tmp_path / "one", trainer="A")
    second = write_run(tmp_path / "two", {**CASES, "found": ([moved], [NEAR])}, trainer="B")
    with pytest.raises(RectalError, match=r"lesion 1 at voxel 8\.0, 30\.0, 24\.0 and at voxel 8\.0, 30\.0, 30\.0"):
        compare_models([first, second])


@pytest.mark.parametrize(("moved", "same"), [(0.0002, True), (0.01, False)])
def test_centroids_may_differ_by_rounding_alone(tmp_path, moved, same):
    runs = [write_run(tmp_path / name, trainer=name) for name in "AB"]
    path = next(path for path in sorted(runs[1].rglob("lesion_detection.json")) if '"centroid"' in path.read_text())
    content = json.loads(path.read_text())
    lesion = next(lesion for case in content["cases"] for lesion in case["lesions"])
    lesion["centroid"][0] += moved
    path.write_text(json.dumps(content))
    with nullcontext() if same else pytest.raises(RectalError, match="against different references"):
        compare_models(runs)


def test_runs_without_a_shared_case_are_refused_with_their_cases(tmp_path):
    first = write_run(tmp_path / "one", trainer="A")
    second = write_run(tmp_path / "two", {"other_1": ([NEAR], [NEAR]), "other_2": ([NEAR], [])}, trainer="B")
    with pytest.raises(RectalError, match=r"no case was validated in all.*found.*other_1, other_2"):
        compare_models([first, second])


def test_one_run_or_the_same_twice_is_no_comparison(runs, capsys, tmp_path):
    for given_runs in ([runs[0]], [runs[0], runs[0] / ".." / runs[0].name]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["compare", *map(str, given_runs), "-o", str(tmp_path)])
        assert exit_.value.code == 2 and "two or more different models" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_mistaken_folder_is_named(runs, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["compare", str(runs[0]), str(runs[0].parent)])
    assert exit_.value.code == 2 and f"{DATASET} is not the folder of a trained model" in capsys.readouterr().err
