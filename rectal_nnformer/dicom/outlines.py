"""What a DICOM-SEG or RTSTRUCT file says of itself: the structures in it, and the images on which they lie."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from rectal_nnformer.dicom.files import text_of, without_warnings

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
"""The newer class of segmentations, whose voxels are numbers of segments; pydicom 3.0 has no name for it."""
SEGMENTATION = "DICOM-SEG"
CONTOURS = "RTSTRUCT"
KINDS = {
    SegmentationStorage: SEGMENTATION,
    LABEL_MAP_STORAGE: SEGMENTATION,
    RTStructureSetStorage: CONTOURS,
}
"""By SOPClassUID."""


@dataclass(frozen=True)
class Structure:
    """One segment of a segmentation, or one ROI of a structure set: its number in the file, its name, what it is."""

    number: int
    name: str
    meaning: str = ""


@dataclass(frozen=True)
class Outlines:
    """A segmentation or structure set; the structures' voxels stay in the file.

    Attributes:
        kind: `SEGMENTATION` or `CONTOURS`.
        series_uids: SeriesInstanceUID of every series that it refers to.
        instance_uids: SOPInstanceUID of every image that it refers to.
        frames_of_reference: FrameOfReferenceUID of every space that it refers to.
        problem: Why it cannot be used; empty if it can.
    """

    path: Path
    kind: str
    series_uids: frozenset[str] = frozenset()
    instance_uids: frozenset[str] = frozenset()
    frames_of_reference: frozenset[str] = frozenset()
    structures: tuple[Structure, ...] = ()
    problem: str = ""


def outlines_of(path: Path, header: Dataset) -> Outlines | None:
    """Return what the header of a file says of the outlines in it; None if it is another kind of object."""
    with without_warnings():
        try:
            kind = KINDS.get(text_of(header, "SOPClassUID"))
        except Exception:  # pydicom raises many kinds on what is damaged
            kind = None
        if kind is None:
            return None
        try:
            found = list(_references(header))
            own_frame = {text_of(header, "FrameOfReferenceUID")} - {""}
            structures = tuple(_segments(header) if kind == SEGMENTATION else _regions(header))
        except Exception as error:  # as above
            return Outlines(path, kind, problem=f"cannot be read ({error}); export it again")
    twice = [number for number, count in Counter(s.number for s in structures).items() if count > 1]
    problem = f"has several structures of the number {twice[0]}; export it again" if twice else ""
    uids = {keyword: frozenset(uid for key, uid in found if key == keyword) for keyword in _REFERENCES}
    return Outlines(
        path,
        kind,
        series_uids=uids["SeriesInstanceUID"],
        instance_uids=uids["ReferencedSOPInstanceUID"],
        frames_of_reference=uids["FrameOfReferenceUID"] | own_frame,
        structures=structures,
        problem=problem if structures else "holds no structure; take it away",
    )


_REFERENCES = ("SeriesInstanceUID", "ReferencedSOPInstanceUID", "FrameOfReferenceUID")


def _references(header: Dataset, nested: bool = False) -> Iterator[tuple[str, str]]:
    """Yield keyword and UID of all that the sequences of an object refer to, at any depth."""
    for keyword in _REFERENCES if nested else ():
        if uid := text_of(header, keyword):
            yield keyword, uid
    for element in header:
        if element.VR == "SQ":
            for item in element.value:
                yield from _references(item, nested=True)


def _segments(header: Dataset) -> Iterator[Structure]:
    for segment in header.SegmentSequence:
        if segment.SegmentNumber:  # 0 is the background of a label map
            types = segment.get("SegmentedPropertyTypeCodeSequence")
            meaning = text_of(types[0], "CodeMeaning") if types else ""
            yield Structure(int(segment.SegmentNumber), text_of(segment, "SegmentLabel"), meaning)


def _regions(header: Dataset) -> Iterator[Structure]:
    meanings = {
        int(observation.ReferencedROINumber): text_of(observation, "RTROIInterpretedType")
        or text_of(observation, "ROIObservationLabel")
        for observation in header.get("RTROIObservationsSequence") or ()
    }
    for region in header.StructureSetROISequence:
        number = int(region.ROINumber)
        yield Structure(number, text_of(region, "ROIName"), meanings.get(number, ""))
