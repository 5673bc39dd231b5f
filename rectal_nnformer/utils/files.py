"""Writing files and folders so that an interruption never leaves a half-written one behind; reading JSON."""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends without an exception.

    What was written is on the disk before, so that a full one is noticed. The temporary name keeps the suffix of
    `path`, since many writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes)
    stem = path.name.removesuffix(suffix)
    temporary = path.with_name(f".{stem}.{os.getpid()}.partial{suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; rename it to `path` if the block ends without an exception.

    Raises:
        FileExistsError: `path` exists and is not an empty folder.
    """
    if path.exists() and any(path.iterdir()):
        raise FileExistsError(f"{path} exists and is not empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    umask = os.umask(0)
    os.umask(umask)
    try:
        temporary.chmod(0o777 & ~umask)
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def space_left(folder: Path) -> str:
    """Return a sentence on the space of a folder's disk, for messages of what could not be written."""
    return f"The disk of {folder} has {shutil.disk_usage(folder).free / 1e6:.0f} MB left; look at your quota, too."


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one step."""
    with staged_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step; the keys keep their order."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path, keys: Collection[str] = (), remedy: str = "Restore the file.") -> dict[str, Any]:
    """Return the object that a JSON file in UTF-8 holds.

    Raises:
        RectalError: It is missing, damaged or no object, or lacks one of the keys. `remedy` says, as a sentence, what
            the user can do then.
    """
    content = _parse_json(path, remedy)
    if not isinstance(content, dict):
        raise RectalError(f"{path} cannot be used: it holds {_type_name(content)} instead of an object. {remedy}")
    if missing := [key for key in keys if key not in content]:
        raise RectalError(f"{path} cannot be used: it lacks {', '.join(missing)}. {remedy}")
    return content


def read_json_list(path: Path, keys: Collection[str] = (), remedy: str = "Restore the file.") -> list[dict[str, Any]]:
    """Return the list of objects that a JSON file holds, each with the keys; all else is as for `read_json`."""
    content = _parse_json(path, remedy)
    if not isinstance(content, list):
        raise RectalError(f"{path} cannot be used: it holds {_type_name(content)} instead of a list. {remedy}")
    for number, item in enumerate(content):
        if not isinstance(item, dict):
            raise RectalError(f"{path} cannot be used: entry {number} is {_type_name(item)}, not an object. {remedy}")
        if missing := [key for key in keys if key not in item]:
            raise RectalError(f"{path} cannot be used: entry {number} lacks {', '.join(missing)}. {remedy}")
    return content


def read_json_if_whole(path: Path) -> Any:
    """Return the content of a JSON file that can be made anew; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _parse_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RectalError(f"{path} does not exist. {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:  # text that cannot be decoded is a ValueError, too
        raise RectalError(f"{path} cannot be read as JSON ({error}). {remedy}") from error


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as CSV; missing and undefined values are empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
