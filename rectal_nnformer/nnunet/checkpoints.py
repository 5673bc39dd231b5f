"""Whether a checkpoint of nnU-Net is whole, told without loading anything from it."""

import functools
import pickletools
import zipfile
import zlib
from pathlib import Path


def checkpoint_problem(path: Path, trainer: str | None = None) -> str:
    """Return what is wrong with a checkpoint, to follow its name in a sentence; empty if nothing is.

    Every byte is read and compared with the checksums that PyTorch writes. What was found is remembered for as long as
    the file does not change.

    Args:
        path: An existing file.
        trainer: Name of the trainer that must have written it; None takes any.
    """
    if not path.is_file():
        return "is no file"
    state = path.stat()
    return _problem(path, trainer, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _problem(path: Path, trainer: str | None, size: int, _modified: int) -> str:
    if not size:
        return "is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            if (total := unpacked_bytes(archive)) > size:
                return f"would unpack to {total} bytes, more than the {size} it has, as no file of PyTorch does"
            if archive.testzip() is not None:
                return "is damaged inside"
            (name,) = (entry for entry in archive.namelist() if entry.rpartition("/")[2] == "data.pkl")
            written_by = _trainer_name(archive.read(name))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError):
        return "is cut off or damaged"
    if trainer is not None and written_by != trainer:
        return f"is of {written_by or 'no trainer of nnU-Net'} and not of {trainer}"
    return ""


def unpacked_bytes(archive: zipfile.ZipFile) -> int:
    """Return to how many bytes a zip claims to unpack: no more than it has where PyTorch wrote it, uncompressed."""
    return sum(entry.file_size for entry in archive.infolist())


def _trainer_name(pickle: bytes) -> str:
    """Return the text that follows the key "trainer_name" in a pickle, of which nothing is executed."""
    texts = (argument for operation, argument, _ in pickletools.genops(pickle) if "UNICODE" in operation.name)
    for text in texts:
        if text == "trainer_name":
            return str(next(texts, ""))
    return ""
