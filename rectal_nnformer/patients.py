"""Which cases belong to one patient: `patients.csv` beside dataset.json, with pseudonyms."""

import csv
from pathlib import Path

PATIENTS_FILE = "patients.csv"


def read_patients(dataset_folder: Path) -> dict[str, str]:
    """Return the patient of each case; empty if the dataset does not tell, and each case then counts as a patient."""
    path = dataset_folder / PATIENTS_FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["case"]: row["patient"] for row in csv.DictReader(file)}
