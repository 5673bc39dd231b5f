"""Validate images and masks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.cases import Case
from rectal_nnformer.dataset_conversion.channels import ResampledSeries, coverage_note
from rectal_nnformer.dataset_conversion.images import ImageFile, ImageSource, lift_zeros
from rectal_nnformer.dataset_conversion.target import Target
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import label_values, tumor_labels
from rectal_nnformer.imaging.prepared import PREPARED_WINDOW, is_prepared, within_window
from rectal_nnformer.imaging.reading import geometry_problems
from rectal_nnformer.imaging.volumes import (
    CaseReport,
    Slices,
    digest_of,
    header_note,
    image_problems,
    shape_problems,
    slices_of,
)


def check_case(case: Case, target: Target) -> CaseReport:
    """Read the images of a case and its mask, if there is one, and return what is wrong with them and what to know.

    A channel called as a prepared one must hold intensities that were scaled to 0 to 800 beforehand.
    """
    checks = [_check_channel(*channel) for channel in zip(case.images, target.channels, strict=True)]
    problems = [problem for check in checks for problem in check.problems]
    notes = [note for check in checks for note in check.notes]
    volumes = [check.volume for check in checks]
    for name, volume in zip(target.channels[1:], volumes[1:], strict=True):
        if volume and volumes[0]:
            problems += geometry_problems(volumes[0], volume, f"channel {name}", f"channel {target.channels[0]}")
    if case.mask is not None:
        try:
            mask, told = case.mask.read()
            wrong = mask_problems(mask, target.content)
            if wrong and volumes[0] and isinstance(case.images[0], ImageFile):
                wrong += _swapped(volumes[0], mask, label_values(target.content, "dataset.json"))
            problems += wrong
            if volumes[0] and (moved := geometry_problems(volumes[0], mask)):
                problems += [*moved, *checks[0].notes]  # the header may be the cause
            notes += told
        except RectalError as error:
            problems.append(str(error))
    return CaseReport(
        problems,
        notes,
        "".join(digest_of(check.slices) for check in checks if check.slices),
        sum(volume.GetNumberOfPixels() for volume in volumes if volume),
        looks_prepared=all(check.looks_prepared for check in checks),
        slices=checks[0].slices,
    )


@dataclass(frozen=True)
class _Channel:
    """What was found in an image: None for one that cannot be read."""

    volume: sitk.Image | None
    problems: Sequence[str]
    notes: Sequence[str] = ()
    slices: Slices = ()
    looks_prepared: bool = False


def _check_channel(source: ImageSource, name: str) -> _Channel:
    notes: list[str] = []
    try:
        if isinstance(source, ResampledSeries):
            volume, covered = source.resample()
            notes += filter(None, [coverage_note(f"{source.folder}: {name}", covered)])
        else:
            volume = source.read()
    except RectalError as error:
        return _Channel(None, [str(error)])
    if problems := image_problems(volume) or (prepared_problems(volume) if is_prepared(name) else []):
        return _Channel(volume, problems)
    if isinstance(source, ImageFile) and (note := header_note(source.path, volume)):
        notes.append(note)
    array = sitk.GetArrayViewFromImage(volume)
    extremes = float(array.min()), float(array.max())
    slices = slices_of(lift_zeros(volume) if is_prepared(name) else volume)
    return _Channel(volume, (), notes, slices, extremes == PREPARED_WINDOW)


def prepared_problems(image: sitk.Image) -> list[str]:
    """Return what is wrong with the intensities of an image that is said to be prepared."""
    array = sitk.GetArrayViewFromImage(image)
    if within_window(array.min(), array.max()):
        return []
    return [
        f"image reaches from {array.min():g} to {array.max():g}, and a prepared one from {PREPARED_WINDOW[0]:g} to "
        f"{PREPARED_WINDOW[1]:g}; scale it, or leave --prepared out"
    ]


def mask_problems(mask: sitk.Image, dataset_json: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a mask: not one 3D volume, other values than those of the labels, or no tumour."""
    shape = shape_problems(mask, "mask")
    if shape:
        return shape
    found, values = np.unique(sitk.GetArrayViewFromImage(mask)), label_values(dataset_json, "dataset.json")
    foreign = [str(value).removesuffix(".0") for value in found if value not in values]
    if foreign:
        shown = ", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        known = "0 is background, 1 tumour" if values == {0, 1} else f"dataset.json has {', '.join(map(str, values))}"
        return [
            f"mask has foreign labels {shown} ({known}, nothing else); relabel it, or say with --labels which is what"
        ]
    tumor = tumor_labels(dataset_json)
    if not np.isin(tumor, found).any():
        return [f"mask has no tumour (no voxel is {' or '.join(map(str, tumor))}); outline it, or leave the case out"]
    return []


def _swapped(image: sitk.Image, mask: sitk.Image, labels: Collection[int]) -> list[str]:
    """Return that image and mask seem to be each other, where the image alone holds nothing but labels."""
    in_image, in_mask = (set(np.unique(sitk.GetArrayViewFromImage(one)).tolist()) for one in (image, mask))
    if not in_image <= set(labels) or in_mask <= set(labels):
        return []
    return ["the image holds nothing but labels, and the mask other values: are --images and --masks swapped?"]
