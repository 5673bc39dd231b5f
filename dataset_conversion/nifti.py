"""Convert NIfTI, NRRD or MetaImage files, matched by case name, to an nnU-Net raw dataset."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rectal_nnformer.dataset_conversion.images import ImageFile, lacks_orientation, list_images, stem
from rectal_nnformer.dataset_conversion.masks import MaskFile, check_values
from rectal_nnformer.dataset_conversion.raw_dataset import Case, convert_cases
from rectal_nnformer.dataset_conversion.target import Options, Target, dataset_folder
from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.text import plural

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11


def convert_nifti(
    images: Path,
    masks: Path | None,
    dataset_id: int,
    name: str,
    *,
    raw: Path | None = None,
    prepared: bool = False,
    **options: "Unpack[Options]",
) -> Path:
    """Convert a folder of images, and one of masks, to `DatasetXXX_Name`; return that folder.

    Args:
        images: Folder with one 3D T2-weighted file per case, `<case>.nii.gz` or `<case>_0000.nii.gz`; also .nii, .nrrd,
            .mha, and .mhd with its .raw.
        masks: Folder with one mask per case of the same name and on the same grid, 0 background and 1 tumour or as
            the labels say. None: the cases go to imagesTs, to be predicted.
        dataset_id: 1 to 999.
        name: Name of the dataset, without number.
        raw: Where to write it; default is where the variable nnUNet_raw points.
        prepared: The images were scaled to [0, 800] beforehand; nnU-Net leaves them alone. Their zeros are lifted to
            0.001, since an exact 0 is padding.
        **options: See `Options`. Without a list of patients every case is a patient of its own.

    Raises:
        RectalError: Anything that cannot be right, for all cases at once; nothing is written then.
    """
    folder = dataset_folder(dataset_id, name, raw, masks is not None)
    target = Target(folder, masks is not None, prepared, **options)
    check_values(target.labels)
    if target.labels and masks is None:
        raise RectalError("--labels says what stands for what in masks: name their folder with --masks.")
    problems: defaultdict[str, list[str]] = defaultdict(list)
    if masks is not None and images.exists() and masks.exists() and images.samefile(masks):
        raise RectalError(f"--images and --masks are the same folder, {images}: keep masks in a folder of their own.")
    files = list_images(images)
    mask_files = {} if masks is None else _by_case(list_images(masks), stem, problems)
    image_files = _by_case(files, partial(_image_case, masks=mask_files), problems)
    if masks is not None:
        for case in image_files.keys() - mask_files.keys():
            problems[case].append(f"no mask {case}.nii.gz for {image_files[case].name}")
        for case in mask_files.keys() - image_files.keys():
            problems[case].append(f"no image for mask {mask_files[case].name}")
    if unclear := [case for case, path in image_files.items() if lacks_orientation(path)]:
        print(
            f"Note: the header of {plural(len(unclear), 'image')} does not tell the orientation (neither qform nor "
            f"sform): {', '.join(unclear)}. Axes are taken to point to left, posterior and superior. Pretrained "
            "weights know directions: make sure on the contact sheet, or export these again."
        )
    cases = [
        Case(case, ImageFile(path), MaskFile(mask_files[case], target.labels) if case in mask_files else None, case)
        for case, path in image_files.items()
    ]
    return convert_cases(cases, problems, target)


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
