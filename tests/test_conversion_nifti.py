"""Conversion of NIfTI folders: what is written, what is refused, and that nothing is left half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conversion_inputs import SIZE, as_image, every_byte_of, scan, swap_bytes, tumor, write_cohort, write_frames
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from rectal_nnformer.cli import main
from rectal_nnformer.dataset_conversion import raw_dataset
from rectal_nnformer.dataset_conversion.nifti import convert_nifti
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import grid_differences, read_image
from rectal_nnformer.nnunet.patients import read_patients


def convert(folder, images, masks, **options):
    return convert_nifti(images, masks, 501, "Rectal", raw=folder / "raw", **options)


def refusal(folder, images, masks, **options):
    """Return the message that a conversion ends with, after making sure that it wrote nothing."""
    with pytest.raises(RectalError) as caught:
        convert(folder, images, masks, **options)
    raw = folder / "raw"
    assert not raw.exists() or not list(raw.iterdir())
    return str(caught.value)


def line_of(message, name):
    lines = [line for line in message.splitlines() if line.strip().startswith(f"{name}:")]
    assert len(lines) == 1, message
    return lines[0]


# What is written


def test_writes_a_dataset_that_nnunet_accepts(tmp_path):
    images, masks = write_cohort(tmp_path)
    folder = convert(tmp_path, images, masks)
    assert folder == tmp_path / "raw" / "Dataset501_Rectal"
    assert sorted(p.name for p in (folder / "imagesTr").iterdir())[0] == "case_a_0000.nii.gz"
    assert sorted(p.name for p in (folder / "labelsTr").iterdir())[0] == "case_a.nii.gz"
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "tumor": 1}
    assert content["channel_names"] == {"0": "T2w"}
    assert (content["numTraining"], content["file_ending"]) == (6, ".nii.gz")
    verify_dataset_integrity(str(folder), num_processes=1)


@pytest.mark.parametrize("order", ["RAS", "SAL", "IPR"])
def test_a_mask_whose_axes_are_flipped_or_permuted_is_reordered(tmp_path, order):
    images, masks = write_cohort(tmp_path)
    as_it_was = convert(tmp_path / "one", images, masks)
    path = masks / "case_b.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), order), str(path))
    folder = convert(tmp_path / "other", images, masks)
    one, other = (sitk.ReadImage(str(f / "labelsTr/case_b.nii.gz")) for f in (as_it_was, folder))
    assert np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
    assert one.GetDirection() == other.GetDirection()


def test_the_same_scan_under_two_patients_is_told(tmp_path, capsys):
    images, masks = write_cohort(tmp_path)
    (images / "case_c_0000.nii.gz").write_bytes((images / "case_a_0000.nii.gz").read_bytes())
    convert(tmp_path, images, masks)
    told = capsys.readouterr().out
    assert "The images of case_a (patient patient_001) and case_c (patient patient_003) hold the same" in told


def contradict(path):
    """Write 1 mm as pixdim beside the sform's own spacing."""
    image = nibabel.load(path)
    header = image.header
    header["pixdim"][1:4] = 1
    header["qform_code"] = 0
    nibabel.Nifti1Image(np.asarray(image.dataobj), None, header).to_filename(path)


def test_a_header_that_contradicts_itself_is_told(tmp_path, capsys):
    """What was taken, and what the other would be."""
    images, masks = write_cohort(tmp_path)
    contradict(images / "case_a_0000.nii.gz")
    told = (
        "case_a_0000.nii.gz: the grid was taken with the spacing 1 x 1 x 1 mm, but its sform has the spacing 0.5 x 0."
    )
    assert told in refusal(tmp_path, images, masks)
    contradict(masks / "case_a.nii.gz")
    convert(tmp_path, images, masks)
    assert told in capsys.readouterr().out


def prepared_cohort(folder, top=800):
    """Images from 0 to `top`, with zeros inside."""
    images, masks = write_cohort(folder)
    for path in images.iterdir():
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image).astype(np.float32)
        scaled = sitk.GetImageFromArray((array - array.min()) / (array.max() - array.min()) * np.float32(top))
        scaled.CopyInformation(image)
        sitk.WriteImage(scaled, str(path))
    return images, masks


@pytest.mark.parametrize("training", [True, False])
def test_prepared_images_keep_their_values_but_for_zeros(tmp_path, training):
    images, masks = prepared_cohort(tmp_path)
    folder = convert(tmp_path, images, masks if training else None, prepared=True)
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "noNorm"}
    for path in images.iterdir():
        original = sitk.ReadImage(str(path))
        name = f"{path.name.removesuffix('.nii.gz').removesuffix('_0000')}_0000.nii.gz"
        written = sitk.ReadImage(str(folder / ("imagesTr" if training else "imagesTs") / name))
        assert not grid_differences(original, written)
        before, after = sitk.GetArrayViewFromImage(original), sitk.GetArrayViewFromImage(written)
        assert (before == 0).any()
        np.testing.assert_array_equal(after, np.where(before == 0, np.float32(0.001), before))


@pytest.mark.parametrize("top", [1, 1200])
def test_images_that_were_not_prepared_are_refused(tmp_path, top):
    message = refusal(tmp_path, *prepared_cohort(tmp_path, top), prepared=True)
    assert f"image reaches from 0 to {top}" in line_of(message, "case_a")


def test_the_command_takes_prepared_images(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    images, masks = prepared_cohort(tmp_path)
    options = ("--images", str(images), "--masks", str(masks), "-d", "501", "--name", "Rectal", "-np", "1")
    main(["convert", "nifti", *options, "--prepared"])
    content = json.loads((tmp_path / "raw/Dataset501_Rectal/dataset.json").read_text())
    assert content["channel_names"] == {"0": "noNorm"}


def test_reader_is_the_reorienting_one_and_a_typo_would_not_be(tmp_path):
    folder = convert(tmp_path, *write_cohort(tmp_path))
    content = json.loads((folder / "dataset.json").read_text())
    assert determine_reader_writer_from_dataset_json(content) is SimpleITKIOWithReorient
    content["overwrite_image_reader_writer"] += "s"
    assert determine_reader_writer_from_dataset_json(content) is not SimpleITKIOWithReorient


def test_splits_keep_patients_together_and_nothing_names_them(tmp_path):
    images, masks = write_cohort(tmp_path, count=10)
    names = sorted(p.name.removesuffix("_0000.nii.gz") for p in images.iterdir())
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\n" + "".join(f"{name},Jane Doe {i // 2}\n" for i, name in enumerate(names)))
    folder = convert(tmp_path, images, masks, patients=table)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert sorted(fold["val"] for fold in splits) == [names[i : i + 2] for i in range(0, 10, 2)]
    assert all(sorted(fold["train"] + fold["val"]) == names for fold in splits)
    grouping = read_patients(folder)
    assert [grouping[name] for name in names[:4]] == ["patient_001", "patient_001", "patient_002", "patient_002"]
    assert b"Jane" not in every_byte_of(folder)


def test_without_masks_cases_go_to_images_ts(tmp_path):
    images, _ = write_cohort(tmp_path, count=2)
    folder = convert(tmp_path, images, None)
    assert sorted(p.name for p in folder.iterdir()) == ["contact_sheet.png", "dataset.json", "imagesTs"]
    assert sorted(p.name for p in (folder / "imagesTs").iterdir()) == ["case_a_0000.nii.gz", "case_b_0000.nii.gz"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 0


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", "_0000.nii", ".nrrd", ".mha", ".mhd"])
def test_other_names_and_formats_give_the_same_dataset(tmp_path, capsys, suffix):
    expected = convert(tmp_path / "1", *write_cohort(tmp_path / "1"))
    actual = convert(tmp_path / "2", *write_cohort(tmp_path / "2", suffix=suffix))
    for path in (expected / "imagesTr").iterdir():
        a, b = sitk.ReadImage(str(path)), sitk.ReadImage(str(actual / "imagesTr" / path.name))
        assert np.array_equal(sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b))
        assert np.allclose(a.GetDirection(), b.GetDirection(), atol=1e-6)
    assert "Left aside" not in capsys.readouterr().out


def test_two_workers_write_the_same_bytes_as_one(tmp_path):
    images, masks = write_cohort(tmp_path)
    one = convert(tmp_path / "1", images, masks, workers=1)
    two = convert(tmp_path / "2", images, masks, workers=2)
    assert every_byte_of(one) == every_byte_of(two)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (np.array([0, 30000], np.uint16), sitk.sitkInt16),
        (np.array([0, 40000], np.uint16), sitk.sitkFloat32),
        (np.array([0, 7], np.float64), sitk.sitkInt16),
        (np.array([0, 0.5], np.float64), sitk.sitkFloat32),
    ],
)
def test_pixel_types_hold_every_value(tmp_path, values, stored):
    images, masks = write_cohort(tmp_path)
    array = np.resize(values, SIZE[::-1])
    sitk.WriteImage(as_image(array), str(images / "case_a_0000.nii.gz"))
    folder = convert(tmp_path, images, masks)
    image = sitk.ReadImage(str(folder / "imagesTr" / "case_a_0000.nii.gz"))
    assert image.GetPixelID() == stored
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert sitk.ReadImage(str(folder / "labelsTr" / "case_a.nii.gz")).GetPixelID() == sitk.sitkUInt8


def test_a_big_endian_image_is_read_with_its_own_byte_order(tmp_path):
    images, masks = write_cohort(tmp_path)
    array = sitk.GetArrayFromImage(scan()).astype(np.float32)
    array[0, 0, 0] = np.array([0x3F80C07F], np.uint32).view(np.float32)[0]  # NaN if read the other way round
    (images / "case_a_0000.nii.gz").unlink()
    sitk.WriteImage(as_image(array), str(images / "case_a.nii"))
    swap_bytes(images / "case_a.nii")
    folder = convert(tmp_path, images, masks)
    image = sitk.ReadImage(str(folder / "imagesTr" / "case_a_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), array)


GRID = np.array([[-0.5, 0, 0, 10], [0, -0.75, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], float)
"""What NIfTI tells of the test scans if they lie straight (RAS)."""


def write_nifti(path, affine=GRID, slope=None, inter=None, qform=None):
    """Write case_a's voxels by nibabel, the grid in the sform alone unless a qform is given; return them (x, y, z)."""
    array = sitk.GetArrayFromImage(scan()).T
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_sform(affine, 1)
    image.header.set_qform(qform, 0 if qform is None else 1)
    image.header["pixdim"][1:4] = np.linalg.norm((affine if qform is None else qform)[:3, :3], axis=0)
    image.to_filename(path)
    if slope is not None:
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([slope, inter], "<f4").tobytes()
        path.write_bytes(content)
    return array


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [
        (2.5, -10, lambda a: 2.5 * a - 10),
        (1, -5, lambda a: a - 5),
        (-1, 0, lambda a: -a),
        (np.nan, np.nan, lambda a: a),
    ],
)
def test_scale_factors_are_applied(tmp_path, slope, inter, expected):
    images, _ = write_cohort(tmp_path, count=1)
    array = write_nifti(images / "case_b.nii", slope=slope, inter=inter)
    written = sitk.ReadImage(str(convert(tmp_path, images, None) / "imagesTs/case_b_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(written).T, expected(array.astype(np.float64)))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_axis_of_one_volume_is_dropped_and_one_of_two_refused(tmp_path, suffix):
    images, _ = write_cohort(tmp_path, count=1)
    path = images / f"case_b{suffix}"
    sitk.WriteImage(sitk.JoinSeries([scan()]), str(path))
    written = sitk.ReadImage(str(convert(tmp_path, images, None) / "imagesTs/case_b_0000.nii.gz"))
    assert not grid_differences(scan(), written)
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(scan()))
    shutil.rmtree(tmp_path / "raw")
    sitk.WriteImage(sitk.JoinSeries([scan(), scan()]), str(path))
    message = line_of(refusal(tmp_path, images, None), "case_b")
    assert "(size 12 x 10 x 9 x 2); it holds 2 volumes: write each as a file of its own" in message


def test_axes_that_are_not_quite_orthogonal_are_straightened_and_skewed_ones_refused(tmp_path):
    images, _ = write_cohort(tmp_path, count=1)
    askew = GRID.copy()
    askew[0, 2] = 0.0008 * 3
    array = write_nifti(images / "case_b.nii.gz", askew)
    with pytest.raises(RectalError, match="not quite at right angles, which nnU-Net cannot read"):
        read_image(images / "case_b.nii.gz")
    written = sitk.ReadImage(str(convert(tmp_path, images, None) / "imagesTs/case_b_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(written).T, array)
    assert written.GetOrigin() == pytest.approx((-10, 20, 5)) and written.GetSpacing() == pytest.approx((0.5, 0.75, 3))
    axes = np.reshape(written.GetDirection(), (3, 3))
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6) and np.allclose(axes, np.eye(3), atol=0.0009)
    shutil.rmtree(tmp_path / "raw")
    askew[0, 2] = 0.05 * 3
    write_nifti(images / "case_b.nii.gz", askew)
    message = line_of(refusal(tmp_path, images, None), "case_b")
    assert "not at right angles (by its sform 87.1 degrees); resample it onto straight axes" in message


def test_of_sform_and_qform_that_disagree_the_one_taken_is_told(tmp_path, capsys):
    images, _ = write_cohort(tmp_path, count=1)
    moved = GRID.copy()
    moved[0, 3] = 55
    write_nifti(images / "case_b.nii.gz", qform=moved)
    written = sitk.ReadImage(str(convert(tmp_path, images, None) / "imagesTs/case_b_0000.nii.gz"))
    assert written.GetOrigin() == pytest.approx((-10, 20, 5))
    assert (
        "case_b.nii.gz: the grid was taken with the spacing 0.5 x 0.75 x 3 mm, but its qform" in capsys.readouterr().out
    )


def test_free_text_of_headers_is_not_carried_over(tmp_path):
    images, masks = write_cohort(tmp_path)
    image = scan()
    image.SetMetaData("aux_file", "JANE-DOE")
    sitk.WriteImage(image, str(images / "case_a_0000.nii.gz"))
    assert b"JANE-DOE" in every_byte_of(images)
    assert b"JANE-DOE" not in every_byte_of(convert(tmp_path, images, masks))


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SPR", "AIL"])
def test_nnunet_reads_every_storage_order_alike(tmp_path, orientation):
    images, masks = write_cohort(tmp_path)
    # One bright voxel at each end of each axis of the patient: told apart, whatever the storage.
    array = np.ones(SIZE[::-1], np.int16)
    array[0, 5, 6], array[-1, 5, 6] = 10, 20  # inferior, superior
    array[4, 0, 6], array[4, -1, 6] = 30, 40  # anterior, posterior
    array[4, 5, 0], array[4, 5, -1] = 50, 60  # right, left
    for name, image in (("images/case_a_0000", as_image(array)), ("masks/case_a", tumor())):
        sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(tmp_path / f"{name}.nii.gz"))
    folder = convert(tmp_path, images, masks)
    reader = SimpleITKIOWithReorient()
    volume, properties = reader.read_images([str(folder / "imagesTr" / "case_a_0000.nii.gz")])
    assert np.array_equal(volume[0], array[:, ::-1, ::-1])  # z, y, x increasing to S, A, R
    assert (volume[0, -1, 4, 5], volume[0, 4, -1, 5], volume[0, 4, 4, -1]) == (20, 30, 50)
    assert np.allclose(properties["spacing"], (3.0, 0.75, 0.5))
    label, _ = reader.read_seg(str(folder / "labelsTr" / "case_a.nii.gz"))
    assert np.array_equal(label[0], sitk.GetArrayFromImage(tumor())[:, ::-1, ::-1])


def test_case_names_may_end_in_four_digits_if_the_masks_say_so(tmp_path):
    images, masks = write_cohort(tmp_path, count=7, suffix=".nii.gz")
    names = ["scan_0000", "scan_0001", "rectal_0001_0000", "rectal_0002_0000", "rectal_0000_0000"]
    cases = ["scan_0000", "scan_0001", "rectal_0001", "rectal_0002", "rectal_0000"]
    for old, name, case in zip("abcde", names, cases, strict=True):
        (images / f"case_{old}.nii.gz").rename(images / f"{name}.nii.gz")
        (masks / f"case_{old}.nii.gz").rename(masks / f"{case}.nii.gz")
    folder = convert(tmp_path, images, masks)
    expected = sorted([*cases, "case_f", "case_g"])
    assert sorted(p.name for p in (folder / "labelsTr").iterdir()) == [f"{c}.nii.gz" for c in expected]
    assert {p.name for p in (folder / "imagesTr").iterdir()} == {f"{c}_0000.nii.gz" for c in expected}
    for number, case in enumerate(cases):
        image = sitk.ReadImage(str(folder / "imagesTr" / f"{case}_0000.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(scan(number)))


def test_images_of_unknown_orientation_are_named(tmp_path, capsys):
    images, _ = write_cohort(tmp_path, count=2, suffix=".nii")
    path = images / "case_b.nii"
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # qform_code, sform_code
    path.write_bytes(content)
    convert(tmp_path, images, None)
    assert "1 image does not tell the orientation (neither qform nor sform): case_b." in capsys.readouterr().out


def test_what_is_no_image_is_left_aside_and_said(tmp_path, capsys):
    images, masks = write_cohort(tmp_path)
    (images / "notes.txt").write_text("hello")
    (images / "old").mkdir()
    convert(tmp_path, images, masks)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Left aside")]
    assert str(images) in line and line.endswith("notes.txt, old/")


# What is refused


def write_array(path, array, **geometry):
    sitk.WriteImage(as_image(array, **geometry), str(path))


def _other_spacing(images, masks):
    write_array(masks / "case_b.nii.gz", sitk.GetArrayFromImage(tumor()), spacing=(0.5, 0.75, 3.6))


def _other_size(images, masks):
    write_array(masks / "case_b.nii.gz", sitk.GetArrayFromImage(tumor())[:-1])


def _other_origin(images, masks):
    mask = tumor()
    mask.SetOrigin((-10.0, 20.0, 5.2))
    sitk.WriteImage(mask, str(masks / "case_b.nii.gz"))


def _other_direction(images, masks):
    mask = tumor()
    mask.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(mask, str(masks / "case_b.nii.gz"))


def _nearly_one(images, masks):
    write_array(masks / "case_b.nii.gz", sitk.GetArrayFromImage(tumor()) * np.float32(0.9999999))


def _foreign_labels(images, masks):
    write_array(masks / "case_b.nii.gz", 255 * sitk.GetArrayFromImage(tumor()))


def _half_label(images, masks):
    write_array(masks / "case_b.nii.gz", 0.5 * sitk.GetArrayFromImage(tumor()))


def _no_tumor(images, masks):
    write_array(masks / "case_b.nii.gz", 0 * sitk.GetArrayFromImage(tumor()))


def _nan(images, masks):
    array = sitk.GetArrayFromImage(scan()).astype(np.float32)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    write_array(images / "case_b_0000.nii.gz", array)


def _nan_big_endian(images, masks):
    _nan(images, masks)
    image = sitk.ReadImage(str(images / "case_b_0000.nii.gz"), sitk.sitkFloat32)
    array = sitk.GetArrayFromImage(image)
    array[0, 0, 0] = np.nan
    (images / "case_b_0000.nii.gz").unlink()
    write_array(images / "case_b.nii", array)
    swap_bytes(images / "case_b.nii")


def _nan_in_nrrd(images, masks):
    array = sitk.GetArrayFromImage(scan()).astype(np.float32)
    array[0, 0, 0] = np.nan
    (images / "case_b_0000.nii.gz").unlink()
    write_array(images / "case_b.nrrd", array)


def _second_label(images, masks):
    write_array(masks / "case_b.nii.gz", 2 * sitk.GetArrayFromImage(tumor()))


def _pipe(images, masks):
    (images / "case_b_0000.nii.gz").unlink()
    os.mkfifo(images / "case_b_0000.nii.gz")


def _header_without_voxels(images, masks):
    (images / "case_b_0000.nii.gz").unlink()
    sitk.WriteImage(scan(), str(images / "case_b.mhd"))
    (images / "case_b.raw").unlink()


def _cut_off_voxels(images, masks):
    (images / "case_b_0000.nii.gz").unlink()
    sitk.WriteImage(scan(), str(images / "case_b.mhd"))
    (images / "case_b.raw").write_bytes((images / "case_b.raw").read_bytes()[:-300])


def _nan_in_mask(images, masks):
    array = sitk.GetArrayFromImage(tumor()).astype(np.float64)
    array[0, 0, 0] = np.nan
    write_array(masks / "case_b.nii.gz", array)


def _too_large_for_float32(images, masks):
    write_array(images / "case_b_0000.nii.gz", sitk.GetArrayFromImage(scan()) * 1e38)


def _constant(images, masks):
    write_array(images / "case_b_0000.nii.gz", np.full(SIZE[::-1], 7, np.int16))


def _garbage(images, masks):
    (images / "case_b_0000.nii.gz").write_bytes(b"not an image" * 100)


def test_images_and_masks_that_are_swapped_are_told_as_such(tmp_path):
    images, masks = write_cohort(tmp_path)
    message = refusal(tmp_path, masks, images)
    assert "called as images, with _0000: are --images and --masks swapped?" in line_of(message, "--masks")
    for path in images.iterdir():
        path.rename(path.with_name(path.name.replace("_0000", "")))
    message = refusal(tmp_path, masks, images)
    assert message.count("and the mask other values: are --images and --masks swapped?") == 6
    (masks / "case_b.nii.gz").unlink()
    sitk.WriteImage(scan(), str(masks / "case_b.nii.gz"))
    assert "swapped" not in line_of(refusal(tmp_path, images, masks), "case_b")


def _dicom_called_nifti(images, masks):
    (images / "case_b_0000.nii.gz").unlink()
    write_frames(images / "case_b_0000.nii", "1.2", "ORIGINAL\\PRIMARY")


def _truncated(images, masks):
    path = images / "case_b_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def _truncated_plain(images, masks):
    (images / "case_b_0000.nii.gz").unlink()
    sitk.WriteImage(scan(), str(images / "case_b.nii"))
    (images / "case_b.nii").write_bytes((images / "case_b.nii").read_bytes()[:-200])


def _unreadable_mask(images, masks):
    (masks / "case_b.nii.gz").write_bytes(b"")


def _flat(images, masks):
    sitk.WriteImage(scan()[:, :, 0], str(images / "case_b_0000.nii.gz"))


def _one_slice(images, masks):
    sitk.WriteImage(scan()[:, :, :1], str(images / "case_b_0000.nii.gz"))


def _four_dimensions(images, masks):
    sitk.WriteImage(sitk.JoinSeries([scan(), scan()]), str(images / "case_b_0000.nii.gz"))


def _color(images, masks):
    sitk.WriteImage(sitk.Compose([sitk.Cast(scan(), sitk.sitkUInt8)] * 3), str(images / "case_b_0000.nii.gz"))


def _no_mask(images, masks):
    (masks / "case_b.nii.gz").unlink()


def _no_image(images, masks):
    (images / "case_b_0000.nii.gz").unlink()


def _twice(images, masks):
    shutil.copy(images / "case_b_0000.nii.gz", images / "case_b.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_other_spacing, "another geometry"),
        (_other_size, "another geometry"),
        (_other_origin, "another geometry"),
        (_other_direction, "another geometry"),
        (_foreign_labels, "foreign labels 255"),
        (_second_label, "foreign labels 2 "),
        (_nearly_one, "foreign labels 0.9999999 "),
        (_half_label, "foreign labels 0.5"),
        (_no_tumor, "no tumour"),
        (_nan, "case_b_0000.nii.gz holds NaN or infinite values (3 voxels)"),
        (_nan_big_endian, "case_b.nii holds NaN or infinite values (1 voxel)"),
        (_nan_in_nrrd, "NaN or infinite values (1 voxel)"),
        (_pipe, "is a named pipe; put the image in its place"),
        (_header_without_voxels, "case_b.mhd cannot be read"),
        (_cut_off_voxels, "case_b.mhd ends early"),
        (_nan_in_mask, "case_b.nii.gz holds NaN or infinite values (1 voxel)"),
        (_too_large_for_float32, "NaN or infinite"),
        (_constant, "constant"),
        (_garbage, "case_b_0000.nii.gz cannot be read"),
        (_dicom_called_nifti, "case_b_0000.nii cannot be read"),
        (_truncated, "case_b_0000.nii.gz cannot be read"),
        (_truncated_plain, "ends early"),
        (_unreadable_mask, "case_b.nii.gz cannot be read"),
        (_flat, "not a 3D volume"),
        (_one_slice, "not a 3D volume"),
        (_four_dimensions, "not a 3D volume"),
        (_color, "one real number per voxel"),
        (_no_mask, "no mask case_b.nii.gz"),
        (_no_image, "no image for mask case_b.nii.gz"),
        (_twice, "are the same case"),
    ],
)
def test_refuses_by_name_what_cannot_be_right(tmp_path, spoil, reason):
    images, masks = write_cohort(tmp_path)
    spoil(images, masks)
    message = refusal(tmp_path, images, masks)
    assert reason in line_of(message, "case_b")
    assert "1 input " in message and "Nothing was written" in message


def test_all_bad_cases_are_listed_at_once(tmp_path):
    images, masks = write_cohort(tmp_path)
    _no_tumor(images, masks)
    _nan(images, masks)
    (masks / "case_c.nii.gz").unlink()
    (images / "case_c_0000.nii.gz").write_bytes(b"")
    message = refusal(tmp_path, images, masks, workers=2)
    assert "no tumour" in line_of(message, "case_b") and "NaN" in line_of(message, "case_b")
    assert "no mask" in line_of(message, "case_c") and "cannot be read" in line_of(message, "case_c")


def test_rounding_of_headers_is_no_other_geometry_and_the_image_wins(tmp_path):
    images, masks = write_cohort(tmp_path)
    mask = tumor()
    mask.SetOrigin(np.add(mask.GetOrigin(), 0.01).tolist())
    sitk.WriteImage(mask, str(masks / "case_a.nii.gz"))
    folder = convert(tmp_path, images, masks)
    image = sitk.ReadImage(str(folder / "imagesTr" / "case_a_0000.nii.gz"))
    assert sitk.ReadImage(str(folder / "labelsTr" / "case_a.nii.gz")).GetOrigin() == image.GetOrigin()


def test_a_second_channel_is_refused(tmp_path):
    images, masks = write_cohort(tmp_path)
    shutil.copy(images / "case_b_0000.nii.gz", images / "case_b_0001.nii.gz")
    message = refusal(tmp_path, images, masks)
    assert "channel 1" in line_of(message, images / "case_b_0001.nii.gz") and "case_b-0001" in message


def test_a_name_without_a_case_is_refused(tmp_path):
    images, masks = write_cohort(tmp_path)
    shutil.copy(images / "case_b_0000.nii.gz", images / "_0000.nii.gz")
    assert "no case before the channel" in line_of(refusal(tmp_path, images, masks), images / "_0000.nii.gz")


def test_dead_links_folders_called_images_and_one_folder_for_both_are_refused(tmp_path):
    images, masks = write_cohort(tmp_path)
    (tmp_path / "link").symlink_to(images)
    assert "are the same folder" in refusal(tmp_path, images, tmp_path / "link")
    (images / "case_x.nii.gz").symlink_to(images / "gone")
    assert "case_x.nii.gz is a link to" in refusal(tmp_path, images, masks)
    (images / "case_x.nii.gz").unlink()
    (masks / "case_x.nii.gz").mkdir()
    assert "case_x.nii.gz is a folder" in refusal(tmp_path, images, masks)


@pytest.mark.parametrize("option", [{"patients": "p.csv"}, {"split_by_case": True}])
def test_options_of_folds_are_refused_without_masks(tmp_path, option):
    images, _ = write_cohort(tmp_path, count=1)
    assert "without --masks there are none" in refusal(tmp_path, images, None, **option)


@pytest.mark.parametrize("which", ["images", "masks"])
def test_missing_and_empty_folders_are_named(tmp_path, which):
    folders = dict(zip(("images", "masks"), write_cohort(tmp_path), strict=True))
    assert "is not a folder" in refusal(tmp_path, **(folders | {which: tmp_path / "nowhere"}))
    (tmp_path / "empty").mkdir()
    assert "holds no image file" in refusal(tmp_path, **(folders | {which: tmp_path / "empty"}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("case,patient\ncase_a,1\n", "not in p.csv"),
        ("case,patient\n" + "".join(f"case_{c},{c}\n" for c in "abcdefz"), "case_z: in p.csv, but there is no such"),
        ("case,patient\ncase_a,1\ncase_a,2\n", "names case case_a twice"),
        ("case,patient\ncase_a,\n", "without case or patient"),
        ("name,id\ncase_a,1\n", "columns case and patient"),
        ("case,patient\n" + "".join(f"case_{c},{i % 4}\n" for i, c in enumerate("abcdef")), "--split-by-case"),
    ],
)
def test_lists_of_patients_that_cannot_be_right_are_refused(tmp_path, text, reason):
    table = tmp_path / "p.csv"
    table.write_text(text)
    assert reason in refusal(tmp_path, *write_cohort(tmp_path), patients=table)


def test_split_by_case_is_possible_but_said_to_be_optimistic(tmp_path, capsys):
    table = tmp_path / "p.csv"
    table.write_text("case;patient\n" + "".join(f"case_{c};1\n" for c in "abcdef"))
    folder = convert(tmp_path, *write_cohort(tmp_path), patients=table, split_by_case=True)
    assert "optimistic" in capsys.readouterr().out
    assert sorted(len(f["val"]) for f in json.loads((folder / "splits_final.json").read_text())) == [1, 1, 1, 1, 2]
    assert json.loads((folder / "dataset.json").read_text())["split_by_case"] is True


def test_fewer_cases_than_folds_are_refused(tmp_path):
    assert "Only 4 cases" in refusal(tmp_path, *write_cohort(tmp_path, count=4), split_by_case=True)


# Where it is written


def test_id_in_use_is_refused_under_any_name_but_an_empty_folder_is_taken(tmp_path):
    images, masks = write_cohort(tmp_path)
    (tmp_path / "raw" / "Dataset501_Rectal").mkdir(parents=True)
    folder = convert(tmp_path, images, masks)
    before = every_byte_of(folder)
    with pytest.raises(RectalError, match=r"in use by .*Dataset501_Rectal"):
        convert(tmp_path, images, masks)
    with pytest.raises(RectalError, match=r"in use by .*Dataset501_Rectal"):
        convert_nifti(images, masks, 501, "Other", raw=tmp_path / "raw")
    assert every_byte_of(folder) == before


def test_folders_come_from_the_environment(tmp_path, monkeypatch):
    images, masks = write_cohort(tmp_path)
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(RectalError, match="nnUNet_raw is not set"):
        convert_nifti(images, masks, 501, "Rectal")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for stale in (
        "nnUNet_preprocessed/Dataset501_Rectal/gt_segmentations",
        "nnUNet_results/Dataset502_Other",
        "nnUNet_results/Dataset503_Rectal/nnUNetTrainer__nnUNetPlans__3d_fullres",
    ):
        (tmp_path / stale).mkdir(parents=True)
    for dataset_id in (501, 502, 503):
        with pytest.raises(RectalError, match=rf"{dataset_id} is in use by .*Dataset{dataset_id}.*move that away"):
            convert_nifti(images, masks, dataset_id, "Rectal")
    assert convert_nifti(images, masks, 504, "Rectal") == tmp_path / "nnUNet_raw" / "Dataset504_Rectal"
    # Cases to predict neither are trained on nor change what was trained.
    assert (convert_nifti(images, None, 503, "Rectal") / "imagesTs").is_dir()
    with pytest.raises(RectalError, match="502 is in use"):
        convert_nifti(images, None, 502, "Rectal")


@pytest.mark.parametrize(
    ("dataset_id", "name"), [(0, "R"), (1000, "R"), (5, ""), (5, "a b"), (5, "../x"), (5, "Dataset5_R")]
)
def test_illegal_ids_and_names_are_refused(tmp_path, dataset_id, name):
    with pytest.raises(RectalError, match=r"is not|give --name"):
        convert_nifti(*write_cohort(tmp_path), dataset_id, name, raw=tmp_path / "raw")


def test_an_exception_while_writing_leaves_nothing(tmp_path, monkeypatch):
    images, masks = write_cohort(tmp_path)
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write_mask(*arguments)

    write_mask = raw_dataset.write_mask
    monkeypatch.setattr(raw_dataset, "write_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path, images, masks)
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_conversion_that_is_stopped_leaves_no_dataset(tmp_path, how, monkeypatch):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    large = sitk.Expand(scan(), (8, 8, 2))
    for number in range(12):
        sitk.WriteImage(large, str(images / f"case_{number}.nii"))
        sitk.WriteImage(sitk.Expand(tumor(), (8, 8, 2), sitk.sitkNearestNeighbor), str(masks / f"case_{number}.nii"))
    raw = tmp_path / "raw"
    monkeypatch.setenv("nnUNet_raw", str(raw))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    command = [sys.executable, "-c", STOPPABLE, str(images), str(masks)]
    process = subprocess.Popen(command, env=dict(os.environ), start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(raw.glob(".*/imagesTr/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, how)
    assert process.wait(timeout=60) != 0
    assert not list(raw.glob("Dataset*"))
    with pytest.raises(RuntimeError, match="Could not find a dataset"):
        maybe_convert_to_dataset_name(501)
    if how == signal.SIGINT:
        assert list(raw.iterdir()) == []
    assert len(list((convert_nifti(images, masks, 501, "Rectal") / "imagesTr").iterdir())) == 12


STOPPABLE = """
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
import sys
from pathlib import Path
from rectal_nnformer.dataset_conversion.nifti import convert_nifti
if __name__ == "__main__":
    convert_nifti(Path(sys.argv[1]), Path(sys.argv[2]), 501, "Rectal", workers=2)
"""


def test_command_line(tmp_path, monkeypatch, capsys):
    images, masks = write_cohort(tmp_path)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    arguments = f"convert nifti --images {images} --masks {masks} -d 501 --name Rectal -np 1".split()
    main(arguments)
    assert str(tmp_path / "raw" / "Dataset501_Rectal" / "contact_sheet.png") in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Dataset id 501 is in use" in capsys.readouterr().err


def test_a_disk_with_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    images, masks = write_cohort(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "The 6 images of the dataset need at least" in refusal(tmp_path, images, masks)
