"""The files by which pydicom tests itself: read or refused by name, and compressed ones with the same pixels.

Neither highdicom nor rt-utils has any DICOM file in its packages, wheel or source.
"""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conversion_inputs import scan, write_series
from dicom_scenes import PLANES, write_scene
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from rectal_nnformer.dicom.contours import read_regions
from rectal_nnformer.dicom.outlines import SEGMENTATION
from rectal_nnformer.dicom.segmentations import read_segments
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.dicom.slices import copy_pixels
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import grid_differences

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
needs_files = pytest.mark.skipif(not (FILES / "MR_small.dcm").is_file(), reason="pydicom came without its test files")


@needs_files
def test_none_of_them_crashes_us(tmp_path):
    findings = find_series(FILES, PLANES)
    assert not findings.series and all(reason for _, reason in (*findings.ignored.values(), *findings.broken.values()))
    assert {o.path.name for o in findings.outlines} >= {"liver_1frame.dcm", "rtstruct.dcm"}
    series = write_scene(tmp_path / "t2")
    for outlines in findings.outlines:
        read = read_segments if outlines.kind == SEGMENTATION else read_regions
        assert outlines.structures and not outlines.problem
        with pytest.raises(RectalError, match=outlines.path.name):
            read(outlines.path, series, [s.number for s in outlines.structures])


@needs_files
@pytest.mark.parametrize("kind", ["RLE", "jp2klossless", "jpeg_ls_lossless", "implicit"])
def test_compressed_slices_have_the_pixels_of_the_others(tmp_path, kind):
    path = FILES / f"MR_small_{kind}.dcm"
    if not path.is_file():
        pytest.skip(f"pydicom came without {path.name}")
    arrays = []
    for number, source in enumerate((FILES / "MR_small.dcm", path)):
        copy_pixels(source, {tmp_path / f"{number}.dcm": None})
        arrays.append(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{number}.dcm"))))
    assert np.array_equal(*arrays) and arrays[0].any()


@needs_files
@pytest.mark.parametrize("kind", ["bigendian", "expb"])
def test_big_endian_files_are_refused_by_name(tmp_path, kind):
    path = FILES / f"MR_small_{kind}.dcm"
    if not path.is_file():
        pytest.skip(f"pydicom came without {path.name}")
    with pytest.raises(RectalError, match=rf"{path.name} cannot be read .*big endian"):
        copy_pixels(path, {tmp_path / "copy.dcm": None})


@needs_files
def test_a_stack_of_slices_compressed_in_different_ways_is_one_volume(tmp_path):
    kinds = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"]
    if not all((FILES / kind).is_file() for kind in kinds):
        pytest.skip("pydicom came without them")
    for number in range(9):
        header = pydicom.dcmread(shutil.copy(FILES / kinds[number % 3], tmp_path / f"{number}.dcm"))
        header.ImagePositionPatient = [*header.ImagePositionPatient[:2], 2.0 * number]
        header.SOPInstanceUID += f".{number}"
        header.save_as(tmp_path / f"{number}.dcm")
    (series,) = find_series(tmp_path, PLANES).series
    volume = sitk.GetArrayFromImage(series.read())
    assert all(np.array_equal(plane, pydicom.dcmread(FILES / kinds[0]).pixel_array) for plane in volume)


@pytest.mark.parametrize(
    ("compressor", "syntax"),
    [("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless), ("", RLELossless)],
    ids=["JPEG Lossless", "JPEG 2000", "RLE"],
)
def test_a_compressed_series_is_the_volume_of_the_uncompressed_one(tmp_path, compressor, syntax):
    volumes = []
    for name, how in (("native", ""), ("compressed", compressor)):
        folder = write_series(tmp_path / name, scan(), "1.2.3", compressor=how)
        for path in folder.iterdir() if syntax == RLELossless and name == "compressed" else ():
            header = pydicom.dcmread(path)
            header.compress(RLELossless, generate_instance_uid=False)
            header.save_as(path)
        (series,) = find_series(folder, PLANES).series
        volumes.append(series.read())
    assert {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in series.files} == {syntax}
    native, compressed = volumes
    assert np.array_equal(*map(sitk.GetArrayFromImage, volumes)) and not grid_differences(native, compressed)
