"""What recording attention costs, in time and memory, as ratios: `python -m tests.benchmarks.recording_cost`.

Compares a network's plain forward pass, and its encoder alone, with the same while attention dilution is measured, on
a patch whose last slices are padding. Memory is what a pass holds at most beyond its input and the weights; what
recording adds to it is given in units of the largest attention of one block in float32. Time is that of the clock on a
GPU, and that of the processor on a CPU.
"""

import argparse
import platform
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from time import perf_counter, process_time

import torch

from rectal_nnformer.analysis.dilution import mixed_precision, reading
from rectal_nnformer.networks.adapter import NETWORK_CLASSES
from rectal_nnformer.networks.smit import SMIT
from rectal_nnformer.networks.swin_unetr import SwinUNETR

PATCH_SIZES = {"smit": (128, 128, 64), "swin_unetr": (96, 96, 64), "swin_unetr_v2": (96, 96, 64)}
REAL_SHARE = 57 / 64
"""Share of the patch along z that is image: that of 19 slices of 3 mm in a patch of 64 mm."""


@dataclass(frozen=True)
class Cost:
    """Seconds and peak bytes of a pass, plain and while recording, and the bytes of one block's attention.

    Seconds are the least of several passes: other work on the machine can only make them slower.
    """

    plain_seconds: float
    recording_seconds: float
    plain_bytes: int
    recording_bytes: int
    attention_bytes: int

    @property
    def time_ratio(self) -> float:
        """Time while recording over time without."""
        return self.recording_seconds / self.plain_seconds

    @property
    def added_attentions(self) -> float:
        """Memory that recording adds to the peak, in units of the largest attention of one block in float32."""
        return (self.recording_bytes - self.plain_bytes) / self.attention_bytes


@torch.no_grad()
def measure_cost(
    network: SMIT | SwinUNETR, patch_size: tuple[int, int, int], device: torch.device, repeats: int, decoder: bool
) -> Cost:
    """Run a network plain and recording in turn and compare.

    Args:
        network: In evaluation mode, on `device`.
        patch_size: Voxels (x, y, z).
        device: Where it is.
        repeats: Timed passes of each kind, after two that are not timed.
        decoder: Run the whole network; False runs its encoder alone.
    """
    image = torch.rand(1, 1, *patch_size, device=device)
    real = torch.ones(image.shape, dtype=torch.bool, device=device)
    real[..., round(patch_size[2] * REAL_SHARE) :] = False
    image[~real] = 0
    run = network if decoder else network.encode

    def plain() -> None:
        with mixed_precision(device):
            run(image, real)

    def recording() -> None:
        with mixed_precision(device), reading(network, real, real) as meter:
            run(image, real)
        meter.sums().cpu()

    seconds: dict[Callable[[], None], list[float]] = {plain: [], recording: []}
    for _ in range(repeats + 2):
        for work, measured in seconds.items():
            measured.append(_time(work, device))
    return Cost(
        plain_seconds=min(seconds[plain][2:]),
        recording_seconds=min(seconds[recording][2:]),
        plain_bytes=_peak_bytes(plain, device),
        recording_bytes=_peak_bytes(recording, device),
        attention_bytes=largest_attention(network, patch_size),
    )


def largest_attention(network: SMIT | SwinUNETR, patch_size: tuple[int, int, int]) -> int:
    """Return the bytes of the largest attention of one block in float32, batch 1."""
    sizes = []
    for block in network.attention_blocks(patch_size):
        tokens = prod(block.window)
        windows = prod(
            ceil(ceil(n / 2 ** (block.stage + 1)) / w) for n, w in zip(patch_size, block.window, strict=True)
        )
        sizes.append(4 * windows * block.attention.num_heads * tokens**2)
    return max(sizes)


def _time(work: Callable[[], None], device: torch.device) -> float:
    # On a CPU the time of this process alone, so that other work on the machine does not count.
    clock = process_time if device.type == "cpu" else perf_counter
    _wait(device)
    start = clock()
    work()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Return how much memory tensors take at most, beyond what was taken before."""
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recording_cost", description=__doc__)
    parser.add_argument("-b", choices=sorted(PATCH_SIZES), default="smit", help="backbone (default: %(default)s)")
    parser.add_argument("--patch_size", nargs=3, type=int, metavar=("X", "Y", "Z"), help="default: the published one")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes of each kind (default: %(default)s)")
    arguments = parser.parse_args()
    x, y, z = arguments.patch_size or PATCH_SIZES[arguments.b]
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    network = NETWORK_CLASSES[arguments.b](1, 2).eval().to(device)
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(f"{arguments.b}, patch {x} x {y} x {z}, batch 1, {processor}, {torch.get_num_threads()} threads")
    print(f"largest attention of one block: {largest_attention(network, (x, y, z)) / 2**20:.0f} MiB in float32")
    for name, decoder in (("whole network", True), ("encoder alone", False)):
        cost = measure_cost(network, (x, y, z), device, arguments.repeats, decoder)
        print(
            f"{name}: {cost.plain_seconds * 1000:.1f} ms plain, {cost.recording_seconds * 1000:.1f} ms recording: "
            f"ratio {cost.time_ratio:.3f}; peak memory {cost.plain_bytes / 2**20:.0f} MiB plain, "
            f"{cost.recording_bytes / 2**20:.0f} MiB recording: {cost.added_attentions:+.2f} attentions of one block"
        )


if __name__ == "__main__":
    main()
