"""The files that commands write about models and predictions: report.html, crossval_summary, compare, findings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.operating_point import read_point, write_point
from rectal_nnformer.evaluation.summary import CohortDetection
from rectal_nnformer.evaluation.wish import NO_POINT
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.nnunet.layout import VALIDATION, fold_name, is_model
from rectal_nnformer.reporting.cohort import analyse_cohort, keep_groups, kept_groups
from rectal_nnformer.reporting.comparison import Comparison
from rectal_nnformer.reporting.comparison_figure import comparison_figure
from rectal_nnformer.reporting.crossval_summary import CrossvalSummary, examples_of, summarize_folds
from rectal_nnformer.reporting.findings import (
    CSV_COLUMNS,
    PredictingModel,
    ScanFindings,
    findings_json,
    findings_page,
    findings_rows,
    other_rows,
)
from rectal_nnformer.reporting.gallery import BUDGET, draw_clips, fit_to_budget
from rectal_nnformer.reporting.methods import claim_table, methods_text
from rectal_nnformer.reporting.overlays import Example, draw_examples
from rectal_nnformer.reporting.pages import comparison_page, crossval_page, groups_page
from rectal_nnformer.reporting.report_page import report_page
from rectal_nnformer.reporting.results import NO_FOLD, read_results, read_scored
from rectal_nnformer.reporting.tables import CASE_COLUMNS, case_table
from rectal_nnformer.utils.files import csv_text, staged_file, write_json, write_text

REPORT_FILE = "report.html"
SUMMARY_NAME = "crossval_summary"
COMPARISON_NAME = "compare"
GROUP_RATES_NAME = "group_rates"
DATE_FORMAT = "%d %B %Y, %H:%M"


def write_report(
    model_folder: Path,
    output: Path | None = None,
    num_processes: int = 1,
    images: Path | None = None,
    groups: Path | None = None,
) -> Path:
    """Write `report.html` about a trained model, or about predictions that `evaluate` scored.

    It is one page of less than 25 MB that needs no other file and no network. Images of a model's cases are read from
    nnUNet_raw, references from nnUNet_preprocessed, beside nnUNet_results or where the variables point; without them
    there are no pictures, and the page says so.

    Args:
        model_folder: Folder of the model in nnUNet_results, which holds the folds; or one that `evaluate` wrote into.
        output: The file; None takes `report.html` in that folder.
        num_processes: At most so many processes draw the pictures.
        images: Folder of the images of scored predictions; None takes imagesTs beside references in labelsTs.
        groups: CSV file by which rates are given; None takes the one that was kept when these results were made.

    Returns:
        The file.

    Raises:
        RectalError: It is neither, or a file in it is damaged.

    Example:
        >>> write_report(model_folder).name
        'report.html'
    """
    results = read_scored(model_folder, images)
    path = output or results.path / REPORT_FILE
    clips = draw_clips(results, num_processes)
    write_text(path, report_page(results, clips, datetime.now().astimezone().strftime(DATE_FORMAT), groups))
    return path


def try_report(model_folder: Path, output: Path | None = None, num_processes: int = 1) -> str:
    """Write the report and return where it is; where that fails, return why and how to try again.

    For the end of a training, which no trouble with a page about it may spoil.
    """
    try:
        return f"The report is {write_report(model_folder, output, num_processes)}"
    except Exception as error:
        again = f"rectal_nnformer report {model_folder}" + (f" -o {output}" if output else "")
        return f"The report could not be written ({error}). The results are complete; to try again: {again}"


def write_crossval_summary(
    model_folder: Path,
    images_folder: Path,
    reference_folder: Path,
    dataset_json: Mapping[str, Any],
    patients: Mapping[str, str] | None = None,
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    operating_point: str | None = None,
    groups: Path | None = None,
) -> CrossvalSummary:
    """Pool the evaluated folds of a trained model and write `crossval_summary.json`, `.csv`, `.md` and `.png` there.

    Attention dilution and feature reuse stand beside it, of the folds that were analysed. The picture shows the cases
    with the best, the median and the worst Dice; where an image or mask for it is missing it is left out, and the page
    says so.

    Args:
        model_folder: Folder of the model, with `fold_X/validation` of each fold.
        images_folder: Images of the cases, as nnUNet_raw/DATASET/imagesTr has them, for the picture.
        reference_folder: Their reference masks, as `gt_segmentations` of nnUNet_preprocessed/DATASET has them.
        dataset_json: nnU-Net's description of the dataset, for labels and file ending.
        patients: By case, pseudonymous; they replace those that the folds were evaluated with.
        folds: Numbers of the folds to pool.
        operating_point: What an operating point is to be chosen for, such as `fp-per-case=0.5`; it is written into the
            model's folder, and `none` removes it. None stays with the wish of the point that is there.
        groups: CSV file by which rates are given, kept in the model's folder; None takes the one that is there.

    Returns:
        What was written: all folds pooled, and each.

    Raises:
        RectalError: A fold has not been evaluated, its evaluation or an analysis cannot be read, or two folds hold the
            same case.
    """
    validations = {fold: Path(model_folder) / fold_name(fold) / VALIDATION for fold in folds}
    paths = {suffix: Path(model_folder) / f"{SUMMARY_NAME}.{suffix}" for suffix in ("json", "csv", "md", "png")}
    present = read_point(Path(model_folder))
    wish = operating_point or (present.wish if present else NO_POINT)
    chosen_for = None if wish == NO_POINT else wish
    summary = summarize_folds(validations, patients, chosen_for, groups or kept_groups(Path(model_folder)))
    if groups:  # only a table that could be used: later reports read it
        keep_groups(groups, Path(model_folder))
    write_point(summary.analysis.point.chosen if chosen_for else None, Path(model_folder))
    folders = Path(images_folder), Path(reference_folder)
    examples = examples_of(summary, validations, *folders, dataset_json["file_ending"])
    summary = replace(summary, picture_note=_try_picture(examples, tumor_labels(dataset_json), paths["png"]))
    content = {
        **_without_cases(summary.pooled),
        "folds": {str(fold): _without_cases(result) for fold, result in summary.folds.items()},
        "patients_shared_between_folds": summary.patients_shared_between_folds,
        "picture_note": summary.picture_note,
        "attention_dilution": [asdict(stage) for stage in summary.attention],
        "feature_reuse": None if summary.reuse is None else asdict(summary.reuse),
        **asdict(summary.analysis),
    }
    write_json(paths["json"], content)
    write_text(paths["csv"], csv_text(CASE_COLUMNS, case_table(summary.folds, CASE_COLUMNS)))
    # A folder that is no model's, as in a script, has the numbers and no methods.
    model = read_results(model_folder) if is_model(model_folder) else None
    described = replace(model, folds=summary.folds) if model else None
    told = (described, summary.analysis) if described else None
    methods, claim = (methods_text(*told), claim_table(*told)) if told else ("", None)
    write_text(paths["md"], crossval_page(summary, paths["png"].name, methods, claim))
    return summary


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `compare.md`, `.json`, `.csv` (a row per lesion) and `.png`, each whole or not at all, and return them."""
    paths = {suffix: folder / f"{COMPARISON_NAME}.{suffix}" for suffix in ("md", "json", "csv", "png")}
    page = comparison_page(comparison, paths["png"].name)
    with staged_file(paths["png"]) as temporary:
        comparison_figure(comparison).savefig(temporary)
    columns = list(comparison.lesions[0]) if comparison.lesions else ["case"]
    write_text(paths["csv"], csv_text(columns, comparison.lesions))
    content = asdict(comparison)
    models = content.pop("models")
    for model in models:
        # The cases stand in each model's own files.
        del model["detection"]["cases"]
    write_json(paths["json"], {"runs": models, **content})
    write_text(paths["md"], page)
    return list(paths.values())


def write_group_rates(result: CohortDetection, groups: Path, folder: Path) -> Path:
    """Write `group_rates.md` and `.json` of a scored cohort, keep the table of groups beside them, and return the page.

    Raises:
        RectalError: The table cannot be read.
    """
    analysis = analyse_cohort({NO_FOLD: result}, {}, None, groups)
    keep_groups(groups, folder)
    rates = [asdict(column) for column in analysis.groups]
    write_json(folder / f"{GROUP_RATES_NAME}.json", {"groups": rates, "notes": analysis.group_notes})
    path = folder / f"{GROUP_RATES_NAME}.md"
    write_text(path, groups_page(analysis))
    return path


def write_findings(scans: Sequence[ScanFindings], model: PredictingModel, folder: Path, name: str = "findings") -> None:
    """Write what was found in scans as `findings.html`, `.csv` and `.json`, each whole or not at all.

    The page needs no other file and no network, and has less than 25 MB.
    """
    date = datetime.now().astimezone().strftime(DATE_FORMAT)
    clips = fit_to_budget([clip for scan in scans for clip in scan.clips], BUDGET)
    write_json(folder / f"{name}.json", findings_json(scans, model, date))
    write_text(folder / f"{name}.csv", csv_text(CSV_COLUMNS, [*findings_rows(scans), *other_rows(scans)]))
    write_text(folder / f"{name}.html", findings_page(scans, clips, model, date))


def _try_picture(examples: Sequence[Example], labels: Sequence[int], path: Path) -> str:
    """Draw the picture; return why there is none, or an empty string."""
    try:
        if not examples:
            raise RectalError("no case has a Dice, neither reference nor prediction hold tumour anywhere.")
        draw_examples(examples, labels, path)
    except RectalError as error:
        # A picture left by an earlier run would show other predictions than the page describes.
        path.unlink(missing_ok=True)
        return str(error)
    return ""


def _without_cases(result: CohortDetection) -> dict[str, Any]:
    return {name: value for name, value in asdict(result).items() if name != "cases"}
