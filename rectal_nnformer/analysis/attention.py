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
        padding_mass_on_real: Attention of these padding queries to real keys, summed over queries.
    """

    real_queries: float
    entropy_sum: float
    padding_entropy_sum: float
    real_mass_on_padding: float
    uniform_mass_on_padding: float
    padding_queries: float
    padding_mass_on_real: float

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
        """Mean attention mass from padding queries to real keys; nan without one."""
        return _ratio(self.padding_mass_on_real, self.padding_queries)

    @property
    def a_pp(self) -> float:
        """Mean attention mass from padding queries to padding keys; nan without a padding query."""
        return 1 - min(self.a_pr, 1.0)  # rounding alone brings it above

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
        ValueError: The shapes do not belong together, or `real_tokens` is not bool.

    Example:
        >>> attention = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])  # one window, one head, two tokens
        >>> flow = attention_flow(attention, torch.tensor([[True, False]]))
        >>> float(flow.adi), float(flow.a_rp)
        (0.5, 0.5)
    """
    if attention.ndim != 4 or real_tokens.shape != attention.shape[::2] or attention.shape[2] != attention.shape[3]:
        raise ValueError(
            "attention must be (windows, heads, N, N) and real_tokens (windows, N); "
            f"got {tuple(attention.shape)} and {tuple(real_tokens.shape)}"
        )
    if real_tokens.dtype != torch.bool:
        raise ValueError(f"real_tokens must be bool, got {real_tokens.dtype}")
    windows = WindowSums(real_tokens.unsqueeze(0))
    return flows_of(torch.cat((windows.uniform, windows.of_part(slice(None), attention))))[0]


class WindowSums:
    """Sums the attention of windows over queries and keys, in few steps and without waiting for the device.

    Its sums are (choices + 1, 2): queries by keys. The queries are those of each choice, then the padding of windows
    that hold a real token; the keys are the real ones, then padding.

    Args:
        choices: Bool (choices, windows, N), the real queries that count in each `AttentionFlow` asked for: first all
            of them, then any choice among them. What depends on the tokens alone is prepared once, for all blocks that
            cut a grid into the same windows.

    Attributes:
        num_tokens: Tokens in all windows.
        uniform: (1, choices + 1, 2), the masses of all windows if every query attended equally to all its keys.
    """

    def __init__(self, choices: Tensor) -> None:
        kinds = torch.cat((choices, ~choices[:1])).float()
        self._queries = kinds.transpose(0, 1)
        self._keys = kinds[:: len(kinds) - 1].permute(1, 2, 0)
        self.num_tokens = choices[0].numel()
        self._dtype = torch.float32 if kinds.device.type == "mps" else torch.float64
        queries = kinds.sum(dim=2, dtype=self._dtype)
        keys = queries[:: len(kinds) - 1] / kinds.shape[2]
        queries[-1].mul_(queries[0] > 0)
        self.uniform = (queries @ keys.T).unsqueeze(0)

    @torch.no_grad()
    def of_part(self, part: slice, attention: Tensor) -> Tensor:
        """Return masses and entropies of some windows, (2, choices + 1, 2), in float64 where the device has it.

        Masses of padding queries on padding keys, and their entropies, are those of windows of padding too.

        Args:
            part: Which windows.
            attention: Theirs after softmax, (part, heads, N, N).
        """
        weights = attention.mean(dim=1, dtype=torch.float32)
        if weights.device.type == "cpu":  # torch.special.entr is one step, but several times slower on a CPU
            entropies = weights.clamp_min(_TINY).log_().mul_(weights).neg_()
        else:
            entropies = torch.special.entr(weights)
        with torch.autocast(attention.device.type, enabled=False):
            by_query = torch.cat((self._queries[part] @ weights, self._queries[part] @ entropies), dim=1)
            sums = (by_query @ self._keys[part]).sum(dim=0, dtype=self._dtype)
        return sums.unflatten(0, (2, -1))


def flows_of(sums: Tensor) -> list[AttentionFlow]:
    """Return the flow of each choice of queries.

    Args:
        sums: (3, choices + 1, 2), the `uniform` of a `WindowSums` and what its `of_part` gave, added over all windows.
    """
    uniform, mass, entropy = sums.tolist()
    return [
        AttentionFlow(
            real_queries=round(sum(uniform[choice])),  # a count, which dividing by N left to rounding
            entropy_sum=sum(entropy[choice]),
            padding_entropy_sum=entropy[choice][1],
            real_mass_on_padding=mass[choice][1],
            uniform_mass_on_padding=uniform[choice][1],
            padding_queries=round(sum(uniform[-1])),
            padding_mass_on_real=mass[-1][0],
        )
        for choice in range(len(uniform) - 1)
    ]


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else nan
