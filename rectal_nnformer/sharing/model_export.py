"""A trained model as one file for collaborators."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import find_dataset, nnunet_folder
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.sharing import vetting
from rectal_nnformer.sharing.bundle import Member, output_file, write_bundle
from rectal_nnformer.sharing.dataset_export import SPLITS, read_json
from rectal_nnformer.sharing.identity import KEY_FILE, Renamer, pseudonyms, write_key
from rectal_nnformer.sharing.model_files import rewrite_model
from rectal_nnformer.sharing.software import software_versions


def export_model(
    dataset_id: int | str,
    output: str | Path,
    *,
    trainer: str,
    plans: str,
    configuration: str = "3d_fullres",
    folds: Sequence[int | str] | None = None,
    pseudonymize: bool = False,
) -> Path:
    """Write a trained model into one file that `import_model` reads: see documentation/sharing.md.

    Args:
        dataset_id: 501 or "Dataset501_Name", in nnUNet_results.
        output: The file, written under exactly this name, replacing one that is there; its ending chooses the
            compression as in `export_dataset`.
        trainer: Name of the trainer.
        plans: Name of the plans.
        configuration: Name of the configuration.
        folds: Numbers of the folds, or "all"; None takes those that are finished.
        pseudonymize: Give cases in the summary and the report the names that `export_dataset` gives them.

    Returns:
        The path of the file.

    Raises:
        RectalError: There is no such model or fold, or a file of it cannot be read.
    """
    output = output_file(output)
    dataset = find_dataset("nnUNet_results", dataset_id)
    number = vetting.check_dataset_name(dataset.name)
    source = dataset / f"{trainer}__{plans}__{configuration}"
    if not source.is_dir():
        present = ", ".join(sorted(path.name for path in dataset.glob("*__*__*"))) or "none"
        raise RectalError(f"There is no model {source}; models of this dataset: {present}. Fix -tr, -p or -c.")
    names = _case_names(source, dataset.name, pseudonymize)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".partial", dir=output.parent) as scratch:
        wanted = None if folds is None else [str(fold) for fold in folds]
        model = rewrite_model(source, Path(scratch), dataset.name, Renamer(names), wanted)
        about = {
            "kind": "model",
            "dataset": {"id": number, "name": dataset.name},
            "model": {"trainer": model.trainer, "plans": model.plans, "configuration": model.configuration},
            "pseudonymized": pseudonymize,
            "software": software_versions(),
            "removed": sorted(model.removed),
        }
        _check_no_name_is_left(Path(scratch), model.files, Renamer(names))
        write_bundle(output, about, [Member(name, Path(scratch) / name) for name in model.files])
    return output


def _check_no_name_is_left(folder: Path, files: Sequence[str], renamer: Renamer) -> None:
    """Refuse to send texts that still name a case, as within a longer word."""
    for name in files:
        if name.endswith((".md", ".html", ".csv")):
            found = renamer.left_in((folder / name).read_text(encoding="utf-8"))
        elif name.endswith(".json"):
            found = renamer.found_in(read_json(folder / name))
        else:
            found = None
        if found:
            raise RectalError(f"{name} still names {found} where it cannot be renamed. Rename the case, or remove it.")


def _case_names(source: Path, dataset_name: str, pseudonymize: bool) -> dict[str, str]:
    """Return what to put in place of the names of cases, and of patients, who never travel."""
    preprocessed = nnunet_folder("nnUNet_preprocessed") / dataset_name
    patients = read_patients(preprocessed) if preprocessed.is_dir() else {}
    names = dict.fromkeys(patients.values(), "(patient)")
    if not pseudonymize:
        return {**names, **dict(zip(patients, patients, strict=True))}
    if not preprocessed.is_dir():
        raise RectalError(f"{preprocessed} is missing, where the key of the pseudonyms ({KEY_FILE}) is to be kept.")
    cases = {path.name.removesuffix(".b2nd") for path in preprocessed.glob("*/*.b2nd") if "_seg." not in path.name}
    cases |= {path.name.partition(".")[0] for path in source.glob("fold_*/validation/*.nii.gz")} | patients.keys()
    if (preprocessed / SPLITS).is_file():
        folds = read_json(preprocessed / SPLITS)
        cases |= {case for fold in folds for part in fold.values() for case in part}
    new = pseudonyms(preprocessed, sorted(cases))
    print(f"The key of the pseudonyms stays here: {write_key(preprocessed, new)}")
    return names | new
