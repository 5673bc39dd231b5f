"""Whether voxels of a probability of 80 % are tumour in 80 % of the cases, and the temperature that makes them so."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from rectal_nnformer.evaluation.log_odds import LOG_ODDS, NEAR, REGIONS, LogOddsCounts, from_sparse

N_BINS = 15
"""Of equal width, as in Guo et al. 2017."""
MAX_TEMPERATURE = 20.0
"""Temperatures are sought between this and its inverse."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReliabilityBin:
    """Voxels whose probability is at least `low` and below `high`; means are None without any."""

    low: float
    high: float
    n_voxels: int
    mean_probability: float | None
    tumor_share: float | None


@dataclass(frozen=True)
class Calibration:
    """How far probabilities of tumour are from what is; measures are None without voxels.

    Attributes:
        ece: Expected calibration error: mean over the voxels of how far mean probability and share of tumour are apart
            in their bin.
        brier: Mean square of probability minus truth.
        log_loss: Mean negative logarithm of the probability of what is true.
    """

    n_voxels: int
    n_tumor: int
    ece: float | None
    brier: float | None
    log_loss: float | None
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class RegionCalibration:
    """Calibration of all voxels, and of those near the tumour."""

    all_voxels: Calibration
    near_tumor: Calibration


@dataclass(frozen=True)
class NestedCalibration:
    """Calibration as it is, and after temperatures that were fitted without the fold they apply to.

    Attributes:
        before: Of all folds, as the networks give it.
        reason: Why there is nothing after it, or an empty string.
        temperature: Fitted on all folds; None where the voxels near the tumour are of one kind.
        fold_temperatures: Of each fold, fitted on the others.
        after: Of all folds, each with its own temperature.
    """

    before: RegionCalibration
    reason: str
    temperature: float | None
    fold_temperatures: dict[int, float] | None = None
    after: RegionCalibration | None = None


def calibrate(folds: Mapping[int, LogOddsCounts]) -> NestedCalibration:
    """Return the calibration of folds, and what temperatures of the other folds make of it."""
    everything = sum(folds.values(), from_sparse([], []))
    before = _regions(folds, dict.fromkeys(folds, 1.0))
    temperature = fit_temperature(everything)
    if len(folds) < 2:
        few = "there is one fold only" if folds else "there is no fold"
        return NestedCalibration(before, f"{few}: no other to fit a temperature on", temperature)
    others = {fold: sum((folds[other] for other in folds if other != fold), from_sparse([], [])) for fold in folds}
    fitted = {fold: fit_temperature(counts) for fold, counts in others.items()}
    known = {fold: value for fold, value in fitted.items() if value is not None}
    if len(known) < len(folds):
        lacking = "near the tumour the other folds have voxels of one kind only, or none: no temperature can be fitted"
        return NestedCalibration(before, lacking, temperature)
    return NestedCalibration(before, "", temperature, known, _regions(folds, known))


def fit_temperature(counts: LogOddsCounts) -> float | None:
    """Return the number that log-odds are divided by for the lowest log loss near the tumour (Guo et al. 2017).

    Far from it nearly all voxels are surely no tumour, and would outvote those where it matters. None where the voxels
    near the tumour are of one kind only.
    """
    without, tumor = counts.counts[NEAR].astype(np.float64)
    if not without.any() or not tumor.any():
        return None

    def loss(log_temperature: float) -> float:
        scaled = LOG_ODDS / np.exp(log_temperature)
        return float(tumor @ np.logaddexp(0, -scaled) + without @ np.logaddexp(0, scaled)) / (
            tumor.sum() + without.sum()
        )

    # The loss is convex in the inverse of the temperature, so that it has one minimum in the logarithm, too.
    bound = np.log(MAX_TEMPERATURE)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-9}).x))


def calibration(log_odds: Floats, without: Floats, tumor: Floats) -> Calibration:
    """Return the calibration of counted voxels.

    Args:
        log_odds: Of tumour; (values,), as the following.
        without: Voxels of each value without tumour in the reference.
        tumor: Voxels of each value with it.
    """
    voxels, probability = without + tumor, expit(log_odds)
    total = voxels.sum()
    bins = np.minimum((probability * N_BINS).astype(np.int64), N_BINS - 1)
    in_bin, tumor_in_bin, sums = (
        np.bincount(bins, weights=weights, minlength=N_BINS) for weights in (voxels, tumor, voxels * probability)
    )
    reliability = tuple(
        ReliabilityBin(
            low=index / N_BINS,
            high=(index + 1) / N_BINS,
            n_voxels=int(count),
            mean_probability=float(sums[index] / count) if count else None,
            tumor_share=float(tumor_in_bin[index] / count) if count else None,
        )
        for index, count in enumerate(in_bin)
    )
    losses = tumor @ np.logaddexp(0, -log_odds) + without @ np.logaddexp(0, log_odds)
    return Calibration(
        n_voxels=int(total),
        n_tumor=int(tumor.sum()),
        ece=float(np.abs(sums - tumor_in_bin).sum() / total) if total else None,
        brier=float((tumor @ (1 - probability) ** 2 + without @ probability**2) / total) if total else None,
        log_loss=float(losses / total) if total else None,
        bins=reliability,
    )


def _regions(folds: Mapping[int, LogOddsCounts], temperatures: Mapping[int, float]) -> RegionCalibration:
    """Return the calibration of folds together, each with a temperature of its own."""
    log_odds = np.concatenate([np.zeros(0), *(LOG_ODDS / temperatures[fold] for fold in folds)])
    counts = np.concatenate([np.zeros((2, 2, 0)), *(of_fold.counts for of_fold in folds.values())], axis=2)
    return RegionCalibration(*(calibration(log_odds, *counts[region]) for region in REGIONS))
