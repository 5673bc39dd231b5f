"""A reader of bundles that was written from documentation/sharing.md alone: it shares nothing with the program."""

import hashlib
import json
import lzma
import zlib


def read_bundle(path):
    """Return manifest and files of a bundle after checking seal, digests and the bytes of the archive."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(31)
        archive, seal = member.decompress(data), member.unused_data
        text = zlib.decompressobj(31).decompress(seal)
    elif data.startswith(b"\xfd7zXZ"):
        stream = lzma.LZMADecompressor()
        archive, seal = stream.decompress(data), stream.unused_data
        text = lzma.decompress(seal)
    else:
        archive, seal, text = data[:-512], data[-512:], data[-512:]
    digest = hashlib.sha256(data[: -len(seal)]).hexdigest()
    assert text == f"rectal_nnformer seal: sha256 of all bytes before is {digest}\n".encode().ljust(512, b"\0")
    size = int(archive[124:135], 8)
    manifest = json.loads(archive[512 : 512 + size])
    files, expected = {}, header("manifest.json", size) + padded(archive[512 : 512 + size])
    for name in sorted(manifest["files"]):
        entry, start = manifest["files"][name], len(expected) + 512
        files[name] = archive[start : start + entry["size"]]
        assert hashlib.sha256(files[name]).hexdigest() == entry["sha256"]
        expected += header(name, entry["size"]) + padded(files[name])
    assert archive == (expected + bytes(1024)).ljust(-(-(len(expected) + 1024) // 10240) * 10240, b"\0")
    stripped = {key: value for key, value in manifest.items() if key != "digest"}
    assert (
        hashlib.sha256(f"{json.dumps(stripped, indent=1, sort_keys=True)}\n".encode()).hexdigest() == manifest["digest"]
    )
    return manifest, files


def padded(data):
    return data + bytes(-len(data) % 512)


def header(path, size):
    prefix, name = "", path
    if len(path.encode()) > 100:
        cut = next(n for n, c in enumerate(path) if c == "/" and len(path[n + 1 :].encode()) <= 100)
        prefix, name = path[:cut], path[cut + 1 :]
    fields = [name.encode().ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % size]
    fields += [b"%011o\0" % 0, b" " * 8, b"0", bytes(100), b"ustar\x0000", bytes(64), b"0000000\0", b"0000000\0"]
    block = b"".join([*fields, prefix.encode().ljust(155, b"\0"), bytes(12)])
    return block.replace(b" " * 8, b"%06o\0 " % sum(block), 1)
