"""Read and write RTSTRUCT."""

import colorsys
import datetime
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from highdicom import SOPClass
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from skimage.draw import polygon
from skimage.measure import find_contours

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

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired, which the standard still asks for where a structure set names its study."""
OBSERVATION = "Rectal tumour"
"""At most 16 characters."""
GOLDEN_RATIO = 0.61803
"""Of hues that follow each other, no two look alike."""


def read_regions(path: Path, series: DicomSeries, numbers: Collection[int]) -> dict[int, NDArray[np.bool_]]:
    """Return ROIs of an RTSTRUCT by their number, each of shape (z, y, x) on the grid of a series.

    A voxel belongs to a ROI if its centre is within an odd number of closed contours of its slice, so that holes drawn
    as contours of their own, and holes joined to the outside by a keyhole, stay holes.

    Raises:
        RectalError: The file cannot be read, or a contour lies in no slice of the series.
    """
    masks = {number: np.zeros(series.shape, np.bool_) for number in numbers}
    try:
        with without_warnings():
            header = dcmread(path, force=True)
            for region in header.StructureSetROISequence:
                if int(region.ROINumber) in masks:
                    frame = text_of(region, "ReferencedFrameOfReferenceUID")
                    check_frame_of_reference(frame, text_of(region, "ROIName"), series)
            for region in header.get("ROIContourSequence") or ():
                if (mask := masks.get(int(region.ReferencedROINumber))) is not None:
                    for number, contour in enumerate(region.get("ContourSequence") or (), start=1):
                        if text_of(contour, "ContourGeometricType") in CLOSED:
                            _fill(mask, contour, number, series)
    except RectalError as error:
        raise RectalError(f"{path}: {error}") from None
    except Exception as error:  # pydicom raises many kinds on what is damaged
        raise RectalError(f"{path} cannot be read as a structure set ({error}); export it again") from None
    return masks


def _fill(mask: NDArray[np.bool_], contour: Dataset, number: int, series: DicomSeries) -> None:
    """Turn over all voxels of a mask (z, y, x) whose centres lie within a contour, its edge included."""
    points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
    x, y, z = np.linalg.inv(series.affine)[:3] @ np.vstack([points.T, np.ones(len(points))])
    if len(points) < 3:
        return
    plane = round(float(np.median(z)))
    if not np.abs(z - plane).max() <= GRID_TOLERANCE_VOXELS or not 0 <= plane < len(mask):
        raise RectalError(
            f"contour {number} does not lie in a slice of the series in {series.folder} (slices {z.min() + 1:.2f} to "
            f"{z.max() + 1:.2f} of {len(mask)}): it was drawn on other images; export it on this series"
        )
    rows, columns = polygon(y, x, mask.shape[1:])
    mask[plane, rows, columns] ^= True


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
                ContourGeometricType="CLOSED_PLANAR",
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
