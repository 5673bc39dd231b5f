"""Finding a trainer by its name, as nnU-Net does."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.commands import WARNING_OF_TIMM
from rectal_nnformer.nnunet.layout import TRAINERS_VARIABLE, environment_with_trainers
from rectal_nnformer.nnunet.preflight import check_trainer


def find_trainer(name: str) -> Any:
    """Return a trainer's class, ours, nnU-Net's own or one in a folder that `nnUNet_extTrainer` names.

    Raises:
        RectalError: There is no trainer of that name.
    """
    check_trainer(name)
    try:
        with redirect_stdout(StringIO()), trainers_within_reach():
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        # One of the modules that were searched failed on import.
        raise RectalError(f"Looking for the trainer {name}, nnU-Net met an error: {error}") from error


@contextmanager
def trainers_within_reach() -> Iterator[None]:
    """Let nnU-Net find our trainers in this process, without the warning of what it imports on its way."""
    before = os.environ.get(TRAINERS_VARIABLE)
    os.environ[TRAINERS_VARIABLE] = environment_with_trainers()[TRAINERS_VARIABLE]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", re.escape(WARNING_OF_TIMM), FutureWarning)
            yield
    finally:
        os.environ.pop(TRAINERS_VARIABLE)
        if before is not None:
            os.environ[TRAINERS_VARIABLE] = before
