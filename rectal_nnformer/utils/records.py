"""JSON files as typed records: checked once, when they are read."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from rectal_nnformer.errors import RectalError

Record = TypeVar("Record")


def read_record(kind: type[Record], path: Path, remedy: str) -> Record:
    """Read a JSON file as a dataclass, or a tuple of them; keys that it does not know are ignored.

    Raises:
        RectalError: The file is missing or no JSON, or lacks a key, or a value is of another type. `remedy` says, as a
            sentence, what a user can do then.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = _reason(error) if isinstance(error, ValidationError) else str(error)
        raise RectalError(f"{path} cannot be used ({reason}). {remedy}") from error


def _reason(error: ValidationError) -> str:
    """Return the first thing that is wrong, with its place in the file."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
