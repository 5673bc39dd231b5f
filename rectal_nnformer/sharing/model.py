"""A trained model as one file for collaborators, and such a file, or nnU-Net's zip, as a model to predict with."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeAlias

from pydantic import BaseModel, ConfigDict, RootModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from rectal_nnformer.analysis import records
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.fold import read_evaluation, write_evaluation
from rectal_nnformer.evaluation.log_odds import COUNTS_FILE, SparseCounts
from rectal_nnformer.evaluation.operating_point import POINT_FILE, Choice
from rectal_nnformer.evaluation.summary import summarize_cases
from rectal_nnformer.nnunet import layout
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.nnunet.preflight import check_model
from rectal_nnformer.nnunet.splits import read_splits
from rectal_nnformer.sharing.bundle import MANIFEST, BundleReader, digest_line, new_bundle
from rectal_nnformer.sharing.checkpoints import Checkpoint, read_model_checkpoint, write_model_checkpoint
from rectal_nnformer.sharing.dataset import Export, check_id_is_free
from rectal_nnformer.sharing.deidentify import KEY_FILE, Renamer, locked_key, pseudonyms, write_key
from rectal_nnformer.sharing.schema import DatasetJson, FingerprintJson, Number, PlansJson, Text
from rectal_nnformer.utils.files import is_there, naming, scratch_folder, writing
from rectal_nnformer.utils.json_records import Record, T, json_text, load_json_file
from rectal_nnformer.utils.zips import checked_entries, open_zip, unpacked

CHECKPOINT = layout.CHECKPOINT_FINAL.removesuffix(".pth")
OPTIONAL = (layout.DATASET_FINGERPRINT, POINT_FILE)

Means: TypeAlias = dict[Text, Number | list[Number | None] | None]


class Scores(Record):
    """The means of nnU-Net's summary.json; its list of cases holds paths."""

    foreground_mean: Means | None = None
    mean: dict[Text, Means] | None = None


class EvaluatedCases(Record):
    """The cases of lesion_detection.json, from which all else in it follows."""

    cases: list[CaseDetection]


class Analysis(RootModel[T], Generic[T]):
    """The records of an analysis as they are."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


TEXTS: dict[str, type[BaseModel]] = {
    layout.DATASET_JSON: DatasetJson,
    layout.PLANS_JSON: PlansJson,
    layout.DATASET_FINGERPRINT: FingerprintJson,
    POINT_FILE: Analysis[Choice],
}
RESULTS: dict[str, type[BaseModel]] = {
    f"{layout.VALIDATION}/{layout.SUMMARY_JSON}": Scores,
    f"{layout.VALIDATION}/{layout.EVALUATION_FILE}": EvaluatedCases,
    f"{layout.VALIDATION}/{COUNTS_FILE}": Analysis[SparseCounts],
    f"{layout.VALIDATION}/{records.ATTENTION_FILE}": Analysis[records.AttentionRecord],
    f"{layout.VALIDATION}/{records.REUSE_FILE}": Analysis[records.ReuseRecord],
    records.EPOCHS_FILE: Analysis[tuple[records.EpochRecord, ...]],
}
"""What training and validation of a fold left, beside its checkpoint; a report is made from it again."""


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

    The dataset, 501 or "Dataset501_Name", is looked for in nnUNet_results. The file is a zip, written under exactly
    this name, replacing one that is there; its path is returned. `folds` are numbers, or "all"; None takes those that
    are finished. With `pseudonymize` cases in the results get the names that `export_dataset` gives them.

    Raises:
        RectalError: There is no such model or fold, or a file of it cannot be read.
    """
    model = check_model(dataset_id, trainer, plans, configuration)
    return _bundle_of(model, Path(output), Renamer(_case_names(model, pseudonymize)), folds, pseudonymize)


def import_model(path: str | Path) -> list[Path]:
    """Put a model into nnUNet_results, under the names it had, from a bundle or from a model zip that nnU-Net exported.

    Every file is written anew, beside its place, from what was checked. Of nnU-Net's zip all models are taken, and
    what is neither plans, dataset.json, fingerprint, checkpoint nor result of a fold is left out.

    Returns:
        The folders of the models; a bundle holds one.

    Raises:
        RectalError: The file is neither, damaged, or holds anything that could run; the model is there already, or the
            id belongs to another dataset. Nothing has been written then.
    """
    path = Path(path)
    results = layout.nnunet_folder("nnUNet_results")
    with scratch_folder(results / "import_model") as staging, naming(results):
        scratch, written = staging / "scratch", staging / "written"
        scratch.mkdir()
        with open_zip(path) as archive:
            bundles = [path] if MANIFEST in archive.namelist() else _bundles_of_zip(path, scratch)
        print(digest_line(path))
        for bundle in bundles:
            _write_model(bundle, written, scratch)
        return _move(written, results)


def _bundle_of(
    model: layout.ModelFolder, output: Path, renamer: Renamer, folds: Sequence[int | str] | None, pseudonymized: bool
) -> Path:
    with new_bundle(output) as bundle:
        export = Export(bundle, model.dataset, renamer)
        export.removed["optimizer state and training curves of checkpoints"] += 1
        export.add(layout.DATASET_JSON, DatasetJson, load_json_file(model.dataset_json))
        plans = export.add(layout.PLANS_JSON, PlansJson, load_json_file(model.plans_file))
        for name in OPTIONAL:
            if (model.path / name).is_file():
                export.add(name, TEXTS[name], load_json_file(model.path / name))
        chosen = model.folds() if folds is None else map(model.fold, sorted({str(fold) for fold in folds}))
        wanted = [fold for fold in chosen if folds or fold.checkpoint_final.is_file()]
        missing = [fold.name for fold in wanted if not fold.checkpoint_final.is_file()]
        if missing or not wanted:
            where = missing[0] if missing else layout.fold_name("*")
            raise RectalError(f"{model.path} has no {layout.CHECKPOINT_FINAL} in {where}. Train it to the end.")
        for fold in tqdm(wanted, desc="Folds", unit="fold"):
            _add_fold(export, fold, plans, output)
        bundle.finish(
            kind="model",
            dataset=export.dataset,
            model=model.name,
            pseudonymized=pseudonymized,
            removed=dict(sorted(export.removed.items())),
        )
    return output


def _add_fold(export: Export, fold: layout.FoldFolder, plans: PlansJson, output: Path) -> None:
    """Add weights and results of a fold to the bundle that is to become a file."""
    checkpoint, weights = read_model_checkpoint(fold.checkpoint_final)
    _check_names(checkpoint, plans, fold.model.name, fold.name)
    export.bundle.add(f"{fold.name}/{CHECKPOINT}.json", json_text(checkpoint))
    with scratch_folder(output.parent / "weights") as temporary:
        with writing(output, SafetensorError):
            save_file(weights, temporary / "weights")
        export.bundle.add(f"{fold.name}/{CHECKPOINT}.safetensors", temporary / "weights")
    for name, kind in RESULTS.items():
        if is_there(fold.path / name):
            export.add(f"{fold.name}/{name}", kind, load_json_file(fold.path / name))


def _check_names(checkpoint: Checkpoint, plans: PlansJson, model: str, fold: str) -> None:
    """Refuse a checkpoint of another model, fold or configuration than its folder tells."""
    name = f"{checkpoint.trainer_name}__{plans.plans_name}__{checkpoint.configuration}"
    told = layout.fold_name(checkpoint.fold)
    if (name, told) != (model, fold) or checkpoint.configuration not in plans.configurations:
        raise RectalError(f"The checkpoint in {fold} of {model} is of {told} of {name}, or of no configuration.")


def _case_names(model: layout.ModelFolder, pseudonymize: bool) -> dict[str, str]:
    """Return what to put in place of the names of cases, and of patients, who never travel."""
    preprocessed = layout.nnunet_folder("nnUNet_preprocessed") / model.dataset
    patients = read_patients(preprocessed) if preprocessed.is_dir() else {}
    names = dict.fromkeys(patients.values(), "(patient)")
    if not pseudonymize:
        return {**names, **dict(zip(patients, patients, strict=True))}
    if not preprocessed.is_dir():
        raise RectalError(f"{preprocessed} is missing, where the key of the pseudonyms ({KEY_FILE}) is to be kept.")
    cases = {case for folder in preprocessed.iterdir() if folder.is_dir() for case in layout.cases_in(folder)}
    cases |= patients.keys()
    for folder in (fold.validation for fold in model.folds()):
        cases |= {path.name.partition(".")[0] for path in folder.glob("*.nii.gz")}
        if is_there(folder / layout.EVALUATION_FILE):
            cases |= {case.case for case in read_evaluation(folder).cases}
    if is_there(splits := layout.PreprocessedDataset(preprocessed).splits):
        cases |= {case for fold in read_splits(splits) for case in (*fold.train, *fold.val)}
    with locked_key(preprocessed):
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
    models = list(filter(None, map(layout.ModelFolder.parse, sorted(scratch.glob("*/*")))))
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
        needed = {layout.DATASET_JSON, layout.PLANS_JSON}
        needed |= {f"{fold}/{CHECKPOINT}{ending}" for fold in folds for ending in (".json", ".safetensors")}
        possible = needed | {*OPTIONAL, *(f"{fold}/{name}" for fold in folds for name in RESULTS)}
        if not folds or not all(map(layout.FOLD_NAME.fullmatch, folds)) or not needed <= files.keys() <= possible:
            wrong = sorted(needed - files.keys() | files.keys() - possible)[:1]
            raise RectalError(f"The bundle lacks or has too much of a model: {wrong}.")
        plans = bundle.read(layout.PLANS_JSON, PlansJson).of(dataset)
        dataset_json = bundle.read(layout.DATASET_JSON, DatasetJson)
        folder = written / dataset / model
        folder.mkdir(parents=True)
        for name in TEXTS.keys() & files.keys():
            (folder / name).write_bytes(json_text(bundle.read(name, TEXTS[name])))
        for fold in tqdm(folds, desc="Folds", unit="fold"):
            checkpoint = bundle.read(f"{fold}/{CHECKPOINT}.json", Checkpoint)
            _check_names(checkpoint, plans, model, fold)
            (folder / fold / layout.VALIDATION).mkdir(parents=True)
            weights = bundle.load(f"{fold}/{CHECKPOINT}.safetensors", load_file, scratch)
            write_model_checkpoint(folder / fold / f"{CHECKPOINT}.pth", checkpoint, weights, plans, dataset_json)
            for name in (name for name in RESULTS if f"{fold}/{name}" in files):
                record = bundle.read(f"{fold}/{name}", RESULTS[name])
                if isinstance(record, EvaluatedCases):
                    write_evaluation(summarize_cases(record.cases), folder / fold / layout.VALIDATION)
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
