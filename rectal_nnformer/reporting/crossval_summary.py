"""The summary of a cross-validation: lesions, attention and features over the folds, as JSON, CSV, page, picture."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.fold import JSON_NAME, read_evaluation
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.reporting.analyses import (
    ATTENTION_FILE,
    REUSE_FILE,
    ReuseProfile,
    StageProfile,
    read_analyses,
    reuse_profile,
    stage_profiles,
)
from rectal_nnformer.reporting.crossval_page import crossval_page
from rectal_nnformer.reporting.overlays import Example, draw_examples
from rectal_nnformer.utils.files import csv_text, write_json, write_text
from rectal_nnformer.utils.text import plural

NAME = "crossval_summary"
CASE_COLUMNS = (
    "fold",
    "case",
    "patient",
    "n_reference",
    "n_predicted",
    "n_detected",
    "n_detected_strict",
    "n_missed",
    "n_false_positive",
    "dice",
    "note",
)


@dataclass(frozen=True)
class CrossvalSummary:
    """A cross-validation's lesion detection, and what its encoders did.

    Attributes:
        pooled: All folds together.
        folds: Each fold.
        patients_shared_between_folds: Patients with cases in more than one fold. The networks that these cases were
            held out from have seen other scans of the same patients, so the rates are optimistic.
        picture_note: Why there is no picture; empty where there is one.
        attention: Attention dilution of each stage, by fold and over the folds; empty where none was analysed.
        reuse: Feature reuse of each block, by fold and over the folds; None where it is not defined for any.
    """

    pooled: CohortDetection
    folds: dict[int, CohortDetection]
    patients_shared_between_folds: int
    picture_note: str
    attention: tuple[StageProfile, ...]
    reuse: ReuseProfile | None


def summarize_crossval(
    model_folder: Path,
    images_folder: Path,
    reference_folder: Path,
    dataset_json: Mapping[str, Any],
    patients: Mapping[str, str] | None = None,
    folds: Sequence[int] = (0, 1, 2, 3, 4),
) -> CrossvalSummary:
    """Pool the evaluated folds of a trained model and write `crossval_summary.json`, `.csv`, `.md` and `.png` there.

    Attention dilution and feature reuse stand beside it, of the folds that were analysed. Nothing is scored again. The
    picture shows the cases with the best, the median and the worst Dice; where an image or mask for it is missing it
    is left out, and the page says so.

    Args:
        model_folder: Holds `fold_<n>/validation/lesion_detection.json` of each fold.
        images_folder: Images, `<case>_0000<file_ending>`.
        reference_folder: Reference masks, `<case><file_ending>`.
        dataset_json: nnU-Net's `dataset.json`, for labels and file ending.
        patients: Pseudonymous patient of each case, in place of those that the folds were evaluated with.
        folds: Folds to pool.

    Raises:
        RectalError: A fold has not been evaluated, its evaluation or an analysis cannot be read, or two folds hold the
            same case.
    """
    by_fold = {fold: _read_fold(Path(model_folder), fold, patients) for fold in folds}
    check_distinct_cases(by_fold)
    pooled = summarize_cases([case for result in by_fold.values() for case in result.cases])
    examples = _examples(
        by_fold, Path(model_folder), Path(images_folder), Path(reference_folder), dataset_json["file_ending"]
    )
    note = _draw(examples, tumor_labels(dataset_json), Path(model_folder) / f"{NAME}.png")
    attention, reuse = (read_analyses(Path(model_folder), folds, name) for name in (ATTENTION_FILE, REUSE_FILE))
    summary = CrossvalSummary(
        pooled,
        by_fold,
        count_shared_patients(by_fold),
        note,
        attention=tuple(stage_profiles(attention)),
        reuse=reuse_profile(reuse),
    )
    _write(summary, Path(model_folder))
    return summary


def evaluated_cases(model_folder: Path, fold: int) -> set[str]:
    """Return the cases that a fold of a trained model was evaluated on.

    Raises:
        RectalError: The fold has not been evaluated, or its evaluation cannot be read.
    """
    return {case.case for case in _read_fold(Path(model_folder), fold, None).cases}


def count_shared_patients(folds: Mapping[int, CohortDetection]) -> int:
    """Return how many patients have cases in more than one fold; a case of unknown patient is a patient of its own."""
    folds_of = Counter(patient for result in folds.values() for patient in {case.patient for case in result.cases})
    return sum(n_folds > 1 for n_folds in folds_of.values())


def pick_examples(cases: Sequence[CaseDetection]) -> dict[str, CaseDetection]:
    """Return the cases with the best, the median and the worst Dice, as many of them as there are different ones."""
    ranked = sorted((case for case in cases if case.dice is not None), key=lambda case: (case.dice, case.case))
    if not ranked:
        return {}
    picked = {"best": ranked[-1]}
    if len(ranked) > 2:
        picked["median"] = ranked[(len(ranked) - 1) // 2]
    if len(ranked) > 1:
        picked["worst"] = ranked[0]
    return picked


def _read_fold(model_folder: Path, fold: int, patients: Mapping[str, str] | None) -> CohortDetection:
    folder = model_folder / f"fold_{fold}" / "validation"
    try:
        result = read_evaluation(folder)
    except FileNotFoundError:
        raise RectalError(
            f"fold {fold} has no {folder / JSON_NAME}. Train that fold, or validate it again (--val), or leave it out."
        ) from None
    if not patients:
        return result
    return summarize_cases([replace(case, patient=patients.get(case.case, case.case)) for case in result.cases])


def check_distinct_cases(by_fold: Mapping[int, CohortDetection]) -> None:
    """Refuse folds that hold the same case.

    Raises:
        RectalError: A case was evaluated in two folds.
    """
    fold_of: dict[str, int] = {}
    for fold, result in by_fold.items():
        for case in result.cases:
            other = fold_of.setdefault(case.case, fold)
            if other != fold:
                raise RectalError(
                    f"case {case.case} was evaluated in fold {other} and in fold {fold}, so these folds are not of one "
                    "splits_final.json. Train again the folds that are of another."
                )


def _examples(
    by_fold: Mapping[int, CohortDetection],
    model_folder: Path,
    images_folder: Path,
    reference_folder: Path,
    ending: str,
) -> list[Example]:
    fold_of = {case.case: fold for fold, result in by_fold.items() for case in result.cases}
    picked = pick_examples([case for result in by_fold.values() for case in result.cases])
    return [
        Example(
            title=_title(name, case, fold_of[case.case]),
            image=images_folder / f"{case.case}_0000{ending}",
            reference=reference_folder / f"{case.case}{ending}",
            prediction=None
            if case.prediction_missing
            else model_folder / f"fold_{fold_of[case.case]}" / "validation" / f"{case.case}{ending}",
        )
        for name, case in picked.items()
    ]


def _title(name: str, case: CaseDetection, fold: int) -> str:
    lesions = f"{case.n_detected} of {plural(case.n_reference, 'lesion')} detected"
    return (
        f"{name}: {case.case} (fold {fold})\nDice {case.dice:.2f}, {lesions}\n"
        f"{plural(case.n_false_positive, 'false positive')}"
    )


def _draw(examples: Sequence[Example], labels: Sequence[int], path: Path) -> str:
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


def _write(summary: CrossvalSummary, model_folder: Path) -> None:
    content = {
        **_without_cases(summary.pooled),
        "folds": {str(fold): _without_cases(result) for fold, result in summary.folds.items()},
        "patients_shared_between_folds": summary.patients_shared_between_folds,
        "picture_note": summary.picture_note,
        "attention_dilution": [asdict(stage) for stage in summary.attention],
        "feature_reuse": None if summary.reuse is None else asdict(summary.reuse),
    }
    write_json(model_folder / f"{NAME}.json", content)
    write_text(model_folder / f"{NAME}.csv", csv_text(CASE_COLUMNS, _case_rows(summary.folds)))
    picture = None if summary.picture_note else f"{NAME}.png"
    page = crossval_page(
        summary.pooled,
        summary.folds,
        summary.patients_shared_between_folds,
        picture,
        summary.picture_note,
        summary.attention,
        summary.reuse,
    )
    write_text(model_folder / f"{NAME}.md", page)


def _without_cases(result: CohortDetection) -> dict[str, Any]:
    return {name: value for name, value in asdict(result).items() if name != "cases"}


def _case_rows(folds: Mapping[int, CohortDetection]) -> list[dict[str, Any]]:
    return [
        {
            "fold": fold,
            "n_detected_strict": case.strict.n_detected,
            **{name: getattr(case, name) for name in CASE_COLUMNS if hasattr(case, name)},
        }
        for fold, result in folds.items()
        for case in result.cases
    ]
