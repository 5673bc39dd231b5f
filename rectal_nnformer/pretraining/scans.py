"""Scans without outlines: found, brought to spacing and intensities of fine-tuning, stored, and windowed.

A scan goes the way of the preprocessing of training cases, by the same functions: cropped to its nonzero region,
z-scored, resampled linearly. Only labels are missing, and orientation is always that of the pretrained weights, RAS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prepared import PREPARED_WINDOW, is_prepared
from rectal_nnformer.imaging.reading import FORMATS, itk_message, itk_path
from rectal_nnformer.imaging.volumes import check_volume
from rectal_nnformer.nnunet.layout import IMAGES_TR, IMAGES_TS, RawDataset
from rectal_nnformer.nnunet.preflight import find_image
from rectal_nnformer.nnunet.resampling import resample_image
from rectal_nnformer.planning.dataset import images_by_case
from rectal_nnformer.planning.intensity_window import Window, case_percentiles, read_normalized
from rectal_nnformer.planning.rules import isotropic_target_spacing
from rectal_nnformer.utils.files import is_there, read_json, read_json_if_whole, staged_file, write_json
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import MAX_LINES, plural

Mm = tuple[float, float, float]


@dataclass(frozen=True)
class Scans:
    """The scans of a raw dataset.

    Attributes:
        dataset: DatasetXXX_Name.
        images: The files of each scan, one per channel, by its name.
        prepared: Whether each channel was scaled to [0, 800] and is not to be normalized.
    """

    dataset: str
    images: dict[str, list[str]]
    prepared: tuple[bool, ...]


@dataclass(frozen=True)
class StoredScan:
    """A scan as networks take it but for the intensity window.

    Attributes:
        file: Float32 (channels, z, y, x), z-scored, at the target spacing; read in parts.
        shape: Its voxels (z, y, x).
        percentiles: [low, high] of each channel, see `rectal_nnformer.planning.intensity_window`.
    """

    file: Path
    shape: tuple[int, ...]
    percentiles: Window


def find_scans(dataset: str) -> Scans:
    """Return the scans in imagesTr of a raw dataset, or where there are none in imagesTs; labels are not needed.

    dataset.json need not be there. If it is, its `file_ending` and the names of its channels count.

    Raises:
        RectalError: There is no such dataset, it holds no scans, or scans of different numbers of channels.
    """
    raw = RawDataset.find(dataset)
    content = read_json(raw.dataset_json) if is_there(raw.dataset_json) else {}
    for folder in (raw.path / IMAGES_TR, raw.path / IMAGES_TS):
        first = find_image(folder) if folder.is_dir() else None
        ending = content.get("file_ending") or ("" if first is None else "".join(_suffixes(first)))
        if images := images_by_case(folder, str(ending)) if ending else {}:
            break
    else:
        raise RectalError(
            f"{raw.name} holds no scans: put them into {raw.path / IMAGES_TR}, called <case>_0000.nii.gz. "
            "Labels are not needed."
        )
    names = list((content.get("channel_names") or content.get("modality") or {}).values())
    channels = len(names) or len(next(iter(images.values())))
    if odd := [case for case, files in images.items() if len(files) != channels]:
        raise RectalError(
            f"Case {odd[0]} of {raw.name} has {len(images[odd[0]])} image files, but {channels} channels are expected. "
            "Complete it, or take it away."
        )
    return Scans(raw.name, images, tuple(is_prepared(str(n)) for n in names) or (False,) * channels)


def _suffixes(path: Path) -> list[str]:
    return path.suffixes[-2:] if path.name.endswith(".nii.gz") else path.suffixes[-1:]


def target_spacing(scans: Scans) -> Mm:
    """Return the isotropic spacing (x, y, z) in mm that the planner would choose for the scans, by their headers.

    Raises:
        RectalError: A header cannot be read.
    """
    spacing = isotropic_target_spacing([_spacing(Path(files[0])) for files in scans.images.values()])
    return spacing, spacing, spacing


def _spacing(path: Path) -> NDArray[np.float64]:
    """Return the spacing along the patient's axes (x, y, z)."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_path(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise RectalError(f"{path} cannot be read: {itk_message(error)}. Restore it, or take it away.") from None
    if reader.GetDimension() != 3:
        raise RectalError(f"{path} has {reader.GetDimension()} dimensions; volumes are needed. Take it away.")
    axes = np.abs(np.reshape(reader.GetDirection(), (3, 3))).argmax(axis=1)
    return np.array(reader.GetSpacing())[axes]


def store_scans(scans: Scans, spacing: Mm, folder: Path, num_processes: int) -> list[StoredScan]:
    """Normalize and resample scans into a folder, those alone that are not there yet or have changed.

    Args:
        scans: What to store.
        spacing: mm (x, y, z).
        folder: Where; one per spacing.
        num_processes: At most.

    Raises:
        RectalError: Scans cannot be used, as in planning; names them. The others are stored.
    """
    stored = {case: _stored_scan(case, images, scans.prepared, folder) for case, images in scans.images.items()}
    if missing := [case for case, scan in stored.items() if scan is None]:
        one = partial(_store_scan, scans=scans, spacing=spacing, folder=folder)
        found = map_with_progress(one, missing, num_processes, "Preparing scans")
        if problems := [problem for problem in found if isinstance(problem, str)]:
            listed = "\n  ".join(problems[:MAX_LINES])
            raise RectalError(
                f"{plural(len(problems), 'scan')} of {scans.dataset} cannot be used. Put right, or take away:\n"
                f"  {listed}"
            )
        stored.update(zip(missing, (scan for scan in found if not isinstance(scan, str)), strict=True))
    return [scan for scan in stored.values() if scan is not None]


def _stored_scan(case: str, images: Sequence[str], prepared: Sequence[bool], folder: Path) -> StoredScan | None:
    """Return a scan that was stored from these very files before; None if it was not."""
    file, record = folder / f"{case}.npy", folder / f"{case}.json"
    known = read_json_if_whole(record) or {}
    if known.get("source") != _source(images, prepared) or not file.is_file():
        return None
    return StoredScan(file, tuple(known["shape"]), known["percentiles"])


def _source(images: Sequence[str], prepared: Sequence[bool]) -> list[list[Any]]:
    states = [(Path(image).name, Path(image).stat()) for image in images]
    return [*([name, state.st_size, state.st_mtime_ns] for name, state in states), list(prepared)]


def _store_scan(case: str, scans: Scans, spacing: Mm, folder: Path) -> StoredScan | str:
    """Return the scan, or why it cannot be used."""
    images, prepared = scans.images[case], scans.prepared
    file, record, source = folder / f"{case}.npy", folder / f"{case}.json", _source(images, prepared)
    # nnU-Net's reader fills with zeros what a file that ends early lacks.
    checks = [check_volume(Path(image)) for image in images if image.lower().endswith(tuple(FORMATS))]
    if problems := [check.problem for check in checks if check.problem]:
        return problems[0]
    try:
        image = read_normalized(case, images, SimpleITKIOWithReorient, prepared)
    except RectalError as error:
        return str(error)
    target = spacing[::-1]
    shape = tuple(map(int, compute_new_shape(image.data.shape[1:], image.spacing, target)))
    if min(shape) <= 1:
        return f"{', '.join(images)} is {shape} voxels (z, y, x) large at {spacing[0]:g} mm; volumes are needed"
    data = resample_image(image.data, shape, (1, 1, 1))  # linearly along all axes, as plans want it
    record.unlink(missing_ok=True)
    with staged_file(file) as temporary:
        np.save(temporary, data)
    stored = StoredScan(file, shape, case_percentiles(image))
    write_json(record, {"source": source, "shape": shape, "percentiles": stored.percentiles})
    return stored


def window_of(stored: Sequence[StoredScan], prepared: Sequence[bool]) -> Window:
    """Return the intensity window of scans by the planner's rule: medians of their percentiles."""
    medians = np.median([scan.percentiles for scan in stored], axis=0).tolist()
    return [list(PREPARED_WINDOW) if known else found for known, found in zip(prepared, medians, strict=True)]
