"""How far apart two surfaces are: 95th percentile Hausdorff distance and surface Dice, both as MONAI computes them."""

import warnings
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

SURFACE_TOLERANCE_MM = 2.0


def surface_agreement(
    prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float]
) -> tuple[float, float]:
    """Return HD95 in mm and the surface Dice at `SURFACE_TOLERANCE_MM`.

    HD95 is the larger of the two directed 95th percentiles of the distance from the border voxels of one mask to the
    nearest border voxel of the other; a border voxel has a face neighbour outside its mask. The surface Dice (Nikolov
    et al. 2021, J Med Internet Res 23(7):e26151) is the share of both surfaces that lies within the tolerance of the
    other one. It is weighted by surface area, since at 0.5 x 0.5 x 3 mm a mere count of border voxels would give a
    tumour's top and bottom several times the weight of its sides.

    Args:
        prediction: Boolean mask, three axes, not empty.
        reference: Boolean mask of the same shape, not empty.
        spacing: Voxel size in mm, in the order of the arrays' axes.
    """
    # Imported here: MONAI takes seconds, and those who only read scores need none of it.
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    predicted, true = (torch.from_numpy(mask.copy())[None, None] for mask in (prediction, reference))
    millimetres = [float(size) for size in spacing]
    with warnings.catch_warnings():
        # MONAI 1.6 warns about a deprecated argument that it passes to itself.
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(predicted, true, include_background=True, percentile=95, spacing=millimetres)
        surface_dice = compute_surface_dice(
            predicted, true, [SURFACE_TOLERANCE_MM], include_background=True, spacing=millimetres, use_subvoxels=True
        )
    return float(hd95), float(surface_dice)
