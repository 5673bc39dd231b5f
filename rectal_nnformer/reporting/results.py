"""What a report tells of: a trained model with the validation of its folds, or predictions that were scored."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rectal_nnformer.analysis.records import AttentionRecord, ReuseRecord, read_attention, read_epochs, read_reuse
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import ComparedFolders, masks_in, read_compared, read_evaluation
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import (
    EVALUATION_FILE,
    TRAINED_ON,
    ModelFolder,
    PreprocessedDataset,
    RawDataset,
    check_folder,
    image_name,
    images_beside,
    is_evaluated,
    read_image_digests,
)
from rectal_nnformer.nnunet.names import CUBIC
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.reporting.analyses import StageOverFolds, attention_over_folds, epochs_over_folds
from rectal_nnformer.utils.files import read_json_if_whole
from rectal_nnformer.utils.json_records import T

NO_FOLD = -1
"""The number under which scored predictions stand that are of no fold."""
FINDINGS_FILE = "findings.json"


@dataclass(frozen=True)
class Results(ABC):
    """Scored cases, by fold, and where their images and masks are."""

    dataset_json: Mapping[str, Any]
    folds: Mapping[int, CohortDetection]

    @cached_property
    def pooled(self) -> CohortDetection:
        """All evaluated folds together."""
        return pool_folds(self.folds)

    @property
    def file_ending(self) -> str:
        """How files of images and masks end, as in `dataset.json`."""
        return self.dataset_json["file_ending"]

    @property
    @abstractmethod
    def path(self) -> Path:
        """The folder of results."""

    @property
    @abstractmethod
    def evaluated(self) -> dict[int, Path]:
        """The folder of each fold that an evaluation wrote into."""

    @property
    @abstractmethod
    def titles(self) -> tuple[str, ...]:
        """What it is called, and what tells more of it."""

    @abstractmethod
    def image(self, case: str) -> Path:
        """The image of a case (first channel), which may be missing: raw data need not be at hand."""

    @abstractmethod
    def reference(self, case: str) -> Path:
        """The reference mask of a case, which may be missing."""

    @abstractmethod
    def prediction(self, fold: int, case: str) -> Path:
        """The prediction for a case, which may be missing."""


@dataclass(frozen=True)
class ModelResults(Results):
    """One trained model and what the validations of its evaluated folds found.

    `attention`, `reuse` and `epochs` (attention dilution index by epoch and stage) are of the folds that were analysed.
    """

    folder: ModelFolder
    plans: Plans
    attention: Mapping[int, AttentionRecord]
    reuse: Mapping[int, ReuseRecord]
    epochs: Mapping[int, Mapping[int, float | None]]

    @property
    def path(self) -> Path:
        """The folder of the model."""
        return self.folder.path

    @property
    def evaluated(self) -> dict[int, Path]:
        """The folders of the validations."""
        return {fold: self.folder.fold(fold).validation for fold in self.folds}

    @property
    def titles(self) -> tuple[str, ...]:
        """Dataset, trainer, plans and configuration."""
        return self.folder.titles

    def image(self, case: str) -> Path:
        """The image of a training case, in nnUNet_raw."""
        return RawDataset(self.folder.data_folder("nnUNet_raw")).image(case, self.file_ending)

    def reference(self, case: str) -> Path:
        """The reference of a training case, in nnUNet_preprocessed or else in nnUNet_raw."""
        dataset = PreprocessedDataset(self.folder.data_folder("nnUNet_preprocessed"))
        preprocessed = dataset.reference(case, self.file_ending)
        if preprocessed.is_file():
            return preprocessed
        return RawDataset(self.folder.data_folder("nnUNet_raw")).label(case, self.file_ending)

    def prediction(self, fold: int, case: str) -> Path:
        """The prediction for a validation case."""
        return self.folder.fold(fold).validation / f"{case}{self.file_ending}"


@dataclass(frozen=True)
class FolderResults(Results):
    """Predictions that `evaluate` compared with references, such as those of an external test set.

    Attributes:
        output: The folder that it wrote into.
        compared: What it compared.
        images: Folder of the images; None where none is known.
        model: What `predict` noted of the model, empty for predictions from elsewhere.
        trained_on: Scored cases that the model was trained on.
    """

    output: Path
    compared: ComparedFolders
    images: Path | None
    model: Mapping[str, str]
    trained_on: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The folder that `evaluate` wrote into."""
        return self.output

    @property
    def evaluated(self) -> dict[int, Path]:
        """The same."""
        return {NO_FOLD: self.output}

    @property
    def titles(self) -> tuple[str, ...]:
        """The folder of results, and the model where it is known."""
        dataset = self.compared.references.parent.name
        name = dataset if dataset.startswith("Dataset") else self.path.name
        return name, *filter(None, (self.model.get(key) for key in ("trainer", "plans", "configuration")))

    def image(self, case: str) -> Path:
        """The image of a case, by nnU-Net's name for it or by its own."""
        folder = self.images or Path("images")
        named = folder / image_name(case, self.file_ending)
        return named if named.is_file() else folder / f"{case}{self.file_ending}"

    def reference(self, case: str) -> Path:
        """The reference of a case."""
        return self._masks[1].get(case, self.compared.references / f"{case}{self.file_ending}")

    def prediction(self, fold: int, case: str) -> Path:
        """The prediction for a case."""
        return self._masks[0].get(case, self.compared.predictions / f"{case}{self.file_ending}")

    @cached_property
    def _masks(self) -> tuple[dict[str, Path], dict[str, Path]]:
        folders = self.compared.predictions, self.compared.references
        found = (masks_in(folder, self.file_ending) if folder.is_dir() else {} for folder in folders)
        return next(found), next(found)


def read_scored(path: Path, images: Path | None = None) -> Results:
    """Read what a report tells of: a model folder, or a folder that `evaluate` wrote into.

    Args:
        path: The folder.
        images: Folder of the images of scored predictions; None takes that beside the references, in a raw dataset.

    Raises:
        RectalError: It is neither, a fold of it has not been evaluated, or a file in it is damaged.
    """
    if not is_evaluated(path):
        return read_results(path)
    result, compared = read_evaluation(path), read_compared(path)
    if images is not None:
        check_folder(images)
    noted = read_json_if_whole(compared.predictions / FINDINGS_FILE)
    model = noted.get("model") if isinstance(noted, dict) else None
    trained_on = read_json_if_whole(compared.predictions / TRAINED_ON)
    return FolderResults(
        dataset_json=read_dataset_json(compared.dataset_json, "Run 'rectal_nnformer evaluate' again."),
        folds={NO_FOLD: result},
        output=path.resolve(),
        compared=compared,
        images=images or images_beside(compared.references),
        model={str(key): str(value) for key, value in model.items()} if isinstance(model, dict) else {},
        trained_on=tuple(case.case for case in result.cases if case.case in (trained_on or {})),
    )


def read_results(path: Path, of_folds: Collection[int] | None = None) -> ModelResults:
    """Read a model folder.

    Args:
        path: The folder.
        of_folds: Numbers of the folds to read; None takes all that were evaluated.

    Raises:
        RectalError: It is not a model folder, no fold of it has been evaluated, or a file in it is damaged.
    """
    folder = ModelFolder.from_path(path)
    validations = {fold: folder.fold(fold).validation for fold in folder.fold_numbers()}
    if of_folds is not None:
        validations = {fold: path for fold, path in validations.items() if fold in of_folds}
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
    digests = read_image_digests(model.folder.path)
    groups: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for fold, result in model.folds.items():
        for case in result.cases:
            if digest := digests.get(case.case):
                groups[digest][case.case] = fold
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
