"""Which candidates become lesions of a predicted mask: those that the model's operating point takes."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.evaluation.candidates import as_predicted, network_mask, read_candidates
from rectal_nnformer.evaluation.operating_point import OperatingPoint
from rectal_nnformer.imaging.reading import in_order_of, read_image
from rectal_nnformer.imaging.writing import write_volume
from rectal_nnformer.utils.files import copy_file, staged_file


def choose_lesions(mask: Path, labels: Sequence[int], point: OperatingPoint | None) -> bool:
    """Make the lesions of a mask those candidates that an operating point takes; without one, the network's own.

    What is taken away becomes background; what is added, since the network's threshold left it out, gets the first of
    the tumour labels. Parts too small for a lesion stay. The network's mask is kept in the folder of the candidates, so
    that it can be done again by another operating point, or undone.

    Returns:
        False if the candidates of the mask are not known, so that it was left as it is.

    Raises:
        RectalError: A file is damaged, or the mask could not be written whole; the one before is there still.
    """
    kept, network = read_candidates(mask), network_mask(mask)
    if point is None:
        if network.is_file():
            network.replace(mask)
        return kept is not None
    if kept is None:
        return False
    image = read_image(as_predicted(mask))
    values = sitk.GetArrayFromImage(image)
    numbers = sitk.GetArrayFromImage(in_order_of(kept[0], image))
    tumor = np.isin(values, labels)
    sizes = np.bincount(numbers.ravel(), minlength=len(kept[1].candidates) + 1)
    voxel_cm3 = prod(image.GetSpacing()) / 1000
    is_lesion = np.array([False, *(candidate.in_mask for candidate in kept[1].candidates)])
    wanted = np.zeros_like(is_lesion)
    for number, candidate in enumerate(kept[1].candidates, start=1):
        wanted[number] = point.takes(candidate.confidence, sizes[number] * voxel_cm3)
    if np.array_equal(wanted, is_lesion) and not network.is_file():
        return True
    values[(wanted & ~is_lesion)[numbers] & ~tumor] = labels[0]
    values[(is_lesion & ~wanted)[numbers] & tumor] = 0
    chosen = sitk.GetImageFromArray(values)
    chosen.CopyInformation(image)
    if not network.is_file():
        copy_file(mask, network)
    with staged_file(mask) as path:
        write_volume(chosen, path)
    return True
