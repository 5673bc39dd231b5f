"""Wrong inputs, one row each: the command refuses, says why, and leaves the file system as it was.

The rows are also the table of documentation/reference/errors.md; after a change: python tests/test_errors.py
"""

import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from checkpoints import write_checkpoint
from conversion_inputs import scan, write_series

from rectal_nnformer import cli
from rectal_nnformer.nnunet.layout import FoldFolder
from rectal_nnformer.training.run_folds import claim_log

PAGE = Path(__file__).parents[1] / "documentation/reference/errors.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
PLANS, TRAINER = "nnUNetRectalSMITSmallPlans", "ShortSMIT_CPU"
MODEL = f"{TRAINER}__{PLANS}__3d_fullres"
MODEL_OPTIONS = ("-d", "7", "-tr", TRAINER, "-p", PLANS)


@dataclass(frozen=True)
class Row:
    """A situation.

    Attributes:
        command: The subcommand that is tried.
        situation: What is wrong, for people.
        spoil: Makes it wrong.
        message: What the message says, "..." standing for anything.
        arguments: Instead of the usual ones of the command.
        code: The exit code.
    """

    command: str
    situation: str
    spoil: Callable[[SimpleNamespace], object]
    message: str
    arguments: Callable[[SimpleNamespace], tuple] | None = None
    code: int = 2


def changed(path, change):
    """Replace an image by what a function makes of its array, on the same grid."""
    image = sitk.ReadImage(str(path))
    new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    if new.GetDimension() == 3:
        new.SetSpacing(image.GetSpacing())
        new.SetOrigin(image.GetOrigin())
        new.SetDirection(image.GetDirection())
    sitk.WriteImage(new, str(path))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put(value, where=(0, 0, 0)):
    def change(array):
        array[where] = value
        return array

    return change


def edit_json(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


def with_keys(**values):
    return lambda content: {**content, **values}


def nothing(world):
    pass


IMAGE, MASK = "images/case_02.nii.gz", "masks/case_02.nii.gz"
RAW_IMAGE, RAW_MASK = "imagesTr/case_02_0000.nii.gz", "labelsTr/case_02.nii.gz"

ROWS = (
    Row("convert", "an image is cut off", lambda w: cut(w.cohort / IMAGE), "case_02: ... cannot be read"),
    Row("convert", "an image holds NaN", lambda w: changed(w.cohort / IMAGE, put(np.nan)), "NaN or infinite values (1 voxel)"),
    Row("convert", "an image is constant", lambda w: changed(w.cohort / IMAGE, lambda a: 0 * a), "image is constant"),
    Row("convert", "an image is of one slice", lambda w: changed(w.cohort / IMAGE, lambda a: a[:1]), "image is not a 3D volume"),
    Row("convert", "a file is no NIfTI, whatever its name", lambda w: (w.cohort / IMAGE).write_bytes(b"text"), "cannot be read"),
    Row("convert", "an image tells a spacing of 0", lambda w: overwrite(w.cohort / IMAGE, 80, bytes(4)), "has a spacing of 0 x 1.5 x 3 mm by its header"),
    Row("convert", "compressed voxels of a MetaImage were overwritten", lambda w: overwrite(as_format(w.cohort / IMAGE, ".mha"), -2000, b"UUUUUUUU"), "case_02.mha cannot be read"),
    Row("convert", "a NRRD file ends early", lambda w: cut(as_format(w.cohort / IMAGE, ".nrrd")), "case_02.nrrd cannot be read"),
    Row("convert", "a header claims more voxels than its file can hold", lambda w: claim(as_format(w.cohort / IMAGE, ".mha"), b"1000 1000 1000"), "case_02.mha ends early"),
    Row("convert", "a header names a pipe for its voxels", lambda w: pipe(as_format(w.cohort / IMAGE, ".mhd").with_suffix(".zraw")), "case_02.zraw, which is a named pipe"),
    Row("convert", "images and masks are swapped", nothing, "are --images and --masks swapped?",
        lambda w: ("nifti", "-np", 1, "--images", w.cohort / "masks", "--masks", w.cohort / "images", "-d", 9, "--name", "New")),
    Row("convert", "a mask holds another label", lambda w: changed(w.cohort / MASK, put(3)), "mask has foreign labels 3"),
    Row("convert", "a mask is empty", lambda w: changed(w.cohort / MASK, lambda a: 0 * a), "mask has no tumour"),
    Row("convert", "a mask is of another size", lambda w: changed(w.cohort / MASK, lambda a: a[1:]), "another geometry than its image"),
    Row("convert", "an image has no mask", lambda w: (w.cohort / MASK).unlink(), "no mask case_02"),
    Row("convert", "a mask has no image", lambda w: (w.cohort / IMAGE).unlink(), "no image for mask"),
    Row("convert", "an image is a link to nothing", lambda w: link_to_nothing(w.cohort / IMAGE), "is a link to ... which is missing"),
    Row("convert", "there is no such folder", nothing, "nowhere",
        lambda w: ("nifti", "-np", 1, "--images", w.cohort / "nowhere", "--masks", w.cohort / "masks", "-d", 9, "--name", "New")),
    Row("convert", "the id is in use", nothing, "Dataset007_Small",
        lambda w: ("nifti", "-np", 1, "--images", w.cohort / "images", "--masks", w.cohort / "masks", "-d", 7, "--name", "New")),
    Row("convert", "the list of patients lacks a case", lambda w: (w.cohort / "p.csv").write_text("case,patient\ncase_00,A\n"), "not in p.csv; add a line for it",
        lambda w: ("nifti", "-np", 1, "--images", w.cohort / "images", "--masks", w.cohort / "masks", "-d", 9, "--name", "New", "--patients", w.cohort / "p.csv")),
    Row("convert", "an image holds two volumes", lambda w: double(w.cohort / IMAGE), "it holds 2 volumes: write each as a file of its own"),
    Row("convert", "the axes of an image are askew", lambda w: skew(w.cohort / IMAGE), "has axes that are not at right angles (by its sform"),
    Row("convert", "an image is a further channel", lambda w: shutil.copy(w.cohort / IMAGE, w.cohort / IMAGE.replace("02", "02_0001")), "the ending _0001 means channel 1 to nnU-Net, and only T2w is used; name all with --channels"),
    Row("convert", "a case lacks a channel", nothing, "no image case_00_0001 of channel ADC, but case_00.nii.gz",
        lambda w: (*USUAL["convert"](w), "--channels", "T2", "ADC")),
    Row("convert", "a channel is on another grid", lambda w: two_channels(w.cohort), "channel ADC has another geometry than channel T2",
        lambda w: (*USUAL["convert"](w), "--channels", "T2", "ADC")),
    Row("convert", "a study has no series for a channel", lambda w: write_series(w.base / "dicom", scan(), "1.2"), "no series of its study fits --channels ADC=adc, but there is 't2_tse_tra'",
        lambda w: ("dicom", "-np", 1, "--series", w.base / "dicom", "--channels", "T2=t2", "ADC=adc", "-d", 9, "--name", "New")),
    Row("convert", "a manifest lists a case without label", lambda w: (w.base / "m.json").write_text('{"training": [{"image": "a.nii.gz"}]}'), "a: no label for ...a.nii.gz in ...m.json",
        lambda w: ("nifti", "-np", 1, "--manifest", w.base / "m.json", "-d", 9, "--name", "New")),
    Row("convert", "a dataset.json whose labels have a gap", lambda w: edit_json(w.masks / "dataset.json", with_keys(labels={"background": 0, "tumor": 2})), "needs 0, 1, 2 and so on without gaps",
        lambda w: (*USUAL["convert"](w), "--dataset-json", w.masks / "dataset.json")),
    Row("convert", "fewer patients than folds", lambda w: (w.cohort / "p.csv").write_text("case,patient\n" + "".join(f"{path.name[:7]},A\n" for path in (w.cohort / "masks").iterdir())), "Only 1 patient for 5 folds ... (--test), ... (--add)",
        lambda w: (*USUAL["convert"](w), "--patients", w.cohort / "p.csv")),
    Row("convert", "there is no dataset to add to", nothing, "holds no Dataset009 to add cases to",
        lambda w: (*USUAL["convert"](w)[:-2], "--add")),
    Row("convert", "an added case has the name of another", lambda w: changed(w.cohort / IMAGE, lambda a: a + 1), "case_02: the dataset has a case of this name with other voxels",
        lambda w: (*USUAL["convert"](w)[:-3], 7, "--add")),
    Row("plan_and_preprocess", "an image is cut off", lambda w: cut(w.raw / RAW_IMAGE), "case case_02: ... cannot be read"),
    Row("plan_and_preprocess", "an image holds NaN", lambda w: changed(w.raw / RAW_IMAGE, put(np.nan)), "NaN or infinite values"),
    Row("plan_and_preprocess", "an image is constant", lambda w: changed(w.raw / RAW_IMAGE, lambda a: 0 * a), "image is constant"),
    Row("plan_and_preprocess", "a mask is cut off", lambda w: cut(w.raw / RAW_MASK), "case case_02: ... cannot be read"),
    Row("plan_and_preprocess", "a mask holds a label that dataset.json lacks", lambda w: changed(w.raw / RAW_MASK, put(2)), "holds 1 label that dataset.json lacks (2)"),
    Row("plan_and_preprocess", "a mask is of another size than its image", lambda w: changed(w.raw / RAW_MASK, lambda a: a[1:]), "has another size than its image"),
    Row("plan_and_preprocess", "a case has no mask", lambda w: (w.raw / RAW_MASK).unlink(), "Case case_02 of Dataset007_Small has no label file"),
    Row("plan_and_preprocess", "a case has too many channels", lambda w: shutil.copy(w.raw / RAW_IMAGE, w.raw / RAW_IMAGE.replace("_0000", "_0001")), "has 2 image files, but dataset.json names 1 channel"),
    Row("plan_and_preprocess", "labels without background", lambda w: edit_json(w.raw / "dataset.json", with_keys(labels={"tumor": 1})), "have no background of the value 0"),
    Row("plan_and_preprocess", "labels with a gap", lambda w: edit_json(w.raw / "dataset.json", with_keys(labels={"background": 0, "tumor": 2})), "needs 0, 1, 2 and so on without gaps"),
    Row("plan_and_preprocess", "a reader that nnU-Net does not have", lambda w: edit_json(w.raw / "dataset.json", with_keys(overwrite_image_reader_writer="Misspelt")), "names the reader 'Misspelt'"),
    Row("plan_and_preprocess", "dataset.json is damaged", lambda w: (w.raw / "dataset.json").write_text('{"labels": '), "dataset.json cannot be read as JSON"),
    Row("plan_and_preprocess", "there is no such dataset", nothing, "No dataset is called 8", lambda w: ("-d", 8, "--backbone", "smit_small")),
    Row("plan_and_preprocess", "there is no such backbone", nothing, "there is no smitt, but ... Did you mean smit?", lambda w: ("-d", 7, "--backbone", "smitt")),
    Row("train", "there is no such trainer", nothing, "no trainer called ... Did you mean nnUNetTrainerSMIT_ACT", lambda w: (7, "3d_fullres", 0, "-tr", "nnUNetTrainerSMIT_ATC", "-p", PLANS)),
    Row("train", "there are no such plans", nothing, "Plans of this dataset: ... Fix -p", lambda w: (7, "3d_fullres", 0, "-tr", TRAINER, "-p", "Plans")),
    Row("train", "there is no such configuration", nothing, "no configuration '3d_lowres'", lambda w: (7, "3d_lowres", 0, "-tr", TRAINER, "-p", PLANS)),
    Row("train", "the fold is no number", nothing, "The fold is a number or 'all', not x", lambda w: (7, "3d_fullres", "x", "-tr", TRAINER, "-p", PLANS)),
    Row("train", "plans of another network", nothing, "needs plans with the backbone 'swin_unetr'", lambda w: (7, "3d_fullres", 0, "-tr", "nnUNetTrainerSwinUNETR_Base", "-p", PLANS)),
    Row("train", "no file to start from", nothing, "There is no weights file", lambda w: (7, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-pretrained_weights", "no.pth", "-device", "cpu")),
    Row("train", "the pretrained file is missing", lambda w: of_published_size(w), "The pretrained weights of 'smit' are needed, but ... is not set. ... download model_smit_ct10k.pth from https", lambda w: (7, "3d_fullres", 0, "-tr", "nnUNetTrainerSMIT_Base", "-p", PLANS, "-device", "cpu")),
    Row("train", "a trainer of the user's, and the pretrained file is missing", lambda w: of_published_size(w), "The pretrained weights of 'smit' are needed, but", lambda w: (7, "3d_fullres", 0, "-tr", "ShortMaskedSMIT", "-p", PLANS, "-device", "cpu")),
    Row("train", "no pretrained file fits plans for smit_small", nothing, "No published pretrained file fits this network: ... (embed_dim 16, depths [2, 2], num_heads [2, 4])", lambda w: (7, "3d_fullres", 0, "-tr", "nnUNetTrainerSMIT_Base", "-p", PLANS, "-device", "cpu")),
    Row("train", "another process trains the fold", lambda w: w.held.append(claim_log(FoldFolder.from_path(w.model / "fold_0"))), "fold 0 is being trained by another process"),
    Row("train", "the pretrained file is a web page", lambda w: web_page(w), "model_smit_ct10k.pth holds no weights: it is a web page: the download failed", lambda w: (7, "3d_fullres", 0, "-tr", "nnUNetTrainerSMIT_ACT", "-p", PLANS, "-device", "cpu")),
    Row("train", "no GPU", nothing, "PyTorch sees no GPU on this machine", lambda w: (7, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS)),
    Row("crossval", "a fold that the dataset does not have", nothing, "has the folds 0 to 4", lambda w: (*MODEL_OPTIONS, "-f", 7, "-device", "cpu")),
    Row("crossval", "the pretrained file is missing", lambda w: of_published_size(w), "The pretrained weights of 'smit' are needed, but", lambda w: ("-d", 7, "-tr", "nnUNetTrainerSMIT_ACT", "-p", PLANS, "-device", "cpu")),
    Row("crossval", "a trainer of the user's, and the pretrained file is missing", lambda w: of_published_size(w), "The pretrained weights of 'smit' are needed, but", lambda w: ("-d", 7, "-tr", "ShortMaskedSMIT", "-p", PLANS, "-device", "cpu")),
    Row("crossval", "no pretrained file fits plans for smit_small", nothing, "No published pretrained file fits this network", lambda w: ("-d", 7, "-tr", "nnUNetTrainerSMIT_ACT", "-p", PLANS, "-device", "cpu")),
    Row("crossval", "a reference mask is missing", lambda w: [p.unlink() for p in (w.preprocessed / "gt_segmentations").iterdir()], "lacks ... validation cases"),
    Row("predict", "there is no such folder", nothing, "There is no ...nowhere", lambda w: ("-i", w.base / "nowhere", "-o", w.base / "out", *MODEL_OPTIONS, "-f", 0, "-device", "cpu")),
    Row("predict", "no scan in the folder", lambda w: (w.scans / "a_0000.nii.gz").rename(w.scans / "a.txt"), "holds no scan ... but a.txt"),
    Row("predict", "a scan of another format than its name says", lambda w: (w.scans / "a_0000.nii.gz").rename(w.scans / "a.nrrd"), "cannot be read"),
    Row("predict", "every scan is cut off", lambda w: cut(w.scans / "a_0000.nii.gz"), "None of the scans in ... can be used"),
    Row("predict", "a scan that is no volume", lambda w: changed(w.scans / "a_0000.nii.gz", lambda a: a[:1]), "not a 3D volume"),
    Row("predict", "DICOM objects on what is no DICOM", nothing, "a_0000.nii.gz is no DICOM series", lambda w: (*USUAL["predict"](w), "--as", "dicom-seg")),
    Row("predict", "continued without masks", lambda w: (w.scans / "a_0000.nii.gz").rename(w.scans / "a.dcm"), "--continue_prediction needs masks that stay: add nifti to --as", lambda w: (*USUAL["predict"](w), "--as", "rtstruct", "--continue_prediction")),
    Row("predict", "there is no such model", nothing, "There is no model", lambda w: ("-i", w.scans, "-o", w.base / "out", "-d", 7, "-tr", "nnUNetTrainer", "-p", PLANS, "-f", 0, "-device", "cpu")),
    Row("predict", "the fold is not trained", nothing, "has no checkpoint_final.pth of fold 3", lambda w: ("-i", w.scans, "-o", w.base / "out", *MODEL_OPTIONS, "-f", 3, "-device", "cpu")),
    Row("evaluate", "predictions of another format", lambda w: (w.masks / "case_00.nii.gz").rename(w.masks / "case_00.nii"), "holds no prediction for any of the ... references"),
    Row("evaluate", "a prediction is cut off", lambda w: cut(w.masks / "case_00.nii.gz"), "the prediction cannot be scored"),
    Row("evaluate", "a prediction holds probabilities", lambda w: changed(w.masks / "case_00.nii.gz", lambda a: a * np.float32(0.7)), "values that are no labels of dataset.json"),
    Row("evaluate", "a prediction has axes that are not orthogonal", lambda w: sheared(w), "axes that are not orthogonal"),
    Row("evaluate", "a prediction lies elsewhere", lambda w: changed(w.masks / "case_00.nii.gz", lambda a: a[1:]), "prediction and reference lie on different grids"),
    Row("evaluate", "dataset.json is damaged", lambda w: (w.masks / "dataset.json").write_text("[1]"), "instead of an object"),
    Row("report", "the folder is no model's", nothing, "is not the folder of a trained model", lambda w: (w.base,)),
    Row("compare", "one model twice", nothing, "A comparison needs two or more different models", lambda w: (w.model, w.model, "-o", w.base / "compared")),
    Row("attention", "the fold is not trained", nothing, "the fold is not trained", lambda w: (*MODEL_OPTIONS, "-f", 3, "-device", "cpu")),
    Row("export_dataset", "there are no such plans", nothing, "Mine", lambda w: ("-d", 7, "-p", "Mine", "-o", w.base / "sent.zip")),
    Row("import_dataset", "the file is no bundle", lambda w: (w.base / "b.zip").write_bytes(b"text"), "b.zip", lambda w: (w.base / "b.zip",)),
    Row("inspect", "there is no such file", nothing, "There is no file", lambda w: (w.base / "nowhere.zip",)),
    Row("weights", "the download is a web page", lambda w: (w.base / "w.pt").write_text("<html>"), "it is a web page: the download failed", lambda w: ("verify", w.base / "w.pt")),
    Row("weights", "no folder to download into", nothing, "RECTAL_NNFORMER_WEIGHTS is not set", lambda w: ("fetch", "model_swinvit.pt")),
    Row("weights", "there is no such file to download", nothing, "there is no model_swinvit.pth, but ... Did you mean model_swinvit.pt", lambda w: ("fetch", "model_swinvit.pth")),
)  # fmt: skip


def double(path):
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))


def skew(path):
    """Let the sform of an image tell axes that are not at right angles."""
    image = nibabel.load(path)
    affine = image.affine
    affine[0, 2] += 0.1 * np.linalg.norm(affine[:3, 2])
    nibabel.Nifti1Image(np.asarray(image.dataobj), affine).to_filename(path)


def two_channels(cohort):
    """Give every case a second channel, of one slice less."""
    for path in list((cohort / "images").iterdir()):
        second = path.with_name(path.name.replace(".nii", "_0001.nii"))
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
        shutil.copy(path.with_name(path.name.replace(".nii", "_0000.nii")), second)
        changed(second, lambda a: a[1:])


def overwrite(path, place, content):
    """Put bytes into a file, of gzip into what it unpacks to; counted from its end where the place is negative."""
    pack, unpack = (gzip.compress, gzip.decompress) if path.suffix == ".gz" else (bytes, bytes)
    data = bytearray(unpack(path.read_bytes()))
    data[place : place + len(content)] = content
    path.write_bytes(pack(data))


def as_format(path, ending):
    """Replace an image by one of another format, compressed; return its path."""
    other = path.with_name(path.name.replace(".nii.gz", ending))
    sitk.WriteImage(sitk.ReadImage(str(path)), str(other), useCompression=True)
    path.unlink()
    return other


def claim(path, size):
    path.write_bytes(re.sub(rb"DimSize = [\d ]+", b"DimSize = " + size, path.read_bytes()))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def web_page(world):
    of_published_size(world)
    world.weights.mkdir()
    (world.weights / "model_smit_ct10k.pth").write_text("<html>Sign in</html>")


def sheared(world):
    """Masks as NRRD, which holds any axes."""
    edit_json(world.masks / "dataset.json", with_keys(file_ending=".nrrd"))
    for path in (world.raw / "labelsTr").iterdir():
        as_format(path, ".nrrd")
    path = as_format(world.masks / "case_00.nii.gz", ".nrrd")
    mask = sitk.ReadImage(str(path))
    mask.SetDirection((1, 0.3, 0, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(mask, str(path))


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("gone.nii.gz")


def of_published_size(world):
    """Let the plans hold the published SMIT, which a pretrained file fits."""

    def change(plans):
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["backbone_kwargs"] = {}
        return plans

    edit_json(world.preprocessed / f"{PLANS}.json", change)


USUAL = {
    "convert": lambda w: ("nifti", "-np", 1, "--images", w.cohort / "images", "--masks", w.cohort / "masks", "-d", 9, "--name", "New"),
    "plan_and_preprocess": lambda w: ("-d", 7, "--backbone", "smit_small", "-np", 1, "-npfp", 1),
    "train": lambda w: (7, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu"),
    "crossval": lambda w: (*MODEL_OPTIONS, "-device", "cpu"),
    "predict": lambda w: ("-i", w.scans, "-o", w.base / "out", *MODEL_OPTIONS, "-f", 0, "-device", "cpu"),
    "evaluate": lambda w: ("--pred", w.masks, "--gt", w.raw / "labelsTr"),
}  # fmt: skip


@pytest.fixture
def world(small_dataset, tmp_path, monkeypatch):
    """A user's folders: a cohort, its planned dataset, a model with fold 0, a scan to predict, masks to score."""
    variables, base = small_dataset
    for name in ("cohort", "nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(base / name, tmp_path / name)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_extTrainer", variables["nnUNet_extTrainer"])
    monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    raw, preprocessed = (tmp_path / name / "Dataset007_Small" for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    model = tmp_path / "nnUNet_results/Dataset007_Small" / MODEL
    write_checkpoint(model / "fold_0/checkpoint_final.pth", TRAINER)
    shutil.copy(preprocessed / f"{PLANS}.json", model / "plans.json")
    shutil.copy(preprocessed / "dataset.json", model)
    for name in ("scans", "masks"):
        (tmp_path / name).mkdir()
    shutil.copy(raw / "imagesTr/case_00_0000.nii.gz", tmp_path / "scans/a_0000.nii.gz")
    shutil.copy(raw / "labelsTr/case_00.nii.gz", tmp_path / "masks")
    shutil.copy(raw / "dataset.json", tmp_path / "masks")
    return SimpleNamespace(
        base=tmp_path,
        cohort=tmp_path / "cohort",
        raw=raw,
        preprocessed=preprocessed,
        model=model,
        scans=tmp_path / "scans",
        masks=tmp_path / "masks",
        weights=tmp_path / "weights",
        held=[],
    )


def snapshot(folder):
    """Return every file of a folder with a digest of its content, and every other folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in folder.rglob("*")
    }


def as_pattern(message):
    return ".*".join(re.escape(part) for part in message.split("..."))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.command}: {row.situation}")
def test_a_wrong_input_is_refused_in_words_and_nothing_is_written(row, world, capsys, monkeypatch):
    row.spoil(world)
    if world.weights.is_dir():
        monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(world.weights))
    before = snapshot(world.base)
    with pytest.raises(SystemExit) as ended:
        cli.main([row.command, *map(str, (row.arguments or USUAL[row.command])(world))])
    printed = capsys.readouterr()
    assert ended.value.code == row.code
    assert re.search(as_pattern(row.message), printed.err, re.DOTALL), printed.err
    assert "Traceback" not in printed.err
    assert snapshot(world.base) == before


def leak(world):
    """A case in training and validation of a fold, in the raw and in the preprocessed dataset."""
    for folder in (world.raw, world.preprocessed):
        splits = json.loads((folder / "splits_final.json").read_text())
        splits[0]["train"].append(splits[0]["val"][0])
        (folder / "splits_final.json").write_text(json.dumps(splits))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (leak, "fold 0 has 1 case in training and validation"),
        (lambda w: changed(w.raw / RAW_MASK, put(2)), "holds 1 label that dataset.json lacks (2)"),
        (lambda w: cut(w.raw / RAW_IMAGE), "case_02_0000.nii.gz cannot be read"),
    ],
)
@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("doctor", ("-d", 7, "-np", 1), 1),
        ("plan_and_preprocess", ("-d", 7, "--backbone", "smit_small", "-np", 1, "-npfp", 1), 2),
        ("crossval", (*MODEL_OPTIONS, "-device", "cpu"), 2),
    ],
)
def test_a_cohort_that_cannot_be_right_is_caught_by_every_command(
    command, arguments, code, spoil, message, world, capsys
):
    """Doctor, planning and cross-validation say the same of it, and nothing is trained."""
    shutil.rmtree(world.model)
    spoil(world)
    with pytest.raises(SystemExit) as ended:
        cli.main([command, *map(str, arguments)])
    printed = capsys.readouterr()
    assert ended.value.code == code and message in printed.out + printed.err
    assert not world.model.exists()


def table():
    """Return the table of the page."""
    rows = [
        f"| `{row.command}` | {row.situation} | {row.message.replace('|', chr(92) + '|')} | {row.code} |"
        for row in ROWS
    ]
    return "\n".join(["| command | situation | message | exit code |", "|---|---|---|---|", *rows]) + "\n"


def test_the_page_holds_the_table():
    assert len(ROWS) >= 40
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == table(), f"Run: python tests/{Path(__file__).name}"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.partition(BEGIN)[0] + BEGIN + table() + END + text.partition(END)[2], encoding="utf-8")
