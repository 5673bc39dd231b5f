"""What keeps a trained model from predicting, said in words before nnU-Net is started."""

from collections.abc import Sequence
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.paths import find_dataset


def check_input(folder: str) -> None:
    """Refuse a folder of images that does not exist or is empty.

    Raises:
        RectalError: says which.
    """
    path = Path(folder)
    if not path.is_dir() or not any(path.iterdir()):
        state = "is empty" if path.is_dir() else "is no folder"
        raise RectalError(f"{path} {state}. Name by -i the folder that holds the scans as <case>_0000.nii.gz.")


def check_device(device: str) -> None:
    """Refuse a GPU that is not there.

    Raises:
        RectalError: says what to give instead.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RectalError("PyTorch sees no GPU on this machine. Predict with -device cpu, which takes longer.")


def check_model(dataset: str, model: str, folds: Sequence[str], checkpoint: str) -> None:
    """Refuse a model that has not been trained, or not on all folds that are to predict.

    Args:
        dataset: id or name.
        model: TRAINER__PLANS__CONFIGURATION, the name of its folder.
        folds: numbers, or "all".
        checkpoint: file name in the folder of a fold.

    Raises:
        RectalError: names what is missing and what is there.
    """
    folder = find_dataset("nnUNet_results", dataset) / model
    if not folder.is_dir():
        present = sorted(path.name for path in folder.parent.glob("*__*__*"))
        raise RectalError(
            f"There is no model {folder}. "
            + (f"{folder.parent.name} has {', '.join(present)}: mend -tr, -p or -c." if present else "Train it first.")
        )
    trained = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
    if missing := [fold for fold in folds if fold not in trained]:
        remedy = f"predict with those that do: -f {' '.join(trained)}" if trained else "train them first"
        raise RectalError(f"{folder} has no {checkpoint} of fold {', '.join(missing)}; {remedy}.")
