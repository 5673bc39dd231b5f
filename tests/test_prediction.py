"""Predicting: what is missing is refused in words, scans and masks are checked, the rest is nnU-Net's."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from checkpoints import write_checkpoint
from conversion_inputs import SAGITTAL, scan, write_series
from prediction_runs import MODEL, predict, stand_in_for_nnunet, write_model, write_scan

from rectal_nnformer import cli, prediction
from rectal_nnformer.imaging.reading import grid_differences
from rectal_nnformer.imaging.volumes import check_volume
from rectal_nnformer.prediction.scans import find_scans, prepare_scans


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """A folder with a scan, and results of one model with folds 0 and 2 and one channel."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    write_model(tmp_path / "results")
    write_scan(tmp_path / "scans/case_0000.nii.gz")
    return tmp_path / "scans"


@pytest.fixture
def predicted(monkeypatch):
    """The cases of each call of the predictor, which writes an empty mask for each, on a machine with a GPU."""
    return stand_in_for_nnunet(monkeypatch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["-tr", "Other"],
            "has Trainer__Plans__3d_fullres: fix -tr, -p or -c. Did you mean Trainer__Plans__3d_fullres?",
        ),
        (["-f", "0", "1"], "no checkpoint_final.pth of fold 1; take those that do: -f 0 2"),
        ([], "no checkpoint_final.pth of fold 1, 3, 4"),
        (["-d", "502"], "No dataset is called 502 in nnUNet_results"),
        (["-i", "elsewhere"], "There is no elsewhere. Name by -i a folder of scans"),
    ],
)
def test_what_is_missing_is_said(scans, predicted, capsys, changes, message):
    assert predict("-i", scans, "-o", "out", "-d", "501", *MODEL, *changes) == 2
    assert message in capsys.readouterr().err
    assert not predicted


@pytest.fixture
def arguments(scans, tmp_path):
    return ["-i", str(scans), "-o", str(tmp_path / "out"), "-d", "501", *MODEL, "-f", "0"]


def test_other_files_beside_the_images_are_listed_and_left_alone(scans, predicted, arguments, capsys):
    for name in ("notes.txt", "._case_0000.nii.gz"):
        (scans / name).touch()
    (scans / "more").mkdir()
    assert predict(*arguments) == 0
    printed = capsys.readouterr().out
    assert "notes.txt: not one of .nii.gz" in printed and "1 folder: not looked into beside image files" in printed
    assert "._case_0000.nii.gz: a hidden file of the system" in printed
    assert predicted[0][0] == ["case_0000.nii.gz"]


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan_0000.nii", "SCAN.NRRD", "scan of Monday.mha", "a.b.mhd"])
def test_scans_of_any_name_and_format_are_predicted_alike(scans, predicted, arguments, name):
    volume = sitk.ReadImage(str(scans / "case_0000.nii.gz"))
    case = name.rpartition(".")[0].removesuffix(".nii").removesuffix("_0000")
    sitk.WriteImage(volume, str(scans / name.lower()))
    (scans / name.lower()).rename(scans / name)
    assert predict(*arguments) == 0
    assert predicted[0][0] == sorted(["case_0000.nii.gz", f"{case}_0000.nii.gz"])
    mask = sitk.ReadImage(f"{arguments[3]}/{case}.nii.gz")
    assert mask.GetSize() == volume.GetSize()


def test_a_single_scan_can_be_named(scans, predicted, arguments):
    path = write_scan(scans / "scan.nrrd", number=2)
    assert predict("-i", path, *arguments[2:]) == 0
    assert predicted[0][0] == ["scan_0000.nii.gz"]


def test_two_files_of_one_scan_are_named_and_the_others_predicted(scans, predicted, arguments, capsys):
    write_scan(scans / "case.nii.gz", number=2)
    write_scan(scans / "other.nii.gz", number=3)
    assert predict(*arguments) == 1
    assert "case: case.nii.gz and case_0000.nii.gz are both its channel 0" in capsys.readouterr().out
    assert predicted[0][0] == ["other_0000.nii.gz"]


@pytest.fixture
def second_channel(scans):
    """A second image of the case, for a model of two channels."""
    path = scans.parent / "results/Dataset501_Rectal/Trainer__Plans__3d_fullres/dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "channel_names": {"0": "T2w", "1": "ADC"}}))
    return write_scan(scans / "case_0001.nii.gz", number=1)


def test_a_model_of_two_channels_needs_their_numbers(scans, second_channel, predicted, arguments, capsys):
    write_scan(scans / "free.nii.gz", number=2)
    assert predict(*arguments) == 0
    assert "free.nii.gz: without the number of a channel" in capsys.readouterr().out
    assert predicted[0][0] == ["case_0000.nii.gz", "case_0001.nii.gz"]


def test_a_channel_that_lies_elsewhere_is_told_and_the_others_are_predicted(
    scans, second_channel, predicted, arguments, capsys
):
    for channel in (0, 1):
        shutil.copy(scans / f"case_{channel:04d}.nii.gz", scans / f"other_{channel:04d}.nii.gz")
    image = sitk.ReadImage(str(second_channel))
    image.SetOrigin((60.0, 0.0, 0.0))
    sitk.WriteImage(image, str(second_channel))
    assert predict(*arguments) == 1
    assert "case_0001.nii.gz has another geometry than channel 0 (corners up to" in capsys.readouterr().out
    assert predicted[0][0] == ["other_0000.nii.gz", "other_0001.nii.gz"]


def test_a_channel_stored_in_another_order_is_laid_over_the_first(scans, second_channel, predicted, arguments):
    turned = sitk.DICOMOrient(sitk.ReadImage(str(second_channel)), "SAR")
    sitk.WriteImage(turned, str(second_channel))
    found = find_scans(scans, 2)
    folder = scans.parent / "prepared"
    folder.mkdir()
    assert list(prepare_scans(found, folder, ".nii.gz")) == ["case"]
    first, second = (sitk.ReadImage(str(folder / f"case_{channel:04d}.nii.gz")) for channel in (0, 1))
    assert not grid_differences(first, second)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(second, "SAR")), sitk.GetArrayFromImage(turned))


def test_a_folder_without_a_scan_is_refused_with_what_would_fit(scans, predicted, arguments, capsys):
    (scans / "case_0000.nii.gz").rename(scans / "case.txt")
    assert predict(*arguments) == 2
    assert "holds no scan (.nii.gz .nii .nrrd .mha .mhd), but case.txt" in capsys.readouterr().err
    assert not predicted


def spoil_by_cutting_off(path):
    path.write_bytes(path.read_bytes()[:3000])


def spoil_by_another_format(path):
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_suffix(".nrrd")))
    path.with_suffix(".nrrd").rename(path)


def spoil_by_a_series(path):
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(path))] * 2), str(path))


def spoil_by_nan(path):
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
    values[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def spoil_by_a_constant(path):
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))


def spoil_by_another_channel(path):
    path.rename(path.with_name("bad_0001.nii.gz"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_by_cutting_off, "cannot be read"),
        (spoil_by_another_format, "cannot be read"),
        (spoil_by_a_series, "not a 3D volume"),
        (spoil_by_nan, "NaN or infinite values (1 voxel)"),
        (spoil_by_a_constant, "image is constant"),
        (spoil_by_another_channel, "has the channels 0001, but the model reads 1, from 0000 on"),
    ],
)
def test_a_bad_scan_is_named_and_the_others_are_predicted(scans, predicted, arguments, capsys, spoil, message):
    spoil(write_scan(scans / "bad_0000.nii.gz", number=1))
    assert predict(*arguments) == 1
    printed = capsys.readouterr().out
    assert "1 scan not predicted:\n  bad: " in printed and message in printed
    assert predicted[0][0] == ["case_0000.nii.gz"]
    assert [path.name for path in Path(arguments[3]).glob("*.nii.gz")] == ["case.nii.gz"]


def test_nothing_is_started_where_no_scan_can_be_used(scans, predicted, arguments, capsys):
    spoil_by_cutting_off(scans / "case_0000.nii.gz")
    assert predict(*arguments) == 2
    assert "None of the scans in" in capsys.readouterr().err
    assert not predicted


def test_a_mask_that_was_not_written_whole_is_named_and_removed(scans, predicted, arguments, capsys, monkeypatch):
    """As where the disk loses what was written."""
    write = prediction.predictor.predict_folder

    def write_half(model, given):
        code = write(model, given)
        spoil = Path(arguments[3]) / "case.nii.gz"
        spoil.write_bytes(spoil.read_bytes()[:50])
        return code

    monkeypatch.setattr(prediction.predictor, "predict_folder", write_half)
    write_scan(scans / "other_0000.nii.gz", number=1)
    assert predict(*arguments) == 3
    printed = capsys.readouterr().out
    assert "1 scan predicted" in printed and "case.nii.gz cannot be read" in printed
    assert [path.name for path in Path(arguments[3]).glob("*.nii.gz")] == ["other.nii.gz"]


def test_a_continued_prediction_repeats_masks_that_are_not_whole(scans, predicted, arguments, capsys):
    assert predict(*arguments) == 0
    mask = Path(arguments[3]) / "case.nii.gz"
    mask.write_bytes(b"")
    assert predict(*arguments, "--continue_prediction") == 0
    assert "Predicted again" in capsys.readouterr().out
    assert sitk.ReadImage(str(mask)).GetSize() == (20, 16, 8)
    assert predict(*arguments, "--continue_prediction") == 0
    assert "Predicted again" not in capsys.readouterr().out
    os.utime(mask, ns=(0, 0))
    assert predict(*arguments, "--continue_prediction") == 0
    assert "Predicted again, since the scans are newer than the masks: case" in capsys.readouterr().out
    assert mask.stat().st_mtime_ns > 0


def test_a_scan_that_the_model_was_trained_on_is_told_in_predict_and_evaluate(scans, predicted, arguments, capsys):
    """By its voxels, whatever it is called and however they are stored."""
    model = scans.parent / "results/Dataset501_Rectal/Trainer__Plans__3d_fullres"
    (model / "image_digests.json").write_text(json.dumps({"case_07": check_volume(scans / "case_0000.nii.gz").digest}))
    image = sitk.ReadImage(str(scans / "case_0000.nii.gz"))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), str(scans / "case_0000.nii.gz"))
    write_scan(scans / "new_0000.nii.gz", number=1)
    assert predict(*arguments) == 0
    assert "the model was trained on case as case_07: its result" in capsys.readouterr().out
    output = Path(arguments[3])
    for name in ("dataset.json",):
        (output / name).write_text((model / name).read_text())
    cli.main(["evaluate", "--pred", str(output), "--gt", str(output), "-o", str(scans.parent / "scored")])
    assert "WARNING: of 2 cases the model was trained on 1 (case)" in capsys.readouterr().out


def test_parts_share_the_cases_out(scans, predicted, arguments):
    for number in range(4):
        write_scan(scans / f"scan{number}_0000.nii.gz", number=number)
    for part in (0, 1):
        assert predict(*arguments, "-num_parts", "2", "-part_id", part) == 0
    assert [names for names, _ in predicted] == [
        ["case_0000.nii.gz", "scan1_0000.nii.gz", "scan3_0000.nii.gz"],
        ["scan0_0000.nii.gz", "scan2_0000.nii.gz"],
    ]


def test_what_is_there_goes_to_nnunet_with_its_options(predicted, arguments):
    assert predict(*arguments, "2", "--disable_tta") == 0
    assert predicted[0][1][: len(arguments) + 2] == [*arguments, "2", "--disable_tta"]


def test_incomplete_arguments_are_refused_as_nnunet_does(scans, predicted, capsys):
    assert predict("-i", scans) == 2
    assert "the following arguments are required: -o, -d" in capsys.readouterr().err
    assert not predicted


def test_the_configuration_has_a_default(scans, predicted, tmp_path):
    arguments = ["-i", str(scans), "-o", str(tmp_path / "out"), "-d", "501", *MODEL[2:], "-f", "0", "2"]
    assert predict(*arguments) == 0
    assert predicted[0][1][: len(arguments) + 2] == [*arguments, "-c", "3d_fullres"]


def test_options_that_begin_like_others_are_not_taken_for_them(predicted, arguments):
    arguments += ["-device", "cpu", "-num_parts", "2", "-part_id", "0", "-prev_stage_predictions", "elsewhere"]
    assert predict(*arguments) == 0
    assert predicted[0][1][: len(arguments)] == arguments


def test_the_short_name_of_going_on_is_no_choice_of_channels(scans, predicted, arguments):
    assert predict(*arguments, "--c") == 0
    assert "--continue_prediction" in predicted[0][1]


def test_a_missing_gpu_is_said_with_the_way_out(predicted, arguments, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert predict(*arguments) == 2
    error = capsys.readouterr().err
    assert "PyTorch sees no GPU on this machine" in error and "give -device cpu" in error
    assert predict(*arguments, "-device", "cpu") == 0


# DICOM


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with an axial, a sagittal and another axial series, at different depths."""
    folder = tmp_path / "dicom"
    write_series(folder / "t2_tra", scan(1), "1.2.1")
    write_series(folder / "more/t2_sag", scan(2, SAGITTAL), "1.2.2")
    write_series(folder / "more/deep/t2_tra_late", scan(3), "1.2.3", T0008_103e="t2_late")
    return folder


def test_dicom_series_are_predicted_on_their_own_grid(study, predicted, arguments, capsys):
    assert predict("-i", study, *arguments[2:], "--keep-names") == 0
    assert predicted[0][0] == ["t2_tra_0000.nii.gz", "t2_tra_late_0000.nii.gz"]
    mask = sitk.ReadImage(f"{arguments[3]}/t2_tra.nii.gz")
    assert not grid_differences(scan(1), mask)
    assert "sagittal plane (add --planes sagittal to take it)" in capsys.readouterr().out


def test_series_can_be_chosen(study, predicted, arguments):
    options = ("--planes", "sagittal", "axial", "--description", "late|sag", "--keep-names")
    assert predict("-i", study, *arguments[2:], *options) == 0
    assert predicted[0][0] == ["t2_tra_late_0000.nii.gz"]
    assert not {"--planes", "--description", "--keep-names"} & set(predicted[0][1])


def test_a_broken_series_is_named_and_the_others_are_predicted(study, predicted, arguments, capsys):
    (study / "t2_tra/IM0005").unlink()
    assert predict("-i", study, *arguments[2:], "--keep-names") == 1
    assert "slices are missing or unevenly spaced" in capsys.readouterr().out
    assert predicted[0][0] == ["t2_tra_late_0000.nii.gz"]


def test_nothing_of_a_patient_is_printed(study, predicted, arguments, capsys):
    predict("-i", study, *arguments[2:])
    printed = capsys.readouterr()
    assert not [word for word in ("SECRET", "Doe", "Jane") if word in printed.out + printed.err]


# What is there stays


def test_a_mask_never_takes_the_place_of_its_scan(scans, predicted, arguments, capsys):
    path = write_scan(scans / "anna.nii.gz", number=4)
    before = path.read_bytes()
    assert predict("-i", scans, "-o", scans, *arguments[4:]) == 2
    assert "would take the place of the scan" in capsys.readouterr().err
    assert path.read_bytes() == before and not predicted


def test_other_json_files_beside_the_masks_stay(scans, predicted, arguments):
    output = Path(arguments[3])
    (output / "deep.json").mkdir(parents=True)
    (output / "marks.json").write_text("[1, 2, 3]")
    (output / "plans.json").write_text('{"half')
    assert predict(*arguments) == 0
    assert (output / "marks.json").read_text() == "[1, 2, 3]" and (output / "deep.json").is_dir()
    assert not (output / "plans.json").exists()


def test_what_is_called_like_a_scan_and_cannot_be_reached_counts(scans, predicted, arguments, capsys):
    (scans / "gone_0000.nii.gz").symlink_to(scans / "nowhere")
    os.mkfifo(scans / "pipe_0000.nii.gz")
    assert predict(*arguments) == 1
    printed = capsys.readouterr().out
    assert "gone_0000.nii.gz: is a link to nothing" in printed and "pipe_0000.nii.gz: is a named pipe" in printed


def test_a_scan_whose_name_is_not_in_utf8_is_told_on_the_page_too(scans, predicted, arguments, tmp_path):
    os.link(scans / "case_0000.nii.gz", os.fsencode(scans) + b"/\xe4_0000.nii.gz")
    assert predict(*arguments) == 1
    assert predicted[0][0] == ["case_0000.nii.gz"]
    for name in ("findings.csv", "findings.html", "findings.json"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "_0000.nii.gz has a name that is not in UTF-8" in text


def test_a_scan_in_the_place_of_a_mask_is_predicted_again(scans, predicted, arguments, capsys):
    assert predict(*arguments) == 0
    shutil.copy(scans / "case_0000.nii.gz", Path(arguments[3]) / "case.nii.gz")
    assert predict(*arguments, "--continue_prediction") == 0
    assert "is no mask: it holds values that are no labels" in capsys.readouterr().out


def test_a_damaged_or_foreign_checkpoint_does_not_predict(scans, predicted, arguments, capsys):
    checkpoint = scans.parent / "results/Dataset501_Rectal/Trainer__Plans__3d_fullres/fold_0/checkpoint_final.pth"
    write_checkpoint(checkpoint, "Other")
    assert predict(*arguments) == 2
    assert "checkpoint_final.pth is of Other and not of Trainer" in capsys.readouterr().err
    content = bytearray(write_checkpoint(checkpoint, "Trainer").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes([7]) * 200
    checkpoint.write_bytes(content)
    assert predict(*arguments) == 2
    assert "checkpoint_final.pth is damaged inside" in capsys.readouterr().err
    assert not predicted


def test_what_the_model_was_trained_on_is_noted_over_parts_and_forgotten_for_new_scans(scans, predicted, arguments):
    model = scans.parent / "results/Dataset501_Rectal/Trainer__Plans__3d_fullres"
    paths = [scans / "case_0000.nii.gz", write_scan(scans / "other_0000.nii.gz", number=1)]
    (model / "image_digests.json").write_text(
        json.dumps({f"known_{number}": check_volume(path).digest for number, path in enumerate(paths)})
    )
    for part in (0, 1):
        assert predict(*arguments, "-num_parts", "2", "-part_id", part) == 0
    noted = Path(arguments[3]) / "trained_on.json"
    assert json.loads(noted.read_text()) == {"case": "known_0", "other": "known_1"}
    write_scan(scans / "case_0000.nii.gz", number=9)
    assert predict(*arguments) == 0
    assert json.loads(noted.read_text()) == {"other": "known_1"}


def test_a_case_that_the_fold_was_validated_on_is_none_that_it_was_trained_on(scans, predicted, arguments, capsys):
    model = scans.parent / "results/Dataset501_Rectal/Trainer__Plans__3d_fullres"
    digest = check_volume(scans / "case_0000.nii.gz").digest
    (model / "image_digests.json").write_text(json.dumps({"case_07": digest}))
    (model / "fold_0/validation").mkdir()
    (model / "fold_0/validation/case_07.nii.gz").touch()
    assert predict(*arguments) == 0
    assert "was trained on" not in capsys.readouterr().out
    assert predict(*arguments, "2") == 0
    assert "was trained on case as case_07" in capsys.readouterr().out


def test_names_of_cases_may_hold_dots_and_notes_may_be_damaged(scans, predicted, arguments, capsys):
    model = scans.parent / "results/Dataset501_Rectal/Trainer__Plans__3d_fullres"
    digest = check_volume(scans / "case_0000.nii.gz").digest
    (model / "image_digests.json").write_text(json.dumps({"damaged": [], "p.1": digest}))
    assert predict(*arguments) == 0
    assert "was trained on case as p.1" in capsys.readouterr().out
    (model / "fold_0/validation").mkdir()
    (model / "fold_0/validation/p.1.nii.gz").touch()
    assert predict(*arguments) == 0
    assert "was trained on" not in capsys.readouterr().out
