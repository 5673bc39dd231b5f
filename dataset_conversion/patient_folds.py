"""Folds that keep all scans of a patient together: made, extended, or as the source tells them."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.names import NUM_FOLDS, SPLITS_SEED
from rectal_nnformer.nnunet.splits import Fold, inspect_folds
from rectal_nnformer.utils.files import csv_text
from rectal_nnformer.utils.text import plural

WITHOUT_FOLDS = (
    "No folds are needed for a test cohort (--test), for cases that are added to a dataset (--add), and for scans to "
    "predict (without masks)."
)


def patient_list(patients: Mapping[str, str]) -> str:
    """Return the CSV text from which `patients.read_patient_list` reads these patients."""
    return csv_text(("case", "patient"), [{"case": case, "patient": patient} for case, patient in patients.items()])


def patient_pseudonyms(patients: Mapping[str, str]) -> dict[str, str]:
    """Return the same grouping of cases under made-up patient names, numbered by each patient's first case."""
    numbers: dict[str, int] = {}
    for case in sorted(patients):
        numbers.setdefault(patients[case], len(numbers) + 1)
    width = max(3, len(str(len(numbers))))
    return {case: pseudonym(numbers[patients[case]], width) for case in sorted(patients)}


def pseudonym(number: int, width: int) -> str:
    """Return the made-up name of a patient."""
    return f"patient_{number:0{width}d}"


def make_folds(groups: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Return five folds, `splits_final.json` of nnU-Net, with all cases of a group in one validation set.

    Groups (patients), at least five, go, largest first and equal ones in seeded random order, to the fold with the
    fewest cases. The result depends on which cases belong together alone, not on names of groups or their order.
    """
    return extend_folds([Fold((), ())] * NUM_FOLDS, groups)


def extend_folds(folds: Sequence[Fold], groups: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Return folds with the cases that none of them names yet, none that is there moved.

    A case goes to the sides on which the other cases of its group are. New groups are validated in one fold each, as
    `make_folds` says, and trained on in the others.
    """
    present = [fold for fold in folds if fold.train or fold.val] or folds  # not those that a collaborator kept back
    sides = [{"train": list(fold.train), "val": list(fold.val)} for fold in present]
    where = [{side: {groups.get(case) for case in cases} for side, cases in fold.items()} for fold in sides]
    placed = {case for fold in sides for cases in fold.values() for case in cases}
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(set(groups) - placed):
        members[groups[case]].append(case)
    new = []
    for group, cases in members.items():
        known = [
            (fold, side) for fold, named in zip(sides, where, strict=True) for side in named if group in named[side]
        ]
        for fold, side in known:
            fold[side] += cases
        new += [] if known else [cases]
    new.sort()
    random.Random(SPLITS_SEED).shuffle(new)
    for cases in sorted(new, key=len, reverse=True):
        smallest = min(sides, key=lambda fold: len(fold["val"]))
        for fold in sides:
            fold["val" if fold is smallest else "train"] += cases
    return [{side: sorted(cases) for side, cases in fold.items()} for fold in sides]


def given_folds(
    folds: Mapping[str, int | None], patients: Mapping[str, str], by_case: bool
) -> list[dict[str, list[str]]]:
    """Return folds that validate each case in the fold that the source tells, and train on all others.

    Raises:
        RectalError: A fold is empty on either side, or has a patient on both, unless `by_case`.
    """
    number = max(fold for fold in folds.values() if fold is not None) + 1
    if number > len(folds):
        raise RectalError(
            f"The manifest tells of fold {number - 1}, and has {plural(len(folds), 'case')} to validate: number folds "
            "from 0 without gaps."
        )
    result = [
        {side: sorted(case for case in folds if (folds[case] == fold) == (side == "val")) for side in ("train", "val")}
        for fold in range(number)
    ]
    found = inspect_folds([Fold(tuple(f["train"]), tuple(f["val"])) for f in result], None, patients, by_case)
    if found.problems:
        raise RectalError(
            f"The folds of the manifest cannot be used: {'; '.join(found.problems)}. Correct them, or take them out: "
            "five by patient are made then."
        )
    return result


def folds_of(patients: Mapping[str, str], split_by_case: bool) -> list[dict[str, list[str]]]:
    """Return five folds by patient or, if asked, by case, and say what the latter means.

    Raises:
        RectalError: Fewer patients than folds without `split_by_case`, or fewer cases than folds.
    """
    count = len(set(patients.values()))
    if len(patients) < NUM_FOLDS:
        raise RectalError(f"Only {plural(len(patients), 'case')} for {NUM_FOLDS} folds: add cases. {WITHOUT_FOLDS}")
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
            f"rate optimistic. {WITHOUT_FOLDS}"
        )
    return make_folds(patients)
