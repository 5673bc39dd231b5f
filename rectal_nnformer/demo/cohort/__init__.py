"""Cohorts to try the tool on: synthetic pelvic scans, and real ones with implanted tumours."""

from rectal_nnformer.demo.cohort.cohort import write_implanted_cohort, write_synthetic_cohort

__all__ = ["write_implanted_cohort", "write_synthetic_cohort"]
