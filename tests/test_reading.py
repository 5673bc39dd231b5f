"""Image files are read in bounded memory, and no further than their header says."""

import gzip
import os
import struct
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import read_image


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
