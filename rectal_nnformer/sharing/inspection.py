"""What is in a file from elsewhere, told without executing anything of it."""

import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.bundle import MANIFEST, BundleReader, Manifest, checked_entries, digest_line, open_zip
from rectal_nnformer.sharing.pickles import ALLOWED, names_in_pickle
from rectal_nnformer.sharing.pickles import MAX_BYTES as MAX_PICKLE_BYTES
from rectal_nnformer.utils.text import file_size, plural

MAX_LINES = 40
MAX_LINES_IN_ALL = 200
MAX_CHARACTERS = 160
"""Of a value or of a name."""
BLOSC2_FRAME = b"\x9e\xa8b2frame\0"


def inspect_file(path: str | Path) -> str:
    """Return in a few lines what a bundle, model zip, checkpoint, pretrained file, array or pickle holds.

    Nothing of the file is executed. A bundle is read to its end, and every file in it verified.

    Raises:
        RectalError: There is no such file, or a bundle or zip is damaged or not safe to unpack.
    """
    path = Path(path)
    if not path.is_file():
        raise RectalError(f"There is no file {path}.")
    lines = [f"{path}: {file_size(path.stat().st_size)}", *_describe(path)]
    printable = ("".join(c if c.isprintable() else "?" for c in line[:1000]) for line in lines)
    return "\n".join(_shortened(printable, MAX_LINES_IN_ALL))


def _describe(path: Path) -> list[str]:
    with path.open("rb") as file:
        start = file.read(4096)
    if start.lstrip().startswith(b"<"):
        return ["a web page, most likely of a download that failed"]
    if start.startswith(b"PK"):
        return _describe_zip(path)
    if start[2 : 2 + len(BLOSC2_FRAME)] == BLOSC2_FRAME or start.startswith(BLOSC2_FRAME):
        return [_describe_array(start)]
    if start[:1] == b"\x80" and path.suffix in (".pt", ".pth", ".ckpt"):
        return _describe_checkpoint(path)
    if start[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        return _describe_pickle(path)
    return ["no bundle, model zip, checkpoint, array or pickle; nothing more is known of it"]


def _describe_zip(path: Path) -> list[str]:
    with open_zip(path) as archive:
        names = archive.namelist()
        # PyTorch reads its files by other paths than unpacking.
        if any(name.rpartition("/")[2] == "data.pkl" for name in names):
            return _describe_checkpoint(path)
        if MANIFEST in names:
            return _describe_bundle(path)
        entries = checked_entries(path, archive)
    lines = [f"a zip file of {plural(len(entries), 'file')}, none of them a link or outside of the folder:"]
    lines += _shortened([f"  {entry.filename}: {file_size(entry.file_size)}" for entry in entries])
    if any(entry.filename.endswith(".pth") for entry in entries):
        lines.append("It looks like a model of nnU-Net. 'rectal_nnformer import_model' reads it executing nothing.")
    return lines


def _describe_bundle(path: Path) -> list[str]:
    with BundleReader(path) as bundle:
        bundle.verify()
        manifest = bundle.manifest
    sizes: dict[str, list[int]] = {}
    for name, entry in manifest.files.items():
        sizes.setdefault(name.rpartition("/")[0] or name, []).append(entry.size)
    files = [f"  {name}: {file_size(sum(found))} in {plural(len(found), 'file')}" for name, found in sizes.items()]
    removed = [f"  {what}" + (f" ({count} times)" if count > 1 else "") for what, count in manifest.removed.items()]
    return [
        f"a bundle of a {manifest.kind}, format version {manifest.version}: every file is as it was written",
        f"{digest_line(path)}: compare it with what the sender reads, for instance by telephone",
        *_describe_manifest(manifest),
        *(["left out by the sender:", *_shortened(removed)] if removed else []),
        f"{plural(len(manifest.files), 'file')}, {file_size(sum(map(sum, sizes.values())))} in all:",
        *_shortened(files),
    ]


def _describe_manifest(manifest: Manifest) -> list[str]:
    """Return what a manifest tells, in words; what is absent is not mentioned."""
    folds: Iterable[Any] = manifest.folds or ["all"]
    if manifest.kind == "model":
        folds = sorted({name.partition("/")[0].removeprefix("fold_") for name in manifest.files if "/" in name})
    shown = {
        "dataset": manifest.dataset,
        "model": manifest.model and "trainer {}, plans {}, configuration {}".format(*manifest.model.split("__")),
        "cases": manifest.num_cases,
        "plans": manifest.plans and ", ".join(manifest.plans),
        "folds": ", ".join(map(str, folds)),
        "ground truth": manifest.ground_truth,
        "pseudonymised": manifest.pseudonymized,
        "software": ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
    }
    words = {True: "yes", False: "no"}
    return [
        f"{name}: {words[value] if isinstance(value, bool) else value}"
        for name, value in shown.items()
        if value is not None
    ]


def _describe_checkpoint(path: Path) -> list[str]:
    # Here, since PyTorch takes long to load and nothing else in this module needs it.
    from rectal_nnformer.networks.checkpoint_file import read_checkpoint
    from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, md5_of

    md5 = md5_of(path)
    known = next((file.name for file in PRETRAINED_FILES if file.md5 == md5), "none of the published files known here")
    lines = [f"a PyTorch file, MD5 {md5}: {known}"]
    try:
        return lines + _describe_content(read_checkpoint(path))
    except RectalError as error:
        return [*lines, f"NOT SAFE or not readable: {error}", *_imports(_names_in_checkpoint(path))]


def _names_in_checkpoint(path: Path) -> list[str]:
    """Return what the pickle in a PyTorch file names."""
    if not zipfile.is_zipfile(path):
        return names_in_pickle(path.read_bytes()) if path.stat().st_size <= MAX_PICKLE_BYTES else []
    with zipfile.ZipFile(path) as archive:
        pickled = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
        small = bool(pickled) and pickled[0].file_size <= min(MAX_PICKLE_BYTES, path.stat().st_size)
        return names_in_pickle(archive.read(pickled[0])) if small else []


def _describe_content(content: Any, depth: int = 1) -> list[str]:
    """Return names and kinds of the entries of a checkpoint, three levels deep."""
    indent = "  " * depth
    if not isinstance(content, Mapping):
        return [indent + _in_words(content)]
    tensors = [value for value in content.values() if hasattr(value, "untyped_storage")]
    if len(tensors) > 4:
        return [f"{indent}{plural(len(tensors), 'tensor')} of {sum(t.numel() for t in tensors)} values in all"]
    lines = []
    for name, value in list(content.items())[:MAX_LINES]:
        lines.append(f"{indent}{str(name)[:MAX_CHARACTERS]}: {_in_words(value)}")
        if isinstance(value, Mapping) and depth < 3:
            lines += _describe_content(value, depth + 1)
    return lines if len(content) <= MAX_LINES else [*lines, f"{indent}and {len(content) - MAX_LINES} more"]


def _in_words(value: Any) -> str:
    """Return a value in few words: numbers and texts as they are, others by kind and size."""
    if hasattr(value, "untyped_storage"):
        return f"tensor of {' x '.join(map(str, value.shape)) or 'one number'} ({value.dtype})"
    if isinstance(value, Mapping):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    if isinstance(value, list | tuple):
        plain = len(value) <= 4 and all(isinstance(item, str | float) or type(item) is int for item in value)
        return ", ".join(map(_in_words, value)) if plain else plural(len(value), "value")
    words = {None: "nothing", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, int) and value.bit_length() > MAX_CHARACTERS:
        return f"a number of {value.bit_length()} bits"
    return str(value)[:MAX_CHARACTERS] if isinstance(value, int | float | str) else type(value).__name__


def _describe_array(start: bytes) -> str:
    """Return the shape in the header of a Blosc2 file; nothing is decompressed."""
    at = start.find(b"b2nd", 80) + 17
    if at < 80 or len(start) < at + 40:
        return "a Blosc2 file that is no array of nnU-Net's"
    shape = struct.unpack(">xqxqxqxq", start[at + 4 : at + 40])
    return f"a preprocessed array of nnU-Net, by its header: {' x '.join(map(str, shape))}. Import bundles, not arrays."


def _describe_pickle(path: Path) -> list[str]:
    if path.stat().st_size > MAX_PICKLE_BYTES:
        return [f"perhaps a pickle, larger than the {file_size(MAX_PICKLE_BYTES)} that are looked at"]
    foreign = [name for name in names_in_pickle(path.read_bytes()) if name not in ALLOWED]
    told = "NOT SAFE: it names functions" if foreign else "it names nothing but numpy's arrays and numbers"
    return [f"a pickle, which was not opened; {told}", *_imports(foreign)]


def _imports(names: list[str]) -> list[str]:
    told = _shortened([f"  {name}" for name in names])
    return ["Opened by an ordinary program it would import:", *told] if names else []


def _shortened(lines: Iterable[str], most: int = MAX_LINES) -> list[str]:
    given = list(lines)
    return given if len(given) <= most else [*given[:most], f"  and {len(given) - most} more"]
