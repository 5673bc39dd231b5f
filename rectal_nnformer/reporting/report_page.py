"""What the template of the report shows of a trained model, or of scored predictions; the page needs no other file."""

import inspect
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rectal_nnformer.analysis.records import ATTENTION_FILE, REUSE_FILE
from rectal_nnformer.evaluation.summary import detection_line
from rectal_nnformer.nnunet.names import CUBIC
from rectal_nnformer.planning.explanation import describe_plans
from rectal_nnformer.planning.record import planning_record
from rectal_nnformer.reporting import tables
from rectal_nnformer.reporting.analyses import ReuseOverFolds, StageOverFolds, attention_over_folds, reuse_over_folds
from rectal_nnformer.reporting.charts import Series, heat_map, interval_chart, profile_chart
from rectal_nnformer.reporting.cohort import analyse_results
from rectal_nnformer.reporting.confidence_page import confidence_context
from rectal_nnformer.reporting.gallery import Clip
from rectal_nnformer.reporting.methods import claim_table, methods_text, software_versions, training_settings
from rectal_nnformer.reporting.pages import html_page
from rectal_nnformer.reporting.results import (
    NO_FOLD,
    FolderResults,
    ModelResults,
    Results,
    count_shared_patients,
    cubic_siblings,
    scans_seen_twice,
)
from rectal_nnformer.utils.text import number, percent

OPEN_AT_MOST = 30
"""Groups of more cards than this are closed at first, except that of the missed tumours."""
MOST_EPOCHS = 40
TRIAL = "_CPU"
"""How trainers are called that are for trying things out."""


def report_page(results: Results, clips: Sequence[Clip], date: str, groups: Path | None = None) -> str:
    """Return the report as HTML, with the date as given; `groups` is a table of groups other than the one kept."""
    analysis = analyse_results(results, groups)
    cards = [(f"card-{place}", clip) for place, clip in enumerate(clips, start=1)]
    return html_page(
        "report.html",
        results.titles,
        date,
        results=results,
        pooled=results.pooled,
        detection_line=detection_line(results.pooled),
        **_detection(results),
        **confidence_context(results, analysis),
        cards=cards,
        card_of={clip.subject.case: ident for ident, clip in reversed(cards)},
        without_picture=sum(not clip.pictures for clip in clips),
        open_at_most=OPEN_AT_MOST,
        **(_trained(results) if isinstance(results, ModelResults) else {"model": None}),
        trained_on=results.trained_on if isinstance(results, FolderResults) else (),
        about=_about(results, date),
        versions=software_versions().items(),
        methods=methods_text(results, analysis),
        claim=claim_table(results, analysis),
    )


def _trained(model: ModelResults) -> dict[str, Any]:
    """Return what there is to be told of a trained model alone."""
    return {
        "model": model,
        "is_trial": model.folder.trainer.endswith(TRIAL),
        "num_training": model.dataset_json.get("numTraining", 0),
        "shared_patients": count_shared_patients(model.folds),
        "scans_seen_twice": scans_seen_twice(model),
        **_attention(model),
        **_features(model),
        "plan": _planned(model),
        "settings": training_settings(model),
    }


def _about(results: Results, date: str) -> dict[str, str]:
    """Return what made the predictions, by name."""
    if isinstance(results, FolderResults):
        known = {name.replace("_", " "): value for name, value in results.model.items()}
        return {**(known or {"model": "not known: no findings.json beside the predictions"}), "report written": date}
    names = ("dataset", "trainer", "plans", "configuration")
    told = dict(zip(names, results.titles, strict=True))
    return {**told, "folds": ", ".join(map(str, results.folds)), "report written": date}


def _detection(results: Results) -> dict[str, Any]:
    pooled = results.pooled
    rates = {"detected": pooled.detection_rate, "strict": pooled.strict.detection_rate, "cases": pooled.case_rate}
    described = [f"{name}: {tables.counts(rate, '-')}, {percent(rate.rate)}" for name, rate in rates.items()]
    sizes = {f"{name} cm³": rate for name, rate in pooled.size_bins.items()}
    words = {name: f"{tables.counts(rate, '')} detected" if rate.total else "no tumour" for name, rate in sizes.items()}
    described_sizes = [f"{name}: {what}" for name, what in words.items()]
    headers = dict(tables.CASE_HEADERS)
    if NO_FOLD in results.folds:
        del headers["fold"]
    return {
        "rates_chart": interval_chart("rates", "Detection rates with 95 % intervals", "; ".join(described), rates),
        "sizes_chart": interval_chart("sizes", "Detection rate by tumour volume", "; ".join(described_sizes), sizes),
        "CASE_HEADERS": headers,
        "cases": sorted(
            tables.case_table(results.folds, tables.CASE_HEADERS),
            key=lambda row: (-row["n_missed"], -row["n_false_positive"], row["case"]),
        ),
    }


def _attention(model: ModelResults) -> dict[str, Any]:
    stages = attention_over_folds(model.attention)
    series = _attention_series(model, stages)
    places = [str(stage) for stage in range(max((len(one.values) for one in series), default=0))]
    described = "; ".join(f"{one.name}: {', '.join(number(value, 3) for value in one.values)}" for one in series)
    epochs_chart, epochs_words = _epochs_chart(model)
    chart = profile_chart("adi", "Attention dilution index per stage", described, places, series, "stage")
    return {
        "stages": stages,
        "adi_chart": chart if series else None,
        "adi_table": tables.series_table(places, {one.name: one.values for one in series}),
        "folds_without_attention": [fold for fold in model.folds if fold not in model.attention],
        "epochs_chart": epochs_chart,
        "epochs_words": epochs_words,
        "ATTENTION_FILE": ATTENTION_FILE,
    }


def _attention_series(model: ModelResults, stages: Sequence[StageOverFolds]) -> list[Series]:
    series = []
    if stages:
        series.append(Series("this model", [s.means["adi"] for s in stages], [s.adi_range for s in stages], style=0))
        series.append(Series("uniform attention, same tiles", [s.means["uniform_adi"] for s in stages], style=1))
    elif (planned := _planned_uniform_adi(model, model.folder.configuration)) is not None:
        series.append(Series(f"uniform attention, {model.folder.configuration}", planned, style=1))
    if model.folder.configuration != CUBIC and (baseline := _planned_uniform_adi(model, CUBIC)) is not None:
        series.append(Series("padded baseline, uniform", baseline, style=2))
    for trainer, cubic in cubic_siblings(model)[:2]:
        name = f"{trainer.removeprefix('nnUNetTrainer')}, cubic, measured"
        series.append(Series(name, [stage.means["adi"] for stage in cubic], style=3 + len(series) % 2))
    return series


def _planned_uniform_adi(model: ModelResults, configuration: str) -> Sequence[float] | None:
    """Return what the plans expect of uniform attention at each stage; None for plans of other software."""
    record = planning_record(model.plans)
    account = record.patch_sizes.get(configuration) if record else None
    return account.uniform_adi if account else None


def _epochs_chart(model: ModelResults) -> tuple[Markup | None, str]:
    """Return the attention dilution index in the course of training, and its words; None if no fold was followed."""
    if not model.epochs:
        return None, ""
    shown = list(model.epochs)[:: math.ceil(len(model.epochs) / MOST_EPOCHS)]
    stages = sorted({stage for values in model.epochs.values() for stage in values})
    series = [Series(f"stage {s}", [model.epochs[epoch].get(s) for epoch in shown], style=s) for s in stages]
    described = "; ".join(f"{one.name}: {number(one.values[0], 3)} to {number(one.values[-1], 3)}" for one in series)
    title = "ADI during training, on one crop of each fold"
    chart = profile_chart("epochs", title, described, [str(epoch) for epoch in shown], series, "epoch")
    return chart, f"{title}: {described}."


def _features(model: ModelResults) -> dict[str, Any]:
    reuse = reuse_over_folds(model.reuse)
    known = reuse.folds if reuse else {}
    return {
        "reuse": reuse,
        "cka_chart": _diagonal_chart(reuse) if reuse else None,
        "matrix_chart": _matrix_chart(reuse) if reuse else None,
        "compared": model.reuse[min(known)] if known else None,
        "reuse_notes": [record.note for record in model.reuse.values() if record.note],
        "folds_without_reuse": [fold for fold in model.folds if fold not in known],
        "REUSE_FILE": REUSE_FILE,
    }


def _diagonal_chart(reuse: ReuseOverFolds) -> Markup:
    series = [Series("this model and pretrained", reuse.diagonal, reuse.intervals, style=0)]
    if any(value is not None for value in reuse.null_p95):
        series.append(Series("unrelated features, 95th percentile", reuse.null_p95, style=1))
    described = f"From {number(reuse.diagonal[0])} in the first block to {number(reuse.diagonal[-1])} in the last."
    # Without bias, the estimate for unrelated features may lie below 0.
    drawn = [*reuse.diagonal, *reuse.null_p95, *(bounds[0] for bounds in reuse.intervals if bounds)]
    lowest = -0.25 if min((value for value in drawn if value is not None), default=0.0) < 0 else 0.0
    return profile_chart(
        "cka",
        "Similarity of each block to itself before fine-tuning",
        described,
        [str(block) for block in range(1, len(reuse.blocks) + 1)],
        series,
        "block",
        (lowest, 1.0),
    )


def _matrix_chart(reuse: ReuseOverFolds) -> Markup:
    num_blocks = len(reuse.blocks)
    return heat_map(
        "matrix",
        "CKA between all blocks of this model and of the pretrained encoder",
        f"{num_blocks} by {num_blocks} blocks. Mean of the diagonal {number(reuse.mean_diagonal)}.",
        reuse.matrix,
        "block of the pretrained encoder",
    )


def _planned(model: ModelResults) -> list[tuple[str, Any]]:
    """Return what was planned and why; plans of other software, or of another version, may not tell."""
    if not model.plans.record:
        return [("text", "These plans were not made by rectal_nnformer and do not say why they are as they are.")]
    if planning_record(model.plans) is None:
        return [("text", "Another version of rectal_nnformer made these plans; this one cannot tell them in words.")]
    blocks: list[tuple[str, Any]] = []
    heading = ""
    told = describe_plans(model.plans, width=None).splitlines()
    # Names with their values become facts, tables stay as they are, the rest is text.
    for columns, group in itertools.groupby(told, key=lambda line: min(len(_columns(line)), 3)):
        lines = list(group)
        if columns == 3:
            blocks.append(("table", {"heading": heading, "text": inspect.cleandoc("\n".join(lines))}))
        elif columns == 2:
            blocks.append(("facts", [_columns(line) for line in lines]))
        else:
            blocks += [("text", line.strip()) for line in lines]
            # The sentence before a table says what it holds, and names it for screen readers.
            heading = lines[-1].strip().rstrip(":")
    return blocks


def _columns(line: str) -> list[str]:
    """Return the columns of a line, which two or more spaces part."""
    return re.split(r"\s{2,}", line.strip())
