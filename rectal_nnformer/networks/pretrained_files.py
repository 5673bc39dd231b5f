"""The pretrained files that each backbone can start from: names, checksums, and where they lie.

Nothing here downloads: users fetch the files from their authors and name the folder in an environment variable.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from rectal_nnformer.errors import RectalError

WEIGHTS_VARIABLE = "RECTAL_NNFORMER_WEIGHTS"
DOCUMENTATION = "documentation/reference/pretrained-weights.md"
USED_ALL_THE_SAME = "it is used all the same, if everything in it fits"


@dataclass(frozen=True)
class PretrainedFile:
    """One published file: its MD5 (None where it is not known), and whom to cite for it and where to look for it."""

    name: str
    backbone: str
    md5: str | None
    origin: str
    publisher: str

    def status(self, folder: Path | None) -> str:
        """Return in words whether the file is in `folder`, and whether its MD5 is the published one."""
        if folder is None or not (folder / self.name).is_file():
            return "not found"
        if self.md5 is None:
            return "found, MD5 not known"
        md5 = md5_of(folder / self.name)
        if md5 == self.md5:
            return "found, MD5 correct"
        return f"found, WARNING: its MD5 is {md5}, so it is not the published file; {USED_ALL_THE_SAME}"


PRETRAINED_FILES: tuple[PretrainedFile, ...] = (
    PretrainedFile(
        name="model_smit_ct10k.pth",
        backbone="smit",
        md5="89038a82d29ed5462d6a49dd14c515b2",
        origin="SMIT on about 10,000 CT scans; Jiang et al., MICCAI 2022",
        publisher="the SMIT authors",
    ),
    PretrainedFile(
        name="model_swinvit.pt",
        backbone="swin_unetr",
        md5="c8d9deb6cbbd66839bc8dced6010103f",
        origin="Swin UNETR encoder on 5,050 CT scans; Tang et al., CVPR 2022",
        publisher="the Swin UNETR authors",
    ),
    PretrainedFile(
        name="voxelfox_swinvit.pt",
        backbone="swin_unetr_v2",
        md5="e9f79e9bb06800fac1bd322055da7200",
        origin="VoxelFox, Swin UNETR V2 encoder",
        publisher="the VoxelFox authors",
    ),
    PretrainedFile(
        name="voco_b_swinvit.pt",
        backbone="swin_unetr_v2",
        md5=None,
        origin="VoCo (B), Swin UNETR V2 encoder; Wu et al., CVPR 2024",
        publisher="the VoCo authors",
    ),
)
"""In the order in which `find_pretrained` looks for the files of one backbone."""


def find_pretrained(backbone: str) -> Path:
    """Return the pretrained file of a backbone, such as "smit", in the folder that `RECTAL_NNFORMER_WEIGHTS` names.

    Raises:
        RectalError: The variable is not set, names no folder or one without such a file, or the backbone is unknown.

    Example:
        >>> find_pretrained("smit").name
        'model_smit_ct10k.pth'
    """
    files = [file for file in PRETRAINED_FILES if file.backbone == backbone]
    if not files:
        known = ", ".join(sorted({file.backbone for file in PRETRAINED_FILES}))
        raise RectalError(f"No pretrained file is known for the backbone '{backbone}'; there are files for {known}.")
    names = " or ".join(file.name for file in files)
    folder = weights_folder()
    if folder is None:
        raise RectalError(
            f"The pretrained weights of '{backbone}' are needed, but the environment variable {WEIGHTS_VARIABLE} is "
            f"not set. Download {names} (see {DOCUMENTATION}) and set {WEIGHTS_VARIABLE} to its folder."
        )
    if not folder.is_dir():
        raise RectalError(
            f"The pretrained weights of '{backbone}' are needed, but {folder}, which the environment variable "
            f"{WEIGHTS_VARIABLE} names, is not a folder. Set it to the folder that holds {names} (see {DOCUMENTATION})."
        )
    for file in files:
        if (folder / file.name).is_file():
            return folder / file.name
    raise RectalError(
        f"The pretrained weights of '{backbone}' are missing: there is no {names} in {folder}, the folder that the "
        f"environment variable {WEIGHTS_VARIABLE} names. Download it (see {DOCUMENTATION}) into that folder."
    )


def weights_folder() -> Path | None:
    """Return the folder that `RECTAL_NNFORMER_WEIGHTS` names, or None where it is not set."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    return Path(folder).expanduser() if folder else None


def md5_of(path: Path) -> str:
    """Return a file's MD5 in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
