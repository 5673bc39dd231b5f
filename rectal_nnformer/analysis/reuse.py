"""Feature reuse: CKA between the blocks of two networks over the same crops, as the record of feature_reuse.json."""

from dataclasses import asdict, dataclass
from math import isfinite
from statistics import fmean

import torch
from torch import Tensor

from rectal_nnformer.analysis import cka, records
from rectal_nnformer.analysis.features import MOST_CELLS, common_extent, feature_grams, feature_layers
from rectal_nnformer.analysis.tiles import PreprocessedCases
from rectal_nnformer.networks.recording import AnalyzedNetwork

LEAST_DEFINED_DRAWS = 0.95
"""Draws with fewer than 4 different cases are undefined; an interval of the few others would feign certainty."""


@dataclass(frozen=True)
class ComparedNetwork:
    """A network to compare, not compiled, and the cases, the same ones for both, as its configuration sees them."""

    label: str
    network: AnalyzedNetwork
    cases: PreprocessedCases


def compare_features(first: ComparedNetwork, second: ComparedNetwork, device: torch.device) -> records.ReuseRecord:
    """Compare the blocks of two networks.

    One crop per case is a sample. Where the networks have other numbers of blocks there is no diagonal. With fewer than
    4 cases the debiased estimator is undefined; `note` then says so.
    """
    subjects = [(subject.network, subject.cases) for subject in (first, second)]
    extent = common_extent(subjects)
    grams = [feature_grams(network, cases, extent, device) for network, cases in subjects]
    num_cases = len(first.cases.names)
    enough = num_cases >= cka.FEWEST_SAMPLES
    note = f"The debiased estimator needs at least {cka.FEWEST_SAMPLES} cases; there are {num_cases}."
    if enough:
        few = f"Only {num_cases} cases: read the null, and the intervals where there are any."
        note = few if num_cases < 10 else ""
    x, y, z = (first.cases.patch_size[axis - 2] for axis in first.network.to_xyz[2:])
    stages = tuple(layer.stage for layer in feature_layers(first.network.backbone, (x, y, z)))
    return records.ReuseRecord(
        first=first.label,
        second=second.label,
        backbone=first.network.backbone_name,
        second_backbone=second.network.backbone_name,
        blocks=tuple(f"stage {stage} block {i - stages.index(stage)}" for i, stage in enumerate(stages)),
        stages=stages,
        num_crops=num_cases,
        num_cases=num_cases,
        debiased=debiased_record(*grams) if enough else None,
        biased=similarity_record(cka.cosines(*(cka.centre(matrices) for matrices in grams))),
        note=note,
        settings={
            "extent_mm": list(extent),
            "most_cells": MOST_CELLS,
            "permutations": cka.NUM_DRAWS,
            "bootstrap_draws": cka.NUM_DRAWS,
            "interval": 0.95,
            "seed": 0,
            "cases": list(first.cases.names),
        },
    )


def debiased_record(first: Tensor, second: Tensor) -> records.DebiasedSimilarity:
    """Return the debiased CKA of Gram matrices (blocks, cases, cases), its null and intervals."""
    similarity = asdict(similarity_record(cka.cosines(cka.centre_unbiased(first), cka.centre_unbiased(second))))
    if len(first) != len(second):
        return records.DebiasedSimilarity(**similarity, null=None, intervals=None)
    draws = cka.bootstrap_diagonal(first, second)
    return records.DebiasedSimilarity(
        **similarity,
        null=records.NullRecord(*map(_numbers, cka.permutation_null(first, second))),
        intervals=records.SimilarityIntervals(_intervals(draws), _intervals(1 - draws.mean(1, keepdim=True))[0]),
    )


def similarity_record(matrix: Tensor) -> records.Similarity:
    """Return a matrix (blocks, other blocks) of similarities with its diagonal and what follows from it."""
    rows = tuple(_numbers(row) for row in matrix)
    if matrix.shape[0] != matrix.shape[1]:
        return records.Similarity(rows, diagonal=None, mean_diagonal=None, drift=None, best_match_distance=None)
    mean = matrix.diagonal().mean()
    best = matrix.argmax(dim=1) if bool(matrix.isfinite().all()) else None
    distance = None if best is None else float((best - torch.arange(len(matrix))).abs().double().mean())
    mean_diagonal, drift = _numbers(torch.stack((mean, 1 - mean)))
    return records.Similarity(rows, _numbers(matrix.diagonal()), mean_diagonal, drift, distance)


def reuse_line(reuse: records.ReuseRecord) -> str:
    """Return the result in one line, for logs."""
    compared = f"Feature reuse, {reuse.first} against {reuse.second}"
    debiased = reuse.debiased
    if debiased is None or debiased.mean_diagonal is None or debiased.drift is None:
        return f"{compared}: undefined. {reuse.note}"
    interval = debiased.intervals and debiased.intervals.drift
    words = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    chance = [value for value in debiased.null.p95 if value is not None] if debiased.null else []
    return (
        f"{compared}: debiased CKA {debiased.mean_diagonal:.3f} on average, drift {debiased.drift:.3f}{words}, "
        f"{reuse.num_cases} cases"
        + (f"; by chance up to {fmean(chance):.3f}" if chance else "")
        + (f". {reuse.note}" if reuse.note else "")
    )


def _intervals(draws: Tensor) -> tuple[tuple[float, float] | None, ...]:
    """Return the 2.5th and 97.5th percentile of each column of (draws, columns), None where many are undefined."""
    bounds = draws.nanquantile(torch.tensor([0.025, 0.975], dtype=draws.dtype), dim=0)
    enough = draws.isfinite().double().mean(dim=0) >= LEAST_DEFINED_DRAWS
    pairs = zip(bounds.T.tolist(), enough.tolist(), strict=True)
    return tuple((low, high) if defined else None for (low, high), defined in pairs)


def _numbers(values: Tensor) -> tuple[float | None, ...]:
    return tuple(value if isfinite(value) else None for value in values.tolist())
