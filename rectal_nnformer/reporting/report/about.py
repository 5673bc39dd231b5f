"""The sections at the end: the plan in words, settings, versions, and what the numbers mean."""

import inspect
import itertools
import json
import platform
import re
from importlib import metadata

from rectal_nnformer.evaluation.detection import MIN_IOU, MIN_VOXELS
from rectal_nnformer.planning.explanation import describe_plans
from rectal_nnformer.planning.record import planning_record
from rectal_nnformer.reporting.report.markup import Markup, join, tag
from rectal_nnformer.reporting.report.tables import definitions, scroll_frame, section
from rectal_nnformer.reporting.runs import Run

PACKAGES = ("rectal_nnformer", "nnunetv2", "torch", "monai", "numpy", "scipy", "SimpleITK")
SETTINGS = {
    "num_epochs": "epochs",
    "num_iterations_per_epoch": "iterations per epoch",
    "batch_size": "batch size",
    "initial_lr": "learning rate",
    "weight_decay": "weight decay",
    "warmup_epochs": "epochs of warm-up",
    "pretrained": "pretrained encoder",
    "tumor_aware": "tumour-aware augmentation",
    "device": "trained on",
    "gpu_name": "GPU",
    "torch_version": "trained with torch",
}


def plan(run: Run) -> Markup:
    """Return what was planned and why; plans of other software, or of another version, may not tell."""
    return section("plan", "The plan in words", _planned(run))


def about(run: Run, date: str) -> Markup:
    """Return what was evaluated, how it was trained, by which software, and when this page was written."""
    model = [
        ("dataset", run.dataset),
        ("trainer", run.trainer),
        ("plans", run.plans_name),
        ("configuration", run.configuration),
        ("folds", ", ".join(map(str, run.folds))),
        ("report written", date),
    ]
    versions = [("Python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)]
    planned_by = run.plans.record.get("version")
    settings = [*_training_settings(run), ("planned by rectal_nnformer", planned_by)]
    return section(
        "about",
        "How this was made",
        tag("h3", "Model"),
        definitions(model),
        tag("h3", "Training"),
        definitions(settings),
        tag("h3", "Software that wrote this page"),
        definitions(versions),
    )


def meaning() -> Markup:
    """Return what the numbers mean."""
    return section(
        "meaning",
        "What the numbers mean",
        definitions(
            [
                (
                    "tumour",
                    f"A 26-connected component of at least {MIN_VOXELS} voxels of the reference, on the original grid.",
                ),
                (
                    "detected",
                    "Tumours that share a prediction, and predictions that share a tumour, are merged into groups; a "
                    f"tumour counts as detected if the intersection over union (IoU) of its group is above {MIN_IOU}.",
                ),
                ("strict", "Nothing is merged: one prediction must overlap the tumour, alone, and no other tumour."),
                ("false positive", "A prediction that has no part in any detection."),
                (
                    "intervals",
                    "95 %. Wilson's takes tumours as independent; the one by patient draws patients with replacement. "
                    "Where no two patients differ, as when all is detected, drawing says nothing: read Wilson's.",
                ),
                (
                    "Dice, HD95, surface Dice",
                    "They describe detected groups and say nothing about missed tumours: read them with the rate.",
                ),
            ],
            "terms",
        ),
    )


def _planned(run: Run) -> Markup:
    if not run.plans.record:
        return tag("p", "These plans were not made by rectal_nnformer and do not say why they are as they are.")
    if planning_record(run.plans) is None:
        return tag("p", "Another version of rectal_nnformer made these plans; this one cannot tell them in words.")
    return _plan_words(describe_plans(run.plans, width=None))


def _plan_words(text: str) -> Markup:
    """Return the description of plans: names with their values, tables as they are, the rest as text."""
    blocks: list[Markup] = []
    heading = ""
    for columns, group in itertools.groupby(text.splitlines(), key=lambda line: min(len(_columns(line)), 3)):
        lines = list(group)
        if columns == 3:
            table = tag("pre", inspect.cleandoc("\n".join(lines)))
            blocks.append(scroll_frame(f"Patch sizes: {heading}", table))
        elif columns == 2:
            blocks.append(definitions([(name, value) for name, value in map(_columns, lines)]))
        else:
            blocks += [tag("p", line.strip()) for line in lines]
            # The sentence before a table says what it holds, and names it for screen readers.
            heading = lines[-1].strip().rstrip(":")
    return join(blocks)


def _columns(line: str) -> list[str]:
    """Return the columns of a line, which two or more spaces part."""
    return re.split(r"\s{2,}", line.strip())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _training_settings(run: Run) -> list[tuple[str, str]]:
    """Return what nnU-Net noted about the first fold's training; little of it is needed, and any of it may lack."""
    try:
        noted = json.loads((run.folder / f"fold_{min(run.folds)}" / "debug.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [(words, str(noted[name])) for name, words in SETTINGS.items() if noted.get(name) not in (None, "None")]
