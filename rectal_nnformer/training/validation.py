"""Prediction of a fold's validation cases with the batched predictor, and nnU-Net's scores of them."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from torch import nn

from rectal_nnformer.evaluation.fold import CASES_PER_PROCESS, masks_in
from rectal_nnformer.evaluation.log_odds import COUNTS_FILE, from_sparse, write_counts
from rectal_nnformer.nnunet.layout import SUMMARY_JSON, VALIDATION, PreprocessedDataset
from rectal_nnformer.prediction.predictor import BatchedPredictor
from rectal_nnformer.utils.parallel import map_with_progress

CASES_BETWEEN_BARRIERS = 20
"""Processes of a distributed validation that wait longer for each other are given up."""


def predict_fold(trainer: nnUNetTrainer, network: nn.Module, save_probabilities: bool) -> None:
    """Predict the validation cases of a trainer's fold into its folder `validation`, with their candidates.

    There, too, goes what log-odds of tumour their voxels got, where every case has its reference. In distributed
    training each process predicts its share.
    """
    predictor = BatchedPredictor(device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    _, cases = trainer.do_split()
    preprocessed = PreprocessedDataset(Path(trainer.preprocessed_dataset_folder_base))
    references = {case: preprocessed.reference(case, trainer.dataset_json["file_ending"]) for case in cases}
    counted = all(path.is_file() for path in references.values())
    if counted:
        predictor.reference = references.__getitem__
    predictor.predict_from_data_iterator(_cases(trainer, cases), save_probabilities)
    counts = [predictor.counts]
    if trainer.is_ddp:
        counts *= dist.get_world_size()
        dist.all_gather_object(counts, predictor.counts)
    folder = Path(trainer.output_folder) / VALIDATION
    if trainer.local_rank == 0:
        (folder / COUNTS_FILE).unlink(missing_ok=True)
        if counted:
            write_counts(sum(counts, from_sparse([], [])), folder)


def _cases(trainer: nnUNetTrainer, cases: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield this process's share of preprocessed cases, as the predictor takes them."""
    processes = dist.get_world_size() if trainer.is_ddp else 1
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases[trainer.local_rank :: processes])
    folder = Path(trainer.output_folder) / VALIDATION
    folder.mkdir(exist_ok=True)
    for number, case in enumerate(dataset.identifiers, start=1):
        trainer.print_to_log_file(f"predicting {case}")
        image, _, _, properties = dataset.load_case(case)
        yield {"data": torch.from_numpy(image[:]), "data_properties": properties, "ofile": str(folder / case)}
        if trainer.is_ddp and number % CASES_BETWEEN_BARRIERS == 0 and number < len(cases) // processes:
            dist.barrier()


def score_fold(trainer: nnUNetTrainer) -> None:
    """Write nnU-Net's summary.json of the predicted masks, and log its mean Dice, as nnU-Net does."""
    dataset = PreprocessedDataset(Path(trainer.preprocessed_dataset_folder_base))
    folder, labels = Path(trainer.output_folder) / VALIDATION, trainer.label_manager
    metrics = score_masks(
        list(masks_in(folder, trainer.dataset_json["file_ending"]).values()),
        dataset.references,
        trainer.plans_manager.image_reader_writer_class(),
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
    )
    save_summary_json(metrics, str(folder / SUMMARY_JSON))
    for label, scores in metrics["mean"].items():
        trainer.logger.log_summary(f"final_val/class_{label}_dice", scores["Dice"])
    mean = metrics["foreground_mean"]["Dice"]
    trainer.logger.log_summary("final_val/foreground_dice", mean)
    trainer.print_to_log_file("Validation complete")
    trainer.print_to_log_file("Mean Validation Dice: ", mean)


def score_masks(
    masks: Sequence[Path], references: Path, reader: BaseReaderWriter, labels: Sequence[Any], ignore_label: int | None
) -> dict[str, Any]:
    """Return what nnU-Net's `compute_metrics_on_folder` does, which starts processes for a handful of cases, too."""
    score = partial(_score_mask, references, reader, labels, ignore_label)
    workers = min(default_num_processes, len(masks) // CASES_PER_PROCESS)
    cases = map_with_progress(score, masks, workers, "Dice")
    mean = {label: _means([case["metrics"][label] for case in cases], np.nanmean) for label in labels}
    result = {"metric_per_case": cases, "mean": mean, "foreground_mean": _means(list(mean.values()), np.mean)}
    recursive_fix_for_json_export(result)  # numbers of NumPy
    return result


def _score_mask(
    references: Path, reader: BaseReaderWriter, labels: Sequence[Any], ignore_label: int | None, mask: Path
) -> dict[str, Any]:
    return compute_metrics(str(references / mask.name), str(mask), reader, list(labels), ignore_label)


def _means(rows: Sequence[Mapping[str, float]], mean: Callable[..., Any]) -> dict[str, float]:
    """Return the mean of each metric, which is NaN where neither mask holds the label."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no case holds it
        return {name: float(mean([row[name] for row in rows])) for name in rows[0]}
