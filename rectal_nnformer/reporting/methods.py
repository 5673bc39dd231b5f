"""What a paper on these results can take over: a paragraph of methods, and the items of CLAIM that files answer.

CLAIM is the Checklist for Artificial Intelligence in Medical Imaging, 2024 Update (Tejani et al., Radiology: AI 2024).
"""

import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

from rectal_nnformer import __version__
from rectal_nnformer.evaluation.summary import detection_line, rate_words
from rectal_nnformer.networks.starting_weights import RECORD
from rectal_nnformer.nnunet.layout import DATASET_FINGERPRINT
from rectal_nnformer.planning.record import planning_record
from rectal_nnformer.reporting.cohort import CohortAnalysis
from rectal_nnformer.reporting.pages import render
from rectal_nnformer.reporting.results import FolderResults, ModelResults, Results, count_shared_patients
from rectal_nnformer.reporting.tables import Table
from rectal_nnformer.utils.files import read_json_if_whole
from rectal_nnformer.utils.text import plural

PACKAGES = ("nnunetv2", "torch", "monai", "numpy", "scipy", "SimpleITK")
SETTINGS = {
    "num_epochs": "epochs",
    "num_iterations_per_epoch": "iterations per epoch",
    "batch_size": "batch size",
    "initial_lr": "learning rate",
    "weight_decay": "weight decay",
    "warmup_epochs": "epochs of warm-up",
    "loss": "loss",
    "optimizer": "optimizer",
    "pretrained": "pretrained encoder",
    "tumor_aware": "tumour-aware augmentation",
    "device": "trained on",
    "gpu_name": "GPU",
    "torch_version": "trained with torch",
}
OBJECTS = ("loss", "optimizer")
"""Settings of which the class alone is told."""
BY_AUTHORS = "to be written by the authors."
CLAIM = {
    1: "AI method named in title or abstract",
    2: "Abstract: design, methods, results, conclusions",
    3: "Background and intended use",
    4: "Aims and hypotheses",
    5: "Prospective or retrospective",
    6: "Goal of the study",
    7: "Sources of data",
    8: "Who was included and excluded",
    9: "Preprocessing of data",
    10: "Subsets of data",
    11: "De-identification",
    12: "Missing data",
    13: "Acquisition of images",
    14: "Definition of the reference standard",
    15: "Why this reference standard",
    16: "Who annotated",
    17: "Annotation of the test set",
    18: "Variability between and within annotators",
    19: "How cases were assigned to partitions",
    20: "Level at which partitions are disjoint",
    21: "Intended size of the sample",
    22: "Description of the model",
    23: "Software and packages",
    24: "Initial parameters",
    25: "Training",
    26: "Choice of the final model",
    27: "Ensembles",
    28: "Measures of performance",
    29: "Significance and uncertainty",
    30: "Robustness and sensitivity",
    31: "Explainability",
    32: "Evaluation on internal data",
    33: "Testing on external data",
    34: "Registration of the trial",
    35: "Numbers included and excluded",
    36: "Demographic and clinical characteristics",
    37: "Performance with its uncertainty",
    38: "Diagnostic performance and its precision",
    39: "Analysis of failures",
    40: "Limitations",
    41: "Implications for practice",
    42: "Protocol and further technical details",
    43: "Availability of software, model and data",
    44: "Funding and the role of funders",
}
"""Numbers of the items, with short titles of ours."""


def methods_text(results: Results, analysis: CohortAnalysis) -> str:
    """Return paragraphs on methods and results, a line each, of what the files of a run tell."""
    model = results if isinstance(results, ModelResults) else None
    facts = {**_facts(results, model), "analysis": analysis, "pooled": results.pooled, "titles": results.titles}
    return render("methods.txt", results=results, **facts)


def claim_table(results: Results, analysis: CohortAnalysis) -> Table:
    """Return the items of CLAIM 2024 with what the files of a run tell of each, or that authors have to write it."""
    of_kind = _of_model(results) if isinstance(results, ModelResults) else _of_folder(results)
    told = _of_all(results, analysis) | of_kind
    rows = [(str(number), title, told.get(number) or BY_AUTHORS.capitalize()) for number, title in CLAIM.items()]
    return Table(("item", "about", "from this run"), rows, "CLAIM 2024, what this run can fill", numeric_from=3)


def training_settings(model: ModelResults) -> list[tuple[str, str]]:
    """Return what nnU-Net noted about the first fold's training; little of it is needed, and any of it may lack."""
    content = read_json_if_whole(model.folder.fold(min(model.folds)).path / "debug.json")
    noted = {name: str(value) for name, value in content.items()} if isinstance(content, dict) else {}
    for name in OBJECTS:
        noted[name] = (re.match(r"\w*", noted.get(name, "")) or [""])[0]
    settings = [(words, noted[name]) for name, words in SETTINGS.items() if noted.get(name, "") not in ("", "None")]
    version = model.plans.record.get("version")
    return [*settings, *([("planned by rectal_nnformer", str(version))] if version else [])]


def software_versions() -> dict[str, str]:
    """Return what wrote this page."""
    versions = {"Python": platform.python_version(), "rectal_nnformer": __version__}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # of one that was copied into place
            versions[package] = metadata.version(package)
    return versions


def _facts(results: Results, model: ModelResults | None) -> dict[str, Any]:
    """Return what the template of the methods asks for."""
    facts = {"model": model, "versions": software_versions(), "detection_line": detection_line(results.pooled)}
    if model is None:
        return {**facts, "predicted_by": _predicted_by(results)}
    configuration = model.plans.configurations.get(model.folder.configuration)
    network = configuration.network if configuration else None
    return {
        **facts,
        "channels": ", ".join(map(str, (model.dataset_json.get("channel_names") or {}).values())),
        "configuration": configuration,
        "network": network.backbone if network else "",
        "record": planning_record(model.plans),
        "settings": "; ".join(f"{name} {value}" for name, value in training_settings(model)),
        "start": _start(model),
        "partition": _partition(model),
    }


def _predicted_by(results: Results) -> str:
    model = results.model if isinstance(results, FolderResults) else {}
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in model.items())


def _start(model: ModelResults) -> str:
    """Return in words what the first fold's training started from."""
    noted = read_json_if_whole(model.folder.fold(min(model.folds)).path / RECORD)
    start: Mapping[str, Any] = noted if isinstance(noted, dict) else {}
    if start.get("file"):
        return f"from the pretrained file {start['file']} (MD5 {start.get('md5')})"
    words = {"random": "from random values", "checkpoint": "from another checkpoint"}
    return words.get(str(start.get("source")), "as the trainer sets them, which is not on record")


def _partition(model: ModelResults) -> str:
    if shared := count_shared_patients(model.folds):
        return f"Folds share {plural(shared, 'patient')}, which makes the rates optimistic."
    if all(case.patient == case.case for case in model.pooled.cases):
        return "Folds are disjoint by case; which cases are of one patient is not on record."
    return "Folds are disjoint by patient."


def _of_all(results: Results, analysis: CohortAnalysis) -> dict[int, str]:
    pooled = results.pooled
    missed = [case.case for case in pooled.cases if case.n_missed]
    versions = ", ".join(f"{name} {version}" for name, version in software_versions().items())
    absent = pooled.n_cases_prediction_missing
    return {
        12: f"{plural(absent, 'prediction')} missing; their tumours count as missed." if absent else "",
        14: "Masks of the tumour; a tumour is a connected component of them (see the methods). Who drew them, and how: "
        f"{BY_AUTHORS}",
        23: f"{versions}.",
        28: "Detection rate, merged and strict, by tumour and by case; false positives per case; Dice, HD95 and "
        f"surface Dice at 2 mm of what was detected{_more_measures(analysis)}. Definitions are in the methods.",
        29: "Wilson's 95 % intervals, and 95 % bootstrap intervals over patients.",
        30: f"Rates by group: {', '.join(column.column for column in analysis.groups)}." if analysis.groups else "",
        35: f"{plural(pooled.n_cases, 'case')} of {plural(pooled.n_patients, 'patient')} scored, "
        f"{pooled.n_cases_without_reference} without a tumour. Excluded ones: {BY_AUTHORS}",
        37: f"{detection_line(pooled)}. Strict: {rate_words(pooled.strict.detection_rate)}.",
        38: f"The table by tumour volume{_more_rates(analysis)}.",
        39: f"{plural(pooled.n_missed, 'tumour')} missed in {plural(len(missed), 'case')}, "
        f"{plural(pooled.n_false_positive, 'false positive')}: each is listed, with pictures in report.html.",
    }


def _more_measures(analysis: CohortAnalysis) -> str:
    """Return the measures that need confidence, where it is known."""
    parts = {
        "FROC and average precision": analysis.curves.merged,
        "calibration error, Brier score and log loss": analysis.calibration,
        "limits of agreement and ICC of volumes": analysis.volumes.n_cases,
    }
    return "".join(f"; {name}" for name, there in parts.items() if there)


def _more_rates(analysis: CohortAnalysis) -> str:
    curves = ", FROC and average precision" if analysis.curves.merged else ""
    nested = analysis.wish and analysis.point.nested
    return curves + (", rates nested over the folds at the operating point" if nested else "")


def _of_model(model: ModelResults) -> dict[int, str]:
    facts = _facts(model, model)
    configuration = facts["configuration"]
    patch = f", patches of {' x '.join(map(str, configuration.patch_size))} voxels" if configuration else ""
    augmented = dict(training_settings(model)).get("tumour-aware augmentation")
    return {
        1: f"Deep learning: {facts['network'] or 'a network'} trained through nnU-Net.",
        9: "See the paragraph on preprocessing." if configuration else "",
        13: _spacings(model),
        19: f"Folds of nnU-Net's splits_final.json: {', '.join(map(str, model.folds))}.",
        20: facts["partition"],
        22: f"{facts['network'] or 'The network of the plans'}{patch}; trainer {model.folder.trainer}.",
        24: f"The weights started {facts['start']}.",
        25: f"{facts['settings']}." + (" With tumour-aware intensity augmentation." if augmented == "True" else "")
        if facts["settings"]
        else "",
        26: "The final weights of each fold, unless it was validated with --val_best.",
        27: "None in the cross-validation: each case is predicted by the one network that did not see it.",
        31: "Attention dilution and feature reuse, where measured." if model.attention or model.reuse else "",
        32: f"Cross-validation over {plural(len(model.folds), 'fold')}.",
    }


def _of_folder(results: Results) -> dict[int, str]:
    trained_on = results.trained_on if isinstance(results, FolderResults) else ()
    model = results.model if isinstance(results, FolderResults) else {}
    folds = [fold for fold in model.get("folds", "").split(", ") if fold]
    return {
        20: f"The model was trained on {plural(len(trained_on), 'case')} of these." if trained_on else "",
        22: _predicted_by(results),
        27: f"The mean of {plural(len(folds), 'network')}, one per fold." if len(folds) > 1 else "",
        33: f"{plural(results.pooled.n_cases, 'case')} of {results.titles[0]}; whether they are external: {BY_AUTHORS}",
    }


def _spacings(model: ModelResults) -> str:
    """Return the least and greatest voxel spacing of the training images along each stored axis, by nnU-Net."""
    noted = read_json_if_whole(model.folder.path / DATASET_FINGERPRINT) or {}
    try:
        axes = list(zip(*noted["spacings"], strict=True))
        ranges = " x ".join(f"{min(axis):.3g}-{max(axis):.3g}" for axis in axes)
    except (TypeError, KeyError, ValueError):
        return ""
    return f"Voxel spacing {ranges} mm (in the order of stored arrays). Scanners and sequences: {BY_AUTHORS}"
