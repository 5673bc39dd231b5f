"""Zip files from elsewhere, checked before they are unpacked; RectalError says what is refused and why."""

import re
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rectal_nnformer.errors import RectalError

MAX_FILES = 50_000
"""A dataset of two configurations and 10,000 cases."""
MAX_PATH_PARTS = 6
MAX_EXPANSION = 200
"""How many times its own size a zip may unpack to, beyond `FREE_EXPANSION` bytes."""
FREE_EXPANSION = 256 << 20
MAX_DIRECTORY_BYTES = 32 << 20
"""Of a zip's own list of its files, which is read whole."""
CHUNK = 1 << 20

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file whose list of files is not too long to be read."""
    if not path.is_file():
        raise RectalError(f"There is no file {path}.")
    with _readable(path):
        if _directory_bytes(path) > MAX_DIRECTORY_BYTES:
            raise RectalError(f"{path} lists more than {MAX_FILES} files: no dataset or model does.")
        return zipfile.ZipFile(path)


def checked_entries(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files of a zip: of plain paths, no links or devices, not too many, not too large."""
    entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    for entry in entries:
        plain = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not entry.flag_bits & 1
        if not plain or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise RectalError(f"{path} holds {entry.filename!r}, which is a link, a device or encrypted.")
    # An extra field can give an entry another name, which later versions of Python unpack it to.
    check_paths([entry.orig_filename for entry in entries])
    check_paths([entry.filename for entry in entries])
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if len(entries) > MAX_FILES + 1 or total > MAX_EXPANSION * size + FREE_EXPANSION:
        raise RectalError(
            f"{path} has {size} bytes and would unpack to {total} in {len(entries)} files: no dataset or model does."
        )
    return entries


def unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """Give the content of one file of a zip, piece by piece, and not more bytes than the zip tells."""
    path, left = Path(str(archive.filename)), entry.file_size
    with _readable(path):
        source = archive.open(entry)
    with source:
        while True:
            with _readable(path):
                data = source.read(CHUNK)
            left -= len(data)
            if left < 0 or (left and not data):
                raise RectalError(f"{path} cannot be read: {entry.filename} is not of the size that the zip tells.")
            if not data:
                return
            yield data


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of a file that it is damaged, whatever the library raises."""
    try:
        yield
    except RectalError:
        raise
    except Exception as error:  # arbitrary bytes make it raise almost anything
        raise RectalError(f"{path} cannot be read as a zip file ({error}). Have it sent again.") from None


def _directory_bytes(path: Path) -> int:
    """Return the size of a zip's list of files, from the end of the zip.

    Read by hand, since zipfile reads the whole list into memory and cannot be asked for its size before.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 42))
        tail = file.read()
        if tail[-22:-18] != b"PK\x05\x06":
            raise ValueError("it is something else, ends early, or goes on behind its end")
        if tail[:4] != b"PK\x06\x07":
            return int(struct.unpack("<I", tail[-10:-6])[0])
        file.seek(struct.unpack("<Q", tail[8:16])[0])
        return int(struct.unpack("<Q", file.read(56)[40:48])[0])


def check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that could leave a folder, mean another thing on another system, or overwrite each other."""
    seen: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        if not all(map(is_safe_name, parts)) or len(parts) > MAX_PATH_PARTS:
            raise RectalError(f"A zip cannot hold a file called {path!r}: that is no plain relative path.")
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in seen:
            raise RectalError(f"A zip cannot hold both {seen[folded]!r} and {path!r}, one file on some systems.")
        seen[folded] = path
    for folded, path in seen.items():
        if any(folded[:at] in seen for at, character in enumerate(folded) if character == "/"):
            raise RectalError(f"A zip cannot hold {path!r} in a folder that is a file as well.")


def is_safe_name(name: str) -> bool:
    """Whether a file or folder of this name stays where it is put, on every system."""
    if not name or name[0] in ".- ~" or name[-1] in ". " or _FORBIDDEN.search(name) or _RESERVED.fullmatch(name):
        return False
    return name.isprintable() and unicodedata.is_normalized("NFC", name)
