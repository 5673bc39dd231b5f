"""Attention dilution per stage and feature reuse per block, over the folds of a model.

Folds are different networks: over them a value is the mean, with the range, and nothing is pooled.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rectal_nnformer.analysis.records import AttentionRecord, EpochRecord, ReuseRecord, StageRecord
from rectal_nnformer.evaluation.rates import Interval
from rectal_nnformer.evaluation.summary import spread_of

STAGE_VALUES = ("adi", "uniform_adi", "a_rp", "tumor_adi", "scattered_padding_share", "real_token_fraction")


@dataclass(frozen=True)
class StageOverFolds:
    """One stage of the encoder: of each of `STAGE_VALUES` the mean over the folds, None where no fold defines it.

    `adi_range` is the least and the greatest attention dilution index among the folds.
    """

    stage: int
    means: Mapping[str, float | None]
    adi_range: Interval | None
    adi_of_folds: Mapping[int, float | None]


@dataclass(frozen=True)
class ReuseOverFolds:
    """Similarity (CKA, debiased) of each block's features to those of the same block before fine-tuning.

    `diagonal`, `null_p95` (95th percentile under permutation) and `matrix` are means over the folds; `intervals` are
    ranges over them, or bootstrap intervals where there is one fold. `folds` is the mean diagonal of each fold, and
    `drift_intervals` the bootstrap intervals of 1 minus that.
    """

    blocks: tuple[str, ...]
    diagonal: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]
    null_p95: tuple[float | None, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    folds: Mapping[int, float | None]
    drift_intervals: Mapping[int, Interval | None]
    mean_diagonal: float | None
    best_match_distance: float | None
    num_crops: Mapping[int, int]


def attention_over_folds(attention: Mapping[int, AttentionRecord]) -> tuple[StageOverFolds, ...]:
    """Return the stages of attention_dilution.json by fold; empty without any."""
    by_stage: dict[int, dict[int, StageRecord]] = {}
    for fold, record in attention.items():
        for stage in record.stages:
            by_stage.setdefault(stage.stage, {})[fold] = stage
    return tuple(
        StageOverFolds(
            stage=number,
            means={name: spread_of(getattr(stage, name) for stage in stages.values()).mean for name in STAGE_VALUES},
            adi_range=_range(stage.adi for stage in stages.values()),
            adi_of_folds={fold: stage.adi for fold, stage in stages.items()},
        )
        for number, stages in sorted(by_stage.items())
    )


def epochs_over_folds(folds: Iterable[Sequence[EpochRecord]]) -> dict[int, dict[int, float | None]]:
    """Return the attention dilution index by epoch and stage, mean over the folds that were followed in training."""
    found: dict[int, dict[int, list[float | None]]] = {}
    for record in (record for records in folds for record in records):
        for stage in record.stages:
            found.setdefault(record.epoch, {}).setdefault(stage.stage, []).append(stage.adi)
    return {
        epoch: {number: spread_of(values).mean for number, values in stages.items()}
        for epoch, stages in sorted(found.items())
    }


def reuse_over_folds(reuse: Mapping[int, ReuseRecord]) -> ReuseOverFolds | None:
    """Return feature_reuse.json by fold and over the folds; None where it is defined for none.

    Left out are folds of too few cases for the debiased estimator, and those that compare other blocks than the first.
    """
    defined = {fold: record for fold, record in reuse.items() if record.debiased and record.debiased.diagonal}
    if not defined:
        return None
    blocks = next(iter(defined.values())).blocks
    same = {fold: record for fold, record in defined.items() if record.blocks == blocks}
    debiased = {fold: record.debiased for fold, record in same.items() if record.debiased is not None}
    means = {fold: similarity.mean_diagonal for fold, similarity in debiased.items()}
    diagonals = [similarity.diagonal or () for similarity in debiased.values()]
    undefined = (None,) * len(blocks)
    nulls = [similarity.null.p95 if similarity.null else undefined for similarity in debiased.values()]
    ranges = tuple(_range(values) for values in zip(*diagonals, strict=True))
    bootstrap = next(iter(debiased.values())).intervals
    return ReuseOverFolds(
        blocks=blocks,
        diagonal=_means(diagonals),
        intervals=ranges if len(debiased) > 1 else bootstrap.diagonal if bootstrap else undefined,
        null_p95=_means(nulls),
        matrix=tuple(_means(rows) for rows in zip(*(one.matrix for one in debiased.values()), strict=True)),
        folds=means,
        drift_intervals={fold: one.intervals.drift if one.intervals else None for fold, one in debiased.items()},
        mean_diagonal=spread_of(means.values()).mean,
        best_match_distance=spread_of(similarity.best_match_distance for similarity in debiased.values()).mean,
        num_crops={fold: record.num_crops for fold, record in same.items()},
    )


def _means(folds: Iterable[Sequence[float | None]]) -> tuple[float | None, ...]:
    """Return the mean over the folds at each place."""
    return tuple(spread_of(values).mean for values in zip(*folds, strict=True))


def _range(values: Iterable[float | None]) -> Interval | None:
    defined = [value for value in values if value is not None]
    return (min(defined), max(defined)) if defined else None
