"""Comparing models: what each found on the shared cases, every pair tested, and their encoders beside each other."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.log_odds import read_counts
from rectal_nnformer.evaluation.operating_point import read_point
from rectal_nnformer.evaluation.statistics import Agreement, Difference, agreements, paired_difference
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.nnunet.preflight import check_comparison
from rectal_nnformer.reporting.analyses import ReuseOverFolds, StageOverFolds, attention_over_folds, reuse_over_folds
from rectal_nnformer.reporting.cohort import CohortAnalysis, analyse_cohort
from rectal_nnformer.reporting.results import ModelResults, read_results, short_names
from rectal_nnformer.utils.text import some

# Centroids are means of voxel indices; what differs by less is rounding.
SAME_CENTROID_VOXELS = 1e-3


@dataclass(frozen=True)
class SharedCases:
    """The cases that all models were validated on; the tuples have an entry per model, in the order of `names`.

    `left_out` are those of a model's cases that another lacks.
    """

    names: tuple[str, ...]
    results: tuple[tuple[CaseDetection, ...], ...]
    folds: tuple[tuple[int, ...], ...]
    left_out: tuple[tuple[str, ...], ...]

    @property
    def num_in_other_folds(self) -> int:
        """Cases that were held out in folds of different numbers, so that the networks learnt from different cases."""
        return sum(len(set(folds)) > 1 for folds in zip(*self.folds, strict=True))

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each case, by the first model."""
        return tuple(case.patient for case in self.results[0])

    def cohort(self, model: int, fold: int | None = None) -> CohortDetection:
        """Return one model's result on the shared cases, or on those of one fold."""
        pairs = zip(self.results[model], self.folds[model], strict=True)
        return summarize_cases([case for case, of in pairs if fold is None or of == fold])


@dataclass(frozen=True)
class FoldPoint:
    """Mean diagonal of a fold's CKA with the pretrained encoder, beside the fold's result on the shared cases."""

    fold: int
    reuse: float | None
    detection_rate: float | None
    dice: float | None


@dataclass(frozen=True)
class ComparedModel:
    """One model on the shared cases.

    `folds` are all that were evaluated; `stages`, `reuse` and `fold_points` tell of those that were analysed.
    `analysis` has no calibration where cases were left out, since voxels are counted by fold.
    """

    name: str
    folder: str
    detection: CohortDetection
    num_left_out: int
    folds: tuple[int, ...]
    stages: tuple[StageOverFolds, ...]
    reuse: ReuseOverFolds | None
    fold_points: tuple[FoldPoint, ...]
    analysis: CohortAnalysis

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


def compare_models(
    folders: Sequence[Path], groups: Path | None = None, of_folds: Collection[int] | None = None
) -> Comparison:
    """Compare trained models, two or more, on the cases that all of them were validated on.

    Args:
        folders: Those of the models.
        groups: CSV file by which rates are given, too.
        of_folds: Numbers of the folds to compare; None takes all that were evaluated.

    Raises:
        RectalError: Fewer than two different ones, one that is no evaluated model, no shared case, or a case that was
            scored against different references.
    """
    check_comparison(folders)
    models = [read_results(folder, of_folds) for folder in folders]
    shared = share_cases(models)
    names = short_names(models)
    return Comparison(
        models=tuple(
            _on_shared_cases(model, names[index], shared, index, groups) for index, model in enumerate(models)
        ),
        pairs=_compare_pairs(names, shared),
        num_shared_cases=len(shared.names),
        num_shared_patients=len(set(shared.patients)),
        left_out_cases=tuple(sorted({name for names in shared.left_out for name in names})),
        num_cases_in_other_folds=shared.num_in_other_folds,
        lesions=_lesion_rows(names, shared),
    )


def share_cases(models: Sequence[ModelResults]) -> SharedCases:
    """Return the cases that all models share.

    Raises:
        RectalError: There are none, or a case was scored against different references.
    """
    by_name = [
        {case.case: (case, fold) for fold, result in model.folds.items() for case in result.cases} for model in models
    ]
    names = sorted(set.intersection(*(set(cases) for cases in by_name)))
    if not names:
        lists = [f"{model.folder.path}: {some(sorted(cases))}" for model, cases in zip(models, by_name, strict=True)]
        raise RectalError(
            "no case was validated in all of these models, so that they cannot be compared lesion by lesion. "
            f"{'; '.join(lists)}. Name models of one dataset."
        )
    check_same_references(
        {model.folder.path: model.pooled for model in models},
        "Evaluate both against the same references (validate the older model again, --val).",
    )
    return SharedCases(
        names=tuple(names),
        results=tuple(tuple(cases[name][0] for name in names) for cases in by_name),
        folds=tuple(tuple(cases[name][1] for name in names) for cases in by_name),
        left_out=tuple(tuple(sorted(cases.keys() - set(names))) for cases in by_name),
    )


def check_same_references(scored: Mapping[Path, CohortDetection], remedy: str) -> None:
    """Refuse results, by their folders, that share a case which was scored against different references."""
    (first, one), *others = ((folder, {case.case: case for case in of.cases}) for folder, of in scored.items())
    for name in sorted(set(one).intersection(*(cases for _, cases in others))):
        for folder, cases in others:
            if difference := _difference_in_reference(one[name], cases[name]):
                raise RectalError(
                    f"case {name} was scored against different references: {difference} in {first} and in {folder}. "
                    f"{remedy}"
                )


def _difference_in_reference(case: CaseDetection, other: CaseDetection) -> str:
    """Return in words how the references of a case differ; empty if they are the same."""
    if case.n_reference != other.n_reference:
        return f"{case.n_reference} and {other.n_reference} lesions"
    for one, two in zip(case.lesions, other.lesions, strict=True):
        if one.label != two.label or one.voxels != two.voxels:
            return f"lesion {one.label} of {one.voxels} voxels and lesion {two.label} of {two.voxels}"
        if not np.allclose(one.centroid, two.centroid, rtol=0, atol=SAME_CENTROID_VOXELS):
            places = [", ".join(f"{index:.1f}" for index in lesion.centroid) for lesion in (one, two)]
            return f"lesion {one.label} at voxel {places[0]} and at voxel {places[1]}"
    return ""


def _on_shared_cases(
    model: ModelResults, name: str, shared: SharedCases, index: int, groups: Path | None
) -> ComparedModel:
    reuse = reuse_over_folds(model.reuse)
    points = [
        FoldPoint(fold, value, cohort.detection_rate.rate, cohort.case_dice.mean)
        for fold, value in (reuse.folds.items() if reuse else ())
        if (cohort := shared.cohort(index, fold)).n_cases
    ]
    chosen, left_out = read_point(model.path), shared.left_out[index]
    analysis = analyse_cohort(
        {fold: cohort for fold in model.folds if (cohort := shared.cohort(index, fold)).n_cases},
        {} if left_out else {fold: read_counts(folder) for fold, folder in model.evaluated.items()},
        chosen.wish if chosen else None,
        groups,
    )
    return ComparedModel(
        name=name,
        folder=str(model.folder.path),
        detection=shared.cohort(index),
        num_left_out=len(left_out),
        folds=tuple(model.folds),
        stages=attention_over_folds(model.attention),
        reuse=reuse,
        fold_points=tuple(points),
        analysis=analysis,
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
    dice = [(patient, a.dice, b.dice) for patient, a, b in cases if a.dice is not None and b.dice is not None]
    invented = [(patient, float(a.n_false_positive), float(b.n_false_positive)) for patient, a, b in cases]
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
