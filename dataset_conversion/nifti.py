"""NIfTI, NRRD or MetaImage files, matched by case name, to an nnU-Net raw dataset."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rectal_nnformer.dataset_conversion.images import ImageFile, list_images, stem
from rectal_nnformer.dataset_conversion.raw_dataset import Case, Target, convert_cases, dataset_folder


def convert_nifti(
    images: Path,
    masks: Path | None,
    dataset_id: int,
    name: str,
    *,
    raw: Path | None = None,
    patients: Path | None = None,
    split_by_case: bool = False,
    workers: int = 1,
) -> Path:
    """Convert a folder of images, and one of masks, to `DatasetXXX_Name`; return that folder.

    Args:
        images: Folder with one 3D T2-weighted file per case, `<case>.nii.gz` or `<case>_0000.nii.gz`; also .nii, .nrrd
            and .mha.
        masks: Folder with one mask per case of the same name and on the same grid, 0 background and 1 tumour. None: the
            cases go to imagesTs, to be predicted.
        dataset_id: 1 to 999.
        name: Name of the dataset, without number.
        raw: Where to write it; default is where the variable nnUNet_raw points.
        patients: CSV file with the columns case and patient; default is every case a patient of its own.
        split_by_case: Allow scans of one patient in different folds.
        workers: Number of (spawned) processes.

    Raises:
        RectalError: anything that cannot be right, for all cases at once; nothing is written then.
    """
    folder = dataset_folder(dataset_id, name, raw)
    problems: defaultdict[str, list[str]] = defaultdict(list)
    image_files = _by_case(list_images(images), problems)
    mask_files = {} if masks is None else _by_case(list_images(masks), problems)
    if masks is not None:
        _match(image_files, mask_files, problems)
    cases = [
        Case(case, ImageFile(path), ImageFile(mask_files[case]) if case in mask_files else None, case)
        for case, path in image_files.items()
    ]
    return convert_cases(cases, problems, Target(folder, masks is not None, patients, split_by_case, workers))


def _by_case(files: Sequence[Path], problems: defaultdict[str, list[str]]) -> dict[str, Path]:
    """Return the file of each case; further channels and second files of a case are added to `problems`."""
    cases: dict[str, Path] = {}
    for path in files:
        name = stem(path)
        channel = re.search(r"_(\d{4})$", name)
        if channel and channel[1] != "0000":
            problems[str(path)].append(
                f"the ending _{channel[1]} means channel {int(channel[1])} to nnU-Net, and only one, T2w, is used; "
                "take the file away or, if the number belongs to the case name, rename it, say to "
                f"{name.replace(channel[0], '-' + channel[1])}"
            )
            continue
        case = name.removesuffix("_0000")
        if case in cases:
            problems[case].append(f"{cases[case].name} and {path.name} are the same case; take one away")
        cases.setdefault(case, path)
    return cases


def _match(images: Mapping[str, Path], masks: Mapping[str, Path], problems: defaultdict[str, list[str]]) -> None:
    for case in images.keys() - masks.keys():
        problems[case].append(f"no mask {case}.nii.gz for {images[case].name}")
    for case in masks.keys() - images.keys():
        problems[case].append(f"no image for mask {masks[case].name}")
