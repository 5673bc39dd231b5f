"""A raw dataset that cases are added to: what it holds already."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rectal_nnformer.dataset_conversion.cases import Case
from rectal_nnformer.dataset_conversion.images import ImageFile
from rectal_nnformer.dataset_conversion.masks import MaskFile
from rectal_nnformer.dataset_conversion.target import FILE_ENDING, Target
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import LABELS_TR, RawDataset
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.nnunet.splits import Fold, read_splits
from rectal_nnformer.utils.files import is_there


@dataclass(frozen=True)
class Existing:
    """The training cases of a dataset, its folds, and the patient of each case, a pseudonym; of a new one nothing."""

    cases: tuple[Case, ...] = ()
    folds: tuple[Fold, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)


def open_existing(target: Target) -> Existing:
    """Return what the dataset holds, which is nothing unless cases are added to it.

    Raises:
        RectalError: It has no folds, or files of other names than a conversion writes.
    """
    if not target.adding:
        return Existing()
    raw = RawDataset(target.folder)
    if "dataset" in target.content or target.content["file_ending"] != FILE_ENDING:
        raise RectalError(
            f"{raw.dataset_json} names files of its own, or of the ending {target.content['file_ending']}, and --add "
            f"writes imagesTr/<case>_0000{FILE_ENDING}: convert all cases to a new dataset."
        )
    if not is_there(raw.splits):
        raise RectalError(
            f"{raw.splits} does not exist: --add keeps the folds in it. Copy it from nnUNet_preprocessed, if it is "
            "there, or convert all cases to a new dataset."
        )
    names = case_names_in(target)
    grouping = read_patients(raw.path)
    cases = [
        Case(
            name,
            tuple(ImageFile(raw.image(name, FILE_ENDING, channel)) for channel in range(len(target.channels))),
            MaskFile(raw.label(name, FILE_ENDING)),
            grouping.get(name, name),
            str(raw.path),
            is_old=True,
        )
        for name in names
    ]
    return Existing(tuple(cases), read_splits(raw.splits), {case.name: case.patient for case in cases})


def case_names_in(target: Target) -> list[str]:
    """Return the names of the training cases that the dataset has already."""
    masks = (target.folder / LABELS_TR).glob(f"[!.]*{FILE_ENDING}") if target.adding else ()
    return sorted(path.name.removesuffix(FILE_ENDING) for path in masks)
