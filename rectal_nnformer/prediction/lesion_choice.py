"""Which candidates become lesions of a predicted mask: those that the model's operating point takes."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.evaluation.candidates import read_candidates
from rectal_nnformer.evaluation.operating_point import OperatingPoint
from rectal_nnformer.imaging.reading import in_order_of, read_image
from rectal_nnformer.utils.files import staged_file


def choose_lesions(mask: Path, labels: Sequence[int], point: OperatingPoint | None) -> bool:
    """Make the lesions of a mask those candidates that an operating point takes; without one, the network's own.

    Candidates that are added, which the network's threshold left out, get the first of the tumour labels. Parts too
    small for a lesion stay. It can be done again, by another operating point: nothing is lost.

    Returns:
        False if the candidates of the mask are not known, so that it was left as it is.

    Raises:
        RectalError: A file is damaged.
    """
    kept = read_candidates(mask)
    if kept is None:
        return False
    image = read_image(mask)
    values = sitk.GetArrayFromImage(image)
    numbers = sitk.GetArrayFromImage(in_order_of(kept[0], image))
    tumor = np.isin(values, labels)
    total = len(kept[1].candidates) + 1
    sizes = np.bincount(numbers.ravel(), minlength=total)
    is_lesion = 2 * np.bincount(numbers[tumor], minlength=total) > sizes
    voxel_cm3 = prod(image.GetSpacing()) / 1000
    wanted = np.zeros(total, bool)
    for number, candidate in enumerate(kept[1].candidates, start=1):
        if point is None:
            wanted[number] = candidate.in_mask
        else:
            wanted[number] = point.takes(candidate.confidence, sizes[number] * voxel_cm3)
    changed = wanted != is_lesion
    changed[0] = False
    if not changed.any():
        return True
    values[(changed & wanted)[numbers] & ~tumor] = labels[0]
    values[(changed & ~wanted)[numbers] & tumor] = 0
    chosen = sitk.GetImageFromArray(values)
    chosen.CopyInformation(image)
    with staged_file(mask) as path:
        sitk.WriteImage(chosen, str(path), True)
    return True
