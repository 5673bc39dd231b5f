"""What a network does with padding, and how far its features are from those that it started from."""

from rectal_nnformer.analysis.attention import AttentionFlow, attention_flow
from rectal_nnformer.analysis.cka import debiased_cka, linear_cka

__all__ = ["AttentionFlow", "attention_flow", "debiased_cka", "linear_cka"]
