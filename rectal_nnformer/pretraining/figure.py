"""A picture of what a pretrained encoder makes of hidden regions."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from rectal_nnformer.pretraining.losses import restoration_losses
from rectal_nnformer.pretraining.student import Student
from rectal_nnformer.utils.files import staged_file

PIXELS_PER_INCH = 110
TITLES = ("view", "what the student sees", "hidden regions restored")


@torch.no_grad()
def write_figure(path: Path, student: Student, samples: Sequence[dict[str, Tensor]]) -> None:
    """Draw the middle axial slice of the first view of each sample: whole, masked, and restored where it was hidden.

    Beside each stands the mean absolute error of its hidden voxels in units of the intensity window, restored and by
    their mean.
    """
    student.eval()
    figure = Figure(figsize=(9, 3.2 * len(samples)), dpi=PIXELS_PER_INCH, layout="constrained")
    panels = figure.subplots(len(samples), len(TITLES), squeeze=False)
    for row, sample in zip(panels, samples, strict=True):
        device = next(student.parameters()).device
        image, real = student.network.prepare(sample["image"][:1].to(device))
        hidden = sample["hidden"][:1].to(device).permute(student.network.to_xyz)
        restored = student.restore(student.encode(image, real, hidden)).float()
        error, by_mean = map(float, restoration_losses(restored, image, hidden & real))
        views = (image, image.masked_fill(hidden, 0), torch.where(hidden, restored, image))
        middle = image.shape[-1] // 2
        for axes, title, view in zip(row, TITLES, views, strict=True):
            axes.imshow(view[0, 0, :, :, middle].T.cpu().numpy(), cmap="gray", vmin=0, vmax=1, origin="lower")
            axes.set_axis_off()
            axes.set_title(title, fontsize=9)
        row[-1].set_title(f"{TITLES[-1]}: error {error:.3f},\nby their mean {by_mean:.3f}", fontsize=9)
    with staged_file(path) as temporary:
        figure.savefig(temporary)
