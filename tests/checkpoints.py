"""Checkpoints as whole files without a network in them."""

import pickle
import zipfile


def write_checkpoint(path, trainer):
    """Write what PyTorch writes of a dictionary that names the trainer, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"current_epoch": 3, "trainer_name": trainer}))
        archive.writestr("archive/data/0", bytes(20_000))
    return path
