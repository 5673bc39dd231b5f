"""A preprocessed dataset as one file for collaborators, and such a file as a dataset to train on."""

import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from safetensors.numpy import load_file, save
from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet import layout
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.names import FINGERPRINT_FILE, RECORD_KEY, WINDOW_FILE
from rectal_nnformer.nnunet.patients import PATIENTS_FILE
from rectal_nnformer.sharing import schema
from rectal_nnformer.sharing.bundle import BundleReader, BundleWriter, digest_line, new_bundle
from rectal_nnformer.sharing.cases import check_case, read_case, read_reference, write_case, write_reference
from rectal_nnformer.sharing.deidentify import KEY_FILE, Renamer, Traces, locked_key, pseudonyms, scrubbed, write_key
from rectal_nnformer.utils.files import is_there, staged_folder
from rectal_nnformer.utils.json_records import R, json_content, json_text, load_json_file, make_record

OUR_FILES = (FINGERPRINT_FILE, WINDOW_FILE)
FILES: dict[str, type[BaseModel]] = {
    layout.DATASET_JSON: schema.DatasetJson,
    layout.DATASET_FINGERPRINT: schema.FingerprintJson,
    layout.SPLITS_FINAL: schema.SplitsJson,
    **dict.fromkeys(OUR_FILES, schema.Measurements),
}
"""What is in the folder of a dataset beside plans, data and ground truth."""
MAX_PLANS_BYTES = 2 << 20
"""Of all plans together, which take 10 to 20 KB each."""


@dataclass
class Export:
    """A bundle under way, new names of its cases, what no text in it may hold, and how often what was left out."""

    bundle: BundleWriter
    dataset: str
    renamer: Renamer
    traces: Traces = field(default_factory=Traces)
    removed: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, kind: type[R], content: Any) -> R:
        """Add a JSON file, reduced to what its kind has and to what may travel; return what it holds."""
        kept = json_content(make_record(kind, content, name))
        if isinstance(content, dict) and content.keys() - kept.keys():
            self.removed[f"{name if name in FILES else 'plans'}: keys of other names"] += 1
        record = make_record(kind, self._edited(kind, kept), name)
        found = self.renamer.found_in(json_content(record))
        if found:
            raise RectalError(f"{name} still names case {found} where it cannot be renamed. Rename the case.")
        self.bundle.add(name, json_text(record))
        return record

    def _edited(self, kind: type[BaseModel], content: Any) -> Any:
        """Return a JSON content under new case names, without what tells of this computer, of patients or an order."""
        if kind is schema.DatasetJson:
            return {**content, "name": self.dataset} if "name" in content else content
        if kind is schema.PlansJson:
            renamed = {**content, "dataset_name": self.dataset}
            return {**renamed, RECORD_KEY: self._scrubbed(content[RECORD_KEY])} if RECORD_KEY in content else renamed
        if kind is schema.FingerprintJson:
            lists = {key: content[key] for key in ("spacings", "shapes_after_crop") if content.get(key)}
            ordered = sorted(zip(*lists.values(), strict=False))
            return {**content, **{key: [values[at] for values in ordered] for at, key in enumerate(lists)}}
        return self._scrubbed(content)

    def _scrubbed(self, content: Any) -> Any:
        removed: set[str] = set()
        result = scrubbed(content, self.renamer, self.traces, removed)
        self.removed.update(removed)
        return result


def export_dataset(
    dataset_id: int | str,
    output: str | Path,
    *,
    pseudonymize: bool = False,
    with_ground_truth: bool = True,
    folds: Sequence[int] | None = None,
) -> Path:
    """Write a preprocessed dataset into one file that `import_dataset` reads: see documentation/reference/bundle.md.

    Args:
        dataset_id: 501 or "Dataset501_Name", in nnUNet_preprocessed.
        output: The file, a zip, written under exactly this name, replacing one that is there.
        pseudonymize: Give cases random names everywhere. `pseudonyms.csv` in the dataset's folder, which does not
            travel, tells which is which; later exports take the names that are there.
        with_ground_truth: Whether the masks on the original grid travel. Without them training works, scoring does not.
        folds: Numbers of the folds that travel, with their training and validation cases alone. They keep their
            numbers; the others become empty, so that training one of them fails. None: all cases and folds.

    Raises:
        RectalError: There is no such dataset or fold; a case lacks a file or a file cannot be read; a case name is left
            that cannot be replaced.
    """
    folder = layout.find_dataset("nnUNet_preprocessed", dataset_id)
    plans = _plans_with_data(folder)
    data_folders = sorted({name for names in plans.values() for name in names})
    present = {case for name in data_folders for case in _cases_in(folder / name)}
    splits, cases = _chosen(folder / layout.SPLITS_FINAL, present, folds)
    with locked_key(folder) if pseudonymize else nullcontext():
        names = pseudonyms(folder, cases) if pseudonymize else {case: case for case in cases}
        with new_bundle(Path(output)) as bundle:
            export = Export(bundle, folder.name, Renamer(names, present - set(cases)))
            records = _add_texts(export, folder, sorted(plans), splits)
            _add_cases(export, folder, data_folders, cases, records)
            if with_ground_truth:
                _add_references(export, folder, cases)
            # Files of the folder that stay at home are counted: unknown names could tell something themselves.
            sent = {Path(name).parts[0] for name in bundle.files}
            for name in {path.name for path in folder.glob("[!.]*")} - sent - {KEY_FILE}:
                told = name if name in (PATIENTS_FILE, layout.GT_SEGMENTATIONS) else "files and folders of other names"
                export.removed["records of raw files" if name.endswith("_source.json") else told] += 1
            if pseudonymize:
                print(f"The key of the pseudonyms stays here: {write_key(folder, names)}")
            bundle.finish(
                kind="dataset",
                dataset=folder.name,
                num_cases=len(cases),
                plans=sorted(plans),
                pseudonymized=pseudonymize,
                ground_truth=with_ground_truth,
                folds=None if folds is None else sorted(set(folds)),
                removed=dict(sorted(export.removed.items())),
            )
    return Path(output)


def import_dataset(path: str | Path) -> Path:
    """Put a bundle of `export_dataset` into nnUNet_preprocessed, under the id and name it had; return its folder.

    nnU-Net's files are written anew, beside their place, from what was checked, and moved there in one step.

    Raises:
        RectalError: The file is no dataset bundle, damaged, or holds anything that a dataset does not; the dataset is
            there already, or its id belongs to another. Nothing has been written then.
    """
    with BundleReader(path) as bundle:
        name = bundle.check_kind("dataset")
        target = layout.nnunet_folder("nnUNet_preprocessed") / name
        if target.exists():
            raise RectalError(
                f"{target} exists. Move it away, or remove it if it is no longer needed, then import again."
            )
        check_id_is_free(name)
        print(digest_line(bundle.path))
        try:
            with layout.claimed_id(target), staged_folder(target) as staged:
                bundle.check_room(staged)
                _write_dataset(bundle, staged)
        except FileExistsError:
            raise RectalError(f"{target} was made by another program meanwhile. Nothing was imported.") from None
    return target


def check_id_is_free(name: str) -> None:
    """Refuse a dataset whose id has another name in any of nnU-Net's folders: nnU-Net would find neither."""
    number = layout.dataset_number(name)
    for variable, folder in layout.folder_variables().items():
        for other in sorted(Path(folder).glob(f"{layout.dataset_prefix(number)}*")):
            if other.is_dir() and other.name != name:
                raise RectalError(
                    f"{name} cannot be imported, because its id {int(number)} is in use by {other} ({variable}). "
                    "Rename or move that, or ask the sender for another id."
                )


def _plans_with_data(folder: Path) -> dict[str, set[str]]:
    """Return the names of all plans of which any configuration has been preprocessed, with the folders of that data."""
    plans: dict[str, set[str]] = {}
    for path in sorted(folder.glob("[!.]*.json")):
        content = load_json_file(path)
        if isinstance(content, dict) and "configurations" in content and "plans_name" in content:
            folders = set(make_record(schema.PlansJson, content, str(path)).data_folders().values())
            plans[path.stem] = {name for name in folders if (folder / name).is_dir()}
    plans = {name: folders for name, folders in plans.items() if folders}
    if not plans:
        raise RectalError(f"{folder} has no plans with preprocessed data. Run plan_and_preprocess first.")
    return plans


def _cases_in(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir() if path.is_file()]
    other = [name for name in names if name.endswith((".npz", ".npy"))]
    if other:
        raise RectalError(f"{folder} holds {other[0]}, data of an older nnU-Net. Preprocess the dataset again.")
    return layout.cases_in(folder)


def _chosen(
    path: Path, present: Collection[str], folds: Sequence[int] | None
) -> tuple[list[dict[str, list[str]]] | None, list[str]]:
    """Return the splits with the folds that travel, and the cases that do."""
    splits = None
    if is_there(path):
        record = make_record(schema.SplitsJson, load_json_file(path), str(path))
        record.check_cases(present)
        splits = json_content(record)
    if folds is None:
        return splits, sorted(present)
    missing = sorted(set(folds) - set(range(len(splits or []))))
    if missing or not folds:
        raise RectalError(f"{path} has no fold {', '.join(map(str, missing))}: fix -f.")
    kept = [fold if number in folds else {"train": [], "val": []} for number, fold in enumerate(splits or [])]
    return kept, sorted({case for fold in kept for part in fold.values() for case in part})


def _add_texts(
    export: Export, folder: Path, plans: Sequence[str], splits: list[dict[str, list[str]]] | None
) -> list[schema.PlansJson]:
    """Add dataset.json, plans, fingerprints and splits, reduced to what they need; return the plans."""
    content = read_dataset_json(folder / layout.DATASET_JSON, "Preprocess the dataset again.")
    export.add(layout.DATASET_JSON, schema.DatasetJson, {**content, "numTraining": len(export.renamer.names)})
    export.add(layout.DATASET_FINGERPRINT, schema.FingerprintJson, load_json_file(folder / layout.DATASET_FINGERPRINT))
    for name in OUR_FILES:
        if is_there(folder / name):
            export.add(name, schema.Measurements, load_json_file(folder / name))
    if splits is not None:
        renamed = [{part: sorted(map(export.renamer.text, names)) for part, names in fold.items()} for fold in splits]
        export.bundle.add(layout.SPLITS_FINAL, json_text(make_record(schema.SplitsJson, renamed, layout.SPLITS_FINAL)))
    return [export.add(f"{name}.json", schema.PlansJson, load_json_file(folder / f"{name}.json")) for name in plans]


def _add_cases(
    export: Export, folder: Path, data_folders: Sequence[str], cases: Sequence[str], plans: Sequence[schema.PlansJson]
) -> None:
    for data, case in tqdm([(data, case) for data in data_folders for case in cases], desc="Cases", unit="case"):
        arrays, properties, dropped = read_case(folder / data / case)
        check_case(f"{data}/{case}", arrays, properties, plans)
        export.removed.update(["fields of case properties"] * dropped)
        name = f"{data}/{export.renamer[case]}"
        export.bundle.add(f"{name}.safetensors", save(arrays))
        export.bundle.add(f"{name}.json", json_text(properties))


def _add_references(export: Export, folder: Path, cases: Sequence[str]) -> None:
    ending = read_dataset_json(folder / layout.DATASET_JSON, "Preprocess the dataset again.")["file_ending"]
    for case in tqdm(cases, desc=layout.GT_SEGMENTATIONS, unit="case"):
        source = folder / layout.GT_SEGMENTATIONS / f"{case}{ending}"
        if not source.is_file():
            raise RectalError(f"Case {case} has no {source}. Preprocess again, or export --without-ground-truth.")
        mask, grid = read_reference(source)
        name = f"{layout.GT_SEGMENTATIONS}/{export.renamer[case]}"
        export.bundle.add(f"{name}.safetensors", save(mask))
        export.bundle.add(f"{name}.json", json_text(grid))


def _write_dataset(bundle: BundleReader, folder: Path) -> None:
    """Write all files of a dataset anew from the checked content of a bundle."""
    dataset_json, files = bundle.read(layout.DATASET_JSON, schema.DatasetJson), bundle.manifest.files
    bundle.read(layout.DATASET_FINGERPRINT, schema.FingerprintJson)
    plans = _write_texts(bundle, folder)
    told = [(data, record, name) for record in plans for name, data in record.data_folders().items()]
    # Of several that share a folder, the first: the others inherit from it.
    data_folders = {data: (record, name) for data, record, name in reversed(told)}
    cases = _check_case_files(files, data_folders)
    if layout.SPLITS_FINAL in files:
        bundle.read(layout.SPLITS_FINAL, schema.SplitsJson).check_cases(cases)
    with tempfile.TemporaryDirectory(prefix=".arrays.", dir=folder) as scratch:
        names = sorted(name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors"))
        for name in tqdm(names, desc="Cases", unit="case"):
            arrays = bundle.load(f"{name}.safetensors", load_file, Path(scratch))
            (folder / name).parent.mkdir(exist_ok=True)
            if name.startswith(f"{layout.GT_SEGMENTATIONS}/"):
                grid = bundle.read(f"{name}.json", schema.ItkGrid)
                write_reference(folder / f"{name}{dataset_json.file_ending}", arrays, grid)
            else:
                properties = bundle.read(f"{name}.json", schema.Properties)
                check_case(name, arrays, properties, plans)
                record, configuration = data_folders[name.partition("/")[0]]
                write_case(folder / name, arrays, properties, record.setting(configuration, "patch_size"))


def _write_texts(bundle: BundleReader, folder: Path) -> list[schema.PlansJson]:
    """Write the JSON files of a dataset, one after the other; return the plans."""
    texts = {name: entry.size for name, entry in bundle.manifest.files.items() if "/" not in name}
    if sum(size for name, size in texts.items() if name not in FILES) > MAX_PLANS_BYTES:
        raise RectalError(f"The plans of the bundle have more than {MAX_PLANS_BYTES} bytes.")
    plans = []
    for name in texts:
        if not name.endswith(".json"):
            raise RectalError(f"The bundle holds {name!r}, which does not belong to a preprocessed dataset.")
        record = bundle.read(name, FILES.get(name, schema.PlansJson))
        (folder / name).write_bytes(json_text(record))
        if isinstance(record, schema.PlansJson):
            plans.append(record.of(bundle.manifest.dataset))
    return plans


def _check_case_files(files: Collection[str], data_folders: Collection[str]) -> set[str]:
    """Return the cases; every data folder must belong to plans and hold the files of each, and nothing else."""
    folders: dict[str, set[str]] = {}
    for path in files:
        folder, _, file = path.rpartition("/")
        if folder:
            folders.setdefault(folder, set()).add(file)
    cases = {file.removesuffix(".json") for names in folders.values() for file in names if file.endswith(".json")}
    expected = {f"{case}{ending}" for case in cases for ending in (".json", ".safetensors")}
    for folder, names in folders.items():
        # The segmentation of a case is called like the data of another one whose name ends with _seg.
        wrong = sorted(names ^ expected | {f"{case}_seg" for case in cases} & cases)
        if folder not in {*data_folders, layout.GT_SEGMENTATIONS} or wrong:
            raise RectalError(f"The folder {folder} of the bundle is in no plans, lacks or has too much: {wrong[:1]}")
    if not folders.keys() - {layout.GT_SEGMENTATIONS}:
        raise RectalError("The bundle has no preprocessed data.")
    return cases
