"""Reading image files whole or not at all, and telling whether two images have the same grid."""

import gzip
import itertools
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import data_type_codes

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.voxel_data import METAIMAGE_SUFFIXES, NRRD_SUFFIXES, check_voxels, locate_voxels
from rectal_nnformer.utils.files import is_there, kind_of
from rectal_nnformer.utils.text import plural

# Headers hold single-precision or decimal numbers; grids that agree to a tenth of a voxel are the same grid.
GRID_TOLERANCE_VOXELS = 0.1
LARGEST_SKEW = 1e-3
"""How far from orthogonal, as a cosine, the axes of an image may be."""
STRAIGHTEN = "ITK_NIFTI_SFORM_PERMISSIVE"
"""The variable that lets ITK take the nearest straight axes instead of refusing a NIfTI file whose axes are askew."""

NIFTI_SUFFIXES = (".nii", ".nii.gz")
FORMATS = {
    **dict.fromkeys(NIFTI_SUFFIXES, "NiftiImageIO"),
    **dict.fromkeys(NRRD_SUFFIXES, "NrrdImageIO"),
    **dict.fromkeys(METAIMAGE_SUFFIXES, "MetaImageIO"),
}
"""ITK's readers by the ending of a file's name."""
MOST_VOXELS = 1 << 30
"""Of an image: four times a scan of the whole body."""
MOST_EXTRA_BYTES = 1 << 20
"""Of a NIfTI file before its voxels, the header and its extensions, and behind them."""
CHUNK = 1 << 22
NIFTI_HEADER_SIZES = (348, 540)
PIXDIM = 80
"""The byte of a NIfTI-1 header at which the spacing begins."""
# NIfTI's codes of data types that can hold NaN.
NIFTI_FLOATS = {16: "f4", 64: "f8"}


class SkewedAxesError(RectalError):
    """A NIfTI file tells axes that are not at right angles."""


def read_to_rewrite(path: Path) -> sitk.Image:
    """Return the image in a file as viewers show it, also where nnU-Net cannot read the file itself.

    Axes of NIfTI that are askew by at most `LARGEST_SKEW` are straightened, and a fourth axis of one volume is dropped.

    Raises:
        RectalError: As `read_image`, or the axes are more askew.
    """
    try:
        image = read_image(path)
    except SkewedAxesError:
        if (skew := _skew(path)) > LARGEST_SKEW:
            raise RectalError(
                f"{path} has axes that are not at right angles (by its sform {math.degrees(math.acos(skew)):.1f} "
                "degrees); resample it onto straight axes, and its mask with it"
            ) from None
        os.environ[STRAIGHTEN] = "1"
        try:
            image = read_image(path)
        finally:
            del os.environ[STRAIGHTEN]
    return image[..., 0] if image.GetDimension() == 4 and image.GetSize()[3] == 1 else image


def read_image(path: Path) -> sitk.Image:
    """Return the image in a file as it is.

    What its header claims is checked before memory is taken for it.

    Raises:
        RectalError: The file is missing, cannot be read or ends early, is damaged, of another format than its name
            says, of more than `MOST_VOXELS`, tells a spacing of 0, or is NIfTI and holds values that are not finite.
    """
    if not is_there(path):
        raise RectalError(f"there is no file {path}")
    if kind := kind_of(path):  # a pipe would be waited for
        raise RectalError(f"{path} is {kind}; put the image in its place, or take it away")
    data = locate_voxels(path) if has_text_header(path) else None
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_path(path))
    # ITK goes by content otherwise, and reads a DICOM file of this name.
    reader.SetImageIO(next((io for suffix, io in FORMATS.items() if path.name.lower().endswith(suffix)), ""))
    try:
        reader.ReadImageInformation()
        if math.prod(reader.GetSize()) > MOST_VOXELS:
            raise RectalError(f"{path} has {by(reader.GetSize())} voxels by its header, more than can be used")
        if is_nifti(path):
            _check_nifti(path, reader)
        if data is not None:
            values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
            voxel = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
            voxel_bytes = sitk.GetArrayViewFromImage(voxel).nbytes
            check_voxels(path, data, math.prod(reader.GetSize()) * voxel_bytes, values)
        return reader.Execute()
    except RuntimeError as error:
        if "orthonormal" in itk_message(error):
            raise SkewedAxesError(
                f"{path} has axes that are not quite at right angles, which nnU-Net cannot read: 'rectal_nnformer "
                "convert nifti' writes it anew with straight ones"
            ) from None
        raise RectalError(f"{path} cannot be read ({itk_message(error)}); copy or export it again") from None


def itk_path(path: Path) -> str:
    """Return a path for ITK, which would abort on one that is not in UTF-8.

    Raises:
        RectalError: It is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RectalError(f"{path} has a name that is not in UTF-8; rename it") from None
    return str(path)


def is_nifti(path: Path) -> bool:
    """Return whether a file is called NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def has_text_header(path: Path) -> bool:
    """Return whether a file is called NRRD or MetaImage, whose voxels may be in another file."""
    return path.name.lower().endswith(NRRD_SUFFIXES + METAIMAGE_SUFFIXES)


def itk_message(error: RuntimeError) -> str:
    """Return the telling part of an ITK exception in one line of at most 160 characters."""
    text = re.split(r"ERROR:", str(error))[-1]
    text = re.sub(r"\w+\(0x[0-9a-f]+\):", "", text)
    return " ".join(text.split())[:160]


def grid_differences(image: sitk.Image, other: sitk.Image) -> list[str]:
    """Return how the grid of `other` differs from that of `image`, in words; empty if both are the same grid.

    Voxel centres at the corners must agree to `GRID_TOLERANCE_VOXELS` of the smallest spacing, which covers spacing,
    origin and direction at once.
    """
    if image.GetDimension() != other.GetDimension():
        return [f"{other.GetDimension()} axes, image {image.GetDimension()}"]
    differences = []
    if image.GetSize() != other.GetSize():
        differences.append(f"size {by(other.GetSize())}, image {by(image.GetSize())}")
    distance = max(
        float(np.linalg.norm(np.subtract(a, b))) for a, b in zip(_corners(image), _corners(other), strict=True)
    )
    if distance > GRID_TOLERANCE_VOXELS * min(image.GetSpacing()):
        differences.append(f"corners up to {distance:.2g} mm apart")
        for name, ours, theirs in (
            ("spacing", image.GetSpacing(), other.GetSpacing()),
            ("origin", image.GetOrigin(), other.GetOrigin()),
            ("direction", image.GetDirection(), other.GetDirection()),
        ):
            if not np.allclose(ours, theirs, rtol=0, atol=1e-4):
                differences.append(f"{name} {by(theirs)}, image {by(ours)}")
    return differences


def in_order_of(image: sitk.Image, other: sitk.Image) -> sitk.Image:
    """Return an image with its axes flipped and permuted as those of another where that makes the grids the same.

    No voxel moves in space; of any other difference the image is returned as it is.
    """
    if image.GetDimension() != 3 or other.GetDimension() != 3 or not grid_differences(other, image):
        return image
    order = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(other.GetDirection())
    reordered = sitk.DICOMOrient(image, order)
    return image if grid_differences(other, reordered) else reordered


def geometry_problems(image: sitk.Image, other: sitk.Image, what: str = "mask", whose: str = "its image") -> list[str]:
    """Return how the grid of a mask or channel differs from that of its image; empty if neither, or either is not 3D.

    Axes that are flipped or permuted are no difference: the other is written in the order of the image.
    """
    if not image.GetDimension() == other.GetDimension() == 3:
        return []
    if differences := grid_differences(image, in_order_of(other, image)):
        return [f"{what} has another geometry than {whose} ({'; '.join(differences)}); resample it onto that"]
    return []


def by(values: Sequence[float], number_format: str = ".5g") -> str:
    """Return numbers as in 320 x 320 x 24."""
    return " x ".join(format(value, number_format) for value in values)


def _corners(image: sitk.Image) -> list[tuple[float, ...]]:
    return [image.TransformIndexToPhysicalPoint(c) for c in itertools.product(*((0, n - 1) for n in image.GetSize()))]


def _skew(path: Path) -> float:
    """Return the largest cosine between two axes that the sform of a NIfTI file tells."""
    header: Any = nibabel.load(path).header
    axes = header.get_sform()[:3, :3]
    axes /= np.linalg.norm(axes, axis=0)
    return float(np.abs(np.triu(axes.T @ axes, 1)).max())


def _check_nifti(path: Path, reader: sitk.ImageFileReader) -> None:
    """Raise on what ITK's NIfTI reader passes over in silence, by a header that has been read.

    It fills with zeros what a file that ends early lacks, and replaces NaN and infinite values by zeros. The file is
    read in pieces, and not further than it should go.
    """
    values_in_file = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    offset = _vox_offset(path, reader)
    datatype, bits = (int(reader.GetMetaData(key)) for key in ("datatype", "bitpix"))
    types: Any = data_type_codes.dtype
    known = {code: np.dtype(types[code]).itemsize for code in data_type_codes.value_set()}
    if bits != 8 * known.get(datatype, 0):
        raise RectalError(f"{path} cannot be read (data type {datatype} of {bits} bits); export it again")
    expected, bad = offset + values_in_file * bits // 8, 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            header = file.read(max(NIFTI_HEADER_SIZES))
            order = "<" if int.from_bytes(header[:4], "little") in NIFTI_HEADER_SIZES else ">"
            spacing = np.frombuffer(header, f"{order}f4", min(reader.GetDimension(), 3), PIXDIM)
            file.seek(0)
            done = len(file.read(offset))
            while done < expected and (piece := file.read(min(CHUNK, expected - done))):
                done += len(piece)
                if datatype in NIFTI_FLOATS:
                    kind = np.dtype(order + NIFTI_FLOATS[datatype])
                    values = np.frombuffer(piece, kind, len(piece) // kind.itemsize)
                    bad += values.size - np.count_nonzero(np.isfinite(values))
            # Reading to the end lets gzip compare its checksum.
            extra = len(file.read(MOST_EXTRA_BYTES + 1))
    except (EOFError, OSError, zlib.error) as error:
        raise RectalError(f"{path} cannot be read ({error}); copy it again") from None
    if not np.isfinite(spacing).all() or not spacing.all():  # of which ITK makes 1 mm
        raise RectalError(f"{path} has a spacing of {by(spacing.tolist())} mm by its header (pixdim); export it again")
    if done < expected:
        raise RectalError(f"{path} ends early ({done} of {expected} bytes); copy it again")
    if extra > MOST_EXTRA_BYTES:
        raise RectalError(f"{path} goes on behind its voxels, by more than {MOST_EXTRA_BYTES} bytes; export it again")
    if bad:
        raise RectalError(f"{path} holds NaN or infinite values ({plural(bad, 'voxel')}); replace them")


def _vox_offset(path: Path, reader: sitk.ImageFileReader) -> int:
    """Return at which byte the voxels of a NIfTI file begin."""
    told = float(reader.GetMetaData("vox_offset"))
    if not 0 <= told <= MOST_EXTRA_BYTES:
        raise RectalError(f"{path} cannot be read (its voxels begin at byte {told:g}); export it again")
    return int(told)
