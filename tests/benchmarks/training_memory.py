"""Compare the counted memory of a training step with that of a GPU.

    python -m tests.benchmarks.training_memory [--modes MODE ...] [-b BACKBONE ...] [--output FILE] [--minutes N]

runs three real training steps of each network with several patches and batches, as nnU-Net's trainer does them: mixed
precision, gradient scaling, clipping, AdamW. It needs a GPU, no data, and no nnU-Net variables. Modes are "eager",
"limited", in which PyTorch may take no more of the GPU than the planner takes it to need, and "compiled", which takes
minutes for each network.
"""

import argparse
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rectal_nnformer.geometry import Size
from rectal_nnformer.planning.memory import GIB, planned_network, step_memory, training_loss

STEPS = 3
COLUMNS = "network patch batch mode counted required allocated first_step reserved device seconds"
ROW = "{:<14} {:>12} {:>5} {:>8} {:>8} {:>9} {:>9} {:>10} {:>9} {:>7} {:>8}"

Patches = dict[str, tuple[tuple[Size, int], ...]]

EAGER: Patches = {
    "smit": (
        ((128, 128, 64), 2),
        ((128, 128, 64), 4),
        ((128, 128, 64), 8),
        ((128, 128, 128), 2),
        ((64, 64, 64), 2),
        ((64, 64, 64), 16),
    ),
    "swin_unetr": (
        ((96, 96, 64), 2),
        ((96, 96, 64), 4),
        ((96, 96, 64), 12),
        ((96, 96, 96), 2),
        ((96, 96, 96), 8),
        ((64, 64, 32), 2),
    ),
    "swin_unetr_v2": (((96, 96, 64), 2), ((96, 96, 64), 8), ((96, 96, 96), 2)),
}
LIMITED: Patches = {
    "swin_unetr": (((96, 96, 64), 2), ((96, 96, 64), 12), ((96, 96, 96), 8)),
    "swin_unetr_v2": (((96, 96, 64), 8), ((96, 96, 96), 2)),
    "smit": (((128, 128, 64), 2), ((128, 128, 64), 8), ((128, 128, 128), 2)),
}
COMPILED: Patches = {
    "swin_unetr": (((96, 96, 64), 2),),
    "swin_unetr_v2": (((96, 96, 64), 2),),
    "smit": (((128, 128, 64), 2),),
}
MODES = {"eager": EAGER, "limited": LIMITED, "compiled": COMPILED}


@dataclass(frozen=True)
class Trial:
    """A network, its patch (x, y, z) in voxels, its batch size, and a key of `MODES`."""

    backbone: str
    patch_size: Size
    batch_size: int
    mode: str


@dataclass(frozen=True)
class Measurement:
    """What a GPU says about some training steps; bytes.

    Attributes:
        allocated: Most that tensors took, in all steps but the first.
        first_step: The same in the first step, in which cuDNN tries out algorithms.
        reserved: Most that PyTorch held, in all steps.
        device: What the process takes of the GPU in the end, the CUDA context included.
        seconds: Duration of the last step.
    """

    allocated: int
    first_step: int
    reserved: int
    device: int
    seconds: float


def trials(modes: Sequence[str], backbones: Sequence[str]) -> Iterator[Trial]:
    """Yield the trials of some modes and backbones in their order."""
    for mode in modes:
        for backbone, sizes in ((name, sizes) for name, sizes in MODES[mode].items() if name in backbones):
            for patch_size, batch_size in sizes:
                yield Trial(backbone, patch_size, batch_size, mode)


def measure(trial: Trial, limit: float) -> Measurement:
    """Run the training steps of a trial on the GPU.

    Args:
        trial: What to run.
        limit: Bytes that PyTorch may take in the mode "limited".

    Raises:
        torch.OutOfMemoryError: They do not fit.
    """
    _clear()
    network: Any = planned_network(trial.backbone, 1, 2, {}).cuda().train()
    loss: Any = training_loss()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(limit / total if trial.mode == "limited" else 1.0)
    if trial.mode == "compiled":
        network, loss.dc = torch.compile(network, mode="reduce-overhead"), torch.compile(loss.dc)
    optimizer = AdamW(network.parameters(), lr=3e-4, weight_decay=1e-5, fused=True)
    scaler = torch.amp.GradScaler("cuda")
    shape = (trial.batch_size, 1, *reversed(trial.patch_size))
    allocated, seconds = [], 0.0
    for _ in range(STEPS):
        torch.cuda.reset_peak_memory_stats()
        data, target = torch.randn(shape), torch.randint(0, 2, shape, dtype=torch.int16)
        start = time.monotonic()
        _step(network, loss, optimizer, scaler, data.cuda(), target.cuda())
        torch.cuda.synchronize()
        seconds = time.monotonic() - start
        allocated.append(torch.cuda.max_memory_allocated())
    return Measurement(max(allocated[1:]), allocated[0], torch.cuda.max_memory_reserved(), _device_bytes(), seconds)


def _step(network: nn.Module, loss: nn.Module, optimizer: AdamW, scaler: Any, data: Tensor, target: Tensor) -> None:
    """Do what `nnUNetTrainer.train_step` does."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda"):
        value = loss(network(data), target)
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(network.parameters(), 12)
    scaler.step(optimizer)
    scaler.update()


def _clear() -> None:
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()


def _device_bytes() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def _line(trial: Trial, numbers: Sequence[str]) -> str:
    patch = "x".join(map(str, trial.patch_size))
    return ROW.format(trial.backbone, patch, trial.batch_size, trial.mode, *numbers)


def _report(trial: Trial) -> str:
    """Return one line of the table; all but the last column are GiB."""
    memory = step_memory(trial.backbone, trial.patch_size, trial.batch_size)
    planned = [f"{size / GIB:.2f}" for size in (memory.peak, memory.required)]
    try:
        found = measure(trial, memory.reserved)
    except torch.OutOfMemoryError:
        return _line(trial, [*planned, "out of", "memory", "-", "-", "-"])
    except Exception as error:  # a trial that fails must not cost the others
        return f"{_line(trial, [*planned, *'-----'])} {type(error).__name__}: {error}"[:400].replace("\n", " ")
    sizes = [found.allocated, found.first_step, found.reserved, found.device]
    return _line(trial, [*planned, *(f"{size / GIB:.2f}" for size in sizes), f"{found.seconds:.3f}"])


def main() -> None:
    """Measure every trial and print the table, line by line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.training_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="which trials (default: all)")
    parser.add_argument("-b", nargs="+", choices=EAGER, default=list(EAGER), help="backbones (default: all)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the table to a file, too")
    parser.add_argument("--minutes", metavar="N", type=float, default=9, help="start no trial after this time (9)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU to measure.")
    torch.backends.cudnn.benchmark = True  # as nnU-Net does
    torch.cuda.init()
    start, lines = time.monotonic(), []
    lines.append(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    lines.append(f"before any trial the device has {_device_bytes() / GIB:.2f} GiB in use")
    lines.append(ROW.format(*COLUMNS.split()))
    print(*lines, sep="\n", flush=True)
    for trial in trials(arguments.modes, arguments.b):
        over = time.monotonic() - start > 60 * arguments.minutes
        lines.append(_line(trial, ["no time", *"------"]) if over else _report(trial))
        print(lines[-1], flush=True)
        if arguments.output:
            arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
