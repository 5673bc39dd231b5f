"""Masks in DICOM-SEG and RTSTRUCT, and labels chosen by name or value: what is taken, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conversion_inputs import TILT, as_image, every_byte_of, write_cohort
from dicom_scenes import ALGORITHM, DIRECTIONS, PLANES, coordinates, hand, write_scene
from scipy.spatial.transform import Rotation
from test_dicom_outlines import REAL, needs_real_scans
from test_documentation import DOCUMENTATION, blocks, command_lines

from rectal_nnformer import cli
from rectal_nnformer.dataset_conversion.dicom import convert_dicom
from rectal_nnformer.dataset_conversion.labels import parse_labels
from rectal_nnformer.dataset_conversion.nifti import convert_nifti
from rectal_nnformer.dicom.contours import write_contours
from rectal_nnformer.dicom.lesions import Lesion
from rectal_nnformer.dicom.segmentations import write_segmentation
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import folder_variables

WAYS = list(DIRECTIONS.values())


def convert(folder, masks="masks", labels=(), **options):
    options = {"planes": PLANES, **options}
    masks = masks and folder / masks
    return convert_dicom(
        folder / "dicom", masks, 501, "Rectal", raw=folder / "raw", labels=parse_labels(labels), **options
    )


def refusal(folder, **options):
    with pytest.raises(RectalError) as caught:
        convert(folder, **options)
    assert not (folder / "raw").exists()
    return str(caught.value)


def write_outlined(folder, count=5, write=None, masks="masks", **names):
    """Write series t2_0, t2_1 ... that lie in many ways, each with an object of structures with these names.

    The objects, SEG and RTSTRUCT in turn, are called by numbers in another order. Returned are the masks.
    """
    expected = []
    (folder / masks / "deep").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        series = write_scene(
            folder / "dicom" / f"t2_{number}", WAYS[number], f"1.2.8{number}", T0010_0020=f"SECRET-{number}"
        )
        ball, bar, _ = hand(series)
        structures = {"ball": ball, "bar": bar, "empty": np.zeros_like(ball)}
        lesions = [Lesion(name, structures[what]) for what, name in names.items()]
        how = write or (write_segmentation, write_contours)[number % 2]
        how(folder / masks / "deep" / f"t2_{(number + 1) % count}", series, lesions, ALGORITHM)
        expected.append((ball, bar))
    return expected


def label_of(folder, case):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "raw/Dataset501_Rectal/labelsTr" / f"{case}.nii.gz")))


# Structures in DICOM objects


def test_the_only_structure_is_the_tumour_and_uids_decide_where_it_belongs(tmp_path):
    expected = write_outlined(tmp_path, bar="whatever")
    folder = convert(tmp_path)
    for number, (_, bar) in enumerate(expected):
        assert np.array_equal(label_of(tmp_path, f"t2_{number}"), bar)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "tumor": 1}
    content = every_byte_of(folder)
    assert b"SECRET" not in content and b"Doe" not in content and b"whatever" not in content


def test_contours_that_are_there_twice_are_told_and_lose_no_voxel(tmp_path, capsys):
    expected = write_outlined(tmp_path, write=write_contours, bar="GTV")
    path = tmp_path / "masks/deep/t2_1"  # of t2_0
    header = pydicom.dcmread(path)
    contours = header.ROIContourSequence[0].ContourSequence
    contours += list(contours)
    header.save_as(path)
    convert(tmp_path)
    assert np.array_equal(label_of(tmp_path, "t2_0"), expected[0][1])
    told = capsys.readouterr().out
    assert f"Note: {path}: GTV: {len(contours) // 2} contours enclosing the same voxels as another on " in told


@pytest.mark.parametrize("order", [("tumor=gtv.*|tumou?r", "rectum=rect.*"), ("rectum=rect.*", "tumor=gtv.*|tumou?r")])
def test_labels_are_numbered_in_their_order_and_the_first_has_what_is_shared(tmp_path, capsys, order):
    expected = write_outlined(tmp_path, ball="Rectum", bar="GTV-T")
    folder = convert(tmp_path, labels=order)
    names = [text.partition("=")[0] for text in order]
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, names[0]: 1, names[1]: 2}
    output = capsys.readouterr().out
    for number, (ball, bar) in enumerate(expected):
        first, second = (bar, ball) if names[0] == "tumor" else (ball, bar)
        label = label_of(tmp_path, f"t2_{number}")
        assert np.array_equal(label, np.where(first, 1, np.where(second, 2, 0)))
        shared = np.count_nonzero(ball & bar)
        assert f"{shared} voxels of {names[0]} and {names[1]}, taken for {names[0]}" in output


def test_several_structures_of_one_label_are_put_together(tmp_path):
    expected = write_outlined(tmp_path, ball="lesion 1", bar="lesion 2")
    convert(tmp_path, labels=["tumor=lesion .*"])
    for number, (ball, bar) in enumerate(expected):
        assert np.array_equal(label_of(tmp_path, f"t2_{number}"), ball | bar)


def test_objects_among_the_series_and_mask_files_go_together(tmp_path):
    expected = write_outlined(tmp_path, bar="tumour", masks="dicom")
    (tmp_path / "masks").mkdir()
    (tmp_path / "dicom/deep/t2_1").unlink()
    series = write_scene(tmp_path / "again", WAYS[0])
    image = as_image(expected[0][1].astype(np.uint8), WAYS[0], series.spacing)
    sitk.WriteImage(image, str(tmp_path / "masks" / "t2_0.nii.gz"))
    convert(tmp_path)
    for number, (_, bar) in enumerate(expected):
        assert np.array_equal(label_of(tmp_path, f"t2_{number}"), bar)


def test_objects_among_the_series_are_left_alone_unless_asked_for(tmp_path, capsys):
    expected = write_outlined(tmp_path, bar="tumour", masks="dicom")
    assert (convert(tmp_path, masks=None) / "imagesTs").is_dir()
    assert "5 DICOM-SEG or RTSTRUCT files not used" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "raw")
    convert(tmp_path, masks=None, labels=["tumor=tumou?r"])
    assert np.array_equal(label_of(tmp_path, "t2_3"), expected[3][1])
    shutil.rmtree(tmp_path / "raw")
    convert(tmp_path, masks="dicom")
    assert np.array_equal(label_of(tmp_path, "t2_3"), expected[3][1])


def _without_references(path, frame=None):
    header = pydicom.dcmread(path)
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
        if keyword in header:
            delattr(header, keyword)
    for groups in header.get("PerFrameFunctionalGroupsSequence", ()):
        groups.DerivationImageSequence = []
    if frame:
        header.FrameOfReferenceUID = frame
    header.save_as(path)


def test_without_references_the_frame_of_reference_decides(tmp_path):
    expected = write_outlined(tmp_path, bar="tumour", write=write_segmentation)
    _without_references(tmp_path / "masks/deep/t2_1")
    message = refusal(tmp_path)
    assert "t2_1: lies on 5 series by its UIDs: t2_0, t2_1, t2_2, t2_3, t2_4" in message
    for path in (tmp_path / "dicom/t2_0").iterdir():
        header = pydicom.dcmread(path)
        header.FrameOfReferenceUID = "1.2.3.4"
        header.save_as(path)
    _without_references(tmp_path / "masks/deep/t2_1", "1.2.3.4")
    convert(tmp_path)
    assert np.array_equal(label_of(tmp_path, "t2_0"), expected[0][1])


@pytest.mark.parametrize(
    ("names", "labels", "reason"),
    [
        ({"ball": "Rectum", "bar": "GTV"}, (), "several structures, and no word which is the tumour: "),
        ({"ball": "Rectum", "bar": "GTV"}, (), "holds 'Rectum' (Rectal tumour), 'GTV' (Rectal tumour); give --labels"),
        ({"ball": "Rectum", "bar": "GTV"}, ("tumor=tumou?r",), "no structure is called as --labels tumor=tumou?r says"),
        ({"ball": "Mesorectum", "bar": "GTV"}, ("tumor=gtv", "rectum=rect.*"), "'Mesorectum' (Rectal tumour), 'GTV'"),
        ({"ball": "GTV rectum", "bar": "GTV"}, ("tumor=gtv.*", "rectum=.*rect.*"), "GTV rectum in "),
        ({"ball": "GTV rectum", "bar": "GTV"}, ("tumor=gtv.*", "rectum=.*rect.*"), "make one of them narrower"),
    ],
)
def test_what_is_in_the_files_is_told_where_nothing_or_too_much_matches(tmp_path, names, labels, reason):
    write_outlined(tmp_path, write=write_contours, **names)
    message = refusal(tmp_path, labels=labels)
    assert "5 inputs" in message and message.count(reason) == 5, message


def test_two_readers_of_a_series_are_not_mixed(tmp_path):
    write_outlined(tmp_path, bar="GTV")
    shutil.copy(tmp_path / "masks/deep/t2_1", tmp_path / "masks/second reader")
    message = refusal(tmp_path, labels=["tumor=gtv"])
    assert "1 input" in message and "t2_0: --labels tumor=gtv fits 'GTV'" in message and "second reader" in message
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkUInt8), str(tmp_path / "masks" / "t2_2.nii.gz"))
    assert "t2_2: t2_2.nii.gz and " in refusal(tmp_path)
    assert "masks in NIfTI, NRRD and MetaImage files have values" in refusal(tmp_path, labels=["tumor=gtv"])


def test_objects_that_belong_to_no_series_are_refused_among_masks_and_told_among_series(tmp_path, capsys):
    write_outlined(tmp_path, bar="GTV")
    message = refusal(tmp_path, planes=["axial", "coronal"])
    assert "no series for this mask: RTSTRUCT of a series that was ignored: sagittal plane" in message
    shutil.rmtree(tmp_path / "dicom/t2_2")
    assert "no series for this mask: DICOM-SEG of a series that is not there (1.2.82)" in refusal(tmp_path)
    capsys.readouterr()
    shutil.move(tmp_path / "masks/deep/t2_3", tmp_path / "dicom/of_another")
    assert "Only 4 cases" in refusal(tmp_path)
    assert "dicom/of_another: DICOM-SEG of a series that is not there (1.2.82)" in capsys.readouterr().out


def test_a_series_without_an_object_is_refused(tmp_path):
    write_outlined(tmp_path, bar="GTV")
    (tmp_path / "masks/deep/t2_3").unlink()
    assert "t2_2: no mask t2_2.nii.gz or 1.2.82.nii.gz" in refusal(tmp_path)


def test_a_damaged_object_is_refused(tmp_path):
    write_outlined(tmp_path, bar="GTV", write=write_contours)
    path = tmp_path / "masks/deep/t2_1"
    header = pydicom.dcmread(path)
    del header.StructureSetROISequence
    header.save_as(path)
    message = refusal(tmp_path)
    assert "deep/t2_1: cannot be read" in message and "export it again" in message


@pytest.mark.parametrize(
    ("write", "sequence", "number"),
    [
        (write_segmentation, "SegmentSequence", "SegmentNumber"),
        (write_contours, "StructureSetROISequence", "ROINumber"),
    ],
)
def test_structures_that_share_a_number_are_not_mixed(tmp_path, write, sequence, number):
    write_outlined(tmp_path, ball="GTV", bar="rectum", write=write)
    path = tmp_path / "masks/deep/t2_1"
    header = pydicom.dcmread(path)
    setattr(header[sequence][1], number, 1)
    header.save_as(path)
    assert "deep/t2_1: has several structures of the number 1; export" in refusal(tmp_path, labels=["tumor=GTV"])


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    expected = write_outlined(tmp_path, ball="Rectum", bar="Tumour")
    arguments = ["convert", "dicom", "--series", str(tmp_path / "dicom"), "--masks", str(tmp_path / "masks")]
    arguments += ["-d", "501", "--name", "Rectal", "-np", "1", "--planes", *PLANES]
    arguments += ["--labels", "tumor=gtv.*|tumou?r"]
    assert not cli.main(arguments)
    assert np.array_equal(label_of(tmp_path, "t2_4"), expected[4][1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "folder", "datasets"),
    [("pacs-to-folds", "pacs", ["501_Rectal"]), ("rtstruct-cohort", "clinic", ["501_Rectal", "502_Clinic"])],
)
def test_the_pages_can_be_typed_as_they_stand(tmp_path, monkeypatch, capsys, page, folder, datasets):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, place in folder_variables(tmp_path / "rectal").items():
        monkeypatch.setenv(variable, place)
    monkeypatch.setattr(sys.modules[__name__], "WAYS", [TILT] * 5)
    write_outlined(tmp_path, masks="dicom", ball="Rectum", bar="GTV")
    (tmp_path / "dicom").rename(tmp_path / folder)
    lines = [line for block in blocks(DOCUMENTATION / f"how-to/{page}.md", "bash") for line in command_lines(block)]
    for arguments in (line for line in lines if line[0] == "convert"):
        typed = [str(Path(word).expanduser()) if word[0] == "~" else word for word in arguments]
        assert not cli.main([*typed, "-np", "1"])
        if "--dry-run" in arguments:
            assert "t2_4" in capsys.readouterr().out and not (tmp_path / "rectal").exists()
    assert sorted(path.name for path in (tmp_path / "rectal/nnUNet_raw").iterdir()) == [f"Dataset{d}" for d in datasets]


# Values in mask files


def write_values(folder, *values):
    """Write a cohort whose masks hold these values in slabs one above the other."""
    images, masks = write_cohort(folder)
    for path in masks.iterdir():
        array = np.zeros((9, 10, 12), np.uint8)
        for z, value in enumerate(values):
            array[z + 1, 2:8, 2:9] = value
        sitk.WriteImage(as_image(array), str(path))
    return images, masks


def converted(folder, places, labels):
    target = convert_nifti(*places, 501, "Rectal", raw=folder / "raw", labels=parse_labels(labels))
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(target / "labelsTr/case_a.nii.gz")))
    return array[1:4, 5, 5].tolist(), json.loads((target / "dataset.json").read_text())["labels"]


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (["tumor=255"], [0, 1, 0], {"background": 0, "tumor": 1}),
        (["tumor=255,7"], [0, 1, 1], {"background": 0, "tumor": 1}),
        (["rectum=3", "tumor=7"], [1, 0, 2], {"background": 0, "rectum": 1, "tumor": 2}),
        (["tumor=3,255,7", "node=9"], [1, 1, 1], {"background": 0, "tumor": 1, "node": 2}),
    ],
)
def test_values_become_labels(tmp_path, labels, expected, names):
    assert converted(tmp_path, write_values(tmp_path, 3, 255, 7), labels) == (expected, names)


def test_values_that_are_not_named_or_not_there_are_told(tmp_path, capsys):
    converted(tmp_path, write_values(tmp_path, 3, 255, 7), ["tumor=255", "node=9"])
    output = capsys.readouterr().out
    assert "case_a.nii.gz: values not named in --labels become background: 3, 7" in output
    assert "case_a.nii.gz: no voxel is node=9" in output


def test_where_no_value_is_tumour_the_values_are_told(tmp_path):
    places = write_values(tmp_path, 3, 255, 7)
    with pytest.raises(RectalError, match="no voxel of --labels tumor=1, but the values 0, 3, 7, 255; name one"):
        converted(tmp_path, places, ["tumor=1", "rectum=3"])
    with pytest.raises(RectalError, match=r"foreign labels 3, 7, 255 .*--labels"):
        converted(tmp_path, places, [])
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["gtv.*"], "is not a name, = and what it stands for"),
        (["tumor="], "is not a name, = and what it stands for"),
        (["tumor=1", "tumor=2"], "the name tumor is taken"),
        (["background=1"], "the name background is taken"),
        (["tumor=gtv("], "is not a regular expression"),
        (["tumor=1,2", "rectum=2"], "2 stands for both"),
        (["tumor=gtv.*"], "chooses structures by name"),
        (["tumor=1,0"], "tumor=1,0: 0 is background"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path, labels, reason):
    with pytest.raises(RectalError, match=reason.replace("(", r"\(")):
        converted(tmp_path, write_values(tmp_path, 1), labels)
    assert not (tmp_path / "raw").exists()


def test_labels_without_masks_are_refused(tmp_path):
    images, _ = write_cohort(tmp_path)
    with pytest.raises(RectalError, match="name their folder with --masks"):
        converted(tmp_path, (images, None), ["tumor=1"])


# Real series


TURNS = {
    "as it is": np.eye(3),
    "coronal or axial": Rotation.from_euler("x", 90, degrees=True).as_matrix(),
    "feet first": np.diag([-1.0, 1.0, -1.0]),
    "rotated": Rotation.from_euler("xyz", [21, 13, -32], degrees=True).as_matrix(),
    "reversed order": np.eye(3),
}


def write_turned(source, folder, turn, number):
    """Write a real series as another patient's, who lay otherwise in the scanner."""
    folder.mkdir(parents=True)
    paths = sorted(source.iterdir())
    for count, path in enumerate(paths, start=1):
        header = pydicom.dcmread(path)
        row, column = np.reshape(header.ImageOrientationPatient, (2, 3)) @ TURNS[turn].T
        header.ImageOrientationPatient = [round(float(value), 9) for value in (*row, *column)]
        header.ImagePositionPatient = [round(float(v), 6) for v in TURNS[turn] @ header.ImagePositionPatient]
        header.PatientID = header.PatientName = f"P{number}"
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(header, keyword, f"1.2.826.0.1.{number + 1}.{len(keyword)}")
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{number + 1}.9.{count}"
        if turn == "reversed order":
            header.InstanceNumber = len(paths) + 1 - int(header.InstanceNumber)
        header.PatientPosition = "FFS" if turn == "feet first" else "HFS"
        header.save_as(folder / f"{count:04d}.dcm")
    (series,) = find_series(folder, PLANES).series
    return series


@pytest.mark.slow
@needs_real_scans
def test_outlines_on_real_series_turned_in_every_way_become_the_same_voxels(tmp_path):
    expected = {}
    for plane in ("axial", "sagittal"):
        for turn in TURNS:
            number = len(expected)
            folder = tmp_path / "dicom" / f"t2_{number}"
            series = write_turned(REAL / f"prostatex-0000_t2w_{plane}", folder, turn, number)
            ball, bar, _ = hand(series)
            write = (write_segmentation, write_contours)[number % 2]
            (tmp_path / "masks").mkdir(exist_ok=True)
            lesions = [Lesion("ball", ball), Lesion("bar", bar)]
            write(tmp_path / f"masks/{number}.dcm", series, lesions, ALGORITHM)
            expected[f"t2_{number}"] = coordinates(series), (ball, bar)
    convert(tmp_path, labels=["ball=ball", "bar=bar"])
    for case, (places, masks) in expected.items():
        (path,) = (tmp_path / "raw").rglob(f"labelsTr/{case}.nii.gz")
        label = sitk.ReadImage(str(path))
        counts = [np.count_nonzero(sitk.GetArrayViewFromImage(label) == value) for value in (1, 2)]
        assert counts == [masks[0].sum(), (masks[1] & ~masks[0]).sum()]
        for value, mask in ((1, masks[0]), (2, masks[1] & ~masks[0])):
            for place in places[:, mask].T.tolist():
                assert label[label.TransformPhysicalPointToIndex(place)] == value
