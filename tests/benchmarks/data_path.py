"""Time of what lies between a scan and a training step, beside nnU-Net's own: resampling, preprocessing, augmentation.

    python -m tests.benchmarks.data_path [-device cuda] [--repeats 5] [-o FOLDER]

Everything runs in one process and on one core, in turn. A scan is made of noise, with one mask. A batch is augmented
as by a background worker, and on the device. It needs no data and no nnU-Net variables; how long a training waits for
its batches is told by tests.benchmarks.loading. FOLDER gets data_path.json and .md.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from numpy.typing import NDArray

from rectal_nnformer.augmentation import DeviceAugmentation, extend_training_transforms
from rectal_nnformer.nnunet.resampling import FastResampling
from rectal_nnformer.planning.planner import configuration_settings
from rectal_nnformer.planning.preprocessing import FastPreprocessor
from tests.benchmarks.training_step import _timed

SCANS: dict[str, tuple[tuple[int, int, int], tuple[float, float, float]]] = {
    "384 x 384 x 24, 0.52 x 0.52 x 3.3 mm": ((24, 384, 384), (3.3, 0.52, 0.52)),
    "512 x 512 x 30, 0.59 x 0.59 x 3.6 mm": ((30, 512, 512), (3.6, 0.59, 0.59)),
}
"""By its description, the shape (z, y, x) of a scan and its spacing in mm."""
TARGET = (1.0, 1.0, 1.0)
PATCH = (64, 128, 128)
ROTATION = (-np.pi / 6, np.pi / 6)


@dataclass
class Measured:
    """Median seconds of nnU-Net's way and of ours."""

    what: str
    nnunet: float
    ours: float


def made_scan(shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Return an image and its mask (1, z, y, x): noise, and an ellipsoid of a large tumour's size."""
    image = np.random.default_rng(0).normal(300, 80, (1, *shape)).astype(np.float32)
    center = [(np.arange(size) - size / 2) / (size / 10) for size in shape]
    inside = sum(np.square(axis) for axis in np.meshgrid(*center, indexing="ij")) < 1
    return image, inside.astype(np.int16)[None]


def in_turn(
    what: str, nnunet: Callable[[], object], ours: Callable[[], object], repeats: int, device: torch.device
) -> Measured:
    """Time two ways in turn, after each ran once."""
    seconds: dict[Callable[[], object], list[float]] = {nnunet: [], ours: []}
    for number in range(repeats + 1):
        for work, found in seconds.items():
            took = _timed(work, device)
            found += [took] if number else []
    result = Measured(what, *(statistics.median(found) for found in seconds.values()))
    print(f"{what}: {result.nnunet:.3f} s, ours {result.ours:.3f} s, {result.nnunet / result.ours:.2f}", flush=True)
    return result


def resampling_and_preprocessing(repeats: int) -> list[Measured]:
    """Measure a scan's image and mask, resampled to 1 mm, and all that nnU-Net's preprocessing does in memory."""
    settings = configuration_settings({}, ["ZScoreNormalization"], spacing=list(TARGET))
    stock, fast, cpu = ConfigurationManager(settings), FastResampling(settings), torch.device("cpu")
    plans: Any = SimpleNamespace(
        transpose_forward=[0, 1, 2],
        foreground_intensity_properties_per_channel={"0": {}},
        get_label_manager=lambda _: SimpleNamespace(
            has_regions=False, has_ignore_label=False, foreground_labels=[1], foreground_regions=None
        ),
    )
    found = []
    for name, (shape, spacing) in SCANS.items():
        image, mask = made_scan(shape)
        target = [round(size * mm / new) for size, mm, new in zip(shape, spacing, TARGET, strict=True)], spacing, TARGET
        for what, array in (("data", image), ("seg", mask)):
            ways = [getattr(way, f"resampling_fn_{what}") for way in (stock, fast)]
            label = f"{'image' if what == 'data' else 'mask'} resampled, {name}"
            found.append(in_turn(label, *(partial(way, array, *target) for way in ways), repeats, cpu))
        case = image, mask, {"spacing": list(spacing)}, plans, stock, {}
        works = [partial(way(verbose=False).run_case_npy, *case) for way in (DefaultPreprocessor, FastPreprocessor)]
        found.append(in_turn(f"preprocessed, {name}", *works, repeats, cpu))
    return found


def augmentation(repeats: int, device: torch.device) -> Measured:
    """Measure a batch of two crops, augmented as by a background worker on one core, and on the device."""
    stock = nnUNetTrainer.get_training_transforms(
        PATCH, ROTATION, None, (0, 1, 2), False, use_mask_for_norm=[False], foreground_labels=[1]
    )
    transforms = extend_training_transforms(stock, [[-2.0, 6.0]], [1])
    on_device = DeviceAugmentation(transforms, device)
    crop = get_patch_size(PATCH, ROTATION, ROTATION, ROTATION, (0.85, 1.25))
    images = torch.randn(2, 1, *map(int, crop))
    masks = (images > 2).to(torch.int16)

    def by_worker() -> None:
        for image, mask in zip(images, masks, strict=True):
            transforms(image=image.clone(), segmentation=mask.clone())

    def many(work: Callable[[], object]) -> Callable[[], None]:
        return lambda: [work() for _ in range(20)] and None  # each draws what it does

    batch = {"data": images, "target": masks}
    if device.type == "cuda":
        batch = {key: tensor.pin_memory() for key, tensor in batch.items()}
    found = in_turn("20 batches augmented", many(by_worker), many(lambda: on_device(batch)), repeats, device)
    return Measured("a batch augmented", found.nnunet / 20, found.ours / 20)


def table(found: list[Measured]) -> str:
    """Return a table in Markdown."""
    lines = ["| | nnU-Net's | this project's | times as fast |", "|---|---:|---:|---:|"]
    lines += [
        f"| {one.what} | {one.nnunet * 1000:.0f} ms | {one.ours * 1000:.0f} ms | {one.nnunet / one.ours:.1f} |"
        for one in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.data_path",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default: %(default)s)")
    parser.add_argument("-o", metavar="FOLDER", type=Path, help="where to write the results (default: nowhere)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    found = [*resampling_and_preprocessing(arguments.repeats), augmentation(arguments.repeats, device)]
    print(table(found))
    if arguments.o:
        arguments.o.mkdir(parents=True, exist_ok=True)
        record = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "measured": [asdict(one) for one in found],
        }
        (arguments.o / "data_path.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (arguments.o / "data_path.md").write_text(table(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
