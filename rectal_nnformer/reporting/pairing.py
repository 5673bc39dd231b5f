"""Which cases several models share, and whether they were scored against the same references."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.reporting.results import ModelResults
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
        lists = "; ".join(
            f"{model.folder.path}: {some(sorted(cases))}" for model, cases in zip(models, by_name, strict=True)
        )
        raise RectalError(
            f"no case was validated in all of these runs, so that they cannot be compared lesion by lesion. {lists}. "
            "Name runs on one dataset."
        )
    for name in names:
        for model, cases in zip(models[1:], by_name[1:], strict=True):
            if difference := _difference(by_name[0][name][0], cases[name][0]):
                raise RectalError(
                    f"case {name} was scored against different references: {difference} in {models[0].folder.path} and "
                    f"in {model.folder.path}. Evaluate both against the same references (validate the older run again, "
                    "--val)."
                )
    return SharedCases(
        names=tuple(names),
        results=tuple(tuple(cases[name][0] for name in names) for cases in by_name),
        folds=tuple(tuple(cases[name][1] for name in names) for cases in by_name),
        left_out=tuple(tuple(sorted(cases.keys() - set(names))) for cases in by_name),
    )


def _difference(case: CaseDetection, other: CaseDetection) -> str:
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
