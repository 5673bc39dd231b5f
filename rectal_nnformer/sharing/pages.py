"""HTML reports rebuilt from an allow-list: text, tables and drawings alone; no script, picture or link out.

The encoding is always UTF-8: another one that a page names could let a browser read quotes and brackets where there are
none. A policy in the page forbids browsers to run or fetch anything, should the list ever miss something.
"""

import re
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser

MAX_BYTES = 32 << 20
_TAG_WORDS = """
    html head title style body header main footer nav section article div span p h1 h2 h3 h4 h5 h6 a b i em strong
    small sub sup code pre br hr ul ol li dl dt dd table caption thead tbody tfoot tr th td figure figcaption details
    summary svg g path rect circle ellipse line polyline polygon text tspan desc
"""
_SILENT_WORDS = "script iframe object embed template noscript video audio canvas select button form"
_ATTRIBUTE_WORDS = """
    class id lang colspan rowspan scope open role title aria-label aria-hidden aria-labelledby viewbox width
    height x y x1 y1 x2 y2 dx dy d points r cx cy rx ry transform fill stroke stroke-width stroke-dasharray
    stroke-linecap stroke-linejoin stroke-opacity fill-opacity opacity text-anchor dominant-baseline font-size
    font-weight preserveaspectratio
"""
TAGS = frozenset(_TAG_WORDS.split())
VOID_TAGS = frozenset(("br", "hr"))
SILENT_TAGS = frozenset(_SILENT_WORDS.split())
"""Tags whose content is left out with them."""
ATTRIBUTES = frozenset(_ATTRIBUTE_WORDS.split())
TEXT_ATTRIBUTES = frozenset(("title", "aria-label"))
_UNSAFE_STYLE = re.compile(r"url\s*\(|@import|expression|\\|<|image-set", re.IGNORECASE)
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2})?)?\b")
_HEAD = (
    '<!doctype html>\n<meta charset="utf-8">\n'
    """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">\n"""
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_UPPER = {"viewbox": "viewBox", "preserveaspectratio": "preserveAspectRatio"}


def clean_page(page: str, text: Callable[[str], str]) -> str:
    """Return a page with allowed tags and attributes alone, without dates; cleaning it again changes nothing.

    Args:
        page: HTML.
        text: Applied to every piece of text and attribute.
    """
    cleaner = _Cleaner(text)
    cleaner.feed(_CONTROL.sub("", page))
    cleaner.close()
    return _HEAD + "".join(cleaner.parts).strip() + "\n"


class _Cleaner(HTMLParser):
    def __init__(self, text: Callable[[str], str]) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._text = text
        self._silent = 0
        self._style: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SILENT_TAGS:
            self._silent += 1
        if self._silent or tag not in TAGS:
            return
        if tag == "style":
            self._style = []
        self.parts.append(f"<{tag}{''.join(self._attribute(*pair) for pair in attrs)}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in SILENT_TAGS:
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT_TAGS:
            self._silent = max(0, self._silent - 1)
        elif not self._silent and tag in TAGS - VOID_TAGS:
            if tag == "style" and self._style is not None:
                # Judged as a whole, however the parser cut it.
                style, self._style = "".join(self._style), None
                self.parts.append("" if _UNSAFE_STYLE.search(style) else style)
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._style is not None:
            self._style.append(data)
        else:
            self.parts.append(escape(_DATE.sub("(date removed)", self._text(data)), quote=False))

    def _attribute(self, name: str, value: str | None) -> str:
        value = value or ""
        is_anchor = name == "href" and value.startswith("#")
        # Drawings take styles in many attributes, and addresses with them.
        is_plain = name in TEXT_ATTRIBUTES or not _UNSAFE_STYLE.search(value)
        is_plain = is_plain and (name in ATTRIBUTES or name == "style")
        if not is_anchor and not is_plain:
            return ""
        return f' {_UPPER.get(name, name)}="{escape(_DATE.sub("", self._text(value)))}"'
