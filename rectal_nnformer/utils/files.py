"""Writing files and folders so that an interruption never leaves a half-written one behind; reading JSON."""

import csv
import ctypes
import errno
import fcntl
import glob
import io
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError

MAX_BYTES = 256 << 20
"""Of a file that is read whole. The fingerprint of lesions takes 4 KB a case."""
MAX_VALUES = 1 << 21
"""Of a JSON file, as `count_values` counts them. A value of a few bytes can take some hundred bytes of memory. Of each
scored case there are at most about 800, so that this is the score of 2600 cases, each with all its candidates."""
SECONDS_BETWEEN_TRIES = 0.1
MAX_DEPTH = 64
"""Levels of a JSON file; those of this project have about ten."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""How cells begin that spreadsheets take for formulas, which can run programs."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2: paths are relative to the working folder, and both are there."""
_NUMBERS = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?( [-+]?[\d.]+(e[-+]?\d+)?)*")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends without an exception.

    What was written is on the disk before, so that a full one is noticed. The temporary name keeps the suffix of
    `path`, since many writers choose their format by it; errors name `path` instead. What killed processes of this
    computer left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path, _has_ended)
    before, after = _temporary_names(path)[1]
    temporary = path.with_name(f"{before}{_process()}{after}")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except RectalError as error:
        error.args = (str(error).replace(str(temporary), str(path)),)
        raise
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
    with scratch_folder(path) as temporary, naming(path):
        yield temporary
        temporary.replace(path)


@contextmanager
def updated_folder(path: Path) -> Iterator[Path]:
    """Yield a copy of a folder beside it, of hard links where there can be; exchange both after the block.

    Files in the copy must be replaced, as all functions here do, and not be written into. An exception leaves the
    folder as it was. So does a killed process, except where the file system cannot exchange folders (NFS): there the
    folder is called as `set_aside` says for a moment.
    """
    with scratch_folder(path) as temporary, naming(path):
        shutil.copytree(path, temporary, symlinks=True, copy_function=_link_or_copy, dirs_exist_ok=True)
        yield temporary
        if not _exchanged(path, temporary):
            aside = set_aside(path)
            path.rename(aside)
            try:
                temporary.rename(path)
            except BaseException:
                aside.rename(path)
                raise
            aside.rename(temporary)


def set_aside(path: Path) -> Path:
    """Return what a folder is called while it is replaced: no temporary name, so that nothing removes it."""
    return path.with_name(f".{path.name}.before")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return whether system and file system can."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE) == 0)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder of a temporary name beside `path`, where there need be nothing; remove it after the block.

    What killed processes of this computer left is removed, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path, _has_ended)
    before, after = _temporary_names(path)[0]
    temporary = path.with_name(f"{before}{_process()}{after}")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(path: Path, which: Callable[[str], bool] = lambda _: True) -> None:
    """Remove what killed processes left of a file or folder under temporary names.

    Args:
        path: The file or folder, of which a lock shall be held, since others may be writing it else.
        which: Told the part of a temporary name that stands for the process, chooses.
    """
    for before, after in _temporary_names(path):
        for other in path.parent.glob(f"{glob.escape(before)}*{glob.escape(after)}"):
            if not which(other.name[len(before) : len(other.name) - len(after)]):
                continue
            if other.is_dir() and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)


def _temporary_names(path: Path) -> list[tuple[str, str]]:
    """Return what stands before and after the process in the temporary names of a folder and of a file."""
    suffix = "".join(path.suffixes)
    return [(f".{path.name}.", ".partial"), (f".{path.name.removesuffix(suffix)}.", f".partial{suffix}")]


def _process() -> str:
    return f"{platform.node()}.{os.getpid()}"


def _has_ended(process: str) -> bool:
    """Whether a part of a temporary name stands for a process of this computer that has ended.

    The number of this process may have been that of an earlier one, as in containers, where it is always the same.
    """
    computer, _, number = process.rpartition(".")
    if computer != platform.node() or not number.isdecimal():
        return False
    try:
        if int(number) != os.getpid():
            os.kill(int(number), 0)
            return False
    except ProcessLookupError:
        pass
    except (PermissionError, OverflowError):  # it is of another user, or none
        return False
    return True


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the file system name what was written, which that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def writing(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Say which file could not be written, and the space left, where a library fails to write one.

    Args:
        path: The file.
        kinds: What the library raises besides errors of the file system and RuntimeErrors, as PyTorch and Blosc2 do.

    Raises:
        RectalError: It could not be written.
    """
    unwritten: tuple[type[Exception], ...] = (OSError, RuntimeError, *kinds)
    try:
        yield
    except unwritten as error:
        told = f"{path} could not be written ({error}); what was there before is as it was. {space_left(path.parent)}"
        raise RectalError(told) from error


def space_left(folder: Path) -> str:
    """Return a sentence on the space of a folder's disk, for messages of what could not be written."""
    return f"The disk of {folder} has {shutil.disk_usage(folder).free / 1e6:.0f} MB left; look at your quota, too."


def check_space(folder: Path, needed: float, what: str) -> None:
    """Refuse work whose files the disk of a folder cannot hold.

    Args:
        folder: Where they are to be written; it need not be there yet.
        needed: Bytes, rather too few than too many.
        what: What they are, as the beginning of a sentence.

    Raises:
        RectalError: The disk has less space left.
    """
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    if needed > shutil.disk_usage(place).free:
        raise RectalError(f"{what} need at least {needed / 1e6:.0f} MB. {space_left(place)} Free some, or use another.")


@contextmanager
def locked(path: Path, message: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock, of which a file is the sign, so that no other process does what the block does.

    The lock ends with this process, however it ends and whatever it started; the file is removed after the block.

    Args:
        path: The file.
        message: What to say where another process holds the lock.
        wait: Whether to say it and wait for that process, or to refuse.

    Raises:
        RectalError: Another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        with path.open("ab") as file:
            try:
                # Unlike flock, a lock of this kind is not inherited by workers, which may outlive a killed process.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if not wait:
                    raise RectalError(message) from None
                if not told:
                    print(message, flush=True)
                told = True
                time.sleep(SECONDS_BETWEEN_TRIES)
                continue
            if not is_same(path, file.fileno()):
                continue  # removed meanwhile by the process that held it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def is_same(path: Path, descriptor: int) -> bool:
    """Whether an open file still has a name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_held(path: Path, lock: Callable[[int, int], object] = fcntl.lockf) -> bool:
    """Whether another process holds a lock, by its sign, which is left as it is; `lock` is the kind of lock."""
    try:
        with path.open("rb") as file:
            lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def remove_free_lock(path: Path) -> None:
    """Remove the sign of a lock that a killed process left; one that a process holds stays."""
    if path.exists():
        with suppress(RectalError), locked(path, "held"):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one step; bytes of file names that are not UTF-8 are written as on the terminal."""
    with staged_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step; the keys keep their order."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in one step."""
    with staged_file(target) as temporary:
        shutil.copy(source, temporary)


def read_bytes(path: Path, remedy: str = "Restore the file.", most: int = MAX_BYTES) -> bytes:
    """Return the content of a file that is whole in memory.

    Raises:
        RectalError: It is missing, no ordinary file, so that reading could wait for ever, or larger than `most` bytes.
            `remedy` says, as a sentence, what the user can do then.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise RectalError(f"{path} cannot be used: it is {_KINDS.get(stat.S_IFMT(state.st_mode))}. {remedy}")
        if state.st_size > most:
            raise RectalError(f"{path} cannot be used: it has more than the {most} bytes that are read. {remedy}")
        return path.read_bytes()
    except FileNotFoundError:
        broken = ", but is a link to nothing" if path.is_symlink() else ""
        raise RectalError(f"{path} does not exist{broken}. {remedy}") from None
    except (OSError, ValueError) as error:  # a path with a zero in it is a ValueError
        raise RectalError(f"{path} cannot be read ({error}). {remedy}") from error


def kind_of(path: Path) -> str:
    """Return what there is in place of an ordinary file, such as "a named pipe"; empty for one, or a link to one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "not there"
    except (OSError, ValueError) as error:  # a path with a zero in it is a ValueError
        return f"no name of a file ({error})"
    return "" if stat.S_ISREG(mode) else _KINDS[stat.S_IFMT(mode)]


def parted_by_hidden(folder: Path) -> tuple[list[str], list[Path]]:
    """Return the names of the hidden entries of a folder, as systems leave them (`._scan.nii.gz`), and the others."""
    entries = sorted(folder.iterdir())
    return [e.name for e in entries if e.name.startswith(".")], [e for e in entries if not e.name.startswith(".")]


def is_there(path: Path) -> bool:
    """Whether there is anything of this name, be it no file or a link to nothing: then it is read, and refused."""
    return os.path.lexists(path)


def read_json(path: Path, keys: Collection[str] = (), remedy: str = "Restore the file.") -> dict[str, Any]:
    """Return the object that a JSON file in UTF-8 holds.

    Raises:
        RectalError: It is missing, damaged or no object, or lacks one of the keys. `remedy` says, as a sentence, what
            the user can do then.
    """
    content = parse_json(path, remedy)
    if not isinstance(content, dict):
        raise RectalError(f"{path} cannot be used: it holds {_type_name(content)} instead of an object. {remedy}")
    if missing := [key for key in keys if key not in content]:
        raise RectalError(f"{path} cannot be used: it lacks {', '.join(missing)}. {remedy}")
    return content


def read_json_if_whole(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file that can be made anew; None where it is missing, damaged or something else."""
    try:
        return read_json(path)
    except RectalError:
        return None


def is_too_deep(content: Any, most: int = MAX_DEPTH) -> bool:
    """Whether a content of JSON has more than so many levels, as none of nnU-Net's or ours has."""
    level = [content]
    for _ in range(most):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [one for item in containers for one in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; refuse, as a ValueError, one that has a key twice, of which one would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return content


def parse_json(path: Path, remedy: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        RectalError: It is missing, damaged, too large or too deep, or has a key twice; ends with `remedy`.
    """
    data = read_bytes(path, remedy)
    if count_values(data) > MAX_VALUES:
        raise RectalError(f"{path} cannot be used: it holds more than the {MAX_VALUES} values that are read. {remedy}")
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # text that cannot be decoded is a ValueError, too
        raise RectalError(f"{path} cannot be read as JSON ({error}). {remedy}") from error
    if is_too_deep(content):
        raise RectalError(f"{path} cannot be used: it has more than {MAX_DEPTH} levels. {remedy}")
    return content


def count_values(data: bytes) -> int:
    """Return the number of brackets and commas in a JSON text, of which there are about as many as values."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def read_table(
    path: Path, columns: Sequence[str], what: str, remedy: str, others: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Return number and cells of each line of a CSV file in UTF-8, as `csv_text` or a spreadsheet writes it.

    Args:
        path: The file; commas or semicolons part its columns.
        columns: Those that it must have, and that are returned; cells have no blanks around them and may be empty.
        what: What the file is, as in "The list of patients".
        remedy: As for `read_bytes`.
        others: Whether to return the other columns of its first line, too.

    Raises:
        RectalError: It cannot be read, is no CSV, or lacks a column.
    """
    try:
        text = read_bytes(path, remedy).decode("utf-8-sig")
        # Spreadsheets write semicolons where the comma is the decimal sign.
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in text.partition("\n")[0] else ",")
        if not set(columns) <= set(rows.fieldnames or ()):
            raise RectalError(f"{what} {path} needs a first line with the columns {' and '.join(columns)}.")
        names = [name for name in rows.fieldnames or () if name] if others else columns
        if len(set(names)) < len(names):
            raise RectalError(f"{what} {path} has two columns of one name. {remedy}")
        return [(rows.line_num, {name: _plain_cell(row[name] or "") for name in names}) for row in rows]
    except RectalError:
        raise
    except (UnicodeDecodeError, csv.Error) as error:
        raise RectalError(f"{what} {path} cannot be read ({error}). {remedy}") from None


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as CSV; missing and undefined values are empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, which `read_table` takes away.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _safe_cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _safe_cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(FORMULA_STARTS) or _NUMBERS.fullmatch(value):
        return value
    return f"'{value}".replace("\r", " ")  # which would begin a row, since csv does not quote it


def _plain_cell(text: str) -> str:
    """Return a cell without blanks around it and as it was before `csv_text` made it safe."""
    text = text.strip()
    return text[1:] if text[:1] == "'" and text[1:].startswith(FORMULA_STARTS) else text
