"""Cross-validation of one model: train the folds, then summarize how many lesions they detected."""

import json
from collections.abc import Sequence
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.crossval import CrossvalSummary, summarize_crossval
from rectal_nnformer.paths import find_dataset, nnunet_folder
from rectal_nnformer.patients import read_patients
from rectal_nnformer.training.folds import TrainingJob, train_folds

DEFAULT_FOLDS = 5


def cross_validate(
    dataset: int | str,
    *,
    trainer: str,
    plans: str,
    configuration: str = "3d_fullres",
    folds: Sequence[int] | None = None,
    device: str = "cuda",
    gpus: Sequence[str | None] = (None,),
    save_probabilities: bool = False,
) -> tuple[Path, CrossvalSummary]:
    """Train, validate and summarize folds; finished ones are not repeated.

    Args:
        dataset: id or name of a planned and preprocessed dataset.
        trainer: name of a trainer.
        plans: name of the plans.
        configuration: a configuration of the plans.
        folds: folds to train; None takes all of the dataset's splits.
        device: nnU-Net's `-device`.
        gpus: for each fold that is to run at a time its GPU, as in CUDA_VISIBLE_DEVICES, or None to leave it to nnU-Net
            (on the CPU always None).
        save_probabilities: nnU-Net's `--npz`.

    Returns:
        The folder of the model, in which crossval_summary.json, .csv, .md and .png were written, and the summary. It
        covers all folds that are finished, those of earlier runs included.

    Raises:
        RectalError: the dataset is not planned and preprocessed, a fold or GPU is not possible, or a training failed.
    """
    preprocessed = find_dataset("nnUNet_preprocessed", dataset)
    _check_plans(preprocessed, plans, configuration)
    all_folds = range(_number_of_splits(preprocessed))
    if outside := sorted(set(folds or ()) - set(all_folds)):
        raise RectalError(f"{preprocessed.name} has the folds 0 to {all_folds[-1]}; -f names {outside}.")
    if any(gpus) and device != "cuda":
        raise RectalError(f"-gpus goes with -device cuda, not with -device {device}.")
    job = TrainingJob(
        dataset=preprocessed.name,
        configuration=configuration,
        trainer=trainer,
        plans=plans,
        results=nnunet_folder("nnUNet_results"),
        device=device,
        save_probabilities=save_probabilities,
    )
    train_folds(job, list(dict.fromkeys(folds or all_folds)), gpus)
    summary = summarize_crossval(
        job.model_folder,
        images_folder=nnunet_folder("nnUNet_raw") / job.dataset / "imagesTr",
        reference_folder=preprocessed / "gt_segmentations",
        dataset_json=json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8")),
        patients=read_patients(preprocessed),
        folds=[fold for fold in all_folds if job.is_finished(fold)],
    )
    return job.model_folder, summary


def _check_plans(preprocessed: Path, plans: str, configuration: str) -> None:
    """Refuse plans or a configuration that do not exist, before a process is started for each fold."""
    path = preprocessed / f"{plans}.json"
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in preprocessed.glob("*Plans*.json"))) or "none"
        raise RectalError(
            f"{path} does not exist; plans of this dataset: {present}. Run plan_and_preprocess or mend -p."
        )
    configurations = json.loads(path.read_text(encoding="utf-8"))["configurations"]
    if configuration not in configurations:
        raise RectalError(f"{path} has no configuration '{configuration}', but {', '.join(configurations)}. Mend -c.")


def _number_of_splits(preprocessed: Path) -> int:
    """Return the number of splits; without splits_final.json nnU-Net makes five when the first fold starts."""
    path = preprocessed / "splits_final.json"
    return len(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else DEFAULT_FOLDS
