"""`rectal_nnformer predict` beside `nnUNetv2_predict`, on one model and one scan of 512 x 512 x 30, file to file.

    python -m tests.benchmarks.prediction [--small] [--device cuda] [--seconds 80] [-o FOLDER]

The model is a SMIT that learnt for some steps to outline bright balls. "Command" is each command as a process of its
own, in turn, start-up included; "warm" is its predictor in this process, after everything was imported, with the share
of its parts. Memory is what all processes of a command hold together at most, and what PyTorch took of the GPU at most.
On a GPU the network's pass is then measured for several sizes of batches. FOLDER gets prediction.json and .md.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from nnunetv2.inference.data_iterators import PreprocessAdapter
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from rectal_nnformer.nnunet.find_trainer import trainers_within_reach
from rectal_nnformer.nnunet.layout import CHECKPOINT_FINAL, TRAINERS_VARIABLE, trainers_folder
from rectal_nnformer.prediction.predictor import BatchedPredictor
from tests.random_models import TRAINER, write_random_model

GIB = 2**30
MODEL = ["-d", "501", "-tr", TRAINER, "-p", "nnUNetRectalSMITPreparedPlans", "-c", "3d_fullres", "-f", "0"]
FOLDER = f"nnUNet_results/Dataset501_Balls/{TRAINER}__nnUNetRectalSMITPreparedPlans__3d_fullres"
FULL = {"patch_size": (128, 128, 64), "spacing": (1.0, 1.0, 1.0), "options": {}}
SMALL = {**FULL, "patch_size": (64, 64, 32), "options": {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}}
SCANS = {False: ((512, 512, 30), (0.5, 0.5, 4.0)), True: ((192, 192, 12), (0.5, 0.5, 3.0))}
"""Voxels and mm (x, y, z), in full size and small."""

STOCK = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as main; main()"
OURS = "from rectal_nnformer.cli import main; main()"
COMMANDS = {"stock": (STOCK,), "ours": (OURS, "predict")}
PREDICTORS = {"stock": nnUNetPredictor, "ours": BatchedPredictor}


def write_scan(path: Path, size: Sequence[int], spacing: Sequence[float]) -> None:
    """Write a scan with a few bright balls of 20 to 40 mm in noise."""
    rng = np.random.default_rng(0)
    extent = np.multiply(size, spacing)[::-1]
    axes = [(np.arange(n) + 0.5) * mm for n, mm in zip(size[::-1], spacing[::-1], strict=True)]
    volume = rng.normal(300, 40, size[::-1]).astype(np.float32)
    for _ in range(4):
        center, radius = extent * rng.uniform(0.2, 0.8, 3), rng.uniform(10, 20)
        parts = [np.square(axis - c) for axis, c in zip(axes, center, strict=True)]
        volume[parts[0][:, None, None] + parts[1][:, None] + parts[2] < radius**2] += 300
    image = sitk.GetImageFromArray(volume.clip(1, 1000).astype(np.int16))
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def teach(model: Path, patch: Sequence[int], device: torch.device, steps: int) -> float:
    """Let the model's network learn balls for some steps, and return the loss of the last one."""
    network = predictor_of(nnUNetPredictor, model, device, False).network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n, device=device) for n in patch[::-1]), indexing="ij"))
    loss = torch.zeros(())
    for step in range(steps):
        torch.manual_seed(step)
        center = (torch.rand(3) * torch.tensor(patch[::-1])).to(device)
        target = (grid - center[:, None, None, None]).square().sum(0) < float(torch.empty(()).uniform_(8, 20)) ** 2
        image = (300 + 40 * torch.randn(patch[::-1], device=device) + 300 * target).clip(1, 1000)[None, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(image).float()
        loss = F.cross_entropy(logits, target[None].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = model / "fold_0" / CHECKPOINT_FINAL
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, "network_weights": {k: v.cpu() for k, v in network.state_dict().items()}}, path)
    return float(loss.detach())


def predictor_of(kind: Any, model: Path, device: torch.device, mirrored: bool) -> Any:
    """Return a predictor, stock or ours, that has read the model."""
    with redirect_stdout(StringIO()), trainers_within_reach():
        predictor = kind(device=device, use_mirroring=mirrored, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0,))
    return predictor


def group_bytes(group: int) -> int:
    """Return the memory of all processes of a group; what several share counts once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                (pss,) = re.findall(r"^Pss: +(\d+)", (folder / "smaps_rollup").read_text(), re.MULTILINE)
                total += 1024 * int(pss)
        except (OSError, ValueError):  # it has just ended
            continue
    return total


def run_command(way: str, base: Path, device: str, mirrored: bool) -> tuple[float, int]:
    """Run a command as a user does and return its seconds and the most bytes that its processes held."""
    code, *first = COMMANDS[way]
    options = ["-i", str(base / "scans"), "-o", str(base / way), "-device", device]
    options += [] if mirrored else ["--disable_tta"]
    folders = {TRAINERS_VARIABLE: str(trainers_folder()), "nnUNet_results": str(base / "nnUNet_results")}
    with (base / "output.txt").open("w") as output:
        start, most = time.monotonic(), 0
        process = subprocess.Popen(
            [sys.executable, "-c", code, *first, *MODEL, *options],
            env={**os.environ, **folders}, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                most = max(most, group_bytes(process.pid))
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"{way} ended with {process.returncode}:\n{(base / 'output.txt').read_text()[-3000:]}")
    return seconds, most


def dice(base: Path) -> float:
    """Return the Dice coefficient of the masks of both ways."""
    masks = [sitk.GetArrayFromImage(sitk.ReadImage(str(base / way / "case.nii.gz"))) > 0 for way in COMMANDS]
    return 2 * float(np.sum(masks[0] & masks[1])) / max(1, sum(int(mask.sum()) for mask in masks))


def run_warm(way: str, predictor: Any, base: Path) -> dict[str, float]:
    """Predict the scan by a predictor in this process; return the seconds of the parts, and GPU memory in bytes."""
    device = predictor.device
    _wait(device)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    managers = (predictor.plans_manager, predictor.dataset_json, predictor.configuration_manager)
    output = str(base / way / "case")
    listed: Any = ([[str(base / "scans/case_0000.nii.gz")]], [None])
    times = [time.perf_counter()]
    if way == "ours":
        case = next(predictor._internal_get_data_iterator_from_lists_of_filenames(*listed, [output], 1))
    else:
        case = next(PreprocessAdapter(*listed, preprocessor, [output], *managers))
    times.append(time.perf_counter())
    logits = predictor.predict_logits_from_preprocessed_data(case["data"])
    _wait(device)
    times.append(time.perf_counter())
    if way == "ours":
        predictor.write(logits, case["data_properties"], output, False)
    else:
        plans, dataset_json, configuration = managers
        export_prediction_from_logits(
            logits.cpu(), case["data_properties"], configuration, plans, dataset_json, output, False
        )
    times.append(time.perf_counter())
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    steps = [after - before for before, after in itertools.pairwise(times)]
    return {**dict(zip(("preprocessing", "network", "labels"), steps, strict=True)), "gpu": memory}


def batches(model: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield milliseconds per window and GPU memory per batch size, cuDNN choosing by trial or by rule."""
    data = torch.rand(1, 120, 256, 256) * 600 + 1
    predictor = predictor_of(BatchedPredictor, model, device, False)
    for size, tuned in ((1, True), (2, True), (4, True), (8, True), (1, False), (4, False)):
        torch.backends.cudnn.benchmark = tuned
        predictor.batch_size, seconds = size, []
        for _ in range(2):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            seconds.append(_seconds(predictor.predict_logits_from_preprocessed_data, data))
        windows = len(predictor._internal_get_sliding_window_slicers(data.shape[1:]))
        times = [1000 * value / windows for value in seconds]
        memory = torch.cuda.max_memory_allocated() / GIB
        yield {"batch": size, "cudnn_benchmark": tuned, "first_ms": times[0], "ms": times[1], "gpu_gib": memory}


def _seconds(work: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(base: Path, device: torch.device, small: bool, deadline: float) -> dict[str, Any]:
    """Measure everything that fits before the deadline, one round at least, and return it."""
    shape: dict[str, Any] = SMALL if small else FULL
    model = write_random_model(base / FOLDER, **shape)
    write_scan(base / "scans/case_0000.nii.gz", *SCANS[small])
    loss = teach(model, shape["patch_size"], device, 25 if device.type == "cuda" else 12)
    print(f"taught to a loss of {loss:.3f}", flush=True)
    found: dict[str, Any] = {"loss": loss, "command": [], "warm": [], "batches": []}
    predictors = {
        (way, mirrored): predictor_of(kind, model, device, mirrored)
        for way, kind in PREDICTORS.items() for mirrored in (False, True)
    }  # fmt: skip
    for way in PREDICTORS:
        (base / way).mkdir()
        run_warm(way, predictors[way, False], base)  # what is built once
    longest = 0.0
    while not found["command"] or time.monotonic() + longest < deadline:
        start = time.monotonic()
        for mirrored in (False, True):
            for way in COMMANDS:
                seconds, memory = run_command(way, base, device.type, mirrored)
                found["command"].append({"way": way, "mirrored": mirrored, "seconds": seconds, "bytes": memory})
                print(f"command {way}, mirrored {mirrored}: {seconds:.1f} s, {memory / GIB:.2f} GiB", flush=True)
            found.setdefault(f"dice_{mirrored}", dice(base))
            for way in PREDICTORS:
                parts = run_warm(way, predictors[way, mirrored], base)
                found["warm"].append({"way": way, "mirrored": mirrored, **parts})
                print(f"warm {way}, mirrored {mirrored}: {parts}", flush=True)
        longest = max(longest, time.monotonic() - start)
    if device.type == "cuda":
        found["batches"] = list(batches(model, device))
    return found


def markdown(found: dict[str, Any], device: str) -> str:
    """Return the tables of what was measured: medians."""
    lines = [
        f"{device}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}",
        "",
        "| | mirrored | stock s | ours s | stock / ours | stock GiB | ours GiB | Dice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mirrored in (False, True):
        dice_ = f"{found[f'dice_{mirrored}']:.5f}"
        rows = {"command": ("seconds", "bytes"), "warm": (), "preprocessing": (), "network": (), "labels": ()}
        for row in rows:
            numbers = []
            for way in COMMANDS:
                runs = [
                    run for run in found["command" if row == "command" else "warm"]
                    if (run["way"], run["mirrored"]) == (way, mirrored)
                ]  # fmt: skip
                keys = {"command": ("seconds",), "warm": ("preprocessing", "network", "labels")}.get(row, (row,))
                memory = max(run["bytes" if row == "command" else "gpu"] for run in runs) / GIB
                numbers.append((statistics.median(sum(run[key] for key in keys) for run in runs), memory))
            (stock, stock_memory), (ours, our_memory) = numbers
            memory_ = f"{stock_memory:.2f} | {our_memory:.2f}" if row in ("command", "warm") else "|"
            ratio = stock / ours if ours else 0
            lines.append(
                f"| {row} | {mirrored} | {stock:.2f} | {ours:.2f} | {ratio:.2f} | {memory_} | "
                f"{dice_ if row == 'command' else ''} |"
            )
    if found["batches"]:
        lines += ["", "| batch | cuDNN tunes | ms per window, first | then | GPU GiB |", "|---|---|---|---|---|"]
        lines += [
            f"| {b['batch']} | {b['cudnn_benchmark']} | {b['first_ms']:.1f} | {b['ms']:.1f} | {b['gpu_gib']:.2f} |"
            for b in found["batches"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.prediction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="a small network and scan, for a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=60, help="begin no round that would end later (60)")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(os.cpu_count() or 1)
    with TemporaryDirectory() as folder:
        found = measure(Path(folder), device, arguments.small, time.monotonic() + arguments.seconds)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    text = markdown(found, name)
    print(text)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "prediction.json").write_text(json.dumps({"device": name, **found}, indent=2))
        (arguments.output / "prediction.md").write_text(text)


if __name__ == "__main__":
    main()
