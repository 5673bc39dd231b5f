"""Loading pretrained weights into a network, completely or not at all.

The published files wrap the same encoder in different ways. All of them are read by three rules:

1. The weights are what the file holds under `student`, `teacher` or `state_dict`, or the file itself (`SOURCES`).
2. Names are compared after `NORMALIZATION`, in the file and in the network alike.
3. Every parameter of the encoder must be in the file, with the network's shape. A file that holds the decoder as well,
   a checkpoint of the whole network, must hold all of it. Names outside the network are ignored and reported, unless
   they belong to an encoder: then the file is of another architecture.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, USED_ALL_THE_SAME, find_pretrained, md5_of
from rectal_nnformer.utils.text import plural

__all__ = ["PretrainedReport", "find_pretrained", "load_pretrained"]

SOURCES: dict[str, tuple[str, ...]] = {
    "transformer": ("student", "teacher", "state_dict"),
    "swinViT": ("teacher", "student", "state_dict"),
}
"""By the encoder's name in the network (SMIT, Swin UNETR), where a file may hold the weights; the first one found is
taken. SMIT is fine-tuned from the student; for Swin UNETR it is the teacher, the running mean of the student."""

NORMALIZATION: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^(?:(?:module|_orig_mod|backbone|swinViT|transformer)\.)+"), ""),
    (re.compile(r"\.mlp\.fc([12])\."), r".mlp.linear\1."),
)
"""Wrappers that are dropped from the front of a name, and names that differ between relatives."""

ENCODER_NAME = re.compile(r"(?:patch_embed|layers\d*c?)\.")
"""How normalized names of encoder parameters begin in any of the architectures. SMIT's norm0 to norm3 are not among
them, since other encoders end in norms that segmentation does not use."""

IMAGE_CONVOLUTIONS = ("patch_embed.proj.weight", "encoder1.layer.conv1.conv.weight", "encoder1.layer.conv3.conv.weight")
"""Normalized names of the convolutions that read the image."""


@dataclass(frozen=True)
class PretrainedReport:
    """What `load_pretrained` did.

    Attributes:
        path: The file.
        md5: Its MD5 in hexadecimal.
        recognized: Name of the published file with this MD5; None if it is none of the known ones.
        source: Where in the file the weights were: "student", "teacher", "state_dict", or "file" for the file itself.
        whole_network: Whether the decoder was loaded as well.
        loaded: The network's parameters that were set, in the network's order.
        missing: The network's parameters that kept their initial values; always outside the encoder.
        unexpected: Names in the file that the network has no use for, such as heads of the pretraining.
        spread: Those of `loaded` whose single input channel was spread over several.
    """

    path: Path
    md5: str
    recognized: str | None
    source: str
    whole_network: bool
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    spread: tuple[str, ...]

    def __str__(self) -> str:
        """Return a summary of a few lines, for people."""
        expected = {file.name: file.md5 for file in PRETRAINED_FILES}.get(self.path.name)
        known = f"the published {self.recognized}" if self.recognized else "no published file known here"
        lines = [
            f"Pretrained weights from {self.path}",
            f"  MD5 {self.md5}: {known}",
            f"  loaded: {len(self.loaded)} parameters ({'whole network' if self.whole_network else 'encoder'}), "
            f"from {'the file itself' if self.source == 'file' else repr(self.source)}",
            f"  left at their initial values: {_listed(self.missing)}",
            f"  ignored in the file: {_listed(self.unexpected)}",
        ]
        if expected is not None and expected != self.md5:
            lines.insert(2, f"  WARNING: the published {self.path.name} has MD5 {expected}; {USED_ALL_THE_SAME}")
        if self.spread:
            lines.append(f"  one input channel spread over several: {', '.join(self.spread)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class FileWeights:
    """Tensors of a file by normalized name, the names they have in the file, and where in it they were."""

    tensors: dict[str, Tensor]
    names: dict[str, str]
    source: str


def load_pretrained(network: nn.Module, path: str | Path) -> PretrainedReport:
    """Set a network's encoder, or all of it, to pretrained weights.

    The network is changed only if the file passes every check. With more than one input channel, each of them gets the
    pretrained kernel of the single channel, divided by the number of channels: equal channels give the pretrained
    response. Integer buffers (the relative position index) are not loaded but must agree where the file holds them.

    Args:
        network: `SMIT` or `SwinUNETR` itself, neither compiled nor wrapped.
        path: One of the published files, or a checkpoint of the whole network.

    Returns:
        What was loaded, what kept its initial values, what was ignored.

    Raises:
        RectalError: The file cannot be read or is something else; or parameters are missing, of another shape, or of
            another architecture: every one of them is named.
        TypeError: `network` is something else, such as a wrapper around one.

    Example:
        >>> import tempfile
        >>> from rectal_nnformer.networks import SMIT
        >>> pretrained, network = (SMIT(embed_dim=8, depths=(1, 1), num_heads=(1, 2)) for _ in range(2))
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     torch.save({"state_dict": pretrained.state_dict()}, file.name)
        ...     report = load_pretrained(network, file.name)
        >>> report.source, report.whole_network, report.missing
        ('state_dict', True, ())
    """
    path = Path(path)
    encoder = next((name for name in SOURCES if name in dict(network.named_children())), None)
    if encoder is None:
        raise TypeError(f"Weights are loaded into SMIT or SwinUNETR itself, not into {type(network).__name__}")
    weights = read_weights(path, SOURCES[encoder])
    parameters = dict(network.named_parameters())
    wanted = _wanted_parameters(list(parameters), encoder, weights)
    values = {
        name: _fit_channels(_normalize(name), weights.tensors[_normalize(name)], parameters[name])
        for name in wanted
        if _normalize(name) in weights.tensors
    }
    if problems := _problems(network, wanted, values, weights):
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise RectalError(
            f"{path} does not fit {type(network).__name__} ({plural(len(problems), 'difference')}); nothing was "
            f"loaded:\n{listed}\nCheck that {path} is the file for this backbone and complete: 'rectal_nnformer "
            "weights' lists name and MD5 of each. What 'pretrain' made fits networks of the size that it was made with."
        )
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    return _report(path, network, wanted, weights)


def _report(path: Path, network: nn.Module, loaded: list[str], weights: FileWeights) -> PretrainedReport:
    md5 = md5_of(path)
    parameters = dict(network.named_parameters())
    known = {_normalize(name) for name in (*loaded, *dict(network.named_buffers()))}
    return PretrainedReport(
        path=path,
        md5=md5,
        recognized=next((file.name for file in PRETRAINED_FILES if file.md5 == md5), None),
        source=weights.source,
        whole_network=len(loaded) == len(parameters),
        loaded=tuple(loaded),
        missing=tuple(name for name in parameters if name not in loaded),
        unexpected=tuple(original for name, original in weights.names.items() if name not in known),
        spread=tuple(n for n in loaded if weights.tensors[_normalize(n)].shape != parameters[n].shape),
    )


def read_weights(path: Path, sources: tuple[str, ...]) -> FileWeights:
    """Return the tensors in the first of `sources` that the file holds, or else in the file itself.

    Raises:
        RectalError: There are no tensors, or two of them have the same normalized name.
    """
    content = read_checkpoint(path)
    source, entries = "file", content
    if isinstance(content, Mapping):
        source = next((name for name in sources if isinstance(content.get(name), Mapping)), "file")
        entries = content if source == "file" else content[source]
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for original, value in entries.items() if isinstance(entries, Mapping) else ():
        if not isinstance(value, Tensor):
            continue
        name = _normalize(str(original))
        if name in names:
            raise RectalError(f"{path} holds the same weight twice, as {names[name]} and as {original}.")
        tensors[name], names[name] = value, str(original)
    if not tensors:
        trained = isinstance(content, Mapping) and "network_weights" in content
        hint = " It is a checkpoint that nnU-Net trained: name the folder of its fold, or -pretrained_weights FILE."
        raise RectalError(
            f"{path} holds no weights: no tensors in it, nor under {', '.join(sources)}.{hint if trained else ''}"
        )
    return FileWeights(tensors, names, source)


def _normalize(name: str) -> str:
    """Return the name that a weight has in every layout."""
    for pattern, replacement in NORMALIZATION:
        name = pattern.sub(replacement, name)
    return name


def _wanted_parameters(parameters: list[str], encoder: str, weights: FileWeights) -> list[str]:
    """Return the parameters to load: all of the network where the file is a checkpoint of it, else the encoder's."""
    decoder = [name for name in parameters if not name.startswith(f"{encoder}.")]
    # Pretraining heads may share a name or two with the decoder; a checkpoint of the whole network shares nearly all.
    whole = 2 * sum(_normalize(name) in weights.tensors for name in decoder) > len(decoder)
    return parameters if whole else [name for name in parameters if name.startswith(f"{encoder}.")]


def _fit_channels(name: str, value: Tensor, parameter: Tensor) -> Tensor:
    """Spread a kernel of one input channel over the network's, where `name` (normalized) reads the image."""
    if name not in IMAGE_CONVOLUTIONS or value.ndim != parameter.ndim or value.shape[1] != 1:
        return value
    channels = parameter.shape[1]
    return value.expand(-1, channels, -1, -1, -1) / channels


def _problems(network: nn.Module, wanted: list[str], values: Mapping[str, Tensor], weights: FileWeights) -> list[str]:
    """Name everything for which a file must not be loaded."""
    own, known = network.state_dict(), {_normalize(name) for name in network.state_dict()}
    buffers = {name: _normalize(name) for name, _ in network.named_buffers()}
    return [
        *(f"missing: {name}" for name in wanted if name not in values),
        *(
            f"shape of {name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the network"
            for name, value in values.items()
            if value.shape != own[name].shape
        ),
        # With another position index, the loaded biases would be read in another order.
        *(
            f"buffer {name} differs from the network's"
            for name, stored in buffers.items()
            if stored in weights.tensors and not torch.equal(weights.tensors[stored], own[name].cpu())
        ),
        # Parts of another encoder, such as blocks of a deeper one.
        *(
            f"not in the network: {weights.names[name]}"
            for name, value in weights.tensors.items()
            if ENCODER_NAME.match(name) and name not in known and value.is_floating_point()
        ),
    ]


def _listed(names: tuple[str, ...]) -> str:
    """Return a count and the first components of names, each once."""
    groups = sorted({_normalize(name).partition(".")[0] for name in names})
    return f"{len(names)} ({', '.join(groups)})" if names else "none"
