"""A trained model's folder in nnUNet_results: what it was made from, and what the validation of its folds found."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import JSON_NAME as EVALUATION_FILE
from rectal_nnformer.evaluation.fold import read_evaluation
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.nnunet.layout import check_model_folder, folder_variables
from rectal_nnformer.nnunet.names import CUBIC
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.reporting.analyses import ATTENTION_FILE, REUSE_FILE, read_analyses, read_epochs, read_keys
from rectal_nnformer.reporting.crossval_summary import check_distinct_cases, count_shared_patients


@dataclass(frozen=True)
class Run:
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
        attention: Content of `attention_dilution.json` of each fold that has one.
        reuse: Content of `feature_reuse.json` of each fold that has one.
        epochs: Attention dilution index by epoch and stage, of folds that were followed in training.
    """

    folder: Path
    dataset: str
    trainer: str
    plans_name: str
    configuration: str
    dataset_json: Mapping[str, Any]
    plans: Plans
    folds: Mapping[int, CohortDetection]
    attention: Mapping[int, Mapping[str, Any]]
    reuse: Mapping[int, Mapping[str, Any]]
    epochs: Mapping[int, Mapping[int, float | None]]

    @cached_property
    def pooled(self) -> CohortDetection:
        """All evaluated folds together."""
        return summarize_cases([case for result in self.folds.values() for case in result.cases])

    @cached_property
    def patients_shared_between_folds(self) -> int:
        """Patients with cases in more than one fold; rates are optimistic if there are any."""
        return count_shared_patients(self.folds)

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
        return self.folder / f"fold_{fold}" / "validation" / f"{case}{self.dataset_json['file_ending']}"

    def _data_folder(self, variable: str) -> Path:
        """This dataset in one of nnU-Net's folders: beside nnUNet_results, or else where the variable points."""
        beside = self.folder.parents[2] / variable / self.dataset
        if beside.is_dir() or variable not in folder_variables():
            return beside
        return Path(folder_variables()[variable]) / self.dataset


def read_run(folder: Path) -> Run:
    """Read a model folder.

    Raises:
        RectalError: It is not a model folder, no fold of it has been evaluated, or a file in it is damaged.
    """
    folder = Path(folder).expanduser().resolve()
    trainer, plans_name, configuration = check_model_folder(folder)
    folds = {fold: read_evaluation(folder / f"fold_{fold}" / "validation") for fold in _evaluated_folds(folder)}
    if not folds:
        raise RectalError(
            f"{folder} has no fold with a validation/{EVALUATION_FILE}. Run 'rectal_nnformer crossval', which trains, "
            "validates and evaluates what is missing."
        )
    check_distinct_cases(folds)
    return Run(
        folder=folder,
        dataset=folder.parent.name,
        trainer=trainer,
        plans_name=plans_name,
        configuration=configuration,
        dataset_json=read_keys(folder / "dataset.json", ("labels", "file_ending")),
        plans=Plans.read(folder / "plans.json"),
        folds=folds,
        attention=read_analyses(folder, folds, ATTENTION_FILE),
        reuse=read_analyses(folder, folds, REUSE_FILE),
        epochs=read_epochs(folder, folds),
    )


def cubic_siblings(run: Run) -> list[tuple[str, dict[int, Mapping[str, Any]]]]:
    """Return trainer and `attention_dilution.json` by fold of analysed models on the cubic patch of the same plans."""
    found = []
    for folder in sorted(run.folder.parent.glob(f"*__{run.plans_name}__{CUBIC}")):
        folds = [int(path.name[len("fold_") :]) for path in _fold_folders(folder)]
        if folder != run.folder and (attention := read_analyses(folder, folds, ATTENTION_FILE)):
            found.append((folder.name.split("__")[0], attention))
    return found


def short_names(runs: Sequence[Run]) -> list[str]:
    """Return names that tell runs apart and say no more than it takes; runs alike in all are numbered."""
    parts = [
        [run.trainer.removeprefix("nnUNetTrainer") or run.trainer, run.configuration, run.plans_name, run.dataset]
        for run in runs
    ]
    for used in (1, 2, 3, 4):
        names = [", ".join(part[:used]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{part[0]} ({number})" for number, part in enumerate(parts, start=1)]


def _fold_folders(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("fold_*") if re.fullmatch(r"fold_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[len("fold_") :]))


def _evaluated_folds(folder: Path) -> list[int]:
    return [
        int(path.name[len("fold_") :])
        for path in _fold_folders(folder)
        if (path / "validation" / EVALUATION_FILE).is_file()
    ]
