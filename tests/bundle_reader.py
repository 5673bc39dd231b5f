"""A reader of bundles that follows documentation/reference/bundle.md and shares nothing with the program."""

import hashlib
import json
import struct
import zipfile

import numpy as np

TYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def read_bundle(path):
    """Return manifest, JSON files and arrays of a bundle after checking their digests."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["files"].keys() == files.keys()
    for name, content in files.items():
        assert manifest["files"][name] == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    texts = {name: json.loads(content) for name, content in files.items() if name.endswith(".json")}
    arrays = {name: safetensors(content) for name, content in files.items() if name.endswith(".safetensors")}
    assert len(texts) + len(arrays) == len(files)
    return manifest, texts, arrays


def safetensors(content):
    """Return the arrays of a safetensors file by name."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], TYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }
