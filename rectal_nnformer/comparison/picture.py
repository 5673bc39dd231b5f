"""The comparison in one picture: rates, differences, attention and feature reuse."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rectal_nnformer.comparison.results import Comparison, FoldPoint, RunResult

# Okabe and Ito's palette and a mark for each run, so that colour is never needed.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = "os^Dvx"
PIXELS_PER_INCH = 110
NAME_CHARACTERS = 26


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write a PNG with a panel each for rates, differences, attention, reuse per block, and reuse against results."""
    figure = Figure(figsize=(15, 9), dpi=PIXELS_PER_INCH, layout="constrained")
    panels = figure.subplots(2, 3)
    _draw_rates(panels[0, 0], comparison.runs)
    _draw_differences(panels[1, 0], comparison)
    _draw_attention(panels[0, 1], comparison.runs)
    _draw_blocks(panels[1, 1], comparison.runs)
    _draw_reuse(panels[0, 2], comparison.runs, "detection rate", lambda point: point.detection_rate)
    _draw_reuse(panels[1, 2], comparison.runs, "Dice, mean", lambda point: point.dice)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _draw_rates(axes: Axes, runs: Sequence[RunResult]) -> None:
    for index, run in enumerate(runs):
        rate = run.detection.detection_rate
        if rate.rate is not None and rate.wilson_95 is not None:
            low, high = rate.wilson_95
            axes.plot([low, high], [index, index], color=_color(index), linewidth=5, alpha=0.35, solid_capstyle="round")
            axes.plot(rate.rate, index, _mark(index), color=_color(index), markersize=9)
    counts = [f"{run.detection.n_detected}/{run.detection.n_reference}" for run in runs]
    axes.set_yticks(range(len(runs)), [f"{_wrap(run.name)}\n{n}" for run, n in zip(runs, counts, strict=True)])
    axes.set(xlim=(0, 1.02), title="Detection rate, 95 % Wilson interval")
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)


def _draw_differences(axes: Axes, comparison: Comparison) -> None:
    for index, pair in enumerate(comparison.pairs):
        difference = pair.detection_rate
        if difference.value is None:
            continue
        if difference.patient_bootstrap_95 is not None:
            axes.plot(difference.patient_bootstrap_95, [index, index], color="0.6", linewidth=4, solid_capstyle="round")
        axes.plot(difference.value, index, "o", color="0.15", markersize=7)
    axes.axvline(0, color="0.15", linewidth=0.8)
    names = [f"{_wrap(pair.first)} -\n{_wrap(pair.second)}" for pair in comparison.pairs]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(title="Difference in detection rate, 95 % by patient")
    axes.grid(axis="x", alpha=0.3)


def _draw_attention(axes: Axes, runs: Sequence[RunResult]) -> None:
    for index, run in enumerate(runs):
        if run.stages:
            places = [stage.stage for stage in run.stages]
            measured = [_or_nan(stage.means["adi"]) for stage in run.stages]
            axes.plot(places, measured, color=_color(index), marker=_mark(index), label=_wrap(run.name))
            uniform = [_or_nan(stage.means["uniform_adi"]) for stage in run.stages]
            axes.plot(places, uniform, color=_color(index), linestyle=":", linewidth=1)
    _finish(axes, "Attention dilution index (dotted: uniform attention)", "stage")
    if axes.lines:
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(max(len(run.stages) for run in runs)))


def _draw_blocks(axes: Axes, runs: Sequence[RunResult]) -> None:
    for index, run in enumerate(runs):
        if run.reuse is not None:
            places = range(1, len(run.reuse.blocks) + 1)
            values = [_or_nan(value) for value in run.reuse.diagonal]
            axes.plot(places, values, color=_color(index), marker=_mark(index), label=_wrap(run.name))
    _finish(axes, "CKA of each block with itself before fine-tuning", "block")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Whole scales, lest the least difference look large; without bias, estimates near 0 may lie below it.
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.03)


def _draw_reuse(
    axes: Axes, runs: Sequence[RunResult], what: str, value_of: Callable[[FoldPoint], float | None]
) -> None:
    for index, run in enumerate(runs):
        points = [(point.reuse, value) for point in run.fold_points if (value := value_of(point)) is not None]
        known = [(reuse, value) for reuse, value in points if reuse is not None]
        if known:
            axes.plot(*zip(*known, strict=True), _mark(index), color=_color(index), label=_wrap(run.name), markersize=8)
    _finish(axes, f"Feature reuse and {what}, a mark per fold", "feature reuse (mean CKA of the blocks)")
    axes.set_ylabel(what)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.03)


def _finish(axes: Axes, title: str, x_title: str) -> None:
    """Title a panel and add its legend; say so where no run has what it would show."""
    axes.set(title=title, xlabel=x_title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "not analysed in any run", transform=axes.transAxes, ha="center", va="center", color="0.4")


def _wrap(name: str) -> str:
    """Return a name in lines short enough to leave the panels their room."""
    return textwrap.fill(name, NAME_CHARACTERS)


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _mark(index: int) -> str:
    return MARKS[index % len(MARKS)]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
