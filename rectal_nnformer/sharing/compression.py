"""The byte stream of a bundle: a tar, plain or compressed, and after it a seal over every byte of the file before it.

Decompressing ignores some bits (a gzip header's fields, unused bits at the end of a deflate stream, equivalent ways to
write an LZMA2 chunk), so that checksums of the content cannot find every change of a file. The seal can: it is one tar
block of text with the SHA-256 of all bytes before it, stored in a second gzip member or xz stream whose every byte
follows from the digest, or after the end of a plain tar. Programs that read the tar alone never see it.
"""

import gzip
import hashlib
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from rectal_nnformer.errors import RectalError

BLOCK = 512
CHUNK = 1 << 20
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
XZ_MAGIC = b"\xfd7zXZ\x00"
XZ_MEMORY_LIMIT = 256 << 20
"""Bytes that decompressing xz may take; the highest preset needs 65 MiB."""
DAMAGED = "it is damaged or was changed, or does not end where it should; have it sent again"


_Reader = TypeVar("_Reader")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Store:
    """A compressor that changes nothing."""

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class GzipMember:
    """Compresses to one gzip member whose header tells no name, time or operating system."""

    def __init__(self, level: int) -> None:
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc, self._size, self._head = 0, 0, GZIP_HEADER

    def compress(self, data: bytes) -> bytes:
        """Return what can be written after more data."""
        head, self._head = self._head, b""
        self._crc, self._size = zlib.crc32(data, self._crc), self._size + len(data)
        return head + self._deflate.compress(data)

    def flush(self) -> bytes:
        """Return the end of the member."""
        return self._head + self._deflate.flush() + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)


class GzipMemberReader:
    """Reads a file that is one gzip member and nothing else; Python's own reader goes on to what follows a member.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def __enter__(self: _Reader) -> _Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end alone.

        Raises:
            EOFError: The file ends before its member does.
            gzip.BadGzipFile: It goes on behind it.
            zlib.error: It is damaged.
        """
        parts = []
        while size and (data := _inflated(self._inflate, self._file.read, min(size, CHUNK))):
            parts.append(data)
            size -= len(data)
        if self._inflate.eof and (self._inflate.unused_data or self._file.read(1)):
            raise gzip.BadGzipFile("more follows its end")
        return b"".join(parts)


class SealedWriter:
    """Writes a stream in the compression that a file name asks for, then its seal.

    Args:
        file: Where to write.
        name: `.tar.gz`, `.tgz` and `.gz` compress with gzip, `.tar.xz`, `.txz` and `.xz` with xz, all others not.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._kind = "gz" if name.lower().endswith((".gz", ".tgz")) else "tar"
        self._kind = "xz" if name.lower().endswith((".xz", ".txz")) else self._kind
        self._compressor: _Compressor = _Store()
        if self._kind == "gz":
            # Nearly all of a bundle is compressed data already; higher levels take longer and gain nothing.
            self._compressor = GzipMember(1)
        elif self._kind == "xz":
            self._compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, lzma.CHECK_CRC64, preset=1)

    def write(self, data: bytes) -> None:
        """Write bytes of the stream."""
        self._write(self._compressor.compress(data))

    def finish(self) -> None:
        """End the stream and write the seal; nothing can be written afterwards."""
        self._write(self._compressor.flush())
        self._file.write(seal(self._kind, self._digest.hexdigest()))

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


class SealedReader:
    """Reads a stream that `SealedWriter` wrote, in bounded memory whatever the file holds.

    Args:
        path: The file; gzip and xz are told by the first bytes.

    Raises:
        RectalError: The file is none of ours, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        start = self._file.read(len(GZIP_HEADER))
        self.kind = "gz" if start[:2] == GZIP_HEADER[:2] else "xz" if start[:6] == XZ_MAGIC else "tar"
        _check_start(path, start)
        self._left = path.stat().st_size - len(seal(self.kind, "0" * 64))
        if self._left < BLOCK // 8:
            self._file.close()
            raise RectalError(f"{path} cannot be read: it is too short to be a bundle; have it sent again.")
        self._digest, self._crc, self._size, self._pending = hashlib.sha256(), 0, 0, b""
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._lzma = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_LIMIT)
        self._file.seek(0)
        if self.kind == "gz" and self._raw(len(GZIP_HEADER)) != GZIP_HEADER:
            raise self.damaged()

    def __enter__(self: _Reader) -> _Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def damaged(self, where: str = "") -> RectalError:
        """Return the error that says that the file is not as it was written."""
        return RectalError(f"{self.path} cannot be read{where}: {DAMAGED}.")

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes of the stream.

        Raises:
            RectalError: The stream ends before or is damaged.
        """
        parts = []
        while size:
            part = self._decompressed(min(size, CHUNK))
            if not part:
                raise self.damaged()
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Make sure that the stream ends here and that the seal is right.

        Raises:
            RectalError: It does not, or the file was changed.
        """
        if self._decompressed(1):
            raise self.damaged(" (more follows its end)")
        if self.kind == "gz":
            rest = self._inflate.unused_data + self._raw(8)
            if rest != struct.pack("<II", self._crc, self._size & 0xFFFFFFFF):
                raise self.damaged()
        if self._left or (self.kind == "xz" and self._lzma.unused_data):
            raise self.damaged(" (more follows its end)")
        if self._file.read() != seal(self.kind, self._digest.hexdigest()):
            raise self.damaged(" (its seal is wrong)")

    def _raw(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        self._digest.update(data)
        return data

    def _decompressed(self, size: int) -> bytes:
        """Return 1 to `size` bytes of the stream, none at its end."""
        if self.kind == "tar":
            return self._raw(size)
        try:
            data = self._from_gzip(size) if self.kind == "gz" else self._from_xz(size)
        except (EOFError, zlib.error, lzma.LZMAError):
            raise self.damaged() from None
        return data

    def _from_gzip(self, size: int) -> bytes:
        data = _inflated(self._inflate, self._raw, size)
        self._crc, self._size = zlib.crc32(data, self._crc), self._size + len(data)
        return data

    def _from_xz(self, size: int) -> bytes:
        data = b""
        while not data and not self._lzma.eof:
            chunk = self._raw(CHUNK) if self._lzma.needs_input else b""
            if self._lzma.needs_input and not chunk:
                raise EOFError("it ends early")
            data = self._lzma.decompress(chunk, size)
        return data


def _inflated(inflate: "zlib._Decompress", raw: Callable[[int], bytes], size: int) -> bytes:
    """Return 1 to `size` bytes of a deflate stream, none at its end; `raw` gives the compressed bytes.

    Raises:
        EOFError: `raw` gives no more before the stream ends.
        zlib.error: The stream is damaged.
    """
    data = b""
    while not data and not inflate.eof:
        chunk = inflate.unconsumed_tail or raw(CHUNK)
        data = inflate.decompress(chunk, size)
        if not chunk and not data and not inflate.eof:
            raise EOFError("it ends early")
    return data


def seal(kind: str, digest: str) -> bytes:
    """Return the bytes that end a file: the digest's text, one tar block, as the compression stores it.

    Args:
        kind: "tar", "gz" or "xz".
        digest: SHA-256 in hexadecimal of all bytes before.
    """
    text = f"rectal_nnformer seal: sha256 of all bytes before is {digest}\n".encode().ljust(BLOCK, b"\0")
    return {"tar": text, "gz": _stored_gzip(text), "xz": _stored_xz(text)}[kind]


def _stored_gzip(data: bytes) -> bytes:
    """Return a gzip member (RFC 1952) that holds `data` in one stored block (RFC 1951)."""
    lengths = struct.pack("<HH", len(data), len(data) ^ 0xFFFF)
    return GZIP_HEADER + b"\x01" + lengths + data + struct.pack("<II", zlib.crc32(data), len(data))


def _stored_xz(data: bytes) -> bytes:
    """Return an xz stream (The .xz File Format 1.0.4) of one block with one uncompressed LZMA2 chunk.

    `data` has 256 to 16383 bytes, a multiple of 4, so that its length takes two bytes and nothing needs padding.
    """
    flags = b"\x00\x01"  # check: CRC32
    block_header = b"\x02\x00\x21\x01\x00\x00\x00\x00"  # LZMA2 with the smallest dictionary
    chunk = b"\x01" + struct.pack(">H", len(data) - 1) + data + b"\x00"
    unpadded = len(block_header) + 4 + len(chunk) + 4
    index = b"\x00\x01" + _varint(unpadded) + _varint(len(data))
    index += bytes(-len(index) % 4)
    footer = struct.pack("<I", (len(index) + 4) // 4 - 1) + flags
    parts = (XZ_MAGIC, _crc(flags, flags), _crc(block_header, block_header), chunk, _crc(data), _crc(index, index))
    return b"".join(parts) + _crc(footer) + footer + b"YZ"


def _crc(data: bytes, before: bytes = b"") -> bytes:
    return before + struct.pack("<I", zlib.crc32(data))


def _varint(number: int) -> bytes:
    return bytes((number & 0x7F | 0x80, number >> 7))


def _check_start(path: Path, start: bytes) -> None:
    if not start:
        raise RectalError(f"{path} is empty; have it sent again.")
    if start.lstrip().startswith(b"<"):
        raise RectalError(f"{path} is a web page, not a bundle: the download failed. Download it again.")
    if start.startswith(b"PK"):
        raise RectalError(f"{path} is a zip file, not a bundle. Look at it with 'rectal_nnformer inspect'.")
