"""Charts as inline SVG, in pixels of a phone, coloured by the style sheet and told in words.

Every chart has a title and a description for screen readers; series differ by the shape of their marks and the dashes
of their lines, not by colour alone. The numbers stand in a table beside each chart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rectal_nnformer.evaluation.rates import Interval
from rectal_nnformer.reporting.report.markup import Markup, join, tag

WIDTH = 360
LEGEND_CHARACTERS = 38
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
DARKEST, LIGHTEST = (8, 48, 107), (239, 244, 251)


@dataclass(frozen=True)
class IntervalRow:
    """One row of an interval chart.

    Attributes:
        label: What it is of.
        note: Short text at its end, such as counts.
        value: The share, None where it is undefined.
        interval: Its interval.
    """

    label: str
    note: str
    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Series:
    """One line of a profile chart.

    Attributes:
        name: For the legend.
        values: One per place on the x axis, None where undefined.
        intervals: One per value, or empty for none.
        style: Number of mark, dash and colour.
    """

    name: str
    values: Sequence[float | None]
    intervals: Sequence[Interval | None] = ()
    style: int = 0


def interval_chart(ident: str, title: str, description: str, rows: Sequence[IntervalRow]) -> Markup:
    """Return shares from 0 to 100 % with their intervals, a row each."""
    left, right, row_height, top = 92, 48, 34, 8
    span = WIDTH - left - right
    bottom = top + row_height * len(rows)

    def x(share: float) -> float:
        return left + span * share

    shapes = [
        join(
            [
                tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid"),
                tag("text", f"{tick:.0%}".replace("%", " %"), x=x(tick), y=bottom + 16, text_anchor="middle"),
            ]
        )
        for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    for number, row in enumerate(rows):
        y = top + row_height * (number + 0.5)
        shapes.append(tag("text", row.label, x=left - 10, y=y + 4, text_anchor="end", class_="strong"))
        shapes.append(tag("text", row.note, x=WIDTH - right + 10, y=y + 4))
        if row.value is not None and row.interval is not None:
            low, high = row.interval
            shapes.append(tag("line", x1=x(low), x2=x(high), y1=y, y2=y, class_="whisker style-0"))
            shapes.append(tag("circle", cx=x(row.value), cy=y, r=6, class_="mark style-0"))
    return _svg(ident, title, description, bottom + 24, shapes)


def profile_chart(
    ident: str,
    title: str,
    description: str,
    places: Sequence[str],
    series: Sequence[Series],
    axis_title: str,
    bounds: tuple[float, float] | None = None,
) -> Markup:
    """Return values per stage or block as marks joined by lines, a legend line for each series above.

    Args:
        ident: Prefix of the ids in it, unique on the page.
        title: Accessible name.
        description: Accessible description.
        places: Labels along the x axis.
        series: What is drawn.
        axis_title: Name of the x axis.
        bounds: Of the y axis; None takes 0 to the next round number above all values.
    """
    left, right, height = 44, 14, 190
    top = 14 + 20 * len(series)
    bottom = top + height
    low, high = bounds or (0.0, _round_up(max((v for s in series for v in _defined(s)), default=1.0)))
    step = (WIDTH - left - right) / max(len(places), 1)

    def x(index: int) -> float:
        return left + step * (index + 0.5)

    def y(value: float) -> float:
        return bottom - height * (min(max(value, low), high) - low) / (high - low)

    shapes = [_legend_line(number, one, left) for number, one in enumerate(series)]
    for tick in (low + (high - low) * i / 4 for i in range(5)):
        shapes.append(tag("line", x1=left, x2=WIDTH - right, y1=y(tick), y2=y(tick), class_="grid"))
        shapes.append(tag("text", f"{tick:.3g}", x=left - 8, y=y(tick) + 4, text_anchor="end"))
    every = math.ceil(len(places) / 12)
    shapes += [
        tag("text", place, x=x(index), y=bottom + 18, text_anchor="middle")
        for index, place in enumerate(places)
        if index % every == 0
    ]
    shapes.append(tag("text", axis_title, x=left + (WIDTH - left - right) / 2, y=bottom + 36, text_anchor="middle"))
    for one in series:
        shapes.append(_drawn_series(one, [(x(i), v) for i, v in enumerate(one.values)], y))
    return _svg(ident, title, description, bottom + 44, shapes)


def heat_map(ident: str, title: str, description: str, matrix: Sequence[Sequence[float | None]], axes: str) -> Markup:
    """Return a square matrix of values between 0 and 1, darker for larger ones, with its scale; row 0 is on top.

    Args:
        ident: Prefix of the ids in it, unique on the page.
        title: Accessible name.
        description: Accessible description.
        matrix: Rows of values; None is hatched out.
        axes: What rows and columns are.
    """
    left, top = 30, 10
    size = WIDTH - left - 10
    cell = size / max(len(matrix), 1)
    shapes = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            name = tag("title", f"{i + 1}, {j + 1}: {'undefined' if value is None else f'{value:.2f}'}")
            place = {"x": left + j * cell, "y": top + i * cell, "width": cell, "height": cell}
            shapes.append(tag("rect", name, **place, fill=_shade(value)))
            if len(matrix) <= 8 and value is not None:
                ink = "#ffffff" if value > 0.6 else "#10243e"
                center = {"x": left + (j + 0.5) * cell, "y": top + (i + 0.5) * cell + 4}
                shapes.append(tag("text", f"{value:.2f}", **center, text_anchor="middle", fill=ink, class_="in-cell"))
    every = math.ceil(len(matrix) / 9)
    for index in range(0, len(matrix), every):
        middle = (index + 0.5) * cell
        shapes.append(tag("text", str(index + 1), x=left - 6, y=top + middle + 4, text_anchor="end"))
        shapes.append(tag("text", str(index + 1), x=left + middle, y=top + size + 16, text_anchor="middle"))
    shapes.append(tag("text", axes, x=left + size / 2, y=top + size + 36, text_anchor="middle"))
    shapes.append(_scale(left, top + size + 50, size))
    return _svg(ident, title, description, top + size + 86, shapes)


def _svg(ident: str, title: str, description: str, height: float, shapes: Sequence[Markup]) -> Markup:
    return tag(
        "svg",
        tag("title", title, id=f"{ident}-name"),
        tag("desc", description, id=f"{ident}-description"),
        *shapes,
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_labelledby=f"{ident}-name",
        aria_describedby=f"{ident}-description",
        class_="chart",
    )


def _legend_line(number: int, series: Series, left: float) -> Markup:
    y = 12 + 20 * number
    style = f"style-{series.style % len(SHAPES)}"
    return join(
        [
            tag("line", x1=left, x2=left + 30, y1=y, y2=y, class_=f"line {style}"),
            _mark(left + 15, y, series.style),
            tag("text", _shortened(series.name), x=left + 40, y=y + 4),
        ]
    )


def _shortened(name: str) -> str:
    """Return a name that fits into a line of the legend; the table beside the chart has the whole one."""
    return name if len(name) <= LEGEND_CHARACTERS else f"{name[: LEGEND_CHARACTERS - 1]}…"


def _drawn_series(series: Series, points: Sequence[tuple[float, float | None]], y: Callable[[float], float]) -> Markup:
    style = f"style-{series.style % len(SHAPES)}"
    known = [(x, y(value)) for x, value in points if value is not None]
    line = tag("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in known), class_=f"line {style}")
    whiskers = [
        tag("line", x1=points[i][0], x2=points[i][0], y1=y(bounds[0]), y2=y(bounds[1]), class_=f"whisker {style}")
        for i, bounds in enumerate(series.intervals)
        if bounds is not None
    ]
    return join([*whiskers, line, *(_mark(a, b, series.style) for a, b in known)])


def _mark(x: float, y: float, style: int) -> Markup:
    """Return the mark of a series around a point."""
    class_ = f"mark style-{style % len(SHAPES)}"
    shape = SHAPES[style % len(SHAPES)]
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=4.5, class_=class_)
    paths = {
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8Z",
        "triangle": f"M{x:.1f} {y - 5:.1f}l5 9h-10Z",
        "diamond": f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5Z",
        "cross": f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8",
    }
    return tag("path", d=paths[shape], class_=class_)


def _scale(left: float, y: float, width: float) -> Markup:
    steps = 20
    rects = [
        tag("rect", x=left + width * i / steps, y=y, width=width / steps + 0.5, height=10, fill=_shade(i / (steps - 1)))
        for i in range(steps)
    ]
    ends = [("0", left, "start"), ("1", left + width, "end")]
    return join([*rects, *(tag("text", text, x=x, y=y + 26, text_anchor=anchor) for text, x, anchor in ends)])


def _shade(value: float | None) -> str:
    if value is None:
        return "#999999"
    share = min(max(value, 0.0), 1.0)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(LIGHTEST, DARKEST, strict=True))


def _defined(series: Series) -> list[float]:
    return [v for v in series.values if v is not None] + [b[1] for b in series.intervals if b is not None]


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5, 6, 8, 10 times a power of ten, so that quarters of the axis are round."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 5, 6, 8, 10) if factor * power >= value * 0.999)
