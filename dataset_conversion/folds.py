"""Who is the same patient, and five folds that keep all scans of a patient together."""

import csv
import io
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from rectal_nnformer.errors import RectalError

NUM_FOLDS = 5
# nnU-Net's own seed for its splits.
SEED = 12345


def read_patient_list(path: Path) -> dict[str, str]:
    """Read which case is of which patient from a CSV file with the columns `case` and `patient`.

    Raises:
        RectalError: the file cannot be read, lacks a column or a value, or names a case twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RectalError(f"The list of patients {path} cannot be read: {error}") from None
    # Spreadsheets write semicolons where the comma is the decimal sign.
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    if not {"case", "patient"} <= set(rows.fieldnames or ()):
        raise RectalError(f"The list of patients {path} needs a first line with the columns case and patient.")
    patients: dict[str, str] = {}
    for row in rows:
        case, patient = (row["case"] or "").strip(), (row["patient"] or "").strip()
        if not case or not patient:
            raise RectalError(f"The list of patients {path} has a line without case or patient (line {rows.line_num}).")
        if case in patients:
            raise RectalError(f"The list of patients {path} names case {case} twice (line {rows.line_num}).")
        patients[case] = patient
    return patients


def patient_list(patients: Mapping[str, str]) -> str:
    """Return the CSV text from which `read_patient_list` reads these patients."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "patient"))
    writer.writerows(patients.items())
    return text.getvalue()


def patient_problems(cases: Iterable[str], patients: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return, by case, what a list of patients lacks or has too much."""
    missing = dict.fromkeys(set(cases) - set(patients), f"not in {path.name}; add a line for it")
    unknown = dict.fromkeys(set(patients) - set(cases), f"in {path.name}, but there is no such case; remove the line")
    return missing | unknown


def pseudonyms(patients: Mapping[str, str]) -> dict[str, str]:
    """Return the same grouping of cases under made-up patient names, numbered by each patient's first case."""
    numbers: dict[str, int] = {}
    for case in sorted(patients):
        numbers.setdefault(patients[case], len(numbers) + 1)
    width = max(3, len(str(len(numbers))))
    return {case: f"patient_{numbers[patients[case]]:0{width}d}" for case in sorted(patients)}


def make_folds(groups: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Return five folds, `splits_final.json` of nnU-Net, with all cases of a group in one validation set.

    Groups go, largest first and equal ones in seeded random order, to the fold with the fewest cases. The result
    depends on which cases belong together alone, not on names of groups or their order.

    Args:
        groups: Group (patient) of each case; at least five groups.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(groups):
        members[groups[case]].append(case)
    ordered = sorted(members.values())
    random.Random(SEED).shuffle(ordered)
    validation: list[list[str]] = [[] for _ in range(NUM_FOLDS)]
    for cases in sorted(ordered, key=len, reverse=True):
        min(validation, key=len).extend(cases)
    return [{"train": sorted(set(groups) - set(held_out)), "val": sorted(held_out)} for held_out in validation]


def folds_of(patients: Mapping[str, str], split_by_case: bool) -> list[dict[str, list[str]]]:
    """Return five folds by patient or, if asked, by case, and say what the latter means.

    Args:
        patients: Patient of each case.
        split_by_case: Let scans of one patient lie in different folds.

    Raises:
        RectalError: fewer patients than folds without `split_by_case`, or fewer cases than folds.
    """
    count = len(set(patients.values()))
    if len(patients) < NUM_FOLDS:
        raise RectalError(f"{len(patients)} cases are too few for {NUM_FOLDS} folds: add cases.")
    if split_by_case:
        if count < len(patients):
            print(
                f"Split by case: {len(patients)} scans of {count} patients, so that scans of one patient are in "
                "training and validation alike. The detection rate of these folds is optimistic."
            )
        return make_folds({case: case for case in patients})
    if count < NUM_FOLDS:
        raise RectalError(
            f"{count} patients are too few for {NUM_FOLDS} folds that keep a patient's {len(patients)} scans together. "
            "Add patients, correct the list given with --patients, or give --split-by-case, which makes the detection "
            "rate optimistic."
        )
    return make_folds(patients)
