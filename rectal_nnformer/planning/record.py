"""What the planner notes in the plans, under the key "rectal_nnformer", and what explanations and reports read there.

Sizes, extents and spacings are in the order (x, y, z).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from rectal_nnformer.geometry import Size
from rectal_nnformer.nnunet.plans import Plans


@dataclass(frozen=True)
class PatchAccount:
    """Expected shares of one patch: real voxels of all, and for each stage real tokens of all that attention processes.

    `uniform_adi` is the attention dilution index that uniform attention would have, as the mean over a stage's blocks.
    """

    real_volume_share: float
    real_token_fraction: list[float]
    unshifted_uniform_adi: list[float]
    shifted_uniform_adi: list[float]
    uniform_adi: list[float]

    @classmethod
    def of(cls, values: NDArray[np.float64], depths: Sequence[int]) -> "PatchAccount":
        """Return an account of a vector: voxel share, then real fractions, unshifted and shifted dilution by stage."""
        fractions, unshifted, shifted = np.split(values[1:], 3)
        shifted_blocks = np.array([depth // 2 / depth for depth in depths])
        mean = unshifted * (1 - shifted_blocks) + shifted * shifted_blocks
        return cls(float(values[0]), *(v.tolist() for v in (fractions, unshifted, shifted, mean)))


@dataclass(frozen=True)
class CandidatePatch(PatchAccount):
    """A patch that can be planned, with what to expect of the predictor's tiles, and the GB that 2 in a batch take.

    `real_voxel_share` is the expected share of real voxels along each axis.
    """

    patch_size: Size
    field_of_view_mm: list[float]
    real_voxel_share: list[float]
    memory_gb: float


@dataclass(frozen=True)
class PlannedPatch(CandidatePatch):
    """The patch of a configuration, with the GB that the planned batch takes, and what to expect of training crops.

    `scattered_padding_share` are the real positions that receive an update meant for a padding query, per stage.
    """

    batch_memory_gb: float
    scattered_padding_share: list[float]
    training: PatchAccount


@dataclass(frozen=True)
class LargestLesion:
    """The largest extent of lesions on each axis, be it of different ones, and the case in which each is."""

    extent_mm: tuple[float, ...]
    cases: tuple[str, ...]


@dataclass(frozen=True)
class PlanningRecord:
    """Why plans are as they are: spacings in mm, the median extent in voxels at the target spacing, memory in GB.

    The largest patch that the images fill, `filled_patch_size`, is shrunk to the GPU, `fitting_patch_size`, and
    lengthened for the lesions, the patch of `3d_fullres`. `batch_size_limits` are, for the patches of both
    configurations, how many cover 5 % of the dataset.
    """

    num_cases: int
    median_spacing: list[float]
    geometric_mean_spacing: float
    target_spacing: list[float]
    target_spacing_overwritten: bool
    median_extent: list[float]
    gpu_memory_target: float
    filled_patch_size: Size
    fitting_patch_size: Size
    batch_size: int
    batch_size_limits: tuple[int, int]
    largest_lesion: LargestLesion | None
    patch_sizes: dict[str, PlannedPatch]
    alternatives: list[CandidatePatch]
    warnings: list[str]

    def content(self) -> dict[str, Any]:
        """Return what plans hold of it, as JSON has it."""
        return TypeAdapter(PlanningRecord).dump_python(self, mode="json")


def planning_record(plans: Plans) -> PlanningRecord | None:
    """Return what the planner noted; None in plans that this version's planner did not make."""
    try:
        return TypeAdapter(PlanningRecord).validate_python(plans.record)
    except ValidationError:
        return None
