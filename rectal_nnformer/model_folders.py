"""Names of nnU-Net's model folders: what they are made of, and whether something is where a user says it is.

Only the standard library is imported, so that a command can answer a wrong name at once.
"""

from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.paths import check_configuration, find_dataset, find_plans, nnunet_folder


def check_model_folder(folder: Path) -> tuple[str, str, str]:
    """Return trainer, plans and configuration of a trained model's folder.

    Raises:
        RectalError: there is no such folder, or it is no model's.
    """
    names = "Name a model folder, as 'rectal_nnformer crossval' prints it: nnUNet_results/DATASET/TRAINER__PLANS__CONF"
    if not folder.is_dir():
        raise RectalError(f"there is no folder {folder}. {names}.")
    parts = folder.name.split("__")
    if len(parts) != 3 or not (folder / "plans.json").is_file():
        inside = next((path for path in (folder, *folder.parents) if len(path.name.split("__")) == 3), None)
        hint = f" Did you mean {inside}?" if inside is not None and inside != folder else ""
        raise RectalError(f"{folder} is not the folder of a trained model with its plans.json. {names}.{hint}")
    return parts[0], parts[1], parts[2]


def check_fold_folder(folder: Path) -> tuple[str, str]:
    """Return trainer and configuration of a trained fold's folder, `.../TRAINER__PLANS__CONFIGURATION/fold_X`.

    Raises:
        RectalError: it is no such folder; where it is a file in one, the message names that.
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
        RectalError: it is neither the folder of a trained fold nor a file, or the file is a checkpoint of a fold.
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
        RectalError: a variable is not set, or there is no such dataset, no such plans or no such configuration.
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
