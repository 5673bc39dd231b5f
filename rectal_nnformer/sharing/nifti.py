"""NIfTI files reduced to what an image is: grid, type and voxels; texts, extensions and unused fields become zero."""

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import NIFTI_SUFFIXES
from rectal_nnformer.sharing.compression import CHUNK, GZIP_HEADER, GzipMember, GzipMemberReader

MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class _Layout:
    """Where the fields of a version of the header are: bytes kept; dim, pixdim and vox_offset with their types."""

    size: int
    kept: tuple[tuple[int, int], ...]
    dim: tuple[int, str]
    pixdim: tuple[int, str]
    offset: tuple[int, str]
    bitpix: int


_LAYOUTS = {
    348: _Layout(
        348,
        # sizeof_hdr, datatype and bitpix, scl_slope and scl_inter, xyzt_units, qform to srow, magic
        ((0, 4), (70, 74), (112, 120), (123, 124), (252, 328), (344, 348)),
        (40, "8h"),
        (76, "8f"),
        (108, "f"),
        72,
    ),
    540: _Layout(
        540,
        ((0, 12), (12, 16), (176, 192), (344, 496), (500, 504)),
        (16, "8q"),
        (104, "8d"),
        (168, "q"),
        14,
    ),
}


def clean_nifti(source: Path, target: Path) -> bool:
    """Write an image file without anything but its image; return whether there was anything else in it.

    Args:
        source: `.nii` or `.nii.gz`.
        target: Of the same ending; gzip's own header tells neither name nor time.

    Raises:
        RectalError: It is no NIfTI file, or ends early.
    """
    with _opened(source, gzip.GzipFile) as file:
        header, clean, offset, num_bytes = _read_header(source, file)
        extra = file.read(offset - len(header))
        with _writing(target) as write:
            write(clean)
            for data in _voxels(source, file, num_bytes):
                write(data)
        trailing = file.read(1)
    return header + extra != clean or bool(trailing)


def check_nifti(path: Path) -> None:
    """Make sure that a file holds an image and nothing else, as `clean_nifti` writes it.

    Raises:
        RectalError: What is wrong.
    """
    with path.open("rb") as raw:
        start = raw.read(len(GZIP_HEADER))
    if path.name.endswith(".gz") and start != GZIP_HEADER:
        raise RectalError(f"{path.name} is no gzip file, or its header holds a name or time. {_AGAIN}")
    with _opened(path, GzipMemberReader) as file:
        header, clean, offset, num_bytes = _read_header(path, file)
        if header + file.read(offset - len(header)) != clean:
            raise RectalError(f"{path.name} has text or extensions in its header. {_AGAIN}")
        for _ in _voxels(path, file, num_bytes):
            pass
        if file.read(1):
            raise RectalError(f"{path.name} goes on behind its image. {_AGAIN}")


_AGAIN = "Ask its sender to export it with this program."


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def _opened(path: Path, open_gzip: Callable[[Path], AbstractContextManager[_Source]]) -> Iterator[_Source]:
    if not path.name.endswith(NIFTI_SUFFIXES):
        raise RectalError(
            f"{path} is no NIfTI file, and other formats can refer to other files. Convert the dataset to .nii.gz, or "
            "export --without-ground-truth."
        )
    try:
        if path.name.endswith(".gz"):
            with open_gzip(path) as unpacked:
                yield unpacked
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RectalError(f"{path} cannot be read ({error}).") from None


def _read_header(path: Path, file: _Source) -> tuple[bytes, bytes, int, int]:
    """Return the header, the same without other than image fields, where voxels begin, and their number of bytes."""
    start = file.read(4)
    for order in "<>":
        layout = _LAYOUTS.get(struct.unpack(f"{order}i", start)[0]) if len(start) == 4 else None
        if layout is not None:
            return _clean_header(path, start + file.read(layout.size - 4), layout, order)
    raise RectalError(f"{path} is no NIfTI file.")


def _clean_header(path: Path, header: bytes, layout: _Layout, order: str) -> tuple[bytes, bytes, int, int]:
    magic = header[344:348] if layout.size == 348 else header[4:8]
    if len(header) != layout.size or magic[:3] != (b"n+1" if layout.size == 348 else b"n+2"):
        raise RectalError(f"{path} is no NIfTI file with header and image in one.")
    clean = bytearray(layout.size + 4)
    for begin, end in layout.kept:
        clean[begin:end] = header[begin:end]
    dim, pixdim, (offset,), (bitpix,) = (
        struct.unpack_from(order + code, header, at)
        for at, code in (layout.dim, layout.pixdim, layout.offset, (layout.bitpix, "h"))
    )
    if not 1 <= dim[0] <= 7 or not all(0 < n < 1 << 16 for n in dim[1 : dim[0] + 1]) or bitpix not in (8, 16, 32, 64):
        raise RectalError(f"{path} has the impossible size {dim[1:]} with {bitpix} bits a voxel.")
    num_bytes = math.prod(dim[1 : dim[0] + 1]) * bitpix // 8
    if num_bytes > MAX_BYTES or not layout.size <= offset <= 1 << 24:
        raise RectalError(f"{path} claims an image of {num_bytes} bytes at byte {offset}, which no mask has.")
    unused = 7 - dim[0]
    struct.pack_into(order + layout.dim[1], clean, layout.dim[0], *dim[: dim[0] + 1], *([1] * unused))
    struct.pack_into(order + layout.pixdim[1], clean, layout.pixdim[0], *pixdim[: dim[0] + 1], *([1] * unused))
    struct.pack_into(order + layout.offset[1], clean, layout.offset[0], layout.size + 4)
    return header, bytes(clean), int(offset), num_bytes


def _voxels(path: Path, file: _Source, num_bytes: int) -> Iterator[bytes]:
    while num_bytes:
        data = file.read(min(num_bytes, CHUNK))
        if not data:
            raise RectalError(f"{path} ends before its image does.")
        num_bytes -= len(data)
        yield data


@contextmanager
def _writing(target: Path) -> Iterator[Callable[[bytes], object]]:
    with target.open("wb") as file:
        if not target.name.endswith(".gz"):
            yield file.write
            return
        member = GzipMember(6)
        yield lambda data: file.write(member.compress(data))
        file.write(member.flush())
