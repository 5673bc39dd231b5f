"""Implanting tumours into real scans: real anatomy, texture and noise, exact ground truth."""

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from rectal_nnformer.demo.cohort.fields import Field, Mask, blend
from rectal_nnformer.demo.cohort.tumors import Case, place_tumors
from rectal_nnformer.errors import RectalError

BLUR_MM = 0.3
"""Blur of the implanted boundary in the slice, in place of the scanner's point spread."""
REACH_MM = 2.0
"""Distance in the slice beyond which a tumour leaves the scan as it was."""


def implant_tumors(
    image: sitk.Image, rectum_mask: Mask, rng: np.random.Generator, num_tumors: int | None = None
) -> Case:
    """Put tumours, one to three unless told, into the rectal wall of a 3D T2-weighted scan with thick slices.

    Outside `REACH_MM` the scan is unchanged; pixel type and geometry stay. The mask is of wall and lumen, (z, y, x).
    Brightness is set on the scan's own scale from dark to fat around the rectum. The scan's fine texture and noise are
    carried over, and voxels on the boundary are mixed by the share that the tumour fills.

    Raises:
        RectalError: The image is not 3D, the mask is of another shape or has no room, or the scan shows no contrast.
    """
    if image.GetDimension() != 3 or image.GetSize()[::-1] != rectum_mask.shape:
        raise RectalError(
            f"The scan has {image.GetSize()[::-1]} voxels along (z, y, x), the rectum mask {rectum_mask.shape}. "
            "Give one 3D scan and the mask on its grid."
        )
    spacing = image.GetSpacing()[::-1]
    original = sitk.GetArrayFromImage(image)
    scan = original.astype(np.float32)
    muscle, fat = _tissue_levels(scan, rectum_mask, spacing)
    tumors = place_tumors(rectum_mask, spacing, rng, num_tumors)
    detail = _fine_detail(scan, rectum_mask, spacing)
    # Their boundary is softened in the slice and ends within `REACH_MM`.
    sigma = (0, BLUR_MM / spacing[1], BLUR_MM / spacing[2])
    radius = [0, *(max(1, int(REACH_MM / 2 / size)) for size in spacing[1:])]
    mask = np.zeros(scan.shape, dtype=np.uint8)
    for tumor in tumors:
        blend(scan, gaussian_filter(tumor.share, sigma, radius=radius), tumor.signal(muscle, fat) + detail)
        mask[tumor.mask] = 1
    if np.issubdtype(original.dtype, np.integer):
        limits = np.iinfo(original.dtype)
        scan = np.clip(np.rint(scan), limits.min, limits.max)
    return Case(_like(image, scan.astype(original.dtype)), _like(image, mask), tumors)


def _tissue_levels(scan: Field, rectum: Mask, spacing: tuple[float, ...]) -> tuple[float, float]:
    """Return the signal of muscle and of fat, as percentiles of what surrounds the rectum within 20 mm."""
    slices = rectum.any(axis=(1, 2))
    away = np.stack([distance_transform_edt(~s, sampling=spacing[1:]) for s in rectum[slices]])
    muscle, fat = np.percentile(scan[slices][(away > 2) & (away < 20)], (8, 75))
    if not fat > muscle:
        raise RectalError(
            f"The scan shows no contrast around the rectum (8th percentile {muscle:g}, 75th {fat:g}). "
            "Check that the outline belongs to this scan."
        )
    return float(muscle), float(fat)


def _fine_detail(scan: Field, rectum: Mask, spacing: tuple[float, ...]) -> Field:
    """Return the scan's noise and finest texture, without the ghosts of edges that a high-pass filter would keep."""
    detail = scan - gaussian_filter(scan, (0, 1.5 / spacing[1], 1.5 / spacing[2]))
    values = detail[rectum]
    limit = 2.5 * 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return np.clip(detail, -limit, limit)


def _like(image: sitk.Image, array: NDArray) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result
