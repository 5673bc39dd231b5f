"""Which patient each case is of: as a list says, or the source, or the dataset that cases are added to."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path

from rectal_nnformer.dataset_conversion.adding import Existing
from rectal_nnformer.dataset_conversion.cases import Case
from rectal_nnformer.dataset_conversion.patient_folds import patient_pseudonyms, pseudonym
from rectal_nnformer.dataset_conversion.target import Target
from rectal_nnformer.nnunet.patients import PATIENTS_FILE, read_patient_list
from rectal_nnformer.utils.text import plural

Problems = defaultdict[str, list[str]]


def patients_of(
    cases: Sequence[Case], there: Mapping[str, str], existing: Existing, target: Target, problems: Problems
) -> dict[str, str]:
    """Return the patient of each case with a mask, by pseudonym; where cases are added, of old ones too.

    Args:
        cases: What is converted.
        there: The names of those that the dataset has already, and what they are called in it.
        existing: What the dataset holds.
        target: The dataset.
        problems: What is missing or too much is added, by case.
    """
    new = [case for case in cases if case.name not in there and not (case.test and case.mask is None)]
    if target.patients is not None:
        names = {case.name for case in (*cases, *existing.cases)}
        told = _listed(target.patients, {case.name for case in new}, names, problems)
        told = {there.get(name, name): patient for name, patient in told.items()}
    else:
        told = {there.get(case.name, case.name): case.patient or case.name for case in cases}
        for case in new:
            if not case.patient and not target.split_by_case:
                problems[case.name].append(
                    "no PatientID in its DICOM header; list patients with --patients, or give --split-by-case, which "
                    "makes the detection rate optimistic"
                )
    mine = {case.name: told[case.name] for case in new if case.name in told}
    if not target.adding:
        return patient_pseudonyms(mine)
    _check_known(new, told, existing, target, problems)
    return _with_old(mine, told, existing, target, problems)


def _listed(path: Path, needed: Collection[str], known: Collection[str], problems: Problems) -> dict[str, str]:
    patients = read_patient_list(path)
    for name in needed - patients.keys():
        problems[name].append(f"not in {path.name}; add a line for it")
    # A mask that lacks its image is known, though it is not among the cases.
    for name in patients.keys() - known - problems.keys():
        problems[name].append(f"in {path.name}, but there is no such case; remove the line")
    return patients


def _check_known(
    new: Sequence[Case], told: Mapping[str, str], existing: Existing, target: Target, problems: Problems
) -> None:
    """Add a problem where a new case may be of a patient of the dataset, and nothing says so."""
    if target.patients is not None or target.split_by_case:
        return
    unknown = existing.patients.keys() - told.keys()
    has_ids = any(case.patient not in ("", case.name) for case in new)
    has_several = len(set(existing.patients.values())) < len(existing.patients)
    if unknown and (has_ids or has_several):
        again = ", or name a folder that holds the series of its cases, too" if has_ids else ""
        problems[str(target.folder)].append(
            f"it holds no PatientID, so that new scans of its patients ({plural(len(unknown), 'case')}) could get into "
            f"other folds: list with --patients the patient of every new case, one of its {PATIENTS_FILE} or a new "
            f"name{again}"
        )


def _with_old(
    mine: Mapping[str, str], told: Mapping[str, str], existing: Existing, target: Target, problems: Problems
) -> dict[str, str]:
    """Return the pseudonyms of old and new cases: what is told of an old case tells whose it is."""
    taken = set(existing.patients.values())
    names = {name: name for name in taken} if target.patients else {}
    for case in sorted(told.keys() & existing.patients.keys()):
        before = existing.patients[case]
        if names.setdefault(told[case], before) != before and not target.split_by_case:
            problems[case].append(
                f"of one patient with others now, and in {target.folder / PATIENTS_FILE} of another; correct either, "
                "or list patients with --patients"
            )
    unused = (name for number in count(len(taken) + 1) if (name := pseudonym(number, 3)) not in taken)
    result = dict(existing.patients)
    for case in sorted(mine):
        if mine[case] not in names:
            names[mine[case]] = next(unused)
        result[case] = names[mine[case]]
    return result
