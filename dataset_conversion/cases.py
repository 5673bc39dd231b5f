"""A case to convert: its images, its mask, and where in the dataset it belongs."""

from dataclasses import dataclass

from rectal_nnformer.dataset_conversion.images import ImageSource
from rectal_nnformer.dataset_conversion.masks import MaskSource


@dataclass(frozen=True)
class Case:
    """One scan to convert.

    Attributes:
        name: What it is called in the dataset.
        images: An image for each channel, the first of which has the grid.
        mask: None if it is to be predicted.
        patient: Empty if unknown; never written.
        origin: Where its images come from, for people; never written.
        test: Whether it belongs into imagesTs, not into the training cases.
        fold: The fold that validates it, where the source tells folds; None: none does.
        is_old: Whether it is in the dataset already, and stays as it is.
    """

    name: str
    images: tuple[ImageSource, ...]
    mask: MaskSource | None
    patient: str
    origin: str
    test: bool = False
    fold: int | None = None
    is_old: bool = False
