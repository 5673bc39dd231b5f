"""Building HTML and SVG so that nothing unescaped can reach a page."""

import html
from collections.abc import Iterable

VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
"""Elements without content, which have no end tag."""

Attribute = str | int | float | bool | None


class Markup(str):
    """Text that is HTML already; every other string is escaped where it meets one."""

    __slots__ = ()


Content = str | None
"""What an element can hold: `Markup` as it is, other text escaped, None as nothing."""


def tag(name: str, /, *content: Content, **attributes: Attribute) -> Markup:
    """Return an element with escaped content and attributes.

    Args:
        name: Its name.
        content: Its children; None is left out.
        attributes: `class_` stands for class, `data_name` for data-name; None and False are left out, True has no
            value.
    """
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Markup(start) if name in VOID else Markup(f"{start}{join(content)}</{name}>")


def join(parts: Iterable[Content], separator: str = "") -> Markup:
    """Return escaped parts as one; None is left out."""
    return Markup(separator.join(escape(part) for part in parts if part is not None))


def escape(text: str) -> Markup:
    """Return text as HTML; characters that UTF-8 cannot hold, which file names may have, become question marks."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True))


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
