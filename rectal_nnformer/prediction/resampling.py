"""Labels and log-odds on a scan's own grid from a network's logits, as nnU-Net's resampling gives them.

nnU-Net resamples the logits of all classes everywhere, and compares them afterwards. Here they are resampled where a
label other than background can come out, some rows at a time, on any device.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray
from torch import Tensor

from rectal_nnformer.imaging.masks import TumorHeads
from rectal_nnformer.nnunet.resampling import interpolate, interpolation_matrix

SLAB_BYTES = 2**27
"""What the resampled logits of a slab may take."""


def resample_labels(
    logits: Tensor, shape: Sequence[int], orders: Sequence[int], label_manager: LabelManager
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the labels (*shape) of logits (head, *grid) resampled to a shape, with `orders` of 0 or 1 along the axes.

    Only the voxels that draw on one where a class exceeds the background, or a region's logit exceeds 0, are computed.
    Elsewhere the label is background: with weights w >= 0 that are the same for every class, l0 >= lc at all voxels
    drawn on gives sum(w l0) >= sum(w lc) for each class c, and of equal ones the first, background, is taken; with
    l0 = 0 the same holds for a region. Rounding keeps the order, since products and sums are rounded monotonically.
    """
    labels = np.zeros(list(map(int, shape)), np.uint8 if len(label_manager.foreground_labels) < 255 else np.uint16)
    foreground = (logits > 0 if label_manager.has_regions else logits[1:] > logits[:1]).any(0)
    matrices, used, box = [], [], []
    for axis, (size, order) in enumerate(zip(labels.shape, orders, strict=True)):
        inside = foreground.any([other for other in range(len(orders)) if other != axis]).nonzero().cpu().numpy()
        matrix = interpolation_matrix(logits.shape[axis + 1], size, order)
        (rows,) = matrix[:, inside.min(initial=len(matrix)) : inside.max(initial=-1) + 1].any(1).nonzero()
        if not len(rows):  # no foreground, or downsampling passes over it
            return labels
        box.append(slice(rows[0], rows[-1] + 1))
        (columns,) = matrix[box[-1]].any(0).nonzero()
        used.append(slice(columns[0], columns[-1] + 1))
        matrices.append(torch.from_numpy(matrix[box[-1], used[-1]]).to(logits.device, torch.float32))
    drawn_on = logits[:, used[0], used[1], used[2]]
    labels[tuple(box)] = _resample_slabs(drawn_on, matrices, lambda resampled: _labels(resampled, label_manager))
    return labels


def resample_log_odds(
    logits: Tensor, shape: Sequence[int], orders: Sequence[int], tumor: TumorHeads
) -> NDArray[np.float32]:
    """Return the log-odds of tumour (*shape), everywhere, from logits (head, *grid), as `resample_labels` resamples."""

    def log_odds(resampled: Tensor) -> Tensor:
        return tumor_log_odds(resampled, tumor) if len(resampled) > 1 else resampled[0]

    if len(logits) == 2 and tumor.exclusive:
        logits = tumor_log_odds(logits, tumor)[None]  # a difference of two can be resampled by itself
    axes = zip(logits.shape[1:], map(int, shape), orders, strict=True)
    matrices = [torch.from_numpy(interpolation_matrix(*axis)).to(logits.device, torch.float32) for axis in axes]
    return _resample_slabs(logits, matrices, log_odds)


def tumor_log_odds(logits: Tensor, tumor: TumorHeads) -> Tensor:
    """Return the log-odds (*grid) of tumour against all else from logits (head, *grid).

    Of regions, whose probabilities do not exclude each other, the surest of those within the tumour counts.
    """
    chosen = logits[list(tumor.heads)]
    if not tumor.exclusive:
        return chosen.amax(0)
    others = [head for head in range(len(logits)) if head not in tumor.heads]
    return _log_sum_exp(chosen) - _log_sum_exp(logits[others])


def _log_sum_exp(logits: Tensor) -> Tensor:
    # PyTorch's function takes long over the first axis on a CPU, and of a single class changes nothing.
    return logits.logsumexp(0) if len(logits) > 1 else logits[0]


def _resample_slabs(logits: Tensor, matrices: Sequence[Tensor], combine: Callable[[Tensor], Tensor]) -> NDArray[Any]:
    """Return what `combine` makes (*shape) of resampled logits (head, *shape), a slab of the first axis at a time."""
    first, *others = matrices
    slabs = []
    for rows in first.split(max(1, SLAB_BYTES // (4 * len(logits) * prod(max(m.shape) for m in others)))):
        columns = rows.any(0).nonzero()
        drawn_on = slice(int(columns.min()), int(columns.max()) + 1)
        resampled = interpolate(logits[:, drawn_on].float(), [rows[:, drawn_on], *others])
        slabs.append(combine(resampled).cpu().numpy())
    return np.concatenate(slabs)


def _labels(logits: Tensor, label_manager: LabelManager) -> Tensor:
    """Return the labels as nnU-Net's label manager does, for tensors on any device."""
    if label_manager.has_regions:
        return label_manager.convert_logits_to_segmentation(logits)
    # PyTorch's argmax over the first axis is a hundred times as slow on a CPU.
    largest, labels = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=torch.int16, device=logits.device)
    for label, values in enumerate(logits[1:], start=1):
        labels.masked_fill_(values > largest, label)
        torch.maximum(largest, values, out=largest)
    return labels
