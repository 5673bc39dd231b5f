"""What a training logs, as files of TensorBoard or MLflow beside the models; nothing leaves the machine.

nnU-Net's logger hands each value on to others beside its own one; these are two such.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import FoldFolder
from rectal_nnformer.utils.files import read_json_if_whole, write_json

VARIABLE = "RECTAL_NNFORMER_TRACKING"
OFF = "off"
TENSORBOARD_FOLDER, MLFLOW_FOLDER, MLFLOW_RUN = "tensorboard", "mlruns", "mlflow_run.json"


class TensorBoardTracker:
    """Writes events into `tensorboard` in the folder of a fold, which is made at the first value."""

    def __init__(self, fold: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # fails here, not after the first epoch

        self._open = lambda step: SummaryWriter(str(fold / TENSORBOARD_FOLDER), purge_step=step)
        self._writer: Any = None
        self._step = 0

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Take no notice: nnU-Net's debug.json holds the settings."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Write a value; after a training that was cut off, what was written of later epochs is no longer shown."""
        self._writer = self._writer or self._open(step)
        self._step = step
        self._writer.add_scalar(key, float(value), step)
        self._writer.flush()

    def log_summary(self, key: str, value: Any) -> None:
        """Write a value of the whole training."""
        self.log(f"summary/{key}", value, self._step)


class MLflowTracker:
    """Writes into `mlruns` in the folder of the dataset's results: an experiment per model, a run per fold."""

    def __init__(self, fold: Path) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more packages
        from mlflow.tracking import MlflowClient

        self._fold = fold
        place = FoldFolder.parse(fold)
        self._experiment = place.model.name if place else fold.parent.name
        self._client = MlflowClient((fold.parents[1] / MLFLOW_FOLDER).absolute().as_uri())
        self._run = ""

    def update_config(self, config: Mapping[str, Any]) -> None:
        """Take no notice: nnU-Net's debug.json holds the settings."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Write a value into the fold's run, which is made at the first one."""
        self._client.log_metric(self._run_of_fold(), key, float(value), step=step)

    def log_summary(self, key: str, value: Any) -> None:
        """Write a value of the whole training."""
        self._client.log_metric(self._run_of_fold(), f"summary/{key}", float(value))

    def _run_of_fold(self) -> str:
        known = read_json_if_whole(self._fold / MLFLOW_RUN) or {}
        self._run = self._run or known.get("run", "")
        if not self._run:
            found = self._client.get_experiment_by_name(self._experiment)
            experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
            self._run = self._client.create_run(experiment, run_name=self._fold.name).info.run_id
            write_json(self._fold / MLFLOW_RUN, {"run": self._run})
        return self._run


Tracker = TensorBoardTracker | MLflowTracker
TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoardTracker, "mlflow": MLflowTracker}


def add_tracker(trainer: Any) -> None:
    """Let a trainer of nnU-Net's log to what the variable RECTAL_NNFORMER_TRACKING names; rank 0 alone, and once.

    Raises:
        RectalError: It names neither of both nor "off", or the package is not installed.
    """
    kind = os.environ.get(VARIABLE, "").strip() or OFF
    if kind != OFF and kind not in TRACKERS:
        raise RectalError(f"The environment variable {VARIABLE} is '{kind}'. Set it to {', '.join([*TRACKERS, OFF])}.")
    if kind == OFF or trainer.local_rank != 0:
        return
    loggers = trainer.logger.loggers
    if any(isinstance(logger, Tracker) for logger in loggers):
        return
    try:
        loggers.append(TRACKERS[kind](Path(trainer.output_folder)))
    except ImportError as error:
        package = {"mlflow": "mlflow-skinny"}.get(kind, kind)
        raise RectalError(
            f"{VARIABLE} is '{kind}', but it cannot be imported ({error}). pip install {package}"
        ) from None
