"""Scoring any folder of predictions against a folder of references, without a trained fold around them."""

from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import ComparedFolders, evaluate_fold, masks_in
from rectal_nnformer.evaluation.summary import CohortDetection
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import DATASET_JSON, TRAINED_ON, check_folder
from rectal_nnformer.nnunet.names import IMAGE_SUFFIXES
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.utils.files import parted_by_hidden, read_json_if_whole
from rectal_nnformer.utils.text import plural, some

MOST_NAMES = 20


def evaluate_folder(
    prediction_folder: Path,
    reference_folder: Path,
    dataset_file: Path | None,
    output_folder: Path,
    num_processes: int,
) -> CohortDetection:
    """Score every reference of a folder and write `lesion_detection.json` and `.csv` into `output_folder`.

    Predictions without a reference are not scored; they are named on the standard output. Without `dataset_file`,
    nnU-Net's `dataset.json` is looked for in the folder of predictions, where nnU-Net's prediction puts it, then in the
    folder of references and the one above; `patients.csv` beside it, then above the references.

    Raises:
        RectalError: A folder or `dataset.json` is missing, or a case cannot be scored.
    """
    for folder in (prediction_folder, reference_folder):
        check_folder(folder)
    folders = prediction_folder, reference_folder.resolve(), reference_folder.resolve().parent
    present = (folder / DATASET_JSON for folder in folders if (folder / DATASET_JSON).is_file())
    path = dataset_file or next(present, None)
    if path is None:
        raise RectalError(f"no {DATASET_JSON} in {', '.join(map(str, folders))}. Name it with -djfile.")
    dataset_json = read_dataset_json(path, "Name the right one with -djfile.")
    cases = _cases(prediction_folder, reference_folder, dataset_json["file_ending"], path)
    patients = read_patients(path.parent) or read_patients(reference_folder.resolve().parent)
    compared = ComparedFolders(prediction_folder.resolve(), reference_folder.resolve(), path.resolve())
    return evaluate_fold(
        prediction_folder,
        reference_folder,
        dataset_json,
        cases,
        patients,
        num_processes,
        output_folder,
        compared=compared,
    )


def _of_other_formats(folder: Path, ending: str) -> list[str]:
    names = [path.name for path in sorted(folder.glob("[!.]*"))]
    return [
        name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.lower().endswith(ending.lower())
    ]


def _cases(prediction_folder: Path, reference_folder: Path, ending: str, path: Path) -> list[str]:
    """Return the cases to score by their references, and print what is left out, missing or too good to be true.

    Raises:
        RectalError: There is no reference that ends as the dataset.json in `path` says, or no prediction for any.
    """
    for folder in dict.fromkeys((reference_folder, prediction_folder)):
        if hidden := parted_by_hidden(folder)[0]:
            print(f"Left aside in {folder}, hidden: {some(hidden)}")
    cases = list(masks_in(reference_folder, ending))
    if not cases:
        raise RectalError(f"{reference_folder} has no file that ends with {ending}, as {path} says. Check --gt.")
    predicted = masks_in(prediction_folder, ending)
    others = _of_other_formats(prediction_folder, ending)
    if left_out := _of_other_formats(reference_folder, ending):
        print(
            f"WARNING: {plural(len(left_out), 'reference')} of another format than {ending} not scored: "
            f"{some(left_out)}. Store all of them as {ending}."
        )
    if not predicted.keys() & set(cases):
        there = some([*(path.name for path in predicted.values()), *others])
        raise RectalError(
            f"{prediction_folder} holds no prediction for any of the {plural(len(cases), 'reference')}, such as "
            f"{cases[0]}{ending}, but {there or 'no mask'}. Name "
            f"and store the predictions as the references are, or fix --pred."
        )
    if missing := [case for case in cases if case not in predicted]:
        print(
            f"WARNING: {len(missing)} of {plural(len(cases), 'reference')} without a prediction ({some(missing)}): "
            "their tumours count as missed."
        )
    if others:
        print(f"Not scored, {plural(len(others), 'file')} of another format than {ending}: {some(others)}")
    if unscored := sorted(predicted.keys() - set(cases)):
        shown = ", ".join(unscored[:MOST_NAMES]) + (" ..." if len(unscored) > MOST_NAMES else "")
        print(f"Not scored, {plural(len(unscored), 'prediction')} without a reference: {shown}")
    trained_on = read_json_if_whole(prediction_folder / TRAINED_ON)
    if isinstance(trained_on, dict) and (known := [case for case in cases if case in trained_on]):
        print(
            f"WARNING: of {plural(len(cases), 'case')} the model was trained on {len(known)} ({some(known)}): "
            "the rates are too good for them. Score others, or use the cross-validation."
        )
    return cases
