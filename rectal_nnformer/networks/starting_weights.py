"""Which weights a fold started from: a record in its folder, by which its pretrained file is found again."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained_files import WEIGHTS_VARIABLE, md5_of, weights_folder
from rectal_nnformer.utils.files import write_json

RECORD = "starting_weights.json"


@dataclass(frozen=True)
class StartingWeights:
    """What a training started from.

    Attributes:
        source: "pretrained", "random", or "checkpoint" for nnU-Net's `-pretrained_weights`.
        file: Name of the pretrained file; None for the other sources.
        md5: Its MD5 in hexadecimal.
    """

    source: str
    file: str | None = None
    md5: str | None = None

    def write(self, fold_folder: Path) -> None:
        """Write the record into the folder of a fold."""
        write_json(fold_folder / RECORD, asdict(self))


def recorded_pretrained_file(fold_folder: Path) -> Path:
    """Return the pretrained file that a fold started from, in the folder that `RECTAL_NNFORMER_WEIGHTS` names.

    Raises:
        RectalError: It is not known, there was none, or the folder does not hold it; the message says which.
    """
    try:
        weights = StartingWeights(**json.loads((fold_folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RectalError(f"{fold_folder} has no {RECORD}: it is not known what the training started from.") from None
    if weights.file is None:
        started = {"random": "from random weights", "checkpoint": "from another checkpoint (-pretrained_weights)"}
        raise RectalError(f"The training started {started.get(weights.source, weights.source)}.")
    folder = weights_folder()
    if folder is None:
        raise RectalError(f"The training started from {weights.file}; set {WEIGHTS_VARIABLE} to its folder.")
    path = folder / weights.file
    if not path.is_file():
        raise RectalError(f"The training started from {weights.file}, which is not in {folder} ({WEIGHTS_VARIABLE}).")
    if (md5 := md5_of(path)) != weights.md5:
        raise RectalError(f"{path} has MD5 {md5}, but the training started from one with MD5 {weights.md5}.")
    return path
