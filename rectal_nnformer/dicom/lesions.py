"""What is written of lesions: what DICOM calls them, who found them, and the images on which they lie."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.valuerep import DS

from rectal_nnformer.dicom.files import text_of, without_warnings
from rectal_nnformer.dicom.series import DicomSeries
from rectal_nnformer.errors import RectalError

# DICOM says what a segment is by a category (context group CID 7150), a type (CID 7151) and the region where it lies:
# the type is the morphology, SNOMED CT 108369006, the region 34402009. All three codes are in DICOM PS3.16 and with it
# in pydicom's dictionary. SNOMED CT's single concept of the disorder, neoplasm of rectum, is in no context group of
# DICOM, and viewers that look names up there would not know it.
CATEGORY = codes.SCT.MorphologicallyAbnormalStructure
TYPE = codes.SCT.Neoplasm
REGION = codes.SCT.Rectum
ALGORITHM_FAMILY = codes.DCM.ArtificialIntelligence
"""Of CID 7162."""
MANUFACTURER = "rectal_nnformer"
SERIES_DESCRIPTION = "Rectal tumour, found automatically"
SERIES_NUMBERS_FROM = 1000
"""Added to the number of the source series, so that viewers list what was derived behind it."""
_ALWAYS_THERE = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Attributes that the standard allows to be empty, but not to be missing."""


@dataclass(frozen=True)
class Lesion:
    """One lesion: a name, at most 16 characters long, and its voxels (z, y, x) on the grid of its series."""

    name: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Algorithm:
    """What found the lesions: name and version of the program, and a digest that tells the model's weights apart."""

    name: str
    version: str
    model_digest: str

    def identification(self) -> AlgorithmIdentificationSequence:
        """Return it as the standard's macro."""
        return AlgorithmIdentificationSequence(
            self.name, ALGORITHM_FAMILY, self.version, source=MANUFACTURER, parameters={"model": self.model_digest}
        )


def source_images(series: DicomSeries) -> list[Dataset]:
    """Return the headers of the files of a series, in the order of its slices, with what objects on them must repeat.

    Raises:
        RectalError: A file cannot be read any more, or tells no study or frame of reference, so that nothing can be
            laid over it.
    """
    headers: list[Dataset] = []
    for path in dict.fromkeys(series.files):
        try:
            header = dcmread(path, stop_before_pixels=True, force=True)
        except Exception as error:  # pydicom raises many kinds on what is damaged
            raise RectalError(f"{path} cannot be read ({error}); copy it again") from None
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID"):
            if not header.get(keyword):
                raise RectalError(
                    f"{path} has no {keyword}, so that nothing can be laid over its series; export it again, whole"
                )
        for keyword in _ALWAYS_THERE:
            if keyword not in header:
                setattr(header, keyword, "")
        if series.slices[0].frame is None:
            _complete_geometry(header, series)
        headers.append(header)
    return headers


def _complete_geometry(header: Dataset, series: DicomSeries) -> None:
    """Make single-frame headers agree: they may differ in the last digit, and exports lack one or another of these."""
    first, gap = series.slices[0], DS(series.spacing[2], auto_format=True)
    header.ImageOrientationPatient = [DS(value, auto_format=True) for value in first.axes]
    header.PixelSpacing = [DS(value, auto_format=True) for value in first.spacing[::-1]]
    header.SpacingBetweenSlices = gap
    header.SliceThickness = header.get("SliceThickness") or gap


@contextmanager
def derived_from(series: DicomSeries, image: Dataset) -> Iterator[None]:
    """Make an object that repeats what the headers of a series say: silently, and refusing by name what it must not.

    Raises:
        RectalError: A value in the headers is not allowed; instead of values of the patient it has their keywords.
    """
    with without_warnings():
        try:
            yield
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # highdicom's refusals
            reason = str(error)
            for keyword in _ALWAYS_THERE:
                reason = re.sub(rf"""(['"]){re.escape(text_of(image, keyword))}\1""", keyword, reason)
            raise RectalError(
                f"{series.folder}: no object can be derived from this series ({reason}); correct the header, or export "
                "the series again"
            ) from None


def check_lesions(lesions: Sequence[Lesion], series: DicomSeries) -> None:
    """Raise ValueError if there is no lesion to write, one is empty or on another grid."""
    if not lesions:
        raise ValueError("no lesion to write")
    for lesion in lesions:
        if lesion.mask.shape != series.shape or not lesion.mask.any():
            raise ValueError(f"lesion {lesion.name} is empty, or of shape {lesion.mask.shape}, not {series.shape}")


def series_number(header: Dataset) -> int:
    """Return the number of a new series that was derived from that of a header."""
    return SERIES_NUMBERS_FROM + max(0, int(header.get("SeriesNumber") or 0))
