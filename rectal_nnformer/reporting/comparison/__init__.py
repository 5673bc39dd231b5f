"""Trained models side by side, on the lesions and patients that they share."""

from rectal_nnformer.reporting.comparison.compare import Comparison, compare_runs, write_comparison

__all__ = ["Comparison", "compare_runs", "write_comparison"]
