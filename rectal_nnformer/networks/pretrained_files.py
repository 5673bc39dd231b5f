"""The pretrained files that each backbone can start from: where they are had, by what they are known, where they lie.

Nothing here downloads; `rectal_nnformer.networks.download` does, when it is asked to.
"""

import codecs
import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError

WEIGHTS_VARIABLE = "RECTAL_NNFORMER_WEIGHTS"
DOCUMENTATION = "documentation/reference/pretrained-weights.md"
USED_ALL_THE_SAME = "it is used all the same, if everything in it fits"
NOT_STATED = "not stated"
WEB_PAGE = "it is a web page: the download failed"

ANY_WEIGHTS = {"drop_path_rate", "mask_padding", "window_reverse", "merging"}
"""Arguments of the networks that change no parameter, so that the published files fit whatever they are."""


@dataclass(frozen=True)
class PretrainedFile:
    """One published file; what is None is not stated by its publisher.

    Attributes:
        name: What it is called in the folder of weights.
        backbone: The network that starts from it.
        md5: Its MD5 in hexadecimal.
        origin: What it was pretrained on, and whom to cite.
        publisher: From whom it is had.
        page: The web page to download it from by hand, where it has no address.
        address: The address of the file itself.
        megabytes: Its size, rounded as published.
        licence: Under which it is had.
    """

    name: str
    backbone: str
    md5: str | None
    origin: str
    publisher: str
    page: str | None = None
    address: str | None = None
    megabytes: int | None = None
    licence: str = NOT_STATED

    def status(self, folder: Path | None) -> str:
        """Return in words whether the file is in `folder`, and whether its MD5 is the published one."""
        if folder is None or not (folder / self.name).is_file():
            return "not found"
        if is_web_page(folder / self.name):
            return f"found, WARNING: {WEB_PAGE}"
        if self.md5 is None:
            return "found, MD5 not known"
        md5 = md5_of(folder / self.name)
        if md5 == self.md5:
            return "found, MD5 correct"
        return f"found, WARNING: its MD5 is {md5}, so it is not the published file; {USED_ALL_THE_SAME}"

    def description(self) -> list[str]:
        """Return lines that say what the file is, where and from whom it is had, its size, MD5 and licence."""
        size = NOT_STATED if self.megabytes is None else f"{self.megabytes} MB"
        where = f"{self.address} ('weights fetch' downloads it)" if self.address else f"{self.page} (a web page)"
        return [
            self.origin,
            f"from {self.publisher}: {where}",
            f"size {size}, MD5 {self.md5 or NOT_STATED}",
            f"licence: {self.licence}",
        ]

    @property
    def how_to_get(self) -> str:
        """What to do to get it, to follow a colon."""
        if self.address is not None:
            return f"'rectal_nnformer weights fetch {self.name}' downloads it"
        return f"download {self.name} from {self.page}"


_AUTHORS_FOLDER: dict[str, Any] = {
    "publisher": "the authors of the method",
    "page": "https://mskcc.box.com/s/df1qdt2js9495ahtldgkooh1cigrwml8",
    "licence": "not stated for the weights (the code of RectalTxSeg is under MIT)",
}

PRETRAINED_FILES: tuple[PretrainedFile, ...] = (
    PretrainedFile(
        name="model_smit_ct10k.pth",
        backbone="smit",
        md5="89038a82d29ed5462d6a49dd14c515b2",
        origin="SMIT, masked image modelling with self-distillation on 10,444 CT volumes; Jiang et al., MICCAI 2022",
        megabytes=770,
        **_AUTHORS_FOLDER,
    ),
    PretrainedFile(
        name="model_swinvit.pt",
        backbone="swin_unetr",
        md5="c8d9deb6cbbd66839bc8dced6010103f",
        origin="Swin UNETR encoder on 5,050 CT volumes; Tang et al., CVPR 2022",
        publisher="MONAI",
        address="https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/model_swinvit.pt",
        megabytes=393,
        licence="Apache-2.0 (MONAI's)",
    ),
    PretrainedFile(
        name="voxelfox_swinvit.pt",
        backbone="swin_unetr_v2",
        md5="e9f79e9bb06800fac1bd322055da7200",
        origin="VoxelFox, Swin UNETR V2 encoder, self-distillation in the manner of DINOv2 on the volumes of SMIT",
        megabytes=602,
        **_AUTHORS_FOLDER,
    ),
    PretrainedFile(
        name="voco_b_swinvit.pt",
        backbone="swin_unetr_v2",
        md5=None,
        origin="VoCo (B), Swin UNETR V2 encoder; Wu, Zhuang and Chen, TPAMI 2026",
        publisher="the authors of VoCo (Luffy03/Large-Scale-Medical), who call it VoCo_B_SSL_head.pt",
        address="https://huggingface.co/Luffy503/VoCo/resolve/main/VoCo_B_SSL_head.pt",
        licence="Apache-2.0 for the code, not stated for the weights",
    ),
)
"""In the order in which `find_pretrained` looks for the files of one backbone."""


def find_pretrained(backbone: str, arguments: Mapping[str, Any] | None = None) -> Path:
    """Return the pretrained file of a backbone, such as "smit", in the folder that `RECTAL_NNFORMER_WEIGHTS` names.

    Args:
        backbone: A network.
        arguments: Those of its constructor, as plans hold them; by default the published network. A file for another
            one is nobody's but the user's, and never asked for.

    Raises:
        RectalError: The variable is not set, names no folder or one without such a file; the backbone is unknown; or no
            published file fits such a network, and there is no other.

    Example:
        >>> find_pretrained("smit").name
        'model_smit_ct10k.pth'
    """
    files = [file for file in PRETRAINED_FILES if file.backbone == backbone]
    if not files:
        known = ", ".join(sorted({file.backbone for file in PRETRAINED_FILES}))
        raise RectalError(f"No pretrained file is known for the backbone '{backbone}'; there are files for {known}.")
    folder = weights_folder()
    found = next((folder / file.name for file in files if folder and (folder / file.name).is_file()), None)
    other = _unlike_published(backbone, arguments or {})
    if other and (found is None or md5_of(found) in {file.md5 for file in files}):
        raise RectalError(_none_fits(backbone, other))
    if found is None:
        raise RectalError(_missing(backbone, files, folder))
    if is_web_page(found):
        how = next(file.how_to_get for file in files if file.name == found.name)
        raise RectalError(f"{found} holds no weights: {WEB_PAGE}. Remove it, and get it again: {how}.")
    return found


def _missing(backbone: str, files: Sequence[PretrainedFile], folder: Path | None) -> str:
    """Return what to say where there is none of the files of a backbone: which, and how to get them."""
    names = " or ".join(file.name for file in files)
    how = f"{', or '.join(file.how_to_get for file in files)} (see {DOCUMENTATION})."
    if folder is None:
        return (
            f"The pretrained weights of '{backbone}' are needed, but the environment variable {WEIGHTS_VARIABLE} is "
            f"not set. Set it to the folder that holds {names}, or shall hold it: {how}"
        )
    if not folder.is_dir():
        return (
            f"The pretrained weights of '{backbone}' are needed, but {folder}, which the environment variable "
            f"{WEIGHTS_VARIABLE} names, is not a folder. Set it to the folder that holds {names}, or shall hold it: "
            f"{how}"
        )
    return (
        f"The pretrained weights of '{backbone}' are missing: there is no {names} in {folder}, the folder that the "
        f"environment variable {WEIGHTS_VARIABLE} names. Put it there: {how}"
    )


def _none_fits(backbone: str, other: Mapping[str, Any]) -> str:
    """Return what to say where a network is of another architecture than the published files."""
    listed = ", ".join(f"{name} {value}" for name, value in other.items())
    return (
        f"No published pretrained file fits this network: its plans hold a '{backbone}' of another architecture "
        f"({listed}). Start from random weights, with a trainer whose name ends in _Scratch or _CPU, or plan for the "
        f"published network: 'rectal_nnformer plan_and_preprocess --backbone {backbone}'."
    )


def _unlike_published(backbone: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments by which a network has other parameters than the published one of its kind."""
    shaping = {name: value for name, value in arguments.items() if name not in ANY_WEIGHTS}
    if not shaping:
        return {}
    from rectal_nnformer.networks.adapter import NETWORK_CLASSES  # imports PyTorch, and is seldom needed

    published = {name: one.default for name, one in inspect.signature(NETWORK_CLASSES[backbone]).parameters.items()}
    return {name: value for name, value in shaping.items() if _plain(value) != _plain(published.get(name))}


def _plain(value: Any) -> Any:
    """Return a tuple as the list that JSON makes of it."""
    return list(value) if isinstance(value, tuple) else value


def weights_folder() -> Path | None:
    """Return the folder that `RECTAL_NNFORMER_WEIGHTS` names, or None where it is not set."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    return Path(folder).expanduser() if folder else None


def is_web_page(path: Path) -> bool:
    """Return whether a file is what a browser saves, or a server sends, in place of a download."""
    with path.open("rb") as file:
        return file.read(256).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<")


def md5_of(path: Path) -> str:
    """Return a file's MD5 in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
