"""Tables and the other blocks that every section of the page is made of."""

from collections.abc import Iterable, Sequence

from rectal_nnformer.reporting.report.markup import Content, Markup, tag


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Content]], numeric_from: int = 1) -> Markup:
    """Return a table whose first column names the rows, in a frame that scrolls where the page is too narrow.

    Args:
        caption: What the table holds; it also names the frame for screen readers.
        header: Names of the columns.
        rows: Cells; the first of each is the row's header.
        numeric_from: The column from which on cells are numbers.
    """
    head = tag("tr", *(tag("th", name, scope="col", class_=_number(i, numeric_from)) for i, name in enumerate(header)))
    body = (
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_=_number(i, numeric_from)) for i, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    )
    content = tag("table", caption_of(caption), tag("thead", head), tag("tbody", *body))
    return scroll_frame(caption, content)


def caption_of(text: str) -> Markup:
    """Return a table's caption, which stays in sight where the table is wider than its frame and scrolls."""
    return tag("caption", tag("span", text))


def scroll_frame(label: str, content: Markup, class_: str = "frame") -> Markup:
    """Return content in a frame that scrolls by keyboard too, so that the page itself never scrolls sideways."""
    return tag("div", content, class_=class_, tabindex=0, role="region", aria_label=label)


def definitions(pairs: Iterable[tuple[str, Content]], class_: str = "facts") -> Markup:
    """Return names and values."""
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value is not None),
        class_=class_,
    )


def section(ident: str, title: str, *content: Content) -> Markup:
    """Return a landmark with its heading."""
    heading = tag("h2", title, id=f"{ident}-title")
    return tag("section", heading, *content, id=ident, aria_labelledby=f"{ident}-title")


def numbers_below(chart: Markup, numbers: Markup) -> Markup:
    """Return a chart with the table of its numbers, side by side where there is room."""
    return tag("div", tag("figure", chart), numbers, class_="pair")


def _number(column: int, numeric_from: int) -> str | None:
    return "number" if column >= numeric_from else None
