"""Whether what nnU-Net stores about a case can be: with itself, with the case's arrays, and with the plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError


@dataclass(frozen=True)
class Resampling:
    """How plans ask for the volumes of a folder to be made by nnU-Net's `DefaultPreprocessor`.

    Attributes:
        axes: Order of the axes (`transpose_forward`).
        spacing: Target spacing in mm, in that order; of the two axes within slices for configurations in 2D.
    """

    axes: tuple[int, ...]
    spacing: tuple[float, ...]

    def makes(self, properties: Mapping[str, Any], shape: Sequence[int]) -> bool:
        """Whether a case of these properties becomes arrays of this shape, by nnU-Net's `compute_new_shape`."""
        original = [properties["spacing"][axis] for axis in self.axes]
        target = [*original[: len(original) - len(self.spacing)], *self.spacing]
        cropped = properties["shape_after_cropping_and_before_resampling"]
        exact = [old / new * size for old, new, size in zip(original, target, cropped, strict=True)]
        return all(abs(size - rounded) <= 0.5 for size, rounded in zip(exact, shape, strict=True))


def check_grid(
    path: Path, properties: Mapping[str, Any], shape: tuple[int, ...], resamplings: Sequence[Resampling | None]
) -> None:
    """Refuse properties that no preprocessing leaves: validation would allocate and crop by them.

    Args:
        path: The file of the properties, as messages are to name it.
        properties: From `read_properties`.
        shape: Of the segmentation (1, z, y, x).
        resamplings: How plans ask for the case's folder, None where they ask for what is not known here. One that
            fits is enough: nnU-Net's planners let some folders share a name whatever their target spacing.

    Raises:
        RectalError: What does not agree.
    """
    problem = _problem(properties, shape, resamplings)
    if problem:
        raise RectalError(
            f"{path} cannot be of a dataset preprocessed by these plans: {problem}. Where the dataset was made, "
            f"preprocess it again, or move the folder {path.parent.name} away if it is left over from other plans."
        )


def _problem(properties: Mapping[str, Any], shape: tuple[int, ...], resamplings: Sequence[Resampling | None]) -> str:
    before, box = properties["shape_before_cropping"], properties["bbox_used_for_cropping"]
    cropped = properties["shape_after_cropping_and_before_resampling"]
    if not all(0 <= low < high <= size for (low, high), size in zip(box, before, strict=True)):
        return f"bbox_used_for_cropping {box} does not lie within shape_before_cropping {before}"
    if [high - low for low, high in box] != list(cropped):
        return f"bbox_used_for_cropping {box} is not of the size shape_after_cropping_and_before_resampling {cropped}"
    if not any(resampling is None or resampling.makes(properties, shape[1:]) for resampling in resamplings):
        targets = " or ".join(sorted({str(list(resampling.spacing)) for resampling in resamplings if resampling}))
        return (
            f"{cropped} voxels at the spacing {properties['spacing']} do not become the {shape[1:]} of its arrays at "
            f"the {targets} mm of its plans"
        )
    itk = properties.get("sitk_stuff")
    if itk is not None and not _is_itk_grid(itk):
        return f"sitk_stuff {itk} is the grid of no image"
    for voxels in properties["class_locations"].values():
        if len(voxels) and (np.min(voxels) < 0 or np.any(np.max(voxels, axis=0) >= np.array(shape))):
            return "class_locations lists voxels outside of its volume"
    return ""


def _is_itk_grid(itk: Mapping[str, Any]) -> bool:
    """Whether spacing, origin and direction are those of an image of two, three or four axes."""
    sizes = [len(itk.get(name, ())) for name in ("spacing", "origin", "direction")]
    return sizes in ([axes, axes, axes**2] for axes in (2, 3, 4))
