"""Where attention goes between real tokens and padding: attention dilution index, masses, entropies.

Source: Rangnekar et al., arXiv 2605.05522, 2026. For one block, `a[i, j]` is the attention after softmax, averaged over
heads, and P the padding keys of the window of a query i:

    H_i   = -sum over all keys j of a[i, j] log a[i, j]          (0 log 0 = 0)
    H_i^p = -sum over j in P of a[i, j] log a[i, j]
    ADI   = sum H_i^p / sum H_i                                  over all real queries i

ADI is a share of entropy and not of mass: the mass `a_rp` belongs beside it. In a window of 64 tokens, nine tenths of
the mass on a single padding key give an ADI of 0.13.
"""

from dataclasses import dataclass, fields
from math import nan

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionFlow:
    """Sums over the queries of one block, and the ratios that follow from them.

    Flows of the same block in several crops are added: numerators and denominators are summed before they are divided.

    Attributes:
        real_queries: Number of real queries.
        padding_queries: Number of padding queries in windows that hold a real token.
        entropy_sum: Sum of H over real queries, nats.
        padding_entropy_sum: Sum of H^p over real queries, nats.
        real_mass_on_padding: Attention of real queries to padding keys, summed over queries; the rest is on real keys.
        padding_mass_on_padding: The same of padding queries.
    """

    real_queries: int
    padding_queries: int
    entropy_sum: float
    padding_entropy_sum: float
    real_mass_on_padding: float
    padding_mass_on_padding: float

    def __add__(self, other: "AttentionFlow") -> "AttentionFlow":
        """Return the flow over the queries of both."""
        return AttentionFlow(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def adi(self) -> float:
        """Attention dilution index, 0 (no dilution) to 1; nan where no real query has any entropy."""
        return _ratio(self.padding_entropy_sum, self.entropy_sum)

    @property
    def a_rr(self) -> float:
        """Mean attention mass from real queries to real keys; nan without a real query."""
        return 1 - self.a_rp

    @property
    def a_rp(self) -> float:
        """Mean attention mass from real queries to padding keys; nan without a real query."""
        return _ratio(self.real_mass_on_padding, self.real_queries)

    @property
    def a_pr(self) -> float:
        """Mean attention mass from padding queries to real keys; nan without a padding query."""
        return 1 - self.a_pp

    @property
    def a_pp(self) -> float:
        """Mean attention mass from padding queries to padding keys; nan without a padding query."""
        return _ratio(self.padding_mass_on_padding, self.padding_queries)

    @property
    def entropy(self) -> float:
        """Mean of H over real queries, nats; nan without a real query."""
        return _ratio(self.entropy_sum, self.real_queries)

    @property
    def padding_entropy(self) -> float:
        """Mean of H^p over real queries, nats; nan without a real query."""
        return _ratio(self.padding_entropy_sum, self.real_queries)


@torch.no_grad()
def attention_flow(attention: Tensor, real_tokens: Tensor) -> AttentionFlow:
    """Measure the attention of one block. Windows without a real token take no part.

    Args:
        attention: After softmax, (windows, heads, N, N), queries before keys, N tokens per window.
        real_tokens: Bool (windows, N); False is padding, of the image or of the last windows of an axis.
            `rectal_nnformer.geometry.window_partition_mask` cuts a token mask into such windows.

    Raises:
        ValueError: the shapes do not belong together, or `real_tokens` is not bool.
    """
    if attention.ndim != 4 or real_tokens.shape != attention.shape[::2] or attention.shape[2] != attention.shape[3]:
        raise ValueError(
            "attention must be (windows, heads, N, N) and real_tokens (windows, N); "
            f"got {tuple(attention.shape)} and {tuple(real_tokens.shape)}"
        )
    if real_tokens.dtype != torch.bool:
        raise ValueError(f"real_tokens must be bool, got {real_tokens.dtype}")
    taking_part = real_tokens.any(dim=1)
    real = real_tokens[taking_part]
    weights = attention[taking_part].mean(dim=1, dtype=torch.float32)
    padding_keys = ~real.unsqueeze(1)
    entropies = torch.special.entr(weights)
    padding_mass = (weights * padding_keys).sum(dim=2)
    return AttentionFlow(
        real_queries=int(real.sum()),
        padding_queries=int((~real).sum()),
        entropy_sum=_sum(entropies.sum(dim=2)[real]),
        padding_entropy_sum=_sum((entropies * padding_keys).sum(dim=2)[real]),
        real_mass_on_padding=_sum(padding_mass[real]),
        padding_mass_on_padding=_sum(padding_mass[~real]),
    )


def _sum(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else nan
