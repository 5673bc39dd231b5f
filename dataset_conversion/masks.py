"""Masks as they come, as files of voxels or as structures in DICOM objects, turned into the labels of a dataset."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.labels import TUMOR, Label, numbers_of_labels
from rectal_nnformer.dicom.contours import read_regions
from rectal_nnformer.dicom.outlines import SEGMENTATION, Outlines, Structure
from rectal_nnformer.dicom.segmentations import read_segments
from rectal_nnformer.dicom.series import DicomSeries
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.imaging.reading import read_to_rewrite
from rectal_nnformer.utils.text import plural, some


class MaskSource(Protocol):
    """Something that a mask can be read from."""

    @property
    def origin(self) -> str:
        """Where it is read from, for people."""

    def read(self) -> tuple[sitk.Image, list[str]]:
        """Return a mask with the dataset's numbers of labels, and what to know; raise RectalError if it cannot be."""


@dataclass(frozen=True)
class MaskFile:
    """A NIfTI, NRRD or MetaImage file; without labels it holds the dataset's numbers already."""

    path: Path
    labels: tuple[Label, ...] = ()

    @property
    def origin(self) -> str:
        """The file."""
        return str(self.path)

    def read(self) -> tuple[sitk.Image, list[str]]:
        """Return the mask with the numbers of the labels for their values, 0 for all other values.

        Raises:
            RectalError: The file cannot be read, or holds no tumour.
        """
        image = read_to_rewrite(self.path)
        if not self.labels:
            return image, []
        values = sitk.GetArrayViewFromImage(image)
        numbers = np.zeros(values.shape, np.uint8)
        for label in self.labels:
            numbers[np.isin(values, label.values)] = label.number
        found = np.unique(values)
        inside = ", ".join(f"{value:g}" for value in found[:20].tolist()) + (" ..." if len(found) > 20 else "")
        tumor = tumor_labels({"labels": numbers_of_labels(self.labels)})
        if not np.isin(numbers, tumor).any():
            wanted = " ".join(str(label) for label in self.labels if label.number in tumor)
            raise RectalError(f"mask has no voxel of --labels {wanted}, but the values {inside}; name one of these")
        named = [0, *(value for label in self.labels for value in label.values)]
        others = [f"{value:g}" for value in found.tolist() if value not in named]
        notes = [f"{self.path.name}: values not named in --labels become background: {some(others)}"] if others else []
        notes += [
            f"{self.path.name}: no voxel is {label}" for label in self.labels if not (numbers == label.number).any()
        ]
        result = sitk.GetImageFromArray(numbers)
        result.CopyInformation(image)
        return result, notes


def check_values(labels: Sequence[Label]) -> None:
    """Raise RectalError if a label is chosen by name, which voxels do not have, or by 0, the background."""
    for label in labels:
        if 0 in label.values:
            raise RectalError(f"--labels {label}: 0 is background in masks of voxels; name other values.")
        if not label.values:
            raise RectalError(
                f"--labels {label} chooses structures by name, and masks in NIfTI, NRRD and MetaImage files have "
                f"values: write {label.name}=1, or {label.name}=1,2."
            )


@dataclass(frozen=True)
class Chosen:
    """What is taken for a label, 1 being the tumour's where no label is named: structures of one object."""

    label: Label
    outlines: Outlines
    structures: tuple[Structure, ...]


@dataclass(frozen=True)
class OutlinedMask:
    """Structures in DICOM objects that lie on a series, in the order in which labels go before each other."""

    series: DicomSeries
    chosen: tuple[Chosen, ...]

    @property
    def origin(self) -> str:
        """The objects, and what is taken of each."""
        taken = defaultdict(list)
        for one in self.chosen:
            taken[one.outlines.path].append(f"{one.label.name}: {', '.join(s.name for s in one.structures)}")
        return ", ".join(f"{path} ({'; '.join(of_path)})" for path, of_path in taken.items())

    def read(self) -> tuple[sitk.Image, list[str]]:
        """Return the mask on the grid of the series; where structures overlap, the first label has the voxel.

        Raises:
            RectalError: A file cannot be read, or a structure lies elsewhere or is empty.
        """
        numbers = np.zeros(self.series.shape, np.uint8)
        notes: list[str] = []
        for one in self.chosen:
            path, by_number = one.outlines.path, {s.number: s.name for s in one.structures}
            if one.outlines.kind == SEGMENTATION:
                masks = read_segments(path, self.series, by_number.keys())
            else:
                masks = read_regions(path, self.series, by_number.keys(), notes.append)
            if empty := [by_number[number] for number, mask in masks.items() if not mask.any()]:
                raise RectalError(f"{path}: {some(empty)} holds no voxel; outline it, or leave it out of --labels")
            mask = np.logical_or.reduce(list(masks.values()))
            for before in self.chosen:
                if shared := int((mask & (numbers == before.label.number)).sum()):
                    names = f"{before.label.name} and {one.label.name}"
                    notes.append(f"{path}: {plural(shared, 'voxel')} of {names}, taken for {before.label.name}")
            numbers[mask & (numbers == 0)] = one.label.number
        return self.series.image_of(numbers), notes


def choose_structures(
    series: DicomSeries, objects: Sequence[Outlines], labels: Sequence[Label], tumor: Sequence[int]
) -> OutlinedMask:
    """Return the mask that objects on a series make, by labels; without labels they hold the tumour alone.

    Args:
        series: The series.
        objects: Those that lie on it.
        labels: What stands for each label.
        tumor: The numbers of tumour labels in the dataset.

    Raises:
        RectalError: Nothing matches a label, or too much: structures of several objects, or one structure for several
            labels. Says what there is.
    """
    found = "; ".join(f"{o.path} ({o.kind}) holds {_names(o.structures)}" for o in objects)
    if not labels:
        if (count := sum(len(o.structures) for o in objects)) == len(tumor) == 1:
            return OutlinedMask(series, (Chosen(Label(TUMOR, tumor[0], ""), objects[0], objects[0].structures),))
        what = "structures" if count > 1 else "labels of tumour"
        raise RectalError(f"several {what}, and no word which is the tumour: {found}; give --labels tumor='NAME'")
    chosen = []
    taken: dict[tuple[Path, int], Label] = {}
    for label in labels:
        matching = {o.path: (o, tuple(s for s in o.structures if label.matches(s.name))) for o in objects}
        candidates = [(o, structures) for o, structures in matching.values() if structures]
        if not candidates:
            raise RectalError(f"no structure is called as --labels {label} says: {found}; change the expression")
        if len(candidates) > 1:
            twice = " and ".join(f"{_names(structures)} in {o.path}" for o, structures in candidates)
            raise RectalError(f"--labels {label} fits {twice}; take one of these files away, or name one structure")
        ((outlines, structures),) = candidates
        for structure in structures:
            if other := taken.get((outlines.path, structure.number)):
                raise RectalError(
                    f"{structure.name} in {outlines.path} fits --labels {other} and {label}; make one of them narrower"
                )
            taken[outlines.path, structure.number] = label
        chosen.append(Chosen(label, outlines, structures))
    return OutlinedMask(series, tuple(chosen))


def _names(structures: Collection[Structure]) -> str:
    return ", ".join(f"'{s.name}'" + (f" ({s.meaning})" if s.meaning else "") for s in structures)
