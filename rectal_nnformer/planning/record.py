"""What the planner notes in the plans, under the key "rectal_nnformer", and what explanations and reports read there.

Sizes, extents and spacings are in the order (x, y, z).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from rectal_nnformer.geometry import Size
from rectal_nnformer.nnunet.plans import Plans


@dataclass(frozen=True)
class PatchAccount:
    """Expected shares of one patch; the lists hold one number per stage.

    Attributes:
        real_volume_share: Real voxels of all voxels.
        real_token_fraction: Real tokens of all that attention processes.
        unshifted_uniform_adi: Attention dilution index that uniform attention would have, in unshifted blocks.
        shifted_uniform_adi: The same in shifted blocks.
        uniform_adi: The mean over the blocks of a stage.
    """

    real_volume_share: float
    real_token_fraction: list[float]
    unshifted_uniform_adi: list[float]
    shifted_uniform_adi: list[float]
    uniform_adi: list[float]

    @classmethod
    def of(cls, values: NDArray[np.float64], depths: Sequence[int]) -> "PatchAccount":
        """Return an account of the voxel share, then real fractions, unshifted and shifted dilution of all stages.

        Args:
            values: These as one vector.
            depths: Blocks of each stage.
        """
        fractions, unshifted, shifted = np.split(values[1:], 3)
        shifted_blocks = np.array([depth // 2 / depth for depth in depths])
        mean = unshifted * (1 - shifted_blocks) + shifted * shifted_blocks
        return cls(float(values[0]), *(v.tolist() for v in (fractions, unshifted, shifted, mean)))


@dataclass(frozen=True)
class CandidatePatch(PatchAccount):
    """A patch that can be planned, with what to expect of the predictor's tiles.

    Attributes:
        patch_size: Voxels.
        field_of_view_mm: mm.
        memory_gb: GB of a GPU that a training step takes with 2 patches in a batch.
    """

    patch_size: Size
    field_of_view_mm: list[float]
    memory_gb: float


@dataclass(frozen=True)
class PlannedPatch(CandidatePatch):
    """The patch of a configuration.

    Attributes:
        batch_memory_gb: GB of a GPU that a training step takes with the planned batch.
        scattered_padding_share: Real positions that receive an update meant for a padding query, per stage.
        training: What to expect of training crops.
    """

    batch_memory_gb: float
    scattered_padding_share: list[float]
    training: PatchAccount


@dataclass(frozen=True)
class LargestLesion:
    """The largest lesion of a dataset on each axis.

    Attributes:
        extent_mm: The largest extent on each axis, be it of different lesions.
        cases: The case in which the largest is, per axis.
    """

    extent_mm: tuple[float, ...]
    cases: tuple[str, ...]


@dataclass(frozen=True)
class PlanningRecord:
    """Why plans are as they are.

    Attributes:
        num_cases: Training cases.
        median_spacing: mm.
        geometric_mean_spacing: Of the median spacing, mm.
        target_spacing: mm.
        target_spacing_overwritten: Whether the user gave it.
        median_extent: Voxels at the target spacing.
        gpu_memory_target: GB.
        filled_patch_size: The largest patch that the images fill.
        fitting_patch_size: The same after shrinking it to the GPU.
        batch_size: Patches in a batch.
        batch_size_limits: For the two patches, how many cover 5 % of the dataset.
        largest_lesion: None where the dataset has no lesion.
        patch_sizes: The patch of each configuration.
        alternatives: The patches there were to choose from.
        warnings: What is unlike the data that the method is for.
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


def planning_record(plans: Plans) -> PlanningRecord | None:
    """Return what the planner noted; None in plans that this version's planner did not make."""
    try:
        return TypeAdapter(PlanningRecord).validate_python(plans.record)
    except ValidationError:
        return None
