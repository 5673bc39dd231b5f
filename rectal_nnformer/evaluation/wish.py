"""What an operating point is chosen for, as the user writes it."""

import re
from dataclasses import dataclass

from rectal_nnformer.errors import RectalError

FP_PER_CASE, SENSITIVITY, F1 = "fp-per-case", "sensitivity", "f1"
NO_POINT = "none"
"""In place of a wish: lesions are those of the mask."""


@dataclass(frozen=True)
class Wish:
    """What a point is chosen for: `kind` is `fp-per-case`, `sensitivity`, or `f1`, which has no value."""

    kind: str
    value: float | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value:g}"


def parse_wish(text: str) -> Wish:
    """Return the wish that a text stands for: `fp-per-case=0.5`, `sensitivity=0.95` or `f1`.

    Raises:
        RectalError: It is none, or its number cannot be.
    """
    found = re.fullmatch(rf"({FP_PER_CASE}|{SENSITIVITY})=(\d+\.?\d*|\.\d+)", text.strip())
    if text.strip() == F1:
        return Wish(F1)
    if found is None or (found[1] == SENSITIVITY and not 0 < float(found[2]) <= 1):
        raise RectalError(
            f"{text!r} is no wish for an operating point. Write {FP_PER_CASE}=0.5 (at most so many false positives per "
            f"case), {SENSITIVITY}=0.95 (at least this share of lesions found, above 0 and up to 1) or {F1}."
        )
    return Wish(found[1], float(found[2]))


def check_wish(text: str | None) -> None:
    """Raise RectalError if a text is neither a wish nor `NO_POINT`; None is as good."""
    if text not in (None, NO_POINT):
        parse_wish(text)
