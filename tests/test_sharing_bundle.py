"""The format of bundles: read by others, changed by nobody unnoticed, harmless whatever they claim."""

import contextlib
import hashlib
import io
import json
import stat
import struct
import subprocess
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pytest
from bundle_reader import read_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from sharing_inputs import contents

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing import bundle as bundles
from rectal_nnformer.sharing.bundle import BundleReader, new_bundle
from rectal_nnformer.sharing.inspection import inspect_file
from rectal_nnformer.sharing.schema import FingerprintJson, Measurements
from rectal_nnformer.utils import zips
from rectal_nnformer.utils.json_records import MAX_BYTES, MAX_VALUES, read_record
from rectal_nnformer.utils.text import file_size
from rectal_nnformer.utils.zips import check_paths

CONTENTS = {
    "plans.json": b"{}",
    "data/one.safetensors": save({"data": np.arange(200, dtype=np.float32).reshape(2, 100)}),
    "data/empty.json": b"[]",
    "data/block.json": json.dumps(["x" * 512]).encode(),
}
ABOUT = {"kind": "dataset", "dataset": "Dataset501_Rectal", "pseudonymized": False, "removed": {}}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(bundles, "tqdm", partial(bundles.tqdm, disable=True))


def write(path, files=CONTENTS, **about):
    with new_bundle(path) as bundle:
        for name, content in files.items():
            bundle.add(name, content)
        bundle.finish(**{**ABOUT, **about})
    return path


@pytest.fixture
def bundle(tmp_path):
    return write(tmp_path / "bundle.zip")


def verify(path):
    """Return all files of a bundle as the program reads them."""
    with BundleReader(path) as reader:
        reader.verify()
        return {name: b"".join(reader._verified(name)) for name in reader.manifest.files}


def forged(path, manifest, files=(), entries=None):
    """Write a zip with any manifest and any files, of which `entries` gives other attributes by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in dict(files).items():
            info = zipfile.ZipInfo(name)
            for key, value in (entries or {}).get(name, {}).items():
                setattr(info, key, value)
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
        archive.writestr("manifest.json", manifest if isinstance(manifest, bytes) else json.dumps(manifest))
    return path


def entry(content=b"", size=None):
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content) if size is None else size}


def manifest(**changes):
    content = {"format": "rectal_nnformer bundle", "version": 2, **ABOUT, "software": {}, "files": {}}
    return {**content, **changes}


def test_it_is_a_zip_that_others_read(bundle):
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    files, found = contents(bundle)
    assert files == CONTENTS and found["format"] == "rectal_nnformer bundle" and found["version"] == 2
    assert subprocess.run(["python3", "-m", "zipfile", "-t", bundle], check=False).returncode == 0


def test_a_reader_written_from_the_documentation_reads_it(bundle):
    found, texts, arrays = read_bundle(bundle)
    assert found["files"].keys() == CONTENTS.keys() and texts["data/block.json"] == ["x" * 512]
    assert np.array_equal(arrays["data/one.safetensors"]["data"].ravel(), np.arange(200))


def test_the_same_content_gives_the_same_bytes(bundle, tmp_path):
    assert write(tmp_path / "other.zip").read_bytes() == bundle.read_bytes()


def test_a_flipped_byte_is_found_or_changes_nothing(bundle):
    original = bundle.read_bytes()
    about = contents(bundle)[1]
    found = 0
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= (0x01, 0x80, 0xFF, 0x10)[position % 4]
        bundle.write_bytes(changed)
        try:
            assert verify(bundle) == CONTENTS and contents(bundle)[1] == about
        except RectalError:
            found += 1
    assert found > 0.7 * len(original)


@pytest.fixture(scope="module")
def one_bundle(tmp_path_factory):
    return write(tmp_path_factory.mktemp("damaged") / "bundle.zip")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bundles_raise_nothing_else(one_bundle, data):
    content = bytearray(one_bundle.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    other = one_bundle.with_name("other.zip")
    other.write_bytes(content)
    with contextlib.suppress(RectalError):
        assert verify(other) == CONTENTS


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b + b"\0", lambda b: b[9:]])
def test_shortened_and_lengthened_files_are_refused(bundle, change):
    bundle.write_bytes(change(bundle.read_bytes()))
    with pytest.raises(RectalError, match="cannot be read"):
        verify(bundle)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>login</html>" * 100, b"", b"\0" * 100, b"PK\3\4" + bytes(5000), bytes(20_000)]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RectalError, match="cannot be read"):
        BundleReader(tmp_path / "file")


def test_a_zip_without_a_manifest_is_no_bundle(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(RectalError, match="no bundle of this program"):
        BundleReader(tmp_path / "other.zip")


PATHS = [
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
    ".hidden",
    "nul",
    "a/COM1.txt",
    "a\nb",
    "a/b/c/d/e/f/g",
    "trailing.",
    "e\u0301",
    "\u202egnp.exe",
]


@pytest.mark.parametrize("name", PATHS)
def test_paths_that_leave_the_folder_or_deceive_are_refused(tmp_path, name):
    path = forged(tmp_path / "evil.zip", manifest(files={name: entry()}), {name: b""})
    with pytest.raises(RectalError, match="cannot hold"):
        BundleReader(path)


@pytest.mark.parametrize("name", ["", "a/", "a\0b", "\ud800"])
def test_names_that_no_zip_can_have_are_refused(name):
    with pytest.raises(RectalError, match="cannot hold"):
        check_paths([name])


@pytest.mark.parametrize("names", [("a/B.pkl", "A/b.pkl"), ("a", "a/b"), ("a/b/c", "a"), ("\u00e9", "\u00c9")])
def test_paths_that_meet_on_some_systems_are_refused(tmp_path, names):
    path = forged(tmp_path / "evil.zip", manifest(files={name: entry() for name in names}), dict.fromkeys(names, b""))
    with pytest.raises(RectalError, match="cannot hold"):
        BundleReader(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_appears_twice_is_refused(tmp_path):
    path = forged(tmp_path / "evil.zip", manifest(files={"a.json": entry(b"{}")}), {"a.json": b"{}"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.json", b"[]")
    with pytest.raises(RectalError, match="cannot hold both"):
        BundleReader(path)


def test_a_zip_whose_two_lists_of_names_differ_is_refused(tmp_path):
    path = forged(tmp_path / "evil.zip", manifest(files={"a.json": entry(b"{}")}), {"a.json": b"{}"})
    path.write_bytes(path.read_bytes().replace(b"a.json", b"b.json", 1))
    with pytest.raises(RectalError, match="cannot be read"):
        verify(path)


@given(st.text(max_size=30))
def test_accepted_paths_stay_in_their_folder(name):
    try:
        check_paths([name])
    except RectalError:
        return
    parts = name.split("/")
    assert not set(parts) & {"", ".", ".."} and "\\" not in name and ":" not in name and name.isprintable()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_links_devices_and_pipes_are_refused(tmp_path, kind):
    attributes = {"data": {"external_attr": (kind | 0o777) << 16, "create_system": 3}}
    path = forged(tmp_path / "evil.zip", manifest(files={"data": entry(b"/etc")}), {"data": b"/etc"}, attributes)
    with pytest.raises(RectalError, match="link, a device or encrypted"):
        BundleReader(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w", compression) as archive:
        archive.writestr("manifest.json", json.dumps(manifest()))
    with pytest.raises(RectalError, match="link, a device or encrypted"):
        BundleReader(tmp_path / "evil.zip")


@pytest.mark.parametrize("files", [{}, {"a": b"1", "b": b"2"}, {"a": b"12"}, {"b": b"1"}])
def test_files_that_the_manifest_does_not_list_are_refused(tmp_path, files):
    path = forged(tmp_path / "evil.zip", manifest(files={"a": entry(b"1")}), files)
    with pytest.raises(RectalError, match="not those of its manifest"):
        BundleReader(path)


def test_files_of_another_digest_are_refused(tmp_path):
    path = forged(tmp_path / "evil.zip", manifest(files={"a": entry(b"1")}), {"a": b"2"})
    with pytest.raises(RectalError, match="a differs from its manifest"):
        verify(path)


def test_archives_that_explode_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "FREE_EXPANSION", 1 << 20)
    zeros = bytes(8 << 20)
    path = forged(tmp_path / "bomb.zip", manifest(files={"data": entry(zeros)}), {"data": zeros})
    with pytest.raises(RectalError, match="would unpack to"):
        BundleReader(path)


def test_more_bytes_than_told_are_not_unpacked(tmp_path):
    """A zip can tell a smaller size than its data unpack to."""
    zeros = bytes(8 << 20)
    path = forged(tmp_path / "bomb.zip", manifest(files={"data": entry(bytes(100))}), {"data": zeros})
    content = path.read_bytes().replace(struct.pack("<I", len(zeros)), struct.pack("<I", 100))
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(RectalError, match="cannot be read"):
            verify(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_files_that_lie_over_each_other_take_no_more_than_they_tell(tmp_path):
    """Entries can share data, so that a small zip unpacks to much; what counts is what they tell."""
    zeros = bytes(1 << 20)
    path = forged(tmp_path / "bomb.zip", manifest(files={"aa": entry(zeros)}), {"aa": zeros})
    content = path.read_bytes()
    at = content.index(b"PK\1\2")
    central = content[at : content.index(b"PK\1\2", at + 4)]
    names = [f"{n:02d}".encode() for n in range(99)]
    directory = b"".join(central.replace(b"aa", name) for name in names)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(names), len(names), len(directory), at, 0)
    path.write_bytes(content[:at] + directory + end)
    with pytest.raises(RectalError):
        BundleReader(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "version is 1"),
        ({"version": 3}, "version is 3"),
        ({"format": "other"}, "format is 'other'"),
        ({"kind": "\x1b[31mdataset"}, "kind"),
        ({"files": []}, "files"),
        ({"files": {"a": {"sha256": "0", "size": 0}}}, "sha256"),
        ({"files": {"a": {**entry(), "size": -1}}}, "size"),
        ({"files": {"a": {**entry(), "size": 1.5}}}, "size"),
        ({"files": {"a": {**entry(), "size": 1 << 40}}}, "size"),
        ({"files": {"a": {**entry(), "more": 1}}}, "more"),
        ({"files": {"a": "text"}}, "files"),
        ({"dataset": "../../x"}, "dataset"),
        ({"dataset": "Dataset501_../x"}, "dataset"),
        ({"model": "../x__y__z"}, "model"),
        ({"plans": ["x" * 10_001]}, "plans"),
        ({"folds": ["\n"]}, "folds"),
        ({"removed": {"a": "b"}}, "removed"),
        ({"pseudonymized": 1}, "pseudonymized"),
        ({"digest: trust me\ndigest": 1}, "trust me"),
    ],
)
def test_manifests_of_other_content_are_refused(tmp_path, changes, message):
    with pytest.raises(RectalError, match=message):
        BundleReader(forged(tmp_path / "evil.zip", manifest(**changes)))


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    files = {f"f{n}": b"" for n in range(12)}
    path = forged(tmp_path / "evil.zip", manifest(files={name: entry() for name in files}), files)
    monkeypatch.setattr(zips, "MAX_FILES", 10)
    with pytest.raises(RectalError, match="no dataset or model does"):
        BundleReader(path)


@pytest.mark.parametrize("is_64", [False, True])
def test_a_huge_list_of_files_is_not_read(tmp_path, is_64):
    size = zips.MAX_DIRECTORY_BYTES + 1
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, 100 if is_64 else size, 4, 0)
    if is_64:
        record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 9, 9, size, 4)
        end = record + struct.pack("<4sIQI", b"PK\6\7", 0, 104, 1) + end
    (tmp_path / "evil.zip").write_bytes(b"PK\3\4" + bytes(100) + end)
    with pytest.raises(RectalError, match="lists more than"):
        BundleReader(tmp_path / "evil.zip")


def test_a_huge_manifest_is_not_read(tmp_path):
    path = forged(tmp_path / "evil.zip", json.dumps(manifest()).encode() + b" " * MAX_BYTES)
    with pytest.raises(RectalError, match="no bundle of this program"):
        BundleReader(path)


@pytest.mark.parametrize(
    "text", [b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": Infinity}', b'{"a": ' + b"[" * 5000, b"\xff", b"{", b""]
)
def test_json_that_means_different_things_to_different_readers_is_refused(text):
    with pytest.raises(RectalError, match="a file cannot be"):
        read_record(Measurements, text, "a file")


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b'"1"', b"true", b"null"])
def test_numbers_are_finite_numbers(number):
    with pytest.raises(RectalError, match="a file cannot be used: spacings"):
        read_record(FingerprintJson, b'{"spacings": [[1, 1, %s]]}' % number, "a file")


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b'{"":0}'])
def test_json_of_more_values_than_any_file_needs_is_not_parsed(value, monkeypatch):
    monkeypatch.setattr("json.loads", None)
    text = b"[" + b",".join([value] * (MAX_VALUES + 1)) + b"]"
    with pytest.raises(RectalError, match="a file holds more than the 524288 values"):
        read_record(Measurements, text, "a file")


def test_the_manifest_of_many_cases_is_read():
    paths = [f"{folder}/case_{n:04d}{end}" for folder in ("one", "two", "three") for n in range(5000) for end in "abc"]
    text = json.dumps(manifest(files={path: entry() for path in paths})).encode()
    assert read_record(bundles.Manifest, text, "manifest").files[paths[-1]].size == 0


def test_a_manifest_made_to_deceive_is_told_harmlessly(tmp_path):
    about = {
        "plans": ["\u202eevil\n\n" * 100] * 1000,
        "software": {f"\u2028{n}": "x" * 100 for n in range(1000)},
        "removed": {f"{n}\n": n for n in range(1000)},
    }
    lines = inspect_file(forged(tmp_path / "evil.zip", manifest(**about))).split("\n")
    assert all(line.isprintable() and len(line) < 1100 for line in lines) and len(lines) < 60


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


def test_paths_that_no_bundle_can_hold_are_not_written(tmp_path):
    for name in ("../x", "manifest.json", "Manifest.JSON"):
        with pytest.raises(RectalError, match="cannot hold"):
            write(tmp_path / "bundle.zip", {name: b"{}"})
    assert list(tmp_path.iterdir()) == []


def test_files_are_copied_piece_by_piece(tmp_path):
    (tmp_path / "large").write_bytes(bytes(64 << 20))
    tracemalloc.start()
    try:
        path = write(tmp_path / "bundle.zip", {"data/large.bin": tmp_path / "large"})
        with BundleReader(path) as reader:
            reader.verify()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_safetensors_file_is_what_others_write(bundle):
    assert io.BytesIO(contents(bundle)[0]["data/one.safetensors"]).read(8) == struct.pack("<Q", 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (save({"data": np.array([1.0, np.nan], np.float32)}), "data holds values that are not finite"),
        (save({"data": np.ones(9, np.float32)})[:-1], "cannot be read as safetensors"),
        (b"no arrays", "cannot be read as safetensors"),
    ],
)
def test_arrays_are_looked_at_when_a_bundle_is_verified(tmp_path, content, message):
    path = write(tmp_path / "bundle.zip", {"data/one.safetensors": content})
    with pytest.raises(RectalError, match=message):
        verify(path)
    path = write(tmp_path / "bundle.zip", {"data/one.safetensors": save({"data": np.ones((0, 4), np.int64)})})
    verify(path)
