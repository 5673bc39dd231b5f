"""Tables in Markdown."""

import re
from collections.abc import Iterable, Sequence

# An underscore formats only at the ends of words; within names it is too common to be made unreadable.
FORMATTING = re.compile(r"[\\`*\[\]|~$]|_+(?!\w)|(?<!\w)_+")
BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; what a cell holds cannot end it, nor become a tag."""
    return [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]


def plain(text: str) -> str:
    """Return text that Markdown shows as it is: no tag, link, format, new line or turned reading direction in it."""
    line = BIDI_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    return FORMATTING.sub(
        lambda found: "".join(f"\\{sign}" for sign in found[0]), line.replace("&", "&amp;").replace("<", "&lt;")
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(plain(cell) for cell in cells)} |"
