"""Blosc2 files (.b2nd) from elsewhere: plain arrays as nnU-Net writes them, checked before anyone opens them.

`blosc2.open` looks for metadata that name expressions to evaluate, other files or addresses to read; compressed chunks
can name plug-ins to load; and neither metadata nor gaps between chunks need be visible to anyone. So a file is read
here without the library: its header must be exactly the one that its shape asks for, its chunks must follow each other
without a gap, compressed by the codecs of the library itself, and its trailer must be empty.
"""

import itertools
import math
import re
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import blosc2
import numpy as np

from rectal_nnformer.errors import RectalError

TRAILER = bytes.fromhex("940193cd0006de0000dc0000ce00000023d800") + bytes(16)
"""The end of a frame without variable-length metadata and without a fingerprint."""
FIXED = 87
MAX_CHUNK_BYTES = 64 << 20
MAX_VOXELS = 1 << 32
MAX_CHUNKS = 1 << 22
CODECS = (0, 1, 2, 4, 5)
"""BloscLZ, LZ4, LZ4HC, zlib and Zstandard."""
FILTERS = (0, 1, 2)
"""None, shuffle and bitshuffle."""
CHUNK_FORMATS = (0, 1, 3, 4)
"""As above in a chunk's own header, where LZ4 and LZ4HC are one; a plug-in is 6."""
DTYPE = re.compile(r"[<|][biuf][1248]")


class UnexpectedFrame(ValueError):
    """A file is no plain array; the message says why."""


@dataclass(frozen=True)
class Frame:
    """What a file holds.

    Attributes:
        shape: (channel, z, y, x).
        dtype: Type of the voxels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


def check_frame(path: Path) -> Frame:
    """Return what a file says it holds, after making sure that there is but a plain four-dimensional array in it.

    Raises:
        UnexpectedFrame: There is, or the file is damaged.
    """
    size = path.stat().st_size
    if size < FIXED + len(TRAILER):
        raise UnexpectedFrame("it is too short")
    if _is_zip(path):
        # blosc2 opens what a zip archive at the end of the file holds instead.
        raise UnexpectedFrame("it is a zip archive as well")
    try:
        with path.open("rb") as file:
            return _check(file, size)
    except (struct.error, ValueError, OverflowError, RuntimeError) as error:
        raise UnexpectedFrame(str(error) if isinstance(error, UnexpectedFrame) else "it is damaged") from None


def is_possible_shape(shape: Sequence[int]) -> bool:
    """Whether a volume can have this shape: no axis of 65,536 voxels, not more than `MAX_VOXELS` in all."""
    return all(0 < n < 1 << 16 for n in shape) and math.prod(shape) <= MAX_VOXELS


def rewrite_frame(source: Path, target: Path) -> None:
    """Write the array of one of our own files anew, without whatever else was in the file.

    Raises:
        RectalError: The file cannot be read.
    """
    try:
        array = blosc2.blosc2_ext.open(str(source), mode="r", offset=0)
        filters = [array.schunk.cparams.filters[-1]]
        cparams = {"codec": array.schunk.cparams.codec, "clevel": array.schunk.cparams.clevel, "filters": filters}
        blosc2.asarray(array[:], urlpath=str(target), chunks=array.chunks, blocks=array.blocks, cparams=cparams)
    except Exception as error:  # the library raises many kinds
        raise RectalError(f"{source} cannot be read ({error}). Preprocess the dataset again.") from None


def _check(file: BinaryIO, size: int) -> Frame:
    header = file.read(FIXED + 4096)
    length = struct.unpack(">i", header[11:15])[0]
    header = header[:length]
    _check_fixed(header, size)
    shape, chunks, blocks, dtype = _array_metadata(header)
    typesize, blocksize, chunksize = (struct.unpack(">i", header[i : i + 4])[0] for i in (48, 53, 58))
    counts = [-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True)]
    if typesize != dtype.itemsize or not 0 < chunksize <= MAX_CHUNK_BYTES or math.prod(counts) > MAX_CHUNKS:
        raise UnexpectedFrame("its chunks are of an impossible size")
    padded = [-(-chunk // block) * block for chunk, block in zip(chunks, blocks, strict=True)]
    if (math.prod(blocks) * typesize, math.prod(padded) * typesize) != (blocksize, chunksize):
        raise UnexpectedFrame("its chunks are not of the size that their shape needs")
    compressed = struct.unpack(">q", header[39:47])[0]
    if not 0 <= compressed <= size - length - len(TRAILER):
        raise UnexpectedFrame("it is damaged")
    offsets = _offsets(file, length + compressed, size, math.prod(counts))
    _check_chunks(file, length, compressed, offsets, (chunksize, blocksize))
    return Frame(shape, dtype)


def _check_fixed(header: bytes, size: int) -> None:
    """Check the part of the header that every frame has: marks, sizes, codec and filters, no other metadata."""
    marks = {0: b"\x9e\xa8b2frame\0\xd2", 15: b"\xcf", 24: b"\xa4", 29: b"\xd3", 38: b"\xd3", 47: b"\xd2", 52: b"\xd2"}
    marks |= {57: b"\xd2", 62: b"\xd1", 65: b"\xd1", 69: b"\xd8\x06"}
    if any(header[at : at + len(mark)] != mark for at, mark in marks.items()):
        raise UnexpectedFrame("it is no Blosc2 file, or damaged")
    if struct.unpack(">Q", header[16:24])[0] != size:
        raise UnexpectedFrame("it ends early, or more follows its end")
    if header[68] != 0xC2:
        raise UnexpectedFrame("it holds metadata beside the array")
    general, kind, codec, other = header[25:29]
    if general & 0xF0 != 0x10 or kind != 0 or other & 0xFC:
        raise UnexpectedFrame("it is a Blosc2 file of another kind")
    if codec & 0x0F not in CODECS or header[77] not in CODECS or any(f not in FILTERS for f in header[71:77]):
        raise UnexpectedFrame("it is compressed by a plug-in")
    if any(header[78:87]):
        raise UnexpectedFrame("its compression has parameters that nnU-Net does not set")


def _array_metadata(header: bytes) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], np.dtype]:
    """Return shape, chunks, blocks and type; the header must hold them and nothing else."""
    start = header.find(b"b2nd", FIXED) + 17
    shape = struct.unpack(">xqxqxqxq", header[start + 4 : start + 40])
    chunks = struct.unpack(">xixixixi", header[start + 41 : start + 61])
    blocks = struct.unpack(">xixixixi", header[start + 62 : start + 82])
    name = header[start + 88 :].decode("ascii")
    if not DTYPE.fullmatch(name):
        raise UnexpectedFrame(f"it holds {name[:20]!r}, not plain numbers")
    if header[FIXED:] != _metadata_bytes(shape, chunks, blocks, name):
        raise UnexpectedFrame("it holds metadata beside the array")
    if not all(0 < block <= chunk for block, chunk in zip(blocks, chunks, strict=True)):
        raise UnexpectedFrame("its chunks have an impossible shape")
    if not is_possible_shape(shape):
        raise UnexpectedFrame(f"its shape is {shape}, which no volume has")
    return shape, chunks, blocks, np.dtype(name)


def _metadata_bytes(shape: tuple[int, ...], chunks: tuple[int, ...], blocks: tuple[int, ...], dtype: str) -> bytes:
    """Return the part of the header that follows from the array: one metadata layer, as MessagePack."""
    name = dtype.encode()
    content = b"\x97\x00\x04\x94" + b"".join(b"\xd3" + struct.pack(">q", n) for n in shape)
    for sizes in (chunks, blocks):
        content += b"\x94" + b"".join(b"\xd2" + struct.pack(">i", n) for n in sizes)
    content += b"\x00\xdb" + struct.pack(">I", len(name)) + name
    index = b"\x93\xcd\x00\x11\xde\x00\x01\xa4b2nd\xd2" + struct.pack(">i", FIXED + 20)
    return index + b"\xdc\x00\x01\xc6" + struct.pack(">I", len(content)) + content


def _offsets(file: BinaryIO, start: int, size: int, count: int) -> list[int]:
    """Return where each chunk begins, from the table behind the chunks; the trailer must follow it."""
    file.seek(start)
    rest = file.read(min(size - start, 16 * MAX_CHUNKS))
    table = rest[: -len(TRAILER)]
    trailer = rest[-len(TRAILER) :]
    # The version of the trailer is the library's.
    if trailer[:1] + b"\x01" + trailer[2:] != TRAILER:
        raise UnexpectedFrame("it holds metadata behind the array")
    _check_chunk_header(table[:32], len(table), 8 * count)
    raw = blosc2.decompress2(table)
    if len(raw) != 8 * count:
        raise UnexpectedFrame("it is damaged")
    return list(struct.unpack(f"<{count}q", raw))


def _check_chunks(file: BinaryIO, start: int, compressed: int, offsets: list[int], sizes: tuple[int, int]) -> None:
    """Check that the chunks fill their part of the file, one after the other; those of zeros take no place."""
    stored = [offset for offset in offsets if offset >= 0]
    special = {offset & ~(0x7F << 56) for offset in offsets if offset < 0}
    if special - {-(1 << 63)}:
        raise UnexpectedFrame("it refers to chunks that are not there")
    if stored[:1] not in ([0], []) or (not stored and compressed):
        raise UnexpectedFrame("there is something before its chunks")
    for offset, end in itertools.pairwise([*stored, compressed] if stored else []):
        if end - offset < 32:
            raise UnexpectedFrame("its chunks overlap")
        file.seek(start + offset)
        header = file.read(32)
        _check_chunk_header(header, end - offset, sizes[0])
        if struct.unpack("<i", header[8:12])[0] != sizes[1]:
            raise UnexpectedFrame("a chunk has other blocks than its place needs")


def _check_chunk_header(header: bytes, compressed: int, uncompressed: int) -> None:
    version, _, flags, _, nbytes, _, cbytes = struct.unpack("<BBBBiii", header[:16])
    if version > 6 or flags & 5 != 5 or (nbytes, cbytes) != (uncompressed, compressed):
        raise UnexpectedFrame("a chunk is not of the size that its place needs")
    if flags >> 5 not in CHUNK_FORMATS or any(f not in FILTERS for f in header[16:22]) or header[22] not in CODECS:
        raise UnexpectedFrame("a chunk is compressed by a plug-in")
    if any(header[23:31]) or header[31] & 0x8F:
        raise UnexpectedFrame("a chunk has parameters that nnU-Net does not set")


def _is_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path):
            return True
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return False
