"""Pickles: those of our own datasets read with a short list of names, those from elsewhere listed and never read."""

import io
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import read_bytes

MAX_PICKLE_BYTES = 256 << 20
MAX_INSTRUCTIONS = 500_000

_ARRAY = np.zeros(1)
ALLOWED = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _ARRAY.__reduce__()[0]),
            ("multiarray.scalar", _ARRAY[0].__reduce__()[0]),
            ("numeric._frombuffer", _ARRAY.__reduce_ex__(5)[0]),
        )
    },
}
"""What pickles of numpy 1 and 2 name for arrays and numbers."""

_STORES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_FETCHES = ("GET", "BINGET", "LONG_BINGET")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in ALLOWED:
            return ALLOWED[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which opening it would import and could run")


def read_own_pickle(path: Path) -> Any:
    """Return what a pickle of one of our own datasets holds: plain values, numpy's arrays and numbers.

    Raises:
        RectalError: It is no ordinary file, of more than `MAX_PICKLE_BYTES`, damaged, or names anything else.
    """
    remedy = "Preprocess the dataset again."
    data = read_bytes(path, remedy, MAX_PICKLE_BYTES)
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # arbitrary bytes make the unpickler raise almost anything
        raise RectalError(f"{path} was not opened: {error}. {remedy}") from None


def names_in_pickle(data: bytes) -> list[str]:
    """Return the modules and functions that a pickle names, as `module.name`; nothing is looked up.

    A name that is not simply spelt out, or that comes after very many instructions, is told as such.
    """
    found: set[str] = set()
    memo: dict[int, str | None] = {}
    recent: list[str | None] = [None, None]
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            name, text = instruction.name, str(argument)
            if name in ("GLOBAL", "INST"):
                found.add(text.replace(" ", "."))
            elif name == "STACK_GLOBAL":
                module, attribute = recent
                found.add(f"{module}.{attribute}" if module and attribute else "(a name put together while opening)")
            if name in _STORES:
                memo[len(memo) if argument is None else int(text)] = recent[-1]
            elif name in _FETCHES:
                recent = [recent[-1], memo.get(int(text))]
            elif name not in ("PROTO", "FRAME"):
                recent = [recent[-1], argument if isinstance(argument, str) and "UNICODE" in name else None]
            if count > MAX_INSTRUCTIONS:
                found.add("(more than was looked at)")
                break
    except ValueError:
        found.add("(damaged)")
    return sorted(found)


def foreign_names(names: Sequence[str], most: int = 40) -> list[str]:
    """Return lines that warn of names in a pickle, the first of them; none where there are none."""
    more = [f"  and {len(names) - most} more"] if len(names) > most else []
    lines = [f"  {name}" for name in names[:most]]
    return ["Opened by an ordinary program it would import:", *lines, *more] if names else []
