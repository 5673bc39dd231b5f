"""The format of bundles: read by others, changed by nobody unnoticed, harmless whatever they claim."""

import gzip
import hashlib
import json
import lzma
import subprocess
import tarfile
import tracemalloc
from functools import partial

import pytest
from bundle_reader import read_bundle
from hypothesis import given
from hypothesis import strategies as st

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing import bundle as bundles
from rectal_nnformer.sharing.bundle import BundleReader, Member, check_paths, padding, tar_header, write_bundle
from rectal_nnformer.sharing.compression import SealedWriter, seal
from rectal_nnformer.sharing.inspection import inspect_file
from rectal_nnformer.sharing.strict_json import MAX_VALUES, canonical_json, load_json
from rectal_nnformer.utils.text import file_size

ENDINGS = ("tar", "tar.gz", "tar.xz")
CONTENTS = {
    "plans.json": b"{}",
    "data/one.b2nd": bytes(range(256)) * 3,
    "data/empty.pkl": b"",
    "data/block": b"x" * 512,
}


@pytest.fixture(params=ENDINGS)
def bundle(request, tmp_path):
    members = []
    for number, (name, content) in enumerate(CONTENTS.items()):
        (tmp_path / f"source_{number}").write_bytes(content)
        members.append(Member(name, tmp_path / f"source_{number}"))
    path = tmp_path / f"bundle.{request.param}"
    write_bundle(path, {"kind": "dataset"}, members)
    return path


def extract(path, folder):
    folder.mkdir()
    with BundleReader(path) as reader:
        reader.extract(folder)


def test_it_is_a_tar_that_others_read(bundle, tmp_path):
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
        contents = {member.name: archive.extractfile(member).read() for member in members}
    manifest = json.loads(contents.pop("manifest.json"))
    assert members[0].name == "manifest.json" and contents == CONTENTS
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in members} == {(0, 0, "", "", 0, 0o644)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == digests
    listed = subprocess.run(["tar", "tf", bundle], capture_output=True, encoding="utf-8", check=True)
    assert set(listed.stdout.split()) == {"manifest.json", *CONTENTS} and not listed.stderr
    packer = {".gz": "gzip", ".xz": "xz"}.get(bundle.suffix)
    assert packer is None or subprocess.run([packer, "-t", bundle], check=False).returncode == 0


def test_a_reader_written_from_the_documentation_reads_it(bundle):
    manifest, files = read_bundle(bundle)
    assert files == CONTENTS and manifest["format"] == "rectal_nnformer bundle" and manifest["version"] == 1


def test_it_is_extracted_as_it_was(bundle, tmp_path):
    extract(bundle, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in CONTENTS} == CONTENTS


def test_every_flipped_byte_is_found(bundle, monkeypatch):
    monkeypatch.setattr(bundles, "tqdm", partial(bundles.tqdm, disable=True))
    original = bundle.read_bytes()
    unnoticed = []
    for position in range(0, len(original), 1 if len(original) < 4000 else 7):
        changed = bytearray(original)
        changed[position] ^= (0x01, 0x80, 0xFF, 0x10)[position % 4]
        bundle.write_bytes(changed)
        try:
            with BundleReader(bundle) as reader:
                reader.verify()
            unnoticed.append(position)
        except RectalError:
            pass
    assert unnoticed == []


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b + b"\0", lambda b: b + b])
def test_shortened_and_lengthened_files_are_refused(bundle, change):
    bundle.write_bytes(change(bundle.read_bytes()))
    with pytest.raises(RectalError, match="cannot be read"), BundleReader(bundle) as reader:
        reader.verify()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>login</html>" * 100, "web page"),
        (b"", "empty"),
        (b"\0" * 100, "too short"),
        (b"PK\3\4" + bytes(5000), "zip"),
        (bytes(20_000), "no bundle"),
        (gzip.compress(b"something else" * 1000), "cannot be read|no bundle"),
        (lzma.compress(b"something else" * 1000), "cannot be read|no bundle"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RectalError, match=message):
        BundleReader(tmp_path / "file")


def forged(path, manifest, body=b""):
    """Write a bundle with any manifest and any bytes behind it, with the right digest and seal."""
    manifest = {"format": bundles.FORMAT, "version": 1, "kind": "dataset", "files": {}, **manifest}
    manifest["digest"] = hashlib.sha256(canonical_json(manifest)).hexdigest()
    text = canonical_json(manifest)
    with path.open("wb") as file:
        writer = SealedWriter(file, path.name)
        writer.write(tar_header("manifest.json", len(text)) + text + padding(len(text)) + body)
        writer.finish()
    return path


def entry(content=b"", size=None):
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content) if size is None else size}


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "a/../../escaped",
        "/etc/passwd",
        "C:/windows",
        "C:evil",
        "\\\\server\\share",
        "a\\b",
        "~/x",
        "./x",
        "a//b",
        "",
        "a/",
        ".hidden",
        "nul",
        "a/COM1.txt",
        "a\nb",
        "a\0b",
        "manifest.json",
        "a/b/c/d/e/f/g",
        "trailing.",
        "e\u0301",
        "\ud800",
        "\u202egnp.exe",
    ],
)
def test_paths_that_leave_the_folder_or_deceive_are_refused(tmp_path, name):
    path = forged(tmp_path / "evil.tar", {"files": {name: entry()}})
    with pytest.raises(RectalError, match="cannot hold"):
        BundleReader(path)


@pytest.mark.parametrize("names", [("a/B.pkl", "A/b.pkl"), ("a", "a/b"), ("\u00e9", "\u00c9")])
def test_paths_that_meet_on_some_systems_are_refused(names):
    with pytest.raises(RectalError, match="cannot hold"):
        check_paths(names)


@given(st.text(max_size=30))
def test_accepted_paths_stay_in_their_folder(name):
    try:
        check_paths([name])
    except RectalError:
        return
    parts = name.split("/")
    assert not set(parts) & {"", ".", ".."} and "\\" not in name and ":" not in name and name.isprintable()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_devices_and_pipes_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("data")
    info.type, info.linkname = kind, "/etc/passwd"
    body = info.tobuf(tarfile.USTAR_FORMAT) + bytes(10240)
    path = forged(tmp_path / "evil.tar", {"files": {"data": entry()}}, body)
    with pytest.raises(RectalError, match="cannot be read"):
        extract(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_members_that_the_manifest_does_not_list_are_refused(tmp_path):
    body = tar_header("data", 0) + tar_header("data", 0) + bytes(10240)
    path = forged(tmp_path / "evil.tar", {"files": {"data": entry()}}, body)
    with pytest.raises(RectalError, match="cannot be read"):
        extract(path, tmp_path / "out")


@pytest.mark.parametrize("ending", ENDINGS)
def test_archives_that_explode_are_refused_before_they_are_unpacked(tmp_path, ending):
    size = 8 << 30
    path = forged(tmp_path / f"bomb.{ending}", {"files": {"data": entry(size=size - 1)}}, bytes(1 << 20))
    with pytest.raises(RectalError, match="made to fill disks"):
        BundleReader(path)


def test_more_bytes_than_told_are_not_unpacked(tmp_path):
    body = tar_header("data", 100) + bytes(50 << 20)
    path = forged(tmp_path / "bomb.tar.gz", {"files": {"data": entry(bytes(100))}}, body)
    with pytest.raises(RectalError, match="cannot be read"):
        extract(path, tmp_path / "out")
    assert (tmp_path / "out/data").stat().st_size == 100


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"version": 2}, "version 2.*Update"),
        ({"format": "other"}, "not of this program's format"),
        ({"files": []}, "lists no files"),
        ({"files": {"a": {"sha256": "0", "size": -1}}}, "possible size"),
        ({"files": {"a": {"sha256": "0", "size": 1.5}}}, "possible size"),
        ({"files": {"a": {"sha256": "0", "size": 1 << 40}}}, "possible size"),
        ({"files": {"a": "text"}}, "possible size"),
    ],
)
def test_manifests_of_other_content_are_refused(tmp_path, manifest, message):
    with pytest.raises(RectalError, match=message):
        BundleReader(forged(tmp_path / "evil.tar", manifest))


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_FILES", 10)
    with pytest.raises(RectalError, match="more than 10"):
        BundleReader(forged(tmp_path / "evil.tar", {"files": {f"f{n}": entry() for n in range(11)}}))


def test_a_huge_manifest_is_not_read(tmp_path):
    body = tar_header("manifest.json", 4 << 30) + bytes(4096)
    (tmp_path / "evil.tar").write_bytes(body + seal("tar", hashlib.sha256(body).hexdigest()))
    with pytest.raises(RectalError, match="more than the"):
        BundleReader(tmp_path / "evil.tar")


@pytest.mark.parametrize(
    "text", [b'{"a": 1, "a": 2}', b"[NaN]", b"[Infinity]", b"[1e999]", b"[" * 5000, b"\xff", b"{", b"9" * 10_000]
)
def test_json_that_means_different_things_to_different_readers_is_refused(text):
    with pytest.raises(RectalError, match="cannot be read as JSON"):
        load_json(text, "a file")


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b'{"":0}'])
def test_json_of_more_values_than_any_file_needs_is_not_parsed(value, monkeypatch):
    monkeypatch.setattr("json.loads", None)
    text = b"[" + b",".join([value] * (MAX_VALUES + 1)) + b"]"
    with pytest.raises(RectalError, match="a file holds more than the 524288 values"):
        load_json(text, "a file")


def test_the_manifest_of_many_cases_is_read():
    paths = [f"{folder}/case_{n:04d}{end}" for folder in ("one", "two", "three") for n in range(5000) for end in "abc"]
    text = canonical_json({path: entry() for path in paths})
    assert load_json(text, "manifest")[paths[-1]] == entry()


def test_a_manifest_that_is_not_written_canonically_takes_little_memory(tmp_path):
    """Indented, it would be many times larger than it is."""
    deep = {}
    for _ in range(20):
        deep = {"": deep}
    manifest = {"format": bundles.FORMAT, "version": 1, "more": [deep] * 2500}
    text = json.dumps(manifest).encode()
    (tmp_path / "evil.tar").write_bytes(
        tar_header("manifest.json", len(text)) + text + padding(len(text)) + bytes(10240)
    )
    tracemalloc.start()
    try:
        load_json(text, "alone")
        alone = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with pytest.raises(RectalError, match=r"manifest\.json was changed"):
            BundleReader(tmp_path / "evil.tar")
        assert tracemalloc.get_traced_memory()[1] < 1.5 * alone
    finally:
        tracemalloc.stop()


def test_a_manifest_made_to_deceive_is_told_harmlessly(tmp_path):
    nested = [[["x" * 10] * 10] * 10]
    about = {
        "kind": "\x1b[31mdataset",
        "dataset": {"name": "\u202eevil\n\n", "id": nested},
        "plans": ["x" * 1000] * 1000,
        "folds": nested,
        "num_cases": None,
        "pseudonymized": {"\r\nsoftware": nested},
        "software": {f"\u2028{n}": {"a": nested} for n in range(1000)},
        "removed": {f"{n}\n": nested for n in range(1000)},
        "digest: trust me\ndigest": 1,
    }
    write_bundle(tmp_path / "evil.tar", about, [])
    lines = inspect_file(tmp_path / "evil.tar").split("\n")
    assert all(line.isprintable() and len(line) < 1100 for line in lines) and len(lines) < 60
    assert "a kind that this version does not know (?[31mdataset)" in lines[1]
    assert "not known to this version: 'digest: trust me\\ndigest'" in lines
    assert not any(line.startswith("cases") for line in lines)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (94_539, "94.5 KB"),
        (999_949, "999.9 KB"),
        (999_950, "1.0 MB"),
        (3_800_000_000, "3.8 GB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_sizes_are_told_in_words(size, words):
    assert file_size(size) == words


def test_a_changing_source_is_noticed(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"before")
    monkeypatch.setattr(bundles, "_describe", lambda member, bar: entry(b"before"))
    source.write_bytes(b"after!")
    with pytest.raises(RectalError, match="changed while"):
        write_bundle(tmp_path / "bundle.tar", {}, [Member("data", source)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("path", ["x" * 100, "a" * 60 + "/" + "b" * 90, "folder/" + "\u00e4" * 40])
def test_headers_are_those_of_tar(path):
    info = tarfile.TarInfo.frombuf(tar_header(path, 12345), "utf-8", "strict")
    assert (info.name, info.size, info.isreg()) == (path, 12345, True)


def test_seals_are_what_gzip_and_xz_read():
    text = seal("tar", "0" * 64)
    assert gzip.decompress(seal("gz", "0" * 64)) == text == lzma.decompress(seal("xz", "0" * 64))
