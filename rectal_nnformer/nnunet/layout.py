"""nnU-Net's folders and file names: where they are, what they are made of, what a user named wrongly.

Only the standard library is imported, so that a command can answer a wrong name at once.
"""

import json
import os
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.text import nearest, some

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINERS_VARIABLE = "nnUNet_extTrainer"
REMEDIES = {
    "nnUNet_raw": "make it with 'rectal_nnformer convert'",
    "nnUNet_preprocessed": "make it with 'rectal_nnformer plan_and_preprocess'",
    "nnUNet_results": "train it with 'rectal_nnformer crossval'",
}
"""What fills each of nnU-Net's folders."""


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
    prefix = f"Dataset{int(dataset):03d}_" if str(dataset).isdecimal() else str(dataset)
    present = sorted(path for path in folder.glob("Dataset*") if path.is_dir())
    found = [path for path in present if path.name == prefix or (prefix.endswith("_") and path.name.startswith(prefix))]
    if len(found) != 1:
        names = [path.name for path in found or present]
        listed = some(names) or "no dataset"
        known = [name[len("Dataset") :][:3] for name in names] if str(dataset).isdecimal() else names
        problem = "More than one dataset is" if found else "No dataset is"
        raise RectalError(
            f"{problem} called {dataset} in {variable} ({folder}), which holds {listed}. Check -d and the variable, "
            f"or {REMEDIES[variable]}.{nearest(str(dataset), () if found else known)}"
        )
    return found[0]


def find_plans(preprocessed: Path, plans: str) -> Path:
    """Return the file of plans by their name.

    Args:
        preprocessed: Folder of a dataset in nnUNet_preprocessed.
        plans: Their name.

    Raises:
        RectalError: There are none of that name; the message names those that there are.
    """
    path = preprocessed / f"{plans}.json"
    if not path.is_file():
        files = sorted(preprocessed.glob("*.json"))
        present = [f.stem for f in files if b'"configurations"' in f.read_bytes()]
        raise RectalError(
            f"{path} does not exist. "
            + (f"Plans of this dataset: {', '.join(present)}. Fix -p, or run" if present else "Run")
            + f" 'rectal_nnformer plan_and_preprocess' first.{nearest(plans, present)}"
        )
    return path


def check_configuration(plans_file: Path, configuration: str) -> None:
    """Refuse a configuration that plans do not have.

    Raises:
        RectalError: It is not among them, or the file does not hold plans.
    """
    try:
        configurations = json.loads(plans_file.read_text(encoding="utf-8"))["configurations"]
        present = [str(name) for name in configurations]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RectalError(f"{plans_file} cannot be read as plans ({error!r}). Plan the dataset again.") from error
    if configuration not in configurations:
        raise RectalError(
            f"{plans_file} has no configuration '{configuration}', but {', '.join(present)}. Fix -c."
            f"{nearest(configuration, present)}"
        )


def most_alike(path: Path) -> str:
    """Return a hint at what lies beside a path that does not exist and has nearly its name, or nothing."""
    return nearest(path.name, (other.name for other in path.parent.iterdir())) if path.parent.is_dir() else ""


def check_folder(folder: Path) -> None:
    """Refuse a folder that does not exist.

    Raises:
        RectalError: Names it.
    """
    if not folder.is_dir():
        raise RectalError(f"There is no folder {folder}. Check its name.{most_alike(folder)}")


def check_weights_file(path: Path) -> None:
    """Refuse a file of weights that does not exist.

    Raises:
        RectalError: Names it.
    """
    if not path.is_file():
        raise RectalError(f"There is no weights file {path}.{most_alike(path)}")


def check_model_folder(folder: Path) -> tuple[str, str, str]:
    """Return trainer, plans and configuration of a trained model's folder.

    Raises:
        RectalError: There is no such folder, or it is no model's.
    """
    names = "Name a model folder, as 'rectal_nnformer crossval' prints it: nnUNet_results/DATASET/TRAINER__PLANS__CONF"
    if not folder.is_dir():
        raise RectalError(f"There is no folder {folder}. {names}.{most_alike(folder)}")
    parts = folder.name.split("__")
    if len(parts) != 3 or not (folder / "plans.json").is_file():
        inside = next((path for path in (folder, *folder.parents) if len(path.name.split("__")) == 3), None)
        hint = f" Did you mean {inside}?" if inside is not None and inside != folder else ""
        raise RectalError(f"{folder} is not the folder of a trained model with its plans.json. {names}.{hint}")
    return parts[0], parts[1], parts[2]


def check_fold_folder(folder: Path) -> tuple[str, str]:
    """Return trainer and configuration of a trained fold's folder, `.../TRAINER__PLANS__CONFIGURATION/fold_X`.

    Raises:
        RectalError: It is no such folder; where it is a file in one, the message names that.
    """
    folder = folder.resolve()
    parts = folder.parent.name.split("__")
    if len(parts) != 3 or not folder.name.startswith("fold_") or not folder.is_dir():
        inside = _fold_around(folder)
        hint = f" Name that folder instead: {inside}" if inside else ""
        raise RectalError(f"{folder} is not the folder of a fold, .../TRAINER__PLANS__CONFIGURATION/fold_X.{hint}")
    return parts[0], parts[2]


def check_compared(second: Path) -> None:
    """Refuse what the features of a fold cannot be compared with.

    Raises:
        RectalError: It is neither the folder of a trained fold nor a file, or the file is a checkpoint of a fold.
    """
    if second.is_dir():
        check_fold_folder(second)
    elif (inside := _fold_around(second.resolve())) is not None:
        raise RectalError(
            f"{second} is in the folder of a trained fold and no pretrained file. Name the folder itself, of which "
            f"checkpoint_final.pth is read: {inside}"
        )
    elif not second.is_file():
        raise RectalError(f"{second} does not exist. Name the folder of a trained fold, or a pretrained file.")


def plans_of_model(dataset: str, trainer: str, plans: str, configuration: str) -> tuple[Path, Path]:
    """Return the preprocessed dataset of a model, and its plans: those that it was trained by, if it was.

    Raises:
        RectalError: A variable is not set, or there is no such dataset, no such plans or no such configuration.
    """
    preprocessed = find_dataset("nnUNet_preprocessed", dataset)
    path = nnunet_folder("nnUNet_results") / preprocessed.name / f"{trainer}__{plans}__{configuration}" / "plans.json"
    if not path.is_file():
        path = find_plans(preprocessed, plans)
    check_configuration(path, configuration)
    return preprocessed, path


def _fold_around(path: Path) -> Path | None:
    """Return the folder of a fold in which something lies."""
    return next((f for f in path.parents if f.name.startswith("fold_") and len(f.parent.name.split("__")) == 3), None)
