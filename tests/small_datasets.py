"""Raw and preprocessed datasets made of arrays, as nnU-Net stores them."""

import json

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.analysis.tiles import PreprocessedCases

IN_LPS = (1, 0, 0, 0, 1, 0, 0, 0, 1)
IN_RAS = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
"""Directions of images; an array in RAS is read as it is written."""


def set_folders(monkeypatch, base):
    """Let nnU-Net's variables name folders in `base`, made where they are missing."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (base / name).mkdir(exist_ok=True)
        monkeypatch.setenv(name, str(base / name))


def write_volume(path, array, spacing, direction):
    """Write an array (z, y, x) with spacing (x, y, z) in mm."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def write_dataset_json(folder, num_cases, **changes):
    """Write the description of a dataset of one T2-weighted channel with tumours."""
    content = {
        "channel_names": {"0": "T2w"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIOWithReorient",
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def write_raw_dataset(folder, cases, spacing, direction=IN_RAS, **changes):
    """Write (image, mask) of each case as a raw dataset; images of several channels are lists. Return the folder."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for name, (image, mask) in cases.items():
        for channel, array in enumerate(image if isinstance(image, list) else [image]):
            write_volume(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", array, spacing, direction)
        write_volume(folder / "labelsTr" / f"{name}.nii.gz", mask, spacing, direction)
    write_dataset_json(folder, len(cases), **changes)
    return folder


def six_preprocessed_cases(folder, patch_size):
    """Write six preprocessed cases with a tumour each, at 3 mm."""
    for number in range(6):
        image = np.random.default_rng(number).random((1, 20, 40, 50), dtype=np.float32) + 0.1
        image[0, 5:9, 10:20, 10 + number : 20] += 1
        write_preprocessed_case(folder, f"case_{number}", image, (image > 1.1).astype(np.int16))
    names = tuple(f"case_{number}" for number in range(6))
    return PreprocessedCases(folder, names, patch_size, (3.0, 3.0, 3.0), (1,))


def write_preprocessed_case(folder, name, image, labels):
    """Write image and labels (channel, z, y, x) as a preprocessed case."""
    np.savez(folder / f"{name}.npz", data=image[:0])
    np.save(folder / f"{name}.npy", image)
    np.save(folder / f"{name}_seg.npy", labels)
    (folder / f"{name}.pkl").write_bytes(b"\x80\x04}\x94.")
