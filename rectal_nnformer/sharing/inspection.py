"""What is in a file from elsewhere, told without executing anything of it."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import FOLD_PREFIX
from rectal_nnformer.sharing.bundle import MANIFEST, BundleReader, Manifest, digest_line
from rectal_nnformer.utils.pickles import ALLOWED, MAX_PICKLE_BYTES, foreign_names, names_in_pickle
from rectal_nnformer.utils.text import MAX_LINES, file_size, plural
from rectal_nnformer.utils.zips import checked_entries, open_zip

MAX_LINES_IN_ALL = 200


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
    if start.startswith(b"\x9e\xa8b2frame\0"):
        # Read by hand, since `blosc2.open` of earlier releases opens sources and evaluates expressions that a file
        # names; nothing is decompressed.
        at = start.find(b"b2nd", 80) + 17
        if at < 80 or len(start) < at + 40:
            return ["a Blosc2 file that is no array of nnU-Net's"]
        shape = " x ".join(map(str, struct.unpack(">xqxqxqxq", start[at + 4 : at + 40])))
        return [f"a preprocessed array of nnU-Net, by its header: {shape}. Import bundles, not arrays."]
    if start[:1] == b"\x80" and path.suffix in (".pt", ".pth", ".ckpt"):
        return _describe_checkpoint(path)
    if start[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        if path.stat().st_size > MAX_PICKLE_BYTES:
            return [f"perhaps a pickle, larger than the {file_size(MAX_PICKLE_BYTES)} that are looked at"]
        foreign = [name for name in names_in_pickle(path.read_bytes()) if name not in ALLOWED]
        told = "NOT SAFE: it names functions" if foreign else "it names nothing but numpy's arrays and numbers"
        return [f"a pickle, which was not opened; {told}", *foreign_names(foreign)]
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
        folds = sorted({name.partition("/")[0].removeprefix(FOLD_PREFIX) for name in manifest.files if "/" in name})
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
    from rectal_nnformer.networks.checkpoint_description import describe_checkpoint

    return describe_checkpoint(path)


def _shortened(lines: Iterable[str], most: int = MAX_LINES) -> list[str]:
    given = list(lines)
    return given if len(given) <= most else [*given[:most], f"  and {len(given) - most} more"]
