"""The page as a whole: head, style, sections, script; nothing in it asks the network for anything."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from rectal_nnformer.evaluation.summary import detection_line
from rectal_nnformer.reporting.report import about, analysis, cards, results
from rectal_nnformer.reporting.report.gallery import Clip
from rectal_nnformer.reporting.report.markup import Markup, join, tag
from rectal_nnformer.reporting.runs import Run

CONTENTS = {
    "result": "Result",
    "size": "By size",
    "cases": "Cases",
    "pictures": "Pictures",
    "folds": "Folds",
    "attention": "Attention",
    "features": "Features",
    "plan": "Plan",
    "about": "Made with",
    "meaning": "Terms",
}


def report_page(run: Run, clips: Sequence[Clip], date: str) -> str:
    """Return the report as HTML.

    Args:
        run: What is reported.
        clips: Pictures of its lesions.
        date: When it is written, as it shall read.
    """
    sections = [
        results.headline(run),
        results.sizes(run.pooled),
        results.cases(run, cards.card_ids(clips)),
        cards.gallery(clips),
        results.folds(run),
        analysis.attention(run),
        analysis.features(run),
        about.plan(run),
        about.about(run, date),
        about.meaning(),
    ]
    style, script = _asset("report.css"), _asset("report.js")
    body = tag(
        "body",
        tag("a", "Skip to the result", href="#result", class_="skip"),
        _header(run, date),
        tag("main", *sections),
        tag("footer", tag("p", "For research; not a medical device. Written by rectal_nnformer.")),
        tag("script", script),
    )
    return f"<!DOCTYPE html>\n{tag('html', _head(run, style, script), body, lang='en')}\n"


def _head(run: Run, style: Markup, script: Markup) -> Markup:
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", **{"http-equiv": "Content-Security-Policy"}, content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="description", content=detection_line(run.pooled)),
        tag("link", rel="icon", href="data:,"),
        tag(
            "title",
            f"{run.pooled.n_detected} of {run.pooled.n_reference} tumours detected: {run.dataset}, {run.trainer}",
        ),
        tag("style", style),
    )


def _header(run: Run, date: str) -> Markup:
    links = [tag("li", tag("a", words, href=f"#{ident}")) for ident, words in CONTENTS.items()]
    return tag(
        "header",
        tag("p", "Tumour detection report", class_="kicker"),
        # A name without spaces may break after its underscores.
        tag("h1", join(run.dataset.split("_"), Markup("_<wbr>"))),
        tag(
            "p",
            join([*(tag("bdi", name) for name in (run.trainer, run.plans_name, run.configuration)), date], " · "),
            class_="subtitle",
        ),
        tag("nav", tag("ul", *links), aria_label="Sections"),
    )


def _asset(name: str) -> Markup:
    """Return a file that is part of this package and holds nothing that would end its element."""
    return Markup((resources.files("rectal_nnformer.reporting.report") / "assets" / name).read_text(encoding="utf-8"))


def _hash(content: Markup) -> str:
    return base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
