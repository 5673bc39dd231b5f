"""nnU-Net's folders and file names: the one place that builds and parses them.

Only the standard library is imported, so that a command can answer a wrong name at once.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.checkpoints import checkpoint_problem
from rectal_nnformer.utils.files import locked, read_bytes, read_json, read_json_if_whole, remove_leftovers
from rectal_nnformer.utils.text import nearest, some

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINERS_VARIABLE = "nnUNet_extTrainer"
REMEDIES = {
    "nnUNet_raw": "make it with 'rectal_nnformer convert'",
    "nnUNet_preprocessed": "make it with 'rectal_nnformer plan_and_preprocess'",
    "nnUNet_results": "train it with 'rectal_nnformer crossval'",
}
"""What fills each of nnU-Net's folders."""

DATASET_JSON = "dataset.json"
IMAGES_TR, LABELS_TR, IMAGES_TS, LABELS_TS = "imagesTr", "labelsTr", "imagesTs", "labelsTs"
"""Training images and their masks, and images to predict with their masks, if there are any, in a raw dataset."""
GT_SEGMENTATIONS = "gt_segmentations"
"""Reference masks of the training cases in a preprocessed dataset."""
SPLITS_FINAL = "splits_final.json"
DATASET_FINGERPRINT = "dataset_fingerprint.json"
CASE_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
"""Files of a preprocessed case: image, mask and properties."""

TRAINED_ON = "trained_on.json"
"""Beside predicted masks: which training case each scan is that the model was trained on."""
EVALUATION_FILE = "lesion_detection.json"
"""What an evaluation found, in a fold's validation or wherever `evaluate` was told to write."""
IMAGE_DIGESTS = "image_digests.json"
"""Digest of each training case's images, by which a scan is recognized: in a preprocessed dataset and its models."""

PLANS_JSON = "plans.json"
FOLD_PREFIX = "fold_"
ALL_CASES = "all"
"""The fold that trains on every case."""
VALIDATION = "validation"
SUMMARY_JSON = "summary.json"
PROGRESS_PNG = "progress.png"
CHECKPOINT_FINAL, CHECKPOINT_LATEST, CHECKPOINT_BEST = (
    "checkpoint_final.pth",
    "checkpoint_latest.pth",
    "checkpoint_best.pth",
)
CHECKPOINTS = "checkpoint_*.pth"
TRAINING_LOCK = ".training.lock"
"""What a training of this project's holds in its fold."""

FOLD_NAME = re.compile(rf"{FOLD_PREFIX}(\d+|{ALL_CASES})", re.ASCII)


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`, trained or not, by its parts."""

    results: Path
    dataset: str
    trainer: str
    plans: str
    configuration: str

    @classmethod
    def named(cls, dataset: str, trainer: str, plans: str, configuration: str) -> "ModelFolder":
        """Return the folder of a model in nnUNet_results.

        Raises:
            RectalError: The variable is not set.
        """
        return cls(nnunet_folder("nnUNet_results"), dataset, trainer, plans, configuration)

    @classmethod
    def parse(cls, path: Path) -> "ModelFolder | None":
        """Return the model of a path by its name alone; None if that is no model's."""
        names = path.name.split("__")
        return cls(path.parents[1], path.parent.name, *names) if len(names) == 3 and all(names) else None

    @classmethod
    def from_path(cls, path: Path) -> "ModelFolder":
        """Return the model in an existing folder.

        Raises:
            RectalError: There is no such folder, or it is no model's.
        """
        remedy = (
            "Name a model folder, as 'rectal_nnformer crossval' prints it: nnUNet_results/DATASET/TRAINER__PLANS__CONF"
        )
        folder = path.expanduser().resolve()
        if not folder.is_dir():
            raise RectalError(f"There is no folder {path}. {remedy}.{most_alike(folder)}")
        model = cls.parse(folder)
        if model is None or not is_model(folder):
            around = next(filter(None, map(cls.parse, folder.parents)), None)
            hint = f" Did you mean {around.path}?" if around is not None else ""
            raise RectalError(f"{path} is not the folder of a trained model with its {PLANS_JSON}. {remedy}.{hint}")
        return model

    @property
    def titles(self) -> tuple[str, str, str, str]:
        """What pages call it: dataset, trainer, plans, configuration."""
        return self.dataset, self.trainer, self.plans, self.configuration

    @property
    def name(self) -> str:
        """TRAINER__PLANS__CONFIGURATION."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.results / self.dataset / self.name

    @property
    def plans_file(self) -> Path:
        """The plans that it was trained by."""
        return self.path / PLANS_JSON

    def current_plans_file(self) -> Path:
        """Return the plans that it was trained by; for a model without training those of its dataset.

        Raises:
            RectalError: There are neither.
        """
        if self.plans_file.is_file():
            return self.plans_file
        return find_plans(find_dataset("nnUNet_preprocessed", self.dataset), self.plans)

    @property
    def dataset_json(self) -> Path:
        """The description of the dataset that it was trained on."""
        return self.path / DATASET_JSON

    def fold(self, fold: int | str) -> "FoldFolder":
        """Return one fold, by its number or "all"."""
        return FoldFolder(self, str(fold))

    def folds(self) -> "list[FoldFolder]":
        """Return the folds that have a folder, by number; "all" comes last."""
        found = filter(None, map(FoldFolder.parse, self.path.glob(f"{FOLD_PREFIX}*")))
        return sorted((self.fold(fold.fold) for fold in found), key=lambda fold: (len(fold.fold), fold.fold))

    def fold_numbers(self) -> list[int]:
        """Return the numbers of the folds that have a folder, without "all"."""
        return [int(fold.fold) for fold in self.folds() if fold.fold != ALL_CASES]

    def data_folder(self, variable: str) -> Path:
        """Return its dataset in another of nnU-Net's folders: beside nnUNet_results, or where the variable points.

        The folder need not exist: raw data may not be at hand.
        """
        beside = self.results.parent / variable / self.dataset
        if beside.is_dir() or variable not in folder_variables():
            return beside
        return Path(folder_variables()[variable]) / self.dataset


@dataclass(frozen=True)
class FoldFolder:
    """A fold's folder, `fold_X` of a model, trained or not, X being its number or "all"."""

    model: ModelFolder
    fold: str

    @classmethod
    def parse(cls, path: Path) -> "FoldFolder | None":
        """Return the fold of a path by its name alone; None if that is no fold's."""
        found, model = FOLD_NAME.fullmatch(path.name), ModelFolder.parse(path.parent)
        return cls(model, found[1]) if found and model else None

    @classmethod
    def around(cls, path: Path) -> "FoldFolder | None":
        """Return the fold in whose folder something lies; None where it lies in none."""
        return next(filter(None, map(cls.parse, path.resolve().parents)), None)

    @classmethod
    def from_path(cls, path: Path) -> "FoldFolder":
        """Return the fold in an existing folder.

        Raises:
            RectalError: It is no such folder; where it is something in one, the message names that.
        """
        folder = path.expanduser().resolve()
        fold = cls.parse(folder)
        if fold is None or not folder.is_dir():
            around = cls.around(folder)
            hint = f" Name that folder instead: {around.path}" if around else ""
            raise RectalError(f"{folder} is not the folder of a fold, .../TRAINER__PLANS__CONFIGURATION/fold_X.{hint}")
        return fold

    @property
    def name(self) -> str:
        """Name of the folder, `fold_X`."""
        return fold_name(self.fold)

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.model.path / self.name

    @property
    def validation(self) -> Path:
        """The folder of what the validation wrote."""
        return self.path / VALIDATION

    @property
    def checkpoint_final(self) -> Path:
        """The checkpoint of a training that reached its end."""
        return self.path / CHECKPOINT_FINAL

    @property
    def is_trained(self) -> bool:
        """Whether the training reached its end, and its last checkpoint is whole and of the model's trainer."""
        return self.checkpoint_final.is_file() and not checkpoint_problem(self.checkpoint_final, self.model.trainer)

    @property
    def is_finished(self) -> bool:
        """Whether the fold is trained and validated, and what nnU-Net says of that is whole."""
        return self.is_trained and read_json_if_whole(self.validation / SUMMARY_JSON) is not None

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that there are, by name."""
        return sorted(self.path.glob(CHECKPOINTS))


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset's folder, `.../DatasetXXX_Name`, in nnUNet_raw or nnUNet_preprocessed: what both have."""

    path: Path
    variable: ClassVar[str]

    @classmethod
    def find(cls, dataset: int | str) -> "Self":
        """Return a dataset by its id or name.

        Raises:
            RectalError: The variable is not set, or there is no such dataset or more than one.
        """
        return cls(find_dataset(cls.variable, dataset))

    @classmethod
    def at(cls, name: str) -> "Self":
        """Return where a dataset belongs by its name; neither it nor the variable need be there."""
        return cls(Path(folder_variables().get(cls.variable, cls.variable)) / name)

    @property
    def name(self) -> str:
        """DatasetXXX_Name."""
        return self.path.name

    @property
    def dataset_json(self) -> Path:
        """nnU-Net's description of the dataset."""
        return self.path / DATASET_JSON

    @property
    def splits(self) -> Path:
        """The folds; in nnUNet_raw where the conversion or a user made them."""
        return self.path / SPLITS_FINAL


class RawDataset(DatasetFolder):
    """A dataset's folder in nnUNet_raw."""

    variable = "nnUNet_raw"

    @property
    def images_tr(self) -> Path:
        """Folder of the training images."""
        return self.path / IMAGES_TR

    def image(self, case: str, ending: str, channel: int = 0) -> Path:
        """Return the image of a training case, `ending` being the `file_ending` of dataset.json."""
        return self.images_tr / image_name(case, ending, channel)

    def label(self, case: str, ending: str) -> Path:
        """Return the mask of a training case."""
        return self.path / LABELS_TR / f"{case}{ending}"


class PreprocessedDataset(DatasetFolder):
    """A dataset's folder in nnUNet_preprocessed."""

    variable = "nnUNet_preprocessed"

    @property
    def fingerprint(self) -> Path:
        """nnU-Net's fingerprint of the dataset."""
        return self.path / DATASET_FINGERPRINT

    @property
    def references(self) -> Path:
        """Folder of the reference masks of the training cases."""
        return self.path / GT_SEGMENTATIONS

    def reference(self, case: str, ending: str) -> Path:
        """Return the reference mask of a case, `ending` being the `file_ending` of dataset.json."""
        return self.references / f"{case}{ending}"

    def plans_file(self, plans: str) -> Path:
        """Return the file of plans by their name, whether there are such plans or not."""
        return self.path / f"{plans}.json"

    def plans_names(self) -> list[str]:
        """Return the names of the plans that there are."""
        files = [file for file in sorted(self.path.glob("[!.]*.json")) if file.is_file()]
        return [file.stem for file in files if b'"configurations"' in read_bytes(file)]

    def data_folder(self, configuration: Mapping[str, Any]) -> Path:
        """Return the folder of the preprocessed data of a configuration, as the plans hold it.

        Raises:
            RectalError: The plans tell none, or one outside of the dataset's folder.
        """
        identifier = configuration.get("data_identifier")
        if not isinstance(identifier, str) or not identifier.strip("/.") or {"..", "/"} & set(Path(identifier).parts):
            raise RectalError(
                f"The plans of {self.name} cannot be used: their data_identifier is {identifier!r}, which is no folder "
                "in that of the dataset. Plan the dataset again."
            )
        return self.path / identifier


@contextmanager
def claimed_id(folder: Path) -> Iterator[None]:
    """Hold the id of a dataset that is about to be written, so that no other process writes one of another name.

    Raises:
        RectalError: Another process writes a dataset of this id into the same of nnU-Net's folders, or has.
    """
    name = folder.name.partition("_")[0]
    message = f"Another process is writing a {name} into {folder.parent}. Wait for it to end, or take another id."
    with locked(id_lock(folder), message):
        for other in sorted(folder.parent.glob(f"{name}*")):
            if other.is_dir() and other.name != folder.name:
                raise RectalError(f"{other} was made meanwhile and has the same id. Nothing was written.")
        remove_leftovers(folder)
        yield


def id_lock(folder: Path) -> Path:
    """Return the sign of the lock of a dataset's id in the folder of nnU-Net's that it is in, or shall be in."""
    return folder.parent / f".{folder.name.partition('_')[0]}.lock"


def fold_name(fold: int | str) -> str:
    """Return the name of a fold's folder, by its number or "all"."""
    return f"{FOLD_PREFIX}{fold}"


def dataset_prefix(number: int | str) -> str:
    """Return how the names of datasets of an id begin, `Dataset501`; an underscore follows, and a name."""
    return f"Dataset{int(number):03d}"


def dataset_number(name: str) -> str:
    """Return the three digits in DatasetXXX_Name."""
    return name.removeprefix("Dataset")[:3]


def case_files(folder: Path, case: str) -> list[Path]:
    """Return the files of a preprocessed case, whether they are there or not."""
    return [folder / f"{case}{ending}" for ending in CASE_ENDINGS]


def cases_in(folder: Path) -> list[str]:
    """Return the cases in a folder of preprocessed data."""
    image, mask, _ = CASE_ENDINGS
    return sorted(
        path.name.removesuffix(image) for path in folder.glob(f"[!.]*{image}") if not path.name.endswith(mask)
    )


def images_beside(labels: Path) -> Path | None:
    """Return the folder of the images that belong to a folder of masks in a raw dataset; None for other folders."""
    images = {LABELS_TR: IMAGES_TR, LABELS_TS: IMAGES_TS}.get(labels.name)
    return None if images is None else labels.with_name(images)


def is_model(folder: Path) -> bool:
    """Return whether a folder is that of a model, trained or being trained."""
    model = ModelFolder.parse(folder.expanduser().resolve())
    return model is not None and model.plans_file.is_file()


def is_evaluated(folder: Path) -> bool:
    """Return whether `evaluate` wrote into a folder, and not the validation of a fold."""
    return (folder / EVALUATION_FILE).is_file() and FoldFolder.around(folder.resolve()) is None


def image_name(case: str, ending: str, channel: int = 0) -> str:
    """Return the file name of a channel of a case."""
    return f"{case}_{channel:04d}{ending}"


def trainers_folder() -> Path:
    """Return the absolute path of the folder that holds our trainers."""
    return (Path(__file__).parents[1] / "trainers").resolve()


def folder_variables(base: str | Path | None = None) -> dict[str, str]:
    """Return nnU-Net's three folder variables: as they are set, or as folders of their names in `base`."""
    if base is not None:
        return {name: str(Path(base).expanduser().resolve() / name) for name in FOLDER_VARIABLES}
    return {name: os.environ[name] for name in FOLDER_VARIABLES if name in os.environ}


def nnunet_folder(variable: str) -> Path:
    """Return the folder that one of nnU-Net's variables names.

    Raises:
        RectalError: The variable is not set.
    """
    if not os.environ.get(variable):
        raise RectalError(
            f"The environment variable {variable} is not set. Set nnU-Net's folders with "
            "'eval \"$(rectal_nnformer env --base DIR)\"', DIR being where your data shall lie."
        )
    return Path(os.environ[variable])


def environment_with_trainers() -> dict[str, str]:
    """Return a copy of the environment in which nnU-Net finds our trainers, and those of folders set already."""
    folders = [str(trainers_folder())]
    folders += [f for f in os.environ.get(TRAINERS_VARIABLE, "").split(os.pathsep) if f and f not in folders]
    return {**os.environ, TRAINERS_VARIABLE: os.pathsep.join(folders)}


def find_dataset(variable: str, dataset: int | str) -> Path:
    """Return the folder of a dataset, given as id or as DatasetXXX_Name, in one of nnU-Net's folders.

    Raises:
        RectalError: The variable is not set, or there is no such dataset or more than one.
    """
    folder = nnunet_folder(variable)
    prefix = f"{dataset_prefix(dataset)}_" if str(dataset).isdecimal() else str(dataset)
    present = sorted(path for path in folder.glob("Dataset*") if path.is_dir())
    found = [path for path in present if path.name == prefix or (prefix.endswith("_") and path.name.startswith(prefix))]
    if len(found) != 1:
        names = [path.name for path in found or present]
        listed = some(names) or "no dataset"
        known = list(map(dataset_number, names)) if str(dataset).isdecimal() else names
        problem = "More than one dataset is" if found else "No dataset is"
        raise RectalError(
            f"{problem} called {dataset} in {variable} ({folder}), which holds {listed}. Check -d and the variable, "
            f"or {REMEDIES[variable]}.{nearest(str(dataset), () if found else known)}"
        )
    return found[0]


def find_plans(preprocessed: Path, plans: str) -> Path:
    """Return the file of plans by their name, in the folder of a dataset in nnUNet_preprocessed.

    Raises:
        RectalError: There are none of that name; the message names those that there are.
    """
    dataset = PreprocessedDataset(preprocessed)
    path = dataset.plans_file(plans)
    if not path.is_file():
        present = dataset.plans_names()
        raise RectalError(
            f"{path} does not exist. "
            + (f"Plans of this dataset: {', '.join(present)}. Fix -p, or run" if present else "Run")
            + f" 'rectal_nnformer plan_and_preprocess' first.{nearest(plans, present)}"
        )
    return path


def check_configuration(plans_file: Path, configuration: str) -> None:
    """Refuse a configuration that plans do not have, and a file that does not hold plans, with a RectalError."""
    configurations = read_json(plans_file, ["configurations"], "Plan the dataset again.")["configurations"]
    check_present(configuration, configurations, str(plans_file))


def check_present(configuration: str, configurations: Collection[str], plans: str) -> None:
    """Refuse a configuration that is not among those of plans, which the message calls so."""
    if configuration not in configurations:
        raise RectalError(
            f"{plans} has no configuration '{configuration}', but {', '.join(configurations)}. Fix -c."
            f"{nearest(configuration, configurations)}"
        )


def most_alike(path: Path) -> str:
    """Return a hint at what lies beside a path that does not exist and has nearly its name, or nothing."""
    return nearest(path.name, (other.name for other in path.parent.iterdir())) if path.parent.is_dir() else ""


def check_folder(folder: Path) -> None:
    """Refuse a folder that does not exist, with a RectalError that names it."""
    if not folder.is_dir():
        raise RectalError(f"There is no folder {folder}. Check its name.{most_alike(folder)}")


def check_weights_file(path: Path) -> None:
    """Refuse a file of weights that does not exist, with a RectalError that names it."""
    if not path.is_file():
        raise RectalError(f"There is no weights file {path}.{most_alike(path)}")


def check_compared(second: Path) -> None:
    """Refuse, with a RectalError, what is neither a trained fold's folder nor a file, and a checkpoint of a fold."""
    if second.is_dir():
        FoldFolder.from_path(second)
    elif (fold := FoldFolder.around(second)) is not None:
        raise RectalError(
            f"{second} is in the folder of a trained fold and no pretrained file. Name the folder itself, of which "
            f"{CHECKPOINT_FINAL} is read: {fold.path}"
        )
    elif not second.is_file():
        raise RectalError(f"{second} does not exist. Name the folder of a trained fold, or a pretrained file.")


def planned_model(dataset: int | str, trainer: str, plans: str, configuration: str) -> ModelFolder:
    """Return a model of a planned dataset by nnU-Net's names; it need not be trained.

    Raises:
        RectalError: A variable is not set, or there is no such dataset, no such plans or no such configuration.
    """
    preprocessed = PreprocessedDataset.find(dataset)
    model = ModelFolder.named(preprocessed.name, trainer, plans, configuration)
    check_configuration(model.current_plans_file(), configuration)
    return model


def read_image_digests(folder: Path) -> dict[str, str]:
    """Return what tells the images of each case of a dataset or model, as planning noted it; nothing where it did not.

    Entries that are no texts are left out.
    """
    noted = read_json_if_whole(folder / IMAGE_DIGESTS) or {}
    return {case: digest for case, digest in noted.items() if isinstance(digest, str)}
