"""Attention dilution during training, on one fixed crop: a file, the log, a panel under nnU-Net's progress plot."""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rectal_nnformer.analysis.dilution import Tile, measure_dilution, stage_records
from rectal_nnformer.analysis.dilution_files import dilution_line
from rectal_nnformer.analysis.features import cut_crop
from rectal_nnformer.analysis.records import EPOCHS_FILE, EpochRecord, read_epochs
from rectal_nnformer.analysis.tiles import PreprocessedCases
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.nnunet.layout import PROGRESS_PNG
from rectal_nnformer.utils.files import staged_file, write_json

VARIABLE = "RECTAL_NNFORMER_ATTENTION_EVERY"
STAGE_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
PANELS = (("adi", "attention dilution index"), ("a_rp", "attention to padding"))


def epochs_between(default: int) -> int:
    """Return after how many epochs attention is measured: what the variable says, or `default`; 0 is never.

    Raises:
        RectalError: The variable is no whole number from 0 on.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise RectalError(f"The environment variable {VARIABLE} is '{text}'. Set it to a number of epochs, or 0.")
    return int(text)


def fixed_crop(cases: PreprocessedCases) -> Tile:
    """Return one patch around the tumour of the first case, by name, that has one; the same in every epoch."""
    for name in sorted(cases.names):
        case = cases.load(name)
        if bool(case.tumor.any()):
            break
    both = Tile(torch.cat((case.image, case.tumor.unsqueeze(0).float())), case.tumor)
    crop = cut_crop(both, cases.patch_size, cases.patch_size)
    return Tile(crop.image[:-1], crop.image[-1] > 0)


class EpochFollower:
    """Measures attention dilution, on one crop of the validation cases, after every so many epochs of a training.

    The network is the trained one, not compiled. Files go into `fold_folder`; `log` writes a line to the log of the
    training. `loggers` are nnU-Net's beside its own one, which takes no other values than nnU-Net's.
    """

    def __init__(
        self,
        network: PlannedNetwork,
        cases: PreprocessedCases,
        device: torch.device,
        fold_folder: Path,
        every: int,
        log: Callable[[str], None],
        loggers: Iterable[Any] = (),
    ) -> None:
        self._network, self._device, self._every = network, device, every
        self._crop = fixed_crop(cases)
        self._folder, self._log, self._loggers = fold_folder, log, loggers

    def after_epoch(self, epoch: int) -> None:
        """Measure if it is time, and draw all epochs so far under nnU-Net's progress plot, which it has drawn anew."""
        if epoch % self._every == 0:
            # nnU-Net sets the network to training again when the next epoch starts.
            blocks = measure_dilution(self._network.eval(), [self._crop], self._device)
            record = EpochRecord(epoch, stage_records(blocks))
            # Epochs that a resumed training repeats are replaced.
            earlier = [other for other in read_epochs(self._folder) if other.epoch < epoch]
            write_json(self._folder / EPOCHS_FILE, [asdict(one) for one in (*earlier, record)])
            self._log(dilution_line(record.stages))
            for logger, stage, (name, _) in itertools.product(self._loggers, record.stages, PANELS):
                if (value := getattr(stage, name)) is not None:
                    logger.log(f"{name}/stage_{stage.stage}", value, epoch)
        extend_progress_plot(self._folder)


def extend_progress_plot(fold_folder: Path) -> None:
    """Add a panel with the epochs so far under the progress plot that nnU-Net has just drawn anew."""
    path, records = fold_folder / PROGRESS_PNG, read_epochs(fold_folder)
    if not records or not path.is_file():
        return
    with Image.open(path) as plot:
        panel = _panel(records, plot.width)
        joined = Image.new("RGB", (plot.width, plot.height + panel.height))
        joined.paste(plot.convert("RGB"))
        joined.paste(panel, (0, plot.height))
    with staged_file(path) as temporary:
        # Once an epoch: a larger file is written several times as fast as a smaller one.
        joined.save(temporary, format="PNG", compress_level=1)


def _panel(records: Sequence[EpochRecord], width: int) -> Image.Image:
    """Draw the measures of each stage over the epochs, `width` pixels wide."""
    figure = Figure(figsize=(width / 100, width / 250), dpi=100, layout="constrained")
    epochs = [record.epoch for record in records]
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for number, _ in enumerate(records[0].stages):
            color = STAGE_COLORS[number % len(STAGE_COLORS)]
            for key, style in ((name, "-"), ("uniform_adi", ":")):
                values = np.array([getattr(record.stages[number], key) for record in records], dtype=float)
                label = f"stage {number}" if style == "-" else None
                axes.plot(epochs, values, style, color=color, label=label, linewidth=4, marker="o")
        axes.set_xlabel("epoch", fontsize=30)
        axes.set_ylabel(title, fontsize=30)
        axes.tick_params(labelsize=26)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    sizes = {"fontsize": 24, "title_fontsize": 24, "title": "dotted: uniform attention"}
    figure.legend(lines, labels, loc="outside upper center", ncols=len(labels), **sizes)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
