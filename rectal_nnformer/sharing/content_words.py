"""Values from elsewhere in words, short whatever they are."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rectal_nnformer.utils.text import plural

MAX_ENTRIES = 40
MAX_ITEMS = 4
"""Longer lists are told by their length."""
MAX_CHARACTERS = 160
DEPTH = 3


def describe_content(content: Any, depth: int = 1) -> list[str]:
    """Return names and kinds of the entries of a dict, some levels deep, or of another value."""
    indent = "  " * depth
    if not isinstance(content, Mapping):
        return [f"{indent}{in_words(content)}"]
    tensors = [value for value in content.values() if _is_tensor(value)]
    if len(tensors) > MAX_ITEMS:
        total = sum(tensor.numel() for tensor in tensors)
        return [f"{indent}{plural(len(tensors), 'tensor')} of {total} values in all"]
    if len(content) > MAX_ITEMS and all(type(name) is int for name in content):
        # The state of an optimizer: hundreds of entries that are all alike.
        return []
    lines = []
    for name, value in list(content.items())[:MAX_ENTRIES]:
        lines.append(f"{indent}{name[:MAX_CHARACTERS] if isinstance(name, str) else in_words(name)}: {in_words(value)}")
        if isinstance(value, Mapping) and depth < DEPTH:
            lines += describe_content(value, depth + 1)
    return lines if len(content) <= MAX_ENTRIES else [*lines, f"{indent}and {len(content) - MAX_ENTRIES} more"]


def in_words(value: Any) -> str:
    """Return a value in few words: numbers and short lists as they are, texts in quotes, others by kind and size."""
    if isinstance(value, list | tuple) and 0 < len(value) <= MAX_ITEMS:
        # Two levels: values that contain each other could be told at any length.
        return ", ".join(f"({_flat(item)})" if isinstance(item, list | tuple) else _one(item) for item in value)
    return _one(value)


def listed(values: Iterable[Any]) -> str:
    """Return the first of some values in words, and how many more there are; texts without quotes."""
    told = [value[:MAX_CHARACTERS] if isinstance(value, str) else _one(value) for value in values]
    rest = len(told) - MAX_ENTRIES
    return ", ".join(told[:MAX_ENTRIES] or ["none"]) + (f" and {rest} more" if rest > 0 else "")


def _flat(values: list[Any] | tuple[Any, ...]) -> str:
    short = 0 < len(values) <= MAX_ITEMS
    return ", ".join(map(_one, values)) if short else plural(len(values), "value")


def _one(value: Any) -> str:
    """Return a single value in words, one that holds others by their number."""
    if isinstance(value, bool | np.bool_) or value is None:
        return {None: "nothing", True: "yes", False: "no"}[None if value is None else bool(value)]
    if isinstance(value, np.ndarray) or _is_tensor(value):
        size = " x ".join(map(str, value.shape)) or "one number"
        return f"{'array' if isinstance(value, np.ndarray) else 'tensor'} of {size} ({value.dtype})"
    if isinstance(value, int) and value.bit_length() > MAX_CHARACTERS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, int | float | np.number):
        return str(value)
    if isinstance(value, str):
        return repr(value[:MAX_CHARACTERS])
    if isinstance(value, bytes | bytearray):
        return plural(len(value), "byte")
    if isinstance(value, Mapping):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return plural(len(value), "value") if isinstance(value, list | tuple | set) else type(value).__name__


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "untyped_storage")
