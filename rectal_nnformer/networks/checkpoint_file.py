"""Reading a PyTorch file without executing anything from it, and saying what else a file is that is none."""

import argparse
import codecs
import pathlib
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained_files import DOCUMENTATION, WEB_PAGE, is_web_page
from rectal_nnformer.nnunet.checkpoints import unpacked_bytes
from rectal_nnformer.nnunet.layout import FoldFolder, check_weights_file

_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    (pathlib.PosixPath, "pathlib.PosixPath"),
    (pathlib.PosixPath, "pathlib._local.PosixPath"),
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
]
"""Harmless types that published checkpoints hold beside tensors, with the module paths of older library versions."""

_COPYING = re.compile(rb"c(?:torch\n\w*Tensor|(?:__builtin__|builtins)\nbytearray)\n")
"""Calls that PyTorch's reader allows, no checkpoint needs, and a few of which make gigabytes of nothing."""

_ZIP_START = b"PK\x03\x04"
_HEAD_BYTES = 512
_SHOWN_CHARACTERS = 60


def check_checkpoint(path: Path) -> None:
    """Refuse a file that another program, opening it without restriction, would execute something from.

    Weights are not read.

    Raises:
        RectalError: As for `read_checkpoint`.
    """
    read_checkpoint(path, mapped=True)


def check_checkpoints(fold: FoldFolder) -> None:
    """Refuse checkpoints of a fold that would execute something when nnU-Net goes on from them.

    Those that end early are left to the training, which takes another: PyTorch opens nothing of them.

    Raises:
        RectalError: As for `read_checkpoint`.
    """
    for path in filter(Path.is_file, fold.checkpoints()):
        with path.open("rb") as file:
            start = file.read(len(_ZIP_START))
        if start and (start != _ZIP_START or zipfile.is_zipfile(path)):
            check_checkpoint(path)


def read_checkpoint(path: Path, mapped: bool = False) -> Any:
    """Return what a PyTorch file holds, executing nothing from it.

    Args:
        path: The file.
        mapped: Whether weights are left in the file until they are used.

    Raises:
        RectalError: There is no such file, or it is something else, incomplete, or holds other objects than tensors,
            plain values and `SAFE_TYPES`; the message says which.
    """
    check_weights_file(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP_START)) == _ZIP_START  # by which PyTorch takes it for one
        if is_zip:
            _check_size(path)
        with torch.serialization.safe_globals(SAFE_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except RectalError:
        raise
    except PermissionError as error:
        raise RectalError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # arbitrary bytes make the unpickler raise almost anything
        # PyTorch's own text is left out: it advises to read the file with code execution allowed.
        raise RectalError(f"{path} cannot be read as weights: {_diagnosis(path, str(error))}") from None


def _check_size(path: Path) -> None:
    """Refuse a file made to fill the memory.

    A zip that cannot be looked into is refused too, since PyTorch's own reader may still open it.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            total = unpacked_bytes(archive)
            pickles = [e for e in archive.infolist() if e.filename.rpartition("/")[2] == "data.pkl" and total <= size]
            copying = any(_COPYING.search(archive.read(entry)) for entry in pickles)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error):
        raise RectalError(f"{path} cannot be read as weights: {_diagnosis(path, '')}") from None
    if total > size:
        raise RectalError(
            f"{path} would unpack to {total} bytes, more than the {size} it has, as no file of PyTorch does. Nothing "
            "of it was loaded."
        )
    if copying:
        raise RectalError(f"{path} makes tensors or bytes in a way that no checkpoint needs. Nothing of it was loaded.")


def _diagnosis(path: Path, message: str) -> str:
    """Return what a file is that `torch.load` refused with `message`, and what to do about it."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    again = f"Download it again and compare its MD5 (see {DOCUMENTATION})."
    foreign = re.search(r"GLOBAL (\S+) was not an allowed global", message)
    if foreign:
        return (
            f"it holds an object of the type {foreign[1]}. Reading that would execute code, so only tensors and plain "
            "values are read. Where the file was written, save the weights alone: torch.save(network.state_dict(), ...)"
        )
    if "TorchScript" in message:
        return "it is a TorchScript program and not a file of weights. Save the state_dict of its network instead."
    if not head:
        return f"it is empty. {again}"
    if is_web_page(path):
        return f"{WEB_PAGE}. {again}"
    if head.startswith(b"\x1f\x8b"):
        return "it is compressed by gzip. Unpack it first."
    text = _as_text(head)
    if text:
        start = text.splitlines()[0][:_SHOWN_CHARACTERS]
        return f"it is text and begins with {start!r}: the download failed or was of something else. {again}"
    return f"it is damaged, incomplete or no PyTorch file. {again}"


def _as_text(head: bytes) -> str:
    """Return the first bytes of a file as text; empty if they are none."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head).strip()  # which may end within a character
    except UnicodeDecodeError:
        return ""
    return text if all(character.isprintable() or character.isspace() for character in text) else ""
