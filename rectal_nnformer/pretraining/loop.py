"""The pretraining itself: steps, a log, checkpoints from which it goes on, and the file that trainers start from."""

import copy
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader
from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.networks.pretrained import load_pretrained
from rectal_nnformer.pretraining.figure import write_figure
from rectal_nnformer.pretraining.losses import LOSS_NAMES, Criterion, follow
from rectal_nnformer.pretraining.scans import StoredScan
from rectal_nnformer.pretraining.schedule import learning_rate, teacher_momentum, teacher_temperature
from rectal_nnformer.pretraining.settings import Settings
from rectal_nnformer.pretraining.student import Student
from rectal_nnformer.pretraining.views import Batches, Views
from rectal_nnformer.training.recovery import StopSignal
from rectal_nnformer.utils.files import check_space, csv_text, locked, staged_file, write_text, writing
from rectal_nnformer.utils.parallel import workers_undisturbed
from rectal_nnformer.utils.text import some

CHECKPOINT, LOG, FIGURE, LOCK = "pretraining_checkpoint.pth", "pretraining_log.csv", "restored.png", ".pretraining.lock"
SECONDS_BETWEEN_CHECKPOINTS = 300.0
MOST_GRADIENT = 3.0
"""Norm at which gradients are clipped, as in iBOT."""
WEIGHT_DECAY = 0.04
"""Of matrices; vectors have none (iBOT)."""
LOADERS = 4
"""Processes that cut views for a GPU."""
PICTURES = 3


class Pretraining:
    """A pretraining in a folder, from where its checkpoint ends.

    Everything that is drawn is a function of the step, so that an interrupted pretraining and one that was not have the
    same weights; on a GPU up to the order of its sums.

    Args:
        settings: What it depends on.
        scans: In the order of their names.
        folder: Where its files lie.
        device: To compute on.
        start: A pretrained file to go on from.

    Raises:
        RectalError: Files or disk are not fit for it.
    """

    def __init__(
        self, settings: Settings, scans: Sequence[StoredScan], folder: Path, device: str, start: Path | None = None
    ) -> None:
        self.settings, self.folder, self.device = settings, folder, torch.device(device)
        size = settings.view[::-1]
        self.views = Views([scan.file for scan in scans], size, settings.intensity_window)
        torch.manual_seed(0)
        window = settings.intensity_window
        self.student = Student(len(window), settings.backbone, settings.backbone_kwargs, window)
        if start is not None:
            print(load_pretrained(self.student.network.backbone, start))
        self.student.to(self.device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.criterion = Criterion(self.student).to(self.device)
        self.optimizer = _optimizer(self.student)
        self.step = 0
        self.epochs: list[list[float]] = []  # means of the losses
        self.steps: list[list[float]] = []  # losses of the epoch under way
        self.stop = StopSignal(signal.SIGTERM, signal.SIGINT)

    @property
    def weights_file(self) -> Path:
        """The file that comes out."""
        return self.folder / self.settings.weights_name

    def run(self) -> None:
        """Pretrain to the end, and write the file, the log and the figure.

        Raises:
            RectalError: Another process does so, or a loss is not finite; what was saved before stays.
            KeyboardInterrupt: Ctrl-C; the checkpoint holds everything.
            SystemExit: SIGTERM; the checkpoint holds everything.
        """
        with locked(self.folder / LOCK, f"{self.folder} is being written by another pretraining. Wait or end it."):
            self.settings.claim(self.folder)
            if self.weights_file.is_file():
                print(f"{self.weights_file} is there: nothing is left to do.")
                return
            if (self.folder / CHECKPOINT).is_file():
                self._load()
            size = sum(weight.nbytes for weight in self.student.parameters())
            check_space(self.folder, 5 * size, "The checkpoints of a pretraining")  # both networks, AdamW, the file
            try:
                self._train()
            finally:
                self.stop.remove()
            write_figure(self.folder / FIGURE, self.student, self._pictures())
            weights = {"student": self.student.encoder_weights(), "teacher": self.teacher.encoder_weights()}
            # Given a name, PyTorch stores it: the same weights would have another MD5 each time.
            path = self.weights_file
            with writing(path), staged_file(path) as temporary, temporary.open("wb") as file:
                torch.save(weights, file)
            (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _train(self) -> None:
        settings, saved = self.settings, time.monotonic()
        batches = Batches(settings.scans, settings.batch_size, self.step, settings.steps)
        loader: Any = DataLoader(
            self.views, batch_sampler=batches, num_workers=LOADERS if self.device.type == "cuda" else 0
        )
        with workers_undisturbed():
            coming = iter(loader)
        self.stop.install()
        self.student.train()
        with tqdm(total=settings.steps, initial=self.step, desc="Pretraining", unit="step") as bar:
            while self.step < settings.steps:
                self._train_step(next(coming))
                bar.set_postfix_str(f"restoration {self.steps[-1][1]:.4f}, by mean {self.steps[-1][2]:.4f}")
                bar.update()
                if len(self.steps) == settings.steps_per_epoch:
                    self.epochs.append([math.fsum(values) / len(values) for values in zip(*self.steps, strict=True)])
                    self.steps = []
                    self._write_log()
                if self.stop.came or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    self._save()
                    saved = time.monotonic()
                if self.stop.came == signal.SIGINT:
                    raise KeyboardInterrupt
                if self.stop.came:
                    raise SystemExit(128 + self.stop.came)

    def _train_step(self, batch: dict[str, Tensor]) -> None:
        step, steps = self.step, self.settings.steps
        torch.manual_seed(step)  # for stochastic depth
        rate = self._learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        image, hidden = (batch[name].to(self.device, non_blocking=True) for name in ("image", "hidden"))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            losses = self.criterion(self.student, self.teacher, image, hidden, teacher_temperature(step, steps))
        self.optimizer.zero_grad()
        losses.total.backward()
        if step < self.settings.steps_per_epoch:  # the targets settle first
            for head in (self.student.patch_head, self.student.image_head):
                head.last.weight.grad = None
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), MOST_GRADIENT)
        values = losses.values()
        if not all(map(math.isfinite, (*values, float(norm)))):
            raise RectalError(self._not_finite(values))
        self.optimizer.step()
        follow(self.teacher, self.student, teacher_momentum(step, steps))
        self.steps.append(values)
        self.step += 1

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.settings.steps, self.settings.batch_size, self.student.channels)

    def _not_finite(self, values: Sequence[float]) -> str:
        batch = next(iter(Batches(self.settings.scans, self.settings.batch_size, self.step, self.step + 1)))
        names = some([self.views.scan_of(sample).stem for sample in batch])
        told = ", ".join(f"{name} {value:g}" for name, value in zip(LOSS_NAMES, values, strict=True))
        return (
            f"The pretraining in {self.folder} stopped at step {self.step + 1}: losses or gradients are not finite "
            f"({told}). The scans of this step are {names}: look for extreme intensities in them, and take such scans "
            "away, or begin anew in another folder with a smaller --batch-size, which lowers the learning rate."
        )

    def _write_log(self) -> None:
        per_epoch, columns = self.settings.steps_per_epoch, ("epoch", "learning_rate", *LOSS_NAMES)
        rows = [(epoch, self._learning_rate(epoch * per_epoch), *losses) for epoch, losses in enumerate(self.epochs)]
        write_text(self.folder / LOG, csv_text(columns, (dict(zip(columns, row, strict=True)) for row in rows)))

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("student", "teacher", "criterion", "optimizer")}

    def _save(self) -> None:
        content = {name: part.state_dict() for name, part in self._parts().items()}
        path = self.folder / CHECKPOINT
        with writing(path), staged_file(path) as temporary:
            torch.save({**content, "step": self.step, "epochs": self.epochs, "steps": self.steps}, temporary)

    def _load(self) -> None:
        path = self.folder / CHECKPOINT
        content = read_checkpoint(path)
        try:
            for name, part in self._parts().items():
                part.load_state_dict(content[name])
            self.step, self.epochs, self.steps = (content[name] for name in ("step", "epochs", "steps"))
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise RectalError(
                f"{path} is no checkpoint of this pretraining ({error}). Restore it, or move {self.folder} away to "
                "begin anew."
            ) from None
        print(f"The pretraining in {self.folder} goes on from step {self.step} of {self.settings.steps}.")

    def _pictures(self) -> list[dict[str, Tensor]]:
        """Return views of the first scans that no step has seen."""
        unseen = self.settings.epochs * self.settings.scans
        return [self.views[unseen + number] for number in range(min(PICTURES, self.settings.scans))]


def _optimizer(student: Student) -> AdamW:
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0)
