"""Conversion of DICOM: which series are taken, how they are stacked, named and matched, and what is refused."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conversion_inputs import SAGITTAL, SPACING, every_byte_of, hide_tag, scan, tumor, write_frames, write_series

from rectal_nnformer.dataset_conversion.dicom import convert_dicom
from rectal_nnformer.dicom.series import find_series, plane_of
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.patients import read_patients

REAL = Path(__file__).parents[2] / "shared" / "data" / "pelvic_t2w"
needs_real_scans = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real pelvic MRI is not in {REAL}")


def convert(folder, masks="masks", **options):
    return convert_dicom(folder / "dicom", masks and folder / masks, 501, "Rectal", raw=folder / "raw", **options)


def refusal(folder, **options):
    with pytest.raises(RectalError) as caught:
        convert(folder, **options)
    assert not (folder / "raw").exists()
    return str(caught.value)


def write_cohort(folder, count=5):
    """Write series t2_0, t2_1 ... of as many patients at different depths, with masks named by folder."""
    (folder / "masks").mkdir(parents=True)
    for number in range(count):
        place = folder / "dicom" / "/".join("abc"[: number % 3]) / f"t2_{number}"
        write_series(place, scan(number), f"1.2.{number}", patient=f"SECRET-{number}")
        sitk.WriteImage(tumor(), str(folder / "masks" / f"t2_{number}.nii.gz"))
    return folder


def image_of(folder, case):
    return sitk.ReadImage(str(folder / "raw/Dataset501_Rectal/imagesTr" / f"{case}_0000.nii.gz"))


# What is written


def test_series_at_any_depth_become_cases_with_voxels_and_geometry_kept(tmp_path):
    folder = convert(write_cohort(tmp_path))
    assert sorted(p.name for p in (folder / "labelsTr").iterdir()) == [f"t2_{i}.nii.gz" for i in range(5)]
    for number in range(5):
        image = image_of(tmp_path, f"t2_{number}")
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(scan(number)))
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert np.allclose(getattr(image, what)(), getattr(scan(), what)(), atol=1e-5)


def test_patients_come_from_the_headers_and_are_not_written(tmp_path):
    write_cohort(tmp_path, count=6)
    write_series(tmp_path / "dicom" / "again", scan(9), "1.2.9", patient="SECRET-3")
    sitk.WriteImage(tumor(), str(tmp_path / "masks" / "again.nii.gz"))
    folder = convert(tmp_path)
    (fold,) = [f for f in json.loads((folder / "splits_final.json").read_text()) if "again" in f["val"]]
    assert "t2_3" in fold["val"]
    content = every_byte_of(folder)
    assert b"SECRET" not in content and b"Doe" not in content and b"1.2.9" not in content


def test_the_same_scan_of_two_patients_is_told_without_their_ids(tmp_path, capsys):
    write_cohort(tmp_path, count=6)
    write_series(tmp_path / "dicom" / "again", scan(3), "1.2.9", patient="SECRET-9")
    sitk.WriteImage(tumor(), str(tmp_path / "masks" / "again.nii.gz"))
    convert(tmp_path)
    told = capsys.readouterr().out
    assert "again (patient patient_001) and t2_3 (patient patient_005) hold the same voxels" in told
    assert "SECRET" not in told


def test_without_masks_cases_go_to_images_ts(tmp_path):
    folder = convert(write_cohort(tmp_path, count=2), masks=None)
    assert sorted(p.name for p in (folder / "imagesTs").iterdir()) == ["t2_0_0000.nii.gz", "t2_1_0000.nii.gz"]
    assert not (folder / "imagesTr").exists()


def test_a_list_of_patients_overrides_the_headers(tmp_path):
    write_cohort(tmp_path, count=6)
    table = tmp_path / "p.csv"
    table.write_text("case,patient\n" + "".join(f"t2_{i},{i // 2}\n" for i in range(6)))
    assert "Only 3 patients for 5 folds" in refusal(tmp_path, patients=table)


@pytest.mark.parametrize(
    ("folder", "patient", "name", "noted"),
    [
        ("secret-17_t2", "SECRET-17", "Doe^Jane", True),
        ("t2 secret 17", "SECRET 17", "Doe^Jane", True),
        ("t2_janes", "SECRET-17", "Doe^Jane", True),
        ("t2_müller", "SECRET-17", "Müller^Jo", True),
        ("t2_jo_17", "17", "Doe^Jo", False),
    ],
)
def test_case_names_that_contain_patient_id_or_name_are_pointed_out(tmp_path, capsys, folder, patient, name, noted):
    write_series(tmp_path / "dicom" / folder, scan(), "1.2.3", patient=patient, T0010_0010=name)
    convert(tmp_path, masks=None)
    output = capsys.readouterr().out
    assert ("1 case name, taken from folder names" in output) == noted
    assert name not in output


# Which series are taken


def test_other_series_are_ignored_and_the_reason_said(tmp_path, capsys):
    write_cohort(tmp_path)
    dicom = tmp_path / "dicom"
    write_series(dicom / "sagittal", scan(1, SAGITTAL), "2.1")
    write_series(dicom / "scout", scan(2), "2.2", T0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    write_series(dicom / "thin", scan(3)[:, :, :5], "2.3")
    write_series(dicom / "ct", scan(4), "2.4", T0008_0060="CT")
    write_series(dicom / "three_planes", scan(5)[:, :, :5], "2.5", file_name="a{}")
    write_series(dicom / "three_planes", scan(5, SAGITTAL), "2.5", file_name="b{}")
    for path in write_series(dicom / "no_spacing", scan(6), "2.6").iterdir():
        hide_tag(path, 0x0028, 0x0030)
    write_frames(dicom / "subtraction" / "IM1", "2.7", "DERIVED\\SECONDARY")
    (dicom / "notes.txt").write_text("hello")
    folder = convert(tmp_path)
    assert len(list((folder / "imagesTr").iterdir())) == 5
    lines = {line.split("(series ")[-1][:3]: line for line in capsys.readouterr().out.splitlines()}
    assert "sagittal plane" in lines["2.1"]
    assert "localizer" in lines["2.2"]
    assert "5 slices" in lines["2.3"]
    assert "modality CT" in lines["2.4"]
    assert "5 slices of one wanted orientation, fewer than 8" in lines["2.5"]
    assert "no slice position, orientation or pixel spacing" in lines["2.6"]
    assert "multi-frame and not original" in lines["2.7"]
    assert any("not DICOM images: 1 file," in line for line in lines.values())


@pytest.mark.parametrize(
    ("storage", "is_image"),
    [
        ("1.2.840.10008.5.1.4.1.1.4", True),
        ("1.2.840.10008.5.1.4.1.1.4.1", True),
        ("1.2.840.10008.5.1.4.1.1.4.4", True),
        ("1.2.840.10008.5.1.4.1.1.4.2", False),  # spectroscopy
        ("1.2.840.10008.5.1.4.1.1.481.3", False),  # structure set
        ("1.2.840.10008.5.1.4.1.1.481.5", False),  # plan
    ],
)
def test_of_objects_without_pixels_only_mr_images_are_an_error(tmp_path, storage, is_image):
    uid = storage.encode() + b"\0" * (len(storage) % 2)
    meta = b"\x02\x00\x02\x00UI" + len(uid).to_bytes(2, "little") + uid
    path = tmp_path / "object.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + meta)
    findings = find_series(tmp_path)
    assert (findings.unreadable, findings.others) == (([path], []) if is_image else ([], [path]))


@pytest.mark.parametrize("modality", ["OT", ""])
def test_series_without_a_telling_modality_are_taken(tmp_path, modality):
    for path in write_series(tmp_path, scan(), "1.2", T0008_0060=modality or "MR").iterdir():
        if not modality:
            hide_tag(path, 0x0008, 0x0060)
    assert [s.uid for s in find_series(tmp_path).series] == ["1.2"]


def test_a_description_in_latin_1_can_be_chosen_and_printed(tmp_path, capsys):
    for path in write_series(tmp_path / "dicom" / "t2", scan(), "1.2", T0008_103e="T2 Rueckw").iterdir():
        path.write_bytes(path.read_bytes().replace(b"T2 Rueckw", b"T2 R\xfcckwa"))
    assert len(find_series(tmp_path / "dicom", description="rück").series) == 1
    assert "No series to convert" in refusal(tmp_path, masks=None, description="t1")
    assert "description 'T2 Rückwa' does not match" in capsys.readouterr().out


def test_other_planes_are_taken_if_asked_for(tmp_path):
    write_series(tmp_path / "dicom" / "sagittal", scan(1, SAGITTAL), "2.1")
    write_series(tmp_path / "dicom" / "axial", scan(2), "2.2")
    folder = convert(tmp_path, masks=None, planes=["sagittal"])
    (path,) = (folder / "imagesTs").iterdir()
    assert path.name == "sagittal_0000.nii.gz"
    image = sitk.ReadImage(str(path))
    assert np.allclose(image.GetDirection(), SAGITTAL.ravel(), atol=1e-6)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(scan(1, SAGITTAL)))


def test_series_can_be_chosen_by_description(tmp_path):
    write_cohort(tmp_path)
    write_series(tmp_path / "dicom" / "t1", scan(), "2.1", T0008_103e="t1_vibe_tra")
    assert "no mask t1.nii.gz" in refusal(tmp_path)
    assert len(list((convert(tmp_path, description="T2.*tra") / "imagesTr").iterdir())) == 5


def test_a_description_that_is_no_regular_expression_is_refused(tmp_path):
    assert "not a regular expression" in refusal(write_cohort(tmp_path), description="t2(")


def test_nothing_to_convert_is_an_error(tmp_path):
    write_series(tmp_path / "dicom", scan(1, SAGITTAL), "2.1")
    assert "No series to convert" in refusal(tmp_path, masks=None)
    with pytest.raises(RectalError, match="is not a folder"):
        find_series(tmp_path / "nowhere")
    (tmp_path / "empty" / "dicom").mkdir(parents=True)
    assert "no DICOM (NIfTI: convert nifti)" in refusal(tmp_path / "empty", masks=None)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    write_series(tmp_path / "t2", scan(), "1.2")
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuse(folder):
        if str(folder) == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RectalError, match="closed cannot be read: Permission denied"):
        find_series(tmp_path)


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    write_series(tmp_path / "archive" / "t2", scan(), "1.2")
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "link").symlink_to(tmp_path / "archive")
    (tmp_path / "dicom" / "loop").symlink_to(tmp_path / "dicom")
    assert [len(s.files) for s in find_series(tmp_path / "dicom").series] == [9]


@pytest.mark.parametrize(
    ("row", "column", "plane"),
    [
        ((1, 0, 0), (0, 1, 0), "axial"),
        ((1, 0, 0), (0, 0.8, -0.6), "axial"),
        ((-1, 0, 0), (0, 1, 0), "axial"),
        ((1, 0, 0), (0, 0.6, -0.8), "coronal"),
        ((0, 1, 0), (0, 0, -1), "sagittal"),
        ((0.5, 0.866, 0), (0, 0, -1), "sagittal"),
    ],
)
def test_planes_by_direction_cosines(row, column, plane):
    assert plane_of((*row, *column)) == plane


# Names, and masks by name


def test_series_that_share_a_folder_or_a_folder_name_get_a_suffix_of_their_own(tmp_path, capsys):
    for patient in range(3):
        write_series(
            tmp_path / "dicom" / f"SECRET-{patient}" / "t2", scan(patient), f"1.{patient}", f"SECRET-{patient}"
        )
    write_series(tmp_path / "dicom" / "flat", scan(3), "1.3", file_name="a{}")
    write_series(tmp_path / "dicom" / "flat", scan(4), "1.4", file_name="b{}")
    folder = convert(tmp_path, masks=None)
    names = sorted(p.name.removesuffix("_0000.nii.gz") for p in (folder / "imagesTs").iterdir())
    assert [name.rsplit("_", 1)[0] for name in names] == ["flat"] * 2 + ["t2"] * 3
    assert b"SECRET" not in every_byte_of(folder)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Case ")]
    assert [line.split(":")[0].removeprefix("Case ") for line in told] == names
    assert sum("SECRET-1/t2 (series 1.1)" in line for line in told) == 1
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "dicom", tmp_path / "elsewhere" / "dicom")
    again = convert(tmp_path / "elsewhere", masks=None)
    assert names == sorted(p.name.removesuffix("_0000.nii.gz") for p in (again / "imagesTs").iterdir())


def test_masks_are_found_by_folder_uid_or_case(tmp_path):
    write_cohort(tmp_path)
    masks = tmp_path / "masks"
    (masks / "t2_1.nii.gz").rename(masks / "1.2.1.nii.gz")
    sitk.WriteImage(tumor(), str(masks / "t2_2.nrrd"))
    (masks / "t2_2.nii.gz").unlink()
    write_series(tmp_path / "dicom" / "again" / "t2_4", scan(7), "1.2.7", patient="SECRET-7")
    message = refusal(tmp_path)
    assert "fits several series" in message
    (masks / "t2_4.nii.gz").rename(masks / "1.2.4.nii.gz")
    case = next(line.split(":")[0].strip() for line in message.splitlines() if "1.2.7.nii.gz" in line)
    sitk.WriteImage(tumor(), str(masks / f"{case}.mha"))
    labels = sorted(p.name for p in (convert(tmp_path) / "labelsTr").iterdir())
    assert len(labels) == 6 and f"{case}.nii.gz" in labels
    assert np.array_equal(sitk.GetArrayFromImage(image_of(tmp_path, case)), sitk.GetArrayFromImage(scan(7)))


def test_missing_partners_are_refused_in_both_directions(tmp_path):
    write_cohort(tmp_path)
    write_series(tmp_path / "dicom" / "sagittal", scan(1, SAGITTAL), "2.1")
    masks = tmp_path / "masks"
    (masks / "t2_1.nii.gz").unlink()
    sitk.WriteImage(tumor(), str(masks / "unknown.nii.gz"))
    sitk.WriteImage(tumor(), str(masks / "sagittal.nii.gz"))
    shutil.copy(masks / "t2_2.nii.gz", masks / "1.2.2.nii.gz")
    message = refusal(tmp_path)
    assert "t2_1: no mask t2_1.nii.gz or 1.2.1.nii.gz" in message
    assert "unknown.nii.gz: no series for this mask" in message
    assert "sagittal.nii.gz: no series for this mask: its series was ignored: sagittal plane" in message
    assert "t2_2: 1.2.2.nii.gz and t2_2.nii.gz are masks of the same series" in message
    assert "4 inputs" in message


def test_many_masks_without_a_series_take_one_line(tmp_path):
    write_cohort(tmp_path)
    (tmp_path / "masks/t2_1.nii.gz").unlink()
    for number in range(40):
        shutil.copy(tmp_path / "masks/t2_0.nii.gz", tmp_path / f"masks/other_{number:02d}.nii.gz")
    message = refusal(tmp_path)
    assert "41 inputs" in message and len(message.splitlines()) == 3
    names = ", ".join(f"other_{number:02d}.nii.gz" for number in range(5))
    assert f"{names} and 35 more: no series for this mask" in message
    assert "t2_1: no mask" in message


# What is refused


def _missing_slice(folder):
    (folder / "IM0005").unlink()


def _slice_twice(folder):
    shutil.copy(folder / "IM0005", folder / "copy")


def _truncated(folder):
    path = folder / "IM0005"
    path.write_bytes(path.read_bytes()[:-50])


def _empty(folder):
    (folder / "IM0005").unlink()
    (folder / "IM0005.dcm").write_bytes(b"")


def _sheared(folder):
    image = scan()
    shutil.rmtree(folder)
    for z in range(image.GetDepth()):
        slice_ = image[:, :, z : z + 1]
        slice_.SetOrigin(np.add(slice_.GetOrigin(), (0.5 * z, 0, 0)).tolist())
        write_series(folder, slice_, "1.2.3", patient="SECRET-3", file_name=f"{z}_{{}}")


def _other_matrix(folder):
    slice_ = scan()[:-1, :, :1]
    slice_.SetOrigin(scan().TransformIndexToPhysicalPoint((0, 0, 9)))
    write_series(folder, slice_, "1.2.3", patient="SECRET-3", file_name="large")


def _other_patient(folder):
    slice_ = scan()[:, :, :1]
    slice_.SetOrigin(scan().TransformIndexToPhysicalPoint((0, 0, 9)))
    write_series(folder, slice_, "1.2.3", patient="SECRET-4", file_name="other")


def _other_spacing(folder):
    slice_ = scan()[:, :, :1]
    slice_.SetSpacing((0.6, 0.75, 3.0))
    slice_.SetOrigin(scan().TransformIndexToPhysicalPoint((0, 0, 9)))
    write_series(folder, slice_, "1.2.3", patient="SECRET-3", file_name="wide")


def _copied(folder):
    shutil.copytree(folder, folder.parent / "copy")


def _slice_without_position(folder):
    hide_tag(folder / "IM0009", 0x0020, 0x0032)


def _slice_without_series(folder):
    hide_tag(folder / "IM0009", 0x0020, 0x000E)


def _slice_of_another_plane(folder):
    write_series(folder, scan(3, SAGITTAL)[:, :, :1], "1.2.3", patient="SECRET-3", file_name="sagittal")


def _slice_of_another_tilt(folder):
    write_series(folder, scan(3, np.eye(3))[:, :, :1], "1.2.3", patient="SECRET-3", file_name="straight")


def _frames(folder):
    shutil.rmtree(folder)
    write_frames(folder / "IM0001", "1.2.3", "ORIGINAL\\PRIMARY\\M")


def _dead_link(folder):
    (folder / "IM0010").symlink_to(folder / "gone")


def _no_patient(folder):
    shutil.rmtree(folder)
    write_series(folder, scan(3), "1.2.3", patient="")


def _constant(folder):
    shutil.rmtree(folder)
    write_series(folder, 0 * scan(3), "1.2.3", patient="SECRET-3")


@pytest.mark.parametrize(
    ("spoil", "name", "reason"),
    [
        (_missing_slice, "t2_3", "slices are missing or unevenly spaced: 6.00 mm"),
        (_slice_twice, "t2_3", "t2_3/IM0005 and "),
        (_truncated, "IM0005", "cannot be read as DICOM"),
        (_empty, "IM0005.dcm", "cannot be read as DICOM"),
        (_sheared, "t2_3", "sheared"),
        (_other_matrix, "t2_3", "differ in size"),
        (_other_patient, "t2_3", "differ in patient"),
        (_other_spacing, "t2_3", "differ in spacing"),
        (_slice_without_position, "t2_3", "8 of its 9 slices make a stack"),
        (_slice_without_position, "t2_3", "(IM0009: no slice position"),
        (_slice_without_series, "no SeriesInstanceUID", "1 MR slice without SeriesInstanceUID, such as IM0009"),
        (_slice_of_another_plane, "t2_3", "(sagittal: sagittal plane"),
        (_slice_of_another_tilt, "t2_3", "(straight: another orientation)"),
        (_frames, "t2_3", "--description"),
        (_frames, "t2_3", "multi-frame DICOM is not read where it does not tell the place of each frame"),
        (_dead_link, "IM0010", "cannot be read as DICOM"),
        (_copied, "copy", "t2_3/IM0009 lie in the same place"),
        (_no_patient, "t2_3", "no PatientID"),
        (_no_patient, "t2_3", "--split-by-case"),
        (_constant, "t2_3", "constant"),
    ],
)
def test_refuses_by_name_what_cannot_be_right(tmp_path, spoil, name, reason):
    write_cohort(tmp_path)
    spoil(tmp_path / "dicom" / "t2_3")
    message = refusal(
        tmp_path,
    )
    assert [name in line and reason in line for line in message.splitlines()[1:]].count(True) == 1, message
    assert "SECRET" not in message


def test_split_by_case_needs_no_patient(tmp_path):
    for path in write_cohort(tmp_path).rglob("IM*"):
        hide_tag(path, 0x0010, 0x0020)
    folder = convert(tmp_path, split_by_case=True)
    assert len(set(read_patients(folder).values())) == 5


def test_a_mask_on_another_grid_is_refused(tmp_path):
    write_cohort(tmp_path)
    mask = tumor()
    mask.SetOrigin(np.add(mask.GetOrigin(), (0, 0, 3)).tolist())
    sitk.WriteImage(mask, str(tmp_path / "masks" / "t2_2.nii.gz"))
    assert "t2_2: mask has another geometry" in refusal(tmp_path)


def test_a_mask_whose_slices_are_stored_the_other_way_round_is_turned(tmp_path):
    write_cohort(tmp_path)
    flipped = sitk.Flip(tumor(), (False, False, True))
    sitk.WriteImage(flipped, str(tmp_path / "masks" / "t2_2.nii.gz"))
    mask = sitk.ReadImage(str(convert(tmp_path) / "labelsTr" / "t2_2.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(tumor()))


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path):
    write_series(tmp_path / "t2", scan(), "1.2")
    os.mkfifo(tmp_path / "t2/pipe.dcm")
    findings = find_series(tmp_path)
    assert len(findings.series) == 1 and findings.others == [tmp_path / "t2/pipe.dcm"]


def test_names_of_folders_and_files_need_not_be_in_utf8(tmp_path):
    write_cohort(tmp_path)
    for number in range(5):
        (folder,) = (tmp_path / "dicom").rglob(f"t2_{number}")
        first = min(folder.iterdir())
        first.rename(os.fsdecode(os.fsencode(folder) + b"/\xe4.dcm"))
    folder.rename(os.fsdecode(os.fsencode(folder) + b"\xff\xfe"))
    assert sorted(p.name for p in (convert(tmp_path) / "labelsTr").iterdir()) == [f"t2_{i}.nii.gz" for i in range(5)]
    assert np.array_equal(sitk.GetArrayFromImage(image_of(tmp_path, "t2_4")), sitk.GetArrayFromImage(scan(4)))


def test_hidden_files_and_folders_are_told(tmp_path, capsys):
    write_cohort(tmp_path)
    for place in ("dicom/._IM0001", "masks/.DS_Store", "masks/deep/._seg.dcm"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "dicom/.trash").mkdir()
    convert(tmp_path)
    told = capsys.readouterr().out
    assert f"Ignored, hidden: {tmp_path / 'dicom/._IM0001'}, {tmp_path / 'dicom/.trash'}\n" in told
    assert f"Left aside in {tmp_path / 'masks'}, hidden: .DS_Store\n" in told
    assert f"Left aside, hidden: {tmp_path / 'masks/deep/._seg.dcm'}\n" in told


# Headers that vary from slice to slice


def _slope(header, values):
    header.RescaleSlope, header.RescaleIntercept = "0.5", "-10"
    return 0.5 * values - 10


def _intercept_beyond_16_bits(header, values):
    header.RescaleSlope, header.RescaleIntercept = "2", "-70000"
    return 2.0 * values - 70000


def _eight_bits(header, values):
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    values = (values % 256).astype(np.uint8)
    header.PixelData = values.tobytes()
    return values


def _other_sign(header, values):
    header.PixelRepresentation = 1 - header.PixelRepresentation
    values = values.astype(np.int64) + (-1100 if header.PixelRepresentation else 60000)
    header.PixelData = values.astype(np.int16 if header.PixelRepresentation else np.uint16).tobytes()
    return values


@pytest.mark.parametrize("change", [_slope, _intercept_beyond_16_bits, _eight_bits, _other_sign])
@pytest.mark.parametrize("first", [0, 1])
def test_slices_of_one_series_keep_their_values_whatever_their_headers_differ_in(tmp_path, change, first):
    paths = sorted(write_series(tmp_path / "t2", scan(), "1.2").iterdir(), reverse=True)
    expected = sitk.GetArrayFromImage(scan()).astype(np.float64)
    for z in range(first, len(paths), 2):
        header = pydicom.dcmread(paths[z])
        expected[z] = change(header, header.pixel_array)
        header.save_as(paths[z])
    (series,) = find_series(tmp_path).series
    assert np.array_equal(sitk.GetArrayFromImage(series.read()), expected)


def test_spacings_that_differ_in_the_last_digit_are_equal(tmp_path):
    paths = sorted(write_series(tmp_path / "t2", scan(), "1.2").iterdir())
    header = pydicom.dcmread(paths[3])
    header.PixelSpacing = ["0.750001", "0.499999"]
    header.save_as(paths[3])
    (series,) = find_series(tmp_path).series
    assert series.spacing == pytest.approx(SPACING, abs=1e-5)


@pytest.mark.parametrize("encoding", ["GB18030", "GBK", "ISO_IR 192", "ISO_IR 100", "ISO 2022 IR 87"])
def test_descriptions_in_any_character_set_can_be_chosen(tmp_path, encoding):
    description = {"ISO 2022 IR 87": "T2 \u76f4\u8178", "ISO_IR 100": "T2 R\u00fcck"}.get(encoding, "T2 \u76f4\u80a0")
    for path in write_series(tmp_path / "t2", scan(), "1.2").iterdir():
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet = ["", encoding] if "2022" in encoding else encoding
        header.SeriesDescription = description
        header.save_as(path)
    assert find_series(tmp_path, description=f"^{description}$").series


def test_colours_are_refused(tmp_path):
    for path in write_series(tmp_path / "dicom" / "t2", scan(), "1.2").iterdir():
        header = pydicom.dcmread(path)
        header.PhotometricInterpretation, header.SamplesPerPixel, header.PlanarConfiguration = "RGB", 3, 0
        header.PixelData = 3 * header.PixelData
        header.save_as(path)
    assert "colours (RGB)" in refusal(tmp_path, masks=None)


# Real scans


@needs_real_scans
def test_real_series_are_read_as_simpleitk_reads_them(tmp_path, capsys):
    folder = convert_dicom(REAL, None, 501, "Real", raw=tmp_path)
    assert "sagittal plane" in capsys.readouterr().out
    paths = sorted((folder / "imagesTs").iterdir())
    assert [p.name for p in paths] == [f"prostatex-000{i}_t2w_axial_0000.nii.gz" for i in (0, 1)]
    for path in paths:
        source = REAL / path.name.removesuffix("_0000.nii.gz")
        expected = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source)))
        actual = sitk.ReadImage(str(path))
        assert np.array_equal(sitk.GetArrayFromImage(actual), sitk.GetArrayFromImage(expected))
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert np.allclose(getattr(actual, what)(), getattr(expected, what)(), atol=1e-4)
    assert b"MCAPRODETW" not in every_byte_of(folder)  # a word of the StudyDescription
