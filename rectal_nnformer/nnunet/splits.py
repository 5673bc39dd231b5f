"""The folds of a dataset: read from splits_final.json, checked, and brought along from the raw dataset.

nnU-Net makes random folds where it finds none, and trains by whatever it finds.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import DATASET_JSON, ModelFolder, PreprocessedDataset, RawDataset, folder_variables
from rectal_nnformer.nnunet.patients import PATIENTS_FILE, read_patient_list, read_patients
from rectal_nnformer.utils.files import copy_file, is_there, read_json_if_whole
from rectal_nnformer.utils.json_records import read_own
from rectal_nnformer.utils.text import plural, some

BY_CASE_KEY = "split_by_case"
"""True in dataset.json where folds were asked for that do not keep the scans of a patient together."""


@dataclass(frozen=True)
class Fold:
    """Names of training and validation cases; both are empty in a fold that a collaborator did not send."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class FoldFindings:
    """What is wrong with folds, and what users may want but should know; each as the end of a sentence."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read_splits(path: Path) -> tuple[Fold, ...]:
    """Return the folds in a splits_final.json.

    Raises:
        RectalError: The file is missing or damaged, or holds anything but a list of at least one fold.
    """
    remedy = "Restore it, or preprocess the dataset again."
    folds = read_own(tuple[Fold, ...], path, remedy)
    if not folds:
        raise RectalError(f"{path} cannot be used: it holds no fold. {remedy}")
    return folds


def inspect_folds(
    folds: Sequence[Fold], cases: Collection[str] | None, patients: Mapping[str, str], by_case: bool = False
) -> FoldFindings:
    """Return what is wrong with folds.

    Args:
        folds: The folds.
        cases: All cases of the dataset; None where they are not known.
        patients: The patient of each case; one that it lacks is its own patient.
        by_case: Whether it is meant that scans of a patient are on both sides.
    """
    known = set(cases) if cases is not None else None
    problems: list[str] = []
    notes: list[str] = []
    for number, fold in enumerate(folds):
        if bool(fold.train) != bool(fold.val):
            problems.append(f"fold {number} has no case in {'validation' if fold.train else 'training'}")
        both = sorted(set(fold.train) & set(fold.val))
        if both:
            problems.append(f"fold {number} has {plural(len(both), 'case')} in training and validation ({some(both)})")
        if known is not None and (unknown := sorted({*fold.train, *fold.val} - known)):
            problems.append(f"fold {number} names {plural(len(unknown), 'case')} that are not there ({some(unknown)})")
        shared = list(_shared_patients(fold, patients))
        if shared:
            (notes if by_case else problems).append(
                f"fold {number} has {plural(len(shared), 'patient')} in training and validation ({some(shared)})"
            )
    validated = Counter(case for fold in folds for case in fold.val)
    if several := sorted(case for case, times in validated.items() if times > 1):
        notes.append(f"{plural(len(several), 'case')} validated more than once ({some(several)})")
    if never := sorted((known or set()) - validated.keys()):
        notes.append(f"{plural(len(never), 'case')} validated in no fold ({some(never)})")
    return FoldFindings(tuple(problems), tuple(notes))


def check_folds_of(dataset: PreprocessedDataset, cases: Collection[str] | None, planning: bool = False) -> list[str]:
    """Refuse folds of a preprocessed dataset that cannot be right, writing nothing; return what to know.

    What `settle_folds` would copy is taken for there.

    Args:
        dataset: It need not have folds yet.
        cases: All its cases; None where they are not known.
        planning: Whether folds that differ from those of the raw dataset are refused, as when planning.

    Raises:
        RectalError: The folds or patients cannot be read, or must not be trained by; says what to do.
    """
    return _check(dataset, cases, planning).notes


def settle_folds(dataset: PreprocessedDataset, cases: Collection[str] | None, planning: bool = False) -> list[str]:
    """Do as `check_folds_of`, and copy folds and patients that did not come along from the raw dataset."""
    checked = _check(dataset, cases, planning)
    for source in checked.copies:
        copy_file(source, dataset.path / source.name)
    return checked.notes


def refuse_split(dataset: PreprocessedDataset, split: Fold) -> None:
    """Refuse to train by training and validation cases of which a case or a patient is on both sides."""
    found = inspect_folds([split], None, read_patients(dataset.path), _is_by_case(dataset.path))
    if found.problems:
        raise RectalError(_message(dataset.splits, dataset, found))


def preprocessed_cases(folder: Path) -> set[str] | None:
    """Return the cases in a folder of preprocessed data, each of which has a pickle; None where it is not there."""
    return {path.stem for path in folder.glob("*.pkl")} if folder.is_dir() else None


@dataclass
class _Checked:
    """Files of the raw dataset to copy, and what to know."""

    copies: list[Path]
    notes: list[str]


def _check(dataset: PreprocessedDataset, cases: Collection[str] | None, planning: bool) -> _Checked:
    raw = RawDataset.at(dataset.name)
    checked = _Checked([], [])
    patients = _patients(dataset, raw, cases, checked)
    path = _splits_file(dataset, raw, cases, patients, planning, checked)
    if path is None:
        _refuse_random_folds(dataset, cases, patients)
        return checked
    found = inspect_folds(read_splits(path), cases, patients, _is_by_case(path.parent))
    if found.problems:
        raise RectalError(_message(path, dataset, found))
    checked.notes += [f"{path}: {note}." for note in found.notes]
    return checked


def _patients(
    dataset: PreprocessedDataset, raw: RawDataset, cases: Collection[str] | None, checked: _Checked
) -> dict[str, str]:
    """Return the patients that the raw dataset tells, else those of the preprocessed one."""
    source, target = raw.path / PATIENTS_FILE, dataset.path / PATIENTS_FILE
    theirs = read_patients(raw.path)
    if theirs and cases and theirs.keys().isdisjoint(cases):
        ours = read_patients(dataset.path)  # of a dataset from elsewhere that has the same name
        if ours.keys().isdisjoint(cases):
            raise RectalError(
                f"{source} names none of the {plural(len(cases), 'case')} of {dataset.name}, but "
                f"{some(sorted(theirs))}. Name cases as they are called, such as {min(cases)}, or remove the file."
            )
        return ours
    if theirs and cases and (without := sorted(set(cases) - theirs.keys())):
        checked.notes.append(
            f"{source} names no patient of {plural(len(without), 'case')} ({some(without)}); each is taken for one."
        )
    if not theirs:
        return read_patients(dataset.path)
    try:
        state = "was missing" if not is_there(target) else "differed" if read_patient_list(target) != theirs else ""
    except RectalError:
        state = "was damaged"
    if state:
        checked.copies.append(source)
        checked.notes.append(f"{target} {state}; that of {source.parent} is used.")
    return theirs


def _splits_file(
    dataset: PreprocessedDataset,
    raw: RawDataset,
    cases: Collection[str] | None,
    patients: Mapping[str, str],
    planning: bool,
    checked: _Checked,
) -> Path | None:
    """Return the file whose folds hold: where the preprocessed one is wrong and nothing trained, the raw one."""
    source, target = raw.splits, dataset.splits
    if not is_there(source):
        return target if is_there(target) else None
    theirs, ours = _as_sets(read_splits(source)), _folds_or_none(target)
    if ours is not None and _as_sets(ours)[: len(theirs)] == theirs:
        return target
    trained = _trained_folds(dataset.name)
    if ours is not None and _extend(theirs, _as_sets(ours)):
        if not planning:
            checked.notes.append(
                f"{source} has cases that were added since: to train on them, run 'rectal_nnformer "
                "plan_and_preprocess' again."
            )
            return target
        fewer = f" Trained on fewer cases: {some(trained)}." if trained else ""
        checked.copies.append(source)
        checked.notes.append(f"{target} lacked cases that were added; that of {source.parent} is used.{fewer}")
        return source
    if ours is not None:
        is_wrong = inspect_folds(ours, cases, patients, _is_by_case(raw.path)).problems
        if planning and not (is_wrong and not trained):
            raise RectalError(
                f"{target} holds other folds than {source}. Models may have been trained by them. "
                "Remove the former if they are no longer needed, then run this again."
            )
        if not is_wrong or trained:
            checked.notes.append(f"{target} holds other folds than {source}; the former are used.")
            return target
    state = "was missing" if not is_there(target) else "was damaged" if ours is None else "held folds that are wrong"
    checked.copies.append(source)
    checked.notes.append(f"{target} {state}; that of {source.parent} is used.")
    return source


def _refuse_random_folds(
    dataset: PreprocessedDataset, cases: Collection[str] | None, patients: Mapping[str, str]
) -> None:
    """Refuse to go on without folds where those that nnU-Net would make by case could part a patient's scans."""
    counted = Counter(patient for case, patient in patients.items() if cases is None or case in cases)
    several = sorted(patient for patient, scans in counted.items() if scans > 1)
    if several and not _is_by_case(dataset.path):
        raise RectalError(
            f"{dataset.splits} does not exist, and nnU-Net would make folds by case, although "
            f"{plural(len(several), 'patient')} of {PATIENTS_FILE} have several scans ({some(several)}). Convert the "
            "dataset again, or write folds that keep the scans of a patient together."
        )


def _message(path: Path, dataset: PreprocessedDataset, found: FoldFindings) -> str:
    trained = _trained_folds(dataset.name)
    lines = [f"{path} cannot be used:", *(f"  {problem}" for problem in found.problems)]
    lines.append("Convert the dataset again, or write folds in which every case and patient is on one side.")
    if any("patient" in problem for problem in found.problems):
        lines.append(f'If patients are meant to be on both sides, write "{BY_CASE_KEY}": true into {DATASET_JSON}.')
    if trained:
        lines.append(f"Move away what was trained by these folds: {some(trained)}.")
    return "\n".join(lines)


def _shared_patients(fold: Fold, patients: Mapping[str, str]) -> Iterator[str]:
    """Yield each patient of whom different cases are in training and validation, with one of either side."""
    training = {patients.get(case, case): case for case in sorted(set(fold.train) - set(fold.val), reverse=True)}
    told: set[str] = set()
    for case in sorted(set(fold.val)):
        patient = patients.get(case, case)
        if patient in training and patient not in told:
            told.add(patient)
            yield f"{patient} with {training[patient]} and {case}"


def _is_by_case(folder: Path) -> bool:
    return (read_json_if_whole(folder / DATASET_JSON) or {}).get(BY_CASE_KEY) is True


def _as_sets(folds: Sequence[Fold]) -> list[tuple[frozenset[str], frozenset[str]]]:
    return [(frozenset(fold.train), frozenset(fold.val)) for fold in folds]


def _extend(
    longer: Sequence[tuple[frozenset[str], frozenset[str]]], folds: Sequence[tuple[frozenset[str], frozenset[str]]]
) -> bool:
    """Whether folds are others with cases added, none moved."""
    return len(longer) == len(folds) and all(
        train <= more_train and val <= more_val
        for (more_train, more_val), (train, val) in zip(longer, folds, strict=True)
    )


def _folds_or_none(path: Path) -> tuple[Fold, ...] | None:
    """Return the folds in a file that can be replaced; None where it is missing or damaged."""
    try:
        return read_splits(path)
    except RectalError:
        return None


def _trained_folds(dataset: str) -> list[str]:
    """Return the folds of a dataset's models that have a checkpoint, as MODEL/fold_X, without "all"."""
    results = folder_variables().get("nnUNet_results")
    if results is None:
        return []
    models = filter(None, map(ModelFolder.parse, sorted((Path(results) / dataset).glob("*__*__*"))))
    folds = [fold for model in models for fold in map(model.fold, model.fold_numbers()) if fold.checkpoints()]
    return [f"{fold.model.name}/{fold.name}" for fold in folds]
