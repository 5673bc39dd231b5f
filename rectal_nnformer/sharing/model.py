"""A trained model as one file for collaborators, and such a file, or nnU-Net's zip, as a model to predict with."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, write_evaluation
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.nnunet.layout import find_dataset, nnunet_folder
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.sharing.bundle import MANIFEST, MODEL_FOLDER, BundleReader, digest_line, new_bundle
from rectal_nnformer.sharing.checkpoints import Checkpoint, read_model_checkpoint, write_model_checkpoint
from rectal_nnformer.sharing.dataset import DATASET, FINGERPRINT, SPLITS, Export, check_id_is_free
from rectal_nnformer.sharing.deidentify import KEY_FILE, Renamer, pseudonyms, write_key
from rectal_nnformer.sharing.results import RESULTS, LesionDetection
from rectal_nnformer.sharing.schema import DatasetJson, FingerprintJson, PlansJson
from rectal_nnformer.utils.json_records import json_text, load_json_file
from rectal_nnformer.utils.zips import checked_entries, open_zip, unpacked

PLANS, CHECKPOINT = "plans.json", "checkpoint_final"
FOLD = re.compile(r"fold_(\d{1,3}|all)")
TEXTS: dict[str, type[BaseModel]] = {DATASET: DatasetJson, PLANS: PlansJson, FINGERPRINT: FingerprintJson}


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
    """Write a trained model into one file that `import_model` reads: see documentation/reference/bundle.md.

    Args:
        dataset_id: 501 or "Dataset501_Name", in nnUNet_results.
        output: The file, a zip, written under exactly this name, replacing one that is there.
        trainer: Name of the trainer.
        plans: Name of the plans.
        configuration: Name of the configuration.
        folds: Numbers of the folds, or "all"; None takes those that are finished.
        pseudonymize: Give cases in the results the names that `export_dataset` gives them.

    Returns:
        The path of the file.

    Raises:
        RectalError: There is no such model or fold, or a file of it cannot be read.
    """
    dataset = find_dataset("nnUNet_results", dataset_id)
    source = dataset / f"{trainer}__{plans}__{configuration}"
    if not source.is_dir():
        present = ", ".join(sorted(path.name for path in dataset.glob("*__*__*"))) or "none"
        raise RectalError(f"There is no model {source}; models of this dataset: {present}. Fix -tr, -p or -c.")
    return _bundle_of(source, Path(output), Renamer(_case_names(source, pseudonymize)), folds, pseudonymize)


def import_model(path: str | Path) -> list[Path]:
    """Put a model into nnUNet_results, under the names it had, from a bundle or from a model zip that nnU-Net exported.

    Every file is written anew, beside its place, from what was checked. Of nnU-Net's zip all models are taken, and
    what is neither plans, dataset.json, fingerprint, checkpoint nor result of a fold is left out.

    Args:
        path: Written by `export_model`, or by nnUNetv2_export_model_to_zip.

    Returns:
        The folders of the models; a bundle holds one.

    Raises:
        RectalError: The file is neither, damaged, or holds anything that could run; the model is there already, or the
            id belongs to another dataset. Nothing has been written then.
    """
    path = Path(path)
    results = nnunet_folder("nnUNet_results")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import_model.", suffix=".partial", dir=results) as staging:
        scratch, written = Path(staging) / "scratch", Path(staging) / "written"
        scratch.mkdir()
        with open_zip(path) as archive:
            bundles = [path] if MANIFEST in archive.namelist() else _bundles_of_zip(path, scratch)
        print(digest_line(path))
        for bundle in bundles:
            _write_model(bundle, written, scratch)
        return _move(written, results)


def _bundle_of(
    source: Path, output: Path, renamer: Renamer, folds: Sequence[int | str] | None, pseudonymized: bool
) -> Path:
    """Write the folder of a model, whose parent is called like the dataset, into a bundle."""
    with new_bundle(output) as bundle:
        export = Export(bundle, source.parent.name, renamer)
        export.removed["optimizer state and training curves of checkpoints"] += 1
        export.add(DATASET, DatasetJson, load_json_file(source / DATASET))
        plans = export.add(PLANS, PlansJson, load_json_file(source / PLANS))
        if (source / FINGERPRINT).is_file():
            export.add(FINGERPRINT, FingerprintJson, load_json_file(source / FINGERPRINT))
        present = {path.parent.name for path in source.glob(f"fold_*/{CHECKPOINT}.pth")}
        wanted = sorted(filter(FOLD.fullmatch, present) if folds is None else {f"fold_{fold}" for fold in folds})
        missing = [fold for fold in wanted if fold not in present] or ([] if wanted else ["fold_*"])
        if missing:
            raise RectalError(f"{source} has no {CHECKPOINT}.pth in {missing[0]}. Train it to the end.")
        for fold in tqdm(wanted, desc="Folds", unit="fold"):
            _add_fold(export, source / fold, plans, output.parent)
        bundle.finish(
            kind="model",
            dataset=export.dataset,
            model=source.name,
            pseudonymized=pseudonymized,
            removed=dict(export.removed),
        )
    return output


def _add_fold(export: Export, folder: Path, plans: PlansJson, scratch: Path) -> None:
    """Add weights and results of a fold."""
    checkpoint, weights = read_model_checkpoint(folder / f"{CHECKPOINT}.pth")
    _check_names(checkpoint, plans, folder.parent.name, folder.name)
    export.bundle.add(f"{folder.name}/{CHECKPOINT}.json", json_text(checkpoint))
    with tempfile.TemporaryDirectory(prefix=".weights.", suffix=".partial", dir=scratch) as temporary:
        save_file(weights, Path(temporary) / "weights")
        export.bundle.add(f"{folder.name}/{CHECKPOINT}.safetensors", Path(temporary) / "weights")
    for name, kind in RESULTS.items():
        if (folder / name).is_file():
            export.add(f"{folder.name}/{name}", kind, load_json_file(folder / name))


def _check_names(checkpoint: Checkpoint, plans: PlansJson, model: str, fold: str) -> None:
    """Refuse a checkpoint of another model, fold or configuration than its folder tells."""
    told = f"{checkpoint.trainer_name}__{plans.plans_name}__{checkpoint.configuration}", f"fold_{checkpoint.fold}"
    if told != (model, fold) or checkpoint.configuration not in plans.configurations:
        raise RectalError(f"The checkpoint in {fold} of {model} is of {told[1]} of {told[0]}, or of no configuration.")


def _case_names(source: Path, pseudonymize: bool) -> dict[str, str]:
    """Return what to put in place of the names of cases, and of patients, who never travel."""
    preprocessed = nnunet_folder("nnUNet_preprocessed") / source.parent.name
    patients = read_patients(preprocessed) if preprocessed.is_dir() else {}
    names = dict.fromkeys(patients.values(), "(patient)")
    if not pseudonymize:
        return {**names, **dict(zip(patients, patients, strict=True))}
    if not preprocessed.is_dir():
        raise RectalError(f"{preprocessed} is missing, where the key of the pseudonyms ({KEY_FILE}) is to be kept.")
    cases = {path.name.removesuffix(".b2nd") for path in preprocessed.glob("*/*.b2nd") if "_seg." not in path.name}
    cases |= {path.name.partition(".")[0] for path in source.glob("fold_*/validation/*.nii.gz")} | patients.keys()
    for evaluation in source.glob(f"fold_*/validation/{EVALUATION_FILE}"):
        cases |= {case["case"] for case in load_json_file(evaluation)["cases"]}
    if (preprocessed / SPLITS).is_file():
        cases |= {case for fold in load_json_file(preprocessed / SPLITS) for part in fold.values() for case in part}
    new = pseudonyms(preprocessed, sorted(cases))
    print(f"The key of the pseudonyms stays here: {write_key(preprocessed, new)}")
    return names | new


def _bundles_of_zip(path: Path, scratch: Path) -> list[Path]:
    """Write each model in nnU-Net's zip, DatasetXXX_Name/Trainer__Plans__Configuration, into a bundle."""
    with open_zip(path) as archive:
        for entry in checked_entries(path, archive):
            target = scratch / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.writelines(unpacked(archive, entry))
    models = [folder for folder in sorted(scratch.glob("*/*")) if re.fullmatch(MODEL_FOLDER, folder.name)]
    if not models:
        raise RectalError(f"{path} holds no model DatasetXXX_Name/Trainer__Plans__Configuration.")
    return [
        _bundle_of(model, scratch / f"{number}.bundle", Renamer({}), None, False) for number, model in enumerate(models)
    ]


def _write_model(path: Path, written: Path, scratch: Path) -> None:
    """Write all files of a model anew from the checked content of a bundle."""
    with BundleReader(path) as bundle:
        dataset, files, model = bundle.check_kind("model"), bundle.manifest.files, str(bundle.manifest.model)
        bundle.check_room(scratch)
        folds = sorted({name.partition("/")[0] for name in files if "/" in name})
        needed = {DATASET, PLANS, *(f"{f}/{CHECKPOINT}{e}" for f in folds for e in (".json", ".safetensors"))}
        possible = needed | {FINGERPRINT, *(f"{fold}/{name}" for fold in folds for name in RESULTS)}
        if not folds or not all(map(FOLD.fullmatch, folds)) or not needed <= files.keys() <= possible:
            wrong = sorted(needed - files.keys() | files.keys() - possible)[:1]
            raise RectalError(f"The bundle lacks or has too much of a model: {wrong}.")
        plans, dataset_json = bundle.read(PLANS, PlansJson).of(dataset), bundle.read(DATASET, DatasetJson)
        folder = written / dataset / model
        folder.mkdir(parents=True)
        for name in TEXTS.keys() & files.keys():
            (folder / name).write_bytes(json_text(bundle.read(name, TEXTS[name])))
        for fold in tqdm(folds, desc="Folds", unit="fold"):
            checkpoint = bundle.read(f"{fold}/{CHECKPOINT}.json", Checkpoint)
            _check_names(checkpoint, plans, model, fold)
            (folder / fold / "validation").mkdir(parents=True)
            weights = bundle.load(f"{fold}/{CHECKPOINT}.safetensors", load_file, scratch)
            write_model_checkpoint(folder / fold / f"{CHECKPOINT}.pth", checkpoint, weights, plans, dataset_json)
            for name in (name for name in RESULTS if f"{fold}/{name}" in files):
                record = bundle.read(f"{fold}/{name}", RESULTS[name])
                if isinstance(record, LesionDetection):
                    write_evaluation(summarize_cases(record.cases), folder / fold / "validation")
                else:
                    (folder / fold / name).write_bytes(json_text(record))


def _move(written: Path, results: Path) -> list[Path]:
    """Move all model folders to their place, or none."""
    targets = {source: results / source.relative_to(written) for source in sorted(written.glob("*/*"))}
    for target in targets.values():
        check_id_is_free(target.parent.name)
        if target.exists():
            raise RectalError(f"{target} exists. Move it away, or remove it if it is no longer needed.")
    moved: list[Path] = []
    try:
        for source, target in targets.items():
            if not target.parent.exists():
                target.parent.mkdir()
                moved.append(target.parent)
            # Onto a folder that was made meanwhile this fails; nothing is overwritten.
            source.rename(target)
            moved.append(target)
    except BaseException:
        for folder in reversed(moved):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return list(targets.values())
