"""Scored cases whose predicted lesions have a confidence, drawn at random or made for one test."""

import numpy as np

from rectal_nnformer.evaluation import detect_lesions
from rectal_nnformer.evaluation.candidates import Candidate
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.detection import describe_components
from rectal_nnformer.imaging.masks import find_components

SPACING = (3.0, 0.5, 0.5)
SHAPE = (4, 24, 24)
CELL = 6


def random_maps(generator, max_candidates=6, touching_one=False):
    """Return a reference mask and a map of candidates, each of one confidence, a multiple of 1/64, 0 elsewhere.

    Candidates lie apart from each other in cells of a grid. With `touching_one` so do lesions: each candidate then
    touches at most one of them, and each lesion at most one candidate. Else lesions lie anywhere.
    """
    reference, confidence = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE)
    cells = generator.permutation([(y, x) for y in range(0, SHAPE[1], CELL) for x in range(0, SHAPE[2], CELL)])

    def box(corner, most):
        low = corner + generator.integers(0, 2, 2)
        return (slice(0, 4), *(slice(a, a + generator.integers(2, n + 1)) for a, n in zip(low, most, strict=True)))

    n_candidates = generator.integers(0, max_candidates + 1)
    for cell in cells[:n_candidates]:
        confidence[box(cell, (4, 4))] = generator.integers(1, 64) / 64
    for cell in cells[generator.permutation(n_candidates + 3)[: generator.integers(0, 4)]]:
        reference[box(cell, (4, 4) if touching_one else generator.permutation([2, 16]))] = True
    return reference, confidence


def scored_case(name, reference, confidence, patient=None, threshold=0.5):
    """Return the record of a case from its reference mask and its map of candidates."""
    lesions = find_components(reference)
    candidates = find_components(confidence > 0)
    detection = detect_lesions(confidence >= threshold, reference, SPACING)
    described = describe_components(candidates, (0, 0, 0), SPACING)
    mask = confidence >= threshold
    tumor = mask.sum() + reference.sum()
    return CaseDetection(
        case=name,
        patient=patient or name,
        note="",
        prediction_missing=False,
        n_reference=detection.n_reference,
        n_predicted=detection.n_predicted,
        n_detected=detection.n_detected,
        n_missed=detection.n_missed,
        n_false_positive=detection.n_false_positive,
        strict=detection.strict,
        dice=2 * float((mask & reference).sum()) / tumor if tumor else None,
        lesions=detection.lesions,
        false_positives=detection.false_positives,
        predicted_cm3=float(mask.sum()) * 0.75e-3,
        reference_cm3=float(reference.sum()) * 0.75e-3,
        candidates=tuple(
            Candidate(
                **vars(component),
                confidence=(sure := float(confidence[candidates.labels == component.label].max())),
                in_mask=sure >= threshold,
                shared_voxels=tuple(
                    int(((candidates.labels == component.label) & (lesions.labels == lesion.label)).sum())
                    for lesion in detection.lesions
                ),
            )
            for component in described
        ),
    )


def random_cases(number, seed=0, patients=None, **options):
    """Return scored cases and the maps that they are of; the number of patients defaults to that of cases."""
    generator = np.random.default_rng(seed)
    maps = [random_maps(generator, **options) for _ in range(number)]
    names = [f"case_{index:03}" for index in range(number)]
    of_patient = [f"patient_{index % (patients or number):03}" for index in range(number)]
    cases = [scored_case(name, *pair, patient) for name, pair, patient in zip(names, maps, of_patient, strict=True)]
    return cases, maps
