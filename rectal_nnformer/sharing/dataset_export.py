"""A preprocessed dataset as one file for collaborators, without what tells of patients, people or computers."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import find_dataset
from rectal_nnformer.nnunet.patients import PATIENTS_FILE
from rectal_nnformer.sharing import vetting
from rectal_nnformer.sharing.bundle import Member, output_file, write_bundle
from rectal_nnformer.sharing.case_grid import check_grid
from rectal_nnformer.sharing.frames import Frame, UnexpectedFrame, check_frame, rewrite_frame
from rectal_nnformer.sharing.identity import KEY_FILE, Renamer, Traces, pseudonyms, scrubbed, write_key
from rectal_nnformer.sharing.nifti import clean_nifti
from rectal_nnformer.sharing.properties import read_properties, write_properties
from rectal_nnformer.sharing.software import software_versions
from rectal_nnformer.sharing.strict_json import load_json_file
from rectal_nnformer.utils.files import write_json

REFERENCES = "gt_segmentations"
DATASET, SPLITS, FINGERPRINT = "dataset.json", "splits_final.json", "dataset_fingerprint.json"
OUR_FILES = ("rectal_fingerprint.json", "rectal_intensity_window.json")
CASE_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


@dataclass
class _Export:
    """One export under way.

    Attributes:
        folder: The preprocessed dataset.
        scratch: Where files lie that are not taken as they are.
        renamer: New names of the cases that travel.
        traces: What may not be in any text.
        members: What the bundle will hold.
        removed: What was left out, and from how many files.
    """

    folder: Path
    scratch: Path
    renamer: Renamer
    traces: Traces
    members: list[Member] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)

    def add_json(self, name: str, content: Any) -> None:
        found = self.renamer.found_in(content)
        if found:
            raise RectalError(f"{name} still names case {found} where it cannot be renamed. Rename the case.")
        write_json(self.scratch / name, content)
        self.members.append(Member(name, self.scratch / name))

    def scrub(self, content: Any) -> Any:
        removed: set[str] = set()
        result = scrubbed(content, self.renamer, self.traces, removed)
        self.removed.update(removed)
        return result

    def staged(self, name: str) -> Path:
        path = self.scratch / name
        path.parent.mkdir(exist_ok=True)
        return path


def export_dataset(
    dataset_id: int | str,
    output: str | Path,
    *,
    pseudonymize: bool = False,
    with_ground_truth: bool = True,
    folds: Sequence[int] | None = None,
) -> Path:
    """Write a preprocessed dataset into one file that `import_dataset` reads: see documentation/sharing.md.

    Args:
        dataset_id: 501 or "Dataset501_Name", in nnUNet_preprocessed.
        output: The file, written under exactly this name, replacing one that is there. `.tar`, `.tar.gz` or `.tgz`,
            `.tar.xz`; a plain tar under any other ending.
        pseudonymize: Give cases random names everywhere. `pseudonyms.csv` in the dataset's folder, which does not
            travel, tells which is which; later exports take the names that are there.
        with_ground_truth: Whether the masks on the original grid travel. Without them training works, scoring does not.
        folds: Numbers of the folds that travel, with their training and validation cases alone. They keep their
            numbers; the others become empty, so that training one of them fails. None: all cases and folds.

    Returns:
        The path of the file.

    Raises:
        RectalError: There is no such dataset or fold; a case lacks a file or a file cannot be read; a case name is left
            that cannot be replaced.
    """
    output = output_file(output)
    folder = find_dataset("nnUNet_preprocessed", dataset_id)
    number = vetting.check_dataset_name(folder.name)
    plans, data_folders = _plans_with_data(folder)
    cases, absent, splits = _cases_and_splits(folder, data_folders, folds)
    names = pseudonyms(folder, cases) if pseudonymize else {case: case for case in cases}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".partial", dir=output.parent) as scratch:
        export = _Export(folder, Path(scratch), Renamer(names, absent), Traces())
        _add_texts(export, plans, splits)
        _add_cases(export, plans, data_folders, cases)
        if with_ground_truth:
            _add_references(export, cases)
        _note_absent(export, plans)
        about = {
            "kind": "dataset",
            "dataset": {"id": number, "name": folder.name},
            "num_cases": len(cases),
            "plans": sorted(plans),
            "pseudonymized": pseudonymize,
            "ground_truth": with_ground_truth,
            "folds": sorted(set(folds)) if folds is not None else None,
        }
        if pseudonymize:
            print(f"The key of the pseudonyms stays here: {write_key(folder, names)}")
        made = {"software": software_versions(), "removed": dict(export.removed)}
        write_bundle(output, {**about, **made}, export.members)
    return output


def read_json(path: Path) -> Any:
    """Return a JSON file of one of our own datasets or models.

    Raises:
        RectalError: It is missing or cannot be read.
    """
    try:
        return load_json_file(path, str(path))
    except FileNotFoundError:
        raise RectalError(f"{path} is missing: plan and preprocess the dataset first.") from None


def _plans_with_data(folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return all plans by name for which any configuration has been preprocessed, and the folders of that data."""
    plans, identifiers = {}, set()
    for path in sorted(folder.glob("*.json")):
        content = read_json(path) if not path.name.startswith(".") else None
        if isinstance(content, dict) and "configurations" in content and "plans_name" in content:
            present = {name for name in vetting.data_identifiers(content).values() if (folder / name).is_dir()}
            if present:
                plans[path.stem] = content
                identifiers |= present
    if not plans:
        raise RectalError(f"{folder} has no plans with preprocessed data. Run plan_and_preprocess first.")
    return plans, sorted(identifiers)


def _cases_and_splits(
    folder: Path, data_folders: Sequence[str], folds: Sequence[int] | None
) -> tuple[list[str], set[str], list[dict[str, list[str]]] | None]:
    """Return the cases that travel, those that do not, and the splits with the folds that do."""
    present = {case for name in data_folders for case in _cases_in(folder / name)}
    path = folder / SPLITS
    splits = read_json(path) if path.is_file() else None
    if splits is not None:
        vetting.check_splits(splits, str(path), present)
    if folds is None:
        return sorted(present), set(), splits
    missing = sorted(set(folds) - set(range(len(splits or []))))
    if missing or not folds:
        raise RectalError(f"{path} has no fold {', '.join(map(str, missing))}: fix -f.")
    assert splits is not None
    kept = [fold if number in folds else {"train": [], "val": []} for number, fold in enumerate(splits)]
    cases = {case for fold in kept for part in fold.values() for case in part}
    return sorted(cases), present - cases, kept


def _cases_in(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir() if path.is_file()]
    other = [name for name in names if name.endswith((".npz", ".npy"))]
    if other:
        raise RectalError(f"{folder} holds {other[0]}, data of an older nnU-Net. Preprocess the dataset again.")
    return [name.removesuffix(".b2nd") for name in names if name.endswith(".b2nd") and not name.endswith("_seg.b2nd")]


def _add_texts(export: _Export, plans: Mapping[str, Any], splits: list[dict[str, list[str]]] | None) -> None:
    """Add dataset.json, plans, fingerprints and splits, reduced to what they need."""
    content = read_json(export.folder / DATASET)
    dataset = vetting.only(content, vetting.DATASET_KEYS) | {"numTraining": len(export.renamer.names)}
    if "name" in dataset:
        dataset["name"] = export.folder.name
    _note_keys(export, DATASET, content, dataset)
    vetting.check_dataset_json(dataset, str(export.folder / DATASET))
    export.add_json(DATASET, dataset)
    for name, content in plans.items():
        cleaned = vetting.cleaned_plans(content, export.scrub)
        _note_keys(export, "plans", content, cleaned)
        vetting.check_plans(cleaned, str(export.folder / f"{name}.json"), export.folder.name)
        export.add_json(f"{name}.json", cleaned)
    export.add_json(FINGERPRINT, _fingerprint(read_json(export.folder / FINGERPRINT)))
    for name in OUR_FILES:
        if (export.folder / name).is_file():
            export.add_json(name, export.scrub(read_json(export.folder / name)))
    if splits is not None:
        renamed = [{part: sorted(map(export.renamer.text, names)) for part, names in fold.items()} for fold in splits]
        export.add_json(SPLITS, renamed)


def _fingerprint(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return nnU-Net's fingerprint; its lists over cases are sorted, since their order is that of the case names."""
    fingerprint = vetting.only(content, vetting.FINGERPRINT_KEYS)
    lists = [key for key in ("spacings", "shapes_after_crop") if key in fingerprint]
    ordered = sorted(zip(*(fingerprint[key] for key in lists), strict=True))
    return fingerprint | {key: [values[index] for values in ordered] for index, key in enumerate(lists)}


def _add_cases(
    export: _Export, plans: Mapping[str, Mapping[str, Any]], data_folders: Iterable[str], cases: Sequence[str]
) -> None:
    """Add the preprocessed data: arrays as they are if they are plain, properties written anew."""
    made = [pair for content in plans.values() for pair in vetting.resamplings(content)]
    jobs = [(name, case) for name in data_folders for case in cases]
    for name, case in tqdm(jobs, desc="Checking cases", unit="case"):
        missing = [e for e in CASE_ENDINGS if not (export.folder / name / f"{case}{e}").is_file()]
        if missing:
            raise RectalError(
                f"Case {case} has no {case}{missing[0]} in {export.folder / name}. Preprocess again, or remove that "
                "folder."
            )
        for ending in CASE_ENDINGS[:2]:
            frame = _add_array(
                export, export.folder / name / f"{case}{ending}", f"{name}/{export.renamer[case]}{ending}"
            )
        path = export.folder / name / f"{case}.pkl"
        properties, dropped = read_properties(path)
        check_grid(path, properties, frame.shape, [resampling for folder, resampling in made if folder == name])
        export.removed.update(["fields of case properties"] if dropped else [])
        target = f"{name}/{export.renamer[case]}.pkl"
        write_properties(export.staged(target), properties)
        export.members.append(Member(target, export.scratch / target))


def _add_array(export: _Export, source: Path, name: str) -> Frame:
    """Add an array, written anew unless it is plain, and return what it holds."""
    try:
        frame = check_frame(source)
    except UnexpectedFrame:
        rewrite_frame(source, export.staged(name))
        source = export.scratch / name
        export.removed["metadata or gaps in preprocessed arrays"] += 1
        try:
            frame = check_frame(source)
        except UnexpectedFrame as error:
            raise RectalError(f"{export.folder}: {name} cannot be shared: {error}. Preprocess again.") from None
    export.members.append(Member(name, source))
    return frame


def _add_references(export: _Export, cases: Sequence[str]) -> None:
    ending = read_json(export.folder / DATASET)["file_ending"]
    for case in tqdm(cases, desc="Cleaning ground truth", unit="case"):
        source = export.folder / REFERENCES / f"{case}{ending}"
        if not source.is_file():
            raise RectalError(f"Case {case} has no {source}. Preprocess again, or export --without-ground-truth.")
        name = f"{REFERENCES}/{export.renamer[case]}{ending}"
        if clean_nifti(source, export.staged(name)):
            export.removed["texts, extensions and unused fields of NIfTI headers"] += 1
        export.members.append(Member(name, export.scratch / name))


def _note_keys(export: _Export, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for key in before.keys() - after.keys():
        export.removed[f"{name}: {key if key in vetting.TOLD_DATASET_KEYS else 'keys of other names'}"] += 1


def _note_absent(export: _Export, plans: Mapping[str, Any]) -> None:
    """Note files of the dataset's folder that stay at home; unknown names could tell something themselves."""
    sent = {Path(member.path).parts[0] for member in export.members} | {f"{name}.json" for name in plans}
    for path in export.folder.iterdir():
        if path.name in sent or path.name == KEY_FILE or path.name.startswith("."):
            continue
        known = path.name if path.name in (PATIENTS_FILE, REFERENCES) else "files and folders of other names"
        export.removed["records of raw files" if path.name.endswith("_source.json") else known] += 1
