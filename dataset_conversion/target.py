"""The raw dataset that a conversion writes: its folder, which must be free, and how its folds are made."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rectal_nnformer.dataset_conversion.labels import Label
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import dataset_prefix, folder_variables, nnunet_folder


class Options(TypedDict, total=False):
    """What every conversion can be told.

    Attributes:
        patients: CSV file with the columns case and patient, in place of what the source tells of patients.
        split_by_case: Allow scans of one patient in different folds.
        workers: Number of (spawned) processes.
        labels: What stands for each label in the masks; none: 1 is tumour.
    """

    patients: Path | None
    split_by_case: bool
    workers: int
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Target:
    """The dataset to write, and how; see also `Options`.

    Attributes:
        folder: `nnUNet_raw/DatasetXXX_Name`, absent or empty.
        training: Whether there are masks: training cases with folds, or cases to predict.
        prepared: Whether intensities were scaled to [0, 800] beforehand; zeros are lifted then.
    """

    folder: Path
    training: bool
    prepared: bool = False
    patients: Path | None = None
    split_by_case: bool = False
    workers: int = 1
    labels: tuple[Label, ...] = ()


def dataset_folder(dataset_id: int, name: str, raw: Path | None, training: bool) -> Path:
    """Return the folder of a new raw dataset.

    Args:
        dataset_id: 1 to 999.
        name: Letters, digits, `_` and `-`.
        raw: The folder of raw datasets. None: the one that the variable nnUNet_raw names; then the id must also be free
            in the folders of preprocessed data and results, where nnU-Net looks for it too.
        training: Whether training cases come in: then nothing may be left of an earlier dataset of the same name.

    Raises:
        RectalError: Id or name is illegal or in use, or the variable is not set.
    """
    if not 1 <= dataset_id <= 999:
        raise RectalError(f"Dataset id {dataset_id} is not between 1 and 999: give another with -d.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name.startswith("Dataset"):
        raise RectalError(
            f"Dataset name '{name}' is not made of letters, digits, _ and - alone, or starts with 'Dataset': "
            f"give --name without the number, as in --name Rectal for {dataset_prefix(dataset_id)}_Rectal."
        )
    folder = (nnunet_folder("nnUNet_raw") if raw is None else raw) / f"{dataset_prefix(dataset_id)}_{name}"
    places = folder_variables() if raw is None else {"nnUNet_raw": str(raw)}
    for variable, place in places.items():
        for other in sorted(Path(place).glob(f"{dataset_prefix(dataset_id)}*")):
            if other.name != folder.name:
                in_the_way = other.is_dir()
            else:
                to_be_new = training or variable == "nnUNet_raw"
                in_the_way = to_be_new and (not other.is_dir() or any(other.iterdir()))
            if in_the_way:
                raise RectalError(
                    f"Dataset id {dataset_id} is in use by {other}: choose another with -d, or move that away. "
                    "Otherwise the two would be mixed, and folds trained on the one be taken for folds of the other."
                )
    return folder
