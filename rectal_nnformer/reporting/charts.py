"""Charts as inline SVG, in pixels of a phone, coloured by the style sheet and told in words.

Every chart has a title and a description for screen readers; series differ by the shape of their marks and the dashes
of their lines, not by colour alone. The numbers stand in a table beside each chart.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from rectal_nnformer.evaluation.rates import Interval, Rate
from rectal_nnformer.evaluation.statistics import Difference
from rectal_nnformer.reporting.tables import counts

WIDTH = 360
LEGEND_CHARACTERS = 38
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
DARKEST, LIGHTEST = (8, 48, 107), (239, 244, 251)

# Text that is put into these is escaped.
LINE = Markup('<line x1="{:.6g}" y1="{:.6g}" x2="{:.6g}" y2="{:.6g}" class="{}"/>')
TEXT = Markup('<text x="{:.6g}" y="{:.6g}" text-anchor="{}">{}</text>')
LABEL = Markup('<text x="{:.6g}" y="{:.6g}" text-anchor="end" class="strong">{}</text>')
SIDEWAYS = Markup('<text transform="translate({:.6g} {:.6g}) rotate(-90)" text-anchor="middle">{}</text>')
IN_CELL = Markup('<text x="{:.6g}" y="{:.6g}" text-anchor="middle" fill="{}" class="in-cell">{:.2f}</text>')
CIRCLE = Markup('<circle cx="{:.6g}" cy="{:.6g}" r="{}" class="mark style-{}"/>')
PATH = Markup('<path d="{}" class="mark style-{}"/>')
POLYLINE = Markup('<polyline points="{}" class="line style-{}"/>')
CELL = Markup('<rect x="{:.6g}" y="{:.6g}" width="{:.6g}" height="{:.6g}" fill="{}">{}</rect>')
CHART = Markup(
    '<svg viewBox="0 0 {width} {height:g}" role="img" aria-labelledby="{ident}-name" '
    'aria-describedby="{ident}-description" class="chart"><title id="{ident}-name">{title}</title>'
    '<desc id="{ident}-description">{description}</desc>{shapes}</svg>'
)


BAND = Markup('<polygon points="{}" class="band style-{}"/>')


@dataclass(frozen=True)
class Axis:
    """An axis of a plane chart, from `low` to `high`, with its ticks in words; what lies beyond is drawn at its end."""

    title: str
    low: float
    high: float
    ticks: Mapping[float, str]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where on the axis a value is, from 0 to 1."""
        inside = min(max(value, self.low), self.high)
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, inside))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Curve:
    """What is drawn in a plane chart: points (x, y) as a line or as marks, over a band of (x, low, high).

    A curve without a name has no line in the legend.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    kind: Literal["line", "marks", "both"] = "line"
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Series:
    """One line of a profile chart: a value for each place on the x axis, and the number of mark, dash and colour."""

    name: str
    values: Sequence[float | None]
    intervals: Sequence[Interval | None] = ()
    style: int = 0


def interval_chart(ident: str, title: str, description: str, rates: Mapping[str, Rate]) -> Markup:
    """Return rates from 0 to 100 % with their Wilson intervals, a row each."""
    left, right, row_height, top = 92, 48, 34, 8
    bottom = top + row_height * len(rates)

    def x(share: float) -> float:
        return left + (WIDTH - left - right) * share

    shapes = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        shapes.append(LINE.format(x(tick), top, x(tick), bottom, "grid"))
        shapes.append(TEXT.format(x(tick), bottom + 16, "middle", f"{100 * tick:.0f} %"))
    for number, (label, rate) in enumerate(rates.items()):
        y = top + row_height * (number + 0.5)
        shapes.append(LABEL.format(left - 10, y + 4, label))
        shapes.append(TEXT.format(WIDTH - right + 10, y + 4, "start", counts(rate, "-")))
        if rate.rate is not None and rate.wilson_95 is not None:
            low, high = rate.wilson_95
            shapes.append(LINE.format(x(low), y, x(high), y, "whisker style-0"))
            shapes.append(CIRCLE.format(x(rate.rate), y, 6, 0))
    return _svg(ident, title, description, bottom + 24, shapes)


def difference_chart(
    ident: str, title: str, description: str, rows: Mapping[str, Difference], notes: Mapping[str, str]
) -> Markup:
    """Return differences with their intervals, a row each with a note at its end, around a line at 0: a forest plot."""
    left, right, row_height, top = 118, 62, 34, 8
    bottom = top + row_height * len(rows)
    drawn = [value for row in rows.values() for value in (row.value or 0.0, *(row.patient_bootstrap_95 or ()))]
    most = _round_up(max(map(abs, drawn), default=0.0) or 0.1)

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * (value + most) / (2 * most)

    shapes = []
    for tick in (-most, 0.0, most):
        shapes.append(LINE.format(x(tick), top, x(tick), bottom, "grid"))
        shapes.append(TEXT.format(x(tick), bottom + 16, "middle", f"{tick:+.3g}" if tick else "0"))
    for number, (label, row) in enumerate(rows.items()):
        y = top + row_height * (number + 0.5)
        shapes.append(LABEL.format(left - 10, y + 4, label if len(label) <= 16 else f"{label[:15]}…"))
        shapes.append(TEXT.format(WIDTH - right + 8, y + 4, "start", notes[label]))
        if row.patient_bootstrap_95 is not None:
            low, high = row.patient_bootstrap_95
            shapes.append(LINE.format(x(low), y, x(high), y, "whisker style-0"))
        if row.value is not None:
            shapes.append(CIRCLE.format(x(row.value), y, 6, 0))
    return _svg(ident, title, description, bottom + 24, shapes)


def profile_chart(
    ident: str,
    title: str,
    description: str,
    places: Sequence[str],
    series: Sequence[Series],
    axis_title: str,
    bounds: Interval | None = None,
) -> Markup:
    """Return values per stage or block as marks joined by lines, a legend line for each series above.

    `ident` begins the ids in it and is unique on the page. Without `bounds` the y axis goes from 0 to the next round
    number above all values.
    """
    left, right, height = 44, 14, 190
    top = 14 + 20 * len(series)
    bottom = top + height
    drawn = [value for one in series for value in (*one.values, *(i and i[1] for i in one.intervals))]
    low, high = bounds or (0.0, _round_up(max((value for value in drawn if value is not None), default=1.0)))
    step = (WIDTH - left - right) / max(len(places), 1)

    def x(index: int) -> float:
        return left + step * (index + 0.5)

    def y(value: float) -> float:
        return bottom - height * (min(max(value, low), high) - low) / (high - low)

    shapes = [shape for n, one in enumerate(series) for shape in _legend(n, left, one.name, one.style, "both")]
    for tick in (low + (high - low) * i / 4 for i in range(5)):
        shapes.append(LINE.format(left, y(tick), WIDTH - right, y(tick), "grid"))
        shapes.append(TEXT.format(left - 8, y(tick) + 4, "end", f"{tick:.3g}"))
    for index in range(0, len(places), math.ceil(len(places) / 12) or 1):
        shapes.append(TEXT.format(x(index), bottom + 18, "middle", places[index]))
    shapes.append(TEXT.format(left + (WIDTH - left - right) / 2, bottom + 36, "middle", axis_title))
    for one in series:
        shapes += _drawn_series(one, x, y)
    return _svg(ident, title, description, bottom + 44, shapes)


def plane_chart(
    ident: str, title: str, description: str, x_axis: Axis, y_axis: Axis, curves: Sequence[Curve]
) -> Markup:
    """Return curves and marks in a plane, a legend line for each that has a name above; `ident` as in profiles."""
    left, right, height = 66, 14, 240
    named = [curve for curve in curves if curve.name]
    top = 14 + 20 * len(named)
    bottom = top + height

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (WIDTH - left - right) * x_axis.share(x), bottom - height * y_axis.share(y)

    shapes = [shape for n, one in enumerate(named) for shape in _legend(n, left, one.name, one.style, one.kind)]
    for tick, words in y_axis.ticks.items():
        _, y = place(x_axis.low, tick)
        shapes += [LINE.format(left, y, WIDTH - right, y, "grid"), TEXT.format(left - 8, y + 4, "end", words)]
    for tick, words in x_axis.ticks.items():
        x, _ = place(tick, y_axis.low)
        shapes += [LINE.format(x, top, x, bottom, "grid"), TEXT.format(x, bottom + 18, "middle", words)]
    # Along the axis, where it has the height for itself.
    shapes.append(SIDEWAYS.format(12, (top + bottom) / 2, y_axis.title))
    shapes.append(TEXT.format((left + WIDTH - right) / 2, bottom + 36, "middle", x_axis.title))
    for curve in curves:
        style = curve.style % len(SHAPES)
        if curve.band:
            edge = [place(x, high) for x, _, high in curve.band] + [place(x, low) for x, low, _ in curve.band[::-1]]
            shapes.append(BAND.format(_joined(edge), style))
        points = [place(*point) for point in curve.points]
        if curve.kind != "marks":
            shapes.append(POLYLINE.format(_joined(points), style))
        if curve.kind != "line":
            shapes += [_mark(x, y, style) for x, y in points]
    return _svg(ident, title, description, bottom + 44, shapes)


def round_axis(title: str, values: Sequence[float]) -> Axis:
    """Return a linear axis that holds values and 0, between round numbers, with a tick at each quarter or so."""
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    step = _round_up(max(high - low, 1e-9) / 4)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step + 1e-9) + 1)
    return Axis(title, first * step, last * step, {n * step: f"{n * step:.6g}" for n in range(first, last + 1)})


def _legend(number: int, left: float, name: str, style: int, kind: str) -> list[Markup]:
    """Return a line of a legend, which is above the chart."""
    middle, style = 12 + 20 * number, style % len(SHAPES)
    line = LINE.format(left, middle, left + 30, middle, f"line style-{style}")
    # The table beside the chart has the whole name.
    shown = name if len(name) <= LEGEND_CHARACTERS else f"{name[: LEGEND_CHARACTERS - 1]}…"
    parts = [line] * (kind != "marks") + [_mark(left + 15, middle, style)] * (kind != "line")
    return [*parts, TEXT.format(left + 40, middle + 4, "start", shown)]


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def heat_map(ident: str, title: str, description: str, matrix: Sequence[Sequence[float | None]], axes: str) -> Markup:
    """Return a square matrix of values between 0 and 1, darker for larger ones, with its scale; row 0 is on top.

    None is hatched out. `axes` says what rows and columns are.
    """
    left, top = 30, 10
    size = WIDTH - left - 10
    cell = size / max(len(matrix), 1)
    shapes = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            x, y = left + j * cell, top + i * cell
            words = "undefined" if value is None else f"{value:.2f}"
            name = Markup("<title>{}, {}: {}</title>").format(i + 1, j + 1, words)
            shapes.append(CELL.format(x, y, cell, cell, _shade(value), name))
            if len(matrix) <= 8 and value is not None:
                ink = "#ffffff" if value > 0.6 else "#10243e"
                shapes.append(IN_CELL.format(x + cell / 2, y + cell / 2 + 4, ink, value))
    for index in range(0, len(matrix), math.ceil(len(matrix) / 9) or 1):
        middle = (index + 0.5) * cell
        shapes.append(TEXT.format(left - 6, top + middle + 4, "end", index + 1))
        shapes.append(TEXT.format(left + middle, top + size + 16, "middle", index + 1))
    shapes.append(TEXT.format(left + size / 2, top + size + 36, "middle", axes))
    scale, steps = top + size + 50, 20
    for i in range(steps):
        x = left + size * i / steps
        shapes.append(CELL.format(x, scale, size / steps + 0.5, 10, _shade(i / (steps - 1)), ""))
    shapes += [TEXT.format(left, scale + 26, "start", 0), TEXT.format(left + size, scale + 26, "end", 1)]
    return _svg(ident, title, description, top + size + 86, shapes)


def _svg(ident: str, title: str, description: str, height: float, shapes: Sequence[Markup]) -> Markup:
    joined = Markup().join(shapes)
    return CHART.format(width=WIDTH, height=height, ident=ident, title=title, description=description, shapes=joined)


def _drawn_series(series: Series, x: Callable[[int], float], y: Callable[[float], float]) -> list[Markup]:
    style = series.style % len(SHAPES)
    known = [(x(index), y(value)) for index, value in enumerate(series.values) if value is not None]
    whiskers = [
        LINE.format(x(index), y(bounds[0]), x(index), y(bounds[1]), f"whisker style-{style}")
        for index, bounds in enumerate(series.intervals)
        if bounds is not None
    ]
    line = POLYLINE.format(_joined(known), style)
    return [*whiskers, line, *(_mark(a, b, style) for a, b in known)]


def _mark(x: float, y: float, style: int) -> Markup:
    """Return the mark of a series around a point."""
    if SHAPES[style] == "circle":
        return CIRCLE.format(x, y, 4.5, style)
    paths = {
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8Z",
        "triangle": f"M{x:.1f} {y - 5:.1f}l5 9h-10Z",
        "diamond": f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5Z",
        "cross": f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8",
    }
    return PATH.format(paths[SHAPES[style]], style)


def _shade(value: float | None) -> str:
    if value is None:
        return "#999999"
    share = min(max(value, 0.0), 1.0)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(LIGHTEST, DARKEST, strict=True))


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5, 6, 8, 10 times a power of ten, so that quarters of the axis are round."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 5, 6, 8, 10) if factor * power >= value * 0.999)
