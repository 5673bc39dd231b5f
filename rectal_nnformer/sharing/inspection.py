"""What is in a file from elsewhere, told without executing anything of it."""

import gzip
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.bundle import MANIFEST, BundleReader
from rectal_nnformer.sharing.compression import XZ_MAGIC
from rectal_nnformer.sharing.data_pickle import MAX_BYTES as MAX_PICKLE_BYTES
from rectal_nnformer.sharing.data_pickle import UnsafePickle, names_in_pickle, parse
from rectal_nnformer.sharing.frames import UnexpectedFrame, check_frame
from rectal_nnformer.sharing.zips import checked_entries
from rectal_nnformer.wording import plural

MAX_LINES = 40
MAX_WORDS = 160
MAX_TOLD = 4000
"""Characters of one line; what is told of removed things can be long."""
SHOWN = (
    "dataset",
    "model",
    "num_cases",
    "plans",
    "folds",
    "ground_truth",
    "pseudonymized",
    "software",
    "removed",
)
"""What is shown of a manifest beside its digest; other keys could pretend to be this program's words."""


def inspect_file(path: str | Path) -> str:
    """Return in a few lines what a bundle, model zip, checkpoint, pretrained file, array or pickle holds.

    Nothing of the file is executed. A bundle is read to its end, and every byte of it verified.

    Raises:
        RectalError: there is no such file, or a bundle or zip is damaged or not safe to unpack.
    """
    path = Path(path)
    if not path.is_file():
        raise RectalError(f"There is no file {path}.")
    lines = [f"{path}: {path.stat().st_size} bytes", *_describe(path)]
    return "\n".join(_printable(line) for line in lines)


def _describe(path: Path) -> list[str]:
    with path.open("rb") as file:
        start = file.read(16)
    if start.lstrip().startswith(b"<"):
        return ["a web page, most likely of a download that failed"]
    if start.startswith(b"PK"):
        return _describe_zip(path)
    if start.startswith(b"\x9e\xa8b2frame\0"):
        return _describe_array(path)
    if start.startswith(MANIFEST.encode()) or start.startswith(XZ_MAGIC) or _is_gzip_bundle(path, start):
        return _describe_bundle(path)
    if start[:1] == b"\x80" and path.suffix in (".pt", ".pth", ".ckpt"):
        return _describe_checkpoint(path)
    if start[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        return _describe_pickle(path)
    return ["no bundle, model zip, checkpoint, array or pickle; nothing more is known of it"]


def _is_gzip_bundle(path: Path, start: bytes) -> bool:
    if not start.startswith(b"\x1f\x8b"):
        return False
    try:
        with gzip.open(path) as file:
            return file.read(len(MANIFEST)) == MANIFEST.encode()
    except (OSError, EOFError, zlib.error):
        return False


def _describe_bundle(path: Path) -> list[str]:
    with BundleReader(path) as bundle:
        manifest = bundle.manifest
        bundle.verify()
    files: Mapping[str, Any] = manifest["files"]
    kinds: Counter[str] = Counter()
    for name, entry in files.items():
        folder = name.rpartition("/")[0]
        kinds[folder or name] += entry["size"]
    lines = [
        f"a bundle of a {manifest.get('kind')}, format version {manifest['version']}: every byte is as it was written",
        f"digest {manifest['digest']}: compare it with what the sender reads, for instance by telephone",
    ]
    lines += [f"{key}: {manifest[key]}"[:MAX_TOLD] for key in SHOWN if key in manifest]
    unknown = manifest.keys() - {*SHOWN, "files", "digest", "format", "version", "kind"}
    lines += (
        [f"{plural(len(unknown), 'more key')} in the manifest, which this version does not know"] if unknown else []
    )
    lines.append(f"{plural(len(files), 'file')} of {sum(entry['size'] for entry in files.values())} bytes:")
    return lines + _shortened([f"  {name}: {size} bytes" for name, size in sorted(kinds.items())])


def _describe_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            # PyTorch reads its files by other paths than unpacking.
            if any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist()):
                return _describe_checkpoint(path)
            entries = checked_entries(path, archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise RectalError(f"{path} begins like a zip file, but cannot be read ({error}).") from None
    names = [entry.filename for entry in entries]
    lines = [f"a zip file of {plural(len(names), 'file')}, none of them a link or outside of the folder:"]
    lines += _shortened([f"  {entry.filename}: {entry.file_size} bytes" for entry in entries])
    if any(name.endswith(".pth") for name in names):
        lines.append(
            "It looks like a model of nnU-Net. 'rectal_nnformer import_model' reads it without running anything."
        )
    return lines


def _describe_checkpoint(path: Path) -> list[str]:
    # Here, since PyTorch takes long to load and nothing else in this module needs it.
    from rectal_nnformer.networks.checkpoint_file import read_checkpoint
    from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, md5_of

    md5 = md5_of(path)
    known = next((file.name for file in PRETRAINED_FILES if file.md5 == md5), "no published file known here")
    lines = [f"a PyTorch file, MD5 {md5}: {known}"]
    try:
        content = read_checkpoint(path)
    except RectalError as error:
        return [*lines, f"NOT SAFE or not readable: {error}", *_named(_names_in_checkpoint(path))]
    return lines + _tree(content)


def _names_in_checkpoint(path: Path) -> list[str]:
    """Return what the pickle in a PyTorch file names."""
    if not zipfile.is_zipfile(path):
        return names_in_pickle(path.read_bytes()) if path.stat().st_size <= MAX_PICKLE_BYTES else []
    with zipfile.ZipFile(path) as archive:
        pickled = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
        small = bool(pickled) and pickled[0].file_size <= min(MAX_PICKLE_BYTES, path.stat().st_size)
        return names_in_pickle(archive.read(pickled[0])) if small else []


def _describe_array(path: Path) -> list[str]:
    try:
        frame = check_frame(path)
    except UnexpectedFrame as error:
        return [f"a Blosc2 file that is no plain array of nnU-Net's: {error}. Do not open it."]
    return [f"a preprocessed array of nnU-Net: shape {frame.shape}, {frame.dtype}, nothing else in the file"]


def _describe_pickle(path: Path) -> list[str]:
    if path.stat().st_size > MAX_PICKLE_BYTES:
        return [f"perhaps a pickle, larger than the {MAX_PICKLE_BYTES} bytes that are read"]
    data = path.read_bytes()
    try:
        content = parse(data)
    except UnsafePickle as error:
        return [f"a pickle that was not opened: {error}", *_named(names_in_pickle(data))]
    return ["a pickle of plain data and numpy arrays, nothing that could run", *_tree(content)]


def _named(names: list[str]) -> list[str]:
    return (
        ["Opened by an ordinary program it would import:", *_shortened([f"  {name}" for name in names])]
        if names
        else []
    )


def _tree(content: Any, depth: int = 0) -> list[str]:
    """Return names and kinds of the entries of a dict, two levels deep."""
    indent = "  " * (depth + 1)
    if not isinstance(content, Mapping):
        return [f"{indent}{_kind(content)}"]
    tensors = [value for value in content.values() if hasattr(value, "untyped_storage")]
    if len(tensors) > 4:
        total = sum(tensor.numel() for tensor in tensors)
        return [f"{indent}{plural(len(tensors), 'tensor')} of {total} values in all"]
    lines = []
    for name, value in list(content.items())[:MAX_LINES]:
        lines.append(f"{indent}{_kind(name) if not isinstance(name, str) else name[:MAX_WORDS]}: {_kind(value)}")
        if isinstance(value, Mapping) and depth < 2:
            lines += _tree(value, depth + 1)
    return lines


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray) or hasattr(value, "untyped_storage"):
        return f"{'array' if isinstance(value, np.ndarray) else 'tensor'} {tuple(value.shape)} {value.dtype}"
    if isinstance(value, Mapping | list | tuple) and len(value) > 4:
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > MAX_WORDS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | bytes | bytearray):
        return repr(value[:MAX_WORDS])
    if isinstance(value, list | tuple):
        # One level alone: values that contain each other could be told at any length.
        return f"{type(value).__name__} of {', '.join(_short(item) for item in value) or 'nothing'}"
    return type(value).__name__ if isinstance(value, Mapping) else repr(value)[:MAX_WORDS]


def _short(value: Any) -> str:
    return type(value).__name__ if isinstance(value, Mapping | list | tuple | set) else _kind(value)


def _shortened(lines: list[str]) -> list[str]:
    rest = len(lines) - MAX_LINES
    return lines if rest <= 0 else [*lines[:MAX_LINES], f"  and {rest} more"]


def _printable(line: str) -> str:
    """Return a line without characters that a terminal could act on."""
    return "".join(character if character.isprintable() else "?" for character in line)
