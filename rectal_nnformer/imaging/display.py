"""Showing slices as radiologists hang them: patient right on the image's left, anterior up, true proportions.

Arrays here have axes (slices, rows, columns). Drawing goes onto a matplotlib Axes that the caller owns, so that nothing
depends on pyplot's global state.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from numpy.typing import NDArray

# Okabe and Ito's palette: told apart with any colour vision and on any grey.
REFERENCE_COLOR = "#56B4E9"
PREDICTION_COLOR = "#E69F00"


@dataclass(frozen=True)
class Hanging:
    """How slices of a plane are hung.

    Attributes:
        orientation: Where columns, rows and slices go, as sitk.DICOMOrient takes it.
        sides: Letters for what is at the left, at the right and at the top.
    """

    orientation: str
    sides: str


AXIAL = Hanging("LPS", "RLA")
SAGITTAL = Hanging("PIR", "APH")
CORONAL = Hanging("LIP", "RLH")
LONGER = 1.5
"""How many times longer than along z voxels are along the axis across the slices, if that is another."""


def slice_axis(image: sitk.Image) -> int:
    """Return the axis across the slices of the image's array (z, y, x): z, unless voxels are longer along another."""
    spacing = image.GetSpacing()[::-1]
    longest = int(np.argmax(spacing))
    return longest if spacing[longest] > LONGER * spacing[0] else 0


def hanging_of(image: sitk.Image, axis: int) -> Hanging:
    """Return how the slices across an axis of the image's array are hung, by the plane that they are nearest to."""
    to = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())[2 - axis]
    return {"R": SAGITTAL, "L": SAGITTAL, "A": CORONAL, "P": CORONAL}.get(to, AXIAL)


def radiological_array(image: sitk.Image, hanging: Hanging = AXIAL) -> tuple[NDArray[Any], float]:
    """Return a volume as a stack of slices in radiological display.

    Axes are permuted and flipped to the orientation nearest to that of the hanging by the direction cosines, whatever
    plane the series was acquired in; nothing is resampled.

    Args:
        image: 3D image or mask.
        hanging: Which slices, and which way up.

    Returns:
        The array (axial: slices from inferior to superior, rows from anterior to posterior, columns from patient right
        to patient left), and the pixel aspect: height of a row over width of a column, for `draw_slice`.
    """
    oriented = sitk.DICOMOrient(image, hanging.orientation)
    width, height, _ = oriented.GetSpacing()
    return sitk.GetArrayFromImage(oriented), height / width


def slice_with_most(mask: NDArray[Any]) -> int:
    """Return the index along the first axis of the slice with most nonzero voxels.

    The middle one of equals is taken, so that an evenly thick tumour is cut through its centre and an empty mask gives
    the middle slice.
    """
    areas = np.count_nonzero(mask, axis=(1, 2))
    candidates = np.flatnonzero(areas == areas.max())
    return int(candidates[len(candidates) // 2])


def grey_window(grey: NDArray[Any], percentiles: tuple[float, float] = (0.5, 99.5)) -> tuple[float, float]:
    """Return the grey values shown as black and as white: two percentiles of the finite values of `grey`."""
    finite = grey[np.isfinite(grey)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, percentiles)
    return float(low), float(high)


def draw_slice(axes: Axes, grey: NDArray[Any], aspect: float, window: tuple[float, float] | None = None) -> None:
    """Draw one slice (rows, columns) in grey with its true proportions and without ticks.

    The aspect is pixel height over pixel width, from `radiological_array`; the window the values shown as black and
    white, by default `grey_window` of this slice.
    """
    low, high = grey_window(grey) if window is None else window
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
    axes.set_axis_off()


def draw_outline(axes: Axes, mask: NDArray[Any], color: str, linewidth: float = 1.2, linestyle: str = "solid") -> None:
    """Draw the outline of a mask (rows, columns) over a slice drawn by `draw_slice`; an empty mask draws nothing."""
    if not np.any(mask):
        return
    # A rim of background closes the outline of a mask that touches the border.
    padded = np.pad(np.asarray(mask != 0, dtype=float), 1)
    rows, columns = (np.arange(-1, length + 1) for length in mask.shape)
    axes.contour(columns, rows, padded, levels=[0.5], colors=[color], linewidths=linewidth, linestyles=linestyle)
