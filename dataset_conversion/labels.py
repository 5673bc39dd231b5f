"""Labels of a dataset, and what stands for each in the masks: `tumor=gtv.*`, `tumor=255`, `tumor=1,2`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rectal_nnformer.errors import RectalError

BACKGROUND = "background"
TUMOR = "tumor"
"""The one label where none is named."""
# nnU-Net's name of voxels that do not count; it must be the last, and losses treat it apart.
RESERVED = (BACKGROUND, "ignore")
MOST_LABELS = 255
"""As many as a mask of bytes can tell apart."""


@dataclass(frozen=True)
class Label:
    """A label: its name, its number in the dataset, and what is chosen for it.

    `choice` is a regular expression, which a structure's whole name must match in any case, or whole numbers, separated
    by commas, which are values of voxels.
    """

    name: str
    number: int
    choice: str

    @property
    def values(self) -> tuple[int, ...]:
        """The values of voxels that are chosen; none if `choice` is for names."""
        return tuple(map(int, self.choice.split(","))) if re.fullmatch(r"\d+(,\d+)*", self.choice, re.ASCII) else ()

    def matches(self, structure: str) -> bool:
        """Return whether a structure of this name is chosen."""
        return re.fullmatch(self.choice, structure.strip(), re.IGNORECASE) is not None

    def __str__(self) -> str:
        return f"{self.name}={self.choice}"


def parse_labels(texts: Sequence[str]) -> tuple[Label, ...]:
    """Return labels given as `name=choice`, numbered from 1 in their order.

    Raises:
        RectalError: One is not of that form, is named twice, or its choice is no regular expression.
    """
    labels: list[Label] = []
    for number, text in enumerate(texts, start=1):
        name, equals, choice = text.partition("=")
        if not equals or not choice or not re.fullmatch(r"\w[\w -]*", name):
            raise RectalError(
                f"--labels {text} is not a name, = and what it stands for: write tumor='gtv.*', or tumor=1,2."
            )
        if name in RESERVED or name in (label.name for label in labels):
            raise RectalError(f"--labels {text}: the name {name} is taken; give every label a name of its own.")
        try:
            re.compile(choice)
        except re.error as error:
            raise RectalError(f"--labels {text} is not a regular expression: {error}.") from None
        label = Label(name, number, choice)
        for other in labels:
            if twice := set(label.values) & set(other.values):
                raise RectalError(f"--labels {other} {label}: {min(twice)} stands for both; name it once.")
        labels.append(label)
    if len(labels) > MOST_LABELS:
        raise RectalError(f"--labels names {len(labels)} labels; a mask can hold {MOST_LABELS}.")
    return tuple(labels)


def numbers_of_labels(labels: Sequence[Label]) -> dict[str, int]:
    """Return the `labels` of a dataset.json; of no label those of a mask with 1 for tumour."""
    return {BACKGROUND: 0, **({label.name: label.number for label in labels} or {TUMOR: 1})}
