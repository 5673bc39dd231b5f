"""What is in a PyTorch file, told without executing anything of it."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, md5_of
from rectal_nnformer.utils.pickles import MAX_PICKLE_BYTES, foreign_names, names_in_pickle
from rectal_nnformer.utils.text import MAX_LINES, plural

MAX_CHARACTERS = 160
"""Of a value or of a name."""


def describe_checkpoint(path: Path) -> list[str]:
    """Return in a few lines what a checkpoint or a pretrained file holds, or what opening it would import."""
    md5 = md5_of(path)
    known = next((file.name for file in PRETRAINED_FILES if file.md5 == md5), "none of the published files known here")
    lines = [f"a PyTorch file, MD5 {md5}: {known}"]
    try:
        return lines + _describe_content(read_checkpoint(path))
    except RectalError as error:
        return [*lines, f"NOT SAFE or not readable: {error}", *foreign_names(_names_in_pickle(path))]


def _names_in_pickle(path: Path) -> list[str]:
    """Return what the pickle in a PyTorch file names."""
    if not zipfile.is_zipfile(path):
        return names_in_pickle(path.read_bytes()) if path.stat().st_size <= MAX_PICKLE_BYTES else []
    with zipfile.ZipFile(path) as archive:
        pickled = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
        small = bool(pickled) and pickled[0].file_size <= min(MAX_PICKLE_BYTES, path.stat().st_size)
        return names_in_pickle(archive.read(pickled[0])) if small else []


def _describe_content(content: Any, depth: int = 1) -> list[str]:
    """Return names and kinds of the entries of a checkpoint, three levels deep."""
    indent = "  " * depth
    if not isinstance(content, Mapping):
        return [indent + _in_words(content)]
    tensors = [value for value in content.values() if hasattr(value, "untyped_storage")]
    if len(tensors) > 4:
        return [f"{indent}{plural(len(tensors), 'tensor')} of {sum(t.numel() for t in tensors)} values in all"]
    lines = []
    for name, value in list(content.items())[:MAX_LINES]:
        lines.append(f"{indent}{str(name)[:MAX_CHARACTERS]}: {_in_words(value)}")
        if isinstance(value, Mapping) and depth < 3:
            lines += _describe_content(value, depth + 1)
    return lines if len(content) <= MAX_LINES else [*lines, f"{indent}and {len(content) - MAX_LINES} more"]


def _in_words(value: Any) -> str:
    """Return a value in few words: numbers and texts as they are, others by kind and size."""
    if hasattr(value, "untyped_storage"):
        return f"tensor of {' x '.join(map(str, value.shape)) or 'one number'} ({value.dtype})"
    if isinstance(value, Mapping):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    if isinstance(value, list | tuple):
        plain = len(value) <= 4 and all(isinstance(item, str | float) or type(item) is int for item in value)
        return ", ".join(map(_in_words, value)) if plain else plural(len(value), "value")
    words = {None: "nothing", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, int) and value.bit_length() > MAX_CHARACTERS:
        return f"a number of {value.bit_length()} bits"
    return str(value)[:MAX_CHARACTERS] if isinstance(value, int | float | str) else type(value).__name__
