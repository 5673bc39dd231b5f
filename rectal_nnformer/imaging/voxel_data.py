"""Where the voxels of a NRRD or MetaImage file lie by its header, and whether all of them are there.

ITK trusts such a header: it waits for a pipe that the header names, takes memory for whatever size it claims, and reads
compressed data that are damaged as if they were whole.

Sources: https://teem.sourceforge.net/nrrd/format.html and https://docs.itk.org/en/latest/learn/metaio.html
"""

import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import kind_of

METAIMAGE_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
MOST_HEADER_BYTES = 1 << 20
MOST_RATIO = 1100
"""How much smaller compressed data can be than what they unpack to; zlib reaches 1032."""
MOST_FILES = 10_000
CHUNK = 1 << 22
RAW, GZIP, ZLIB, TEXT, HEX = "raw", "gzip", "zlib", "text", "hex"
NRRD_ENCODINGS = {"raw": RAW, "gzip": GZIP, "gz": GZIP, "ascii": TEXT, "text": TEXT, "txt": TEXT, "hex": HEX}
GZIP_OR_ZLIB = 47
"""Lets zlib tell by their start whether data are of zlib or gzip, as ITK does."""


@dataclass(frozen=True)
class VoxelData:
    """What a header says of the voxels.

    Attributes:
        files: In which they are, the file of the header or others.
        encoding: How they are stored.
        begin: The byte of each file at which they begin.
        exact: Whether nothing but voxels comes from there on.
        packed_bytes: How many bytes compressed data have; 0 where that is not said.
        tells_spacing: Whether the header tells the spacing, which is 1 mm for ITK else.
    """

    files: tuple[Path, ...]
    encoding: str
    begin: int = 0
    exact: bool = True
    packed_bytes: int = 0
    tells_spacing: bool = True


def locate_voxels(path: Path) -> VoxelData:
    """Return what the header of a NRRD or MetaImage file says of its voxels.

    Raises:
        RectalError: It is no such header, or names for its voxels what is no file in its own folder.
    """
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MOST_HEADER_BYTES))
    try:
        data = (_read_metaimage if path.name.lower().endswith(METAIMAGE_SUFFIXES) else _read_nrrd)(path, head)
    except ValueError as error:
        raise RectalError(f"{path} cannot be read (its header is wrong: {error}); export it again") from None
    for other in data.files:
        wrong = f"{path} cannot be read (its voxels should be in {other}, "
        if kind := kind_of(other):
            raise RectalError(f"{wrong}which is {kind}); restore that file")
        if other != path and not other.resolve().is_relative_to(path.parent.resolve()):
            raise RectalError(f"{wrong}outside of its folder); put that file beside it")
    return data


def check_voxels(path: Path, data: VoxelData, num_bytes: int, num_values: int) -> None:
    """Refuse files that do not hold as many voxels as their header claims, or hold them damaged.

    Compressed data are unpacked for it, piece by piece, and their checksums compared.

    Args:
        path: The file of the header.
        data: What it says of the voxels.
        num_bytes: How many all voxels take in memory.
        num_values: How many numbers they are.

    Raises:
        RectalError: Says what is wrong.
    """
    stored = sum(file.stat().st_size - data.begin for file in data.files)
    unit, wanted = ("numbers", num_values) if data.encoding == TEXT else ("bytes", num_bytes)
    if wanted > stored * (MOST_RATIO if data.encoding in (GZIP, ZLIB) else 1):
        raise RectalError(f"{path} ends early ({stored} bytes for {wanted} {unit} of voxels); copy it again")
    if data.encoding in (RAW, HEX):
        found = stored
    else:
        found = 0
        try:
            for count in _counts(data, wanted):
                found += count
        except (EOFError, OSError, zlib.error) as error:
            raise RectalError(f"{path} cannot be read ({error}); copy it again") from None
    if found < wanted:
        raise RectalError(f"{path} ends early ({found} of {wanted} {unit} of voxels); copy it again")
    if found > wanted and data.exact:
        raise RectalError(f"{path} holds more than the {wanted} {unit} of voxels of its header; export it again")


def _counts(data: VoxelData, most: int) -> Iterator[int]:
    """Yield how many bytes, or numbers of text, come in each piece of the data, until there are more than `most`."""
    total = 0
    for name in data.files:
        with name.open("rb") as file:
            file.seek(data.begin)
            for piece in _PIECES[data.encoding](file, data.packed_bytes):
                count = len(piece.split()) if data.encoding == TEXT else len(piece)
                yield count
                total += count
                if total > most and data.exact:
                    return


def _text(file: BinaryIO, packed_bytes: int) -> Iterator[bytes]:
    yield from file


def _gunzipped(file: BinaryIO, packed_bytes: int) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while piece := unpacked.read(CHUNK):
            yield piece


def _inflated(file: BinaryIO, packed_bytes: int) -> Iterator[bytes]:
    """Yield what a stream unpacks to that must end within so many bytes, as ITK looks at no more of them."""
    begin, unpack = file.tell(), zlib.decompressobj(GZIP_OR_ZLIB)
    while not unpack.eof:
        packed = unpack.unconsumed_tail or file.read(CHUNK)
        if not packed:
            raise EOFError("its compressed data end early")
        yield unpack.decompress(packed, CHUNK)
    if packed_bytes and file.tell() - len(unpack.unused_data) - begin > packed_bytes:
        raise EOFError(f"its compressed data have more than the {packed_bytes} bytes of its header")


_PIECES = {TEXT: _text, GZIP: _gunzipped, ZLIB: _inflated}


def _read_metaimage(path: Path, head: io.BytesIO) -> VoxelData:
    """Return what the header of a MetaImage says; raise ValueError on one that cannot be right."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = _line(head)
        if not line:
            raise ValueError("no ElementDataFile")
        name, _, value = line.partition("=")
        fields[name.strip()] = value.strip()
    place, skipped = fields["ElementDataFile"], int(fields.get("HeaderSize", 0))
    inside = place.upper() == "LOCAL"
    encoding = RAW
    if not _is_true(fields.get("BinaryData", "True")):
        encoding = TEXT
    elif _is_true(fields.get("CompressedData", "False")):
        encoding = ZLIB
    return VoxelData(
        (path,) if inside else _named_files(path, place, head),
        encoding,
        begin=max(skipped, 0) or (head.tell() if inside else 0),
        exact=skipped >= 0,
        packed_bytes=int(fields.get("CompressedDataSize", 0)),
        tells_spacing="ElementSpacing" in fields or "ElementSize" in fields,
    )


def _is_true(value: str) -> bool:
    return value[:1] in ("T", "t", "1")


def _read_nrrd(path: Path, head: io.BytesIO) -> VoxelData:
    """Return what the header of a NRRD file says; raise ValueError on one that cannot be right."""
    if not _line(head).startswith("NRRD"):
        raise ValueError("no NRRD")
    fields: dict[str, str] = {}
    while not fields.get("datafile", "").startswith("LIST") and (line := _line(head).rstrip("\r\n")):
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields[name.lower().replace(" ", "")] = value.strip()
    if (encoding := fields.get("encoding", "").lower()) not in NRRD_ENCODINGS:
        raise ValueError(f"the encoding {encoding!r}")
    place, skipped = fields.get("datafile"), int(fields.get("byteskip", 0))
    files = _named_files(path, place, head) if place else (path,)
    compressed = NRRD_ENCODINGS[encoding] == GZIP  # then bytes are skipped of what it unpacks to
    return VoxelData(
        files,
        NRRD_ENCODINGS[encoding],
        begin=_after_lines(files[0], 0 if place else head.tell(), int(fields.get("lineskip", 0)))
        + (0 if compressed else max(skipped, 0)),
        exact=skipped == 0 or (skipped > 0 and not compressed),
        tells_spacing="nan" not in fields.get("spacings", "nan").lower()
        or "none" not in fields.get("spacedirections", "none").lower(),
    )


def _after_lines(path: Path, begin: int, lines: int) -> int:
    """Return at which byte of a file so many lines end."""
    if lines <= 0 or kind_of(path):
        return begin
    with path.open("rb") as file:
        file.seek(begin)
        return begin + sum(len(line) for line in itertools.islice(file, lines))


def _line(head: io.BytesIO) -> str:
    return head.readline().decode("utf-8", "surrogateescape")  # names of files need not be in UTF-8


def _named_files(path: Path, place: str, head: io.BytesIO) -> tuple[Path, ...]:
    """Return the files that a header names: one, a list of them that follows, or as in 'slice%03d.raw 1 20 1'."""
    numbered = re.fullmatch(r"(.*)%(0?)(\d?)d(\S*) +(\d{1,9}) +(\d{1,9}) +(\d{1,9})( +\d)?", place)
    if place.startswith("LIST"):
        names = [name for line in iter(lambda: _line(head), "") if (name := line.strip())]
    elif numbered:
        before, zeros, width, after, first, last, step, _ = numbered.groups()
        numbers = range(int(first), int(last) + 1, int(step))[: MOST_FILES + 1]
        names = [f"{before}{format(number, f'{zeros}{width}d')}{after}" for number in numbers]
    else:
        names = [place]
    if not names or len(names) > MOST_FILES:
        raise ValueError(f"it names {len(names)} files")
    return tuple(path.parent / name for name in names)
