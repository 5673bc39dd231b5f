"""A trained model's folder in nnUNet_results: what it was made from, and what the validation of its folds found."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rectal_nnformer.analysis.records import AttentionRecord, ReuseRecord, read_attention, read_epochs, read_reuse
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, read_evaluation
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.nnunet.layout import check_model_folder, folder_variables
from rectal_nnformer.nnunet.names import CUBIC
from rectal_nnformer.reporting.analyses import StageOverFolds, attention_over_folds, epochs_over_folds


@dataclass(frozen=True)
class ModelResults:
    """One trained model and what its validations found.

    Attributes:
        folder: The model folder, `<trainer>__<plans>__<configuration>`.
        dataset: Name of the dataset, `DatasetXXX_Name`.
        trainer: Name of the trainer.
        plans_name: Name of the plans.
        configuration: Configuration of the plans.
        dataset_json: nnU-Net's `dataset.json`.
        plans: nnU-Net's plans.
        folds: Lesion detection of each evaluated fold.
        attention: Attention dilution of each fold that was analysed.
        reuse: Feature reuse of each fold that was analysed.
        epochs: Attention dilution index by epoch and stage, of folds that were followed in training.
    """

    folder: Path
    dataset: str
    trainer: str
    plans_name: str
    configuration: str
    dataset_json: Mapping[str, Any]
    plans: Mapping[str, Any]
    folds: Mapping[int, CohortDetection]
    attention: Mapping[int, AttentionRecord]
    reuse: Mapping[int, ReuseRecord]
    epochs: Mapping[int, Mapping[int, float | None]]

    @cached_property
    def pooled(self) -> CohortDetection:
        """All evaluated folds together."""
        return pool_folds(self.folds)

    def fold_folder(self, fold: int) -> Path:
        """The folder of a fold."""
        return self.folder / f"fold_{fold}"

    def image(self, case: str) -> Path:
        """The image of a case (first channel), which may be missing: raw data need not be at hand."""
        return self._data_folder("nnUNet_raw") / "imagesTr" / f"{case}_0000{self.dataset_json['file_ending']}"

    def reference(self, case: str) -> Path:
        """The reference mask of a case, which may be missing."""
        name = f"{case}{self.dataset_json['file_ending']}"
        preprocessed = self._data_folder("nnUNet_preprocessed") / "gt_segmentations" / name
        return preprocessed if preprocessed.is_file() else self._data_folder("nnUNet_raw") / "labelsTr" / name

    def prediction(self, fold: int, case: str) -> Path:
        """The prediction for a validation case, which may be missing."""
        return self.fold_folder(fold) / "validation" / f"{case}{self.dataset_json['file_ending']}"

    def _data_folder(self, variable: str) -> Path:
        """This dataset in one of nnU-Net's folders: beside nnUNet_results, or else where the variable points."""
        beside = self.folder.parents[2] / variable / self.dataset
        if beside.is_dir() or variable not in folder_variables():
            return beside
        return Path(folder_variables()[variable]) / self.dataset


def read_results(folder: Path) -> ModelResults:
    """Read a model folder.

    Raises:
        RectalError: It is not a model folder, no fold of it has been evaluated, or a file in it is damaged.
    """
    folder = Path(folder).expanduser().resolve()
    trainer, plans_name, configuration = check_model_folder(folder)
    validations = {fold: path / "validation" for fold, path in _fold_folders(folder).items()}
    evaluated = {fold: path for fold, path in validations.items() if (path / EVALUATION_FILE).is_file()}
    if not evaluated:
        raise RectalError(
            f"{folder} has no fold with a validation/{EVALUATION_FILE}. Run 'rectal_nnformer crossval', which trains, "
            "validates and evaluates what is missing."
        )
    folds = {fold: read_evaluation(path) for fold, path in evaluated.items()}
    check_distinct_cases(folds)
    reuse = {fold: read_reuse(path) for fold, path in evaluated.items()}
    return ModelResults(
        folder=folder,
        dataset=folder.parent.name,
        trainer=trainer,
        plans_name=plans_name,
        configuration=configuration,
        dataset_json=_read_keys(folder / "dataset.json", ("labels", "file_ending")),
        plans=_read_keys(folder / "plans.json", ("configurations",)),
        folds=folds,
        attention=read_attention_of_folds(evaluated),
        reuse={fold: record for fold, record in reuse.items() if record is not None},
        epochs=epochs_over_folds(read_epochs(path.parent) for path in evaluated.values()),
    )


def cubic_siblings(model: ModelResults) -> list[tuple[str, tuple[StageOverFolds, ...]]]:
    """Return trainer and attention of analysed models on the cubic patch of the same plans."""
    found = []
    for folder in sorted(model.folder.parent.glob(f"*__{model.plans_name}__{CUBIC}")):
        folds = {fold: path / "validation" for fold, path in _fold_folders(folder).items()}
        if folder != model.folder and (stages := attention_over_folds(read_attention_of_folds(folds))):
            found.append((folder.name.split("__")[0], stages))
    return found


def short_names(models: Sequence[ModelResults]) -> list[str]:
    """Return names that tell models apart and say no more than it takes; models alike in all are numbered."""
    parts = [
        [one.trainer.removeprefix("nnUNetTrainer") or one.trainer, one.configuration, one.plans_name, one.dataset]
        for one in models
    ]
    for used in (1, 2, 3, 4):
        names = [", ".join(part[:used]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{part[0]} ({number})" for number, part in enumerate(parts, start=1)]


def pool_folds(folds: Mapping[int, CohortDetection]) -> CohortDetection:
    """Return the lesion detection over all folds."""
    return summarize_cases([case for result in folds.values() for case in result.cases])


def count_shared_patients(folds: Mapping[int, CohortDetection]) -> int:
    """Return how many patients have cases in more than one fold; a case of unknown patient is a patient of its own.

    The networks that these cases were held out from have seen other scans of the same patients, so that rates are
    optimistic.
    """
    folds_of = Counter(patient for result in folds.values() for patient in {case.patient for case in result.cases})
    return sum(n_folds > 1 for n_folds in folds_of.values())


def check_distinct_cases(folds: Mapping[int, CohortDetection]) -> None:
    """Refuse folds that hold the same case.

    Raises:
        RectalError: A case was evaluated in two folds.
    """
    fold_of: dict[str, int] = {}
    for fold, result in folds.items():
        for case in result.cases:
            other = fold_of.setdefault(case.case, fold)
            if other != fold:
                raise RectalError(
                    f"case {case.case} was evaluated in fold {other} and in fold {fold}, so these folds are not of one "
                    "splits_final.json. Train again the folds that are of another."
                )


def read_attention_of_folds(validation_folders: Mapping[int, Path]) -> dict[int, AttentionRecord]:
    """Return the attention dilution of each fold that was analysed.

    Raises:
        RectalError: A file is damaged.
    """
    records = {fold: read_attention(folder) for fold, folder in validation_folders.items()}
    return {fold: record for fold, record in records.items() if record is not None}


def _fold_folders(folder: Path) -> dict[int, Path]:
    """Return the folders of the folds of a model by number, ascending."""
    found = [path for path in folder.glob("fold_*") if re.fullmatch(r"fold_\d+", path.name)]
    return dict(sorted((int(path.name.removeprefix("fold_")), path) for path in found))


def _read_keys(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return the content of one of nnU-Net's JSON files, which has to have some keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            content[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RectalError(f"{path} cannot be used ({error!r}). Copy it again, or validate the fold again.") from error
    return dict(content)
