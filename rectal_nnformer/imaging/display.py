"""Showing axial slices as radiologists hang them: patient right on the image's left, anterior up, true proportions.

Arrays here have axes (slices, rows, columns). Drawing goes onto a matplotlib Axes that the caller owns, so that nothing
depends on pyplot's global state.
"""

from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from numpy.typing import NDArray

# Okabe and Ito's palette: told apart with any colour vision and on any grey.
REFERENCE_COLOR = "#56B4E9"
PREDICTION_COLOR = "#E69F00"


def radiological_array(image: sitk.Image) -> tuple[NDArray[Any], float]:
    """Return a volume as a stack of axial slices in radiological display.

    Axes are permuted and flipped to the orientation nearest to LPS by the direction cosines, whatever plane the series
    was acquired in; nothing is resampled.

    Args:
        image: 3D image or mask.

    Returns:
        The array (slices from inferior to superior, rows from anterior to posterior, columns from patient right to
        patient left), and the pixel aspect: height of a row over width of a column, for `draw_slice`.
    """
    oriented = sitk.DICOMOrient(image, "LPS")
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
