"""Zip files from elsewhere, looked at before they are unpacked."""

import lzma
import stat
import zipfile
import zlib
from pathlib import Path
from typing import IO

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.bundle import FREE_EXPANSION, MAX_EXPANSION, MAX_FILES, check_paths
from rectal_nnformer.sharing.compression import CHUNK


def checked_entries(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files of a zip.

    Raises:
        RectalError: A path is not plain, an entry is a link or device, or there are too many or too large files.
    """
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
            raise RectalError(f"{path} holds {entry.filename!r}, which is a link, a device or encrypted.")
    check_paths([entry.orig_filename for entry in entries])
    # An extra field can give an entry another name, which later versions of Python unpack it to.
    check_paths([entry.filename for entry in entries])
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if len(entries) > MAX_FILES or total > MAX_EXPANSION * size + FREE_EXPANSION:
        raise RectalError(
            f"{path} has {size} bytes and would unpack to {total} in {len(entries)} files: no model does."
        )
    return entries


def unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Write one file of a zip to `target`, which must not exist, and not more bytes than the zip tells.

    Raises:
        RectalError: The zip holds more.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with archive.open(entry) as source, target.open("xb") as file:
        while data := _read(source, entry.filename):
            left -= len(data)
            if left < 0:
                raise RectalError(f"{entry.filename} unpacks to more bytes than the zip tells.")
            file.write(data)


def _read(source: IO[bytes], name: str) -> bytes:
    try:
        return source.read(CHUNK)
    except (zlib.error, lzma.LZMAError, OSError) as error:  # bz2 raises the last
        raise RectalError(f"{name} cannot be unpacked ({error}); have it sent again.") from None
