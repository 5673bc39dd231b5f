"""Small things that messages and pages need."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

MOST_NAMES = 5
MAX_LINES = 40  # of what is told of a file
# An underscore formats only at the ends of words; within names it is too common to be made unreadable.
MARKDOWN = re.compile(r"[\\`*\[\]|~$]|_+(?!\w)|(?<!\w)_+")
BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Return text that Markdown shows as it is: no tag, link, format, new line or turned reading direction in it."""
    line = BIDI_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return MARKDOWN.sub(lambda found: "".join(f"\\{sign}" for sign in found[0]), line)


def plural(number: int, noun: str) -> str:
    """Return the number with its noun, with an s unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """Return a noun with its numbers: 'fold 1', 'folds 1, 3'."""
    return f"{noun}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def some(names: Sequence[str]) -> str:
    """Return the first few of the names, and how many more there are: 'a, b, c, d, e and 7 more'."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])}{more}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ' Did you mean A or B?', of the names most like one that does not exist, or nothing if none is like it."""
    by_letters = {other.lower(): other for other in names}
    found = [by_letters[letters] for letters in get_close_matches(name.lower(), by_letters, n=2, cutoff=0.65)]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def file_size(num_bytes: int) -> str:
    """Return a size as '245 bytes', '94.5 KB', '5.5 MB' or '3.8 GB', of 1000 each."""
    if num_bytes < 1000:
        return plural(num_bytes, "byte")
    size, units = num_bytes / 1000, ["KB", "MB", "GB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.1f} {units[0]}"


def percent(share: float | None) -> str:
    """Return a share as '85.0 %', '-' where it is undefined."""
    return "-" if share is None else f"{100 * share:.1f} %"


def percent_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval of shares as '64.0-94.8 %', '-' where it is undefined."""
    return "-" if interval is None else f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f} %"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals, '-' where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"
