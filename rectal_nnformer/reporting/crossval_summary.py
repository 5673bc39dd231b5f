"""What the folds of a cross-validation found together: lesions, attention and features, and cases to show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rectal_nnformer.analysis.records import read_attention, read_reuse
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.fold import read_evaluation
from rectal_nnformer.evaluation.log_odds import read_counts
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.nnunet.layout import EVALUATION_FILE, image_name
from rectal_nnformer.reporting.analyses import ReuseOverFolds, StageOverFolds, attention_over_folds, reuse_over_folds
from rectal_nnformer.reporting.cohort import CohortAnalysis, analyse_cohort
from rectal_nnformer.reporting.overlays import Example
from rectal_nnformer.reporting.results import check_distinct_cases, count_shared_patients, pool_folds, read_of_folds
from rectal_nnformer.reporting.tables import cases_of
from rectal_nnformer.utils.text import plural


@dataclass(frozen=True)
class CrossvalSummary:
    """A cross-validation's lesion detection, and what its encoders did; `picture_note` says why there is no picture."""

    pooled: CohortDetection
    folds: Mapping[int, CohortDetection]
    patients_shared_between_folds: int
    attention: tuple[StageOverFolds, ...]
    reuse: ReuseOverFolds | None
    analysis: CohortAnalysis
    picture_note: str = ""


def summarize_folds(
    validation_folders: Mapping[int, Path],
    patients: Mapping[str, str] | None,
    wish: str | None = None,
    groups: Path | None = None,
) -> CrossvalSummary:
    """Pool evaluated folds by their folders `validation`, as `write_crossval_summary` does; nothing is scored again."""
    folds = {}
    for fold, folder in validation_folders.items():
        if not (path := folder / EVALUATION_FILE).is_file():
            raise RectalError(
                f"fold {fold} has no {path}. Train that fold, or validate it again (--val), or leave it out."
            )
        folds[fold] = read_evaluation(folder)
        if patients:
            cases = [replace(case, patient=patients.get(case.case, case.case)) for case in folds[fold].cases]
            folds[fold] = summarize_cases(cases)
    check_distinct_cases(folds)
    return CrossvalSummary(
        pooled=pool_folds(folds),
        folds=folds,
        patients_shared_between_folds=count_shared_patients(folds),
        attention=attention_over_folds(read_of_folds(read_attention, validation_folders)),
        reuse=reuse_over_folds(read_of_folds(read_reuse, validation_folders)),
        analysis=analyse_cohort(folds, {f: read_counts(path) for f, path in validation_folders.items()}, wish, groups),
    )


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


def examples_of(
    summary: CrossvalSummary,
    validation_folders: Mapping[int, Path],
    images_folder: Path,
    reference_folder: Path,
    file_ending: str,
) -> list[Example]:
    """Return the files of the cases that `pick_examples` picks, each with its title."""
    fold_of = {case.case: fold for fold, case in cases_of(summary.folds)}
    examples = []
    for name, case in pick_examples(summary.pooled.cases).items():
        fold, file = fold_of[case.case], f"{case.case}{file_ending}"
        lesions = f"{case.n_detected} of {plural(case.n_reference, 'lesion')} detected"
        title = f"{name}: {case.case} (fold {fold})\nDice {case.dice:.2f}, {lesions}\n"
        examples.append(
            Example(
                title=title + plural(case.n_false_positive, "false positive"),
                image=images_folder / image_name(case.case, file_ending),
                reference=reference_folder / file,
                prediction=None if case.prediction_missing else validation_folders[fold] / file,
            )
        )
    return examples
