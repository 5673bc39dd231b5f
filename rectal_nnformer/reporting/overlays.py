"""A picture of a few cases: the slice with most tumour, whole and close up, with reference and prediction outlined."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging import display
from rectal_nnformer.imaging.reading import grid_differences, in_order_of, read_image
from rectal_nnformer.utils.files import staged_file

PANEL_INCHES = 4.0
PIXELS_PER_INCH = 110


@dataclass(frozen=True)
class Example:
    """One case to show: its files, masks on the image's grid; the number of the slice is added to the title."""

    title: str
    image: Path
    reference: Path
    prediction: Path | None


def draw_examples(examples: Sequence[Example], tumor_labels: Sequence[int], path: Path) -> None:
    """Write a PNG with a column per example: the whole slice above, a close-up of the tumour below.

    The slice is the one with most reference tumour, or with most predicted tumour where the reference has none.

    Raises:
        RectalError: A file is unreadable, or the files of a case lie on different grids.
    """
    figure = Figure(
        figsize=(PANEL_INCHES * len(examples), 2 * PANEL_INCHES + 1.2), dpi=PIXELS_PER_INCH, layout="constrained"
    )
    panels = figure.subplots(2, len(examples), squeeze=False)
    for (whole, close_up), example in zip(panels.T, examples, strict=True):
        image = read_image(example.image)
        volume, aspect = display.radiological_array(image)
        stored = read_mask(example.reference, image, tumor_labels)
        predicted = read_mask(example.prediction, image, tumor_labels) if example.prediction else np.zeros_like(stored)
        reference, prediction = (displayed(mask, image) > 0 for mask in (stored, predicted))
        index = display.slice_with_most(reference if reference.any() else prediction)
        for axes in (whole, close_up):
            display.draw_slice(axes, volume[index], aspect, display.grey_window(volume[index]))
            # Wider and below, so that it shows where the two coincide.
            display.draw_outline(axes, reference[index], display.REFERENCE_COLOR, linewidth=2.6)
            display.draw_outline(axes, prediction[index], display.PREDICTION_COLOR)
        place = f"slice {index + 1} of {len(volume)}"
        whole.set_title(f"{example.title}, {place}", fontsize=10, parse_math=False)
        _mark_sides(whole)
        _zoom_to_tumor(close_up, whole, reference[index] | prediction[index], aspect)
    colors = {"reference": display.REFERENCE_COLOR, "prediction": display.PREDICTION_COLOR}
    handles = [Line2D([], [], color=color, label=label) for label, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    with staged_file(path) as temporary:
        figure.savefig(temporary)


def read_mask(path: Path, image: sitk.Image, labels: Sequence[int]) -> NDArray[np.bool_]:
    """Return where a mask has one of the labels, in the image's order of axes, whatever that of the file.

    Raises:
        RectalError: The file is unreadable or lies on another grid than the image.
    """
    mask = in_order_of(read_image(path), image)
    if grid_differences(image, mask):
        raise RectalError(f"{path} does not lie on the grid of its image. Evaluate with the images it was made from.")
    return np.isin(sitk.GetArrayViewFromImage(mask), labels)


def displayed(array: NDArray[Any], image: sitk.Image, hanging: display.Hanging = display.AXIAL) -> NDArray[np.int32]:
    """Return an array as stored on the grid of an image in radiological display, (slices, rows, columns)."""
    stored = sitk.GetImageFromArray(array.astype(np.int32))
    # Of the image, not of the mask's own file: near a tilt of 45 degrees, cosines that differ by rounding would turn
    # the mask to another plane than the image.
    stored.CopyInformation(image)
    return display.radiological_array(stored, hanging)[0]


def _mark_sides(axes: Axes) -> None:
    """Letter the patient's right and left and the front."""
    # Black rims keep the letters legible on bright fat.
    rim = [withStroke(linewidth=2, foreground="black")]
    for x, y, letter, align in ((0.02, 0.5, "R", "left"), (0.98, 0.5, "L", "right"), (0.5, 0.96, "A", "center")):
        axes.text(x, y, letter, transform=axes.transAxes, color="white", ha=align, va="center", path_effects=rim)


def _zoom_to_tumor(close_up: Axes, whole: Axes, tumor: NDArray[np.bool_], aspect: float) -> None:
    """Limit one panel to a square around all tumour of the slice, and frame that square in the other."""
    rows, columns = np.nonzero(tumor)
    if not rows.size:
        return
    extent = max(np.ptp(columns) + 1, (np.ptp(rows) + 1) * aspect)
    # At least a fifth of the image's width, so that a tiny tumour keeps its surroundings.
    half_width = max(0.9 * extent, tumor.shape[1] / 10)
    half_height = half_width / aspect
    x, y = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
    close_up.set_xlim(x - half_width, x + half_width)
    close_up.set_ylim(y + half_height, y - half_height)
    corner = (x - half_width, y - half_height)
    whole.add_patch(Rectangle(corner, 2 * half_width, 2 * half_height, fill=False, edgecolor="white", linewidth=0.8))
