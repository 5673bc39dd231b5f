"""JSON from elsewhere: read without surprises, and written in the one way that a digest can be taken of."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from rectal_nnformer.errors import RectalError

MAX_BYTES = 16 << 20
"""Of 1000 cases the fingerprint of lesions takes 3.9 MB, the manifest for two configurations 1.1 MB, five folds and
nnU-Net's fingerprint less than 0.2 MB each. Plans take 10 to 20 KB."""
MAX_VALUES = 1 << 19
"""Brackets and commas, of which there are about as many as values. A value of a few bytes can take some hundred bytes
of memory, so that these decide what a text takes. The fingerprint of 1000 cases has 85,000, their manifest 21,000."""
MAX_DEPTH = 24
"""Plans and fingerprints are at most 9 levels deep."""


def load_json(data: bytes, name: str, *, nan_as_none: bool = False) -> Any:
    """Return the content of a JSON text.

    Args:
        data: UTF-8 text.
        name: What it is called in messages.
        nan_as_none: Take NaN and Infinity for null, as in scores that are undefined, instead of refusing them.

    Raises:
        RectalError: It is no JSON, larger than `MAX_BYTES`, of more than `MAX_VALUES` values, nested deeper than
            `MAX_DEPTH`, names a key twice, or holds NaN or an infinite number.
    """
    if len(data) > MAX_BYTES:
        raise RectalError(f"{name} has more than the {MAX_BYTES} bytes that are read of JSON.")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise RectalError(f"{name} holds more than the {MAX_VALUES} values that are read of JSON.")
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_none if nan_as_none else _refuse,
            parse_float=_finite,
        )
        _check_depth(content, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or "nested too deep"
        raise RectalError(f"{name} cannot be read as JSON: {reason}. Have it sent again.") from None
    return content


def load_json_file(path: Path, name: str, *, nan_as_none: bool = False) -> Any:
    """Return the content of a JSON file, as `load_json`; one that is too large is not read.

    Raises:
        RectalError: See `load_json`.
        FileNotFoundError: There is no such file.
    """
    with path.open("rb") as file:
        return load_json(file.read(MAX_BYTES + 1), name, nan_as_none=nan_as_none)


def canonical_json(content: Any) -> bytes:
    """Return JSON with sorted keys, indented by one space, in ASCII, with a newline at its end."""
    return b"".join(_canonical_pieces(content))


def canonical_digest(content: Any) -> str:
    """Return the SHA-256 of `canonical_json` in hexadecimal."""
    digest = hashlib.sha256()
    for piece in _canonical_pieces(content):
        digest.update(piece)
    return digest.hexdigest()


def is_canonical(data: bytes, content: Any) -> bool:
    """Whether `data` is the `canonical_json` of a content."""
    at = 0
    for piece in _canonical_pieces(content):
        if not data.startswith(piece, at):
            return False
        at += len(piece)
    return at == len(data)


def _canonical_pieces(content: Any) -> Iterator[bytes]:
    """Give `canonical_json` piece by piece: whole, a small content that is nested deep takes much more memory."""
    for piece in json.JSONEncoder(indent=1, sort_keys=True, allow_nan=False).iterencode(content):
        yield piece.encode("ascii")
    yield b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key appears twice")
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def _none(constant: str) -> None:
    return None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _check_depth(content: Any, left: int) -> None:
    if not left:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            if isinstance(value, dict | list):
                _check_depth(value, left - 1)
