"""Manifests of the MONAI Decathlon kind: what becomes of their lists, and what is refused."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from conversion_inputs import as_image, every_byte_of, scan, tumor

from rectal_nnformer.cli import main
from rectal_nnformer.dataset_conversion import raw_dataset
from rectal_nnformer.dataset_conversion.manifest import convert_manifest
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.splits import read_splits


@pytest.fixture(autouse=True)
def no_contact_sheet(monkeypatch):
    monkeypatch.setattr(raw_dataset, "draw_contact_sheet", lambda *_: None)


def write_files(folder, count=6, image=scan):
    """Write images pN/image.nii.gz and masks pN/label.nii.gz; return their entries."""
    for number in range(count):
        (folder / f"p{number}").mkdir(parents=True)
        sitk.WriteImage(image(number), str(folder / f"p{number}/image.nii.gz"))
        sitk.WriteImage(tumor(), str(folder / f"p{number}/label.nii.gz"))
    return [{"image": f"./p{n}/image.nii.gz", "label": f"./p{n}/label.nii.gz"} for n in range(count)]


def convert(folder, content, base=None, **options):
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(content))
    return convert_manifest(manifest, base, 501, "Rectal", raw=folder / "raw", **options)


def refusal(folder, content, **options):
    with pytest.raises(RectalError) as caught:
        convert(folder, content, **options)
    assert not (folder / "raw").exists()
    return str(caught.value)


def folds_of(folder):
    return [[list(fold.train), list(fold.val)] for fold in read_splits(folder / "splits_final.json")]


def numbered(entries, *folds):
    return [{**entry, "fold": fold} for entry, fold in zip(entries, folds, strict=True)]


def names(folder, what):
    return sorted(path.name.removesuffix(".nii.gz") for path in (folder / what).iterdir())


def test_training_cases_get_five_folds_and_names_of_their_own(tmp_path):
    entries = write_files(tmp_path / "data")
    folder = convert(tmp_path, {"training": entries, "labels": {"0": "background", "1": "cancer"}}, tmp_path / "data")
    assert names(folder, "labelsTr") == [f"p{n}_image" for n in range(6)]
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "cancer": 1}
    assert len(folds_of(folder)) == 5
    for number in range(6):
        image = sitk.ReadImage(str(folder / f"imagesTr/p{number}_image_0000.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(scan(number)))


def test_folds_of_entries_are_kept(tmp_path):
    entries = write_files(tmp_path, 5)
    folder = convert(tmp_path, {"training": numbered(entries, 0, 1, 2, 1, 0)})
    a, b, c, d, e = (f"p{n}_image" for n in range(5))
    assert folds_of(folder) == [[[b, c, d], [a, e]], [[a, c, e], [b, d]], [[a, b, d, e], [c]]]


def test_validation_is_what_the_only_fold_validates(tmp_path):
    entries = write_files(tmp_path, 3)
    folder = convert(tmp_path, {"training": entries[:2], "validation": entries[2:]})
    assert folds_of(folder) == [[["p0_image", "p1_image"], ["p2_image"]]]


@pytest.mark.parametrize("key", ["testing", "test"])
def test_testing_goes_to_images_ts_with_a_mask_or_without(tmp_path, capsys, key):
    entries = write_files(tmp_path, 8)
    tested = [entries[6], entries[7]["image"]]
    folder = convert(tmp_path, {"training": entries[:6], key: tested})
    assert names(folder, "imagesTs") == ["p6_image_0000", "p7_image_0000"]
    assert (names(folder, "labelsTs"), len(names(folder, "labelsTr"))) == (["p6_image"], 6)
    output = capsys.readouterr().out
    assert "6 training cases of 6 patients" in output
    assert "1 case with masks in imagesTs and labelsTs" in output and "1 case to predict in imagesTs." in output


def test_a_manifest_can_be_a_test_cohort(tmp_path):
    entries = write_files(tmp_path, 2)
    folder = convert(tmp_path, {"training": numbered(entries, 0, 1)}, test=True)
    assert names(folder, "labelsTs") == ["p0_image", "p1_image"]
    assert not (folder / "splits_final.json").exists()


def test_files_of_nnunets_names_keep_their_case(tmp_path):
    entries = []
    for number in range(5):
        for name, image in ((f"scan_{number}_0000", scan(number)), (f"mask_{number}", tumor())):
            sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        entries.append({"image": f"scan_{number}_0000.nii.gz", "label": f"mask_{number}.nii.gz"})
    assert names(convert(tmp_path, {"training": entries}), "labelsTr") == [f"scan_{n}" for n in range(5)]


def test_an_image_of_several_files_has_several_channels(tmp_path):
    entries = [{**e, "image": [e["image"], e["image"]]} for e in write_files(tmp_path, 5)]
    assert "lists 2 images, and the channels are T2w; name all with --channels" in refusal(
        tmp_path, {"training": entries}
    )
    folder = convert(tmp_path, {"training": entries}, channels=("T2", "ADC"))
    assert names(folder, "imagesTr")[:2] == ["p0_image_0000", "p0_image_0001"]


def prepared(number, top=800):
    array = sitk.GetArrayFromImage(scan(number)).astype(np.float32)
    return as_image((array - array.min()) / (array.max() - array.min()) * np.float32(top))


def test_prepared_images_are_recognized_unless_one_is_not_or_the_channel_is_named(tmp_path, capsys):
    entries = write_files(tmp_path, 5, prepared)
    folder = convert(tmp_path, {"training": entries})
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "noNorm"}
    assert "all images reach from 0 to 800" in capsys.readouterr().out
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr/p0_image_0000.nii.gz")))
    before = sitk.GetArrayFromImage(prepared(0))
    assert np.array_equal(array, np.where(before == 0, np.float32(0.001), before))
    named = convert(tmp_path / "p0", {"training": entries}, tmp_path, channels=["T2w"])
    assert json.loads((named / "dataset.json").read_text())["channel_names"] == {"0": "T2w"}
    sitk.WriteImage(prepared(4, 799), str(tmp_path / "p4/image.nii.gz"))
    other = convert(tmp_path / "p1", {"training": entries}, tmp_path)
    assert json.loads((other / "dataset.json").read_text())["channel_names"] == {"0": "T2w"}


def _twice(entries):
    return {"training": [*entries, entries[0]]}


def _without_label(entries):
    return {"training": [{"image": entries[0]["image"]}, *entries[1:]]}


def _missing(entries):
    return {"training": [{**entries[0], "label": "gone.nii.gz"}, *entries[1:]]}


def _some_folds(entries):
    return {"training": [*numbered(entries[:1], 0), *entries[1:]]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_twice, "p0_image: listed twice"),
        (_without_label, "p0_image: no label for "),
        (_missing, "p0_image: there is no file "),
        (_some_folds, "tells the fold of 1 of 5 cases under training and validation: tell it of all, or of none"),
        (lambda e: {"training": numbered(e, 0, 0, 0, 0, 0)}, "fold 0 has no case in training"),
        (lambda e: {"training": numbered(e, 0, 0, 0, 0, 2)}, "fold 1 has no case in validation"),
        (lambda e: {"training": numbered(e, 0, 1, 2, 3, 10**9)}, "of fold 1000000000, and has 5 cases to validate"),
        (lambda e: {"training": [{**e[0], "image": ""}]}, "at least 1 character"),
        (lambda e: {"validation": e}, "lists cases under validation, and none under training"),
        (lambda e: {"train": e}, "lists no case under training, validation or testing"),
        (lambda e: {"training": [e[0]["image"]]}, "training"),
        (lambda e: {"training": [{"image": []}]}, "training"),
        (lambda e: {"training": e, "labels": {"1": "tumor"}}, "have no background of the value 0"),
    ],
)
def test_manifests_that_cannot_be_right_are_refused(tmp_path, content, reason):
    message = refusal(tmp_path, content(write_files(tmp_path, 5)))
    assert reason in message


def test_a_patient_of_two_folds_is_refused(tmp_path):
    entries = numbered(write_files(tmp_path, 5), 0, 1, 0, 1, 0)
    table = tmp_path / "p.csv"
    table.write_text("case,patient\n" + "".join(f"p{n}_image,{'JJABC'[n]}\n" for n in range(5)))
    message = refusal(tmp_path, {"training": entries}, patients=table)
    assert "fold 0 has 1 patient in training and validation" in message


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    entries = write_files(tmp_path / "data", 5)
    (tmp_path / "m.json").write_text(json.dumps({"training": entries}))
    options = ["convert", "nifti", "--manifest", str(tmp_path / "m.json"), "-d", "501", "--name", "Rectal", "-np", "1"]
    before = every_byte_of(tmp_path)
    for wrong, reason in ((["--masks", str(tmp_path)], "leave --masks out"), ([], "there is no file")):
        with pytest.raises(SystemExit):
            main([*options, *wrong])
        assert reason in capsys.readouterr().err
        assert every_byte_of(tmp_path) == before
    main([*options, "--images", str(tmp_path / "data")])
    assert names(tmp_path / "raw/Dataset501_Rectal", "labelsTr") == [f"p{n}_image" for n in range(5)]
    with pytest.raises(SystemExit):
        main(["convert", "nifti", "-d", "501", "--name", "Rectal"])
    assert "--images --manifest is required" in capsys.readouterr().err
