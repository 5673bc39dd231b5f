"""How much of the pretrained features trainings kept, with draws over cases that are the same for all recipes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from rectal_nnformer.analysis import cka
from rectal_nnformer.analysis.features import common_extent, feature_grams
from rectal_nnformer.analysis.loaded_fold import load_fold
from rectal_nnformer.evaluation.rates import Interval
from rectal_nnformer.evidence.outcome import Verdict, verdict_of
from rectal_nnformer.nnunet.layout import CHECKPOINT_FINAL, FoldFolder


@dataclass(frozen=True)
class KeptFeatures:
    """Debiased CKA of fine-tuned with pretrained features, mean over blocks and seeds.

    Attributes:
        value: Of all held-out cases.
        chance: 95th percentile of what chance gives.
        draws: The value in each bootstrap draw of the cases.
    """

    value: float
    chance: float
    draws: tuple[float, ...]

    @property
    def interval(self) -> Interval:
        """95 % over the draws."""
        return interval_of(self.draws)


@dataclass(frozen=True)
class FeatureFinding:
    """A claim about features: how it was tested, the effect with its interval over draws of the cases, the verdict."""

    text: str
    tested: str
    value: float
    interval: Interval
    verdict: Verdict


COMPARED = (
    ("Tumour-aware augmentation changes the features of CT more", "TA", "Base"),
    ("The same on the planned patch", "ACT", "Crop"),
    ("Cropping changes the features of CT more", "Crop", "Base"),
)
"""Claims that the first recipe keeps less than the second."""


def kept_features(fold: FoldFolder, device: str) -> tuple[float, float, list[float]]:
    """Return the debiased CKA of a fold's features with the pretrained ones, mean over blocks, on its held-out cases.

    Returns:
        The value, the 95th percentile of what chance gives, and the value in each bootstrap draw of the cases; draws
        of other folds on the same cases are of the same cases, one by one.
    """
    loaded = load_fold(fold)
    cases = loaded.cases()
    networks = [loaded.network(weights)[1] for weights in (CHECKPOINT_FINAL, "pretrained")]
    extent = common_extent([(network, cases) for network in networks])
    first, second = (feature_grams(network, cases, extent, torch.device(device)) for network in networks)
    pairs = cka.cosines(cka.centre_unbiased(first), cka.centre_unbiased(second))
    _, chance = cka.permutation_null(first, second)
    draws = cka.bootstrap_diagonal(first, second).mean(dim=1)
    return float(pairs.diagonal().mean()), float(chance.mean()), draws.tolist()


def kept_over_seeds(of_seeds: Sequence[tuple[float, float, Sequence[float]]]) -> KeptFeatures:
    """Return the mean over seeds of what `kept_features` gave, draw by draw."""
    values, chances, draws = zip(*of_seeds, strict=True)
    return KeptFeatures(fmean(values), fmean(chances), tuple(np.mean(draws, axis=0).tolist()))


def feature_findings(kept: Mapping[str, KeptFeatures]) -> tuple[FeatureFinding, ...]:
    """Return what the features say: whether Base keeps those of CT, and which recipes change them more."""
    found = []
    if base := kept.get("Base"):
        found.append(
            FeatureFinding(
                "Fine-tuning keeps features of CT",
                f"CKA of Base with pretraining, against chance, {base.chance:.3f}",
                base.value,
                base.interval,
                verdict_of(base.interval, 1, chance=base.chance),
            )
        )
    for text, first, second in COMPARED:
        if first in kept and second in kept:
            interval = interval_of([a - b for a, b in zip(kept[first].draws, kept[second].draws, strict=True)])
            value = kept[first].value - kept[second].value
            tested = f"CKA with pretraining, {first} - {second}"
            found.append(FeatureFinding(text, tested, value, interval, verdict_of(interval, -1)))
    return tuple(found)


def interval_of(draws: Sequence[float]) -> Interval:
    """Return the 2.5th and 97.5th percentile of draws; undefined ones are left out."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)
