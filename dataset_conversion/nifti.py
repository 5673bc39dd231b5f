"""Convert NIfTI, NRRD or MetaImage files, matched by case name, to an nnU-Net raw dataset."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from rectal_nnformer.dataset_conversion.images import ImageFile, lacks_orientation, list_images, stem
from rectal_nnformer.dataset_conversion.raw_dataset import Case, Target, convert_cases, dataset_folder
from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.text import plural


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
    prepared: bool = False,
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
        prepared: The images were scaled to [0, 800] beforehand; nnU-Net leaves them alone. Their zeros are lifted to
            0.001, since an exact 0 is padding.

    Raises:
        RectalError: Anything that cannot be right, for all cases at once; nothing is written then.
    """
    folder = dataset_folder(dataset_id, name, raw, masks is not None)
    problems: defaultdict[str, list[str]] = defaultdict(list)
    if masks is not None and images.exists() and masks.exists() and images.samefile(masks):
        raise RectalError(f"--images and --masks are the same folder, {images}: keep masks in a folder of their own.")
    files = list_images(images)
    mask_files = {} if masks is None else _by_case(list_images(masks), stem, problems)
    image_files = _by_case(files, partial(_image_case, masks=mask_files), problems)
    if masks is not None:
        _match(image_files, mask_files, problems)
    _warn_about_orientation(image_files)
    cases = [
        Case(case, ImageFile(path), ImageFile(mask_files[case]) if case in mask_files else None, case)
        for case, path in image_files.items()
    ]
    return convert_cases(cases, problems, Target(folder, masks is not None, patients, split_by_case, workers, prepared))


def _image_case(path: Path, masks: Collection[str]) -> str:
    """Return the case of an image: its whole name if a mask has that, else without nnU-Net's channel number.

    Raises:
        RectalError: No case is left, or the channel is not the first.
    """
    name = stem(path)
    if name in masks:
        return name
    found = re.search(r"_(\d{4})$", name)
    if found is None:
        return name
    case, channel = name[: found.start()], found[1]
    if channel != "0000":
        raise RectalError(
            f"the ending _{channel} means channel {int(channel)} to nnU-Net, and only one, T2w, is used; take the file "
            f"away or, if the number belongs to the case name, rename it, say to {case}-{channel}"
        )
    if not case:
        raise RectalError("its name has no case before the channel _0000; rename it to <case>_0000")
    return case


def _by_case(
    files: Sequence[Path], case_of: Callable[[Path], str], problems: defaultdict[str, list[str]]
) -> dict[str, Path]:
    """Return the file of each case; names that are none and second files of a case are added to `problems`."""
    cases: dict[str, Path] = {}
    for path in files:
        try:
            case = case_of(path)
        except RectalError as error:
            problems[str(path)].append(str(error))
            continue
        if case in cases:
            problems[case].append(f"{cases[case].name} and {path.name} are the same case; take one away")
        cases.setdefault(case, path)
    return cases


def _match(images: Mapping[str, Path], masks: Mapping[str, Path], problems: defaultdict[str, list[str]]) -> None:
    for case in images.keys() - masks.keys():
        problems[case].append(f"no mask {case}.nii.gz for {images[case].name}")
    for case in masks.keys() - images.keys():
        problems[case].append(f"no image for mask {masks[case].name}")


def _warn_about_orientation(images: Mapping[str, Path]) -> None:
    cases = [case for case, path in images.items() if lacks_orientation(path)]
    if cases:
        print(
            f"Note: the header of {plural(len(cases), 'image')} does not tell the orientation (neither qform nor "
            f"sform): {', '.join(cases)}. Axes are taken to point to left, posterior and superior. Pretrained weights "
            "know directions: make sure on the contact sheet, or export these again."
        )
