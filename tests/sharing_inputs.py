"""What the tests of sharing have in common: a small preprocessed dataset, bundles of it, and things that run code."""

import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from rectal_nnformer.sharing.bundle import Member, write_bundle

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
    blocks, chunks = comp_blosc2_params(data.shape, (16, 16, 16))
    nnUNetDatasetBlosc2.save_case(data, mask[None], properties, str(folder / DATA / case), chunks, blocks)
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
    """Unpack a bundle with Python's tar alone, as others would; return its folder."""
    with tarfile.open(bundle) as archive:
        archive.extractall(folder, filter="data")
    return folder


def repacked(bundle, target, changes, tmp_path):
    """Write a well-formed bundle with other files: what someone who knows the format can do.

    `changes` gives new bytes by path, None to leave a file out.
    """
    folder = unpacked(bundle, tmp_path / f"repack_{target.name}")
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [name for name in manifest["files"] if changes.get(name, b"") is not None]
    for name, content in changes.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            names += [name] if name not in names else []
    about = {key: value for key, value in manifest.items() if key not in ("files", "digest")}
    write_bundle(target, about, [Member(name, folder / name) for name in names])
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


def nifti_with_extension(text):
    """Return an uncompressed NIfTI file of 2 x 2 x 2 voxels whose header extension holds a text."""
    header = bytearray(348)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 2, 2, 2, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 384)
    header[344:348] = b"n+1\0"
    return bytes(header) + b"\1\0\0\0" + struct.pack("<2i", 32, 6) + text.ljust(24, b"\0") + bytes(8)
