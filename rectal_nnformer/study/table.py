"""What a study found: every recipe against the baseline on the cases that all were validated on, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.detection import Lesion
from rectal_nnformer.evaluation.statistics import Agreement, Difference, agreements, holm, paired_difference
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.study.progress import fold_progress
from rectal_nnformer.study.steps import Step, TrainStep


@dataclass(frozen=True)
class AgainstBaseline:
    """A recipe beside the baseline on the same tumours and cases; differences are recipe minus baseline.

    `detection` has McNemar's exact test. `dice_p` is of Wilcoxon's signed ranks over patients, None where no patient
    has a Dice in both. Both are adjusted (Holm) for the number of recipes, each for itself.
    """

    detection: Agreement
    detection_rate: Difference
    dice: Difference
    dice_p: float | None
    dice_p_holm: float | None
    false_positives_per_case: Difference


@dataclass(frozen=True)
class FoldCost:
    """What a fold took: seconds of all epochs that were trained, and of its validation, None where no log tells.

    `host_memory_gb` is the largest sum over all processes of its training, main process and workers; None where no job
    of the study trained it.
    """

    fold: int
    epochs: int
    seconds: float
    validation_seconds: float | None
    host_memory_gb: float | None


@dataclass(frozen=True)
class Cost:
    """What a recipe took.

    GPU memory is what the planner counted, None where the plans are of nnU-Net's; parameters are those of one network.
    """

    folds: tuple[FoldCost, ...]
    gpu_memory_gb: float | None
    parameters: int | None

    @property
    def seconds(self) -> float:
        """Of the epochs of all folds."""
        return sum(fold.seconds for fold in self.folds)

    @property
    def host_memory_gb(self) -> float | None:
        """The most of any fold."""
        return max((fold.host_memory_gb for fold in self.folds if fold.host_memory_gb is not None), default=None)


def on_shared_cases(cohorts: Mapping[str, CohortDetection]) -> dict[str, CohortDetection]:
    """Return each recipe's result on the cases that all of them scored.

    Raises:
        RectalError: There is none.
    """
    shared = set.intersection(*({case.case for case in cohort.cases} for cohort in cohorts.values()))
    if not shared:
        raise RectalError(f"No case was scored by all of {', '.join(cohorts)}, so that they cannot be compared.")
    return {
        name: summarize_cases(
            sorted((case for case in cohort.cases if case.case in shared), key=lambda case: case.case)
        )
        for name, cohort in cohorts.items()
    }


def against_baseline(cohorts: Mapping[str, CohortDetection], baseline: str) -> dict[str, AgainstBaseline]:
    """Return every other recipe against the baseline.

    Args:
        cohorts: Results on the same cases, in the same order, as `on_shared_cases` returns.
        baseline: One of them.
    """
    others = {name: cohort for name, cohort in cohorts.items() if name != baseline}
    pairs = {name: list(zip(cohort.cases, cohorts[baseline].cases, strict=True)) for name, cohort in others.items()}
    lesions = {name: [pair for cases in of for pair in _lesion_pairs(*cases)] for name, of in pairs.items()}
    tests = agreements([[(one.detected, two.detected) for _, one, two in of] for of in lesions.values()])
    dice = {
        name: [(a.patient, a.dice, b.dice) for a, b in of if a.dice is not None and b.dice is not None]
        for name, of in pairs.items()
    }
    p_values = {name: p for name, rows in dice.items() if (p := signed_rank_p(rows)) is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        name: AgainstBaseline(
            detection=test,
            detection_rate=_difference(
                [(p, float(one.detected), float(two.detected)) for p, one, two in lesions[name]]
            ),
            dice=_difference(dice[name]),
            dice_p=p_values.get(name),
            dice_p_holm=adjusted.get(name),
            false_positives_per_case=_difference(
                [(a.patient, float(a.n_false_positive), float(b.n_false_positive)) for a, b in pairs[name]]
            ),
        )
        for name, test in zip(others, tests, strict=True)
    }


def _lesion_pairs(one: CaseDetection, other: CaseDetection) -> list[tuple[str, Lesion, Lesion]]:
    """Return the patient and both results of each tumour of a case."""
    return [(one.patient, a, b) for a, b in zip(one.lesions, other.lesions, strict=True)]


def _difference(rows: Sequence[tuple[str, float, float]]) -> Difference:
    return paired_difference([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def signed_rank_p(rows: Sequence[tuple[str, float, float]]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed ranks of the patients' mean differences; None without a patient.

    Wilcoxon 1945 (Biometrics Bulletin 1:80).
    """
    by_patient: dict[str, list[float]] = {}
    for patient, one, other in rows:
        by_patient.setdefault(patient, []).append(one - other)
    means = np.array([np.mean(values) for values in by_patient.values()])
    if not len(means):
        return None
    return float(wilcoxon(means).pvalue) if means.any() else 1.0


def cost_of(model: ModelFolder, plans_memory_gb: float | None, steps: Sequence[Step]) -> Cost:
    """Return what a model took, in the folds of a study, by nnU-Net's logs, records of its jobs, and a checkpoint."""
    trainings = [step for step in steps if isinstance(step, TrainStep) and step.model == model]
    memory = {step.fold: step.record().get("host_memory_gb") or None for step in trainings}
    folds, costs = [model.fold(number) for number in model.fold_numbers() if number in memory], []
    for fold in folds:
        told, number = fold_progress(fold), int(fold.fold)
        costs.append(FoldCost(number, told.epoch, told.seconds, told.validation_seconds, memory.get(number)))
    checkpoint = next((fold.checkpoint_final for fold in folds if fold.checkpoint_final.is_file()), None)
    return Cost(
        folds=tuple(costs),
        gpu_memory_gb=plans_memory_gb,
        parameters=_num_parameters(read_checkpoint(checkpoint, mapped=True)) if checkpoint else None,
    )


def _num_parameters(checkpoint: Mapping[str, Any]) -> int:
    """Return the number of weights; nnU-Net's networks name many of them twice."""
    weights = [value for value in checkpoint["network_weights"].values() if value.is_floating_point()]
    return sum({(value.data_ptr(), value.shape): value.numel() for value in weights}.values())
