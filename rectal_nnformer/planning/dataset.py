"""The training cases of a raw dataset, checked before anything is computed."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
from nnunetv2.utilities.utils import (
    create_paths_fn,
    get_filenames_of_train_images_and_targets,
    get_identifiers_from_splitted_dataset_folder,
)

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prepared import is_prepared
from rectal_nnformer.nnunet.dataset_json import channel_names, read_dataset_json
from rectal_nnformer.nnunet.layout import PreprocessedDataset, RawDataset, dataset_number, dataset_prefix, nnunet_folder
from rectal_nnformer.utils.text import some

REORIENTING_READERS = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")
"""Readers that bring every image to RAS, the orientation in which the pretrained weights know directions."""


@dataclass(frozen=True)
class TrainingDataset:
    """A raw dataset with all its training cases, and where its preprocessed data belong.

    `cases` holds the `images` (one file per channel) and the `label` of each training case, by case name.
    """

    dataset_id: int
    dataset_json: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    reader: type
    raw: RawDataset
    preprocessed: PreprocessedDataset

    @property
    def name(self) -> str:
        """DatasetXXX_Name."""
        return self.raw.name

    @property
    def channel_names(self) -> list[str]:
        """Names of the image channels in their order."""
        return channel_names(self.dataset_json)

    @property
    def prepared_channels(self) -> list[bool]:
        """Whether each channel holds intensities prepared to [0, 800], as its name in dataset.json says."""
        return [is_prepared(name) for name in self.channel_names]

    @property
    def is_reoriented(self) -> bool:
        """Whether images are read in RAS orientation."""
        return self.reader.__name__ in REORIENTING_READERS

    def signature(self) -> str:
        """Return a digest of dataset.json and of name, size and time of every training file.

        Two equal signatures mean that what was computed from the dataset is still valid.
        """
        files = [Path(path) for case in self.cases.values() for path in (*case["images"], case["label"])]
        states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        content = json.dumps([self.dataset_json, list(self.cases), states], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def open_raw_dataset(dataset_name_or_id: str | int) -> TrainingDataset:
    """Find a raw dataset and check that its training cases are complete.

    Args:
        dataset_name_or_id: 501 or "Dataset501_Name".

    Raises:
        RectalError: nnU-Net's folders are not set; there is no such dataset or more than one; dataset.json is missing,
            unreadable or names an unknown reader; a case lacks a label or a channel.
    """
    preprocessed = nnunet_folder("nnUNet_preprocessed")
    dataset_id = int(dataset_number(str(dataset_name_or_id)))
    raw = RawDataset.find(dataset_id)
    try:
        convert_id_to_dataset_name(dataset_id)
    except RuntimeError as error:
        raise RectalError(
            f"More than one dataset has the number {dataset_id}: look for {dataset_prefix(dataset_id)}_* in "
            "nnUNet_raw, nnUNet_preprocessed and nnUNet_results, and rename or remove all but one."
        ) from error
    content = read_dataset_json(raw.dataset_json, "See nnU-Net's documentation of the dataset format.")
    if not (content.get("modality") or content.get("channel_names")):
        raise RectalError(f"{raw.dataset_json} lacks channel_names. See nnU-Net's documentation of the dataset format.")
    cases = _training_cases(raw, content)
    reader = _reader(raw.name, content, cases)
    dataset = TrainingDataset(dataset_id, content, cases, reader, raw, PreprocessedDataset(preprocessed / raw.name))
    num_channels = len(dataset.channel_names)
    for case, files in cases.items():
        if len(files["images"]) != num_channels:
            raise RectalError(
                f"Case {case} of {dataset.name} has {len(files['images'])} image files, "
                f"but dataset.json names {num_channels} channels."
            )
        for kind, path in (*(("image", path) for path in files["images"]), ("label", files["label"])):
            if not Path(path).is_file():
                raise RectalError(f"Case {case} of {dataset.name} has no {kind} file {path}.")
    return dataset


def _training_cases(raw: RawDataset, dataset_json: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return image and label files of each training case, as nnU-Net finds them."""
    if "dataset" in dataset_json:
        return dict(get_filenames_of_train_images_and_targets(str(raw.path), dataset_json))
    ending = dataset_json["file_ending"]
    return {
        case: {"images": images, "label": str(raw.label(case, ending))}
        for case, images in images_by_case(raw.images_tr, ending).items()
    }


def images_by_case(images: Path, ending: str) -> dict[str, list[str]]:
    """Return the images of each case in a folder, one file per channel; none where there is no such folder.

    Raises:
        RectalError: A file is not called as nnU-Net's images are.
    """
    # Without nnU-Net's function here: it starts twelve processes to compare file names.
    if not images.is_dir():
        return {}
    files = sorted(path.name for path in images.iterdir())
    numbered = re.compile(rf"[^.].*_\d{{4}}{re.escape(ending)}")
    if odd := [name for name in files if name.endswith(ending) and not numbered.fullmatch(name)]:
        raise RectalError(
            f"{images} holds what nnU-Net would take for an image and is not called <case>_0000{ending}: {some(odd)}. "
            "Rename it, or take it away."
        )
    return {
        str(case): create_paths_fn(str(images), files, ending, case)
        for case in get_identifiers_from_splitted_dataset_folder(str(images), ending)
    }


def _reader(name: str, dataset_json: dict[str, Any], cases: dict[str, dict[str, Any]]) -> type:
    """Return the class that reads the images; nnU-Net itself would fall back silently if dataset.json misspells it."""
    if not cases:
        raise RectalError(f"{name} has no training cases in imagesTr ending in {dataset_json['file_ending']}.")
    example = next(iter(cases.values()))["images"][0]
    try:
        reader = determine_reader_writer_from_dataset_json(dataset_json, example, verbose=False)
    except RuntimeError as error:
        raise RectalError(f"{name}: nnU-Net has no reader for {example}.") from error
    wanted = dataset_json.get("overwrite_image_reader_writer", "None")
    if wanted not in ("None", reader.__name__):
        raise RectalError(
            f"dataset.json of {name} names the reader '{wanted}', which nnU-Net does not have. "
            "Use 'SimpleITKIOWithReorient' in overwrite_image_reader_writer."
        )
    return reader
