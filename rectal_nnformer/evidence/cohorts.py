"""The made cohorts of the evidence: CT without outlines, few MRI of one site, MRI of another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.nifti import convert_nifti
from rectal_nnformer.demo.cohort.appearance import CONTRAST_CT, MRI, MUCINOUS_MRI, Appearance
from rectal_nnformer.demo.cohort.cohort import write_synthetic_cohort
from rectal_nnformer.evidence.preset import Preset
from rectal_nnformer.imaging.prepared import PREPARED_WINDOW
from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.imaging.writing import write_volume
from rectal_nnformer.nnunet.layout import RawDataset, dataset_prefix
from rectal_nnformer.utils.files import staged_folder, write_json

CT_ID, MRI_ID = 601, 602
CT_NAME, MRI_NAME = "EvidenceCT", "EvidenceMRI"
CT_DATASET, MRI_DATASET = f"{dataset_prefix(CT_ID)}_{CT_NAME}", f"{dataset_prefix(MRI_ID)}_{MRI_NAME}"
CT_WINDOW = (-175.0, 250.0)
"""HU, as SMIT was pretrained."""
FIELD_OF_VIEW = 192.0
"""mm."""
SEEDS = {"ct": 11, "mri": 12, "external": 13}
APPEARANCES = {"ct": CONTRAST_CT, "mri": MRI, "external": MUCINOUS_MRI}


def cohort_folder(folder: Path, name: str) -> Path:
    """Return where the images and masks of a cohort lie, "ct", "mri" or "external"."""
    return folder / "cohorts" / name


def make_cohorts(folder: Path, preset: Preset, workers: int) -> None:
    """Write the three cohorts, and the first two as datasets of nnU-Net; what is there stays.

    The dataset of the MRI has one fold: few cases to train on, and the others held out.
    """
    sizes = {
        "ct": preset.ct_scans,
        "mri": preset.training_cases + preset.held_out_cases,
        "external": preset.external_cases,
    }
    for name, size in sizes.items():
        if not cohort_folder(folder, name).is_dir():
            look = _at(APPEARANCES[name], preset.in_plane)
            write_synthetic_cohort(cohort_folder(folder, name), size, SEEDS[name], workers, look)
    if not RawDataset.at(CT_DATASET).dataset_json.is_file():
        windowed = cohort_folder(folder, "ct_windowed")
        if not windowed.is_dir():
            _write_windowed(cohort_folder(folder, "ct"), windowed)
        convert_nifti(windowed, None, CT_ID, CT_NAME, prepared=True, workers=workers)
    if not RawDataset.at(MRI_DATASET).dataset_json.is_file():
        mri = cohort_folder(folder, "mri")
        convert_nifti(mri / "images", mri / "masks", MRI_ID, MRI_NAME, workers=workers)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (cohort_folder(folder, "mri") / "masks").iterdir())
    fold = {"train": cases[: preset.training_cases], "val": cases[preset.training_cases :]}
    write_json(RawDataset.at(MRI_DATASET).splits, [fold])


def _at(look: Appearance, in_plane: float) -> Appearance:
    spacing = (look.spacing[0], in_plane, in_plane)
    return replace(look, spacing=spacing, matrix=round(FIELD_OF_VIEW / in_plane))


def _write_windowed(cohort: Path, folder: Path) -> None:
    """Write CT scans from HU to the intensities of a prepared dataset, without masks."""
    low, high = CT_WINDOW
    with staged_folder(folder) as staged:
        for path in sorted((cohort / "images").iterdir()):
            scan = read_image(path)
            share = (sitk.GetArrayFromImage(scan).astype(np.float32) - low) / (high - low)
            image = sitk.GetImageFromArray(np.clip(share, 0, 1) * PREPARED_WINDOW[1])
            image.CopyInformation(scan)
            write_volume(image, staged / path.name, compression_level=1)
