"""Attention dilution per stage and feature reuse per block, over the folds of a run."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STAGE_VALUES = ("adi", "uniform_adi", "a_rp", "tumor_adi", "scattered_padding_share", "real_token_fraction")


@dataclass(frozen=True)
class StageProfile:
    """One stage of the encoder.

    Attributes:
        stage: Its number, from 0.
        means: Mean over the folds of each of `STAGE_VALUES`; None where no fold defines it.
        adi_range: Least and greatest attention dilution index among the folds.
    """

    stage: int
    means: Mapping[str, float | None]
    adi_range: tuple[float, float] | None


@dataclass(frozen=True)
class ReuseProfile:
    """Similarity (CKA, debiased) of each block's features to those of the same block before fine-tuning.

    Attributes:
        blocks: Names of the blocks.
        diagonal: Mean over the folds for each block.
        intervals: Range over the folds, or the bootstrap interval where there is one fold.
        null_p95: 95th percentile under permutation, mean over the folds.
        matrix: Mean over the folds for each pair of blocks.
        folds: Mean diagonal of each fold, the feature reuse of that fold.
        mean_diagonal: Mean of these.
        best_match_distance: How far from the diagonal the best match of a block lies, mean over blocks and folds.
        num_crops: Crops of each fold.
    """

    blocks: tuple[str, ...]
    diagonal: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    null_p95: tuple[float | None, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    folds: Mapping[int, float | None]
    mean_diagonal: float | None
    best_match_distance: float | None
    num_crops: Mapping[int, int]


def stage_profiles(attention: Mapping[int, Mapping[str, Any]]) -> list[StageProfile]:
    """Return the stages of `attention_dilution.json` by fold; empty without any."""
    by_stage: dict[int, list[Mapping[str, Any]]] = {}
    for content in attention.values():
        for stage in content["stages"]:
            by_stage.setdefault(int(stage["stage"]), []).append(stage)
    return [
        StageProfile(
            stage=number,
            means={name: mean_defined(stage.get(name) for stage in stages) for name in STAGE_VALUES},
            adi_range=_range(stage.get("adi") for stage in stages),
        )
        for number, stages in sorted(by_stage.items())
    ]


def reuse_profile(reuse: Mapping[int, Mapping[str, Any]]) -> ReuseProfile | None:
    """Return the profile of `feature_reuse.json` by fold; None without any that is defined.

    Left out are folds of too few cases for the debiased estimator, and those that compare other blocks than the first.
    """
    defined = {fold: content for fold, content in reuse.items() if (content["debiased"] or {}).get("diagonal")}
    if not defined:
        return None
    blocks = tuple(next(iter(defined.values()))["blocks"])
    same = {fold: content for fold, content in defined.items() if tuple(content["blocks"]) == blocks}
    debiased = [content["debiased"] for content in same.values()]
    nulls = [(result.get("null") or {}).get("p95") or [None] * len(blocks) for result in debiased]
    means = {fold: content["debiased"].get("mean_diagonal") for fold, content in same.items()}
    return ReuseProfile(
        blocks=blocks,
        diagonal=tuple(mean_defined(values) for values in zip(*(r["diagonal"] for r in debiased), strict=True)),
        intervals=tuple(_block_interval(debiased, index) for index in range(len(blocks))),
        null_p95=tuple(mean_defined(values) for values in zip(*nulls, strict=True)),
        matrix=tuple(
            tuple(mean_defined(r["matrix"][i][j] for r in debiased) for j in range(len(blocks)))
            for i in range(len(blocks))
        ),
        folds=means,
        mean_diagonal=mean_defined(means.values()),
        best_match_distance=mean_defined(result.get("best_match_distance") for result in debiased),
        num_crops={fold: content.get("num_crops", 0) for fold, content in same.items()},
    )


def mean_defined(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are defined, None without any."""
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


def _block_interval(debiased: Sequence[Mapping[str, Any]], index: int) -> tuple[float, float] | None:
    if len(debiased) > 1:
        return _range(result["diagonal"][index] for result in debiased)
    intervals = (debiased[0].get("intervals") or {}).get("diagonal")
    if not intervals or intervals[index] is None or None in intervals[index]:
        return None
    low, high = intervals[index]
    return low, high


def _range(values: Iterable[float | None]) -> tuple[float, float] | None:
    defined = [value for value in values if value is not None]
    return (min(defined), max(defined)) if defined else None
