"""How much of the pretrained features a training kept, with draws over cases that are the same for all recipes."""

import torch

from rectal_nnformer.analysis import cka
from rectal_nnformer.analysis.features import common_extent, feature_grams
from rectal_nnformer.analysis.loaded_fold import load_fold
from rectal_nnformer.nnunet.layout import FoldFolder


def kept_features(fold: FoldFolder, device: str) -> tuple[float, float, list[float]]:
    """Return the debiased CKA of a fold's features with the pretrained ones, mean over blocks, on its held-out cases.

    Returns:
        The value, the 95th percentile of what chance gives, and the value in each bootstrap draw of the cases; draws
        of other folds on the same cases are of the same cases, one by one.
    """
    loaded = load_fold(fold)
    cases = loaded.cases()
    networks = [loaded.network(weights)[1] for weights in ("checkpoint_final.pth", "pretrained")]
    extent = common_extent([(network, cases) for network in networks])
    first, second = (feature_grams(network, cases, extent, torch.device(device)) for network in networks)
    pairs = cka.cosines(cka.centre_unbiased(first), cka.centre_unbiased(second))
    _, chance = cka.permutation_null(first, second)
    draws = cka.bootstrap_diagonal(first, second).mean(dim=1)
    return float(pairs.diagonal().mean()), float(chance.mean()), draws.tolist()
