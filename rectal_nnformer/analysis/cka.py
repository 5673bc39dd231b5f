"""Centered kernel alignment of two sets of features, biased and debiased, with a null and intervals.

Linear CKA is the cosine of two centred Gram matrices (Kornblith et al., Similarity of neural network representations
revisited, ICML 2019). With few samples of many features it is near 1 even for unrelated ones. The debiased estimator
replaces each HSIC by its unbiased estimate (Song et al., Feature selection via dependence maximization, JMLR 2012;
used for CKA by Nguyen et al., ICLR 2021) and is near 0 for them.
"""

import torch
from torch import Tensor

FEWEST_SAMPLES = 4
"""The unbiased estimate divides by n (n - 3)."""

NUM_DRAWS = 1000


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear CKA of two representations of the same samples, between 0 and 1.

    `HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))` on centred Gram matrices, computed in float64.

    Args:
        x: Features (samples, features).
        y: Features of the same samples (samples, other features).

    Returns:
        A number (0-dimensional, float64); nan where the features of a set do not differ between samples.

    Raises:
        ValueError: `x` and `y` are no matrices with equal numbers of rows.

    Example:
        >>> x = torch.eye(5)[:, :4]
        >>> round(float(linear_cka(x, 3 * x + 1)), 6)
        1.0
    """
    _check(x, y)
    return cosines(centre(gram(x)[None]), centre(gram(y)[None]))[0, 0]


@torch.no_grad()
def debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the debiased linear CKA of two representations of the same samples, about 0 if they are unrelated.

    It is `linear_cka` with unbiased estimates of HSIC (Song et al. 2012, equation 4), computed in float64.

    Args:
        x: Features (samples, features), at least 4 samples.
        y: Features of the same samples (samples, other features).

    Returns:
        A number (0-dimensional, float64), at most 1 and possibly a little below 0; nan where the features of a set do
        not differ between samples.

    Raises:
        ValueError: `x` and `y` are no matrices with equal numbers of rows, or have fewer than 4.

    Example:
        >>> x = torch.randn(20, 1000, generator=torch.manual_seed(0))
        >>> y = torch.randn(20, 1000, generator=torch.manual_seed(1))
        >>> float(linear_cka(x, y)) > 0.9, abs(float(debiased_cka(x, y))) < 0.1
        (True, True)
    """
    _check(x, y)
    if len(x) < FEWEST_SAMPLES:
        raise ValueError(f"debiased CKA needs at least {FEWEST_SAMPLES} samples, got {len(x)}")
    return cosines(centre_unbiased(gram(x)[None]), centre_unbiased(gram(y)[None]))[0, 0]


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrix (samples, samples) of features (samples, features) minus their mean, in float64."""
    centred = features.double() - features.double().mean(dim=0)
    return centred @ centred.T


def centre(grams: Tensor) -> Tensor:
    """Return Gram matrices (blocks, samples, samples) with the means of their rows and columns taken off."""
    return grams - grams.mean(1, keepdim=True) - grams.mean(2, keepdim=True) + grams.mean((1, 2), keepdim=True)


def centre_unbiased(grams: Tensor) -> Tensor:
    """Return Gram matrices (blocks, samples, samples), centred such that products of two sum to unbiased HSIC.

    The sum over the entries of the product of two such matrices is n (n - 3) times the estimate of Song et al. 2012
    (Szekely and Rizzo, Annals of Statistics 2014, on U-centred matrices). Diagonals are 0.
    """
    n = grams.shape[-1]
    hollow = _hollow(grams)
    rows = hollow.sum(2, keepdim=True) / (n - 2)
    columns = hollow.sum(1, keepdim=True) / (n - 2)
    return _hollow(hollow - rows - columns + hollow.sum((1, 2), keepdim=True) / ((n - 1) * (n - 2)))


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each centred matrix of `first` with each of `second`: (blocks, other blocks)."""
    one, other = (matrices.flatten(1) for matrices in (first, second))
    return (one @ other.T) / (one.norm(dim=1)[:, None] * other.norm(dim=1))


def permutation_null(first: Tensor, second: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return what debiased CKA gives when the samples of `second` are shuffled: mean and 95th percentile, (blocks,).

    Both are Gram matrices (blocks, samples, samples).
    """
    generator = torch.Generator().manual_seed(seed)
    one, other = centre_unbiased(first), centre_unbiased(second)
    norms = one.flatten(1).norm(dim=1) * other.flatten(1).norm(dim=1)
    draws = []
    for _ in range(NUM_DRAWS):
        order = torch.randperm(first.shape[-1], generator=generator)
        draws.append((one * other[:, order][:, :, order]).sum((1, 2)) / norms)
    values = torch.stack(draws)
    return values.mean(0), values.quantile(0.95, dim=0)


def bootstrap_diagonal(first: Tensor, second: Tensor, seed: int = 0) -> Tensor:
    """Return the debiased CKA of each pair of blocks over bootstrap samples of the samples.

    A sample that is drawn twice would be alike to itself in both networks and feign similarity. So draws are weights of
    the distinct samples, and pairs of copies of one sample do not count. From Gram matrices (blocks, samples, samples)
    come (draws, blocks); nan where a draw leaves too few distinct samples.
    """
    n = first.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (NUM_DRAWS, n), generator=generator)
    weights = torch.zeros(NUM_DRAWS, n).double().scatter_add_(1, drawn, torch.ones_like(drawn).double())
    one, other = _hollow(first), _hollow(second)
    variances = weighted_hsic(one, one, weights) * weighted_hsic(other, other, weights)
    return weighted_hsic(one, other, weights) / variances.where(variances > 0, torch.nan).sqrt()


def weighted_hsic(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return the unbiased estimate of HSIC with weighted samples, over tuples of distinct samples.

    HSIC is `E[k_ij l_ij] - 2 E[k_ij l_iq] + E[k_ij l_qr]` over distinct i, j, q, r; each expectation is the weighted
    mean over such tuples. With equal weights this is the estimate of Song et al. 2012.

    Args:
        first: Gram matrices with empty diagonals (blocks, samples, samples).
        second: Others of the same shape.
        weights: (draws, samples).

    Returns:
        (draws, blocks).
    """
    ones = _hollow(torch.ones_like(first[:1]))
    sums, counts = _distinct_sums(first, second, weights), _distinct_sums(ones, ones, weights)
    pairs, triples, quadruples = (a / b.where(b > 0, torch.nan) for a, b in zip(sums, counts, strict=True))
    return pairs - 2 * triples + quadruples


def _distinct_sums(first: Tensor, second: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sums of k_ij l_ij, k_ij l_iq and k_ij l_qr over distinct indices, each (draws, blocks)."""
    product, squared = first * second, weights**2
    rows_first, rows_second = (torch.einsum("bij,rj->rbi", matrices, weights) for matrices in (first, second))
    of_rows = rows_first * rows_second

    def total(left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("ri,bij,rj->rb", left, product, right)

    pairs = total(weights, weights)
    triples = torch.einsum("ri,rbi->rb", weights, of_rows) - total(weights, squared)
    everything = torch.einsum("ri,rbi->rb", weights, rows_first) * torch.einsum("ri,rbi->rb", weights, rows_second)
    # Pairs ij and qr share one index in four ways, and both in two, which the four ways counted twice each.
    sharing = 4 * torch.einsum("ri,rbi->rb", squared, of_rows) - 2 * total(squared, squared)
    return pairs, triples, everything - sharing


def _hollow(matrices: Tensor) -> Tensor:
    return matrices * (1 - torch.eye(matrices.shape[-1], dtype=matrices.dtype))


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x and y must be (samples, features) of the same samples, got {x.shape} and {y.shape}")
