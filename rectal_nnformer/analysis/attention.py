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

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class AttentionFlow:
    """Sums over the queries of one block, and the ratios that follow from them.

    Flows of the same block in several crops are added: numerators and denominators are summed before they are divided.

    Attributes:
        real_queries: Number of real queries.
        entropy_sum: Sum of H over real queries, nats.
        padding_entropy_sum: Sum of H^p over real queries, nats.
        real_mass_on_padding: Attention of real queries to padding keys, summed over queries; the rest is on real keys.
        uniform_mass_on_padding: The same if every query attended equally to all keys of its window.
        padding_queries: Number of padding queries in windows that hold a real token.
        padding_mass_on_padding: Attention of padding queries to padding keys, summed over queries.
    """

    real_queries: float
    entropy_sum: float
    padding_entropy_sum: float
    real_mass_on_padding: float
    uniform_mass_on_padding: float
    padding_queries: float
    padding_mass_on_padding: float

    def __add__(self, other: "AttentionFlow") -> "AttentionFlow":
        """Return the flow over the queries of both."""
        return AttentionFlow(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def adi(self) -> float:
        """Attention dilution index, 0 (no dilution) to 1; nan where no real query has any entropy."""
        return _ratio(self.padding_entropy_sum, self.entropy_sum)

    @property
    def uniform_adi(self) -> float:
        """ADI if every real query attended equally to all keys of its window: the share of padding among the keys."""
        return _ratio(self.uniform_mass_on_padding, self.real_queries)

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
    return AttentionFlow(*flow_sums(attention, real_tokens, real_tokens.unsqueeze(0))[0].tolist())


@torch.no_grad()
def flow_sums(attention: Tensor, real_tokens: Tensor, queries: Tensor) -> Tensor:
    """Return the sums of `AttentionFlow` for several choices of real queries, without waiting for the device.

    Args:
        attention: As in `attention_flow`.
        real_tokens: As in `attention_flow`.
        queries: Bool (choices, windows, N), the real queries that count.

    Returns:
        (choices, 7), the fields of `AttentionFlow` in their order, in float64 where the device has it.
    """
    padding = ~real_tokens
    weights = attention.mean(dim=1, dtype=torch.float32)
    padding_mass = (weights * padding.unsqueeze(1)).sum(dim=2)
    # -a log a with 0 log 0 = 0; torch.special.entr is the same, several times slower on a CPU.
    entropies = weights.clamp_min(_TINY).log_().mul_(weights).neg_()
    entropy = entropies.sum(dim=2)
    padding_entropy = entropies.mul_(padding.unsqueeze(1)).sum(dim=2)
    uniform_mass = padding.float().mean(dim=1, keepdim=True).expand_as(padding_mass)
    one = torch.ones_like(padding_mass)
    of_real = torch.stack((one, entropy, padding_entropy, padding_mass, uniform_mass))
    of_padding = torch.stack((one, padding_mass)) * (padding & real_tokens.any(dim=1, keepdim=True))
    dtype = torch.float32 if attention.device.type == "mps" else torch.float64
    sums = (of_real * queries.unsqueeze(1)).sum(dim=(2, 3), dtype=dtype)
    return torch.cat((sums, of_padding.sum(dim=(1, 2), dtype=dtype).expand(len(queries), 2)), dim=1)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else nan
