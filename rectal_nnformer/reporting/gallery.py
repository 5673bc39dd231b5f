"""The pictures of the gallery: close-ups through the slices of each lesion, outlines as vectors, within a budget."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.detection import Component
from rectal_nnformer.evaluation.findings import Slices
from rectal_nnformer.imaging.display import (
    AXIAL,
    Hanging,
    grey_window,
    hanging_of,
    radiological_array,
    slice_with_most,
)
from rectal_nnformer.imaging.masks import find_components, ignore_label, tumor_labels
from rectal_nnformer.imaging.reading import in_order_of, read_image
from rectal_nnformer.reporting.overlays import displayed, read_mask
from rectal_nnformer.reporting.results import NO_FOLD, Results
from rectal_nnformer.reporting.tables import cases_of
from rectal_nnformer.utils.parallel import map_with_progress

BUDGET = 18_000_000
"""Bytes of the page that all pictures together may take, so that the whole stays under 25 MB."""
MOST_SLICES = 24
FEWEST_SLICES = 3
BYTES_PER_PICTURE = 7_000  # of 240 x 240 pixels of noisy MRI with two outlines, for planning only
MARKUP_BYTES = 420  # around one picture
MIN_WIDTH_MM = 80.0
LARGEST_PIXELS = 240
WEBP_QUALITY = 70
OUTLINE_TOLERANCE = 0.5  # voxels

Kind = Literal["missed", "detected", "false positive", "found"]
KINDS: tuple[Kind, ...] = ("missed", "detected", "false positive", "found")
PREDICTED = ("false positive", "found")
Square = tuple[tuple[int, int], tuple[int, int]]
"""First row and the one after the last, and the same of columns; they may lie beyond the image."""
Files = tuple[Path, Path, Path]
"""Image, reference and prediction of a case, which may all be missing."""


@dataclass(frozen=True)
class Subject:
    """What one card shows: a reference lesion with the numbers of those it was scored with, or a predicted one.

    Predicted ones are false positives, or found where there is no reference; then the fold is `NO_FOLD`.
    """

    kind: Kind
    fold: int
    case: str
    component: Component
    together: tuple[int, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One slice and its number, with SVG paths by class name, in voxels of the picture."""

    number: int
    webp: bytes
    outlines: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of the page that it takes."""
        return 4 * math.ceil(len(self.webp) / 3) + sum(map(len, self.outlines.values())) + MARKUP_BYTES

    @property
    def outlined(self) -> list[str]:
        """Of reference and prediction those that have an outline."""
        drawn = {key.split()[0] for key in self.outlines}
        return [name for name in ("reference", "prediction") if name in drawn]

    @property
    def data_uri(self) -> str:
        """The image as it stands in the page."""
        return f"data:image/webp;base64,{base64.b64encode(self.webp).decode('ascii')}"


@dataclass(frozen=True)
class Clip:
    """The slices of one subject, ascending; `problem` says why there are none.

    `shape` is rows and columns of voxels in each picture, the coordinates of outlines; `pixels` its width and height;
    `sides` what is at its left, right and top.
    """

    subject: Subject
    pictures: tuple[Picture, ...] = ()
    num_slices: int = 0
    shape: tuple[int, int] = (0, 0)
    pixels: tuple[int, int] = (0, 0)
    width_mm: float = 0
    slice_mm: float = 0
    largest: int = 0
    sides: str = AXIAL.sides
    problem: str = ""


@dataclass(frozen=True)
class _Volume:
    """One case in radiological display, (slices, rows, columns); components are numbered as in the evaluation.

    `spacing` is the distance of slices, of rows and of columns, mm; `numbers` are those of the slices.
    """

    grey: NDArray[Any]
    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    lesions: NDArray[np.int32]
    predictions: NDArray[np.int32]
    spacing: tuple[float, float, float]
    numbers: Sequence[int]
    hanging: Hanging = AXIAL


def subjects_of(model: Results) -> list[Subject]:
    """Return everything worth a card: missed lesions, then detected ones, worst first, then false positives.

    Missed lesions and false positives are in the order of size, largest first.
    """
    subjects = []
    for fold, case in cases_of(model.folds):
        for lesion in case.lesions:
            kind: Kind = "detected" if lesion.detected else "missed"
            group = [other.label for other in case.lesions if lesion.group and other.group == lesion.group]
            together = tuple(label for label in group if label != lesion.label)
            subjects.append(Subject(kind, fold, case.case, lesion, together))
        subjects += [Subject("false positive", fold, case.case, component) for component in case.false_positives]
    return sorted(subjects, key=_rank)


def draw_clips(model: Results, num_processes: int = 1, budget: int = BUDGET) -> list[Clip]:
    """Return a clip for every subject, in their order; those without pictures say why.

    `budget` is in bytes of the page, for all pictures together.
    """
    subjects = subjects_of(model)
    by_case: dict[tuple[int, str], list[Subject]] = {}
    for subject in subjects:
        by_case.setdefault((subject.fold, subject.case), []).append(subject)
    affordable = budget // (max(len(subjects), 1) * BYTES_PER_PICTURE)
    draw = partial(
        _draw_case,
        labels=tumor_labels(model.dataset_json),
        ignore_label=ignore_label(model.dataset_json),
        most_slices=min(max(affordable, FEWEST_SLICES), MOST_SLICES),
    )
    jobs = [
        ((model.image(case), model.reference(case), model.prediction(fold, case)), of_case)
        for (fold, case), of_case in by_case.items()
    ]
    drawn = map_with_progress(draw, jobs, num_processes, "Pictures")
    clips = [clip for of_case in drawn for clip in of_case]
    return fit_to_budget(sorted(clips, key=lambda clip: _rank(clip.subject)), budget)


def fit_to_budget(clips: Sequence[Clip], budget: int) -> list[Clip]:
    """Return clips with so few slices that all fit; the last clips lose their pictures if a single slice is too much.

    All clips are thinned alike, the first ones by one slice less where there is room. The slice in which a subject is
    largest stays.
    """
    most = max((len(clip.pictures) for clip in clips), default=0)
    fitted = list(clips)
    while most > 1 and _bytes_of(fitted) > budget:
        most -= 1
        fitted = [_thinned(clip, most) for clip in clips]
    left = budget - _bytes_of(fitted)
    for index in range(len(fitted) - 1, -1, -1):
        if left >= 0:
            break
        left += _bytes_of([fitted[index]])
        fitted[index] = replace(fitted[index], pictures=(), problem="left out to keep this page small")
    for index, clip in enumerate(clips):
        longer = _thinned(clip, most + 1)
        cost = _bytes_of([longer]) - _bytes_of([fitted[index]])
        if not fitted[index].pictures or cost > left:
            break
        fitted[index] = longer
        left -= cost
    return fitted


def spread_evenly(first: int, last: int, most: int, kept: int) -> list[int]:
    """Return at most `most` numbers from `first` to `last`, evenly spread, `kept` among them."""
    if last - first + 1 <= most:
        return list(range(first, last + 1))
    if most == 1:
        return [kept]
    numbers = {round(first + (last - first) * i / (most - 1)) for i in range(most)}
    numbers.remove(min(numbers, key=lambda number: abs(number - kept)))
    return sorted(numbers | {kept})


def _rank(subject: Subject) -> tuple[int, float, str, int]:
    quality = getattr(subject.component, "iou", 0.0) if subject.kind == "detected" else -subject.component.volume_cm3
    return KINDS.index(subject.kind), quality, subject.case, subject.component.label


def _bytes_of(clips: Sequence[Clip]) -> int:
    return sum(picture.size for clip in clips for picture in clip.pictures)


def _thinned(clip: Clip, most: int) -> Clip:
    if len(clip.pictures) <= most:
        return clip
    largest = next(i for i, picture in enumerate(clip.pictures) if picture.number == clip.largest)
    chosen = spread_evenly(0, len(clip.pictures) - 1, most, largest)
    return replace(clip, pictures=tuple(clip.pictures[i] for i in chosen))


def _draw_case(
    job: tuple[Files, Sequence[Subject]], labels: Sequence[int], ignore_label: int | None, most_slices: int
) -> list[Clip]:
    files, subjects = job
    try:
        volume = _load(files, labels, ignore_label)
    except RectalError as error:
        problem = str(error)
        # The page is passed on and tells no paths of this computer.
        for path in files:
            problem = problem.replace(str(path), path.name)
        return [Clip(subject, problem=problem) for subject in subjects]
    return [_draw(subject, volume, most_slices) for subject in subjects]


def _load(files: Files, labels: Sequence[int], ignore_label: int | None) -> _Volume:
    image = in_order_of(read_image(files[0]), read_image(files[1]))  # in which components are numbered
    grey, _ = radiological_array(image)
    reference = read_mask(files[1], image, labels)
    prediction = read_mask(files[2], image, labels) if files[2].is_file() else np.zeros_like(reference)
    if ignore_label is not None:
        prediction &= ~read_mask(files[1], image, (ignore_label,))
    return _Volume(
        grey=grey,
        reference=displayed(reference, image) > 0,
        prediction=displayed(prediction, image) > 0,
        lesions=displayed(find_components(reference).labels, image),
        predictions=displayed(find_components(prediction).labels, image),
        spacing=sitk.DICOMOrient(image, AXIAL.orientation).GetSpacing()[::-1],
        numbers=range(1, len(grey) + 1),
    )


def draw_found(
    case: str,
    image: sitk.Image,
    labels: NDArray[np.int32],
    found: Sequence[Component],
    slices: Slices,
) -> list[Clip]:
    """Return a clip for each lesion that was found in a scan, in the plane of its slices.

    Args:
        case: Name of the scan.
        image: The scan.
        labels: The number of each voxel's lesion, 0 elsewhere, (z, y, x) as stored.
        found: The lesions.
        slices: Of the scan.
    """
    if not found:
        return []
    hanging = hanging_of(image, slices.axis)
    along = [-1 if axis == slices.axis else 1 for axis in range(3)]
    places = displayed(
        np.broadcast_to(np.arange(labels.shape[slices.axis]).reshape(along), labels.shape), image, hanging
    )
    shown = displayed(labels, image, hanging)
    nothing = np.zeros(shown.shape, np.int32)
    volume = _Volume(
        grey=radiological_array(image, hanging)[0],
        reference=nothing > 0,
        prediction=shown > 0,
        lesions=nothing,
        predictions=shown,
        spacing=sitk.DICOMOrient(image, hanging.orientation).GetSpacing()[::-1],
        numbers=[slices.numbers[place] for place in places[:, 0, 0]],
        hanging=hanging,
    )
    return [_draw(Subject("found", NO_FOLD, case, component), volume, MOST_SLICES) for component in found]


def _draw(subject: Subject, volume: _Volume, most_slices: int) -> Clip:
    numbered = volume.predictions if subject.kind in PREDICTED else volume.lesions
    own = numbered == subject.component.label
    if int(own.sum()) != subject.component.voxels:
        return Clip(subject, problem="the masks have changed since they were evaluated")
    slice_mm, row_mm, column_mm = volume.spacing
    box = _close_up(own, row_mm, column_mm)
    largest = slice_with_most(own)
    used = np.flatnonzero(own.any(axis=(1, 2)))
    first, last = max(int(used[0]) - 1, 0), min(int(used[-1]) + 1, len(own) - 1)
    numbers = spread_evenly(first, last, most_slices, largest)
    window = grey_window(np.stack([_cut(plane, box) for plane in volume.grey[first : last + 1]]))
    shape = box[0][1] - box[0][0], box[1][1] - box[1][0]
    # Square pixels, no more than the voxels give and at most `LARGEST_PIXELS`.
    height_mm, width_mm = shape[0] * row_mm, shape[1] * column_mm
    pixel_mm = max(min(row_mm, column_mm), max(height_mm, width_mm) / LARGEST_PIXELS)
    pixels = max(round(width_mm / pixel_mm), 1), max(round(height_mm / pixel_mm), 1)
    return Clip(
        subject=subject,
        pictures=tuple(
            Picture(
                number=volume.numbers[z],
                webp=_webp(_cut(volume.grey[z], box), window, pixels),
                outlines=_outlines(subject, _cut(own[z], box), volume, z, box),
            )
            for z in numbers
        ),
        num_slices=max(volume.numbers),
        shape=shape,
        pixels=pixels,
        width_mm=width_mm,
        slice_mm=slice_mm,
        largest=volume.numbers[largest],
        sides=volume.hanging.sides,
    )


def _close_up(own: NDArray[np.bool_], row_mm: float, column_mm: float) -> Square:
    """Return rows and columns around a subject in all of its slices: a square in mm.

    It lies within the image, except across an image that is narrower than the subject is long.
    """
    extents = [np.flatnonzero(own.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    axes = list(zip(extents, (row_mm, column_mm), own.shape[1:], strict=True))
    sizes = [(used[-1] - used[0] + 1) * mm for used, mm, _ in axes]
    width = max(min(max(MIN_WIDTH_MM, 1.7 * max(sizes)), *(length * mm for _, mm, length in axes)), *sizes)
    spans = []
    for used, mm, length in axes:
        count = math.ceil(round(width / mm, 6))
        start = round((used[0] + used[-1] + 1 - count) / 2)
        start = min(max(start, 0), length - count) if count <= length else (length - count) // 2
        spans.append((int(start), int(start + count)))
    return spans[0], spans[1]


def _cut(plane: NDArray[Any], box: Square) -> NDArray[Any]:
    """Return part of a slice, 0 where it reaches beyond the image."""
    beyond = [(max(-start, 0), max(stop - length, 0)) for (start, stop), length in zip(box, plane.shape, strict=True)]
    (top, bottom), (left, right) = ((max(start, 0), stop) for start, stop in box)
    return np.pad(plane[top:bottom, left:right], beyond)


def _webp(grey: NDArray[Any], window: tuple[float, float], pixels: tuple[int, int]) -> bytes:
    low, high = window
    scaled = np.clip((np.nan_to_num(grey.astype(float)) - low) / max(high - low, 1e-9), 0, 1)
    image = Image.fromarray((255 * scaled).astype(np.uint8)).resize(pixels, Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=WEBP_QUALITY)
    return stream.getvalue()


def _outlines(subject: Subject, own: NDArray[np.bool_], volume: _Volume, z: int, box: Square) -> dict[str, str]:
    """Return the paths of one slice by class; `other` is tumour that the card is not about."""
    reference, prediction = _cut(volume.reference[z], box), _cut(volume.prediction[z], box)
    if subject.kind in PREDICTED:
        masks = {"reference other": reference, "prediction": own, "prediction other": prediction & ~own}
    else:
        masks = {"reference": own, "reference other": reference & ~own, "prediction": prediction}
    return {name: path for name, mask in masks.items() if (path := _path(mask))}


def _path(mask: NDArray[np.bool_]) -> str:
    """Return the outline of a mask as an SVG path; the upper left corner of the first voxel is (0, 0)."""
    parts = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        points = approximate_polygon(contour, OUTLINE_TOLERANCE) - 0.5
        parts.append("M" + " ".join(f"{column:g} {row:g}" for row, column in points[:-1]) + "Z")
    return "".join(parts)
