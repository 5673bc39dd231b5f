"""The raw dataset that a conversion writes: its folder, its channels and labels, and how its folds are made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from rectal_nnformer.dataset_conversion.labels import Label, numbers_of_labels
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import label_values
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import DATASET_JSON, dataset_prefix, folder_variables, nnunet_folder
from rectal_nnformer.nnunet.splits import BY_CASE_KEY
from rectal_nnformer.utils.text import some

FILE_ENDING = ".nii.gz"
DEFAULT_CHANNEL = "T2w"
DESCRIBED = ("channel_names", "labels", "regions_class_order")
"""What a new dataset takes from a dataset.json that is given; its other texts might name someone."""


class Options(TypedDict, total=False):
    """What every conversion can be told.

    Attributes:
        raw: Where to write the dataset; default is where the variable nnUNet_raw points.
        labels: What stands for each label in the masks; none: they hold the numbers of the labels, 1 for tumour.
        dataset_json: A dataset.json whose labels, regions, ignore label and names of channels are kept.
        patients: CSV file with the columns case and patient, in place of what the source tells of patients.
        split_by_case: Allow scans of one patient in different folds.
        test: Make a labelled test cohort, in imagesTs and labelsTs, which needs no folds.
        dry_run: Say what would be written, and write nothing.
        workers: Number of (spawned) processes.
    """

    raw: Path | None
    labels: tuple[Label, ...]
    dataset_json: Path | None
    patients: Path | None
    split_by_case: bool
    test: bool
    dry_run: bool
    workers: int


@dataclass(frozen=True)
class Target:
    """The dataset to write, and how; see also `Options`.

    Attributes:
        folder: `nnUNet_raw/DatasetXXX_Name`; absent or empty unless cases are added.
        content: What dataset.json says of channels and labels; of a dataset that cases are added to, all of it.
        labelled: Whether there are masks.
        adding: Whether the dataset is there, and cases are added.
        are_channels_named: Whether names of channels were given; if not, prepared images may be recognized.
    """

    folder: Path
    content: Mapping[str, Any]
    labelled: bool
    adding: bool = False
    are_channels_named: bool = True
    labels: tuple[Label, ...] = ()
    patients: Path | None = None
    split_by_case: bool = False
    test: bool = False
    dry_run: bool = False
    workers: int = 1

    @property
    def channels(self) -> list[str]:
        """Names of the channels in their order."""
        return [str(name) for name in self.content["channel_names"].values()]


def make_target(
    dataset_id: int,
    name: str | None,
    labelled: bool,
    options: Options,
    channels: Sequence[str] = (),
    known_labels: Mapping[str, Any] | None = None,
) -> Target:
    """Return the dataset to write.

    Args:
        dataset_id: 1 to 999.
        name: Name of a new dataset, without number; None: cases are added to that of the id.
        labelled: Whether masks come in.
        options: With `dataset_json`, or where cases are added, labels get the numbers that it gives to their names.
        channels: Their names; none: those of `dataset_json`, or one.
        known_labels: The labels that the source tells; they hold where the options tell none.

    Raises:
        RectalError: Id or name is illegal or in use, there is no dataset to add to, the variable is not set, or the
            options contradict each other or dataset.json.
    """
    labels, test, raw = options.get("labels", ()), options.get("test", False), options.get("raw")
    source, by_case = options.get("dataset_json"), options.get("split_by_case", False)
    if name is not None:
        folder = dataset_folder(dataset_id, name, raw, training=labelled and not test)
    elif test or source or not labelled:
        raise RectalError(
            "--add adds training cases to a dataset, by its own dataset.json: name masks, and leave --test and "
            "--dataset-json out. A test cohort, and scans to predict, are datasets of their own, with a --name."
        )
    else:
        folder = existing_folder(dataset_id, raw)
        source = folder / DATASET_JSON
    if source is not None:
        content = _described(source, keep_all=name is None)
        labels = tuple(_renumbered(label, content["labels"], source) for label in labels)
    else:
        content = {"labels": numbers_of_labels(labels) if labels or not known_labels else dict(known_labels)}
    named = [str(one) for one in content.get("channel_names", {}).values()]
    if named and channels and named != list(channels):
        raise RectalError(f"The channels are {', '.join(channels)}, but {source} has {', '.join(named)}: name these.")
    chosen = named or list(channels) or [DEFAULT_CHANNEL]
    content["channel_names"] = {str(number): one for number, one in enumerate(chosen)}
    if name is None and by_case and not content.get(BY_CASE_KEY):
        raise RectalError(f"The folds of {folder} keep the scans of a patient together: leave --split-by-case out.")
    return Target(
        folder,
        content,
        labelled,
        adding=name is None,
        are_channels_named=bool(named or channels),
        labels=labels,
        patients=options.get("patients"),
        split_by_case=by_case or content.get(BY_CASE_KEY) is True,
        test=test,
        dry_run=options.get("dry_run", False),
        workers=options.get("workers", 1),
    )


def _described(path: Path, keep_all: bool) -> dict[str, Any]:
    """Return what a dataset.json says, or of channels and labels alone; they are such as nnU-Net takes."""
    content = read_dataset_json(path, "Put it right, or name another.")
    label_values(content, str(path))
    if "modality" in content:
        content.setdefault("channel_names", content.pop("modality"))
    return content if keep_all else {key: content[key] for key in DESCRIBED if key in content}


def _renumbered(label: Label, numbers: Mapping[str, Any], source: Path) -> Label:
    """Return a label with the number that a dataset.json gives to its name."""
    single = {name: int(number) for name, number in numbers.items() if not isinstance(number, list | tuple)}
    if not single.get(label.name):
        known = ", ".join(name for name, number in single.items() if number)
        raise RectalError(
            f"--labels {label}: {source} has no such label of one number, but {known}; name one of these."
        )
    return replace(label, number=single[label.name])


def existing_folder(dataset_id: int, raw: Path | None) -> Path:
    """Return the folder of the raw dataset of an id.

    Raises:
        RectalError: There is none, or more than one, or the variable is not set.
    """
    base = nnunet_folder("nnUNet_raw") if raw is None else raw
    found = [path for path in sorted(base.glob(f"{dataset_prefix(dataset_id)}_*")) if path.is_dir()]
    if len(found) != 1:
        names = some([path.name for path in found]) or f"no {dataset_prefix(dataset_id)}"
        raise RectalError(f"{base} holds {names} to add cases to: correct -d, or give --name for a new dataset.")
    return found[0]


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
