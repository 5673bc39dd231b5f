"""What is in a file from elsewhere, told without executing anything of it."""

import gzip
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.bundle import MANIFEST, BundleReader
from rectal_nnformer.sharing.compression import XZ_MAGIC
from rectal_nnformer.sharing.content_words import describe_content, listed
from rectal_nnformer.sharing.data_pickle import MAX_BYTES as MAX_PICKLE_BYTES
from rectal_nnformer.sharing.data_pickle import UnsafePickle, names_in_pickle, parse
from rectal_nnformer.sharing.frames import UnexpectedFrame, check_frame
from rectal_nnformer.sharing.zips import checked_entries
from rectal_nnformer.utils.text import file_size, plural

MAX_LINES = 40
MAX_LINES_IN_ALL = 200
MAX_CHARACTERS = 1000
"""Of one line."""
SHOWN = {
    "model": "model",
    "num_cases": "cases",
    "plans": "plans",
    "folds": "folds",
    "ground_truth": "ground truth",
    "pseudonymized": "pseudonymised",
    "software": "software",
}
"""What is shown of a manifest beside dataset and digest, and what it is called."""
TOLD_OTHERWISE = ("dataset", "files", "digest", "format", "version", "kind", "removed")
FIRST = ("rectal_nnformer", "nnunetv2", "torch", "trainer", "plans")
"""Entries of software and model that come first."""


def inspect_file(path: str | Path) -> str:
    """Return in a few lines what a bundle, model zip, checkpoint, pretrained file, array or pickle holds.

    Nothing of the file is executed. A bundle is read to its end, and every byte of it verified.

    Raises:
        RectalError: There is no such file, or a bundle or zip is damaged or not safe to unpack.
    """
    path = Path(path)
    if not path.is_file():
        raise RectalError(f"There is no file {path}.")
    lines = [f"{path}: {file_size(path.stat().st_size)}", *_describe(path)]
    return "\n".join(_printable(line) for line in _shortened(lines, MAX_LINES_IN_ALL))


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
    return [
        f"{_kind_of_bundle(manifest)}, format version {manifest['version']}: every byte is as it was written",
        f"digest {manifest['digest']}: compare it with what the sender reads, for instance by telephone",
        *_describe_manifest(manifest),
        *_describe_files(manifest["files"]),
    ]


def _kind_of_bundle(manifest: Mapping[str, Any]) -> str:
    kind = manifest.get("kind")
    if kind in ("dataset", "model"):
        return f"a bundle of a {kind}"
    return f"a bundle of a kind that this version does not know ({listed([kind])})"


def _describe_manifest(manifest: Mapping[str, Any]) -> list[str]:
    """Return what a manifest tells, in words; what is absent is not mentioned."""
    dataset = manifest.get("dataset")
    lines = [f"dataset: {listed([dataset.get('name')])}"] if isinstance(dataset, dict) else []
    shown = {name: manifest.get(key) for key, name in SHOWN.items()}
    if "folds" in manifest and manifest["folds"] is None:
        shown["folds"] = "all"
    elif manifest.get("kind") == "model":
        parts = sorted({path.partition("/")[0] for path in manifest["files"]})
        shown["folds"] = [part.removeprefix("fold_") for part in parts if part.startswith("fold_")]
    lines += [f"{name}: {_value(value)}" for name, value in shown.items() if value is not None]
    lines += _describe_removed(manifest.get("removed"))
    unknown = sorted(manifest.keys() - {*SHOWN, *TOLD_OTHERWISE})
    # In quotes: other keys could pretend to be this program's words.
    return lines + ([f"not known to this version: {listed(map(repr, unknown))}"] if unknown else [])


def _describe_removed(removed: Any) -> list[str]:
    """Return what a manifest tells of what was left out: words alone, or words with how often."""
    if not isinstance(removed, dict | list) or not removed:
        return []
    counts = removed if isinstance(removed, dict) else dict.fromkeys(map(_value, removed), 1)
    told = [f"  {_value(what)}{'' if count == 1 else f' ({_value(count)} times)'}" for what, count in counts.items()]
    return ["left out by the sender:", *_shortened(told, MAX_LINES)]


def _value(value: Any) -> str:
    """Return a value of a manifest in words."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
        return listed(f"{name} {listed([value[name]])}" for name in names)
    return listed(value if isinstance(value, list) else [value])


def _describe_files(files: Mapping[str, Any]) -> list[str]:
    """Return number and size of the files, by folder."""
    sizes: dict[str, list[int]] = {}
    for name, entry in files.items():
        sizes.setdefault(name.rpartition("/")[0] or name, []).append(entry["size"])
    told = [
        f"  {name}: {file_size(sum(found))}" + (f" in {plural(len(found), 'file')}" if name not in files else "")
        for name, found in sorted(sizes.items())
    ]
    total = sum(entry["size"] for entry in files.values())
    return [f"{plural(len(files), 'file')}, {file_size(total)} in all:", *_shortened(told, MAX_LINES)]


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
    lines += _shortened([f"  {entry.filename}: {file_size(entry.file_size)}" for entry in entries], MAX_LINES)
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
    known = next((file.name for file in PRETRAINED_FILES if file.md5 == md5), "none of the published files known here")
    lines = [f"a PyTorch file, MD5 {md5}: {known}"]
    try:
        content = read_checkpoint(path)
    except RectalError as error:
        return [*lines, f"NOT SAFE or not readable: {error}", *_named(_names_in_checkpoint(path))]
    return lines + describe_content(content)


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
    size = " x ".join(map(str, frame.shape))
    return [f"a preprocessed array of nnU-Net: {size} ({frame.dtype}), nothing else in the file"]


def _describe_pickle(path: Path) -> list[str]:
    if path.stat().st_size > MAX_PICKLE_BYTES:
        return [f"perhaps a pickle, larger than the {file_size(MAX_PICKLE_BYTES)} that are read"]
    data = path.read_bytes()
    try:
        content = parse(data)
    except UnsafePickle as error:
        return [f"a pickle that was not opened: {error}", *_named(names_in_pickle(data))]
    return ["a pickle of plain data and numpy arrays, nothing that could run", *describe_content(content)]


def _named(names: list[str]) -> list[str]:
    return (
        ["Opened by an ordinary program it would import:", *_shortened([f"  {name}" for name in names], MAX_LINES)]
        if names
        else []
    )


def _shortened(lines: list[str], most: int) -> list[str]:
    rest = len(lines) - most
    return lines if rest <= 0 else [*lines[:most], f"  and {rest} more"]


def _printable(line: str) -> str:
    """Return a line that ends, without characters that a terminal could act on."""
    shown = line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}..."
    return "".join(character if character.isprintable() else "?" for character in shown)
