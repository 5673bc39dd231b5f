"""What the tests of sharing have in common: a small preprocessed dataset, bundles of it, and things that run code."""

import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

NAME = "Dataset501_Rectal"
PLANS = "nnUNetRectalSMITPlans"
DATA = "nnUNetRectalPlans_3d_fullres_1x1x1mm"
CASES = ("mueller_1950", "mueller_1951", "rektum-03", "rektum-04", "rektum-05")
USER, HOST = "hmueller", "radiology-ws17.example.org"
SECRETS = ("Dr. Mueller", "1950-01-31", "1.2.840.113619.2", "MRN4711")


def write_dataset(preprocessed, cases=CASES, size=(20, 24, 28)):
    """Write a preprocessed dataset whose every free field tells something that must not travel; return its folder."""
    folder = preprocessed / NAME
    (folder / DATA).mkdir(parents=True)
    (folder / "gt_segmentations").mkdir()
    for number, case in enumerate(cases):
        _write_case(folder, case, number, size)
    for name, content in texts(folder, cases).items():
        (folder / name).write_text(json.dumps(content))
    (folder / "patients.csv").write_text("case,patient\n" + "".join(f"{case},MRN4711\n" for case in cases))
    (folder / "notes.txt").write_text("Dr. Mueller")
    return folder


def texts(folder, cases):
    plans = {
        "dataset_name": NAME,
        "plans_name": PLANS,
        "image_reader_writer": "SimpleITKIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [20, 24, 28],
        "experiment_planner_used": "RectalExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}},
        "configurations": {
            "3d_fullres": {
                "data_identifier": DATA,
                "preprocessor_name": "DefaultPreprocessor",
                "spacing": [1.0, 1.0, 1.0],
                "patch_size": [16, 16, 16],
                "batch_size": 2,
                "note": "by Dr. Mueller",
                "architecture": {
                    "network_class_name": "rectal_nnformer.networks.adapter.PlannedNetwork",
                    "arch_kwargs": {"backbone": "smit"},
                    "_kw_requires_import": [],
                },
            },
            "3d_fullres_cubic": {"inherits_from": "3d_fullres", "patch_size": [24, 24, 24]},
        },
        "rectal_nnformer": {
            "version": "0.1.0",
            "made_in": str(folder),
            "largest": f"lesion of {cases[0]}",
            "by": f"{USER}@{HOST}",
        },
        "author": "Dr. Mueller",
    }
    return {
        "dataset.json": {
            "name": NAME,
            "description": "MRN4711, 1950-01-31",
            "channel_names": {"0": "T2w"},
            "labels": {"background": 0, "tumor": 1},
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
        },
        "dataset_fingerprint.json": {"spacings": [[1.0, 1.0, 1.0]] * len(cases), "host": "Dr. Mueller"},
        f"{PLANS}.json": plans,
        f"{DATA}_source.json": {"raw_signature": "0" * 64, "settings": {}},
        "rectal_intensity_window.json": {"window": [[0, 1]], "cases": {case: [[0, 1]] for case in cases}},
        "rectal_fingerprint.json": {
            "raw_signature": "0" * 64,
            "cases": {case: {"volume": 3.5, "mask_digest": "0" * 16} for case in cases},
            "outliers": [{"case": cases[0], "reason": f"mask of {cases[0]} equals that of {cases[-1]}"}],
            "read_from": f"{folder}/imagesTr",
        },
        "splits_final.json": [
            {"train": [case for case in cases if case != held_out], "val": [held_out]} for held_out in cases
        ],
    }


def _write_case(folder, case, number, size):
    rng = np.random.default_rng(number)
    data = rng.normal(size=(1, *size)).astype(np.float32)
    mask = (rng.random(size) > 0.95).astype(np.int8)
    where = np.column_stack((np.zeros(mask.sum(), int), *np.nonzero(mask)))
    properties = {
        "sitk_stuff": {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0,) * 9},
        "spacing": [np.float64(1), np.float64(1), np.float64(1)],
        "shape_before_cropping": size,
        "bbox_used_for_cropping": [[0, n] for n in size],
        "shape_after_cropping_and_before_resampling": size,
        "class_locations": {1: where, (1, 2): []},
        "patient_name": "Dr. Mueller",
    }
    blocks, chunks = comp_blosc2_params(data.shape, (16, 16, 16), data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(data.shape, (16, 16, 16), mask.itemsize)
    stem = str(folder / DATA / case)
    nnUNetDatasetBlosc2.save_case(data, mask[None], properties, stem, chunks, blocks, chunks_seg, blocks_seg)
    reference = folder / "gt_segmentations" / f"{case}.nii.gz"
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetMetaData("descrip", "Dr. Mueller 1950-01-31")
    image.SetMetaData("aux_file", "MRN4711")
    image.SetMetaData("intent_name", "1.2.840.113619.2")
    sitk.WriteImage(image, str(reference))


def set_folders(monkeypatch, base):
    """Let nnU-Net's variables name folders in `base`, all of them there and empty or as they are."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (base / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(base / name))
    return base / "nnUNet_preprocessed"


def unpacked(bundle, folder):
    """Unpack a bundle with Python's zipfile alone, as others would; return its folder."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


def contents(bundle):
    """Return the content of every file in a bundle, and its manifest."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files.pop("manifest.json"))
    return files, manifest


def repacked(bundle, target, changes=(), about=()):
    """Write a well-formed bundle with other files: what someone who knows the format can do.

    `changes` gives new bytes by path, None to leave a file out; `about` changes the manifest.
    """
    files, manifest = contents(bundle)
    files = {name: content for name, content in {**files, **dict(changes)}.items() if content is not None}
    entries = {name: {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for name, c in files.items()}
    manifest = {**manifest, "files": entries, **dict(about)}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    return target


class Runs:
    """Pickles into a call that writes a file: proof that a reader executed it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def evil_pickle(path):
    """Return a pickle that creates `path` when it is opened by pickle.load."""
    return pickle.dumps({"spacing": [1.0, 1.0, 1.0], "class_locations": Runs(path)})


def all_files(folder):
    """Return the paths of everything in a folder, hidden or not."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
