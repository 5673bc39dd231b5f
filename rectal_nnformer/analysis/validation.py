"""What is analyzed when a fold has been validated, and how it reaches files, log and nnU-Net's logger."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rectal_nnformer.analysis.dilution_files import analyze_dilution, dilution_line, write_dilution
from rectal_nnformer.analysis.records import ATTENTION_FILE, ATTENTION_NAME, EPOCHS_FILE, REUSE_FILE
from rectal_nnformer.analysis.reuse import ComparedNetwork, compare_features, reuse_line
from rectal_nnformer.analysis.tiles import PreprocessedCases
from rectal_nnformer.evaluation.summary import CohortDetection
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.networks.pretrained import load_pretrained
from rectal_nnformer.networks.starting_weights import recorded_pretrained_file
from rectal_nnformer.nnunet.layout import VALIDATION
from rectal_nnformer.utils.files import write_json

Log = Callable[[str], None]
Summary = Callable[[str, Any], None]
LOGGED = ("adi", "uniform_adi", "a_rp", "tumor_adi", "scattered_padding_share")


@dataclass(frozen=True)
class ValidatedFold:
    """A fold whose validation is complete.

    Attributes:
        folder: `fold_X` of the model; results go into its folder `validation`.
        network: As validated; not compiled.
        new_network: Builds the same network with random weights.
        weights: Name of the checkpoint that the network is.
        log: Writes a line to the log of the training.
        log_summary: Gives a final value to nnU-Net's logger.
    """

    folder: Path
    network: PlannedNetwork
    new_network: Callable[[], PlannedNetwork]
    weights: str
    cases: PreprocessedCases
    configuration: str
    device: torch.device
    log: Log
    log_summary: Summary


def analyze_validation(fold: ValidatedFold) -> None:
    """Write attention_dilution.json and .csv and feature_reuse.json into the validation folder, and log them.

    Feature reuse is against the pretrained file that the training started from, and left out, with the reason in the
    log, where there is none or it is not at hand. Whatever goes wrong is logged with its cause and does not reach the
    caller: the validation is complete without it. What an earlier validation wrote is removed first: it is of other
    weights, perhaps.
    """
    _forget_validation(fold.folder)
    with only_logged("attention dilution", fold.log):
        attention = analyze_dilution(fold.network, fold.cases, fold.device, fold.weights, fold.configuration)
        write_dilution(attention, fold.folder / VALIDATION)
        fold.log(dilution_line(attention.stages))
        values = {f"{name}/stage_{stage.stage}": getattr(stage, name) for stage in attention.stages for name in LOGGED}
        log_values(values, fold.log_summary)
    with only_logged("feature reuse", fold.log):
        _analyze_reuse(fold)


def forget_analysis(fold_folder: Path) -> None:
    """Remove what was written of an earlier training in the folder of a fold, which a new one begins to overwrite."""
    (fold_folder / EPOCHS_FILE).unlink(missing_ok=True)
    _forget_validation(fold_folder)


def _forget_validation(fold_folder: Path) -> None:
    for name in (ATTENTION_FILE, f"{ATTENTION_NAME}.csv", REUSE_FILE):
        (fold_folder / VALIDATION / name).unlink(missing_ok=True)


def _analyze_reuse(fold: ValidatedFold) -> None:
    path, reason = recorded_pretrained_file(fold.folder)
    if path is None:
        fold.log(f"Feature reuse was not measured. {reason}")
        return
    pretrained = fold.new_network()
    load_pretrained(pretrained.backbone, path)
    compared = ComparedNetwork(fold.weights, fold.network, fold.cases)
    reuse = compare_features(compared, replace(compared, label=path.name, network=pretrained), fold.device)
    write_json(fold.folder / VALIDATION / REUSE_FILE, asdict(reuse))
    fold.log(reuse_line(reuse))
    if reuse.debiased:
        names = ("mean_diagonal", "drift", "best_match_distance")
        log_values({f"cka_{name}": getattr(reuse.debiased, name) for name in names}, fold.log_summary)


@contextmanager
def only_logged(what: str, log: Log) -> Iterator[None]:
    """Log an error of the block with its traceback instead of raising it; the user can still end the program."""
    try:
        yield
    except Exception:
        log(f"The analysis of {what} failed; training and validation are not affected.\n{traceback.format_exc()}")


def log_values(values: Mapping[str, float | None], log_summary: Summary) -> None:
    """Give defined final values to nnU-Net's logger, which passes them on to Weights & Biases where that is enabled."""
    for name, value in values.items():
        if value is not None:
            log_summary(f"final_val/{name}", value)


def detection_values(result: CohortDetection) -> dict[str, float | None]:
    """Return what the logger gets of the lesion detection."""
    return {
        "lesions": result.n_reference,
        "lesions_detected": result.n_detected,
        "detection_rate": result.detection_rate.rate,
        "strict_detection_rate": result.strict.detection_rate.rate,
        "case_detection_rate": result.case_rate.rate,
        "false_positives_per_case": result.false_positives_per_case,
        "case_dice_mean": result.case_dice.mean,
    }
