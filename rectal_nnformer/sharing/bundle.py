"""Bundles: zip files of arrays and JSON with a manifest that tells the digest of each."""

import hashlib
import importlib.metadata
import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from rectal_nnformer import __version__
from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.schema import DatasetName, Text
from rectal_nnformer.utils.files import naming, staged_file
from rectal_nnformer.utils.json_records import MAX_BYTES, R, Record, T, json_text, make_record, read_record
from rectal_nnformer.utils.zips import CHUNK, MAX_FILES, check_paths, checked_entries, open_zip, unpacked

MANIFEST = "manifest.json"
MAX_FILE_BYTES = 8 << 30
COMPRESSION_LEVEL = 1
"""Higher ones take up to three times as long and make arrays of images 1 % smaller."""
MODEL_FOLDER = r"^[A-Za-z_][A-Za-z0-9_]*?__[A-Za-z0-9_.+-]+?__[A-Za-z0-9_.+-]+$"


class Entry(Record):
    """One file of a bundle."""

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Manifest(Record):
    """What a bundle is and which files it holds; see documentation/reference/bundle.md."""

    format: Literal["rectal_nnformer bundle"]
    version: Literal[2]
    kind: Literal["dataset", "model"]
    dataset: DatasetName
    model: Annotated[str, StringConstraints(pattern=MODEL_FOLDER, max_length=200)] | None = None
    num_cases: int | None = None
    plans: list[Text] | None = None
    ground_truth: bool | None = None
    folds: list[int | Literal["all"]] | None = None
    pseudonymized: bool
    software: dict[Text, Text]
    removed: dict[Text, int]
    files: Annotated[dict[str, Entry], Field(max_length=MAX_FILES)]


class BundleWriter:
    """A bundle under way, see `new_bundle`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.files: dict[str, dict[str, Any]] = {}

    def add(self, name: str, content: bytes | Path) -> None:
        """Add a file of this content, or a copy of one."""
        digest, size = hashlib.sha256(), 0
        with self._archive.open(name, "w", force_zip64=True) as member:
            for data in _pieces(content):
                digest.update(data)
                size += len(data)
                member.write(data)
        self.files[name] = {"sha256": digest.hexdigest(), "size": size}

    def finish(self, **about: Any) -> None:
        """Add the manifest, which says `about` beside format, version, software and files."""
        check_paths([MANIFEST, *self.files])
        versions = {name: importlib.metadata.version(name) for name in ("nnunetv2", "torch", "numpy", "blosc2")}
        content = {
            "format": "rectal_nnformer bundle",
            "version": 2,
            **{name: value for name, value in about.items() if value is not None},
            "software": {"rectal_nnformer": __version__, **versions},
            "files": self.files,
        }
        text = json_text(make_record(Manifest, content, MANIFEST))
        read_record(Manifest, text, f"{MANIFEST} (share fewer cases)")
        self._archive.writestr(zipfile.ZipInfo(MANIFEST), text, zipfile.ZIP_DEFLATED, COMPRESSION_LEVEL)


@contextmanager
def new_bundle(target: Path) -> Iterator[BundleWriter]:
    """Yield a bundle to add files to; it is there under exactly this name once the block has ended without an error.

    The same content gives the same bytes. The digest of the file is printed.
    """
    if target.is_dir():
        raise RectalError(f"{target} is a folder. Name the file to write, for instance {target / 'bundle.zip'}.")
    with (
        staged_file(target) as staged,
        zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as archive,
    ):
        yield BundleWriter(archive)
    print(digest_line(target))


def digest_line(path: Path) -> str:
    """Return a line with the SHA-256 of a whole file, to be compared at both ends."""
    digest = hashlib.sha256()
    for data in _pieces(path):
        digest.update(data)
    return f"SHA-256 of {path.name}: {digest.hexdigest()}"


class BundleReader:
    """An open bundle whose manifest and list of files have been checked; files are verified as they are read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._archive = open_zip(self.path)
        try:
            self._entries = {entry.filename: entry for entry in checked_entries(self.path, self._archive)}
            self.manifest = self._read_manifest()
            listed = {name: entry.size for name, entry in self.manifest.files.items()}
            if {name: entry.file_size for name, entry in self._entries.items() if name != MANIFEST} != listed:
                raise RectalError(f"{self.path} cannot be read: its files are not those of its manifest.")
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> "BundleReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def check_kind(self, kind: str) -> str:
        """Return the name of the dataset."""
        if self.manifest.kind != kind:
            raise RectalError(f"{self.path} holds no {kind}: use 'rectal_nnformer import_{self.manifest.kind}'.")
        return self.manifest.dataset

    def check_room(self, folder: Path) -> None:
        """Refuse to unpack what does not fit on the disk."""
        total, free = sum(entry.size for entry in self.manifest.files.values()), shutil.disk_usage(folder).free
        if total > free:
            raise RectalError(f"{self.path} unpacks to {total} bytes, but {folder} has room for {free}.")

    def read(self, name: str, kind: type[R]) -> R:
        """Return a JSON file."""
        if name not in self.manifest.files:
            raise RectalError(f"The bundle has no {name}.")
        if self.manifest.files[name].size > MAX_BYTES:
            raise RectalError(f"{name} has more than the {MAX_BYTES} bytes that are read of JSON.")
        return read_record(kind, b"".join(self._verified(name)), name)

    def load(self, name: str, load_file: Callable[[Path], T], scratch: Path) -> T:
        """Return the arrays of a safetensors file, which is unpacked into a folder and read by `load_file`."""
        try:
            with (scratch / "arrays").open("wb") as file:
                file.writelines(self._verified(name))
            return load_file(scratch / "arrays")
        except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, RuntimeError, MemoryError) as error:
            raise RectalError(f"{name} cannot be read as safetensors ({error}).") from None
        finally:
            (scratch / "arrays").unlink(missing_ok=True)

    def verify(self) -> None:
        """Read all files and decompress all arrays, leaving nothing behind.

        Raises:
            RectalError: A file differs from the manifest, or arrays cannot be read or are not finite.
        """
        with tempfile.TemporaryDirectory(prefix="rectal_nnformer_") as scratch, naming(Path(scratch)):
            for name in tqdm(self.manifest.files, desc="Reading bundle", unit="file"):
                if name.endswith(".safetensors"):
                    if problem := self.load(name, _array_problem, Path(scratch)):
                        raise RectalError(f"{self.path} cannot be used: in {name}, {problem}. Have it sent again.")
                else:
                    for _ in self._verified(name):
                        pass

    def _verified(self, name: str) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for data in unpacked(self._archive, self._entries[name]):
            digest.update(data)
            yield data
        if digest.hexdigest() != self.manifest.files[name].sha256:
            raise RectalError(f"{self.path} cannot be read: {name} differs from its manifest. Have it sent again.")

    def _read_manifest(self) -> Manifest:
        entry = self._entries.get(MANIFEST)
        if entry is None or entry.file_size > MAX_BYTES:
            raise RectalError(
                f"{self.path} is no bundle of this program: it has no {MANIFEST}, or one of more than {MAX_BYTES} "
                "bytes. Bundles are written by 'rectal_nnformer export_dataset' and 'export_model'."
            )
        return read_record(Manifest, b"".join(unpacked(self._archive, entry)), f"{MANIFEST} of {self.path}")


def _array_problem(path: Path) -> str:
    """Return which array of a safetensors file is not finite; empty if all are. They are read one by one."""
    with safe_open(path, "numpy") as arrays:
        for name in arrays.keys():  # noqa: SIM118 - it is no mapping
            if (
                arrays.get_slice(name).get_dtype() in ("F64", "F32", "F16")
                and not np.isfinite(arrays.get_tensor(name)).all()
            ):
                return f"{name} holds values that are not finite"
    return ""


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while data := file.read(CHUNK):
            yield data
