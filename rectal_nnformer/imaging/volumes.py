"""Whether an image file is a volume that can be used: the one check of every command that reads images."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import (
    GRID_TOLERANCE_VOXELS,
    LARGEST_SKEW,
    by,
    has_text_header,
    is_nifti,
    read_image,
)
from rectal_nnformer.imaging.voxel_data import locate_voxels
from rectal_nnformer.utils.text import plural

LEAST_SHARE = 1 / 3
"""Of the bytes of a scan and its mask, as many as compression leaves at least; 0.6 was measured on pelvic MRI."""
QFORM_RADIANS = 2e-3
"""How exactly a qform, a quaternion in single precision, tells a direction; worst near half a turn."""
SHARED_SLICES = 0.5
"""Of the slices of an image across one axis, as many as no other patient's image has by chance."""

Slices = tuple[tuple[int, ...], ...]
"""A number for each slice, across each axis."""


@dataclass(frozen=True)
class VolumeCheck:
    """What was found in an image file.

    Attributes:
        path: The file.
        problem: Why it cannot be used, as a sentence with the file's name; empty if it can.
        note: What its header contradicts itself in, and what was taken; empty if it does not.
        size: Voxels (x, y, z).
        slices: What tells each of its slices, see `slices_of`.
    """

    path: Path
    problem: str = ""
    note: str = ""
    size: tuple[int, ...] = ()
    slices: Slices = ()

    @property
    def digest(self) -> str:
        """Of size and voxel values, whatever the file's format, type of number and order of axes."""
        return digest_of(self.slices) if self.slices else ""


@dataclass(frozen=True)
class CaseReport:
    """What was found in the files of a case.

    Attributes:
        problems: Why they cannot be used.
        notes: What to know.
        digest: Of its images.
        voxels: Of its images.
        looks_prepared: Whether each of them reaches from exactly 0 to 800, where that was looked at.
        slices: What tells each slice of the first of them, see `slices_of`.
    """

    problems: Sequence[str]
    notes: Sequence[str]
    digest: str
    voxels: int
    looks_prepared: bool = False
    slices: Slices = ()


def check_volume(path: Path) -> VolumeCheck:
    """Read an image file as a whole and tell whether it is a volume that can be used."""
    try:
        image = read_image(path)
    except RectalError as error:
        return VolumeCheck(path, str(error))
    if problems := image_problems(image):
        return VolumeCheck(path, f"{path}: {'; '.join(problems)}")
    return VolumeCheck(path, "", header_note(path, image), image.GetSize(), slices_of(image))


def image_problems(image: sitk.Image) -> list[str]:
    """Return why an image cannot be used: no single 3D volume, values that are not finite, all alike, a broken grid."""
    if problems := shape_problems(image, "image"):
        return problems
    # Written as float32 at most, so values beyond its range count as infinite.
    with np.errstate(over="ignore"):
        array = sitk.GetArrayViewFromImage(image).astype(np.float32)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        return [f"image holds NaN or infinite values ({plural(bad, 'voxel')}); replace them"]
    if array.min() == array.max():
        return [f"image is constant (every voxel is {array.flat[0]:g}); export it again"]
    return []


def shape_problems(image: sitk.Image, what: str) -> list[str]:
    """Return why an image or mask is no single volume of one number per voxel on a usable grid."""
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        volumes = math.prod(image.GetSize()[3:])
        several = f"; it holds {volumes} volumes: write each as a file of its own" if volumes > 1 else ""
        return [f"{what} is not a 3D volume (size {by(image.GetSize())}){several}"]
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        return [f"{what} does not have one real number per voxel ({image.GetPixelIDTypeAsString()})"]
    spacing, axes = np.array(image.GetSpacing()), np.reshape(image.GetDirection(), (3, 3))
    if not np.isfinite(spacing).all() or spacing.min() <= 0 or not np.isfinite(image.GetOrigin()).all():
        return [f"{what} has no usable grid (spacing {by(image.GetSpacing())}, origin {by(image.GetOrigin())})"]
    if not np.allclose(axes.T @ axes, np.eye(3), atol=LARGEST_SKEW):
        return [f"{what} has axes that are not orthogonal (direction {by(image.GetDirection())}); resample it"]
    return []


def header_note(path: Path, image: sitk.Image) -> str:
    """Return how the grids that a NIfTI header tells contradict each other, and which was taken; empty if they agree.

    A header may tell the grid by sform, by qform, and its spacing by pixdim alone; readers differ in which they take.
    One of NRRD or MetaImage need not tell the spacing.
    """
    if has_text_header(path) and not locate_voxels(path).tells_spacing:
        return f"{path}: its header tells no spacing, and {by(image.GetSpacing())} mm was taken. Export it again."
    if not is_nifti(path):
        return ""
    try:
        header: Any = nibabel.load(path).header
        told = {name: getattr(header, f"get_{name}")(coded=True)[0] for name in ("sform", "qform")}
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, ValueError):
        return f"{path}: its header is one that not every program reads; save it again as NIfTI."
    lps_to_ras = np.diag([-1, -1, 1, 1])
    taken = np.eye(4)
    taken[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    taken[:3, 3] = image.GetOrigin()
    told = {name: lps_to_ras @ matrix for name, matrix in told.items() if matrix is not None}
    corner = np.append(np.subtract(image.GetSize(), 1), 1)
    others = []
    for name, matrix in told.items():
        apart = max(float(np.linalg.norm((matrix - taken) @ point)) for point in (np.eye(4)[3], corner))
        tolerance = GRID_TOLERANCE_VOXELS * min(image.GetSpacing())
        if name == "qform":
            tolerance = max(
                tolerance, QFORM_RADIANS * float(np.linalg.norm(np.multiply(corner[:3], image.GetSpacing())))
            )
        if apart > tolerance:
            others.append(f"its {name} has the spacing {_spacing(matrix)} mm, its corners up to {apart:.2g} mm apart")
    zooms = tuple(float(zoom) for zoom in header.get_zooms()[:3])
    if not np.allclose(zooms, image.GetSpacing(), rtol=1e-3):
        others.append(f"its pixdim is {by(zooms)} mm")
    if not others:
        return ""
    return f"{path}: the grid was taken with the spacing {by(image.GetSpacing())} mm, but {' and '.join(others)}."


def slices_of(image: sitk.Image) -> Slices:
    """Return a number for each slice of a volume across each axis (z, y, x), in order, that tells its voxel values.

    It is the same however the slice is flipped or turned, and whatever type of number the values are stored as.
    """
    across_z, rows, columns = [], [], []
    for plane in sitk.GetArrayViewFromImage(image):
        numbers = _scrambled(np.ascontiguousarray(plane, np.float32) + np.float32(0))  # of -0 makes 0
        across_z.append(int(numbers.sum()))
        rows.append(numbers.sum(axis=1))
        columns.append(numbers.sum(axis=0))
    return tuple(across_z), tuple(np.sum(rows, axis=0).tolist()), tuple(np.sum(columns, axis=0).tolist())


def _scrambled(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return values as numbers whose sums tell which values there are: SplitMix64 (Steele et al. 2014)."""
    x = values.view(np.uint32).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def digest_of(slices: Slices) -> str:
    """Return a digest of a volume's size and voxel values, the same for all flips and orders of its axes."""
    turned = sorted(min(one, one[::-1]) for one in slices)
    return hashlib.sha256(repr(turned).encode()).hexdigest()


def same_images(digests: Mapping[str, str], patients: Mapping[str, str]) -> list[str]:
    """Return a line for each group of cases whose images hold the same voxels; a patient may be known for each case."""
    groups = defaultdict(list)
    for name, digest in digests.items():
        if digest:
            groups[digest].append(name)
    lines = []
    for names in (group for group in groups.values() if len(group) > 1):
        told = [_with_patient(name, patients) for name in names]
        alike = len({patients.get(name, name) for name in names}) == 1
        reason = "of one patient; one will do" if alike else "so that folds leak: keep one, or give them one patient"
        lines.append(f"The images of {' and '.join(told)} hold the same voxels, {reason}.")
    return lines


def cut_images(reports: Mapping[str, CaseReport], patients: Mapping[str, str]) -> list[str]:
    """Return a line for each two patients' images of which most slices are the same, as where one scan was cut.

    Slices that an image has twice, as empty ones, do not count.
    """
    cases = defaultdict(set)
    for name, report in reports.items():
        for number in chain(*report.slices):
            cases[number].add(name)
    found: dict[tuple[str, str], str] = {}
    for name, report in reports.items():
        for across in report.slices:
            once = [cases[number] for number, times in Counter(across).items() if times == 1]
            for other, shared in Counter(chain(*once)).items():
                strangers = patients.get(name, name) != patients.get(other, other)
                alike = shared > SHARED_SLICES * len(across) and report.digest != reports[other].digest
                if strangers and alike and (other, name) not in found:
                    found[name, other] = f"{shared} of {len(across)} slices"
    return [
        f"The images of {' and '.join(_with_patient(name, patients) for name in pair)} share {slices}, so that folds "
        "leak: keep one, or give them one patient."
        for pair, slices in found.items()
    ]


def _with_patient(name: str, patients: Mapping[str, str]) -> str:
    return f"{name} (patient {patients[name]})" if name in patients else name


def _spacing(matrix: np.ndarray) -> str:
    return by(tuple(np.linalg.norm(matrix[:3, :3], axis=0)))
