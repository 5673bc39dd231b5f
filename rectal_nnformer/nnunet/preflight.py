"""What keeps a trained model from predicting, said in words before nnU-Net is started."""

import re
from collections.abc import Sequence
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import find_dataset
from rectal_nnformer.nnunet.names import IMAGE_SUFFIXES
from rectal_nnformer.utils.text import some


def check_input(folder: str) -> None:
    """Refuse a folder of images that does not exist, is empty, or holds images without the number of a channel.

    Raises:
        RectalError: Says which.
    """
    path = Path(folder)
    if not path.is_dir() or not any(path.iterdir()):
        state = "is empty" if path.is_dir() else "is no folder"
        raise RectalError(f"{path} {state}. Name by -i the folder that holds the scans as <case>_0000.nii.gz.")
    files = [file.name for file in path.iterdir() if file.name.endswith(IMAGE_SUFFIXES)]
    numbered = [name for name in files if re.search(r"_\d{4}\.", name)]
    endings = {name.partition(".")[2] for name in numbered}
    others = sorted(n for n in files if n not in numbered and (not endings or n.partition(".")[2] in endings))
    if others:
        raise RectalError(
            f"{path} holds images without the number of a channel at the end of their name, by which nnU-Net finds "
            f"them: {some(others)}. Call them <case>_0000.nii.gz where there is one channel."
        )


def check_device(device: str) -> None:
    """Refuse a GPU that is not there.

    Raises:
        RectalError: Says what to give instead.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RectalError("PyTorch sees no GPU on this machine. Predict with -device cpu, which takes longer.")


def check_model(dataset: str, model: str, folds: Sequence[str], checkpoint: str) -> None:
    """Refuse a model that has not been trained, or not on all folds that are to predict.

    Args:
        dataset: Id or name.
        model: TRAINER__PLANS__CONFIGURATION, the name of its folder.
        folds: Numbers, or "all".
        checkpoint: File name in the folder of a fold.

    Raises:
        RectalError: Names what is missing and what is there.
    """
    folder = find_dataset("nnUNet_results", dataset) / model
    if not folder.is_dir():
        present = sorted(path.name for path in folder.parent.glob("*__*__*"))
        raise RectalError(
            f"There is no model {folder}. "
            + (f"{folder.parent.name} has {', '.join(present)}: fix -tr, -p or -c." if present else "Train it first.")
        )
    trained = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
    if missing := [fold for fold in folds if fold not in trained]:
        remedy = f"predict with those that do: -f {' '.join(trained)}" if trained else "train them first"
        raise RectalError(f"{folder} has no {checkpoint} of fold {', '.join(missing)}; {remedy}.")
