"""Which cases belong together: scanner, site, stage, or whatever else a table tells of cases or patients."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import read_table
from rectal_nnformer.utils.text import plural, some

MOST_NUMBERS = 6
"""A column with more different numbers is cut at their quartiles."""
MOST_TEXTS, LEAST_LINES = 6, 3
"""A column with more different texts has at least so many lines of each, on average, or tells nothing: dates, names."""
REMEDY = "Save it as CSV in UTF-8, with a column case or patient and one for each way of grouping."


@dataclass(frozen=True)
class GroupTable:
    """What a table tells of scored cases.

    Attributes:
        columns: By the name of each column the groups, in their order, with their cases.
        notes: What it does not tell, and what it tells of others, in words.
    """

    columns: dict[str, dict[str, tuple[str, ...]]]
    notes: tuple[str, ...]


def read_groups(path: Path, patients: Mapping[str, str]) -> GroupTable:
    """Read to which groups cases belong from a CSV file with a column `case`, or else `patient`, and others.

    A column of numbers, more than six of them different, is cut at the quartiles of its cases. A column of texts, more
    than six of them different, is left out if the file has fewer than three lines of each, on average, and noted. An
    empty cell is no group. Where the file names a case, a column `patient` is none either.

    Args:
        path: The file.
        patients: Patient of each case that was scored.

    Raises:
        RectalError: The file cannot be read, has no such column or no other that parts cases, or names a case or
            patient never or twice.
    """
    lines = read_table(path, (), "The table of groups", REMEDY, others=True)
    names = list(lines[0][1]) if lines else []
    key = next((name for name in ("case", "patient") if name in names), None)
    columns = [name for name in names if name not in ("case", "patient")]
    if key is None or not columns:
        raise RectalError(
            f"The table of groups {path} needs a first line with the column case or patient and at least one other, "
            f"and a line for each; it has {some(names) or 'none'}. {REMEDY}"
        )
    rows: dict[str, dict[str, str]] = {}
    for line, row in lines:
        if not row[key] or row[key] in rows:
            wrong = f"names {key} {row[key]} twice" if row[key] else f"names no {key}"
            raise RectalError(f"The table of groups {path} {wrong} (line {line}). Correct or remove that line.")
        rows[row[key]] = row
    values = {column: [row[column] for row in rows.values() if row[column]] for column in columns}
    # By the file alone, so that what is refused is refused before there are cases.
    too_many = {
        column: f"column {column} has {len(set(cells))} texts in {plural(len(cells), 'line')}, too many to be groups"
        for column, cells in values.items()
        if _tells_nothing(cells)
    }
    if len(too_many) == len(columns):
        raise RectalError(
            f"The table of groups {path} parts no cases: {'; '.join(too_many.values())}. Give it a column with at "
            f"least {LEAST_LINES} lines of each text, such as the year of a date."
        )
    own = {case: case if key == "case" else patient for case, patient in patients.items()}
    told = {case: rows[name] for case, name in own.items() if name in rows}
    return GroupTable(
        {
            column: _grouped({case: row[column] for case, row in told.items() if row[column]}, set(values[column]))
            for column in columns
            if column not in too_many
        },
        (*_notes(path, key, set(own.values()), set(rows)), *(f"{path.name}: {one}" for one in too_many.values())),
    )


def _tells_nothing(values: Sequence[str]) -> bool:
    """Whether texts are so many that a group would have a case or two, as dates do; numbers are cut."""
    different = set(values)
    are_numbers = all(_number(value) is not None for value in different)
    return not are_numbers and len(different) > MOST_TEXTS and len(values) < LEAST_LINES * len(different)


def _notes(path: Path, key: str, scored: set[str], told: set[str]) -> tuple[str, ...]:
    lacking, foreign = sorted(scored - told), sorted(told - scored)
    return tuple(
        f"{path.name} {text} {plural(len(names), key)}{more}: {some(names)}"
        for text, names, more in (
            ("has no line for", lacking, ""),
            ("has lines for", foreign, " without a scored case"),
        )
        if names
    )


def _grouped(values: Mapping[str, str], all_values: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the groups of a column with their cases, from the value of each case and those of the whole file."""
    numbers = {value: _number(value) for value in {*values.values(), *all_values}}
    of_case = {case: number for case, value in values.items() if (number := numbers[value]) is not None}
    if None not in numbers.values() and len(set(of_case.values())) > MOST_NUMBERS:
        return _cut(of_case)
    order = sorted(numbers, key=lambda value: (numbers[value] is None, numbers[value] or 0.0, value))
    return {group: tuple(case for case, value in values.items() if value == group) for group in order}


def _cut(numbers: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Return cases grouped by the quartiles of their numbers; one on a quartile belongs to the lower group."""
    highest = max(numbers.values())
    quartiles = np.unique(np.quantile(list(numbers.values()), [0.25, 0.5, 0.75]))
    bounds = [*quartiles[quartiles < highest].tolist(), highest]
    names = [f"above {low:.10g}, up to {high:.10g}" for low, high in pairwise(bounds)]
    if names:
        names[-1] = f"above {bounds[-2]:.10g}"
    names = [f"up to {bounds[0]:.10g}", *names]
    places = {case: int(np.searchsorted(bounds, number)) for case, number in numbers.items()}
    return {name: tuple(case for case, at in places.items() if at == place) for place, name in enumerate(names)}


def _number(text: str) -> float | None:
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
