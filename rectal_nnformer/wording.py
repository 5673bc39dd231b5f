"""Small things that messages and pages need."""

from collections.abc import Sequence

MOST_NAMES = 5


def plural(number: int, noun: str) -> str:
    """Return the number with its noun, with an s unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """Return the first few of the names, and how many more there are: 'a, b, c, d, e and 7 more'."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])}{more}"


def percent(share: float | None) -> str:
    """Return a share as '85.0 %', '-' where it is undefined."""
    return "-" if share is None else f"{100 * share:.1f} %"


def percent_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval of shares as '64.0-94.8 %', '-' where it is undefined."""
    return "-" if interval is None else f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f} %"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals, '-' where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"
