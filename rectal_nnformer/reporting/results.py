"""A trained model's folder in nnUNet_results: what it was made from, and what the validation of its folds found."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rectal_nnformer.analysis.records import AttentionRecord, ReuseRecord, read_attention, read_epochs, read_reuse
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, read_evaluation
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import IMAGE_DIGESTS, ModelFolder, PreprocessedDataset, RawDataset
from rectal_nnformer.nnunet.names import CUBIC
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.reporting.analyses import StageOverFolds, attention_over_folds, epochs_over_folds
from rectal_nnformer.utils.files import read_json_if_whole
from rectal_nnformer.utils.json_records import T


@dataclass(frozen=True)
class ModelResults:
    """One trained model and what the validations of its evaluated folds found.

    `attention`, `reuse` and `epochs` (attention dilution index by epoch and stage) are of the folds that were analysed.
    """

    folder: ModelFolder
    dataset_json: Mapping[str, Any]
    plans: Plans
    folds: Mapping[int, CohortDetection]
    attention: Mapping[int, AttentionRecord]
    reuse: Mapping[int, ReuseRecord]
    epochs: Mapping[int, Mapping[int, float | None]]

    @cached_property
    def pooled(self) -> CohortDetection:
        """All evaluated folds together."""
        return pool_folds(self.folds)

    @property
    def file_ending(self) -> str:
        """How files of images and masks end, as in `dataset.json`."""
        return self.dataset_json["file_ending"]

    def image(self, case: str) -> Path:
        """The image of a case (first channel), which may be missing: raw data need not be at hand."""
        return RawDataset(self.folder.data_folder("nnUNet_raw")).image(case, self.file_ending)

    def reference(self, case: str) -> Path:
        """The reference mask of a case, which may be missing."""
        dataset = PreprocessedDataset(self.folder.data_folder("nnUNet_preprocessed"))
        preprocessed = dataset.reference(case, self.file_ending)
        if preprocessed.is_file():
            return preprocessed
        return RawDataset(self.folder.data_folder("nnUNet_raw")).label(case, self.file_ending)

    def prediction(self, fold: int, case: str) -> Path:
        """The prediction for a validation case, which may be missing."""
        return self.folder.fold(fold).validation / f"{case}{self.file_ending}"


def read_results(path: Path) -> ModelResults:
    """Read a model folder.

    Raises:
        RectalError: It is not a model folder, no fold of it has been evaluated, or a file in it is damaged.
    """
    folder = ModelFolder.from_path(path)
    validations = {fold: folder.fold(fold).validation for fold in folder.fold_numbers()}
    evaluated = {fold: path for fold, path in validations.items() if (path / EVALUATION_FILE).is_file()}
    if not evaluated:
        raise RectalError(
            f"{folder.path} has no fold with a validation/{EVALUATION_FILE}. Run 'rectal_nnformer crossval', which "
            "trains, validates and evaluates what is missing."
        )
    folds = {fold: read_evaluation(path) for fold, path in evaluated.items()}
    check_distinct_cases(folds)
    remedy = "Copy it again, or train the fold again."
    return ModelResults(
        folder=folder,
        dataset_json=read_dataset_json(folder.dataset_json, remedy),
        plans=Plans.read(folder.plans_file),
        folds=folds,
        attention=read_of_folds(read_attention, evaluated),
        reuse=read_of_folds(read_reuse, evaluated),
        epochs=epochs_over_folds(read_epochs(folder.fold(fold).path) for fold in folds),
    )


def cubic_siblings(model: ModelResults) -> list[tuple[str, tuple[StageOverFolds, ...]]]:
    """Return trainer and attention of analysed models on the cubic patch of the same plans."""
    found = []
    for path in sorted(model.folder.path.parent.glob(f"*__{model.folder.plans}__{CUBIC}")):
        folder = ModelFolder.parse(path)
        if folder is None or folder == model.folder:
            continue
        validations = {fold: folder.fold(fold).validation for fold in folder.fold_numbers()}
        if stages := attention_over_folds(read_of_folds(read_attention, validations)):
            found.append((folder.trainer, stages))
    return found


def short_names(models: Sequence[ModelResults]) -> list[str]:
    """Return names that tell models apart and say no more than it takes; models alike in all are numbered."""
    folders = [model.folder for model in models]
    trainers = [folder.trainer.removeprefix("nnUNetTrainer") or folder.trainer for folder in folders]
    parts = [(t, f.configuration, f.plans, f.dataset) for t, f in zip(trainers, folders, strict=True)]
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


def scans_seen_twice(model: ModelResults) -> list[tuple[str, ...]]:
    """Return the cases of different folds whose images hold the same voxels, by what was noted in planning.

    Of each group all but one were seen in the training of every fold that they were held out from.
    """
    digests = read_json_if_whole(model.folder.path / IMAGE_DIGESTS) or {}
    groups: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for fold, result in model.folds.items():
        for case in result.cases:
            if digest := digests.get(case.case):
                groups[str(digest)][case.case] = fold
    return [tuple(sorted(group)) for group in groups.values() if len(set(group.values())) > 1]


def check_distinct_cases(folds: Mapping[int, CohortDetection]) -> None:
    """Refuse folds that hold the same case."""
    fold_of: dict[str, int] = {}
    for fold, result in folds.items():
        for case in result.cases:
            if (other := fold_of.setdefault(case.case, fold)) != fold:
                raise RectalError(
                    f"case {case.case} was evaluated in fold {other} and in fold {fold}, so these folds are not of one "
                    "splits_final.json. Train again the folds that are of another."
                )


def read_of_folds(read: Callable[[Path], T | None], validation_folders: Mapping[int, Path]) -> dict[int, T]:
    """Return what an analysis wrote of each fold that was analysed, by `read_attention` or `read_reuse`."""
    records = {fold: read(folder) for fold, folder in validation_folders.items()}
    return {fold: record for fold, record in records.items() if record is not None}
