"""Pages from templates: the summary of a cross-validation and the comparison in Markdown, the report in HTML.

Templates of HTML escape whatever they are given; those of Markdown escape cells of tables, and names by `plain`.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from rectal_nnformer.analysis.records import ATTENTION_FILE, REUSE_FILE
from rectal_nnformer.evaluation.detection import MIN_IOU, MIN_VOXELS
from rectal_nnformer.evaluation.log_odds import NEAR_MM
from rectal_nnformer.evaluation.summary import patient_interval_words, rate_words
from rectal_nnformer.reporting import confidence_tables, tables
from rectal_nnformer.reporting.cohort import CohortAnalysis
from rectal_nnformer.reporting.comparison import Comparison
from rectal_nnformer.reporting.crossval_summary import CrossvalSummary
from rectal_nnformer.utils.text import number, numbered, percent, percent_interval, plain, plural, some

SCALE_MM = 20
"""Length of the bar in pictures."""
ENVIRONMENT = Environment(
    loader=PackageLoader("rectal_nnformer.reporting"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
WORDS = (number, numbered, patient_interval_words, percent, percent_interval, plural, rate_words, some)
ENVIRONMENT.globals.update({function.__name__: function for function in WORDS})
ENVIRONMENT.globals.update(MIN_IOU=MIN_IOU, MIN_VOXELS=MIN_VOXELS, NEAR_MM=NEAR_MM, SCALE_MM=SCALE_MM)
ENVIRONMENT.globals.update(tables=tables, sure=confidence_tables)
ENVIRONMENT.filters.update(plain=plain, markdown=tables.markdown)


def render(template: str, **context: Any) -> str:
    """Return a page; characters that UTF-8 cannot hold, which file names may have, become question marks."""
    page = ENVIRONMENT.get_template(template).render(context)
    return page.encode("utf-8", "replace").decode("utf-8")


def html_page(template: str, titles: Sequence[str], date: str, **context: Any) -> str:
    """Return a page with what it is about and the date as given; it needs no other file and no network."""
    # Parts of this package, which hold nothing that would end their elements.
    assets = resources.files("rectal_nnformer.reporting") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(style)}'; "
        f"script-src 'sha256-{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return render(
        template, titles=titles, date=date, policy=policy, style=Markup(style), script=Markup(script), **context
    )


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def crossval_page(summary: CrossvalSummary, picture: str, methods: str, claim: tables.Table | None) -> str:
    """Return crossval_summary.md, with a picture by the file name beside it, and what a paper can take over."""
    analysed = {fold for stage in summary.attention for fold in stage.adi_of_folds}
    reused = summary.reuse.folds if summary.reuse else {}
    return render(
        "crossval_summary.md",
        summary=summary,
        analysis=summary.analysis,
        pooled=summary.pooled,
        folds=summary.folds,
        cases=tables.cases_of(summary.folds),
        folds_without_attention=[fold for fold in summary.folds if fold not in analysed],
        folds_without_reuse=[fold for fold in summary.folds if fold not in reused],
        picture=picture,
        methods=methods,
        claim=claim,
    )


def groups_page(analysis: CohortAnalysis) -> str:
    """Return group_rates.md."""
    return render("group_rates.md", analysis=analysis)


def comparison_page(comparison: Comparison, picture: str) -> str:
    """Return compare.md, with a picture by the file name beside it."""
    models = comparison.models
    return render(
        "compare.md",
        comparison=comparison,
        models=models,
        pairs=comparison.pairs,
        analyses=[(model.name, model.analysis) for model in models],
        left_out=left_out_words(comparison),
        attention_missing=[(model.name, model.folds_without_attention) for model in models],
        reuse_missing=[(model.name, model.folds_without_reuse) for model in models],
        ATTENTION_FILE=ATTENTION_FILE,
        REUSE_FILE=REUSE_FILE,
        picture=picture,
    )


def left_out_words(comparison: Comparison) -> str:
    """Return which cases the models do not share, in a sentence; empty if they share all."""
    left_out = comparison.left_out_cases
    if not left_out:
        return ""
    total = comparison.num_shared_cases + len(left_out)
    shared = f"{comparison.num_shared_cases} of {total} cases {'is' if comparison.num_shared_cases == 1 else 'are'}"
    return f"{shared} in all models; the others are left out: {some(left_out)}."
