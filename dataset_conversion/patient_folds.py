"""Make five folds that keep all scans of a patient together."""

import random
from collections import defaultdict
from collections.abc import Mapping

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.names import NUM_FOLDS, SPLITS_SEED
from rectal_nnformer.utils.files import csv_text
from rectal_nnformer.utils.text import plural


def patient_list(patients: Mapping[str, str]) -> str:
    """Return the CSV text from which `patients.read_patient_list` reads these patients."""
    return csv_text(("case", "patient"), [{"case": case, "patient": patient} for case, patient in patients.items()])


def patient_pseudonyms(patients: Mapping[str, str]) -> dict[str, str]:
    """Return the same grouping of cases under made-up patient names, numbered by each patient's first case."""
    numbers: dict[str, int] = {}
    for case in sorted(patients):
        numbers.setdefault(patients[case], len(numbers) + 1)
    width = max(3, len(str(len(numbers))))
    return {case: f"patient_{numbers[patients[case]]:0{width}d}" for case in sorted(patients)}


def make_folds(groups: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Return five folds, `splits_final.json` of nnU-Net, with all cases of a group in one validation set.

    Groups (patients), at least five, go, largest first and equal ones in seeded random order, to the fold with the
    fewest cases. The result depends on which cases belong together alone, not on names of groups or their order.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(groups):
        members[groups[case]].append(case)
    ordered = sorted(members.values())
    random.Random(SPLITS_SEED).shuffle(ordered)
    validation: list[list[str]] = [[] for _ in range(NUM_FOLDS)]
    for cases in sorted(ordered, key=len, reverse=True):
        min(validation, key=len).extend(cases)
    return [{"train": sorted(set(groups) - set(held_out)), "val": sorted(held_out)} for held_out in validation]


def folds_of(patients: Mapping[str, str], split_by_case: bool) -> list[dict[str, list[str]]]:
    """Return five folds by patient or, if asked, by case, and say what the latter means.

    Raises:
        RectalError: Fewer patients than folds without `split_by_case`, or fewer cases than folds.
    """
    count = len(set(patients.values()))
    if len(patients) < NUM_FOLDS:
        raise RectalError(f"Only {plural(len(patients), 'case')} for {NUM_FOLDS} folds: add cases.")
    if split_by_case:
        if count < len(patients):
            print(
                f"Split by case: {len(patients)} scans of {plural(count, 'patient')}, so that scans of one patient are "
                "in training and validation alike. The detection rate of these folds is optimistic."
            )
        return make_folds({case: case for case in patients})
    if count < NUM_FOLDS:
        raise RectalError(
            f"Only {plural(count, 'patient')} for {NUM_FOLDS} folds that keep all scans of a patient together. "
            "Add patients, correct the list given with --patients, or give --split-by-case, which makes the detection "
            "rate optimistic."
        )
    return make_folds(patients)
