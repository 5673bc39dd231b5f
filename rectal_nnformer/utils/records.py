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
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise RectalError(f"{path} cannot be used ({reason}). {remedy}") from error
    except (OSError, ValueError) as error:
        raise RectalError(f"{path} cannot be used ({error}). {remedy}") from error
