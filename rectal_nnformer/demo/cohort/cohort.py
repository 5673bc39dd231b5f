"""Writing cohorts of cases with tumours to a folder, as plain NIfTI images and masks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from rectal_nnformer.dataset_conversion.patient_folds import patient_list
from rectal_nnformer.demo.cohort.appearance import MRI, Appearance
from rectal_nnformer.demo.cohort.fields import Mask
from rectal_nnformer.demo.cohort.implant import implant_tumors
from rectal_nnformer.demo.cohort.phantom import synthesize_case
from rectal_nnformer.demo.cohort.rectum_outline import outline_mask, read_rectum_outlines
from rectal_nnformer.demo.cohort.tumors import Case
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.writing import write_volume
from rectal_nnformer.nnunet.patients import PATIENTS_FILE
from rectal_nnformer.utils.files import staged_folder, write_text
from rectal_nnformer.utils.parallel import map_with_progress

# Apart from each other, so that a phantom and an implanted case of one seed and number share nothing.
_SYNTHETIC_STREAM, _IMPLANTED_STREAM = 1, 2


def write_synthetic_cohort(
    folder: Path, num_cases: int = 20, seed: int = 0, num_workers: int = 2, appearance: Appearance = MRI
) -> None:
    """Write synthetic scans with tumours: `images/synthetic_000.nii.gz` ... and masks of the same names in `masks/`.

    A case depends on `seed`, which is not negative, and its number alone, however many there are and whatever
    `num_workers` is. Workers, below 1 GB each, are fresh processes: a script that calls this with several needs an
    `if __name__ == "__main__":` guard. The folder, new or empty, appears only when whole.

    Raises:
        RectalError: The folder is not empty, or a number is out of range.
    """
    with _cohort_folder(folder, num_cases, seed) as staged:
        write = partial(_write_synthetic_case, staged, seed, appearance)
        map_with_progress(write, range(num_cases), num_workers, "Synthetic cases")


def write_implanted_cohort(
    folder: Path, series: Mapping[str, sitk.Image], rectum_file: Path, num_cases: int = 20, seed: int = 0
) -> list[str]:
    """Write real scans with implanted tumours: `images/implanted_000.nii.gz` ..., masks, and `patients.csv`.

    Cases are spread evenly over the series, given by folder name, that `rectum_file` outlines; these are returned,
    sorted. The others are left out, with a note. Since cases of one scan share its anatomy, `patients.csv` (columns
    case, patient) names the scan as the patient. The folder, new or empty, appears only when whole; the same seed, not
    negative, gives the same cohort from the same series.

    Raises:
        RectalError: The folder is not empty, a number is out of range, the file cannot be read, or no series has an
            outline.
    """
    rectums = _outlined_rectums(series, rectum_file)
    names = sorted(rectums)
    patients = {f"implanted_{number:03d}": names[number % len(names)] for number in range(num_cases)}
    with _cohort_folder(folder, num_cases, seed) as staged:
        for number, (case, name) in enumerate(tqdm(patients.items(), desc="Implanted cases", unit="case")):
            rng = np.random.default_rng((_IMPLANTED_STREAM, seed, number))
            _write_case(staged, case, implant_tumors(series[name], rectums[name], rng))
        write_text(staged / PATIENTS_FILE, patient_list(patients))
    return names


def _outlined_rectums(series: Mapping[str, sitk.Image], rectum_file: Path) -> dict[str, Mask]:
    """Return the rectum of every series that has an outline, and say which have none."""
    outlines = read_rectum_outlines(rectum_file)
    left_out = sorted(set(series) - set(outlines))
    if len(left_out) == len(series):
        raise RectalError(
            f"{rectum_file} outlines the rectum of {', '.join(sorted(outlines)) or 'no series'}, but of none of the "
            f"given ones: {', '.join(left_out) or 'none'}. Name the outlines by series folder."
        )
    for name in left_out:
        tqdm.write(f"Note: series {name} is left out: {rectum_file} has no outline of its rectum.")
    return {
        name: outline_mask(outlines[name], series[name].GetSize()[::-1], name) for name in set(series) - {*left_out}
    }


def _write_synthetic_case(folder: Path, seed: int, appearance: Appearance, number: int) -> None:
    case = synthesize_case(np.random.default_rng((_SYNTHETIC_STREAM, seed, number)), appearance)
    _write_case(folder, f"synthetic_{number:03d}", case)


def _write_case(folder: Path, name: str, case: Case) -> None:
    write_volume(case.image, folder / "images" / f"{name}.nii.gz", compression_level=1)
    write_volume(case.mask, folder / "masks" / f"{name}.nii.gz")


@contextmanager
def _cohort_folder(folder: Path, num_cases: int, seed: int) -> Iterator[Path]:
    """Yield a staged folder with the two subfolders of a cohort, if that can be made."""
    if num_cases < 1:
        raise RectalError(f"A cohort needs at least one case, not {num_cases}")
    if seed < 0:
        raise RectalError(f"The seed is {seed}; it must not be negative")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RectalError(f"The cohort folder {folder} is not an empty folder. Name a new one or empty it.")
    with staged_folder(folder) as staged:
        (staged / "images").mkdir()
        (staged / "masks").mkdir()
        yield staged
