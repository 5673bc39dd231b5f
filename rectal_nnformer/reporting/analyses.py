"""Attention dilution per stage and feature reuse per block, of each fold of a run and over its folds.

Folds are different networks: over them a value is the mean, with the range, and nothing is pooled.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError

ATTENTION_FILE = "attention_dilution.json"
REUSE_FILE = "feature_reuse.json"
EPOCHS_FILE = "attention_epochs.json"
STAGE_VALUES = ("adi", "uniform_adi", "a_rp", "tumor_adi", "scattered_padding_share", "real_token_fraction")


@dataclass(frozen=True)
class StageProfile:
    """One stage of the encoder.

    Attributes:
        stage: Its number, from 0.
        means: Mean over the folds of each of `STAGE_VALUES`; None where no fold defines it.
        adi_range: Least and greatest attention dilution index among the folds.
        adi_of_folds: Attention dilution index of each fold that was analysed.
    """

    stage: int
    means: Mapping[str, float | None]
    adi_range: tuple[float, float] | None
    adi_of_folds: Mapping[int, float | None]


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
        drift_intervals: Bootstrap interval of the drift of each fold, 1 minus its mean diagonal.
        mean_diagonal: Mean diagonal, over the folds.
        best_match_distance: How far from the diagonal the best match of a block lies, mean over blocks and folds.
        num_crops: Crops of each fold.
    """

    blocks: tuple[str, ...]
    diagonal: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    null_p95: tuple[float | None, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    folds: Mapping[int, float | None]
    drift_intervals: Mapping[int, tuple[float, float] | None]
    mean_diagonal: float | None
    best_match_distance: float | None
    num_crops: Mapping[int, int]


def read_analyses(model_folder: Path, folds: Iterable[int], name: str) -> dict[int, Mapping[str, Any]]:
    """Return `ATTENTION_FILE` or `REUSE_FILE` of each fold that has one.

    Raises:
        RectalError: A file is damaged.
    """
    keys = {ATTENTION_FILE: ("stages",), REUSE_FILE: ("blocks", "debiased")}[name]
    paths = {fold: model_folder / f"fold_{fold}" / "validation" / name for fold in folds}
    return {fold: read_keys(path, keys) for fold, path in paths.items() if path.is_file()}


def read_epochs(model_folder: Path, folds: Iterable[int]) -> dict[int, dict[int, float | None]]:
    """Return the attention dilution index by epoch and stage, mean over the folds that were followed in training.

    Raises:
        RectalError: `EPOCHS_FILE` of a fold is damaged.
    """
    found: dict[int, dict[int, list[float | None]]] = {}
    for path in (model_folder / f"fold_{fold}" / EPOCHS_FILE for fold in folds):
        if not path.is_file():
            continue
        try:
            for record in json.loads(path.read_text(encoding="utf-8")):
                for stage in record["stages"]:
                    found.setdefault(record["epoch"], {}).setdefault(stage["stage"], []).append(stage["adi"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RectalError(f"{path} cannot be used ({error!r}). Delete it, or copy it again.") from error
    return {
        epoch: {number: mean_defined(values) for number, values in stages.items()}
        for epoch, stages in sorted(found.items())
    }


def read_keys(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return the content of a JSON file that a validation left.

    Raises:
        RectalError: It is missing or damaged, or lacks one of the keys.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            content[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RectalError(f"{path} cannot be used ({error!r}). Copy it again, or validate the fold again.") from error
    return dict(content)


def stage_profiles(attention: Mapping[int, Mapping[str, Any]]) -> list[StageProfile]:
    """Return the stages of `attention_dilution.json` by fold; empty without any."""
    by_stage: dict[int, dict[int, Mapping[str, Any]]] = {}
    for fold, content in attention.items():
        for stage in content["stages"]:
            by_stage.setdefault(int(stage["stage"]), {})[fold] = stage
    return [
        StageProfile(
            stage=number,
            means={name: mean_defined(stage.get(name) for stage in stages.values()) for name in STAGE_VALUES},
            adi_range=_range(stage.get("adi") for stage in stages.values()),
            adi_of_folds={fold: stage.get("adi") for fold, stage in stages.items()},
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
        drift_intervals={fold: _pair((c["debiased"].get("intervals") or {}).get("drift")) for fold, c in same.items()},
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
    return _pair(intervals[index]) if intervals else None


def _pair(interval: Sequence[float | None] | None) -> tuple[float, float] | None:
    """Return an interval, None where a bound is undefined."""
    low, high = interval or (None, None)
    return None if low is None or high is None else (low, high)


def _range(values: Iterable[float | None]) -> tuple[float, float] | None:
    defined = [value for value in values if value is not None]
    return (min(defined), max(defined)) if defined else None
