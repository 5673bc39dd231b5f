"""From scans to a detection rate, on a generated cohort."""
