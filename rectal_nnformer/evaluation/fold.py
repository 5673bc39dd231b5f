"""Scoring the validation cases of a fold, or any folder of predictions, and keeping the result beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.case_detection import CaseDetection, CaseJob, count_voxels, score_case
from rectal_nnformer.evaluation.detection import MIN_IOU, MIN_VOXELS
from rectal_nnformer.evaluation.log_odds import COUNTS_FILE, from_sparse, write_counts
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.imaging.masks import ignore_label, tumor_heads, tumor_labels
from rectal_nnformer.nnunet.layout import EVALUATION_FILE
from rectal_nnformer.utils.files import csv_text, write_json, write_text
from rectal_nnformer.utils.json_records import read_own
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import some

CSV_FILE = "lesion_detection.csv"
# Starting a process takes as long as scoring about this many cases.
CASES_PER_PROCESS = 8
COMPONENT_COLUMNS = ("label", "voxels", "volume_cm3", "size_bin", "centroid")
OUTCOME_COLUMNS = ("group", "iou", "detected", "detected_strict", "dice", "hd95_mm", "surface_dice_2mm", "volume_ratio")
CSV_COLUMNS = ("case", "patient", "kind", *COMPONENT_COLUMNS, *OUTCOME_COLUMNS, "note")


def evaluate_fold(
    validation_folder: Path,
    reference_folder: Path,
    dataset_json: Mapping[str, Any],
    cases: Iterable[str],
    patients: Mapping[str, str] | None = None,
    num_processes: int = 1,
    output_folder: Path | None = None,
    ignore_position: bool = False,
    compared: "ComparedFolders | None" = None,
) -> CohortDetection:
    """Score the predictions of a folder, lesion by lesion, and write `lesion_detection.json` and `.csv`.

    Args:
        validation_folder: Predicted masks, `<case><file_ending>`.
        reference_folder: Reference masks by the same names, on the same grids.
        dataset_json: nnU-Net's `dataset.json`, for labels and file ending.
        cases: The cases that are expected; one without a prediction is kept and its lesions count as missed.
        patients: Pseudonymous patient of each case; a case that it lacks is its own patient.
        num_processes: At most so many processes score; a few cases are scored in this one.
        output_folder: Where the two files go; default the validation folder.
        ignore_position: Lay masks over each other that differ in origin or direction, as nnU-Net does with an image
            and its label. Its predictions have the geometry of the image.
        compared: Is noted in the JSON file, for a report to find images and masks by.

    Raises:
        RectalError: There is no case, a reference is missing, or a mask cannot be scored (see `score_case`).
    """
    ending = dataset_json["file_ending"]
    predictions, references = (masks_in(Path(folder), ending) for folder in (validation_folder, reference_folder))
    patients = patients or {}
    values = [value if isinstance(value, list | tuple) else [value] for value in dataset_json["labels"].values()]
    labels = tuple(sorted({0, *(int(label) for region in values for label in region)}))
    jobs = [
        CaseJob(
            case=case,
            patient=patients.get(case, case),
            prediction=predictions.get(case, Path(validation_folder) / f"{case}{ending}"),
            reference=references.get(case, Path(reference_folder) / f"{case}{ending}"),
            labels=labels,
            tumor_labels=tuple(tumor_labels(dataset_json)),
            ignore_label=ignore_label(dataset_json),
            ignore_position=ignore_position,
            tumor_heads=tumor_heads(dataset_json),
        )
        for case in sorted(cases)
    ]
    if not jobs:
        raise RectalError(f"no case to score in {validation_folder}. Check the split or the folder of references.")
    workers = min(num_processes, len(jobs) // CASES_PER_PROCESS)
    score = score_case if workers <= 1 else _score_in_one_thread
    result = summarize_cases(map_with_progress(score, jobs, workers, "Lesion detection"))
    output = Path(output_folder or validation_folder)
    write_evaluation(result, output, compared)
    _count_probabilities(jobs, output, workers)
    return result


def _count_probabilities(jobs: Sequence[CaseJob], output: Path, workers: int) -> None:
    """Count voxels by log-odds where nnU-Net saved the probabilities of every case, unless the validation just did."""
    file = output / COUNTS_FILE
    predicted = [job.prediction for job in jobs if job.prediction.is_file()]
    if file.is_file() and all(path.stat().st_mtime_ns <= file.stat().st_mtime_ns for path in predicted):
        return
    file.unlink(missing_ok=True)  # of other masks
    if not all(job.probabilities.is_file() for job in jobs):
        return
    try:
        counts = map_with_progress(count_voxels, jobs, workers, "Calibration")
    except RectalError as error:  # of an optional file: the masks are scored without
        print(f"No calibration: {error}")
        return
    if unlike := [job.case for job, one in zip(jobs, counts, strict=True) if one is None]:
        print(f"No calibration: the probabilities of {some(unlike)} are not those of their masks.")
        return
    write_counts(sum((one for one in counts if one is not None), from_sparse([], [])), output)


def masks_in(folder: Path, ending: str) -> dict[str, Path]:
    """Return the mask of each case in a folder, by name, whether its ending is written in capitals or not.

    Hidden files are none (macOS adds `._<name>` to copies).
    """
    files = [file for file in folder.glob("[!.]*") if file.name.lower().endswith(ending.lower())]
    files.sort(key=lambda file: (file.name.endswith(ending), file.name))  # of two the exact one counts
    return dict(sorted((file.name[: -len(ending)], file) for file in files))


@dataclass(frozen=True)
class ComparedFolders:
    """What `evaluate` compared, as absolute paths."""

    predictions: Path
    references: Path
    dataset_json: Path


def write_evaluation(result: CohortDetection, folder: Path, compared: ComparedFolders | None = None) -> None:
    """Write `lesion_detection.json` and `lesion_detection.csv` into a folder, with what was compared if it is given."""
    settings = {"min_voxels": MIN_VOXELS, "min_iou": MIN_IOU, "connectivity": 26}
    folders = {"compared": {name: str(path) for name, path in vars(compared).items()}} if compared else {}
    write_json(folder / EVALUATION_FILE, {**asdict(result), "settings": settings, **folders})
    write_text(folder / CSV_FILE, csv_text(CSV_COLUMNS, [row for case in result.cases for row in _rows(case)]))


def read_evaluation(folder: Path) -> CohortDetection:
    """Read what `write_evaluation` wrote into a folder.

    Raises:
        RectalError: There is no `lesion_detection.json`, or it is not one that this version wrote.
    """
    path = folder / EVALUATION_FILE
    return summarize_cases(read_own(_EvaluatedCases, path, "Validate the fold again (--val).").cases)


def read_compared(folder: Path) -> ComparedFolders:
    """Return what `evaluate` compared when it wrote into a folder.

    Raises:
        RectalError: It is not noted there.
    """
    return read_own(_EvaluatedFolders, folder / EVALUATION_FILE, "Run 'rectal_nnformer evaluate' again.").compared


@dataclass(frozen=True)
class _EvaluatedFolders:
    """Of a lesion evaluation where the masks are."""

    compared: ComparedFolders


@dataclass(frozen=True)
class _EvaluatedCases:
    """Of a lesion evaluation what the rest follows from."""

    cases: tuple[CaseDetection, ...]


def _score_in_one_thread(job: CaseJob) -> CaseDetection:
    import torch  # here, since it takes seconds

    # Each of several processes would otherwise start a thread for every core.
    torch.set_num_threads(1)
    return score_case(job)


def _rows(case: CaseDetection) -> list[dict[str, Any]]:
    """Return a row per reference lesion and per false positive; one row of kind `none` where there is neither."""
    common = {"case": case.case, "patient": case.patient, "note": case.note}
    rows = [
        {**common, "kind": kind, **asdict(component), "centroid": " ".join(f"{x:.1f}" for x in component.centroid)}
        for kind, components in (("reference", case.lesions), ("false_positive", case.false_positives))
        for component in components
    ]
    return rows or [{**common, "kind": "none"}]
