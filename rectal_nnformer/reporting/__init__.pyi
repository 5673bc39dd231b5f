from .comparison import compare_models
from .writing import try_report, write_comparison, write_crossval_summary, write_report

__all__ = ["compare_models", "try_report", "write_comparison", "write_crossval_summary", "write_report"]
