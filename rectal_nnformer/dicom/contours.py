"""Read and write RTSTRUCT."""

import colorsys
import datetime
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from highdicom import SOPClass
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from skimage.draw import polygon
from skimage.measure import find_contours

from rectal_nnformer.dicom.areas import Joined, Voxels, join
from rectal_nnformer.dicom.files import text_of, without_warnings
from rectal_nnformer.dicom.lesions import (
    MANUFACTURER,
    SERIES_DESCRIPTION,
    TYPE,
    Algorithm,
    Lesion,
    check_lesions,
    derived_from,
    series_number,
    source_images,
)
from rectal_nnformer.dicom.series import DicomSeries, check_frame_of_reference
from rectal_nnformer.dicom.slices import Slice
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import GRID_TOLERANCE_VOXELS
from rectal_nnformer.utils.files import staged_file
from rectal_nnformer.utils.text import plural

CLOSED, EXCLUSIVE = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
"""Types of contours that enclose something; a ROI with one of the second type has no other by the standard."""
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired, which the standard still asks for where a structure set names its study."""
OBSERVATION = "Rectal tumour"
"""At most 16 characters."""
GOLDEN_RATIO = 0.61803
"""Of hues that follow each other, no two look alike."""


def read_regions(
    path: Path, series: DicomSeries, numbers: Collection[int], warn: Callable[[str], None] = print
) -> dict[int, NDArray[np.bool_]]:
    """Return ROIs of an RTSTRUCT by their number, each of shape (z, y, x) on the grid of a series.

    A voxel belongs to a contour if its centre lies within it, so that holes joined to the outside by a keyhole stay
    holes. What several contours of a slice enclose `join` says; those of the type CLOSEDPLANAR_XOR are combined by
    exclusive or, as the standard wants.

    Args:
        path: The file.
        series: The series.
        numbers: Those of the ROIs.
        warn: Called with what is to be known of contours that were taken in another way than drawn.

    Raises:
        RectalError: The file cannot be read, or a contour is open, in no slice of the series, or reaches out of it.
    """
    masks = {}
    try:
        with without_warnings():
            header = dcmread(path, force=True)
            names = {int(region.ROINumber): text_of(region, "ROIName") for region in header.StructureSetROISequence}
            for region in header.StructureSetROISequence:
                if int(region.ROINumber) in numbers:
                    frame = text_of(region, "ReferencedFrameOfReferenceUID")
                    check_frame_of_reference(frame, text_of(region, "ROIName"), series)
            contours = defaultdict[int, list[Dataset]](list)
            for region in header.get("ROIContourSequence") or ():
                contours[int(region.ReferencedROINumber)] += region.get("ContourSequence") or ()
            for number in numbers:
                name = names.get(number, f"ROI {number}")
                masks[number], notes = _mask_of(contours[number], name, series)
                for note in notes:
                    warn(f"{path}: {name}: {note}")
    except RectalError as error:
        raise RectalError(f"{path}: {error}") from None
    except Exception as error:  # pydicom raises many kinds on what is damaged
        raise RectalError(f"{path} cannot be read as a structure set ({error}); export it again") from None
    return masks


def _mask_of(contours: Sequence[Dataset], name: str, series: DicomSeries) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the mask (z, y, x) that the contours of a ROI make, and what to know of it."""
    mask = np.zeros(series.shape, np.bool_)
    planes = mask.reshape(len(mask), -1)
    areas = defaultdict[int, list[Voxels]](list)
    without_area = 0
    for number, contour in enumerate(contours, start=1):
        what, kind = f"contour {number} of {name}", text_of(contour, "ContourGeometricType")
        points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
        if len(points) < 3:
            without_area += 1
            continue
        if kind not in (CLOSED, EXCLUSIVE):
            raise RectalError(
                f"{what} is not closed ({kind or 'it has no ContourGeometricType'}), so that nothing tells "
                "what it encloses: close it and export the structure again, or take it away"
            )
        plane, voxels = _enclosed(points, what, series)
        if kind == EXCLUSIVE:
            planes[plane, voxels] ^= True
        else:
            areas[plane].append(voxels)
    joined = [join(areas_of_plane, series.shape[1:]) for areas_of_plane in areas.values()]
    for plane, one in zip(areas, joined, strict=True):
        planes[plane, one.voxels] ^= True
    return mask, _notes(joined, without_area)


def _notes(joined: Sequence[Joined], without_area: int) -> list[str]:
    notes = []
    for what, counts in (
        ("{} enclosing the same voxels as another on {}: taken once", [one.copies for one in joined]),
        ("{} overlapping on {}, none of them a hole in the other: united", [one.crossing for one in joined]),
    ):
        if slices := sum(map(bool, counts)):
            notes.append(what.format(plural(sum(counts), "contour"), plural(slices, "slice")))
    if without_area:
        notes.append(f"{plural(without_area, 'contour')} of fewer than 3 points: left out, since they enclose nothing")
    return notes


def _enclosed(points: NDArray[np.float64], what: str, series: DicomSeries) -> tuple[int, Voxels]:
    """Return the slice of a contour, and its voxels whose centres lie within the contour, its edge included."""
    x, y, z = np.linalg.inv(series.affine)[:3] @ np.vstack([points.T, np.ones(len(points))])
    count, height, width = series.shape
    plane = round(float(np.median(z)))
    if not np.abs(z - plane).max() <= GRID_TOLERANCE_VOXELS or not 0 <= plane < count:
        raise RectalError(
            f"{what} does not lie in a slice of the series in {series.folder} (slices {z.min() + 1:.2f} to "
            f"{z.max() + 1:.2f} of {count}): it was drawn on other images; export it on this series"
        )
    # Up to a voxel further out there is no centre of another one.
    if not (min(x.min(), y.min()) > -1 and x.max() < width and y.max() < height):
        raise RectalError(
            f"{what} reaches out of the series in {series.folder} (columns {x.min() + 1:.1f} to "
            f"{x.max() + 1:.1f} of {width}, rows {y.min() + 1:.1f} to {y.max() + 1:.1f} of {height}): take the "
            "structure set that was made on it"
        )
    return plane, np.unique(np.ravel_multi_index(polygon(y, x, (height, width)), (height, width)))


def write_contours(path: Path, series: DicomSeries, lesions: Sequence[Lesion], algorithm: Algorithm) -> None:
    """Write lesions as RTSTRUCT with a ROI each, bound to the images of their series.

    Contours run halfway between the voxels inside and outside, so that the centres of all voxels, and they alone, are
    on the side on which they were.

    Raises:
        RectalError: The images lack what it takes to be bound to.
        ValueError: There is no lesion, or one is empty or of another shape.
    """
    check_lesions(lesions, series)
    images = source_images(series)
    references = [_image_reference(image) for image in images]
    now = datetime.datetime.now()
    with derived_from(series, images[0]):
        structures = _common_modules(images[0], algorithm)
    structures.StructureSetLabel = "RECTAL_TUMOUR"
    structures.StructureSetName = SERIES_DESCRIPTION
    structures.StructureSetDate, structures.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    structures.ReferencedFrameOfReferenceSequence = [_frame_reference(images[0], references)]
    structures.StructureSetROISequence = []
    structures.ROIContourSequence = []
    structures.RTROIObservationsSequence = []
    for number, lesion in enumerate(lesions, start=1):
        structures.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=images[0].FrameOfReferenceUID,
                ROIName=lesion.name,
                ROIGenerationAlgorithm="AUTOMATIC",
                ROIDerivationAlgorithmIdentificationSequence=algorithm.identification(),
            )
        )
        color = [round(255 * part) for part in colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.8, 1)]
        structures.ROIContourSequence.append(
            _item(ROIDisplayColor=color, ReferencedROINumber=number, ContourSequence=list(_contours(lesion, series)))
        )
        structures.RTROIObservationsSequence.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                ROIObservationLabel=OBSERVATION,
                RTROIIdentificationCodeSequence=[CodedConcept.from_code(TYPE)],
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
        )
    structures.ApprovalStatus = "UNAPPROVED"
    with staged_file(path) as temporary, without_warnings():
        structures.save_as(temporary)


def _contours(lesion: Lesion, series: DicomSeries) -> Iterator[Dataset]:
    """Yield the contours of a lesion slice by slice; holes are contours of their own."""
    for slice_, mask in zip(series.slices, lesion.mask, strict=True):
        for line in find_contours(np.pad(mask, 1).astype(np.uint8), 0.5):
            points = _in_space(line[:-1] - 1, slice_)  # the last is the first again
            yield _item(
                ContourImageSequence=[_slice_reference(slice_)],
                ContourGeometricType=CLOSED,
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.6f}" for value in points.ravel()],
            )


def _in_space(points: NDArray[np.float64], slice_: Slice) -> NDArray[np.float64]:
    """Return points (row, column) of a slice in patient coordinates, mm."""
    axes = np.reshape(slice_.axes, (2, 3)) * np.reshape(slice_.spacing, (2, 1))
    return slice_.position + points[:, ::-1] @ axes


def _common_modules(image: Dataset, algorithm: Algorithm) -> SOPClass:
    structures = SOPClass(
        study_instance_uid=image.StudyInstanceUID,
        series_instance_uid=generate_uid(),
        series_number=series_number(image) + 1,
        sop_instance_uid=generate_uid(),
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=algorithm.model_digest[:16],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_id=image.PatientID,
        patient_name=image.PatientName,
        patient_birth_date=image.PatientBirthDate,
        patient_sex=image.PatientSex,
        accession_number=image.AccessionNumber,
        study_id=image.StudyID,
        study_date=image.StudyDate,
        study_time=image.StudyTime,
        referring_physician_name=image.ReferringPhysicianName,
        series_description=SERIES_DESCRIPTION,
        specific_character_set=image.get("SpecificCharacterSet"),
    )
    structures.copy_patient_and_study_information(image)
    structures.OperatorsName = ""
    structures.FrameOfReferenceUID = image.FrameOfReferenceUID
    structures.PositionReferenceIndicator = ""
    return structures


def _frame_reference(image: Dataset, references: Sequence[Dataset]) -> Dataset:
    series = _item(SeriesInstanceUID=image.SeriesInstanceUID, ContourImageSequence=list(references))
    study = _item(
        ReferencedSOPClassUID=STUDY_CLASS,
        ReferencedSOPInstanceUID=image.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=image.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _image_reference(image: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)


def _slice_reference(slice_: Slice) -> Dataset:
    item = _item(ReferencedSOPClassUID=slice_.class_uid, ReferencedSOPInstanceUID=slice_.instance_uid)
    if slice_.frame is not None:
        item.ReferencedFrameNumber = slice_.frame + 1
    return item


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
