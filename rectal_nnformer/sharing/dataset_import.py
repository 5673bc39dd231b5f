"""A dataset bundle from elsewhere, checked to the last byte, as a preprocessed dataset to train on."""

from collections.abc import Collection, Sequence
from pathlib import Path

from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import folder_variables, nnunet_folder
from rectal_nnformer.sharing import vetting
from rectal_nnformer.sharing.bundle import BundleReader
from rectal_nnformer.sharing.case_grid import Resampling, check_grid
from rectal_nnformer.sharing.dataset_export import CASE_ENDINGS, DATASET, FINGERPRINT, OUR_FILES, REFERENCES, SPLITS
from rectal_nnformer.sharing.frames import UnexpectedFrame, check_frame
from rectal_nnformer.sharing.nifti import check_nifti
from rectal_nnformer.sharing.properties import read_properties, write_properties
from rectal_nnformer.sharing.strict_json import load_json_file
from rectal_nnformer.utils.files import staged_folder


def import_dataset(path: str | Path) -> Path:
    """Put a bundle written by `export_dataset` into nnUNet_preprocessed, under the id and name it had.

    The bundle is unpacked beside its place, verified whole, and moved there in one step. Case properties are written
    anew.

    Args:
        path: The bundle.

    Returns:
        The folder of the preprocessed dataset.

    Raises:
        RectalError: The file is no dataset bundle, damaged, or holds anything that a dataset does not; the dataset is
            there already, or its id belongs to another. Nothing has been written then.
    """
    with BundleReader(path) as bundle:
        name = check_kind(bundle, "dataset")
        target = nnunet_folder("nnUNet_preprocessed") / name
        if target.exists():
            raise RectalError(
                f"{target} exists. Move it away, or remove it if it is no longer needed, then import again."
            )
        check_id_is_free(name)
        _check_places(bundle.manifest["files"])
        try:
            with staged_folder(target) as staged:
                bundle.extract(staged)
                _vet(staged, name, bundle.manifest["files"])
        except FileExistsError:
            raise RectalError(f"{target} was made by another program meanwhile. Nothing was imported.") from None
    return target


def check_kind(bundle: BundleReader, kind: str) -> str:
    """Return the dataset's name in a manifest.

    Raises:
        RectalError: The bundle is of another kind, or does not tell a name with the id that it tells.
    """
    manifest = bundle.manifest
    if manifest.get("kind") != kind:
        other = "model" if kind == "dataset" else "dataset"
        raise RectalError(
            f"{bundle.path} holds no {kind}. If it holds a {other}, use 'rectal_nnformer import_{other}'."
        )
    told = manifest.get("dataset")
    dataset = told if isinstance(told, dict) else {}
    name = dataset.get("name")
    if vetting.check_dataset_name(name) != dataset.get("id"):
        raise RectalError(f"{bundle.path} names the dataset {name} with another id.")
    return str(name)


def check_id_is_free(name: str) -> None:
    """Refuse a dataset whose id has another name in any of nnU-Net's folders: nnU-Net would find neither.

    Raises:
        RectalError: Which folder is in the way.
    """
    number = name[len("Dataset") :][:3]
    for variable, folder in folder_variables().items():
        for other in sorted(Path(folder).glob(f"Dataset{number}*")):
            if other.is_dir() and other.name != name:
                raise RectalError(
                    f"{name} cannot be imported, because its id {int(number)} is in use by {other} ({variable}). "
                    "Rename or move that, or ask the sender for another id."
                )


def _check_places(files: Collection[str]) -> None:
    """Refuse files that no dataset has, by name alone, before anything is unpacked."""
    for path in files:
        folder, _, file = path.rpartition("/")
        plain = not folder and file.endswith(".json")
        case = folder and "/" not in folder and vetting.PLAIN_NAME.fullmatch(folder)
        if not plain and not (case and (folder == REFERENCES or file.endswith((".b2nd", ".pkl")))):
            raise RectalError(f"The bundle holds {path!r}, which does not belong to a preprocessed dataset.")


def _vet(folder: Path, name: str, files: Collection[str]) -> None:
    """Check the content of every file, and that they belong together; write properties anew."""
    for needed in (DATASET, FINGERPRINT):
        if needed not in files:
            raise RectalError(f"The bundle has no {needed}.")
    dataset_json = load_json_file(folder / DATASET, DATASET)
    vetting.check_dataset_json(dataset_json, DATASET)
    made = _check_plans(folder, name, files)
    cases = _check_case_files(files, made, dataset_json["file_ending"])
    if SPLITS in files:
        vetting.check_splits(load_json_file(folder / SPLITS, SPLITS), SPLITS, cases)
    for path in tqdm([path for path in files if "/" in path], desc="Checking files", unit="file"):
        if path.startswith(f"{REFERENCES}/"):
            check_nifti(folder / path)
        elif path.endswith(".pkl"):
            _vet_case(folder / path.removesuffix(".pkl"), made[path.partition("/")[0]])


def _check_plans(folder: Path, name: str, files: Collection[str]) -> dict[str, list[Resampling | None]]:
    """Check plans and fingerprints; return the folders of data that plans name with how these ask for them."""
    made: dict[str, list[Resampling | None]] = {}
    # One after the other: in memory they can be much larger than they are.
    for path in files:
        if "/" in path or path in (DATASET, SPLITS):
            continue
        content = load_json_file(folder / path, path)
        if path not in (FINGERPRINT, *OUR_FILES):
            vetting.check_plans(content, path, name)
            for identifier, resampling in vetting.resamplings(content):
                made.setdefault(identifier, []).append(resampling)
    return made


def _check_case_files(files: Collection[str], identifiers: Collection[str], file_ending: str) -> set[str]:
    """Return the cases; every data folder must belong to plans and hold three files of each, and nothing else."""
    folders: dict[str, set[str]] = {}
    for path in files:
        folder, _, file = path.rpartition("/")
        if folder:
            folders.setdefault(folder, set()).add(file)
    references = folders.pop(REFERENCES, set())
    cases = {file.removesuffix(".pkl") for names in folders.values() for file in names if file.endswith(".pkl")}
    expected = {f"{case}{ending}" for case in cases for ending in CASE_ENDINGS}
    for folder, names in folders.items():
        if folder not in identifiers or names != expected:
            wrong = sorted(names ^ expected)[:1]
            raise RectalError(f"The folder {folder} of the bundle is in no plans, or lacks or has too much: {wrong}.")
    if not folders or references not in (set(), {f"{case}{file_ending}" for case in cases}):
        raise RectalError(
            "The bundle has no preprocessed data, or ground truth for other cases than those of the data."
        )
    return cases


def _vet_case(stem: Path, resamplings: Sequence[Resampling | None]) -> None:
    """Check arrays and properties of one case, and write the latter anew."""
    try:
        data, segmentation = (check_frame(stem.with_name(f"{stem.name}{e}")) for e in CASE_ENDINGS[:2])
    except UnexpectedFrame as error:
        raise RectalError(f"The arrays of case {stem.name} were not opened: {error}.") from None
    if data.shape[1:] != segmentation.shape[1:] or data.dtype.kind != "f" or segmentation.dtype.kind not in "iu":
        raise RectalError(f"Case {stem.name} has a volume and a segmentation that do not belong together.")
    path = stem.with_name(f"{stem.name}.pkl")
    properties, dropped = read_properties(path)
    if dropped:
        raise RectalError(f"{path.name} has fields that nnU-Net does not write: {', '.join(dropped)[:200]}.")
    check_grid(path.relative_to(path.parents[1]), properties, segmentation.shape, resamplings)
    path.unlink()
    write_properties(path, properties)
