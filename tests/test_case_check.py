"""Planning reads every image and mask first: what is wrong is named, all of it, and nothing is written."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from small_datasets import write_dataset_json, write_raw_dataset

from rectal_nnformer import cli
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import label_values
from rectal_nnformer.nnunet.layout import case_files
from rectal_nnformer.planning.case_check import check_cases, same_images
from rectal_nnformer.planning.dataset import open_raw_dataset

CASES = ("a", "b", "c", "d")
SHAPE = (8, 20, 24)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A raw dataset of four sound cases."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    pairs = {}
    for number, name in enumerate(CASES):
        image = np.random.default_rng(number).normal(200, 30, SHAPE).astype(np.float32)
        mask = np.zeros(SHAPE, np.uint8)
        mask[2:6, 5:12, 5 + number : 14 + number] = 1
        pairs[name] = image, mask
    return write_raw_dataset(tmp_path / "nnUNet_raw/Dataset501_Tiny", pairs, (1.0, 1.0, 3.0))


def plan(capsys):
    """Plan without preprocessing; return exit code and what was printed."""
    arguments = ["plan_and_preprocess", "-d", "501", "--backbone", "smit_small", "--no_pp", "-np", "1", "-npfp", "1"]
    try:
        cli.main(arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def check():
    """Read the images and masks as planning does first; return exit code and what would be printed."""
    try:
        return 0, "\n".join(check_cases(open_raw_dataset(501), 1)[0])
    except RectalError as error:
        return 2, str(error)


def changed(path, change):
    """Replace an image by what a function makes of its array, on the same grid."""
    image = sitk.ReadImage(str(path))
    new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    new.SetSpacing(image.GetSpacing())
    new.SetOrigin(image.GetOrigin())
    new.SetDirection(image.GetDirection())
    sitk.WriteImage(new, str(path))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-500])


def with_value(value):
    def change(path):
        def put(array):
            array[0, 0, 0] = value
            return array

        changed(path, put)

    return change


def shorter(path):
    changed(path, lambda array: array[:-1])


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("imagesTr/b_0000.nii.gz", cut_off, "case b: "),
        ("imagesTr/b_0000.nii.gz", with_value(np.nan), "holds NaN or infinite values (1 voxel)"),
        ("imagesTr/b_0000.nii.gz", lambda p: changed(p, lambda a: a[:1]), "image is not a 3D volume"),
        ("imagesTr/b_0000.nii.gz", lambda p: changed(p, lambda a: 0 * a + 7), "image is constant (every voxel is 7)"),
        ("labelsTr/b.nii.gz", cut_off, "labelsTr/b.nii.gz cannot be read"),
        ("labelsTr/b.nii.gz", with_value(2), "holds 1 label that dataset.json lacks (2); it has [0, 1]"),
        ("labelsTr/b.nii.gz", shorter, "has another size than its image"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_before_anything_is_written(raw, capsys, file, spoil, message):
    spoil(raw / file)
    code, printed = plan(capsys)
    assert code == 2 and message in printed and "case b: " in printed
    assert not list((raw.parents[1] / "nnUNet_preprocessed").rglob("*.json"))


def test_every_bad_file_is_named_at_once(raw, capsys):
    for name in ("a", "c"):
        cut_off(raw / f"imagesTr/{name}_0000.nii.gz")
    with_value(3)(raw / "labelsTr/d.nii.gz")
    code, printed = plan(capsys)
    assert code == 2 and all(f"case {name}: " in printed for name in "acd") and "case b: " not in printed


def run(capsys, *arguments):
    """Return exit code and what was printed."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


def test_folds_masks_and_images_that_are_wrong_at_once_are_all_told(raw, capsys):
    folds = [{"train": ["a", "b", "c"], "val": ["c", "d"]}]
    (raw / "splits_final.json").write_text(json.dumps(folds))
    cut_off(raw / "imagesTr/a_0000.nii.gz")
    with_value(3)(raw / "labelsTr/d.nii.gz")
    causes = ("fold 0 has 1 case in training and validation (c)", "case a: ", "dataset.json lacks (3)")
    code, printed = run(capsys, "doctor", "-d", "501", "-np", "1")
    assert code == 1 and all(cause in printed for cause in causes)
    code, printed = plan(capsys)
    assert code == 2 and all(cause in printed for cause in causes)
    write_planned(raw)
    trainer = ("-tr", "nnUNetTrainer", "-p", "P", "-device", "cpu")
    code, printed = run(capsys, "crossval", "-d", "501", *trainer)
    assert code == 2 and causes[0] in printed


def write_planned(raw):
    """Write what planning the dataset would have left, without what is in it."""
    folder = raw.parents[1] / "nnUNet_preprocessed" / raw.name
    (folder / "data").mkdir(parents=True, exist_ok=True)
    shutil.copy(raw / "dataset.json", folder)
    settings = {"data_identifier": "data", "patch_size": [16] * 3, "spacing": [1.0] * 3, "batch_size": 2}
    settings["normalization_schemes"] = ["ZScoreNormalization"]
    plans = {"plans_name": "P", "dataset_name": raw.name, "configurations": {"3d_fullres": settings}}
    (folder / "P.json").write_text(json.dumps(plans))
    for path in (path for case in CASES for path in case_files(folder / "data", case)):
        path.touch()


def test_the_same_scan_under_two_patients_is_told(raw):
    (raw / "imagesTr/d_0000.nii.gz").write_bytes((raw / "imagesTr/a_0000.nii.gz").read_bytes())
    (raw / "patients.csv").write_text("case,patient\na,P1\nb,P2\nc,P3\nd,P4\n")
    code, printed = check()
    assert code == 0
    assert "The images of a (patient P1) and d (patient P4) hold the same voxels, so that folds leak" in printed


@pytest.mark.parametrize("order", ["RAS", "SAL", "PIR"])
def test_the_same_scan_in_another_orientation_is_told(raw, order):
    """Whichever way its axes were flipped or permuted, here with a header that says nothing of it."""
    turned = sitk.DICOMOrient(sitk.ReadImage(str(raw / "imagesTr/a_0000.nii.gz")), order)
    turned.SetDirection(np.eye(3).ravel())
    mask = sitk.GetImageFromArray(np.ones(turned.GetSize()[::-1], np.uint8))
    for image, path in ((turned, "imagesTr/d_0000.nii.gz"), (mask, "labelsTr/d.nii.gz")):
        image.SetOrigin((0, 0, 0))
        image.SetSpacing((1, 1, 1))
        sitk.WriteImage(image, str(raw / path))
    code, printed = check()
    assert code == 0 and "The images of a and d hold the same voxels, so that folds leak" in printed


@pytest.mark.parametrize("order", ["LPS", "SAL"])
def test_the_same_scan_with_a_slice_less_is_told(raw, order):
    for path in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        cut = sitk.DICOMOrient(sitk.ReadImage(str(raw / path))[:, :, :-1], order)
        sitk.WriteImage(cut, str(raw / path.replace("/a", "/d")))
    (raw / "patients.csv").write_text("case,patient\na,P1\nb,P2\nc,P3\nd,P4\n")
    code, printed = check()
    slices = sitk.ReadImage(str(raw / "imagesTr/a_0000.nii.gz")).GetSize()[2]
    told = f"The images of a (patient P1) and d (patient P4) share {slices - 1} of {slices} slices, so that folds leak"
    assert code == 0 and told in printed
    (raw / "patients.csv").write_text("case,patient\na,P1\nb,P2\nc,P3\nd,P1\n")
    assert "share" not in check()[1]


def test_empty_slices_and_equal_places_are_no_likeness(raw):
    """Scans whose surroundings were set to 0 share those slices, and other scans the values of single voxels."""
    for name in "ad":
        changed(raw / f"imagesTr/{name}_0000.nii.gz", lambda array: np.where(np.arange(len(array)) < 3, array.T, 0).T)
    code, printed = check()
    assert code == 0 and "hold the same" not in printed and "share" not in printed


def test_equal_scans_of_one_patient_are_told_differently():
    (line,) = same_images({"a": "1", "b": "2", "c": "1"}, {"a": "P", "b": "Q", "c": "P"})
    assert line == "The images of a (patient P) and c (patient P) hold the same voxels, of one patient; one will do."


def test_a_mask_stored_in_another_order_fits(raw):
    """Flipped and permuted axes of the same place are no difference."""
    path = raw / "labelsTr/b.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "SAL"), str(path))
    code, printed = check()
    assert code == 0 and "lies elsewhere" not in printed


def test_a_mask_elsewhere_is_told(raw):
    path = raw / "labelsTr/b.nii.gz"
    mask = sitk.ReadImage(str(path))
    mask.SetOrigin((50.0, 0.0, 0.0))
    sitk.WriteImage(mask, str(path))
    code, printed = check()
    assert code == 0 and "b.nii.gz lies elsewhere than its image" in printed


def moved(image):
    image.SetOrigin((60.0, 0.0, 0.0))
    return image


def thicker(image):
    image.SetSpacing((1.0, 1.0, 3.5))
    return image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (moved, "c_0001.nii.gz has another geometry than channel 0 (corners up to 60 mm apart"),
        (thicker, "spacing 1 x 1 x 3.5, image 1 x 1 x 3"),
        (lambda image: sitk.DICOMOrient(image, "SAL"), "c_0001.nii.gz is stored with its axes in another order"),
    ],
    ids=["elsewhere", "spacing", "order"],
)
def test_channels_that_do_not_lie_on_each_other_are_refused(raw, change, message):
    """As stored on a disk, they would be laid over each other voxel by voxel."""
    for name in CASES:
        image = sitk.ReadImage(str(raw / f"imagesTr/{name}_0000.nii.gz"))
        sitk.WriteImage(change(image) if name == "c" else image, str(raw / f"imagesTr/{name}_0001.nii.gz"))
    channels = {"0": "T2w", "1": "ADC"}
    write_dataset_json(raw, len(CASES), channel_names=channels, overwrite_image_reader_writer="SimpleITKIO")
    code, printed = check()
    assert code == 2 and message in printed


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "background", "1": "tumor"}, "have no background of the value 0"),
        ({"background": 1, "tumor": 2}, "have no background of the value 0"),
        ({"background": 0, "tumor": "one"}, "The label tumor of .* is 'one'"),
        ({"background": 0, "tumor": 1.5}, "The label tumor of .* is 1.5"),
        ({"background": 0, "tumor": []}, r"The label tumor of .* is \[\]"),
        ({"background": 0, "tumor": 2}, r"are \[0, 2\]; nnU-Net needs 0, 1, 2"),
        ({"background": 0, "tumor": 1, "ignore": 1}, "a number of no other label"),
        ([0, 1], "have no background"),
    ],
)
def test_labels_that_nnunet_does_not_take_are_refused(raw, labels, message):
    with pytest.raises(RectalError, match=message):
        label_values({"labels": labels}, "dataset.json")
    write_dataset_json(raw, len(CASES), labels=labels)
    code, printed = check()
    assert code == 2 and "Traceback" not in printed


def test_labels_regions_and_ignore_give_the_values_of_masks():
    labels = {"background": 0, "wall": [1, 2], "tumor": 2, "ignore": 3}
    content = {"labels": labels, "regions_class_order": [1, 2]}
    assert label_values(content, "dataset.json") == {0, 1, 2, 3}
    with pytest.raises(RectalError, match="regions_class_order of 2 numbers, but has None"):
        label_values({"labels": labels}, "dataset.json")
    with pytest.raises(RectalError, match="needs it to be the highest"):
        label_values({"labels": {"background": 0, "ignore": 1, "tumor": 2}}, "dataset.json")
    assert label_values({"labels": {"background": "0", "tumor": "1"}}, "dataset.json") == {0, 1}


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
def test_a_flipped_mask_is_refused_where_the_reader_would_lay_it_over_its_image_as_stored(raw, reader):
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**content, "overwrite_image_reader_writer": reader}))
    path = raw / "labelsTr/b.nii.gz"
    sitk.WriteImage(sitk.Flip(sitk.ReadImage(str(path)), (False, False, True)), str(path))
    code, printed = check()
    assert (code == 2) == ("axes in another order than its image" in printed) == (reader == "SimpleITKIO")


def test_files_of_no_case_are_listed_and_planning_goes_on(raw):
    for name in ("imagesTr/scan.nrrd", "labelsTr/z.nii.gz"):
        (raw / name).touch()
    code, printed = check()
    assert code == 0
    assert "imagesTr holds 1 file of no case, left aside: scan.nrrd" in printed
    assert "labelsTr holds 1 file of no case, left aside: z.nii.gz" in printed


@pytest.mark.parametrize("name", ["e.nii.gz", "._a_0000.nii.gz"])
def test_what_nnunet_would_take_for_an_image_is_named(raw, name):
    (raw / "imagesTr" / name).touch()
    code, printed = check()
    assert code == 2 and f"is not called <case>_0000.nii.gz: {name}. Rename it, or take it away" in printed
