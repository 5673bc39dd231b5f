"""A preprocessed case's files, of which nothing is executed: arrays, and the pickle that nnU-Net keeps beside them."""

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import kind_of
from rectal_nnformer.utils.pickles import read_own_pickle

_EVALUATED = (b"b2o", b"proxy-source", b"LazyArray")
"""How a Blosc2 file names in its header what releases before 4 evaluate when they open it."""
_HEADER_BYTES = 4096


def read_arrays(folder: Path, case: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return image and labels of a preprocessed case, (channel, z, y, x) both; its properties are not opened.

    Raises:
        RectalError: A file is missing or damaged.
    """
    try:
        if (folder / f"{case}.b2nd").is_file():
            return read_blosc2(folder / f"{case}.b2nd"), read_blosc2(folder / f"{case}_seg.b2nd")
        if (folder / f"{case}.npy").is_file():
            return np.load(folder / f"{case}.npy"), np.load(folder / f"{case}_seg.npy")
        with np.load(folder / f"{case}.npz") as arrays:
            return arrays["data"], arrays["seg"]
    except (OSError, ValueError, KeyError) as error:
        raise RectalError(f"Case {case} in {folder} cannot be read ({error}). Preprocess the dataset again.") from error


def read_blosc2(path: Path) -> NDArray[Any]:
    """Return the array in a Blosc2 file, decompressed as a whole.

    Raises:
        RectalError: It is missing, damaged or no array.
    """
    remedy = "Preprocess the dataset again."
    if kind := kind_of(path):
        raise RectalError(f"{path} cannot be read: it is {kind}. {remedy}")
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        if any(name in header for name in _EVALUATED):
            raise RectalError(f"{path} holds no array, but what opening it would evaluate. {remedy}")
        return np.ascontiguousarray(blosc2.open(str(path), mode="r")[:])
    except RectalError:
        raise
    except Exception as error:  # the library raises many kinds
        raise RectalError(f"{path} cannot be read ({error}). {remedy}") from None


def check_properties(folder: Path) -> None:
    """Refuse preprocessed data of which a case's properties would run code when nnU-Net opens them.

    Raises:
        RectalError: Names the first such file, or one that is damaged.
    """
    for path in sorted(folder.glob("*.pkl")):
        read_own_pickle(path)
