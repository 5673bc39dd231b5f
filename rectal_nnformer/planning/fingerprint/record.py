"""What `rectal_fingerprint.json` holds, as types; the file is checked once, when it is read.

`documentation/reference/fingerprint.md` describes each value. Lengths are mm, axes (x, y, z), intensities in units of
the intensity window.
"""

from typing import Any

from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12


class Distribution(TypedDict):
    """Intensities of the voxels of a lesion or of its ring."""

    mean: float
    spread: float
    percentiles: dict[str, float]


class Intensities(TypedDict):
    """A lesion in one channel; None is what a lesion without ring or without boundary does not have."""

    inside: Distribution
    ring: Distribution | None
    contrast: float | None
    boundary_gradient: float | None


class LesionGeometry(TypedDict):
    """Size and place of a connected component of a mask."""

    voxels: int
    volume_cm3: float
    extent_mm: list[float]
    centroid_mm: list[float]


class LesionMeasures(LesionGeometry):
    """A lesion; its `cluster` is None if it has no ring or lies in a suspected mask."""

    ring_voxels: int
    channels: list[Intensities]
    cluster: int | None


class Placement(TypedDict):
    """How well a mask separates its image, and what share of displacements separates it better, and the best of them.

    The last three are None where there is no displacement.
    """

    separation: float
    num_displacements: int
    better_share: float | None
    best_separation: float | None
    best_displacement_mm: list[float] | None


class Case(TypedDict):
    """A training case; `placement` is None if no lesion or ring lies inside the image."""

    spacing_mm: list[float]
    shape: list[int]
    field_of_view_mm: list[float]
    cropped_shape: list[int]
    cropped_extent_mm: list[float]
    empty_border_share: float
    tumor_voxels: int
    tumor_outside_image_share: float
    tiny_components: int
    lesions: list[LesionMeasures]
    placement: Placement | None
    mask_digest: str


class Outlier(TypedDict):
    """A mask that looks wrong."""

    case: str
    kind: str
    reason: str


class Fingerprint(TypedDict):
    """The whole file; `dataset` holds distributions for people to read."""

    version: int
    raw_signature: str
    tumor_labels: list[int]
    channels: list[str]
    intensity_window: list[list[float]]
    ring_mm: float
    min_lesion_voxels: int
    outliers: list[Outlier]
    dataset: dict[str, Any]
    cases: dict[str, Case]
