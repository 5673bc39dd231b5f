"""Types of options: what an option's value must be is said before anything is loaded or computed."""

import argparse
import math
import re


def positive_number(text: str) -> float:
    """Return a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


def finite_number(text: str) -> float:
    """Return a number that is neither infinite nor nan."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text}")
    return value


def positive_integer(text: str) -> int:
    """Return a whole number from 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text}")
    return int(text)


def natural_number(text: str) -> int:
    """Return a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text}")
    return int(text)


def fold(text: str) -> str:
    """Return the number of a fold, or "all"."""
    return text if text == "all" else str(natural_number(text))


def plans_name(text: str) -> str:
    """Return a name that can be that of a file, and part of nnU-Net's TRAINER__PLANS__CONFIGURATION."""
    if not re.fullmatch(r"\w[\w.-]*", text) or "__" in text:
        raise argparse.ArgumentTypeError(f"must be of letters, digits, '.', '-' and single '_', not {text}")
    return text
