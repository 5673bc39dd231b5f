"""Options that several commands share, and types that refuse an impossible value where it is read."""

import argparse
import math
import re
from functools import partial
from pathlib import Path
from typing import get_args

from rectal_nnformer.nnunet.names import FULLRES, PLANES, Device

DEFAULT_PLANES = ["axial"]


def finite_number(text: str, above: float = -math.inf, what: str = "a number") -> float:
    """Return a number that is neither infinite nor nan."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not above < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be {what}, not {text}")
    return value


def natural_number(text: str, first: int = 0, last: float = math.inf, what: str = "a whole number from 0") -> int:
    """Return a whole number."""
    if not text.isdecimal() or not first <= int(text) <= last:
        raise argparse.ArgumentTypeError(f"must be {what}, not {text}")
    return int(text)


positive_number = partial(finite_number, above=0, what="a number above 0")
positive_integer = partial(natural_number, first=1, what="a whole number from 1")
dataset_number = partial(natural_number, first=1, last=999, what="a whole number from 1 to 999")
"""Returns a whole number that can be a dataset's."""


def key_and_value(text: str) -> tuple[str, object]:
    """Return what stands before and after an equals sign; a number as such."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, not {text}")
    return key, float(value) if re.fullmatch(r"\d+\.\d+", value) else int(value) if value.isdecimal() else value


def fold(text: str) -> str:
    """Return the number of a fold, or "all"."""
    return text if text == "all" else str(natural_number(text))


def plans_name(text: str) -> str:
    """Return a name that can be that of a file, and part of nnU-Net's TRAINER__PLANS__CONFIGURATION."""
    if not re.fullmatch(r"\w[\w.-]*", text) or "__" in text:
        raise argparse.ArgumentTypeError(f"must be of letters, digits, '.', '-' and single '_', not {text}")
    return text


def add_groups(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a table of groups."""
    parser.add_argument(
        "--groups",
        metavar="CSV",
        type=Path,
        help="also give rates by group: a table with the column case (or patient), and others such as vendor or site",
    )


def check_groups(table: Path | None) -> None:
    """Refuse a table of groups that cannot be used."""
    if table is not None:
        from rectal_nnformer.evaluation.groups import read_groups

        read_groups(table, {})


def add_model(parser: argparse.ArgumentParser, variable: str = "nnUNet_preprocessed") -> None:
    """Add the options that name a model, its dataset being looked for in one of nnU-Net's folders."""
    add_dataset(parser, variable)
    parser.add_argument("-tr", metavar="TRAINER", required=True, help="trainer, such as nnUNetTrainerSMIT_ACT")
    parser.add_argument("-p", metavar="PLANS", required=True, help="plans, such as nnUNetRectalSMITPlans")
    parser.add_argument("-c", metavar="CONFIGURATION", default=FULLRES, help="default: %(default)s")


def add_dataset(parser: argparse.ArgumentParser, variable: str) -> None:
    """Add the option that names a dataset in one of nnU-Net's folders."""
    parser.add_argument("-d", metavar="DATASET", required=True, help=f"dataset id or name, in {variable}")


def add_device(parser: argparse.ArgumentParser, default: str = "cuda") -> None:
    """Add the option that names the device."""
    parser.add_argument(
        "-device", choices=get_args(Device), default=default, help="device to compute on (default: %(default)s)"
    )


def add_series(parser: argparse.ArgumentParser) -> None:
    """Add --planes and --description, by which DICOM series are chosen."""
    parser.add_argument(
        "--planes",
        nargs="+",
        choices=PLANES,
        default=DEFAULT_PLANES,
        help="acquisition planes to take (default: axial)",
    )
    parser.add_argument(
        "--description", metavar="REGEX", help="take only series whose SeriesDescription matches, say 't2.*tra'"
    )


def add_processes(parser: argparse.ArgumentParser, default: int) -> None:
    """Add the option that limits the worker processes."""
    parser.add_argument(
        "-np", metavar="N", type=positive_integer, default=default, help="processes at most (default: %(default)s)"
    )
