"""What was predicted, scan by scan: its lesions, pictures of them, and DICOM objects on its series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rectal_nnformer import __version__
from rectal_nnformer.dicom.contours import write_contours
from rectal_nnformer.dicom.lesions import Algorithm, Lesion
from rectal_nnformer.dicom.segmentations import write_segmentation
from rectal_nnformer.dicom.series import DicomSeries
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import read_candidates
from rectal_nnformer.evaluation.findings import Finding, Slices, find_lesions, find_others, rate_lesions
from rectal_nnformer.imaging.display import slice_axis
from rectal_nnformer.imaging.masks import MIN_VOXELS
from rectal_nnformer.imaging.reading import grid_differences, in_order_of, read_image
from rectal_nnformer.nnunet.names import DICOM_OBJECTS
from rectal_nnformer.reporting.findings import PredictingModel, ScanFindings
from rectal_nnformer.reporting.gallery import draw_found
from rectal_nnformer.utils.text import plural

WRITERS = dict(zip(DICOM_OBJECTS, (write_segmentation, write_contours), strict=True))


@dataclass(frozen=True)
class PredictedScan:
    """A scan with its mask.

    Attributes:
        image: The file that was predicted, of its first channel.
        mask: The file of what was predicted.
        series: The DICOM series that it is; None for others.
        objects: Files of DICOM objects to write, by format.
        note: What to know of it.
    """

    scan: str
    image: Path
    mask: Path
    series: DicomSeries | None
    objects: Mapping[str, Path]
    note: str


def describe_scan(scan: PredictedScan, labels: Sequence[int], model: PredictingModel) -> ScanFindings:
    """Return the lesions in a mask, voxels of some labels, with pictures, and write its DICOM objects.

    Where there is no lesion no object is left, not even of an earlier run.
    """
    image = read_image(scan.image)
    mask = in_order_of(read_image(scan.mask), image)
    if differences := grid_differences(image, mask):
        return ScanFindings(scan.scan, problem=f"its mask does not lie on its grid ({'; '.join(differences)})")
    tumor = np.isin(sitk.GetArrayViewFromImage(mask), labels)
    axis = 0 if scan.series else slice_axis(image)
    slices = Slices(axis, scan.series.numbers if scan.series else range(1, tumor.shape[axis] + 1))
    lesions, found = find_lesions(tumor, image, slices)
    others: list[Finding] = []
    kept = read_candidates(scan.mask)
    if kept is not None:
        numbers = sitk.GetArrayFromImage(in_order_of(kept[0], image))
        found = rate_lesions(lesions, found, numbers, kept[1])
        others = find_others(lesions, numbers, kept[1], image, slices)
    if left_out := int(tumor.sum()) - sum(lesion.voxels for lesion in found):
        small = f"{plural(left_out, 'voxel')} in parts of fewer than {MIN_VOXELS} are no lesion"
    problems = _write_objects(scan, lesions, model)
    return ScanFindings(
        scan.scan,
        found,
        unwritten="; ".join(problems),
        note="; ".join(filter(None, (scan.note, small if left_out else ""))),
        files=[path.name for path in (scan.mask, *scan.objects.values()) if path.exists()],
        clips=draw_found(scan.scan, image, lesions, found, slices),
        others=others,
        entropy=kept[1].entropy if kept else None,
        disagreement=kept[1].disagreement if kept else None,
    )


def _write_objects(scan: PredictedScan, lesions: NDArray[np.int32], model: PredictingModel) -> list[str]:
    """Write the DICOM objects of a scan whose lesions are numbered voxel by voxel; return why one was not written."""
    outlined = [Lesion(f"lesion {number}", lesions == number) for number in range(1, lesions.max() + 1)]
    algorithm = Algorithm(model.folder.trainer, __version__, model.digest)
    problems = []
    for kind, path in scan.objects.items():
        path.unlink(missing_ok=True)
        try:
            if outlined and scan.series:
                WRITERS[kind](path, scan.series, outlined, algorithm)
        except RectalError as error:
            problems.append(f"no {kind}: {error}")
    return problems
