from .cohort import write_implanted_cohort, write_synthetic_cohort

__all__ = ["write_implanted_cohort", "write_synthetic_cohort"]
