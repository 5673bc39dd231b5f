"""The whole way once, on a cohort that needs no download: scans, dataset, plans, five folds, detection.

nnU-Net reads its variables and process counts when it is imported, so everything that imports it is imported late here.
"""

import os
import shlex
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import folder_variables
from rectal_nnformer.nnunet.names import NUM_FOLDS
from rectal_nnformer.nnunet.patients import PATIENTS_FILE
from rectal_nnformer.nnunet.preflight import check_device, check_new_folder
from rectal_nnformer.utils.files import write_text

if TYPE_CHECKING:
    import SimpleITK as sitk

    from rectal_nnformer.reporting.crossval_summary import CrossvalSummary

DATASET_ID = 501
DATASET_NAME = "RectalDemo"
BACKBONE = "smit_small"
TRAINER = "nnUNetTrainerSMIT_CPU"
TARGET_SPACING = (3.0, 3.0, 3.0)
NUM_CASES = 20
NUM_PROCESSES = 2
PLANNING_LOG = "planning_log.txt"
GUIDE_FILE = "README.txt"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Demo:
    """What the demo is run on: DICOM series with a JSON outline of the rectum in them, or a synthetic cohort."""

    output: Path
    dicom: Path | None = None
    rectum: Path | None = None
    device: str = "cpu"
    seed: int = 0

    @property
    def cohort(self) -> Path:
        """Folder of the scans and masks that are converted."""
        return self.output / "cohort"


def run_demo(demo: Demo) -> Path:
    """Run all steps, write report.html and README.txt, and return the trained model's folder, which holds the summary.

    Raises:
        RectalError: The output folder is not empty, or series and outline are not both given or do not go together.
            Nothing is left behind that would keep the next run from starting.
    """
    _check(demo)
    print(_announcement(demo))
    start = time.monotonic()
    num_patients = _step(1, "Making the cohort", lambda: _make_cohort(demo))
    split_by_case = num_patients < NUM_FOLDS
    _set_environment(demo.output)
    _step(2, "Converting it to an nnU-Net dataset", lambda: _convert(demo, split_by_case))
    _step(3, "Planning and preprocessing", lambda: _plan(demo.output / PLANNING_LOG))
    model_folder, summary = _step(4, "Training and validating five folds", lambda: _train(demo))
    from rectal_nnformer.reporting.writing import REPORT_FILE, try_report

    report = try_report(model_folder, demo.output / REPORT_FILE)
    guide = _guide(demo, model_folder, summary.picture_note)
    write_text(demo.output / GUIDE_FILE, f"What the demo left here, in the order to look at it:\n{guide}\n")
    print(_conclusion(demo, summary, split_by_case, report, guide, time.monotonic() - start))
    return model_folder


def _check(demo: Demo) -> None:
    check_device(demo.device)
    if (demo.dicom is None) != (demo.rectum is None):
        raise RectalError("--dicom and --rectum go together: the series, and where the rectum is in them.")
    check_new_folder(demo.output)


def _announcement(demo: Demo) -> str:
    scans = "synthetic pelvic T2w MRI" if demo.dicom is None else f"the series in {demo.dicom} with implanted tumours"
    return (
        f"This demo runs every step once, in {demo.output}:\n"
        f"  1. makes {NUM_CASES} cases: {scans}\n"
        f"  2. converts them to an nnU-Net dataset with five folds\n"
        f"  3. plans it ({BACKBONE}, spacing {TARGET_SPACING[0]:g} mm) and preprocesses it\n"
        f"  4. trains and validates a small SMIT from random weights on each fold ({TRAINER})\n"
        "Then it tells how many held-out tumours were detected, and writes report.html, a page about all of it.\n"
        "On two free cores this takes 6 to 12 minutes.\n"
        "The network is small and trained for minutes, to show the way, not what the method can do."
    )


def _set_environment(output: Path) -> None:
    """Point nnU-Net to the output folder and limit its processes, here and in all processes started from here."""
    folders = folder_variables(output)
    for folder in folders.values():
        Path(folder).mkdir(parents=True)
    os.environ.update(folders)
    os.environ.update({"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": str(NUM_PROCESSES)})


def _step(number: int, title: str, work: Callable[[], Result]) -> Result:
    print(f"\n[{number}/4] {title}", flush=True)
    start = time.monotonic()
    result = work()
    print(f"      took {_duration(time.monotonic() - start)}", flush=True)
    return result


def _make_cohort(demo: Demo) -> int:
    """Write images and masks, and return the number of patients they come from."""
    from rectal_nnformer.demo.cohort import write_implanted_cohort, write_synthetic_cohort

    if demo.dicom is None or demo.rectum is None:
        write_synthetic_cohort(demo.cohort, NUM_CASES, demo.seed, NUM_PROCESSES)
        return NUM_CASES
    scans = _outlined_scans(demo.dicom, demo.rectum)
    return len(write_implanted_cohort(demo.cohort, scans, demo.rectum, NUM_CASES, demo.seed))


def _outlined_scans(dicom: Path, rectum: Path) -> dict[str, "sitk.Image"]:
    """Read the axial series that have an outline, by the name of their outline; tell which are left out and why.

    An outline is named by the series' folder or by its SeriesInstanceUID.
    """
    from rectal_nnformer.demo.cohort.rectum_outline import read_rectum_outlines
    from rectal_nnformer.dicom.series import find_series

    outlines = read_rectum_outlines(rectum)
    findings = find_series(dicom)
    told = (*findings.ignored.values(), *findings.broken.values())
    left_out = [f"{path}: cannot be read as DICOM" for path in findings.unreadable]
    left_out += [f"{folder}: {reason}" for folder, reason in told]
    scans = {}
    for series in findings.series:
        name = next((name for name in (series.uid, series.folder.name) if name in outlines), None)
        if name is None:
            left_out.append(f"{series.folder}: {rectum} has no outline for it")
        elif name in scans:
            raise RectalError(
                f"{dicom} holds two axial series in folders called {name}. Name outlines by SeriesInstanceUID."
            )
        else:
            scans[name] = series.read()
    print("".join(f"left out {line}\n" for line in left_out), end="")
    if not scans:
        raise RectalError(f"None of the axial series in {dicom} has an outline in {rectum}: {', '.join(outlines)}.")
    return scans


def _convert(demo: Demo, split_by_case: bool) -> None:
    from rectal_nnformer.dataset_conversion.nifti import convert_nifti

    patients = demo.cohort / PATIENTS_FILE
    convert_nifti(
        demo.cohort / "images",
        demo.cohort / "masks",
        DATASET_ID,
        DATASET_NAME,
        patients=patients if patients.is_file() else None,
        split_by_case=split_by_case,
        workers=NUM_PROCESSES,
    )


def _plan(log: Path) -> None:
    """Plan and preprocess; what nnU-Net prints goes to a log."""
    from rectal_nnformer.planning import describe_plans, plan_dataset

    with log.open("w", encoding="utf-8") as file, redirect_stdout(file):
        plans = plan_dataset(DATASET_ID, BACKBONE, overwrite_target_spacing=TARGET_SPACING, num_processes=NUM_PROCESSES)
    print(describe_plans(plans))


def _train(demo: Demo) -> tuple[Path, "CrossvalSummary"]:
    from rectal_nnformer.planning.backbones import BACKBONES
    from rectal_nnformer.training.crossval import cross_validate

    # A small network does not keep two cores busy, but two trainings do.
    at_a_time = NUM_PROCESSES if demo.device == "cpu" else 1
    return cross_validate(
        DATASET_ID, trainer=TRAINER, plans=BACKBONES[BACKBONE].plans_name, device=demo.device, gpus=[None] * at_a_time
    )


def _guide(demo: Demo, model_folder: Path, picture_note: str) -> str:
    """Return everything that lies in the output folder, a line each, in the order to look at it."""
    from rectal_nnformer.planning.backbones import BACKBONES
    from rectal_nnformer.reporting.writing import REPORT_FILE

    model, dataset = os.path.relpath(model_folder, demo.output), model_folder.parent.name
    explanation = f"nnUNet_preprocessed/{dataset}/{BACKBONES[BACKBONE].plans_name}_explanation.txt"
    look_at = {
        REPORT_FILE: "the result, with pictures of every tumour: open it in a browser",
        f"{model}/crossval_summary.md": "the result in tables (and .json, .csv)",
        f"{model}/crossval_summary.png": "best, median and worst case",
        f"nnUNet_raw/{dataset}/contact_sheet.png": "what went in: each case with its tumour outlined",
        explanation: "the plan, and why it is as it is",
        f"{model}/fold_0/progress.png": "learning curves; folds 1 to 4 have theirs",
    }
    lies_there = {
        "cohort/": "the scans and tumour masks as they were made",
        "nnUNet_raw/": "the dataset that was converted from them",
        "nnUNet_preprocessed/": "plans, folds, and what was resampled for training",
        "nnUNet_results/": "the five trained networks, their logs, their predictions in fold_X/validation",
        PLANNING_LOG: "what nnU-Net printed while it planned and preprocessed",
        GUIDE_FILE: "this list",
    }
    shown = {path: what for path, what in look_at.items() if (demo.output / path).exists()}
    lines = [f"  {number}. {path}\n       {what}" for number, (path, what) in enumerate(shown.items(), start=1)]
    if picture_note:
        lines.append(f"  There is no picture of cases: {picture_note}")
    return "\n".join([*lines, "The rest, by folder:", *(f"  {path:<22}{what}" for path, what in lies_there.items())])


def _conclusion(
    demo: Demo, summary: "CrossvalSummary", split_by_case: bool, report: str, guide: str, seconds: float
) -> str:
    from rectal_nnformer.evaluation.summary import detection_line

    caution = "The folds share patients, since there are fewer patients than folds: this rate is optimistic.\n"
    return (
        f"\n{detection_line(summary.pooled)}\n{caution if split_by_case else ''}"
        f"{report}\n"
        f"All of it took {_duration(seconds)}. What lies in {demo.output}, in the order to look at it:\n{guide}\n"
        "To go on with its dataset and model, for instance by predicting:\n"
        f'  eval "$(rectal_nnformer env --base {shlex.quote(str(demo.output))})"'
    )


def _duration(seconds: float) -> str:
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
