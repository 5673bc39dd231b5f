"""Comparing models: what each found on the shared cases, every pair tested, and their encoders beside each other."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectal_nnformer.evaluation.statistics import Agreement, Difference, agreements, paired_difference
from rectal_nnformer.evaluation.summary import CohortDetection
from rectal_nnformer.nnunet.preflight import check_comparison
from rectal_nnformer.reporting.analyses import ReuseOverFolds, StageOverFolds, attention_over_folds, reuse_over_folds
from rectal_nnformer.reporting.pairing import SharedCases, share_cases
from rectal_nnformer.reporting.results import ModelResults, read_results, short_names


@dataclass(frozen=True)
class FoldPoint:
    """Feature reuse of one fold (mean diagonal of CKA with the pretrained encoder) beside its result on them."""

    fold: int
    reuse: float | None
    detection_rate: float | None
    dice: float | None


@dataclass(frozen=True)
class ComparedModel:
    """One model on the shared cases.

    `folds` are all that were evaluated; `stages`, `reuse` and `fold_points` tell of those that were analysed.
    """

    name: str
    folder: str
    detection: CohortDetection
    num_left_out: int
    folds: tuple[int, ...]
    stages: tuple[StageOverFolds, ...]
    reuse: ReuseOverFolds | None
    fold_points: tuple[FoldPoint, ...]

    @property
    def folds_without_attention(self) -> list[int]:
        """Folds whose attention dilution is not known, if that of others is."""
        known = {fold for stage in self.stages for fold in stage.adi_of_folds}
        return [fold for fold in self.folds if known and fold not in known]

    @property
    def folds_without_reuse(self) -> list[int]:
        """Folds whose feature reuse is not known, if that of others is."""
        return [fold for fold in self.folds if self.reuse is not None and fold not in self.reuse.folds]


@dataclass(frozen=True)
class PairComparison:
    """Two models on the same lesions, cases and patients; differences are first minus second.

    `dice` is over the cases where both are defined; nothing is merged for `detection_strict`.
    """

    first: str
    second: str
    detection: Agreement
    detection_strict: Agreement
    detection_rate: Difference
    dice: Difference
    false_positives_per_case: Difference


@dataclass(frozen=True)
class Comparison:
    """Models side by side, and every two of them. All but `left_out_cases` refers to the cases that they share.

    `num_cases_in_other_folds` were held out in folds of different numbers; `lesions` has a row per reference lesion.
    """

    models: tuple[ComparedModel, ...]
    pairs: tuple[PairComparison, ...]
    num_shared_cases: int
    num_shared_patients: int
    left_out_cases: tuple[str, ...]
    num_cases_in_other_folds: int
    lesions: tuple[dict[str, Any], ...]


def compare_models(folders: Sequence[Path]) -> Comparison:
    """Compare trained models on the cases that all of them were validated on.

    Args:
        folders: Model folders in nnUNet_results, two or more.

    Raises:
        RectalError: Fewer than two different ones, one that is no evaluated model, no shared case, or a case that was
            scored against different references.
    """
    check_comparison(folders)
    models = [read_results(folder) for folder in folders]
    shared = share_cases(models)
    names = short_names(models)
    return Comparison(
        models=tuple(_on_shared_cases(model, names[index], shared, index) for index, model in enumerate(models)),
        pairs=_compare_pairs(names, shared),
        num_shared_cases=len(shared.names),
        num_shared_patients=len(set(shared.patients)),
        left_out_cases=tuple(sorted({name for names in shared.left_out for name in names})),
        num_cases_in_other_folds=shared.num_in_other_folds,
        lesions=_lesion_rows(names, shared),
    )


def _on_shared_cases(model: ModelResults, name: str, shared: SharedCases, index: int) -> ComparedModel:
    reuse = reuse_over_folds(model.reuse)
    points = [
        FoldPoint(fold, value, cohort.detection_rate.rate, cohort.case_dice.mean)
        for fold, value in (reuse.folds.items() if reuse else ())
        if (cohort := shared.cohort(index, fold)).n_cases
    ]
    return ComparedModel(
        name=name,
        folder=str(model.folder.path),
        detection=shared.cohort(index),
        num_left_out=len(shared.left_out[index]),
        folds=tuple(model.folds),
        stages=attention_over_folds(model.attention),
        reuse=reuse,
        fold_points=tuple(points),
    )


def _compare_pairs(names: Sequence[str], shared: SharedCases) -> tuple[PairComparison, ...]:
    lesions = [[lesion for case in cases for lesion in case.lesions] for cases in shared.results]
    pairs = list(itertools.combinations(range(len(names)), 2))
    both = [list(zip(lesions[first], lesions[second], strict=True)) for first, second in pairs]
    tests = agreements([[(one.detected, two.detected) for one, two in found] for found in both])
    strict = agreements([[(one.detected_strict, two.detected_strict) for one, two in found] for found in both])
    return tuple(
        PairComparison(names[first], names[second], tests[index], strict[index], *_differences(shared, first, second))
        for index, (first, second) in enumerate(pairs)
    )


def _differences(shared: SharedCases, first: int, second: int) -> Iterator[Difference]:
    """Yield the differences in detection rate, in Dice, and in false positives per case."""
    cases = list(zip(shared.patients, shared.results[first], shared.results[second], strict=True))
    lesions = [
        (patient, float(one.detected), float(two.detected))
        for patient, case, other in cases
        for one, two in zip(case.lesions, other.lesions, strict=True)
    ]
    dice = [
        (patient, case.dice, other.dice)
        for patient, case, other in cases
        if case.dice is not None and other.dice is not None
    ]
    invented = [
        (patient, float(case.n_false_positive), float(other.n_false_positive)) for patient, case, other in cases
    ]
    for rows in (lesions, dice, invented):
        yield paired_difference([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def _lesion_rows(names: Sequence[str], shared: SharedCases) -> tuple[dict[str, Any], ...]:
    """Return a row per lesion of the reference: what it is, and by which models it was detected."""
    return tuple(
        {
            "case": cases[0].case,
            "patient": cases[0].patient,
            "label": lesions[0].label,
            "volume_cm3": lesions[0].volume_cm3,
            "size_bin": lesions[0].size_bin,
            **{f"detected: {name}": one.detected for name, one in zip(names, lesions, strict=True)},
            **{f"iou: {name}": one.iou for name, one in zip(names, lesions, strict=True)},
        }
        for cases in zip(*shared.results, strict=True)
        for lesions in zip(*(case.lesions for case in cases), strict=True)
    )
