"""Bundles: a manifest and the files it lists, in a tar of which every byte follows from the manifest and the files."""

import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.compression import BLOCK, CHUNK, SealedReader, SealedWriter
from rectal_nnformer.sharing.strict_json import MAX_BYTES, canonical_digest, canonical_json, is_canonical, load_json
from rectal_nnformer.utils.files import staged_file

FORMAT, VERSION = "rectal_nnformer bundle", 1
MANIFEST = "manifest.json"
MAX_FILES = 50_000
"""Two configurations of 7000 cases."""
MAX_FILE_BYTES = (8 << 30) - 1
"""Largest file that a tar header of 1988 can tell the size of."""
MAX_EXPANSION = 200
"""How many times its own size a bundle may unpack to, beyond `FREE_EXPANSION` bytes."""
FREE_EXPANSION = 256 << 20
RECORD = 20 * BLOCK
MAX_DEPTH = 6
"""Folders in a path, the file included."""

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Member:
    """One file to put into a bundle: its path in it, and where it lies."""

    path: str
    source: Path


def output_file(path: str | Path) -> Path:
    """Return where to write, before anything is done that takes long.

    Raises:
        RectalError: That is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise RectalError(f"{path} is a folder. Name the file to write, for instance {path / 'bundle.tar'}.")
    return path


def write_bundle(target: Path, about: Mapping[str, Any], members: Sequence[Member]) -> dict[str, Any]:
    """Write a bundle in one step and return its manifest. The same content gives the same bytes.

    Args:
        target: The file, written under exactly this name; its ending chooses the compression.
        about: What the manifest says beside format, version, files and digest.
        members: The files.

    Raises:
        RectalError: A path or size cannot be in a bundle, or a file changed meanwhile.
    """
    ordered = sorted(members, key=lambda member: member.path)
    check_paths([member.path for member in ordered])
    total = sum(member.source.stat().st_size for member in ordered)
    with tqdm(total=2 * total, desc="Writing bundle", unit="B", unit_scale=True) as bar:
        files = {member.path: _describe(member, bar) for member in ordered}
        content = {**about, "format": FORMAT, "version": VERSION, "files": files}
        content["digest"] = canonical_digest(content)
        text = canonical_json(content)
        if len(text) > MAX_BYTES:
            raise RectalError(f"The manifest would have {len(text)} bytes, more than {MAX_BYTES}: share fewer cases.")
        with staged_file(target) as staged, staged.open("wb") as file:
            writer = SealedWriter(file, target.name)
            writer.write(tar_header(MANIFEST, len(text)) + text + padding(len(text)))
            for member in ordered:
                _write_member(writer, member, files[member.path], bar)
            writer.write(_end(_tar_size(len(text), files)))
            writer.finish()
    return content


class BundleReader(SealedReader):
    """An open bundle whose manifest has been read and checked; `extract` reads the rest.

    Attributes:
        manifest: Its content; `files` holds safe paths only.

    Raises:
        RectalError: The file is no bundle of ours, damaged, of a later version, or larger than is safe.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise RectalError(f"There is no file {path}.")
        super().__init__(path)
        try:
            self.manifest = self._read_manifest()
        except BaseException:
            self._file.close()
            raise

    def extract(self, folder: Path) -> None:
        """Write all files into an empty folder, each with the size and digest that the manifest tells.

        Raises:
            RectalError: A single byte of the bundle is not as written, or the disk is too small. Files are in `folder`
                then, not to be used.
        """
        files: dict[str, Any] = self.manifest["files"]
        total = sum(entry["size"] for entry in files.values())
        free = shutil.disk_usage(folder).free
        if total > free:
            raise RectalError(f"{self.path} unpacks to {total} bytes, but {folder} has room for {free}.")
        with tqdm(total=total, desc="Reading bundle", unit="B", unit_scale=True) as bar:
            for name, entry in files.items():
                self._extract(name, entry, folder / name, bar)
        self._expect(_end(_tar_size(self._manifest_size, files)))
        self.finish()

    def verify(self) -> None:
        """Read all of the bundle as `extract` does, writing nothing."""
        files: dict[str, Any] = self.manifest["files"]
        with tqdm(
            total=sum(e["size"] for e in files.values()), desc="Reading bundle", unit="B", unit_scale=True
        ) as bar:
            for name, entry in files.items():
                self._extract(name, entry, None, bar)
        self._expect(_end(_tar_size(self._manifest_size, files)))
        self.finish()

    def _read_manifest(self) -> dict[str, Any]:
        header = self.read(BLOCK)
        digits = header[124:135]
        known = header.startswith(MANIFEST.encode() + b"\0") and re.fullmatch(rb"[0-7]{11}", digits)
        size = int(digits, 8) if known else 0
        if not known or header != tar_header(MANIFEST, size):
            raise RectalError(
                f"{self.path} is no bundle of this program, or damaged: it does not begin with {MANIFEST}. "
                "Bundles are written by 'rectal_nnformer export_dataset' and 'export_model'."
            )
        if size > MAX_BYTES:
            raise RectalError(f"{self.path} has a manifest of {size} bytes, more than the {MAX_BYTES} that are read.")
        self._manifest_size = size
        text = self.read(size)
        content = load_json(text, f"{MANIFEST} of {self.path}")
        _check_manifest(self, content, text)
        self._expect(padding(size))
        return dict(content)

    def _extract(self, name: str, entry: Mapping[str, Any], target: Path | None, bar: tqdm) -> None:
        self._expect(tar_header(name, entry["size"]), name)
        digest, left = hashlib.sha256(), entry["size"]
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
        with Path(target or os.devnull).open("xb" if target else "wb") as file:
            while left:
                data = self.read(min(left, CHUNK))
                digest.update(data)
                file.write(data)
                left -= len(data)
                bar.update(len(data))
        if digest.hexdigest() != entry["sha256"]:
            raise self.damaged(f" ({name} differs from the manifest)")
        self._expect(padding(entry["size"]), name)

    def _expect(self, data: bytes, name: str = "") -> None:
        if self.read(len(data)) != data:
            raise self.damaged(f" (around {name})" if name else "")


def tar_header(path: str, size: int) -> bytes:
    """Return the POSIX ustar header of a regular file of mode 0644 without owner, group and time.

    Raises:
        RectalError: The path or the file is too long for it.
    """
    prefix, name = "", path
    if len(name.encode()) > 100:
        cut = next((i for i, c in enumerate(path) if c == "/" and len(path[i + 1 :].encode()) <= 100), 0)
        prefix, name = path[:cut], path[cut + 1 :] if cut else path
    if len(name.encode()) > 100 or len(prefix.encode()) > 155 or size > MAX_FILE_BYTES:
        raise RectalError(f"{path} cannot be in a bundle: its name is too long, or it has more than 8 GiB.")
    fields = [
        name.encode().ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" + b"0000000\0",
        b"%011o\0" % size,
        b"00000000000\0" + b" " * 8 + b"0" + bytes(100),
        b"ustar\x0000" + bytes(64) + b"0000000\0" + b"0000000\0",
        prefix.encode().ljust(155, b"\0") + bytes(12),
    ]
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def padding(size: int) -> bytes:
    """Return the zeros after a file of `size` bytes in a tar."""
    return bytes(-size % BLOCK)


def check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that could leave a folder, mean another thing on another system, or overwrite each other.

    Raises:
        RectalError: Which path, and why.
    """
    seen: dict[str, str] = {MANIFEST: MANIFEST}
    for path in paths:
        parts = path.split("/")
        if not all(_is_safe_name(part) for part in parts) or len(parts) > MAX_DEPTH:
            raise RectalError(f"A bundle cannot hold a file called {path!r}: that is no plain relative path.")
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in seen:
            raise RectalError(f"A bundle cannot hold both {seen[folded]!r} and {path!r}, one file on some systems.")
        seen[folded] = path
    folders = {folded.rpartition("/")[0] for folded in seen}
    for folded in folders & seen.keys():
        raise RectalError(f"A bundle cannot hold {seen[folded]!r} as a file and as a folder.")


def _is_safe_name(name: str) -> bool:
    """Whether a file or folder of this name stays where it is put, on every system."""
    if not name or name[0] in ".- ~" or name[-1] in ". " or _FORBIDDEN.search(name) or _RESERVED.fullmatch(name):
        return False
    return name.isprintable() and unicodedata.is_normalized("NFC", name)


def _describe(member: Member, bar: tqdm) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with member.source.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            size += len(data)
            bar.update(len(data))
    return {"sha256": digest.hexdigest(), "size": size}


def _write_member(writer: SealedWriter, member: Member, entry: Mapping[str, Any], bar: tqdm) -> None:
    writer.write(tar_header(member.path, entry["size"]))
    digest, size = hashlib.sha256(), 0
    with member.source.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            size += len(data)
            writer.write(data)
            bar.update(len(data))
    if (digest.hexdigest(), size) != (entry["sha256"], entry["size"]):
        raise RectalError(f"{member.source} changed while the bundle was written. Export again when it is at rest.")
    writer.write(padding(size))


def _tar_size(manifest_size: int, files: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the bytes of headers, contents and padding before the end of the archive."""
    sizes = [manifest_size, *(entry["size"] for entry in files.values())]
    return sum(BLOCK + size + len(padding(size)) for size in sizes)


def _end(size: int) -> bytes:
    """Return the zeros that end a tar of `size` bytes: two blocks, then to a whole record, as tar does."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


def _check_manifest(reader: SealedReader, content: Any, text: bytes) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RectalError(f"{reader.path} is a tar with a manifest, but not of this program's format.")
    version = content.get("version")
    if version != VERSION:
        raise RectalError(
            f"{reader.path} is a bundle of format version {version!r}; this program reads version {VERSION}. "
            "Update rectal_nnformer, or ask the sender to export with yours."
        )
    stripped = {key: value for key, value in content.items() if key != "digest"}
    if not is_canonical(text, content) or content.get("digest") != canonical_digest(stripped):
        raise reader.damaged(f" ({MANIFEST} was changed)")
    _check_files(reader, content.get("files"))


def _check_files(reader: SealedReader, files: Any) -> None:
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        raise RectalError(f"{reader.path} lists no files, or more than {MAX_FILES}.")
    for path, entry in files.items():
        plain = isinstance(entry, dict) and entry.keys() == {"sha256", "size"}
        if not plain or type(entry["size"]) is not int or not 0 <= entry["size"] <= MAX_FILE_BYTES:
            raise RectalError(f"{reader.path} does not tell a possible size of {path!r}.")
    check_paths(list(files))
    total, size = sum(entry["size"] for entry in files.values()), reader.path.stat().st_size
    if total > MAX_EXPANSION * size + FREE_EXPANSION:
        raise RectalError(
            f"{reader.path} has {size} bytes and would unpack to {total}, more than {MAX_EXPANSION} times as much: "
            "that is no dataset or model but a file made to fill disks."
        )
