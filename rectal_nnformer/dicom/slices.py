"""The images in DICOM files: what the headers say of each, one in a file or many, and its pixels."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import Dataset, FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from rectal_nnformer.dicom.files import (
    MR_STORAGE,
    functional_group,
    lacks_preamble,
    numbers_of,
    text_of,
    without_warnings,
)
from rectal_nnformer.errors import RectalError

# PixelSpacing and what stands in for it in projections and exports, all of them rows first.
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
MOST_PIXELS_PER_BYTE = 100
"""No compression of medical images reaches this."""
_OF_PIXELS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "PixelData",
)
_TRAITS = (
    ("b value", "MRDiffusion", "DiffusionBValue", "DiffusionBValue"),
    ("echo time", "MREcho", "EffectiveEchoTime", "EchoTime"),
    ("echo", "", "", "EchoNumbers"),
    ("time point", "FrameContent", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("trigger time", "CardiacSynchronization", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    ("inversion time", "MRModifier", "InversionTimes", "InversionTime"),
    ("sequence", "", "", "SequenceName"),
    ("image type", "MRImageFrameType", "FrameType", "ImageType"),
    ("gradient", "", "", "DiffusionGradientOrientation"),
    ("acquisition", "FrameContent", "FrameAcquisitionNumber", "AcquisitionNumber"),
)
"""What tells images of one place apart: its name, the functional group and attribute in multi-frame objects, and the
attribute in single-frame ones. The telling ones come first."""


@dataclass(frozen=True)
class Slice:
    """What the headers say of one image; what they do not say is empty.

    Attributes:
        image_type: ImageType, values separated by backslashes.
        photometric: PhotometricInterpretation, as MONOCHROME2.
        size: Columns, rows.
        frame: Its number in its file, from 0; None for the only image in a file.
        frames: Number of images in its file of which nothing is said apart; 1 if each has a header of its own.
        number: InstanceNumber, or that of the frame, from 1; None if there is none.
        spacing: Distance of columns and of rows, mm.
        position: Centre of the first voxel in patient coordinates (LPS), mm.
        axes: Unit vectors along a row, then along a column.
        traits: What may tell it from others of the same place, by name.
    """

    path: Path
    class_uid: str
    instance_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference: str
    patient: str
    patient_name: str
    modality: str
    image_type: str
    description: str
    photometric: str
    size: tuple[int, int]
    frame: int | None
    frames: int
    number: int | None
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    axes: tuple[float, ...]
    traits: tuple[tuple[str, str], ...]

    @property
    def where(self) -> str:
        """Its file and, in a file of several, its number from 1, for messages."""
        return f"{self.path}{'' if self.frame is None else f' frame {self.frame + 1}'}"

    @property
    def name(self) -> str:
        """The same without the folder."""
        return f"{self.path.name}{'' if self.frame is None else f' frame {self.frame + 1}'}"


def slices_of(path: Path, header: Dataset) -> list[Slice]:
    """Return what the header of a file says of each image in it.

    Returns:
        Nothing if there is no image, more of them than the file can hold, or of another number than is told of.
    """
    with without_warnings():
        try:
            if "PixelData" not in header:
                return []
            frames = int(header.get("NumberOfFrames") or 1)
            pixels = int(header.Columns) * int(header.Rows) * frames
            if not 0 < pixels <= MOST_PIXELS_PER_BYTE * path.stat().st_size:
                return []
            told = header.get("PerFrameFunctionalGroupsSequence")
            if not told:
                return [_single(path, header, frames)]
            return list(_enhanced(path, header, frames)) if len(told) == frames else []
        except Exception:  # pydicom raises many kinds on what is damaged
            return []


def _single(path: Path, header: Dataset, frames: int) -> Slice:
    spacing = next(filter(None, (numbers_of(header, keyword, 2) for keyword in SPACINGS)), ())
    traits = ((name, _trait(header, keyword)) for name, _, _, keyword in _TRAITS)
    return Slice(
        path=path,
        class_uid=text_of(header, "SOPClassUID"),
        instance_uid=text_of(header, "SOPInstanceUID"),
        series_uid=text_of(header, "SeriesInstanceUID"),
        study_uid=text_of(header, "StudyInstanceUID"),
        frame_of_reference=text_of(header, "FrameOfReferenceUID"),
        patient=text_of(header, "PatientID"),
        patient_name=text_of(header, "PatientName"),
        modality=text_of(header, "Modality"),
        image_type=text_of(header, "ImageType").upper(),
        description=text_of(header, "SeriesDescription"),
        photometric=text_of(header, "PhotometricInterpretation"),
        size=(int(header.Columns), int(header.Rows)),
        frame=None,
        frames=frames,
        number=next(map(int, numbers_of(header, "InstanceNumber", 1)), None),
        spacing=spacing[::-1],
        position=numbers_of(header, "ImagePositionPatient", 3),
        axes=numbers_of(header, "ImageOrientationPatient", 6),
        traits=tuple(traits),
    )


def _trait(header: Dataset, keyword: str) -> str:
    return text_of(header, keyword).replace("\\", " ")


def _enhanced(path: Path, header: Dataset, frames: int) -> Iterator[Slice]:
    """Yield a slice for each frame of an object that has functional groups, in the order of the frames."""
    common = _single(path, header, frames=1)
    for frame in range(frames):
        traits = []
        for name, macro, keyword, _ in _TRAITS:
            if macro and (value := _trait(functional_group(header, frame, macro), keyword)):
                traits.append((name, value))
        directions = functional_group(header, frame, "MRDiffusion").get("DiffusionGradientDirectionSequence")
        if directions:
            traits.append(("gradient", _trait(directions[0], "DiffusionGradientOrientation")))
        yield replace(
            common,
            frame=frame,
            number=frame + 1,
            image_type=text_of(functional_group(header, frame, "MRImageFrameType"), "FrameType").upper()
            or common.image_type,
            spacing=numbers_of(functional_group(header, frame, "PixelMeasures"), "PixelSpacing", 2)[::-1],
            position=numbers_of(functional_group(header, frame, "PlanePosition"), "ImagePositionPatient", 3),
            axes=numbers_of(functional_group(header, frame, "PlaneOrientation"), "ImageOrientationPatient", 6),
            traits=tuple(traits),
        )


def copy_pixels(path: Path, copies: Mapping[Path, int | None]) -> None:
    """Write DICOM files with the pixels of one and what says how they are stored, and nothing else of it.

    The library that decodes pixels takes memory for whatever a length claims, in places where pydicom sees no length.

    Args:
        path: The file to read.
        copies: The files to write, and the frame that each shall hold; None: what there is.

    Raises:
        RectalError: The file cannot be read.
    """
    with without_warnings():
        try:
            source = dcmread(path, force=lacks_preamble(path))
            told = source.file_meta.get("TransferSyntaxUID")
            found = ImplicitVRLittleEndian if source.original_encoding[0] else ExplicitVRLittleEndian
            for copy, frame in copies.items():
                kept = FileDataset(copy, {}, file_meta=FileMetaDataset(), preamble=bytes(128))
                for keyword in _OF_PIXELS:
                    if keyword in source:
                        kept[keyword] = source[keyword]
                kept.file_meta.TransferSyntaxUID = told or found
                if frame is not None:
                    _keep_frame(kept, source, frame)
                kept.file_meta.MediaStorageSOPClassUID = UID(kept.get("SOPClassUID") or MR_STORAGE[0])
                kept.file_meta.MediaStorageSOPInstanceUID = kept.get("SOPInstanceUID") or generate_uid()
                kept.save_as(copy, enforce_file_format=True)
        except Exception as error:  # pydicom raises many kinds on what is damaged
            raise RectalError(f"{path} cannot be read ({error}); copy it again") from None


def _keep_frame(kept: FileDataset, source: Dataset, frame: int) -> None:
    """Make a single-frame MR image of what was kept of a multi-frame one: a frame's own pixels, slope and intercept."""
    frames = int(source.get("NumberOfFrames") or 1)
    kept.SOPClassUID, kept.NumberOfFrames = MR_STORAGE[0], 1
    values = functional_group(source, frame, "PixelValueTransformation")
    for keyword in ("RescaleIntercept", "RescaleSlope"):
        if keyword in values:
            kept[keyword] = values[keyword]
    if kept.file_meta.TransferSyntaxUID.is_encapsulated:
        offsets = None
        if "ExtendedOffsetTable" in source:
            offsets = source.ExtendedOffsetTable, source.ExtendedOffsetTableLengths
        pixels = encapsulate([get_frame(source.PixelData, frame, extended_offsets=offsets, number_of_frames=frames)])
    else:
        size = math.prod((source.Rows, source.Columns, source.SamplesPerPixel, source.BitsAllocated // 8))
        pixels = source.PixelData[frame * size : (frame + 1) * size]
        if len(pixels) != size:
            raise ValueError(f"it ends before frame {frame + 1}")
        pixels += bytes(size % 2)
    element = source["PixelData"]
    kept.add_new(element.tag, element.VR, pixels)
    kept["PixelData"].is_undefined_length = kept.file_meta.TransferSyntaxUID.is_encapsulated
