"""Attention dilution and feature reuse of what has been trained, when somebody asks for them."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from rectal_nnformer.analysis.dilution_files import analyze_dilution, dilution_line, write_dilution
from rectal_nnformer.analysis.loaded_fold import load_fold
from rectal_nnformer.analysis.records import ATTENTION_NAME, REUSE_NAME
from rectal_nnformer.analysis.reuse import ComparedNetwork, compare_features, reuse_line
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained import load_pretrained
from rectal_nnformer.nnunet.layout import CHECKPOINT_FINAL, FoldFolder, check_compared
from rectal_nnformer.nnunet.preflight import check_device, check_fold
from rectal_nnformer.utils.files import write_json


def dilution_of_fold(
    fold: FoldFolder, *, weights: str = CHECKPOINT_FINAL, output: Path | None = None, device: str = "cuda"
) -> tuple[str, Path]:
    """Measure the attention dilution of a fold on its validation cases and write attention_dilution.json and .csv.

    Args:
        fold: A fold of a planned and preprocessed dataset.
        weights: A checkpoint of the fold, "pretrained" or "random".
        output: Write to its folder `TRAINER__PLANS__CONFIGURATION/fold_X`; None writes to the folder `validation` of
            the trained fold.
        device: "cuda", "cpu" or "mps".

    Returns:
        The result in one line, and the JSON file.

    Raises:
        RectalError: Something named is not there.
    """
    check_device(device)
    check_fold(fold, weights, output)
    folder = fold.validation if output is None else output / fold.model.name / fold.name
    loaded = load_fold(fold)
    cases = loaded.cases()
    label, network = loaded.network(weights)
    attention = analyze_dilution(network, cases, torch.device(device), label, fold.model.configuration)
    name = ATTENTION_NAME if label == CHECKPOINT_FINAL else f"{ATTENTION_NAME}_{weights.removesuffix('.pth')}"
    write_dilution(attention, folder, name)
    return dilution_line(attention.stages), folder / f"{name}.json"


def reuse_of_fold(
    first: FoldFolder, second: Path, output: Path | None = None, device: str = "cuda"
) -> tuple[str, Path]:
    """Compare the features of a fold with those of another one, or of a pretrained file, and write a JSON file.

    Args:
        first: A trained fold, whose validation cases are used.
        second: Folder of a trained fold of the same dataset, or a pretrained file for the network of the first.
        output: The file; None takes the folder `validation` of the first.
        device: "cuda", "cpu" or "mps".

    Returns:
        The result in one line, and the file.

    Raises:
        RectalError: Something named is not there, or the folds are of different datasets.
    """
    check_device(device)
    check_compared(second)
    fold = load_fold(first)
    cases = fold.cases()
    label, network = fold.network()
    subject = ComparedNetwork(label, network, cases)
    if second.is_dir():
        other_fold = load_fold(FoldFolder.from_path(second))
        datasets = first.model.dataset, other_fold.folder.model.dataset
        if datasets[0] != datasets[1]:
            raise RectalError(f"The folds are of different datasets, {datasets[0]} and {datasets[1]}.")
        other = ComparedNetwork(other_fold.label, other_fold.network()[1], other_fold.cases())
        name = f"{REUSE_NAME}_{other_fold.folder.model.trainer}_{other_fold.folder.name}"
        subject = replace(subject, label=fold.label)
    else:
        _, pretrained = fold.network("random")
        load_pretrained(pretrained.backbone, second)
        other, name = ComparedNetwork(second.name, pretrained, cases), REUSE_NAME
    # The second fold validates other cases: features can only be compared where they are of the same patients.
    other = replace(other, cases=replace(other.cases, names=cases.names))
    reuse = compare_features(subject, other, torch.device(device))
    path = output or first.validation / f"{name}.json"
    write_json(path, asdict(reuse))
    return reuse_line(reuse), path
