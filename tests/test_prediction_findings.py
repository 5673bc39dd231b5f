"""What predict writes of what it found: DICOM objects on their series, a page, tables; and what it tells of nobody."""

import csv
import hashlib
import json
import re
from dataclasses import asdict
from itertools import combinations

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conversion_inputs import SAGITTAL, TILT, as_image, every_byte_of, write_series
from limits import largest_file
from prediction_runs import MODEL, predict, stand_in_for_nnunet, write_model, write_scan
from test_conversion_channels import write_study as write_three_series
from test_dicom_frames import write_enhanced

from rectal_nnformer import __version__, prediction
from rectal_nnformer.dataset_conversion.channels import ResampledSeries
from rectal_nnformer.dicom.contours import read_regions
from rectal_nnformer.dicom.segmentations import read_segments
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.findings import largest_diameter
from rectal_nnformer.evaluation.operating_point import Choice, OperatingPoint, read_point, write_point
from rectal_nnformer.imaging.display import AXIAL, hanging_of, slice_axis
from rectal_nnformer.imaging.display import SAGITTAL as HUNG_SAGITTAL

SHAPE, SPACING = (10, 30, 28), (0.8, 0.9, 3.0)
MODEL_FOLDER = "results/Dataset501_Rectal/Trainer__Plans__3d_fullres"
SECRETS = ("mueller", "hansjoerg", "secret-17", "19510203")


def noise(*boxes):
    """An image in which lesions, boxes given by slices and rows and columns, are what is above 1500."""
    array = np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)
    for box in boxes:
        array[box] = 2000
    return array


NEAR, FAR = np.s_[2:5, 4:9, 5:11], np.s_[6:9, 20:24, 15:25]
DOT = np.s_[8:9, 2:4, 2:4]


@pytest.fixture
def predicted(monkeypatch):
    return stand_in_for_nnunet(monkeypatch, lambda array: array > 1500)


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    write_model(tmp_path / "results")
    return ["-o", tmp_path / "out", "-d", "501", *MODEL, "-f", "0", "2"]


def write_study(folder, number, array, direction=TILT, **tags):
    study = {"T0020_000d": f"1.2.826.0.2.{number}", "T0020_0052": f"1.2.826.0.3.{number}"}
    write_series(folder, as_image(array, direction, SPACING), f"1.2.826.0.1.{number}", **study, **tags)
    (series,) = find_series(folder, ["axial", "sagittal"]).series
    return series


@pytest.fixture
def studies(tmp_path):
    """Three studies: with two lesions, with one, with none."""
    boxes = [(NEAR, FAR), (FAR,), ()]
    places = ["a/t2", "b/deep/t2", "b/more"]
    return [write_study(tmp_path / "in" / places[n], n, noise(*boxes[n])) for n in range(3)]


def name_of(series):
    return f"series_{hashlib.sha256(series.uid.encode()).hexdigest()[:12]}"


def lines(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# DICOM objects


def test_each_series_gets_its_objects_in_one_command(tmp_path, studies, predicted, options, capsys):
    studies.append(write_study(tmp_path / "in/c", 3, noise(NEAR)))
    assert predict("-i", tmp_path / "in", *options, "--as", "nifti", "dicom-seg", "rtstruct") == 0
    out = tmp_path / "out"
    assert len(list(out.glob("*.dcm"))) == 6 and len(list(out.glob("*.nii.gz"))) == 4
    for number, boxes in ((0, (NEAR, FAR)), (1, (FAR,)), (3, (NEAR,))):
        series, name = studies[number], name_of(studies[number])
        found = {kind: find_series(out / f"{name}_{kind}.dcm").outlines[0] for kind in ("dicom-seg", "rtstruct")}
        for kind, read in (("dicom-seg", read_segments), ("rtstruct", read_regions)):
            outlines, header = found[kind], pydicom.dcmread(out / f"{name}_{kind}.dcm")
            assert outlines.series_uids == {series.uid}
            assert outlines.instance_uids >= {s.instance_uid for s in series.slices}
            assert outlines.frames_of_reference == {series.frame_of_reference}
            assert header.StudyInstanceUID == f"1.2.826.0.2.{number}" and header.PatientID == "SECRET-17"
            assert [s.name for s in outlines.structures] == [f"lesion {n + 1}" for n in range(len(boxes))]
            for lesion, box in zip(outlines.structures, boxes, strict=True):
                expected = np.zeros(SHAPE, bool)
                expected[box] = True
                assert np.array_equal(read(outlines.path, series, [lesion.number])[lesion.number], expected)
        segment = highdicom.seg.segread(out / f"{name}_dicom-seg.dcm").get_segment_description(1)
        algorithm = segment.algorithm_identification
        checkpoints = sorted((tmp_path / "results").rglob("checkpoint_final.pth"))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in checkpoints)).hexdigest()
        assert (algorithm.name, algorithm.version) == ("Trainer", __version__)
        assert algorithm.parameters == {"model": digest}
    assert f"No lesion, so no dicom-seg or rtstruct: {name_of(studies[2])}.\n" in capsys.readouterr().out
    assert {row["scan"]: row["series_uid"] for row in lines(out / "series.csv")} == {
        name_of(series): series.uid for series in studies
    }


def test_without_nifti_no_mask_is_kept(tmp_path, studies, predicted, options):
    assert predict("-i", tmp_path / "in", *options, "--as", "rtstruct") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pages = {"findings.html", "findings.csv", "findings.json", "series.csv"}
    assert names == pages | {f"{name_of(series)}_rtstruct.dcm" for series in studies[:2]}


# Series as channels

CHANNELS = ["--channels", "ADC=adc", "T2=t2.*tra"]


@pytest.fixture
def two_channels(tmp_path, options):
    """The options of a model of two channels; two studies of three series each, of which the second fits no model."""
    path = tmp_path / "results/Dataset501_Rectal/Trainer__Plans__3d_fullres/dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "channel_names": {"0": "T2", "1": "ADC"}}))
    write_three_series(tmp_path / "in/one")
    write_three_series(tmp_path / "in/Mueller", "P2", uid="1.3", adc="another")
    return options


def test_series_of_a_study_are_the_channels_of_a_model(tmp_path, two_channels, monkeypatch, capsys):
    seen = []
    calls = stand_in_for_nnunet(monkeypatch, lambda array: seen.append(array) or array > np.median(array))
    assert predict("-i", tmp_path / "in", *two_channels, *CHANNELS, "--as", "nifti", "dicom-seg") == 1
    series = {one.description: one for one in find_series(tmp_path / "in/one").series}
    name = name_of(series["t2_tse_tra"])
    assert calls[0][0] == [f"{name}_0000.nii.gz", f"{name}_0001.nii.gz"]
    expected = ResampledSeries(series["ep2d_diff_ADC"], series["t2_tse_tra"]).read()
    assert np.array_equal(seen[0], sitk.GetArrayFromImage(series["t2_tse_tra"].read()))
    assert np.array_equal(seen[1], sitk.GetArrayFromImage(expected)) and (seen[1] == 0).any()
    (outlines,) = find_series(tmp_path / f"out/{name}_dicom-seg.dcm").outlines
    assert outlines.series_uids == {series["t2_tse_tra"].uid}
    printed = capsys.readouterr().out
    assert re.search(rf"Note: {name}_0001\.nii\.gz covers \d\d\.\d % of the grid, and is 0 elsewhere", printed)
    other = name_of(find_series(tmp_path / "in/Mueller", description="t2").series[0])
    assert f"{other}: no series of its study fits --channels ADC=adc, but there is 't2_tse_tra' in its" in printed
    assert "Mueller" not in printed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "holds no scan (.nii.gz .nii .nrrd .mha .mhd), but 2 folders, and for DICOM say by --channels which"),
        (["--channels", "T2=t2"], "--channels names T2, and the model has the channels T2, ADC by "),
        (["--channels", "T2=t2", "DWI=dwi"], "--channels names T2, DWI, and the model has the channels T2, ADC by "),
        ([*CHANNELS, "--description", "t2"], "leave --description out"),
        (["--channels", "T2=t2(", "ADC=adc"], "--channels T2=t2( is not a regular expression"),
        (["--channels", "T2"], "--channels T2 is not a name of its own"),
        ([*CHANNELS, "-i", "files"], "--channels chooses DICOM series, and files/scan.nii.gz is none"),
    ],
)
def test_channels_that_the_model_does_not_have_are_refused(
    tmp_path, two_channels, predicted, monkeypatch, capsys, wrong, message
):
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "files/scan.nii.gz")
    assert predict("-i", "in", *two_channels, *wrong) == 2
    assert message in capsys.readouterr().err
    assert not predicted


# What cannot be written


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--as", "dicom-seg"], "scan.nii.gz is no DICOM series, and only on these dicom-seg can lie"),
        (["--as", "dicom", "seg"], "there is no dicom, but nifti, dicom-seg, rtstruct. Did you mean dicom-seg?"),
        (["--as", "rtstruct", "--continue_prediction", "-i", "dicom"], "--continue_prediction needs masks that stay"),
        (["--as", "rtstruct", "--save_probabilities", "-i", "dicom"], "--save_probabilities needs masks that stay"),
    ],
)
def test_what_cannot_be_written_is_refused_first(tmp_path, predicted, options, capsys, monkeypatch, wrong, message):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path / "dicom", 0, noise())
    (tmp_path / "in").mkdir()
    sitk.WriteImage(as_image(noise()), "in/scan.nii.gz")
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("PyTorch was asked first"))
    assert predict("-i", "in", *options, *wrong) == 2
    assert message in capsys.readouterr().err
    assert not predicted and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_an_object_that_cannot_be_written_is_told_and_the_mask_stays(tmp_path, studies, predicted, options, capsys):
    for path in studies[0].files:
        header = pydicom.dcmread(path)
        header.PatientBirthDate = "03.02.1951"
        header.save_as(path)
    assert predict("-i", tmp_path / "in", *options, "--as", "nifti", "dicom-seg") == 1
    printed, name = capsys.readouterr().out, name_of(studies[0])
    assert f"1 scan without a DICOM object:\n  {name}: no dicom-seg: its folder: no object can be derived" in printed
    assert "Unable to convert PatientBirthDate to 'DA'" in printed and "1951" not in printed
    assert (tmp_path / f"out/{name}.nii.gz").is_file() and not (tmp_path / f"out/{name}_dicom-seg.dcm").exists()
    (row, _) = (row for row in lines(tmp_path / "out/findings.csv") if row["scan"] == name)
    assert row["outcome"] == "found" and "no dicom-seg" in row["note"]


def test_an_object_of_an_earlier_run_goes_where_nothing_is_found(tmp_path, studies, predicted, options, monkeypatch):
    arguments = ("-i", tmp_path / "in", *options, "--as", "dicom-seg")
    assert predict(*arguments) == 0
    stand_in_for_nnunet(monkeypatch, np.zeros_like)
    assert predict(*arguments) == 0
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_one_enhanced_file_can_be_named(tmp_path, studies, predicted, options):
    path = tmp_path / "enhanced.dcm"
    write_enhanced(path, studies[0].files, "1.2.826.0.1.9", compress=True)
    assert predict("-i", path, *options, "--as", "dicom-seg") == 0
    (outlines,) = find_series(tmp_path / "out").outlines
    assert outlines.series_uids == {"1.2.826.0.1.9"} and len(outlines.structures) == 2


# Identities


@pytest.fixture
def telling(tmp_path):
    """Series whose headers, folders and files hold who the patient is; some are broken."""
    folder = tmp_path / "in/MUELLER^HANSJOERG_19510203/Secret-17"
    tags = {"T0010_0010": "Mueller^Hansjoerg", "T0010_0030": "19510203", "file_name": "Mueller_{:04d}"}
    write_study(folder / "t2", 0, noise(NEAR), **tags)
    write_study(folder / "broken", 1, noise(), **tags)
    (folder / "broken/Mueller_0005").unlink()
    write_study(folder / "twice", 2, noise(), **tags)
    (folder / "twice/Mueller_0099").write_bytes((folder / "twice/Mueller_0003").read_bytes())
    write_study(folder / "sag", 3, noise(), SAGITTAL, **tags)
    unbound = write_study(folder / "unbound", 4, noise(NEAR), **tags)
    for path in unbound.files:
        header = pydicom.dcmread(path)
        del header.FrameOfReferenceUID
        header.save_as(path)
    (folder / "Hansjoerg.dcm").write_bytes(b"damaged")
    return tmp_path / "in"


def test_nothing_tells_who_the_patient_is(tmp_path, telling, predicted, options, capfd):
    assert predict("-i", telling, *options, "--as", "nifti", "dicom-seg", "rtstruct") == 1
    printed = capfd.readouterr()
    objects = list((tmp_path / "out").glob("*.dcm"))
    assert len(objects) == 2
    for path in objects:  # in them it must stand
        path.unlink()
    written = every_byte_of(tmp_path / "out").decode("latin-1")
    told = (printed.out + printed.err + written).lower()
    assert [secret for secret in SECRETS if secret in told] == []
    assert "slices are missing or unevenly spaced: 6.00 mm between file 5 and file 4" in printed.out
    assert "file 3 and file 11 lie in the same place" in printed.out
    assert "1 file: cannot be read as DICOM; --keep-names tells which" in printed.out
    assert "file 10 has no FrameOfReferenceUID" in printed.out
    assert "sagittal plane" in printed.out and "1.2.826" not in printed.out
    findings = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("findings.*")]
    assert len(findings) == 3 and not any("1.2.826" in text for text in findings)
    assert len(lines(tmp_path / "out/series.csv")) == 5


def test_folders_beside_a_file_and_descriptions_are_not_named(tmp_path, telling, predicted, options, capfd):
    code = predict("-i", telling, *options, "--description", "another")
    write_scan(telling / "case_0000.nii.gz")
    assert predict("-i", telling, *options) == 0 and code == 2
    printed = "".join(capfd.readouterr())
    assert "its description does not match" in printed and "1 folder: not looked into" in printed
    assert [secret for secret in SECRETS if secret in printed.lower()] == []


def test_names_are_kept_if_asked_for(tmp_path, telling, predicted, options, capsys):
    assert predict("-i", telling, *options, "--as", "nifti", "dicom-seg", "--keep-name") == 1  # abbreviated
    printed = capsys.readouterr().out
    assert "between Mueller_0006 and Mueller_0004" in printed and "Hansjoerg.dcm: cannot be read as DICOM" in printed
    assert (tmp_path / "out/t2.nii.gz").is_file() and (tmp_path / "out/t2_dicom-seg.dcm").is_file()
    assert str(tmp_path) not in (tmp_path / "out/findings.csv").read_text(encoding="utf-8")


# Findings


def test_findings_of_files_are_the_same_in_table_json_and_page(tmp_path, predicted, options):
    folder = tmp_path / "in"
    folder.mkdir()
    images = {"two": noise(NEAR, FAR), "none": noise(DOT), "=SUM(1)": noise(FAR), "flat": noise() * 0}
    for name, array in images.items():
        sitk.WriteImage(as_image(array, TILT, SPACING), str(folder / f"{name}.nii.gz"))
    assert predict("-i", folder, *options) == 1
    out = tmp_path / "out"
    rows = lines(out / "findings.csv")
    assert [(row["scan"], row["outcome"], row["lesion"]) for row in rows] == [
        ("'=SUM(1)", "found", "1"),
        ("none", "nothing found", ""),
        ("two", "found", "1"),
        ("two", "found", "2"),
        ("flat", "not predicted", ""),
    ]
    voxel = np.prod(SPACING) / 1000
    centre = np.array([7.5, 6.0, 3.0]) * SPACING @ TILT.T + as_image(noise()).GetOrigin()
    near = rows[2]
    assert float(near["volume_cm3"]) == pytest.approx(3 * 5 * 6 * voxel, abs=1e-4)
    assert float(near["diameter_mm"]) == pytest.approx(np.hypot(np.hypot(2 * 3.0, 4 * 0.9), 5 * 0.8), abs=0.01)
    assert (near["first_slice"], near["last_slice"]) == ("3", "5")
    assert [float(near[name]) for name in ("left_mm", "back_mm", "head_mm")] == pytest.approx(centre, abs=0.02)
    assert rows[1]["note"] == "4 voxels in parts of fewer than 11 are no lesion"
    assert rows[4]["note"].startswith("flat.nii.gz: image is constant")
    content = json.loads((out / "findings.json").read_text(encoding="utf-8"))
    assert content["notice"].startswith("For research only, not a medical device")
    assert [(scan["scan"], len(scan["lesions"])) for scan in content["scans"]] == [
        ("=SUM(1)", 1), ("none", 0), ("two", 2), ("flat", 0)
    ]  # fmt: skip
    lesion = content["scans"][2]["lesions"][0]
    assert lesion["voxels"] == 90 and lesion["slices"] == [3, 5] and lesion["centroid"] == [3, 6, 7.5]
    page = (out / "findings.html").read_text(encoding="utf-8")
    assert page.count('class="card"') == 3 and "<strong>3</strong> lesions found" in page
    assert content["notice"] in page and str(tmp_path) not in page
    assert "Slice 4 of 10: prediction outlined" in page


def test_each_part_of_a_shared_out_prediction_has_its_own_page(tmp_path, studies, predicted, options):
    for part in (0, 1):
        assert predict("-i", tmp_path / "in", *options, "-num_parts", "2", "-part_id", part) == 0
    scans = [
        [row["scan"] for row in lines(tmp_path / f"out/findings_{part}_of_2.csv") if row["lesion"] in ("", "1")]
        for part in (0, 1)
    ]
    assert sorted(scans[0] + scans[1]) == sorted(map(name_of, studies))


def test_slices_have_the_numbers_of_viewers(tmp_path, predicted, options):
    """By InstanceNumber, here from 41 on and from the head down."""
    series = write_study(tmp_path / "in", 0, noise(NEAR))
    for place, path in enumerate(series.files):
        header = pydicom.dcmread(path)
        header.InstanceNumber = 50 - place
        header.save_as(path)
    assert predict("-i", tmp_path / "in", *options) == 0
    (row,) = lines(tmp_path / "out/findings.csv")
    assert (row["first_slice"], row["last_slice"]) == ("46", "48")
    assert "Slice 47 of 50: prediction outlined" in (tmp_path / "out/findings.html").read_text(encoding="utf-8")


def test_pictures_are_of_the_plane_of_the_slices_however_they_are_stored(tmp_path, predicted, options):
    sagittal = as_image(noise(NEAR), SAGITTAL, SPACING)
    images = {"stored": sagittal, "turned": sitk.DICOMOrient(sagittal, "LPS")}
    (tmp_path / "in").mkdir()
    for name, image in images.items():
        sitk.WriteImage(image, str(tmp_path / f"in/{name}.nii.gz"))
        assert hanging_of(image, slice_axis(image)) == HUNG_SAGITTAL
    assert hanging_of(as_image(noise()), 0) == AXIAL
    assert predict("-i", tmp_path / "in", *options) == 0
    stored, turned = lines(tmp_path / "out/findings.csv")
    assert (stored["first_slice"], stored["last_slice"]) == ("3", "5")
    assert {turned["first_slice"], turned["last_slice"]} <= {"3", "5", "6", "8"}
    assert [stored[name] for name in ("left_mm", "head_mm")] == [turned[name] for name in ("left_mm", "head_mm")]
    page = (tmp_path / "out/findings.html").read_text(encoding="utf-8")
    assert page.count('<span class="side side-R" aria-hidden="true">A</span>') == 2


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_diameter_is_that_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, 7, 8), bool)
    mask[tuple(slice(*np.sort(rng.choice(n + 1, 2, replace=False))) for n in mask.shape)] = True
    mask &= rng.random(mask.shape) < 0.5
    mask[tuple(rng.integers(0, n) for n in mask.shape)] = True
    points = np.argwhere(mask) * (3, 0.9, 0.8)
    expected = max((float(np.linalg.norm(a - b)) for a, b in combinations(points, 2)), default=0.0)
    assert largest_diameter(mask, (3, 0.9, 0.8)) == pytest.approx(expected)


def test_voxels_in_one_plane_one_line_and_alone_have_a_diameter():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = True
    assert largest_diameter(mask, (3, 2, 1)) == 0
    mask[1, 2, 1:5] = True
    assert largest_diameter(mask, (3, 2, 1)) == 3
    mask[1, 1:4, 1:5] = True
    assert largest_diameter(mask, (3, 2, 1)) == pytest.approx(5)


def test_an_interrupted_prediction_writes_no_findings(tmp_path, studies, predicted, options, monkeypatch, capsys):
    def interrupted(model, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction.predictor, "predict_folder", interrupted)
    assert predict("-i", tmp_path / "in", *options) == 130
    assert "--continue_prediction goes on from there" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_where_nnunet_fails_nothing_is_told_to_be_found(tmp_path, studies, predicted, options, monkeypatch, capsys):
    monkeypatch.setattr(prediction.predictor, "predict_folder", lambda model, arguments: 1)
    assert predict("-i", tmp_path / "in", *options) == 3
    assert "0 scans predicted" in capsys.readouterr().out and not list((tmp_path / "out").iterdir())


# How sure


SURE, HARDLY, BELOW = 2000, 1600, 1200


@pytest.fixture
def sure(monkeypatch):
    """A network that is sure of voxels above 1900, hardly of those above 1500, and sees little in those above 1100."""
    steps = (-9.0, -1.0, 0.5, 3.0)
    return stand_in_for_nnunet(
        monkeypatch,
        lambda array: array > 1500,
        lambda array: np.float32(np.take(steps, np.digitize(array, (1100, 1500, 1900)))),
    )


@pytest.fixture
def doubtful_scan(tmp_path):
    array = noise(NEAR, FAR)
    array[FAR], array[np.s_[2:5, 20:24, 5:11]] = HARDLY, BELOW
    path = tmp_path / "in/scan_0000.nii.gz"
    path.parent.mkdir()
    sitk.WriteImage(as_image(array, TILT, SPACING), str(path))
    return path


def findings_of(tmp_path):
    (scan,) = json.loads((tmp_path / "out/findings.json").read_text())["scans"]
    return scan


def test_findings_tell_how_sure_the_network_is(tmp_path, sure, options, doubtful_scan):
    assert predict("-i", doubtful_scan, *options) == 0
    scan = findings_of(tmp_path)
    assert [lesion["confidence"] for lesion in scan["lesions"]] == pytest.approx([0.953, 0.622], abs=1e-3)
    (other,) = scan["others"]
    assert (other["confidence"], other["removed"], other["voxels"]) == (pytest.approx(0.269, abs=1e-3), False, 72)
    assert 0 < scan["entropy"] < 1 and scan["disagreement"] is None
    rows = lines(tmp_path / "out/findings.csv")
    assert [(row["kind"], row["lesion"], row["confidence"]) for row in rows] == [
        ("lesion", "1", "0.9526"), ("lesion", "2", "0.6225"), ("below the threshold", "", "0.2689")
    ]  # fmt: skip


def test_the_operating_point_chooses_lesions_and_the_findings_keep_what_it_removed(
    tmp_path, sure, options, doubtful_scan, capsys
):
    model = tmp_path / MODEL_FOLDER
    counts = {"n_cases": 1, "n_reference": 1, "n_detected": 1, "n_false_positive": 0}

    def lesions_at(confidence, volume=0.0, *more):
        write_point(Choice("f1", OperatingPoint(confidence, volume), True, "", **counts), model)
        assert predict("-i", doubtful_scan, *options, *more) == 0
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/scan.nii.gz")))
        scan = findings_of(tmp_path)
        assert sum(lesion["voxels"] for lesion in scan["lesions"]) == mask.sum()
        return len(scan["lesions"]), [other["removed"] for other in scan["others"]]

    assert lesions_at(0.7) == (1, [True, False])
    assert "a confidence of at least 0.700, chosen for f1" in capsys.readouterr().out
    assert lesions_at(0.7, 0.0, "--continue_prediction") == (1, [True, False])
    assert lesions_at(0.2, 0.0, "--continue_prediction") == (3, [])
    assert lesions_at(0.2, 0.2, "--continue_prediction") == (1, [True, False])  # NEAR has 0.19 cm3, FAR 0.26
    assert lesions_at(0.99, 0.0, "--continue_prediction") == (0, [True, True, False])
    assert "2 lesions removed by the operating point" in capsys.readouterr().out
    write_point(None, model)
    assert predict("-i", doubtful_scan, *options, "--continue_prediction") == 0
    assert len(findings_of(tmp_path)["lesions"]) == 2
    assert "operating_point.json" not in {path.name for path in model.iterdir()}


def test_where_nothing_is_known_the_operating_point_is_not_applied_and_that_is_told(
    tmp_path, predicted, options, doubtful_scan
):
    model = tmp_path / MODEL_FOLDER
    write_point(Choice("f1", OperatingPoint(0.99, 0.0), True, "", 1, 1, 1, 0), model)
    assert predict("-i", doubtful_scan, *options) == 0
    scan = findings_of(tmp_path)
    assert len(scan["lesions"]) == 2 and "the operating point was not applied" in scan["note"]
    right = asdict(read_point(model))
    nan = {"min_confidence": float("nan"), "min_volume_cm3": 0.0}
    for wrong in ({"wish": 1}, {**right, "wish": "foo"}, {**right, "point": nan}):
        (model / "operating_point.json").write_text(json.dumps(wrong))
        assert predict("-i", doubtful_scan, *options) == 2


@pytest.mark.parametrize("fault", ["a full disk", "damaged candidates"])
def test_one_scan_to_which_the_point_cannot_be_applied_is_named_and_the_others_go_on(
    tmp_path, sure, options, doubtful_scan, capsys, monkeypatch, fault
):
    write_point(Choice("f1", OperatingPoint(0.7, 0.0), True, "", 1, 1, 1, 0), tmp_path / MODEL_FOLDER)
    (doubtful_scan.parent / "bad.nii.gz").write_bytes(doubtful_scan.read_bytes())
    choose = prediction.run.choose_lesions

    def choose_all_but_one(mask, *told):
        if mask.name != "bad.nii.gz":
            return choose(mask, *told)
        if fault == "damaged candidates":
            numbers = mask.parent / "candidates" / mask.name
            numbers.write_bytes(numbers.read_bytes()[:100])
            return choose(mask, *told)
        with largest_file(100):
            return choose(mask, *told)

    monkeypatch.setattr(prediction.run, "choose_lesions", choose_all_but_one)
    assert predict("-i", doubtful_scan.parent, *options) == 3
    assert "1 scan not predicted:\n  bad: " in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["scan.nii.gz"]
    scans = {scan["scan"]: scan for scan in json.loads((tmp_path / "out/findings.json").read_text())["scans"]}
    assert len(scans["scan"]["lesions"]) == 1 and not scans["scan"]["problem"] and scans["bad"]["problem"]


def test_one_scan_that_cannot_be_described_is_named_and_the_others_go_on(
    tmp_path, sure, options, doubtful_scan, capsys, monkeypatch
):
    (doubtful_scan.parent / "bad.nii.gz").write_bytes(doubtful_scan.read_bytes())
    describe = prediction.run.describe_scan

    def describe_all_but_one(scan, *told):
        if scan.scan == "bad":
            raise RectalError("it is damaged")
        return describe(scan, *told)

    monkeypatch.setattr(prediction.run, "describe_scan", describe_all_but_one)
    assert predict("-i", doubtful_scan.parent, *options) == 1
    assert "1 scan not predicted:\n  bad: it is damaged" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out/findings.json").read_text())["scans"]) == 2


def test_a_scan_whose_candidates_are_damaged_is_predicted_again(tmp_path, sure, options, doubtful_scan, capsys):
    assert predict("-i", doubtful_scan, *options) == 0
    record = tmp_path / "out/candidates/scan.nii.gz.json"
    whole = record.read_text()
    record.write_text(whole[:40])
    assert predict("-i", doubtful_scan, *options, "--continue_prediction") == 0
    assert record.read_text() == whole
    assert "Predicted again: " in capsys.readouterr().out


def test_masks_that_other_weights_predicted_are_predicted_again(tmp_path, sure, options, doubtful_scan, capsys):
    assert predict("-i", doubtful_scan, *options) == 0
    assert predict("-i", doubtful_scan, *options, "--continue_prediction") == 0
    assert "Predicted again" not in capsys.readouterr().out
    checkpoint = next((tmp_path / "results").rglob("fold_2/checkpoint_final.pth"))
    checkpoint.write_bytes(checkpoint.read_bytes() + b"0")
    assert predict("-i", doubtful_scan, *options, "--continue_prediction") == 0
    assert "Predicted again, since other folds or weights had predicted: scan" in capsys.readouterr().out
