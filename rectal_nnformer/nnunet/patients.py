"""Which cases belong to one patient: `patients.csv` beside dataset.json with pseudonyms, and lists that users give."""

import csv
from pathlib import Path

from rectal_nnformer.errors import RectalError

PATIENTS_FILE = "patients.csv"


def read_patients(dataset_folder: Path) -> dict[str, str]:
    """Return the patient of each case; empty if the dataset does not tell, and each case then counts as a patient.

    Raises:
        RectalError: There is a list that cannot be right, see `read_patient_list`.
    """
    path = dataset_folder / PATIENTS_FILE
    return read_patient_list(path) if path.is_file() else {}


def read_patient_list(path: Path) -> dict[str, str]:
    """Read which case is of which patient from a CSV file with the columns `case` and `patient`.

    Raises:
        RectalError: The file cannot be read, lacks a column or a value, or names a case twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RectalError(f"The list of patients {path} cannot be read ({error}). Save it as CSV in UTF-8.") from None
    # Spreadsheets write semicolons where the comma is the decimal sign.
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    if not {"case", "patient"} <= set(rows.fieldnames or ()):
        raise RectalError(f"The list of patients {path} needs a first line with the columns case and patient.")
    patients: dict[str, str] = {}
    for row in rows:
        case, patient = (row["case"] or "").strip(), (row["patient"] or "").strip()
        if not case or not patient:
            raise RectalError(
                f"The list of patients {path} has a line without case or patient (line {rows.line_num}). Complete it."
            )
        if case in patients:
            raise RectalError(
                f"The list of patients {path} names case {case} twice (line {rows.line_num}). Remove one line."
            )
        patients[case] = patient
    return patients
