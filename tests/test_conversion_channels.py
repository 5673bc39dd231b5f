"""Several images of a case as channels: chosen, brought onto one grid, and refused where nothing tells how they lie."""

import json
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conversion_inputs import TILT, as_image, write_cohort, write_series
from dicom_scenes import ALGORITHM, hand
from small_datasets import set_folders

from rectal_nnformer.cli import main
from rectal_nnformer.dataset_conversion import raw_dataset
from rectal_nnformer.dataset_conversion.channels import parse_channels
from rectal_nnformer.dataset_conversion.dicom import convert_dicom
from rectal_nnformer.dataset_conversion.nifti import convert_nifti
from rectal_nnformer.dicom.contours import write_contours
from rectal_nnformer.dicom.lesions import Lesion
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import grid_differences
from rectal_nnformer.planning.api import plan_dataset
from rectal_nnformer.planning.case_check import check_cases
from rectal_nnformer.planning.dataset import open_raw_dataset

T2_SIZE, T2_SPACING = (44, 40, 12), (0.8, 0.9, 3.0)
CHANNELS = {"T2": "t2.*tra", "ADC": "adc"}


@pytest.fixture(autouse=True)
def no_contact_sheet(monkeypatch):
    monkeypatch.setattr(raw_dataset, "draw_contact_sheet", lambda *_: None)


def ramp(size, spacing, origin=None):
    """An oblique image whose value is linear in space: linear interpolation gives it exactly."""
    image = as_image(np.zeros(size[::-1], np.int16), TILT, spacing)
    if origin is not None:
        image.SetOrigin(origin)
    points = np.array(
        [image.TransformIndexToPhysicalPoint(index) for index in np.ndindex(*size)], dtype=np.float64
    ).reshape(*size, 3)
    values = np.rint(500 + 20 * points[..., 0] + 10 * points[..., 1] + 8 * points[..., 2]).astype(np.int16)
    result = sitk.GetImageFromArray(values.T)
    result.CopyInformation(image)
    return result


def write_study(folder, patient="P1", frame="1.2.9", adc_frame=None, shift=0.0, uid="1.2", adc="ep2d_diff_ADC"):
    """Write T2, ADC on a coarser, smaller grid, and T1 of a patient, with an RTSTRUCT on T2; return its mask."""
    t2 = ramp(T2_SIZE, T2_SPACING)
    inner = t2.TransformContinuousIndexToPhysicalPoint((4.0 + shift, 4.0, 1.5))
    tags = {"patient": patient, "T0020_000d": f"{uid}.8"}
    write_series(folder / "t2", t2, f"{uid}.1", T0008_103e="t2_tse_tra", T0020_0052=frame, **tags)
    coarse = ramp((16, 14, 8), (1.6, 1.8, 3.0), inner)
    write_series(folder / "adc", coarse, f"{uid}.2", T0008_103e=adc, T0020_0052=adc_frame or frame, **tags)
    write_series(folder / "t1", t2, f"{uid}.3", T0008_103e="t1_vibe", T0020_0052=frame, **tags)
    (series,) = find_series(folder / "t2").series
    _, bar, _ = hand(series)
    write_contours(folder / "outline", series, [Lesion("GTV", bar)], ALGORITHM)
    return bar


def convert(folder, channels=None, **options):
    channels = channels or CHANNELS
    options = {"test": True, **options}
    return convert_dicom(folder / "dicom", None, 501, "Rectal", raw=folder / "raw", channels=channels, **options)


def refusal(folder, **options):
    with pytest.raises(RectalError) as caught:
        convert(folder, **options)
    assert not (folder / "raw").exists()
    return str(caught.value)


def image_of(folder, channel, case="t2"):
    return sitk.ReadImage(str(folder / f"raw/Dataset501_Rectal/imagesTs/{case}_{channel:04d}.nii.gz"))


# DICOM


def test_series_of_a_study_become_channels_on_the_grid_of_the_first(tmp_path, capsys):
    bar = write_study(tmp_path / "dicom")
    folder = convert(tmp_path)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "T2", "1": "ADC"}
    t2, adc = image_of(tmp_path, 0), image_of(tmp_path, 1)
    assert not grid_differences(t2, adc) and t2.GetOrigin() == adc.GetOrigin()
    expected, found = (sitk.GetArrayFromImage(image).astype(float) for image in (t2, adc))
    inside = found != 0
    assert 0.2 < inside.mean() < 0.4
    assert np.abs(found - expected)[inside].max() < 25  # edges are held, within half a coarse voxel
    assert np.abs(found - expected)[3:9, 8:28, 8:30].max() <= 1.01  # of which rounding is 1
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTs/t2.nii.gz"))), bar)
    output = capsys.readouterr().out
    assert "t1_vibe' does not match" in output
    assert f"dicom/adc: ADC covers {100 * inside.mean():.1f} % of the grid" in output


def test_a_channel_on_the_same_grid_keeps_its_voxels(tmp_path):
    write_study(tmp_path / "dicom")
    convert(tmp_path, channels={"T2": "t2", "T1": "t1"})
    assert np.array_equal(*(sitk.GetArrayFromImage(image_of(tmp_path, channel)) for channel in (0, 1)))


@pytest.mark.parametrize(
    ("study", "options", "reason"),
    [
        (
            {"adc_frame": "1.2.99"},
            {},
            "ADC ('ep2d_diff_ADC' in {adc}) does not share the FrameOfReferenceUID of 't2_tse",
        ),
        ({"shift": 400.0}, {}, "{adc} ('ep2d_diff_ADC') does not overlap {t2} ('t2_tse_tra')"),
        (
            {},
            {"channels": {"T2": "t2", "DWI": "dwi"}},
            "no series of its study fits --channels DWI=dwi, but there is 't2",
        ),
        (
            {},
            {"channels": {"T2": "t[12]", "ADC": "adc"}},
            "2 series of its study fit --channels T2=t[12]: 't1_vibe' in",
        ),
        (
            {},
            {"channels": {"T2": "t2", "X": "tse"}},
            "'t2_tse_tra' fits --channels T2 and X; make one of them narrower",
        ),
        ({}, {"channels": {"T2": "t2("}}, "--channels T2=t2( is not a regular expression"),
        ({}, {"description": "t2"}, "leave --description out"),
        ({}, {"split_by_case": True}, "concern the folds"),
    ],
)
def test_what_does_not_make_channels_is_refused_by_name(tmp_path, study, options, reason):
    write_study(tmp_path / "dicom", **study)
    places = {name: tmp_path / "dicom" / name for name in ("t2", "adc")}
    assert reason.format(**places) in refusal(tmp_path, **options)


def test_outlines_on_another_channel_are_told(tmp_path, capsys):
    write_study(tmp_path / "dicom")
    message = refusal(tmp_path, channels={"ADC": "adc", "T2": "t2"})
    assert "no mask adc.nii.gz" in message
    output = capsys.readouterr().out
    assert "outline: RTSTRUCT of a series that was ignored: masks must lie on the channel ADC" in output


@pytest.mark.parametrize("texts", [["T2"], ["T2="], ["=t2"], ["T2=a", "T2=b"]])
def test_channels_that_cannot_be_meant_are_refused(texts):
    with pytest.raises(RectalError, match=r"is not a name of its own, = and a SeriesDescription"):
        parse_channels(texts)


# NIfTI


def write_two_channels(folder, **options):
    images, masks = write_cohort(folder, **options)
    for path in sorted(images.iterdir()):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.DICOMOrient(image * 2 + 1, "RAS"), str(path).replace("_0000", "_0001"))
    return images, masks


def test_numbered_files_become_channels_that_planning_opens(tmp_path, monkeypatch):
    set_folders(monkeypatch, tmp_path)
    images, masks = write_two_channels(tmp_path)
    options = ("--images", str(images), "--masks", str(masks), "-d", "501", "--name", "Rectal", "-np", "1")
    main(["convert", "nifti", *options, "--channels", "T2", "ADC"])
    folder = tmp_path / "nnUNet_raw/Dataset501_Rectal"
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "T2", "1": "ADC"}
    first, second = (nibabel.load(folder / f"imagesTr/case_b_{n:04d}.nii.gz") for n in (0, 1))
    assert np.array_equal(first.affine, second.affine)
    assert np.array_equal(second.get_fdata(), 2 * first.get_fdata() + 1)
    dataset = open_raw_dataset(501)
    assert dataset.channel_names == ["T2", "ADC"]
    assert check_cases(dataset, 1)[0] == []


@pytest.mark.slow
def test_a_dataset_of_two_channels_is_planned(tmp_path, monkeypatch):
    set_folders(monkeypatch, tmp_path)
    convert_nifti(*write_two_channels(tmp_path), 501, "Rectal", channels=("T2", "ADC"))
    plans = plan_dataset(501, "smit_small", preprocess=False, num_processes_fingerprint=1)
    assert plans.configuration("3d_fullres").settings["normalization_schemes"] == ["ZScoreNormalization"] * 2


def test_channels_of_a_dataset_json_are_kept(tmp_path):
    images, masks = write_two_channels(tmp_path)
    given = tmp_path / "given.json"
    given.write_text(
        json.dumps(
            {"channel_names": {"0": "T2", "1": "b800"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".nrrd"}
        )
    )
    folder = convert_nifti(images, masks, 501, "Rectal", raw=tmp_path / "raw", dataset_json=given)
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["channel_names"], content["file_ending"]) == ({"0": "T2", "1": "b800"}, ".nii.gz")


def _lost(images):
    (images / "case_b_0001.nii.gz").unlink()


def _one_too_many(images):
    shutil.copy(images / "case_b_0001.nii.gz", images / "case_b_0002.nii.gz")


def _without_number(images):
    (images / "case_b_0001.nii.gz").rename(images / "case_b.nii.gz")


def _on_another_grid(images):
    path = str(images / "case_b_0001.nii.gz")
    sitk.WriteImage(sitk.ReadImage(path)[:, :, :-1], path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_lost, "case_b: no image case_b_0001 of channel ADC, but case_b_0000.nii.gz"),
        (_one_too_many, "case_b_0002.nii.gz: the ending _0002 means channel 2 to nnU-Net, and only T2, ADC is used"),
        (_without_number, "case_b: case_b.nii.gz and case_b_0000.nii.gz are the same case; take one away"),
        (_on_another_grid, "case_b: channel ADC has another geometry than channel T2 (size "),
    ],
)
def test_channels_that_do_not_fit_are_refused_by_name(tmp_path, spoil, reason):
    images, _ = write_two_channels(tmp_path, count=2)
    spoil(images)
    with pytest.raises(RectalError) as caught:
        convert_nifti(images, None, 501, "Rectal", raw=tmp_path / "raw", channels=("T2", "ADC"))
    assert reason in str(caught.value)
    assert not (tmp_path / "raw").exists()
