"""Read and write DICOM-SEG."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from highdicom import CoordinateSystemNames, Volume
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription, segread
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from rectal_nnformer.dicom.files import functional_group, numbers_of, text_of, without_warnings
from rectal_nnformer.dicom.lesions import (
    CATEGORY,
    MANUFACTURER,
    REGION,
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
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import GRID_TOLERANCE_VOXELS
from rectal_nnformer.utils.files import staged_file


def read_segments(path: Path, series: DicomSeries, numbers: Collection[int]) -> dict[int, NDArray[np.bool_]]:
    """Return segments of a DICOM-SEG by their number, each of shape (z, y, x) on the grid of a series.

    Frames are laid by their own position and orientation: those of another order, flipped, turned by right angles, cut
    out of the grid or left out as empty come right. Of fractional segments what fills half a voxel or more counts.

    Raises:
        RectalError: The file cannot be read, or a frame does not lie on the grid of the series, or in its space.
    """
    masks = {number: np.zeros(series.shape, np.bool_) for number in numbers}
    try:
        with without_warnings():
            segmentation = segread(path)
            check_frame_of_reference(text_of(segmentation, "FrameOfReferenceUID"), "it", series)
            for frame in range(segmentation.number_of_frames):
                for number, part in _parts(segmentation, frame, numbers).items():
                    _lay(part, masks[number], segmentation, frame, series)
    except RectalError as error:
        raise RectalError(f"{path}: {error}") from None
    except Exception as error:  # highdicom and pydicom raise many kinds on what is damaged or against the standard
        raise RectalError(f"{path} cannot be read as a segmentation ({error}); export it again") from None
    return masks


def _parts(segmentation: Segmentation, frame: int, numbers: Collection[int]) -> dict[int, NDArray[np.bool_]]:
    """Return what a frame (rows, columns), counted from 0, holds of the segments asked for, by their number."""
    kind = segmentation.segmentation_type
    if kind == SegmentationTypeValues.LABELMAP:
        values = segmentation.get_stored_frame(frame + 1)
        return {number: values == number for number in numbers}
    number = int(functional_group(segmentation, frame, "SegmentIdentification").ReferencedSegmentNumber)
    if number not in numbers:
        return {}
    values = segmentation.get_stored_frame(frame + 1)
    most = segmentation.MaximumFractionalValue if kind == SegmentationTypeValues.FRACTIONAL else 1
    return {number: values >= most / 2}


def _lay(
    part: NDArray[np.bool_], mask: NDArray[np.bool_], segmentation: Segmentation, frame: int, series: DicomSeries
) -> None:
    """Set what a frame (rows, columns) holds in a mask (z, y, x) on the grid of a series.

    Raises:
        RectalError: The pixels of the frame are no voxels of the series.
    """
    position = numbers_of(functional_group(segmentation, frame, "PlanePosition"), "ImagePositionPatient", 3)
    axes = numbers_of(functional_group(segmentation, frame, "PlaneOrientation"), "ImageOrientationPatient", 6)
    spacing = numbers_of(functional_group(segmentation, frame, "PixelMeasures"), "PixelSpacing", 2)
    if not (position and axes and spacing):
        raise RectalError(f"frame {frame + 1} does not tell where it lies; export the segmentation again")
    rows, columns = np.nonzero(part)
    to_voxels = np.linalg.inv(series.affine)
    first = to_voxels[:3] @ [*position, 1]
    # PixelSpacing is the distance of rows, then that of columns; axes begin with the direction along a row.
    along_row = to_voxels[:3, :3] @ np.array(axes[:3]) * spacing[1]
    along_column = to_voxels[:3, :3] @ np.array(axes[3:]) * spacing[0]
    exact = first + np.outer(columns, along_row) + np.outer(rows, along_column)
    steps = np.rint(along_row), np.rint(along_column)
    voxels = np.rint(first) + np.outer(columns, steps[0]) + np.outer(rows, steps[1])
    if any(np.abs(step).sum() != 1 for step in steps) or np.abs(exact - voxels).max(initial=0) > GRID_TOLERANCE_VOXELS:
        raise RectalError(
            f"frame {frame + 1} does not lie on the grid of the series in {series.folder}; resample the segmentation "
            "onto the series, or export it from there"
        )
    x, y, z = voxels.astype(int).T
    if not all(((index >= 0) & (index < size)).all() for index, size in zip((z, y, x), series.shape, strict=True)):
        raise RectalError(
            f"frame {frame + 1} reaches out of the series in {series.folder}; take the segmentation that was made on it"
        )
    mask[z, y, x] = True


def _volume(masks: NDArray[np.bool_], series: DicomSeries) -> Volume:
    """Return masks (z, y, x, lesion) with their place, since frames of one file may be more, and in another order."""
    return Volume(
        masks.astype(np.uint8),
        series.affine[:, [2, 1, 0, 3]],
        CoordinateSystemNames.PATIENT,
        frame_of_reference_uid=series.frame_of_reference,
        channels={"SegmentNumber": list(range(1, masks.shape[-1] + 1))},
    )


def write_segmentation(path: Path, series: DicomSeries, lesions: Sequence[Lesion], algorithm: Algorithm) -> None:
    """Write lesions as DICOM-SEG with a segment each, bound to the images of their series.

    Raises:
        RectalError: The images lack what it takes to be bound to.
        ValueError: There is no lesion, or one is empty or of another shape.
    """
    check_lesions(lesions, series)
    masks = np.stack([lesion.mask for lesion in lesions], axis=-1)
    images = source_images(series)
    descriptions = [
        SegmentDescription(
            number,
            lesion.name,
            CATEGORY,
            TYPE,
            SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm.identification(),
            tracking_uid=generate_uid(),
            tracking_id=lesion.name,
            anatomic_regions=[REGION],
        )
        for number, lesion in enumerate(lesions, start=1)
    ]
    with derived_from(series, images[0]):
        segmentation = Segmentation(
            images,
            masks if series.slices[0].frame is None else _volume(masks, series),
            SegmentationTypeValues.BINARY,
            descriptions,
            series_instance_uid=generate_uid(),
            series_number=series_number(images[0]),
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name,
            software_versions=algorithm.version,
            device_serial_number=algorithm.model_digest[:16],
            content_label="RECTAL_TUMOUR",
            content_description=SERIES_DESCRIPTION,
            series_description=SERIES_DESCRIPTION,
        )
    with staged_file(path) as temporary, without_warnings():
        segmentation.save_as(temporary)
