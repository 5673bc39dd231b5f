"""Which cases belong to one patient: `patients.csv` beside dataset.json with pseudonyms, and lists that users give."""

from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import is_there, read_table

PATIENTS_FILE = "patients.csv"


def read_patients(dataset_folder: Path) -> dict[str, str]:
    """Return the patient of each case; empty if the dataset does not tell, and each case then counts as a patient.

    Raises:
        RectalError: There is a list that cannot be right, see `read_patient_list`.
    """
    path = dataset_folder / PATIENTS_FILE
    return read_patient_list(path) if is_there(path) else {}


def read_patient_list(path: Path) -> dict[str, str]:
    """Read which case is of which patient from a CSV file with the columns `case` and `patient`.

    Raises:
        RectalError: The file cannot be read, lacks a column or a value, or names a case twice.
    """
    patients: dict[str, str] = {}
    for line, row in read_table(path, ("case", "patient"), "The list of patients", "Save it as CSV in UTF-8."):
        case, patient = row["case"], row["patient"]
        if not case or not patient:
            raise RectalError(
                f"The list of patients {path} has a line without case or patient (line {line}). Complete it."
            )
        if case in patients:
            raise RectalError(f"The list of patients {path} names case {case} twice (line {line}). Remove one line.")
        patients[case] = patient
    return patients
