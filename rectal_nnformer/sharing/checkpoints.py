"""Checkpoints as data: nnU-Net's fields that prediction needs, read without running anything and written anew."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.sharing.vetting import IDENTIFIER, PLAIN_NAME

MAX_TENSORS = 100_000
PARAMETER_NAME = re.compile(r"[\w.]{1,300}", re.ASCII)


def read_model_checkpoint(path: Path) -> dict[str, Any]:
    """Return the fields of an nnU-Net checkpoint that prediction needs, each checked.

    Keys: `network_weights`, `trainer_name`, `configuration`, `fold`, `inference_allowed_mirroring_axes`.

    Raises:
        RectalError: It holds other than data, or is no checkpoint of nnU-Net's.
    """
    if not zipfile.is_zipfile(path):
        raise RectalError(f"{path} is no checkpoint as nnU-Net writes them, or damaged; have it sent again.")
    content = read_checkpoint(path)
    arguments = content.get("init_args") if isinstance(content, Mapping) else None
    if not isinstance(arguments, Mapping):
        raise RectalError(f"{path} is no checkpoint of an nnU-Net training: it has no init_args.")
    trainer, configuration = content.get("trainer_name"), arguments.get("configuration")
    fold, axes = arguments.get("fold"), content.get("inference_allowed_mirroring_axes")
    _expect(isinstance(trainer, str) and IDENTIFIER.fullmatch(trainer), path, "trainer_name", trainer)
    _expect(
        isinstance(configuration, str) and PLAIN_NAME.fullmatch(configuration), path, "configuration", configuration
    )
    _expect(fold == "all" or (type(fold) is int and 0 <= fold < 1000), path, "fold", fold)
    plain = axes is None or (isinstance(axes, list | tuple) and all(type(a) is int and 0 <= a < 3 for a in axes))
    _expect(plain, path, "inference_allowed_mirroring_axes", axes)
    return {
        "network_weights": _weights(path, content.get("network_weights")),
        "trainer_name": trainer,
        "configuration": configuration,
        "fold": fold,
        "inference_allowed_mirroring_axes": None if axes is None else tuple(axes),
    }


def write_model_checkpoint(
    path: Path, content: Mapping[str, Any], plans: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> None:
    """Write what `read_model_checkpoint` returned as nnU-Net reads it, with vetted plans and dataset.json."""
    arguments = {
        "plans": dict(plans),
        "configuration": content["configuration"],
        "fold": content["fold"],
        "dataset_json": dict(dataset_json),
    }
    kept = {name: content[name] for name in ("network_weights", "trainer_name", "inference_allowed_mirroring_axes")}
    torch.save({**kept, "init_args": arguments}, path)


def _weights(path: Path, weights: Any) -> dict[str, Tensor]:
    """Return copies of plain tensors that hold their own values and nothing else's.

    Tensors that are one and the same stay so, as nnU-Net's networks list some under several names; a file whose tensors
    otherwise overlap holds less than they claim, and is refused.
    """
    _expect(isinstance(weights, Mapping) and 0 < len(weights) <= MAX_TENSORS, path, "network_weights", "")
    copies: dict[str, Tensor] = {}
    alike: dict[tuple[Any, ...], Tensor] = {}
    left = path.stat().st_size
    for name, value in weights.items():
        _expect(isinstance(name, str) and PARAMETER_NAME.fullmatch(name), path, "name of a weight", name)
        plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided and not value.is_quantized
        _expect(plain and value.device.type == "cpu", path, f"weight {name}", type(value).__name__)
        # A tensor may claim more elements than it stores, by strides of zero.
        _expect(value.numel() * value.element_size() <= value.untyped_storage().nbytes(), path, f"size of {name}", "")
        where = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.is_conj(), value.is_neg())
        if where not in alike:
            left -= value.numel() * value.element_size()
            _expect(left >= 0, path, f"size of {name}", "")
            alike[where] = value.detach().clone(memory_format=torch.contiguous_format)
        copies[name] = alike[where]
    return copies


def _expect(condition: object, path: Path, what: str, value: Any) -> None:
    if not condition:
        raise RectalError(f"{path} cannot be used: its {what} {str(value)[:80]!r} is not what nnU-Net writes there.")
