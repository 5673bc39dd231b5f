"""Which weights a fold started from: a record in its folder, by which its pretrained file is found again."""

from dataclasses import dataclass
from pathlib import Path

from rectal_nnformer.networks.pretrained_files import WEIGHTS_VARIABLE, md5_of, weights_folder
from rectal_nnformer.utils.files import is_there, write_json
from rectal_nnformer.utils.json_records import read_own

RECORD = "starting_weights.json"


@dataclass(frozen=True)
class _Start:
    """What a training started from: a word, and name and MD5 of the pretrained file."""

    source: str
    file: str | None = None
    md5: str | None = None


def write_starting_weights(fold_folder: Path, source: str, file: str | None = None, md5: str | None = None) -> None:
    """Write into the folder of a fold what its training started from.

    That is "pretrained", with name and MD5 of the file, "random", or "checkpoint" for nnU-Net's `-pretrained_weights`.
    """
    write_json(fold_folder / RECORD, {"source": source, "file": file, "md5": md5})


def recorded_pretrained_file(fold_folder: Path) -> tuple[Path | None, str]:
    """Look for the pretrained file that a fold started from in the folder that `RECTAL_NNFORMER_WEIGHTS` names.

    Returns:
        The file; None where it is not known, there was none or it is not at hand, and then the reason, as a sentence.

    Raises:
        RectalError: The record is damaged.
    """
    record, folder = fold_folder / RECORD, weights_folder()
    if not is_there(record):
        return None, f"{fold_folder} has no {RECORD}: it is not known what the training started from."
    start = read_own(_Start, record, "Remove it.")
    started_from = start.file
    if started_from is None:
        started = {"random": "from random weights", "checkpoint": "from another checkpoint (-pretrained_weights)"}
        return None, f"The training started {started.get(start.source, start.source)}."
    if folder is None:
        return None, f"The training started from {started_from}; set {WEIGHTS_VARIABLE} to its folder."
    path = folder / started_from
    if not path.is_file():
        return None, f"The training started from {started_from}, which is not in {folder} ({WEIGHTS_VARIABLE})."
    if (found := md5_of(path)) != start.md5:
        return None, f"{path} has MD5 {found}, but the training started from one with MD5 {start.md5}."
    return path, ""
