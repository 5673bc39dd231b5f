"""Centered kernel alignment of two sets of features."""

import torch
from torch import Tensor


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear CKA of two representations of the same samples, between 0 and 1.

    `HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))` on centred Gram matrices (Kornblith et al., Similarity of neural network
    representations revisited, ICML 2019), computed in float64. With few samples of many features it is near 1 even for
    unrelated ones.

    Args:
        x: Features (samples, features).
        y: Features of the same samples (samples, other features).

    Returns:
        A number (0-dimensional, float64); nan where the features of a set do not differ between samples.

    Raises:
        ValueError: `x` and `y` are no matrices with equal numbers of rows.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x and y must be (samples, features) of the same samples, got {x.shape} and {y.shape}")
    gram_x, gram_y = _centred_gram(x), _centred_gram(y)
    return (gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm())


def _centred_gram(features: Tensor) -> Tensor:
    centred = features.double() - features.double().mean(dim=0)
    return centred @ centred.T
