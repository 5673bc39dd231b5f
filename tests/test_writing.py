"""Volumes arrive whole on the disk, or not at all and with a message."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.imaging.writing import write_volume
from rectal_nnformer.utils.files import write_json


@contextmanager
def largest_file(num_bytes):
    """Let no file of this process grow beyond some bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(dtype=np.float32):
    image = sitk.GetImageFromArray((1000 * np.random.default_rng(0).random((20, 40, 60))).astype(dtype))
    image.SetSpacing((1.0, 2.0, 3.0))
    return image


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_written_volume_reads_back(tmp_path, ending, dtype):
    path = tmp_path / f"volume{ending}"
    write_volume(noise(dtype), path)
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), sitk.GetArrayFromImage(noise(dtype)))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("num_bytes", [0, 100, 20_000])
def test_a_volume_that_does_not_fit_is_named_and_removed(tmp_path, ending, num_bytes):
    path = tmp_path / f"volume{ending}"
    with largest_file(num_bytes), pytest.raises(RectalError, match=r"volume.* could not be written whole.*MB left"):
        write_volume(noise(), path)
    assert not list(tmp_path.iterdir())


def test_a_text_that_does_not_fit_leaves_the_previous_one(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, {"a": 1})
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        write_json(path, {"a": "b" * 5000})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]
