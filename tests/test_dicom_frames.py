"""Multi-frame MR and series with several images of each place: the same volume as from single frames, or a choice."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conversion_inputs import as_image, write_series
from dicom_scenes import ALGORITHM, DIRECTIONS, PLANES, SPACING, hand, write_scene
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom.uid import EnhancedMRImageStorage, RLELossless, generate_uid

from rectal_nnformer.dataset_conversion.dicom import convert_dicom
from rectal_nnformer.dicom.contours import read_regions, write_contours
from rectal_nnformer.dicom.lesions import Lesion
from rectal_nnformer.dicom.segmentations import read_segments, write_segmentation
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.errors import RectalError

REAL = Path(__file__).parents[2] / "shared" / "data" / "pelvic_t2w"
needs_real_scans = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real pelvic MRI is not in {REAL}")


def item(**values):
    made = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def write_enhanced(path, sources, uid, seed=0, compress=False, shared_orientation=True, **groups):
    """Write one enhanced MR file of the frames of single-frame ones, in random order, with a slope of their own.

    Further functional groups are given by functions of the source's header.
    """
    headers = [pydicom.dcmread(p) for p in sources]
    order = np.random.default_rng(seed).permutation(len(headers))
    header = pydicom.Dataset()
    header.update({e.tag: e for e in headers[0] if e.tag not in headers[0].group_dataset(0x7FE0)})
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        if keyword in header:
            delattr(header, keyword)
    header.SOPClassUID, header.SOPInstanceUID, header.SeriesInstanceUID = EnhancedMRImageStorage, generate_uid(), uid
    header.NumberOfFrames = len(headers)
    header.ImageType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
    header.PixelData = b"".join(headers[i].PixelData for i in order)
    header["PixelData"].VR = "OW"
    orientation = [item(ImageOrientationPatient=headers[0].ImageOrientationPatient)]
    measures = [item(PixelSpacing=headers[0].PixelSpacing, SliceThickness="3")]
    header.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=measures)]
    if shared_orientation:
        header.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = orientation
    frames = []
    for i in order:
        values = item(
            RescaleSlope=headers[i].get("RescaleSlope", "1"),
            RescaleIntercept=headers[i].get("RescaleIntercept", "0"),
            RescaleType="US",
        )
        frame = item(
            PlanePositionSequence=[item(ImagePositionPatient=headers[i].ImagePositionPatient)],
            PixelValueTransformationSequence=[values],
        )
        if not shared_orientation:
            frame.PlaneOrientationSequence = orientation
        for macro, function in groups.items():
            setattr(frame, f"{macro}Sequence", [function(headers[i])])
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = frames
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = headers[0].file_meta.TransferSyntaxUID
    if compress:
        header.compress(RLELossless, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def same_volume(one, other):
    a, b = one.read(), other.read()
    assert np.array_equal(sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b))
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(a, what)() == getattr(b, what)()


# One file


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("compress", [False, True], ids=["native", "RLE"])
def test_an_enhanced_file_is_the_volume_of_its_frames(tmp_path, direction, compress):
    single = write_scene(tmp_path / "single", direction)
    for number, path in enumerate(single.files):
        header = pydicom.dcmread(path)
        header.RescaleSlope, header.RescaleIntercept = str(1 + number / 4), str(-number)
        header.save_as(path)
    write_enhanced(tmp_path / "enhanced/one", single.files, "1.2.3", compress=compress, shared_orientation=not compress)
    (enhanced,) = find_series(tmp_path / "enhanced", PLANES).series
    assert len(set(enhanced.files)) == 1 and enhanced.uid == "1.2.3"
    same_volume(enhanced, single)


@needs_real_scans
def test_real_series_made_enhanced_are_the_same_bit_for_bit(tmp_path):
    for number, single in enumerate(find_series(REAL, PLANES).series):
        write_enhanced(tmp_path / f"ours{number}/one", single.files, "1.2.3", seed=number)
        (enhanced,) = find_series(tmp_path / f"ours{number}", PLANES).series
        same_volume(enhanced, single)
        headers = [pydicom.dcmread(p) for p in single.files]
        (tmp_path / f"theirs{number}").mkdir()
        LegacyConvertedEnhancedMRImage(headers, "1.2.4", 1, "1.2.4.1", 1).save_as(tmp_path / f"theirs{number}/one.dcm")
        (enhanced,) = find_series(tmp_path / f"theirs{number}", PLANES).series
        same_volume(enhanced, single)


@pytest.mark.parametrize(
    ("write", "read"), [(write_segmentation, read_segments), (write_contours, read_regions)], ids=["SEG", "RTSTRUCT"]
)
def test_outlines_on_an_enhanced_file_come_back(tmp_path, write, read):
    single = write_scene(tmp_path / "single", DIRECTIONS["rotated"])
    write_enhanced(tmp_path / "enhanced/one", single.files, "1.2.3")
    (enhanced,) = find_series(tmp_path / "enhanced", PLANES).series
    lesions = [Lesion("lesion 1", hand(enhanced)[0]), Lesion("lesion 2", hand(enhanced)[1])]
    write(tmp_path / "out.dcm", enhanced, lesions, ALGORITHM)
    masks = read(tmp_path / "out.dcm", enhanced, [1, 2])
    assert all(np.array_equal(masks[n], lesion.mask) for n, lesion in enumerate(lesions, start=1))
    (outlines,) = find_series(tmp_path, PLANES).outlines
    assert outlines.series_uids == {"1.2.3"}
    text = pydicom.dcmread(tmp_path / "out.dcm").to_json()
    assert '"00081160"' in text  # ReferencedFrameNumber


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize("write", [write_segmentation, write_contours])
def test_dciodvfy_finds_no_error_in_outlines_on_an_enhanced_file(tmp_path, write):
    single = write_scene(tmp_path / "single", DIRECTIONS["rotated"])
    write_enhanced(tmp_path / "enhanced/one", single.files, "1.2.3")
    (enhanced,) = find_series(tmp_path / "enhanced", PLANES).series
    write(tmp_path / "out.dcm", enhanced, [Lesion("lesion 1", hand(enhanced)[0])], ALGORITHM)
    found = subprocess.run(["dciodvfy", str(tmp_path / "out.dcm")], capture_output=True, text=True)
    assert [line for line in found.stderr.splitlines() if "Error" in line] == []


def test_enhanced_files_go_through_convert(tmp_path):
    single = write_scene(tmp_path / "single")
    write_enhanced(tmp_path / "dicom/philips/one", single.files, "1.2.3")
    folder = convert_dicom(tmp_path / "dicom", None, 501, "Rectal", raw=tmp_path / "raw")
    image = sitk.ReadImage(str(folder / "imagesTs/philips_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(single.read()))
    assert json.loads((folder / "dataset.json").read_text())["name"] == "Dataset501_Rectal"


def test_an_enhanced_file_that_lacks_a_frame_or_ends_early_is_refused(tmp_path):
    single = write_scene(tmp_path / "single")
    write_enhanced(tmp_path / "gap/one", [p for i, p in enumerate(single.files) if i != 5], "1.2.3")
    ((_, reason),) = find_series(tmp_path / "gap").broken.values()
    assert "slices are missing or unevenly spaced: 6.00 mm between one frame " in reason
    write_enhanced(tmp_path / "more/one", single.files, "1.2.3")
    header = pydicom.dcmread(tmp_path / "more/one")
    header.NumberOfFrames = 13
    header.save_as(tmp_path / "more/one")
    assert find_series(tmp_path / "more").unreadable == [tmp_path / "more/one"]
    header.NumberOfFrames, header.PixelData = 12, header.PixelData[:-2]
    header.save_as(tmp_path / "more/one")
    (series,) = find_series(tmp_path / "more").series
    with pytest.raises(RectalError, match=r"more/one cannot be read \(it ends before frame 12\)"):
        series.read()


# Several images of each place


def write_parts(folder, **values):
    """Write a series of several images of each place, told apart by one attribute; return their volumes."""
    ((keyword, told),) = values.items()
    volumes = []
    for number, value in enumerate(told):
        noise = np.random.default_rng(number).integers(1, 1000, (10, 9, 8)).astype(np.int16)
        write_series(
            folder, as_image(noise, spacing=SPACING), "1.2.5", file_name=f"{number}_{{:02d}}", T0020_0052="1.2.9"
        )
        for path in folder.glob(f"{number}_*"):
            header = pydicom.dcmread(path)
            setattr(header, keyword, value)
            header.SOPInstanceUID += f".{number}"
            header.TriggerTime = header.InstanceNumber = int(path.name[2:]) * 7  # differs from slice to slice
            header.save_as(path)
        volumes.append(noise)
    return volumes


KINDS = pytest.mark.parametrize(
    ("keyword", "told", "names"),
    [
        ("EchoTime", ["12.5", "101"], ["echo time 12.5", "echo time 101"]),
        ("DiffusionBValue", [0.0, 50.0, 800.0], ["b value 0.0", "b value 50.0", "b value 800.0"]),
        ("TemporalPositionIdentifier", ["1", "2"], ["time point 1", "time point 2"]),
        ("SequenceName", ["*ep_b0", "*ep_b50t"], ["sequence *ep_b0", "sequence *ep_b50t"]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]], ["PRIMARY M", "PRIMARY P"]),
    ],
)


@KINDS
def test_images_of_one_place_are_told_apart_and_chosen_by_description(tmp_path, keyword, told, names):
    volumes = write_parts(tmp_path / "dwi", **{keyword: told})
    ((_, reason),) = find_series(tmp_path).broken.values()
    assert f"{len(told)} images of each place: t2_tse_tra [" in reason and all(name in reason for name in names)
    suggested = reason.partition("say '")[2].rstrip("'")
    (series,) = find_series(tmp_path, description=suggested).series
    assert series.slices[0].description in reason
    for name, volume in zip(names, volumes, strict=True):
        (series,) = find_series(tmp_path, description=name.replace("*", ".") + r"\]").series
        assert np.array_equal(sitk.GetArrayFromImage(series.read()), volume)
    assert find_series(tmp_path, description="t1").ignored


def test_frames_of_one_place_are_told_apart_too(tmp_path):
    volumes = write_parts(tmp_path / "dwi", DiffusionBValue=[0.0, 800.0])
    paths = sorted((tmp_path / "dwi").iterdir())
    write_enhanced(
        tmp_path / "enhanced/one", paths, "1.2.3", MRDiffusion=lambda h: item(DiffusionBValue=h.DiffusionBValue)
    )
    ((_, reason),) = find_series(tmp_path / "enhanced").broken.values()
    assert "2 images of each place: t2_tse_tra [b value 0.0], t2_tse_tra [b value 800.0]" in reason
    (series,) = find_series(tmp_path / "enhanced", description="b value 800").series
    assert np.array_equal(sitk.GetArrayFromImage(series.read()), volumes[1])
    lesion = Lesion("lesion", sitk.GetArrayFromImage(series.read()) > 500)
    for write, read in ((write_segmentation, read_segments), (write_contours, read_regions)):
        write(tmp_path / "out.dcm", series, [lesion], ALGORITHM)
        assert np.array_equal(read(tmp_path / "out.dcm", series, [1])[1], lesion.mask)


@pytest.mark.parametrize("shift", [0.0002, -0.0002])
def test_places_that_differ_in_the_last_digit_are_the_same(tmp_path, shift):
    volumes = write_parts(tmp_path / "t2", EchoTime=["12.5", "101"])
    for path in sorted((tmp_path / "t2").iterdir()):
        header = pydicom.dcmread(path)
        # On both sides of the edge between two values of two decimals.
        position = [round(float(value), 2) + 0.005 for value in header.ImagePositionPatient]
        header.ImagePositionPatient = [
            f"{v + (shift / 2 if path.name[0] == '1' else -shift / 2):.5f}" for v in position
        ]
        header.save_as(path)
    for name, volume in zip(("12.5", "101"), volumes, strict=True):
        (series,) = find_series(tmp_path, description=f"echo time {name}").series
        assert np.array_equal(sitk.GetArrayFromImage(series.read()), volume)


@pytest.mark.parametrize(
    ("told", "chosen", "value"),
    [
        ([{"b": 0.0}, {"b": 800.0, "to": [1.0, 0.0, 0.0]}, {"b": 800.0, "to": [0.0, 1.0, 0.0]}], "gradient 0.0 1", 3),
        ([{"b": b, "echo": e} for b in (0.0, 800.0) for e in ("50", "100")], r"b value 800.0, echo time 50\]", 3),
    ],
)
def test_two_properties_tell_apart_what_one_does_not(tmp_path, told, chosen, value):
    for number, properties in enumerate(told):
        image = as_image(np.full((9, 8, 8), number + 1, np.int16))
        write_series(tmp_path / "dwi", image, "1.2.5", file_name=f"{number}_{{:02d}}")
        for path in (tmp_path / "dwi").glob(f"{number}_*"):
            header = pydicom.dcmread(path)
            header.DiffusionBValue = properties["b"]
            header.EchoTime = properties.get("echo")
            header.DiffusionGradientOrientation = properties.get("to")
            header.save_as(path)
    ((_, reason),) = find_series(tmp_path).broken.values()
    assert f"{len(told)} images of each place" in reason
    (series,) = find_series(tmp_path, description=chosen).series
    assert np.unique(sitk.GetArrayFromImage(series.read())).tolist() == [value]
