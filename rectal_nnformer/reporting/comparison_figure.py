"""The comparison in one picture: rates, differences, attention and feature reuse."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rectal_nnformer.evaluation.agreement import means_and_differences
from rectal_nnformer.evaluation.froc import BAND_RATES, FALSE_POSITIVE_RATES
from rectal_nnformer.evaluation.summary import NO_RESAMPLING
from rectal_nnformer.reporting.comparison import ComparedModel, Comparison
from rectal_nnformer.reporting.confidence_tables import rate_name

# Okabe and Ito's palette and a mark for each model, so that colour is never needed.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKS = "os^Dvx"
PIXELS_PER_INCH = 110
NAME_CHARACTERS = 26
MOST_IN_A_ROW = 3


def comparison_figure(comparison: Comparison) -> Figure:
    """Return a picture with a panel each for rates, differences, attention, features, FROC, reliability and volumes.

    What no model was analysed for has no panel; a model that was not is named in the panels of the others.
    """
    models = comparison.models
    columns: list[list[Callable[[Axes], None]]] = [
        [partial(_draw_rates, models=models), partial(_draw_differences, comparison=comparison)],
        [],
        [],
        [],
        [],
    ]
    if any(model.stages for model in models):
        columns[1].append(partial(_draw_attention, models=models))
    if any(model.reuse is not None for model in models):
        columns[1].append(partial(_draw_blocks, models=models))
    for what, field in (("detection rate", "detection_rate"), ("Dice, mean", "dice")):
        points = [_points(model, field) for model in models]
        if any(reuse for reuse, _ in points):
            columns[2].append(partial(_draw_reuse, models=models, points=points, what=what))
    if any(model.analysis.curves.merged for model in models):
        columns[3].append(partial(_draw_froc, models=models))
    if any(model.analysis.calibration for model in models):
        columns[3].append(partial(_draw_reliability, models=models))
    if any(model.analysis.volumes.n_cases for model in models):
        columns[4].append(partial(_draw_volumes, models=models))
    # Few panels would be tall strips: they stand side by side.
    panels = [panel for column in columns for panel in column]
    columns = [column for column in columns if column] if len(panels) > MOST_IN_A_ROW else [[one] for one in panels]
    figure = Figure(figsize=(5 * len(columns), 4.5 * max(map(len, columns))), dpi=PIXELS_PER_INCH, layout="constrained")
    # A panel that is alone in its column takes the whole of it.
    mosaic = figure.subplot_mosaic([[f"{at} {row % len(columns[at])}" for at in range(len(columns))] for row in (0, 1)])
    for name, axes in mosaic.items():
        column, row = map(int, name.split())
        columns[column][row](axes)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_rates(axes: Axes, models: Sequence[ComparedModel]) -> None:
    for index, model in enumerate(models):
        rate = model.detection.detection_rate
        if rate.rate is not None and rate.wilson_95 is not None:
            low, high = rate.wilson_95
            axes.plot([low, high], [index, index], color=_color(index), linewidth=5, alpha=0.35, solid_capstyle="round")
            axes.plot(rate.rate, index, MARKS[index % len(MARKS)], color=_color(index), markersize=9)
    counts = [f"{model.detection.n_detected}/{model.detection.n_reference}" for model in models]
    axes.set_yticks(
        range(len(models)),
        [f"{_wrap(model.name)}\n{n}" for model, n in zip(models, counts, strict=True)],
        parse_math=False,
    )
    axes.set(xlim=(-0.02, 1.02), title="Detection rate, 95 % Wilson interval")
    axes.set_ylim(len(models) - 0.4, -0.6)
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
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(title="Difference in detection rate, 95 % by patient")
    if all(pair.detection_rate.patient_bootstrap_95 is None for pair in comparison.pairs):
        axes.set_title(f"Difference in detection rate\n(no interval: {NO_RESAMPLING})")
    axes.grid(axis="x", alpha=0.3)


def _draw_attention(axes: Axes, models: Sequence[ComparedModel]) -> None:
    stages = [[stage.stage for stage in model.stages] for model in models]
    _plot(axes, models, stages, [[stage.means["adi"] for stage in model.stages] for model in models])
    for index, model in enumerate(models):
        uniform = np.array([stage.means["uniform_adi"] for stage in model.stages], dtype=float)
        axes.plot(stages[index], uniform, color=_color(index), linestyle=":", linewidth=1)
    _finish(axes, "Attention dilution index (dotted: uniform attention)", "stage")
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(max(map(len, stages))))


def _draw_blocks(axes: Axes, models: Sequence[ComparedModel]) -> None:
    diagonals = [model.reuse.diagonal if model.reuse else () for model in models]
    _plot(axes, models, [range(1, len(diagonal) + 1) for diagonal in diagonals], diagonals)
    _finish(axes, "CKA of each block with itself before fine-tuning", "block")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Whole scales, lest the least difference look large; without bias, estimates near 0 may lie below it.
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.03)


def _draw_reuse(
    axes: Axes, models: Sequence[ComparedModel], points: Sequence[tuple[list[float], list[float]]], what: str
) -> None:
    _plot(axes, models, *zip(*points, strict=True), linestyle="", markersize=8)
    _finish(axes, f"Feature reuse and {what}, a mark per fold", "feature reuse (mean CKA of the blocks)")
    axes.set_ylabel(what)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.03)


def _draw_froc(axes: Axes, models: Sequence[ComparedModel]) -> None:
    curves = [model.analysis.curves.points for model in models]
    x = [[point.false_positives_per_case for point in of_model] for of_model in curves]
    y = [[point.sensitivity for point in of_model] for of_model in curves]
    _plot(axes, models, x, y, marker="", drawstyle="steps-post")
    for index, model in enumerate(models):
        if mask := model.analysis.curves.mask:
            sensitivity = np.array([mask.sensitivity], dtype=float)
            axes.plot([mask.false_positives_per_case], sensitivity, MARKS[index % len(MARKS)], color=_color(index))
    _finish(axes, "FROC (marks: the masks as they are)", "false positives per case")
    axes.set(ylabel="tumours detected", ylim=(-0.03, 1.03), xlim=(BAND_RATES[0], BAND_RATES[-1]))
    axes.set_xscale("log", base=2)
    axes.set_xticks(FALSE_POSITIVE_RATES, [rate_name(rate) for rate in FALSE_POSITIVE_RATES])


def _draw_reliability(axes: Axes, models: Sequence[ComparedModel]) -> None:
    regions = [model.analysis.calibration and model.analysis.calibration.before.near_tumor for model in models]
    bins = [[one for one in region.bins if one.n_voxels] if region else [] for region in regions]
    x = [[one.mean_probability or 0.0 for one in of_model] for of_model in bins]
    _plot(axes, models, x, [[one.tumor_share for one in of_model] for of_model in bins])
    axes.plot([0, 1], [0, 1], color="0.15", linewidth=0.8)
    _finish(axes, "Reliability near the tumour", "probability of tumour")
    axes.set(ylabel="share of tumour", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def _draw_volumes(axes: Axes, models: Sequence[ComparedModel]) -> None:
    """Draw Bland and Altman's picture: a mark per case, the bias as a line, the limits dashed."""
    points = [means_and_differences(model.detection.cases) for model in models]
    x, y = ([of_model[:, column].tolist() for of_model in points] for column in (0, 1))
    _plot(axes, models, x, y, linestyle="", markersize=5)
    for index, model in enumerate(models):
        limits = model.analysis.volumes.difference_cm3
        for level, style in ((limits.bias, "-"), (limits.lower, "--"), (limits.upper, "--")):
            if level is not None:
                axes.axhline(level, color=_color(index), linestyle=style, linewidth=1)
    _finish(axes, "Volumes, bias and 95 % limits (Bland and Altman)", "mean of both volumes (cm³)")
    axes.set_ylabel("prediction - reference (cm³)")


def _points(model: ComparedModel, field: str) -> tuple[list[float], list[float]]:
    """Return feature reuse and a result of the folds that have both."""
    points = [(point.reuse, getattr(point, field)) for point in model.fold_points]
    defined = [(reuse, value) for reuse, value in points if reuse is not None and value is not None]
    return [reuse for reuse, _ in defined], [value for _, value in defined]


def _plot(
    axes: Axes,
    models: Sequence[ComparedModel],
    x: Sequence[Sequence[float]],
    y: Sequence[Sequence[float | None]],
    **options: Any,
) -> None:
    """Plot the values of each model, those that are defined; name one that has none in the legend, without a mark."""
    for index, model in enumerate(models):
        if x[index]:
            style = {"color": _color(index), "marker": MARKS[index % len(MARKS)], **options}
            axes.plot(x[index], np.array(y[index], dtype=float), label=_wrap(model.name), **style)
        else:
            axes.plot([], [], " ", label=f"{_wrap(model.name)}: not analysed")


def _finish(axes: Axes, title: str, x_title: str) -> None:
    """Title a panel and add its legend."""
    axes.set(title=title, xlabel=x_title)
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=8).texts:
        text.set_parse_math(False)


def _wrap(name: str) -> str:
    """Return a name in lines short enough to leave the panels their room."""
    return textwrap.fill(name, NAME_CHARACTERS)


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]
