from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
from confidence_cases import random_cases

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation import StrictCounts
from rectal_nnformer.evaluation.agreement import volume_agreement
from rectal_nnformer.evaluation.froc import detection_curves
from rectal_nnformer.evaluation.group_rates import OUTCOMES, ColumnRates, rates_by_group
from rectal_nnformer.evaluation.groups import GroupTable, read_groups
from rectal_nnformer.evaluation.operating_point import Wish, nested_point
from rectal_nnformer.evaluation.resampling import UNDEFINED
from rectal_nnformer.evaluation.statistics import holm
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

pytestmark = pytest.mark.filterwarnings("error")

PATIENTS = {"c1": "p1", "c2": "p1", "c3": "p2", "c4": "p3"}


@pytest.fixture(scope="module")
def cases():
    return random_cases(24, seed=7)[0]


@pytest.fixture
def read(tmp_path):
    def read_text(text, patients=PATIENTS):
        (tmp_path / "groups.csv").write_text(text, encoding="utf-8")
        return read_groups(tmp_path / "groups.csv", patients)

    return read_text


def test_cases_are_grouped_by_each_column_of_the_table(read):
    table = read("case,vendor,tesla\nc1,B,3\nc2,A,1.5\nc3,B,\nc4,A,3\n")
    assert table.columns == {
        "vendor": {"A": ("c2", "c4"), "B": ("c1", "c3")},
        "tesla": {"1.5": ("c2",), "3": ("c1", "c4")},
    }
    assert table.notes == ()


def test_patients_stand_for_all_of_their_cases_and_semicolons_part_columns(read):
    table = read("\ufeffpatient;T stage\np1;T3\np2;T2\np3;T3\n")
    assert table.columns == {"T stage": {"T2": ("c3",), "T3": ("c1", "c2", "c4")}}


def test_a_table_of_cases_may_name_patients_too(read):
    assert list(read("patient,case,site\np1,c1,a\np1,c2,a\n").columns) == ["site"]


def test_cases_without_a_line_and_lines_without_a_case_are_told(read):
    table = read("case,site\nc1,here\nc2,here\nc9,there\n")
    assert table.columns == {"site": {"here": ("c1", "c2"), "there": ()}}
    assert table.notes == (
        "groups.csv has no line for 2 cases: c3, c4",
        "groups.csv has lines for 1 case without a scored case: c9",
    )


def test_many_numbers_are_cut_at_their_quartiles(read):
    patients = {f"c{index}": f"p{index}" for index in range(1, 9)}
    lines = "".join(f"c{index},{index / 2}\n" for index in range(1, 9))
    groups = read(f"case,mm\n{lines}", patients).columns["mm"]
    assert groups == {
        "up to 1.375": ("c1", "c2"),
        "above 1.375, up to 2.25": ("c3", "c4"),
        "above 2.25, up to 3.125": ("c5", "c6"),
        "above 3.125": ("c7", "c8"),
    }
    same = "".join(f"c{index},{max(0, index - 100)}\n" for index in range(1, 107))
    patients = {f"c{index}": f"p{index}" for index in range(1, 107)}
    assert list(map(len, read(f"case,mm\n{same}", patients).columns["mm"].values())) == [100, 6]
    same = "".join(f"c{index},{min(6, index)}\n" for index in range(107))
    patients = {f"c{index}": f"p{index}" for index in range(107)}
    assert list(map(len, read(f"case,mm\n{same}", patients).columns["mm"].values())) == [107]


def test_few_numbers_stay_as_they_are_in_their_order(read):
    groups = read("case,mm\nc1,10\nc2,9\nc3,9\nc4,10\n").columns["mm"]
    assert list(groups.items()) == [("9", ("c2", "c3")), ("10", ("c1", "c4"))]


def test_texts_that_nearly_every_case_has_for_itself_are_left_out_and_told(read):
    lines = "".join(f"c{index},2024-01-{index:02},{'AB'[index % 2]}\n" for index in range(1, 9))
    table = read(f"case,date,site\n{lines}", {f"c{index}": f"p{index}" for index in range(1, 9)})
    assert list(table.columns) == ["site"]
    assert table.notes == ("groups.csv: column date has 8 texts in 8 lines, too many to be groups",)
    # As many sites are groups, once they have cases; with few cases each may be one.
    lines = "".join(f"c{index},site {index % 8}\n" for index in range(24))
    assert len(read(f"case,site\n{lines}").columns["site"]) == 8
    assert len(read("case,site\nc1,a\nc2,b\nc3,c\n").columns["site"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has none"),
        ("case,site\n", r"has none"),
        ("name,site\nc1,a\n", r"needs a first line with the column case or patient"),
        ("case\nc1\n", r"at least one other"),
        ("case,site\nc1,a\nc1,b\n", r"names case c1 twice \(line 3\)"),
        ("patient,site\n,a\n", r"names no patient \(line 2\)"),
        ("case,site,site\nc1,a,b\n", r"two columns of one name"),
        ("case,date\n" + "".join(f"c{i},2024-01-{i:02}\n" for i in range(1, 9)), r"date has 8 texts in 8 lines, too"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(read, text, message):
    with pytest.raises(RectalError, match=message):
        read(text)


def table_of(cases, groups, column="site"):
    """Return a table of one column that parts cases by a list of groups."""
    names = sorted(set(groups))
    parted = {name: tuple(c.case for c, group in zip(cases, groups, strict=True) if group == name) for name in names}
    return GroupTable({column: parted}, ())


def test_rates_of_a_group_are_those_of_its_cases(cases):
    [column] = rates_by_group(cases[:20], table_of(cases, ["a", "b"] * 12))
    assert (column.column, column.n_unknown) == ("site", 0)
    for result, own in zip(column.groups, (cases[:20:2], cases[1:20:2]), strict=True):
        summary = summarize_cases(own)
        assert (result.n_cases, result.n_patients, result.n_reference) == (10, 10, summary.n_reference)
        assert result.detection_rate == summary.detection_rate
        assert result.detection_rate_strict == summary.strict.detection_rate
        assert result.case_rate == summary.case_rate
        assert result.false_positives_per_case.value == summary.false_positives_per_case
        assert result.case_dice.value == pytest.approx(summary.case_dice.mean)
        point = nested_point({0: own}, Wish("f1")).mask
        assert (result.f1, result.precision) == (point.f1, point.precision)
        false_cm3 = sum(one.volume_cm3 for case in own for one in case.false_positives)
        assert result.false_positive_cm3_per_case.value == pytest.approx(false_cm3 / 10)
        assert result.volumes == volume_agreement(own)
        assert result.average_precision == detection_curves(own).merged.average_precision
        low, high = result.case_dice.patient_bootstrap_95
        assert low < result.case_dice.value < high


def test_the_test_of_a_difference_is_that_of_all_permutations(cases):
    ten = [case for case in cases if case.dice is not None][:10]
    ten = [
        replace(case, dice=value)
        for case, value in zip(ten, [0.1, 0.2, 0.5, 0.25, 0.7, 0.6, 0.8, 0.4, 0.9, 0.95], strict=True)
    ]
    [column] = rates_by_group(ten, table_of(ten, ["a"] * 4 + ["b"] * 6))
    dice = np.array([case.dice for case in ten])

    def spread(chosen):
        inside = np.isin(np.arange(10), chosen)
        return sum(part.sum() * (dice[part].mean() - dice.mean()) ** 2 for part in (inside, ~inside))

    every = np.array([spread(chosen) for chosen in combinations(range(10), 4)])
    exact = (every >= spread((0, 1, 2, 3)) - 1e-9).mean()
    [p] = [test.p for test in column.tests if test.outcome == "case_dice"]
    assert p == pytest.approx(exact, abs=0.01)


def test_groups_that_are_alike_and_groups_that_differ(cases):
    groups = ["a" if index % 2 else "b" for index in range(24)]
    alike = [replace(case, dice=0.5) for case in cases]
    differ = [replace(case, dice=0.3 if group == "a" else 0.9) for case, group in zip(cases, groups, strict=True)]
    p = [{t.outcome: t.p for t in rates_by_group(some, table_of(some, groups))[0].tests} for some in (alike, differ)]
    assert p[0]["case_dice"] == 1
    assert p[1]["case_dice"] < 0.001
    assert list(p[0]) == list(OUTCOMES)


def test_p_values_are_adjusted_for_the_columns(cases):
    one, other = (table_of(cases, groups) for groups in (["a", "b"] * 12, ["a", "b", "c"] * 8))
    same = table_of(cases, ["a"] * 24)
    both = GroupTable({"one": one.columns["site"], "same": same.columns["site"], "other": other.columns["site"]}, ())
    columns = rates_by_group(cases, both)
    for place in range(len(OUTCOMES)):
        first, nothing, second = (column.tests[place] for column in columns)
        assert [first.p_holm, second.p_holm] == holm([first.p, second.p])
        assert (nothing.p, nothing.p_holm, nothing.reason) == (None, None, "fewer than two groups have any")


def test_patients_are_permuted_with_all_of_their_cases(cases):
    twice = [replace(case, case=f"{case.case}_{time}", patient=case.case) for case in cases for time in (1, 2)]
    groups = ["a", "b", "b"] * 8
    alone = rates_by_group(cases, table_of(cases, groups))[0].tests
    assert rates_by_group(twice, table_of(twice, [g for g in groups for _ in (1, 2)]))[0].tests == alone
    mixed = rates_by_group(twice, table_of(twice, ["a", "b"] * 24))[0].tests
    assert {test.reason for test in mixed} == {"24 patients with cases in more than one group"}
    assert {test.p for test in mixed} == {None}


def test_there_may_be_more_groups_than_a_byte_can_count(cases):
    """Most of them are of lines without a scored case."""
    groups = {f"{number:03}": () for number in range(200)}
    own = {"a": tuple(case.case for case in cases[::2]), "z": tuple(case.case for case in cases[1::2])}
    column = rates_by_group(cases, GroupTable({"site": {"a": own["a"], **groups, "z": own["z"]}}, ()))[0]
    assert column.tests == rates_by_group(cases, GroupTable({"site": own}, ()))[0].tests
    assert len(column.groups) == 202


def test_every_table_is_defined(cases):
    gone = {
        "n_reference": 0,
        "n_detected": 0,
        "strict": StrictCounts(0, 0, 0),
        "dice": None,
        "lesions": (),
        "candidates": (),
    }
    nothing = [replace(case, **gone) for case in cases[:4]]
    for scored in ([], cases[:1], nothing, cases):
        for table in (table_of(scored, ["a"] * len(scored)), GroupTable({"site": {"a": (), "b": ("case_000",)}}, ())):
            [column] = rates_by_group(scored, table)
            assert len(column.tests) == len(OUTCOMES)
    [column] = rates_by_group(cases, GroupTable({"site": {"a": (), "b": ("case_000",)}}, ()))
    empty = column.groups[0]
    assert (empty.n_cases, empty.detection_rate.rate, empty.case_dice.value) == (0, None, None)
    assert empty.f1 == empty.false_positive_cm3_per_case == empty.average_precision == UNDEFINED
    assert (empty.volumes.n_cases, empty.volumes.difference_cm3.bias, empty.volumes.icc) == (0, None, None)
    assert column.n_unknown == 23


def test_the_result_is_read_as_it_was_written(cases, tmp_path):
    result = rates_by_group(cases, table_of(cases, ["a", "b"] * 12))
    write_json(tmp_path / "groups.json", [asdict(column) for column in result])
    assert read_own(tuple[ColumnRates, ...], tmp_path / "groups.json", "") == result
