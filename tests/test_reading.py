"""Image files are read whole or not at all, in bounded memory, and no further than their header says."""

import gzip
import os
import resource
import struct
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.imaging.volumes import check_volume
from rectal_nnformer.prediction.scans import find_scans, prepare_scans


@pytest.fixture
def nifti(tmp_path):
    """A small NIfTI file, uncompressed, as bytes."""
    array = np.random.default_rng(0).normal(size=(8, 12, 16)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "whole.nii"))
    return (tmp_path / "whole.nii").read_bytes()


def test_a_bomb_behind_the_voxels_is_refused_in_little_memory(tmp_path, nifti):
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(nifti)
        for _ in range(256):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(RectalError, match=r"bomb\.nii\.gz goes on behind its voxels"):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (42, struct.pack("<3h", 32767, 32767, 32767), "voxels by its header, more than can be used"),
        (42, struct.pack("<3h", 1000, 1000, 1000), "ends early"),
        (108, struct.pack("<f", 1e9), "begin at byte 1e.09"),
    ],
)
def test_what_a_header_claims_is_checked_before_memory_is_taken(tmp_path, nifti, ending, at, value, message):
    path = tmp_path / f"claims.{ending}"
    content = nifti[:at] + value + nifti[at + len(value) :]
    path.write_bytes(gzip.compress(content) if ending == "nii.gz" else content)
    with pytest.raises(RectalError, match=message):
        read_image(path)


def test_a_little_behind_the_voxels_does_no_harm(tmp_path, nifti):
    (tmp_path / "padded.nii.gz").write_bytes(gzip.compress(nifti + bytes(1000)))
    assert read_image(tmp_path / "padded.nii.gz").GetSize() == (16, 12, 8)


def test_a_checksum_that_is_wrong_is_told(tmp_path, nifti):
    data = bytearray(gzip.compress(nifti))
    data[-8] ^= 1
    (tmp_path / "flipped.nii.gz").write_bytes(data)
    with pytest.raises(RectalError, match=r"flipped\.nii\.gz cannot be read"):
        read_image(tmp_path / "flipped.nii.gz")


def test_a_name_that_is_not_utf_8_is_told_by_the_command(tmp_path, nifti, capfd):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / os.fsdecode(b"case_\xff.nii")).write_bytes(nifti)
    arguments = ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks"), "-d", "501", "--name", "A"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
        with pytest.raises(SystemExit) as exit_:
            cli.main(["convert", "nifti", *arguments])
    assert exit_.value.code == 2
    assert r"case_\udcff" in capfd.readouterr().err
    assert not (tmp_path / "raw").exists() or not any((tmp_path / "raw").iterdir())


@pytest.mark.parametrize("told", [0.0, float("nan")])
def test_a_spacing_of_0_is_not_taken_as_1_mm(tmp_path, nifti, told):
    path = tmp_path / "flat.nii"
    path.write_bytes(nifti[:80] + struct.pack("<f", told) + nifti[84:])
    with pytest.raises(RectalError, match=rf"flat\.nii has a spacing of {told:g} x 1 x 1 mm by its header"):
        read_image(path)


ARRAY = np.random.default_rng(1).normal(size=(6, 7, 8)).astype(np.float32)
ONE_FILE = ["mha", "nrrd"]
TWO_FILES = ["mhd", "nhdr"]


def written(path, compressed=False):
    """Write an image as NRRD or MetaImage; return the bytes of the file."""
    image = sitk.GetImageFromArray(ARRAY)
    image.SetSpacing((1.5, 2, 3))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path.read_bytes()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", ONE_FILE + TWO_FILES)
def test_voxels_that_are_whole_are_read(tmp_path, ending, compressed):
    path = tmp_path / f"scan.{ending}"
    written(path, compressed)
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), ARRAY)
    assert read_image(path).GetSpacing() == (1.5, 2, 3)
    assert check_volume(path).note == ""


@pytest.mark.parametrize("ending", ONE_FILE)
def test_compressed_voxels_that_were_overwritten_are_refused(tmp_path, ending):
    """ITK itself returns other voxels, or zeros, and says nothing."""
    path = tmp_path / f"scan.{ending}"
    content = bytearray(written(path, compressed=True))
    for place in range(len(content) - 1000, len(content) - 100, 300):
        path.write_bytes(content[:place] + b"UUUUUUUU" + content[place + 8 :])
        with pytest.raises(RectalError, match=rf"scan\.{ending} cannot be read"):
            read_image(path)
    path.write_bytes(content[:-4] + bytes(4))  # the checksum
    with pytest.raises(RectalError, match=rf"scan\.{ending} cannot be read"):
        read_image(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", ONE_FILE)
def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path, ending, compressed):
    path = tmp_path / f"scan.{ending}"
    content = written(path, compressed)
    path.write_bytes(content[:-10])
    with pytest.raises(RectalError, match=r"early|before the end"):
        read_image(path)
    for size in (b"8 7 60", b"1024 1024 1024", b"100000 100000 100000"):
        path.write_bytes(content.replace(b"8 7 6\n", size + b"\n"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(RectalError, match=r"scan.*(ends early|voxels by its header, more than can be used)"):
            read_image(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    path.write_bytes(content.replace(b"8 7 6\n", b"8 7 5\n"))
    with pytest.raises(RectalError, match="holds more than the 1120 bytes of voxels of its header"):
        read_image(path)


@pytest.mark.parametrize("ending", TWO_FILES)
@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("pipe.raw", os.mkfifo, "which is a named pipe"),
        ("folder.raw", os.mkdir, "which is a folder"),
        ("gone.raw", lambda _: None, "which is not there"),
        ("link.raw", lambda path: path.symlink_to("gone"), "which is a link to nothing"),
        ("out.raw", lambda path: path.symlink_to(path.parents[1] / "other.raw"), "outside of its folder"),
        ("../other.raw", lambda _: None, "outside of its folder"),
        ("/etc/hostname", lambda _: None, "outside of its folder"),
        ("nul\0.raw", lambda _: None, "no name of a file"),
    ],
)
def test_voxels_elsewhere_than_in_a_file_beside_the_header_are_named(tmp_path, ending, name, make, told):
    """A pipe is not waited for."""
    (tmp_path / "scans").mkdir()
    path = tmp_path / f"scans/scan.{ending}"
    content = written(path)
    (path.parent / "scan.raw").rename(tmp_path / "other.raw")
    make(path.parent / name)
    path.write_bytes(content.replace(b"scan.raw", name.encode()))
    with pytest.raises(RectalError, match=rf"scan\.{ending} cannot be read \(its voxels should be in .*{told}"):
        read_image(path)


@pytest.mark.parametrize("ending", TWO_FILES)
@pytest.mark.parametrize("names", ["slice%03d.raw 0 5 1", "LIST\n" + "\n".join(f"slice{n:03d}.raw" for n in range(6))])
def test_voxels_in_several_files_are_read(tmp_path, ending, names):
    path = tmp_path / f"scan.{ending}"
    content = written(path)
    for number, part in enumerate(ARRAY):
        (tmp_path / f"slice{number:03d}.raw").write_bytes(part.tobytes())
    path.write_bytes(content.replace(b"scan.raw", names.encode()))
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), ARRAY)
    (tmp_path / "slice004.raw").write_bytes(ARRAY[4].tobytes()[:-4])
    with pytest.raises(RectalError, match=r"ends early \(1340 bytes for 1344 bytes of voxels\)"):
        read_image(path)


@pytest.mark.parametrize("ending", TWO_FILES)
def test_bytes_before_the_voxels_are_passed_over_as_the_header_says(tmp_path, ending):
    path = tmp_path / f"scan.{ending}"
    content, raw = written(path), (tmp_path / "scan.raw").read_bytes()
    (tmp_path / "scan.raw").write_bytes(b"x" * 17 + raw)
    before = b"byte skip: %d\ndata file" if ending == "nhdr" else b"HeaderSize = %d\nElementDataFile"
    for skipped in (17, -1):
        path.write_bytes(content.replace(before.rpartition(b"\n")[2], before % skipped))
        assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), ARRAY)
    path.write_bytes(content.replace(before.rpartition(b"\n")[2], before % 16))
    with pytest.raises(RectalError, match="holds more than the 1344 bytes"):
        read_image(path)


def test_numbers_in_text_are_counted(tmp_path):
    path = tmp_path / "scan.nrrd"
    header = written(path).partition(b"\n\n")[0].replace(b"encoding: raw", b"encoding: ascii")
    text = " ".join(map(repr, ARRAY.ravel().tolist()))
    path.write_bytes(header + b"\n\n" + text.encode())
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), ARRAY)
    path.write_bytes(header + b"\n\n" + text.rpartition(" ")[0].encode())
    with pytest.raises(RectalError, match=r"ends early \(335 of 336 numbers"):
        read_image(path)


@pytest.mark.parametrize("ending", ONE_FILE)
def test_a_header_without_spacing_is_said(tmp_path, ending):
    path = tmp_path / f"scan.{ending}"
    lines = written(path).split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith((b"ElementSpacing", b"space"))))
    assert check_volume(path).problem == ""
    assert check_volume(path).note.endswith("its header tells no spacing, and 1 x 1 x 1 mm was taken. Export it again.")


@pytest.mark.parametrize("ending", ONE_FILE)
def test_a_spacing_of_0_is_refused_in_every_format(tmp_path, ending):
    path = tmp_path / f"scan.{ending}"
    content = written(path)
    path.write_bytes(content.replace(b"ElementSpacing = 1.5", b"ElementSpacing = 0").replace(b"(1.5,0,0)", b"(0,0,0)"))
    with pytest.raises(RectalError, match=r"scan.* cannot be read .*spacing"):
        read_image(path)


def test_a_header_with_its_voxels_beside_it_is_predicted_as_one_file(tmp_path):
    """A link to the header alone would lack them."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "links").mkdir()
    written(tmp_path / "scans/alone.nrrd")
    written(tmp_path / "scans/parted.nhdr")
    (tmp_path / "scans/parted.nhdr").rename(tmp_path / "scans/parted.nrrd")
    scans = find_scans(tmp_path / "scans", 1)
    assert set(prepare_scans(scans, tmp_path / "links", ".nrrd")) == {"alone", "parted"} and not scans.unusable
    assert (tmp_path / "links/alone_0000.nrrd").is_symlink() and not (tmp_path / "links/parted_0000.nrrd").is_symlink()
    for name in ("alone", "parted"):
        assert np.array_equal(sitk.GetArrayFromImage(read_image(tmp_path / f"links/{name}_0000.nrrd")), ARRAY)
