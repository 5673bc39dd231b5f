from .attention import AttentionFlow, attention_flow
from .cka import debiased_cka, linear_cka

__all__ = ["AttentionFlow", "attention_flow", "debiased_cka", "linear_cka"]
