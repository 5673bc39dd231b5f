"""Time and memory of a training step and of a forward pass, beside the same networks in plain formulation.

    python -m tests.benchmarks.training_step [-b BACKBONE ...] [-device cuda] [--compile] [--forward] [-o FOLDER]

Steps are those of nnU-Net's trainer: mixed precision on a GPU, gradient scaling, clipping, AdamW. All formulations of a
network run in one process, in turn. "plain" is the authors' formulation (see formulations.py), "monai" MONAI's own Swin
UNETR, "eager" and "compiled" this project's; of "resenc_l", nnU-Net's own network at its own patch, "plain" and
"compiled" are nnU-Net's. It needs no data and no nnU-Net variables. FOLDER gets training_step.json,
.md and .png.
"""

import argparse
import copy
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.flop_counter import FlopCounterMode

from rectal_nnformer.geometry import Size
from rectal_nnformer.networks.adapter import NETWORK_CLASSES
from rectal_nnformer.planning.memory import GIB, training_loss
from tests.benchmarks.formulations import RESENC_L_PATCH, plain, resenc_l

RESENC_L = "resenc_l"
PATCHES: dict[str, Size] = {
    "smit": (128, 128, 64),
    "swin_unetr": (96, 96, 64),
    "swin_unetr_v2": (96, 96, 64),
    RESENC_L: RESENC_L_PATCH,
}
DROP_PATH_RATE = 0.1
WARM_UP = 3


@dataclass
class Formulation:
    """One way of writing a network, and what was measured of it: seconds, bytes that PyTorch took of the GPU."""

    backbone: str
    name: str
    step: float = 0.0
    forward: float = 0.0
    peak: int = 0
    first_step: float = 0.0
    difference: float | None = None
    steps: list[float] = field(default_factory=list, repr=False)
    forwards: list[float] = field(default_factory=list, repr=False)


class Trained:
    """A network with optimizer, scaler and loss, as nnU-Net's trainer holds them."""

    def __init__(self, network: nn.Module, run: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.network, self.run, self.device = network, run, device
        self.loss = training_loss()
        self.optimizer = AdamW(network.parameters(), lr=1e-5, weight_decay=1e-5, fused=device.type == "cuda")
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def step(self, image: Tensor, target: Tensor) -> float:
        """Do what `nnUNetTrainer.train_step` does, and return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            value = self.loss(self.run(image), target)
        self.scaler.scale(value).backward()
        self.update()
        return float(value.detach())

    def update(self) -> None:
        """Change the weights by their gradients, which are clipped before."""
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Predict one patch."""
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            return self.network(image[:1])


def formulations(backbone: str, device: torch.device, compiled: bool) -> dict[str, Callable[[], Trained]]:
    """Return what builds each formulation of a network, all with the same weights."""
    torch.manual_seed(0)
    network = _new_network(backbone, drop_path_rate=DROP_PATH_RATE)

    def build(other: nn.Module, mode: str | None = None) -> Trained:
        other = other.to(device).train()
        return Trained(other, torch.compile(other, mode=mode) if mode else other, device)

    ways = {"plain": lambda: build(plain(network))}
    if backbone.startswith("swin_unetr"):
        v2 = backbone.endswith("v2")
        ways["monai"] = lambda: build(
            MonaiSwinUNETR(1, 2, feature_size=48, use_v2=v2, dropout_path_rate=DROP_PATH_RATE)
        )
    if backbone == RESENC_L:
        return {**ways, **({"compiled": lambda: build(copy.deepcopy(network), "default")} if compiled else {})}
    ways["eager"] = lambda: build(copy.deepcopy(network))
    if compiled:
        ways["compiled"] = lambda: build(copy.deepcopy(network), "reduce-overhead")
    return ways


def _new_network(backbone: str, **options: Any) -> nn.Module:
    return resenc_l() if backbone == RESENC_L else NETWORK_CLASSES[backbone](1, 2, **options)


def measure(
    backbone: str, patch: Size, device: torch.device, repeats: int, compiled: bool, steps: bool = True
) -> list[Formulation]:
    """Measure all formulations of a network: memory of each alone, then times in turn; `steps` of training, too."""
    torch.manual_seed(1)
    image = torch.rand(2, 1, *patch, device=device)
    target = torch.randint(0, 2, image.shape, device=device, dtype=torch.int16)
    found, running = [], []
    for name, build in formulations(backbone, device, compiled).items():
        gc.collect()
        before = _reset_peak(device)
        trained, result = build(), Formulation(backbone, name)
        if steps:
            result.first_step = _timed(trained.step, device, image, target)
            for _ in range(WARM_UP):
                _timed(trained.step, device, image, target)
        result.peak = torch.cuda.max_memory_reserved() - before if device.type == "cuda" else 0
        _timed(trained.forward, device, image)
        found.append(result)
        running.append(trained)
        first = f"first step {result.first_step:.0f} s, " if steps else ""
        print(f"{backbone} {name}: {first}peak {result.peak / GIB:.2f} GiB", flush=True)
    for _ in range(repeats if steps else 0):
        for result, trained in zip(found, running, strict=True):
            result.steps.append(_timed(trained.step, device, image, target))
    for trained in running:
        trained.network.eval()
    for _ in range(repeats):
        for result, trained in zip(found, running, strict=True):
            result.forwards.append(_timed(trained.forward, device, image))
    for result in found:
        result.step = statistics.median(result.steps) if steps else 0
        result.forward = statistics.median(result.forwards)
    _compare(found, backbone, device, image)
    return found


@torch.no_grad()
def _compare(found: Sequence[Formulation], backbone: str, device: torch.device, image: Tensor) -> None:
    """Note the largest difference of logits to the plain formulation, in float32, relative to the largest logit."""
    torch.backends.cudnn.allow_tf32 = False
    ways = formulations(backbone, device, False)
    expected = ways["plain"]().network.eval()(image)
    for result in found:
        if result.name == "eager":
            logits = ways["eager"]().network.eval()(image)
            result.difference = float((logits - expected).abs().max() / expected.abs().max())
    torch.backends.cudnn.allow_tf32 = True


def step_flops(backbone: str, patch: Size) -> int:
    """Count the operations of forward and backward pass of the plain formulation on a batch of two, without data."""
    network = plain(_new_network(backbone)).to("meta").train()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(2, 1, *patch, device="meta")).sum().backward()
    return counter.get_total_flops()


def parts_of_forward(backbone: str, patch: Size, device: torch.device) -> dict[str, float]:
    """Return the share of each part in the eager forward pass in training mode, and of what is between them."""
    trained = list(formulations(backbone, device, False).values())[-1]()
    image, spent = torch.rand(2, 1, *patch, device=device), dict.fromkeys(PARTS, 0.0)
    starts: dict[nn.Module, float] = {}

    def begin(module: nn.Module, _: Any) -> None:
        _wait(device)
        starts[module] = time.perf_counter()

    def end(module: nn.Module, _: Any, __: Any) -> None:
        _wait(device)
        spent[part_names[module]] += time.perf_counter() - starts[module]

    part_names = {
        m: part for part, classes in PARTS.items() for m in trained.network.modules() if type(m).__name__ in classes
    }
    with torch.no_grad(), torch.autocast(device.type, enabled=device.type == "cuda"):
        trained.network(image)
        hooks = [m.register_forward_pre_hook(begin) for m in part_names]
        hooks += [m.register_forward_hook(end) for m in part_names]
        whole = _timed(trained.network, device, image)
    for hook in hooks:
        hook.remove()
    return {**{part: seconds / whole for part, seconds in spent.items()}, "rest": 1 - sum(spent.values()) / whole}


def parts_of_step(backbone: str, patch: Size, device: torch.device) -> dict[str, float]:
    """Return the share of each part in a training step, not compiled."""
    trained = list(formulations(backbone, device, False).values())[-1]()
    image = torch.rand(2, 1, *patch, device=device)
    target = torch.randint(0, 2, image.shape, device=device, dtype=torch.int16)
    trained.step(image, target)
    spent, last = {}, 0.0

    def note(part: str) -> None:
        nonlocal last
        _wait(device)
        spent[part], last = time.perf_counter() - last, time.perf_counter()

    note("")
    trained.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, enabled=device.type == "cuda"):
        logits = trained.run(image)
        note("forward")
        value = trained.loss(logits, target)
        note("loss")
    trained.scaler.scale(value).backward()
    note("backward")
    trained.update()
    note("clipping and optimizer")
    del spent[""]
    return {part: seconds / sum(spent.values()) for part, seconds in spent.items()}


PARTS = {
    "attention": ("WindowAttention",),
    "feed-forward": ("FeedForward", "MLPBlock"),
    "merging": ("PatchMerging", "LegacyPatchMerging"),
    "residual blocks": ("ResidualBlock",),
    "upsampling": ("Convolution3dTransposed", "ConvTranspose3d"),
}


def _print_shares(whole: str, shares: Mapping[str, float]) -> None:
    print(f"parts of the {whole}: " + ", ".join(f"{part} {share:.1%}" for part, share in shares.items()))


def matrix_peak(device: torch.device) -> float:
    """Return the FLOP/s of a large matrix product in the precision of the convolutions."""
    size, dtype = (8192, torch.float16) if device.type == "cuda" else (2048, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(_timed(torch.matmul, device, left, right) for _ in range(5))


def _timed(work: Callable[..., Any], device: torch.device, *arguments: Any) -> float:
    _wait(device)
    start = time.perf_counter()
    work(*arguments)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_reserved()  # what CUDA graphs hold is not allocated


def table(found: Sequence[Formulation]) -> str:
    """Return a Markdown table; throughput and memory are ratios to the plain formulation."""
    lines = [
        "| network | formulation | step | forward | peak memory | step: times plain | forward: times plain | memory |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in found:
        base = next(other for other in found if other.backbone == result.backbone and other.name == "plain")
        memory, share = (f"{result.peak / GIB:.2f} GiB", f"{result.peak / base.peak:.2f}") if base.peak else ("-", "-")
        step, gain = (f"{result.step * 1000:.1f} ms", f"{base.step / result.step:.2f}") if base.step else ("-", "-")
        lines.append(
            f"| {result.backbone} | {result.name} | {step} | {result.forward * 1000:.1f} ms "
            f"| {memory} | {gain} | {base.forward / result.forward:.2f} | {share} |"
        )
    return "\n".join(lines)


def plot(found: Sequence[Formulation], path: Path) -> None:
    """Draw the time of a step of each formulation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.4 * len(found) + 1), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{result.backbone}, {result.name}" for result in found]
    bars = axes.barh(names, [result.step * 1000 for result in found])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("training step (ms)")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.training_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-b", nargs="+", choices=PATCHES, default=list(PATCHES), help="networks (default: all)")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes minutes for each network")
    parser.add_argument("--forward", action="store_true", help="forward passes alone, as steps take minutes on a CPU")
    parser.add_argument("--patch_size", nargs=3, type=int, metavar=("X", "Y", "Z"), help="default: the published ones")
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of each (default: %(default)s)")
    parser.add_argument("-o", metavar="FOLDER", type=Path, help="where to write the results (default: nowhere)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True  # as nnU-Net does
    processor = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    peak = matrix_peak(device)
    record: dict[str, Any] = {
        "device": processor,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "matrix_peak_tflops": peak / 1e12,
    }
    print(f"{processor}, torch {torch.__version__}, matrix product {peak / 1e12:.2f} TFLOP/s")
    found: list[Formulation] = []
    for backbone in arguments.b:
        patch = tuple(arguments.patch_size or PATCHES[backbone])
        found += measure(backbone, patch, device, arguments.repeats, arguments.compile, not arguments.forward)
        flops = step_flops(backbone, patch)
        parts = parts_of_forward(backbone, patch, device)
        record[backbone] = {"patch": patch, "step_tflop": flops / 1e12, "parts": parts}
        for result in (result for result in found if result.backbone == backbone and result.step):
            reached = flops / result.step
            print(f"{backbone} {result.name}: {reached / 1e12:.2f} TFLOP/s, {reached / peak:.1%} of a matrix product's")
        _print_shares("forward pass", parts)
        if not arguments.forward:
            record[backbone]["parts_of_step"] = parts_of_step(backbone, patch, device)
            _print_shares("step", record[backbone]["parts_of_step"])
        print(table(found), flush=True)
    record["measured"] = [asdict(result) for result in found]
    if arguments.o:
        arguments.o.mkdir(parents=True, exist_ok=True)
        (arguments.o / "training_step.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (arguments.o / "training_step.md").write_text(table(found) + "\n", encoding="utf-8")
        if not arguments.forward:
            plot(found, arguments.o / "training_step.png")


if __name__ == "__main__":
    main()
