"""JSON as typed records: our own results, and files from elsewhere, read within limits and written anew.

RectalError says what is refused and why.
"""

import json
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import MAX_DEPTH, count_values, is_too_deep, parse_json, read_bytes, unique_keys

MAX_BYTES = 16 << 20
"""Of 1000 cases the fingerprint of lesions takes 3.9 MB, the manifest for two configurations 1.1 MB."""
MAX_VALUES = 1 << 19
"""As `count_values` counts them. The fingerprint of 1000 cases has 85,000."""

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


class Record(BaseModel):
    """The content of a JSON file or of a part of it: no other keys, no conversion between types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def read_own(kind: type[T], path: Path, remedy: str) -> T:
    """Read a file of ours as a dataclass, or a tuple of them; keys that it does not know are ignored.

    Raises:
        RectalError: It is missing or no JSON, or lacks a key, or a value is of another type; ends with `remedy`.
    """
    try:
        # As text again, for messages in JSON's words.
        return TypeAdapter(kind).validate_json(json.dumps(parse_json(path, remedy)))
    except ValidationError as error:
        raise RectalError(f"{path} cannot be used ({described(error)}). {remedy}") from error


def read_record(kind: type[R], data: bytes, name: str) -> R:
    """Return the record in a JSON text from elsewhere, which names no key twice and holds no NaN."""
    _load(data, name, strict=True)
    return _validated(kind, data, name, "forbid")


def make_record(kind: type[R], content: Any, name: str) -> R:
    """Return the record of a JSON content; keys that it does not have are left out, other objects taken for texts."""
    return _validated(kind, json.dumps(content, default=repr).encode(), name, "ignore")


def json_content(record: BaseModel) -> Any:
    """Return what a record was made from, as JSON has it: dicts, lists, texts and numbers."""
    return record.model_dump(mode="json", exclude_unset=True, by_alias=True)


def json_text(record: BaseModel) -> bytes:
    """Return what a record was made from, as JSON."""
    return record.model_dump_json(exclude_unset=True, by_alias=True, indent=1).encode() + b"\n"


def load_json_file(path: Path) -> Any:
    """Return the content of a JSON file of nnU-Net's; NaN and Infinity become None."""
    remedy = "Plan and preprocess the dataset, or train the model, first."
    return _load(read_bytes(path, remedy, MAX_BYTES), path.name, strict=False)


def _load(data: bytes, name: str, strict: bool) -> Any:
    if len(data) > MAX_BYTES:
        raise RectalError(f"{name} has more than the {MAX_BYTES} bytes that are read of JSON.")
    if count_values(data) > MAX_VALUES:
        raise RectalError(f"{name} holds more than the {MAX_VALUES} values that are read of JSON.")
    try:
        content = json.loads(data.decode(), object_pairs_hook=unique_keys, parse_constant=_refuse if strict else _none)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise RectalError(f"{name} cannot be read as JSON: {reason}. Have it sent again.") from None
    if is_too_deep(content):
        raise RectalError(f"{name} has more than {MAX_DEPTH} levels. Have it sent again.")
    return content


def _validated(kind: type[R], data: bytes, name: str, extra: Literal["forbid", "ignore"]) -> R:
    try:
        return kind.model_validate_json(data, extra=extra)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where, value = ".".join(map(str, first["loc"]))[:200], repr(first["input"])[:80]
        raise RectalError(
            f"{name} cannot be used: {where or 'its content'} is {value}, which nnU-Net and this package do not write "
            f"there ({first['msg']})."
        ) from None


def described(error: ValidationError) -> str:
    """Return the first value that is wrong, by its place, and why."""
    first = error.errors(include_url=False, include_context=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"]))[:200], first["msg"])))


def _none(constant: str) -> None:
    return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")
