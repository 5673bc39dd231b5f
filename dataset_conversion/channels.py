"""Several DICOM series of a study as the channels of a case, brought onto the grid of the first."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.dicom.series import DicomSeries
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import grid_differences
from rectal_nnformer.utils.text import percent


@dataclass(frozen=True)
class ResampledSeries:
    """A series of a study on the grid of another one that lies in the same space."""

    series: DicomSeries
    onto: DicomSeries

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.series.uid

    @property
    def folder(self) -> Path:
        """The folder of the first slice."""
        return self.series.folder

    @property
    def files(self) -> Sequence[Path]:
        """The file of each slice."""
        return self.series.files

    def read(self) -> sitk.Image:
        """Return the image on the other's grid; see `resample`."""
        return self.resample()[0]

    def resample(self) -> tuple[sitk.Image, float]:
        """Return the image, linearly interpolated, 0 where there is none, and the share of the grid that it covers.

        A series that has the grid already keeps its voxels.

        Raises:
            RectalError: A file cannot be read, or the two do not overlap.
        """
        image, grid = self.series.read(), self.onto.image_of(np.zeros(self.onto.shape, np.uint8))
        if not grid_differences(grid, image):
            return self.onto.image_of(sitk.GetArrayFromImage(image)), 1.0
        # Not a number outside, where a value could be the image's own.
        moved = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, float("nan"), sitk.sitkFloat32)
        array = sitk.GetArrayFromImage(moved)
        inside = np.isfinite(array)
        if not inside.any():
            raise RectalError(
                f"{self.series.folder} ('{self.series.description}') does not overlap {self.onto.folder} "
                f"('{self.onto.description}'): take one of them away, or choose others with --channels"
            )
        return self.onto.image_of(np.where(inside, array, np.float32(0))), float(inside.mean())


def coverage_note(what: str, covered: float) -> str:
    """Return what to know of a channel that covers a share of the grid; empty if it covers all of it."""
    return f"{what} covers {percent(covered)} of the grid, and is 0 elsewhere." if covered < 1 else ""


def parse_channels(texts: Sequence[str]) -> dict[str, str]:
    """Return what chooses the series of each channel, given as `name=choice`.

    Raises:
        RectalError: One is not of that form, or is named twice.
    """
    channels: dict[str, str] = {}
    for text in texts:
        name, _, choice = text.partition("=")
        if not name or not choice or name in channels:
            raise RectalError(
                f"--channels {text} is not a name of its own, = and a SeriesDescription: write T2='t2.*tra' ADC='adc'."
            )
        channels[name] = choice
    return channels


def check_channels(channels: Mapping[str, str], description: str | None = None) -> None:
    """Raise RectalError if what chooses the series of a channel is no regular expression, or given beside another."""
    if description is not None:
        raise RectalError("--channels chooses series by their description: leave --description out.")
    for name, choice in channels.items():
        try:
            re.compile(f"(?:{choice})")
        except re.error as error:
            raise RectalError(f"--channels {name}={choice} is not a regular expression: {error}.") from None


def any_of(channels: Mapping[str, str]) -> str:
    """Return the regular expression that series of any channel match."""
    return "|".join(f"(?:{choice})" for choice in channels.values())


def images_of_studies(
    series: Sequence[DicomSeries], channels: Mapping[str, str]
) -> tuple[dict[str, tuple[DicomSeries | ResampledSeries, ...]], list[tuple[DicomSeries, str]]]:
    """Return the images of every study, one for each channel, by the SeriesInstanceUID of the first.

    Returned, too, is a series of each study of which a channel is missing, fits several series, or lies in another
    space, with what is wrong.

    Args:
        series: All that fit any channel.
        channels: Names, and the regular expression that the SeriesDescription must match, in any case.
    """
    studies: defaultdict[tuple[str, str], list[DicomSeries]] = defaultdict(list)
    for one in series:
        studies[one.patient, one.study].append(one)
    images: dict[str, tuple[DicomSeries | ResampledSeries, ...]] = {}
    problems = []
    for members in studies.values():
        try:
            first, *others = _choose(members, channels)
            for name, other in zip(list(channels)[1:], others, strict=True):
                _check_space(first, other, name)
            images[first.uid] = (first, *(ResampledSeries(other, first) for other in others))
        except RectalError as error:
            problems.append((members[0], str(error)))
    return images, problems


def _choose(members: Sequence[DicomSeries], channels: Mapping[str, str]) -> list[DicomSeries]:
    """Return the series of a study for each channel."""
    chosen: dict[str, str] = {}
    result = []
    for name, choice in channels.items():
        found = [s for s in members if re.search(choice, s.description, re.IGNORECASE)]
        there = ", ".join(f"'{s.description}' in {s.folder}" for s in found or members)
        if not found:
            raise RectalError(
                f"no series of its study fits --channels {name}={choice}, but there is {there}; change the expression, "
                "or take the study away"
            )
        if len(found) > 1:
            raise RectalError(
                f"{len(found)} series of its study fit --channels {name}={choice}: {there}; make the expression "
                "narrower, or take one away"
            )
        if other := chosen.get(found[0].uid):
            raise RectalError(f"'{found[0].description}' fits --channels {other} and {name}; make one of them narrower")
        chosen[found[0].uid] = name
        result += found
    return result


def _check_space(first: DicomSeries, other: DicomSeries, name: str) -> None:
    if first.frame_of_reference != other.frame_of_reference or not first.frame_of_reference:
        raise RectalError(
            f"{name} ('{other.description}' in {other.folder}) does not share the FrameOfReferenceUID of "
            f"'{first.description}', so that nothing tells how they lie to each other; register it to that, and "
            "convert both as NIfTI"
        )
