"""Convert NIfTI, NRRD or MetaImage files, matched by case name, to an nnU-Net raw dataset."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rectal_nnformer.dataset_conversion.cases import Case
from rectal_nnformer.dataset_conversion.images import ImageFile, lacks_orientation, list_images, stem
from rectal_nnformer.dataset_conversion.masks import MaskFile, check_values
from rectal_nnformer.dataset_conversion.raw_dataset import convert_cases
from rectal_nnformer.dataset_conversion.target import Options, make_target
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prepared import PREPARED_CHANNEL
from rectal_nnformer.utils.text import plural

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11


def convert_nifti(
    images: Path,
    masks: Path | None,
    dataset_id: int,
    name: str | None,
    *,
    prepared: bool = False,
    channels: Sequence[str] = (),
    **options: "Unpack[Options]",
) -> Path:
    """Convert a folder of images, and one of masks, to `DatasetXXX_Name`; return that folder.

    Args:
        images: Folder with one 3D T2-weighted file per case, `<case>.nii.gz` or `<case>_0000.nii.gz`; also .nii, .nrrd,
            .mha, and .mhd with its .raw. Of several channels `<case>_0000`, `<case>_0001` and so on, on one grid.
        masks: Folder with one mask per case of the same name and on the same grid, 0 background and 1 tumour or as
            the labels say. None: the cases go to imagesTs, to be predicted.
        dataset_id: 1 to 999.
        name: Name of the dataset, without number. None: cases are added to the dataset of the id.
        prepared: The images were scaled to [0, 800] beforehand; nnU-Net leaves them alone. Their zeros are lifted to
            0.001, since an exact 0 is padding. If all images are such and no channel is named, that is recognized.
        channels: Their names, in the order of their numbers; one called noNorm is prepared.
        **options: See `Options`. Without a list of patients every case is a patient of its own.

    Raises:
        RectalError: Anything that cannot be right, for all cases at once; nothing is written then.
    """
    target = make_target(dataset_id, name, masks is not None, options, channel_names(channels, prepared))
    check_values(target.labels)
    if masks is None and (target.labels or target.test):
        raise RectalError("--labels and --test concern masks: name their folder with --masks.")
    problems: defaultdict[str, list[str]] = defaultdict(list)
    if masks is not None and images.exists() and masks.exists() and images.samefile(masks):
        raise RectalError(f"--images and --masks are the same folder, {images}: keep masks in a folder of their own.")
    files = list_images(images)
    mask_files = {} if masks is None else _by_case(list_images(masks), problems)
    image_files = _images_by_case(files, mask_files, target.channels, problems)
    if masks is not None:
        for case in image_files.keys() - mask_files.keys():
            problems[case].append(f"no mask {case}.nii.gz for {image_files[case][0].name}")
        for case in mask_files.keys() - image_files.keys() - problems.keys():
            problems[case].append(f"no image for mask {mask_files[case].name}")
        if {case.removesuffix("_0000") for case in mask_files.keys() - image_files.keys()} & image_files.keys():
            problems["--masks"].append("its files are called as images, with _0000: are --images and --masks swapped?")
    note_orientation({case: paths[0] for case, paths in image_files.items()})
    cases = [
        Case(
            case,
            tuple(map(ImageFile, paths)),
            MaskFile(mask_files[case], target.labels) if case in mask_files else None,
            case,
            ", ".join(map(str, paths)),
            test=target.test or masks is None,
        )
        for case, paths in image_files.items()
    ]
    return convert_cases(cases, problems, target)


def channel_names(channels: Sequence[str], prepared: bool) -> Sequence[str]:
    """Return the names of channels that are given, that of one prepared channel, or none."""
    if channels and prepared:
        raise RectalError(
            f"--prepared calls the only channel {PREPARED_CHANNEL}: with --channels, call so each one that is prepared."
        )
    return [PREPARED_CHANNEL] if prepared else channels


def note_orientation(images: Mapping[str, Path]) -> None:
    """Print which cases have an image that does not tell how it is oriented."""
    if unclear := [case for case, path in images.items() if lacks_orientation(path)]:
        print(
            f"Note: the header of {plural(len(unclear), 'image')} does not tell the orientation (neither qform nor "
            f"sform): {', '.join(unclear)}. Axes are taken to point to left, posterior and superior. Pretrained "
            "weights know directions: make sure on the contact sheet, or export these again."
        )


def _images_by_case(
    files: Sequence[Path], masks: Collection[str], channels: Sequence[str], problems: defaultdict[str, list[str]]
) -> dict[str, list[Path]]:
    """Return the file of each channel of each case that is complete; what is wrong is added to `problems`."""
    found: defaultdict[str, dict[int, Path]] = defaultdict(dict)
    for path in files:
        try:
            case, channel = _case_and_channel(path, masks, channels)
        except RectalError as error:
            problems[str(path)].append(str(error))
            continue
        if other := found[case].get(channel):
            problems[case].append(f"{other.name} and {path.name} are the same case; take one away")
        found[case].setdefault(channel, path)
    for case, paths in found.items():
        for number, name in enumerate(channels):
            if number not in paths:
                problems[case].append(f"no image {case}_{number:04d} of channel {name}, but {paths[min(paths)].name}")
    return {
        case: [paths[number] for number in range(len(channels))]
        for case, paths in found.items()
        if len(paths) == len(channels)
    }


def _case_and_channel(path: Path, masks: Collection[str], channels: Sequence[str]) -> tuple[str, int]:
    """Return case and number of the channel of an image, by nnU-Net's four digits at the end of its name.

    Without them it is the first, as it is of one channel where a mask has the whole name.

    Raises:
        RectalError: No case is left, or the channel has no name.
    """
    name = stem(path)
    found = re.search(r"_(\d{4})$", name)
    if found is None or (len(channels) == 1 and name in masks):
        return name, 0
    case, number = name[: found.start()], int(found[1])
    if number >= len(channels):
        raise RectalError(
            f"the ending _{found[1]} means channel {number} to nnU-Net, and only {', '.join(channels)} is used; name "
            "all with --channels, take the file away or, if the number belongs to the case name, rename it, say to "
            f"{case}-{found[1]}"
        )
    if not case:
        raise RectalError(f"its name has no case before the channel _{found[1]}; rename it to <case>_{found[1]}")
    return case, number


def _by_case(files: Sequence[Path], problems: defaultdict[str, list[str]]) -> dict[str, Path]:
    """Return the mask of each case; second files of a case are added to `problems`."""
    cases: dict[str, Path] = {}
    for path in files:
        case = stem(path)
        if case in cases:
            problems[case].append(f"{cases[case].name} and {path.name} are the same case; take one away")
        cases.setdefault(case, path)
    return cases
