"""Which statistic of a candidate's voxels tells tumours from false positives best.

`python -m tests.benchmarks.confidence MODEL`: MODEL is the folder of a model whose folds were
validated with --npz, which keeps probabilities. Printed is a table in Markdown: for each
definition of confidence, over all validation cases, average precision, sensitivities by false positives per case, and
the area under the ROC curve of telling detected from false lesions of the mask.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import candidates_of_probabilities, log_odds_of
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.fold import read_evaluation
from rectal_nnformer.evaluation.froc import detection_curves
from rectal_nnformer.imaging.masks import tumor_heads, tumor_labels
from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import ModelFolder

DEFINITIONS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "mean probability": lambda z: float(expit(z).mean()),
    "median probability": lambda z: float(np.median(expit(z))),
    "75th percentile": lambda z: float(np.quantile(expit(z), 0.75)),
    "95th percentile": lambda z: float(np.quantile(expit(z), 0.95)),
    "maximum": lambda z: float(expit(z).max()),
    "mean log-odds": lambda z: float(z.mean()),
    "sum of probabilities": lambda z: float(expit(z).sum()),
    "number of voxels": lambda z: float(z.size),
    "random": lambda z: float(np.random.default_rng(z.size).random()),
}


def voxels_of_candidates(mask: Path, dataset_json: Mapping[str, Any]) -> dict[int, NDArray[np.float64]]:
    """Return the log-odds of the voxels of each candidate of a case, by its number."""
    tumor = tumor_heads(dataset_json)
    file = mask.with_name(mask.name.replace(dataset_json["file_ending"], ".npz"))
    found = candidates_of_probabilities(file, read_image(mask), tumor, tumor_labels(dataset_json))
    if found is None:
        raise RectalError(f"There are no probabilities of {mask}. Validate the fold with --val --npz.")
    numbers = sitk.GetArrayViewFromImage(found[0])
    with np.load(file) as content:
        log_odds = log_odds_of(content["probabilities"], tumor).astype(np.float64)
    return {number: log_odds[numbers == number] for number in range(1, len(found[1].candidates) + 1)}


def with_confidence(
    case: CaseDetection, voxels: Mapping[int, NDArray[np.float64]], confidence: Callable[[NDArray[np.float64]], float]
) -> CaseDetection:
    """Return a case whose candidates are rated by another statistic of their voxels."""
    rated = [replace(one, confidence=confidence(voxels[one.label])) for one in case.candidates or ()]
    return replace(case, candidates=tuple(rated))


def auroc_of_mask(cases: Sequence[CaseDetection]) -> float:
    """Return how well confidence tells the lesions of the masks that detect from the false ones."""
    truth, confidences = [], []
    for case in cases:
        false = {component.centroid for component in case.false_positives}
        for candidate in case.candidates or ():
            if candidate.in_mask:
                truth.append(candidate.centroid not in false)
                confidences.append(candidate.confidence)
    return float(roc_auc_score(truth, confidences))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    model = ModelFolder.from_path(parser.parse_args().model)
    dataset_json = read_dataset_json(model.dataset_json, "Train the model again.")
    cases, voxels = [], []
    for number in model.fold_numbers():
        folder = model.fold(number).validation
        for case in read_evaluation(folder).cases:
            cases.append(case)
            voxels.append(voxels_of_candidates(folder / f"{case.case}{dataset_json['file_ending']}", dataset_json))
    header: list[str] = []
    for name, confidence in DEFINITIONS.items():
        rated = [with_confidence(case, there, confidence) for case, there in zip(cases, voxels, strict=True)]
        curves = detection_curves(rated)
        if curves.merged is None:
            raise RectalError(curves.reason)
        found = curves.merged.sensitivities
        if not header:
            header = ["confidence", "AP", *(f"{one.false_positives_per_case:g}" for one in found), "AUROC"]
            print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
        values = [
            curves.merged.average_precision.value,
            *(one.sensitivity.value for one in found),
            auroc_of_mask(rated),
        ]
        print(f"| {name} | {' | '.join('-' if value is None else f'{value:.3f}' for value in values)} |")


if __name__ == "__main__":
    main()
