"""What is analyzed when a fold has been validated, and how it reaches files, log and nnU-Net's logger."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rectal_nnformer.analysis.cases import PreprocessedCases
from rectal_nnformer.analysis.dilution_files import NAME, analyze_dilution, dilution_line, write_dilution
from rectal_nnformer.evaluation.summary import CohortDetection
from rectal_nnformer.networks.adapter import PlannedNetwork

Log = Callable[[str], None]
Summary = Callable[[str, Any], None]
LOGGED = ("adi", "uniform_adi", "a_rp", "tumor_adi", "scattered_padding_share")


@dataclass(frozen=True)
class ValidatedFold:
    """A fold whose validation is complete.

    Attributes:
        folder: `fold_X` of the model; results go into its folder `validation`.
        network: As validated; not compiled.
        weights: Name of the checkpoint that the network is.
        cases: The validation cases.
        configuration: Name of the configuration.
        device: Where to compute.
        log: Writes a line to the log of the training.
        log_summary: Gives a final value to nnU-Net's logger.
    """

    folder: Path
    network: PlannedNetwork
    weights: str
    cases: PreprocessedCases
    configuration: str
    device: torch.device
    log: Log
    log_summary: Summary


def analyze_validation(fold: ValidatedFold) -> None:
    """Write attention_dilution.json and .csv into the validation folder, and log them.

    Whatever goes wrong is logged with its cause and does not reach the caller: the validation is complete without it.
    """
    with only_logged("attention dilution", fold.log):
        content = analyze_dilution(fold.network, fold.cases, fold.device, fold.weights, fold.configuration)
        write_dilution(content, fold.folder / "validation", NAME)
        fold.log(dilution_line(content))
        log_values(dilution_values(content["stages"]), fold.log_summary)


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


def dilution_values(stages: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return what the logger gets of the attention dilution: `adi/stage_0` and so on."""
    return {f"{name}/stage_{stage['stage']}": stage[name] for stage in stages for name in LOGGED}
