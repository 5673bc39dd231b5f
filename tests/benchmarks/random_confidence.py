"""What confidences that have nothing to do with the truth give, and what other confidences of a case would.

`python -m tests.benchmarks.random_confidence MODEL [--draws 1000]`: MODEL is the folder of a model whose folds were
validated. Printed is a table in Markdown: for each measure of a case, as it is and with confidences drawn anew for each
candidate or for each case, Spearman's correlation with Dice and the AUROC of flagging missed tumours. Of draws it has
the mean with its 95 % interval, and the share of the draws whose own interval over patients holds what chance gives.
The last line is of lesions: how well confidence tells those of the masks that detect from the false ones.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rectal_nnformer.evaluation.candidates import Candidate
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.fold import read_evaluation
from rectal_nnformer.evaluation.resampling import Estimate
from rectal_nnformer.evaluation.review import MEASURES, review_measure
from rectal_nnformer.nnunet.layout import ModelFolder
from tests.benchmarks.confidence import auroc_of_mask

Cases = Sequence[CaseDetection]


def of_largest(lesions: Sequence[Candidate]) -> float:
    """Return the confidence of the largest lesion."""
    return max(lesions, key=lambda lesion: lesion.voxels).confidence


def of_voxels(lesions: Sequence[Candidate]) -> float:
    """Return the mean probability of the voxels of all lesions."""
    return float(np.average([one.confidence for one in lesions], weights=[one.voxels for one in lesions]))


def of_case(measure: Callable[[Sequence[Candidate]], float]) -> Callable[[CaseDetection], float]:
    """Return a measure of the lesions of the mask; of all candidates if there is none, 0 without any."""

    def rated(case: CaseDetection) -> float:
        candidates = case.candidates or ()
        lesions = [one for one in candidates if one.in_mask] or candidates
        return measure(lesions) if lesions else 0.0

    return rated


NAMES = {
    "confidence": "surest lesion (default)",
    "mean_confidence": "mean of the lesions",
    "largest": "largest lesion",
    "voxels": "mean of their voxels",
}
OTHERS = {"largest": of_case(of_largest), "voxels": of_case(of_voxels)}


def drawn_by_candidate(cases: Cases, generator: np.random.Generator) -> Cases:
    """Return the cases with a confidence drawn for each candidate."""
    return [
        replace(case, candidates=tuple(replace(one, confidence=generator.random()) for one in case.candidates or ()))
        for case in cases
    ]


def drawn_by_case(cases: Cases, generator: np.random.Generator) -> Cases:
    """Return the cases with one confidence drawn for all candidates of a case."""
    values = generator.random(len(cases)).tolist()
    return [
        replace(case, candidates=tuple(replace(one, confidence=value) for one in case.candidates or ()))
        for case, value in zip(cases, values, strict=True)
    ]


def words_of(found: Estimate) -> str:
    """Return an estimate with its interval over patients."""
    interval = found.patient_bootstrap_95
    return f"{found.value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})" if interval else f"{found.value}"


def words_of_draws(found: Sequence[Estimate], chance: float) -> str:
    """Return the mean over draws with its interval, and how many intervals hold what chance gives."""
    values = np.array([one.value for one in found], dtype=float)
    margin = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    intervals = [one.patient_bootstrap_95 for one in found]
    held = np.mean([bool(of) and of[0] <= chance <= of[1] for of in intervals])
    return f"{values.mean():.3f} (± {margin:.3f}), {100 * held:.0f} %"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    model = ModelFolder.from_path(arguments.model)
    cases = [one for number in model.fold_numbers() for one in read_evaluation(model.fold(number).validation).cases]
    MEASURES.update(OTHERS)
    generator = np.random.default_rng(0)
    draws = {
        how: [how(cases, generator) for _ in range(arguments.draws)] for how in (drawn_by_candidate, drawn_by_case)
    }
    print("| case confidence | of | as it is | drawn by candidate | drawn by case |\n| --- | --- | --- | --- | --- |")
    for measure, name in NAMES.items():
        own = review_measure(measure, cases)
        random = [[review_measure(measure, drawn) for drawn in of_kind] for of_kind in draws.values()]
        for what, field, chance in (("Spearman, Dice", "spearman_dice", 0.0), ("AUROC, a miss", "auroc_missed", 0.5)):
            cells = [words_of_draws([getattr(one, field) for one in of_kind], chance) for of_kind in random]
            print(f"| {name} | {what} | {words_of(getattr(own, field))} | {' | '.join(cells)} |")
    of_lesions = np.array([auroc_of_mask(drawn) for drawn in draws[drawn_by_candidate]])
    margin = 1.96 * of_lesions.std(ddof=1) / np.sqrt(len(of_lesions))
    print(f"\nLesions: AUROC {auroc_of_mask(cases):.3f}, drawn {of_lesions.mean():.3f} (± {margin:.3f})")


if __name__ == "__main__":
    main()
