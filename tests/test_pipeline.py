"""Whole pipelines by real commands: five folds, what nnU-Net does with them, stock nnU-Net."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conversion_inputs import write_series
from pipeline import converted_cohort, run

from rectal_nnformer.dicom.contours import read_regions
from rectal_nnformer.dicom.segmentations import read_segments
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.imaging.masks import find_components
from rectal_nnformer.prediction.scans import series_name

PLANS = "nnUNetRectalSMITSmallPlans"
DATASET = "Dataset501_Rectal"
MODEL = ("-d", "501", "-tr", "ShortSMIT_CPU", "-p", PLANS)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Environment and base folder of a converted dataset of ten cases."""
    base = tmp_path_factory.mktemp("pipeline")
    return converted_cohort(base, 501, "Rectal", num_cases=10), base


@pytest.fixture(scope="module")
def trained(converted):
    """The same with a model trained and validated on five folds, and what the cross-validation printed."""
    variables, base = converted
    run(
        variables, "rectal_nnformer", "plan_and_preprocess", "-d", 501, "--backbone", "smit_small", "-np", 1, "-npfp", 1
    )
    printed = run(variables, "rectal_nnformer", "crossval", *MODEL, "-device", "cpu")
    return variables, base, printed


def model_folder(base):
    return base / f"nnUNet_results/{DATASET}/ShortSMIT_CPU__{PLANS}__3d_fullres"


def with_trainers(variables):
    """The variables that `eval "$(rectal_nnformer env)"` sets, for stock commands."""
    lines = run(variables, "rectal_nnformer", "env").splitlines()
    ours = next(line.split("=", 1)[1] for line in lines if line.startswith("export nnUNet_extTrainer="))
    return {**variables, "nnUNet_extTrainer": f"{ours}:{variables['nnUNet_extTrainer']}"}


def test_the_summary_pools_five_folds_and_loses_no_lesion(trained):
    _, base, printed = trained
    folder = model_folder(base)
    summary = json.loads((folder / "crossval_summary.json").read_text(encoding="utf-8"))
    folds = [
        json.loads((folder / f"fold_{fold}/validation/lesion_detection.json").read_text(encoding="utf-8"))
        for fold in range(5)
    ]
    for key in ("n_reference", "n_detected", "n_missed", "n_false_positive"):
        assert isinstance(summary[key], int)
        assert summary[key] == sum(fold[key] for fold in folds)
    assert summary["n_reference"] == 10
    assert f"of {summary['n_reference']} lesions" in printed
    assert all((folder / f"crossval_summary.{ending}").stat().st_size for ending in ("csv", "md", "png"))


def test_finished_folds_are_not_repeated(trained):
    variables, base, _ = trained
    before = {path: path.stat().st_mtime_ns for path in model_folder(base).glob("fold_*/checkpoint_final.pth")}
    printed = run(variables, "rectal_nnformer", "crossval", *MODEL, "-device", "cpu")
    assert printed.count("finished before") == 5
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_nnunets_model_selection_and_accumulation_work(trained):
    variables, base, _ = trained
    stock = with_trainers(variables)
    model = ("-c", "3d_fullres", "-tr", "ShortSMIT_CPU", "-p", PLANS)
    run(stock, "nnUNetv2_find_best_configuration", "501", *model, "-np", 1)
    assert (base / f"nnUNet_results/{DATASET}/inference_instructions.txt").is_file()
    run(stock, "nnUNetv2_accumulate_crossval_results", "501", *model)
    accumulated = model_folder(base) / "crossval_results_folds_0_1_2_3_4"
    assert len(list(accumulated.glob("case_*.nii.gz"))) == 10


def predict(variables, images, output, *options):
    return run(
        variables, "rectal_nnformer", "predict", "-i", images, "-o", output, *MODEL,
        "-c", "3d_fullres", "-f", 0, 1, "-device", "cpu", "-npp", 1, "-nps", 1, *options,
    )  # fmt: skip


def test_a_model_zip_predicts_the_same_elsewhere(trained, tmp_path):
    variables, base, _ = trained
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(base / f"nnUNet_raw/{DATASET}/imagesTr/case_00_0000.nii.gz", images)
    archive = tmp_path / "model.zip"
    stock = with_trainers(variables)
    run(stock, "nnUNetv2_export_model_to_zip", *MODEL, "-c", "3d_fullres", "-o", archive)
    elsewhere = {**stock, "nnUNet_results": str(tmp_path / "results")}
    run(elsewhere, "nnUNetv2_install_pretrained_model_from_zip", archive)
    predict(stock, images, tmp_path / "here")
    predict(elsewhere, images, tmp_path / "there")
    here, there = (sitk.ReadImage(str(tmp_path / name / "case_00.nii.gz")) for name in ("here", "there"))
    assert np.array_equal(sitk.GetArrayViewFromImage(here), sitk.GetArrayViewFromImage(there))


def test_nnunets_own_command_predicts_as_ours(trained, tmp_path):
    """In the environment that `env` prints, as programs call it that know nothing of this package."""
    variables, base, _ = trained
    (tmp_path / "images").mkdir()
    shutil.copy(base / f"nnUNet_raw/{DATASET}/imagesTr/case_00_0000.nii.gz", tmp_path / "images/volume_0000.nii.gz")
    places = ("-i", tmp_path / "images", "-o", tmp_path / "stock")
    folds = ("-c", "3d_fullres", "-f", 0, 1, "-device", "cpu", "-npp", 1, "-nps", 1)
    run(with_trainers(variables), "nnUNetv2_predict", *places, "-d", DATASET, *MODEL[2:], *folds)
    predict(variables, tmp_path / "images", tmp_path / "ours")
    stock, ours = (sitk.ReadImage(str(tmp_path / name / "volume.nii.gz")) for name in ("stock", "ours"))
    assert np.mean(sitk.GetArrayViewFromImage(stock) != sitk.GetArrayViewFromImage(ours)) < 1e-3


def test_predictions_come_in_the_geometry_of_the_image_whatever_its_orientation(trained, tmp_path):
    """One scan stored in three orders: each mask has its image's geometry, and all mark the same tissue."""
    variables, base, _ = trained
    original = sitk.ReadImage(str(base / f"nnUNet_raw/{DATASET}/imagesTr/case_01_0000.nii.gz"))
    images = tmp_path / "images"
    images.mkdir()
    for orientation in ("LPS", "RAI", "SAL"):
        stored = sitk.DICOMOrient(original, orientation)
        sitk.WriteImage(stored, str(images / f"{orientation}_0000.nii.gz"))
    predict(variables, images, tmp_path / "masks")
    masks = {}
    for orientation in ("LPS", "RAI", "SAL"):
        image = sitk.ReadImage(str(images / f"{orientation}_0000.nii.gz"))
        mask = sitk.ReadImage(str(tmp_path / f"masks/{orientation}.nii.gz"))
        assert mask.GetSize() == image.GetSize()
        for value in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(mask, value)(), getattr(image, value)(), atol=1e-4)
        masks[orientation] = sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS"))
    assert masks["LPS"].any()
    for orientation in ("RAI", "SAL"):
        disagreement = np.mean(masks[orientation] != masks["LPS"])
        assert disagreement < 1e-3


def test_three_dicom_studies_get_their_objects_in_one_command(trained, tmp_path):
    variables, base, _ = trained
    for number in range(3):
        image = sitk.ReadImage(str(base / f"nnUNet_raw/{DATASET}/imagesTr/case_0{number}_0000.nii.gz"), sitk.sitkInt16)
        study = {"T0020_000d": f"1.2.826.0.2.{number}", "T0020_0052": f"1.2.826.0.3.{number}"}
        write_series(tmp_path / f"in/DOE^JANE_{number}/t2", image, f"1.2.826.1.{number}", **study)
    formats = ("--as", "nifti", "dicom-seg", "rtstruct")
    printed = predict(variables, tmp_path / "in", tmp_path / "out", *formats)
    assert not re.search("doe|jane|secret-17", printed, re.IGNORECASE)
    for series in find_series(tmp_path / "in").series:
        name = tmp_path / "out" / series_name(series.uid)
        components = find_components(sitk.GetArrayFromImage(sitk.ReadImage(f"{name}.nii.gz")))
        numbers = range(1, len(components.boxes) + 1)
        for kind, read in (("dicom-seg", read_segments), ("rtstruct", read_regions)):
            path = Path(f"{name}_{kind}.dcm")
            assert path.exists() == bool(numbers)
            for number, mask in read(path, series, numbers).items() if numbers else ():
                assert np.array_equal(mask, components.labels == number)
    assert len(list((tmp_path / "out").glob("*_dicom-seg.dcm"))) > 0


def test_stock_nnunet_plans_preprocesses_and_trains_on_the_converted_dataset(converted):
    variables, base = converted
    stock = with_trainers(variables)
    run(stock, "nnUNetv2_plan_and_preprocess", "-d", 501, "-c", "3d_fullres", "-np", 1, "-npfp", 1)
    run(stock, "nnUNetv2_train", 501, "3d_fullres", 0, "-tr", "ShortStock", "-device", "cpu")
    fold = base / f"nnUNet_results/{DATASET}/ShortStock__nnUNetPlans__3d_fullres/fold_0"
    assert (fold / "validation/summary.json").is_file()
