"""Draw the contact sheet of a dataset: one slice of every case with its outline."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rectal_nnformer.imaging import display
from rectal_nnformer.utils.files import staged_file

# In inches.
TILE, LINE, MARGIN, HEADER = 1.9, 0.13, 0.1, 0.4
DPI = 120
CAPTION_LETTERS = 26
# So that the header fits above a few cases.
MIN_COLUMNS = 4


@dataclass(frozen=True)
class CaseTile:
    """What the sheet shows of a case: one slice in radiological display, 0 to 255, and its mask, both (rows, columns).

    `aspect` is pixel height over width.
    """

    caption: str
    grey: NDArray[np.uint8]
    outline: NDArray[np.bool_]
    aspect: float


def make_tile(name: str, image: sitk.Image, mask: sitk.Image | None, tumor_labels: Sequence[int] = (1,)) -> CaseTile:
    """Return the axial slice of a case that holds most tumour; the middle one without a mask."""
    volume, aspect = display.radiological_array(image)
    tumor = np.zeros(volume.shape, bool) if mask is None else np.isin(display.radiological_array(mask)[0], tumor_labels)
    index = display.slice_with_most(tumor)
    low, high = display.grey_window(volume[index])
    scaled = (volume[index].astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    grey = (255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    lines = textwrap.wrap(name, CAPTION_LETTERS, break_on_hyphens=False)
    if mask is not None:
        lines.append(f"{tumor.sum() * math.prod(image.GetSpacing()) / 1000:.1f} cm³")
    return CaseTile("\n".join(lines), grey, tumor[index], aspect)


def draw_contact_sheet(tiles: Sequence[CaseTile], path: Path, title: str) -> None:
    """Write the sheet as PNG, tiles in the order given, row by row."""
    columns = max(MIN_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    lines = max(tile.caption.count("\n") + 1 for tile in tiles)
    row_height = TILE + LINE * (lines + 1)
    width, height = columns * TILE, math.ceil(len(tiles) / columns) * row_height + HEADER
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    which = "axial slice with most tumour" if any(t.outline.any() for t in tiles) else "middle axial slice"
    header = f"{title}: {which}. Left of the image: patient's right; top: anterior."
    figure.text(MARGIN / width, 1 - HEADER / 2 / height, header, fontsize=9, va="center", parse_math=False)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left, bottom = column * TILE, height - HEADER - row * row_height - TILE
        box = (left + MARGIN / 2) / width, bottom / height, (TILE - MARGIN) / width, TILE / height
        axes = figure.add_axes(box)
        display.draw_slice(axes, tile.grey, tile.aspect, window=(0, 255))
        display.draw_outline(axes, tile.outline, display.REFERENCE_COLOR, linewidth=1.0)
        center, below = (left + TILE / 2) / width, (bottom - LINE / 4) / height
        figure.text(center, below, tile.caption, fontsize=7, ha="center", va="top", parse_math=False)
    with staged_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
