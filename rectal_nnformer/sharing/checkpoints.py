"""Weights of a trained fold: from a checkpoint that is read as data, through safetensors, to a checkpoint written anew.

nnU-Net opens checkpoints unrestricted, so that it must only meet those that were made here.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.sharing.schema import DatasetJson, Identifier, PlainName, PlansJson
from rectal_nnformer.utils.files import writing
from rectal_nnformer.utils.json_records import Record, json_content, make_record

MAX_TENSORS = 100_000
PARAMETER_NAME = re.compile(r"[\w.]{1,300}", re.ASCII)


class Checkpoint(Record):
    """A checkpoint without its weights; `shared` names weights that are the same as a stored one, and that one."""

    trainer_name: Identifier
    configuration: PlainName
    fold: Annotated[int, Field(ge=0, lt=1000)] | Literal["all"]
    inference_allowed_mirroring_axes: tuple[Annotated[int, Field(ge=0, lt=3)], ...] | None
    shared: dict[str, str]


def read_model_checkpoint(path: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Return what prediction needs of an nnU-Net checkpoint, executing nothing of it."""
    if not zipfile.is_zipfile(path):
        raise RectalError(f"{path} is no checkpoint as nnU-Net writes them, or damaged; have it sent again.")
    content = read_checkpoint(path)
    arguments = content.get("init_args") if isinstance(content, Mapping) else None
    if not isinstance(arguments, Mapping):
        raise RectalError(f"{path} is no checkpoint of an nnU-Net training: it has no init_args.")
    weights, shared = _weights(path, content.get("network_weights"))
    told = {name: content.get(name) for name in ("trainer_name", "inference_allowed_mirroring_axes")}
    told |= {name: arguments.get(name) for name in ("configuration", "fold")}
    return make_record(Checkpoint, {**told, "shared": shared}, str(path)), weights


def write_model_checkpoint(
    path: Path, checkpoint: Checkpoint, weights: Mapping[str, Tensor], plans: PlansJson, dataset_json: DatasetJson
) -> None:
    """Write a checkpoint as nnU-Net reads it."""
    whole = {**weights, **{name: weights.get(other) for name, other in checkpoint.shared.items()}}
    wrong = [name for name, value in whole.items() if not PARAMETER_NAME.fullmatch(name) or value is None]
    if wrong or not whole:
        raise RectalError(f"{path.name} cannot be written: it has no weights, or of no network: {str(wrong[:1])[:80]}.")
    told = checkpoint.model_dump()
    arguments = {name: told[name] for name in ("configuration", "fold")}
    arguments |= {"plans": json_content(plans), "dataset_json": json_content(dataset_json)}
    kept = {name: told[name] for name in ("trainer_name", "inference_allowed_mirroring_axes")}
    with writing(path):
        torch.save({"network_weights": whole, "init_args": arguments, **kept}, path)


def _weights(path: Path, weights: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return copies of plain tensors that hold their own values and nothing else's, and the names of the same ones.

    nnU-Net's networks list some tensors under several names; a file whose tensors otherwise overlap holds less than
    they claim, and is refused.
    """
    _expect(isinstance(weights, Mapping) and 0 < len(weights) <= MAX_TENSORS, path, "network_weights", "")
    copies: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    alike: dict[tuple[Any, ...], str] = {}
    left = path.stat().st_size
    for name, value in weights.items():
        _expect(isinstance(name, str) and PARAMETER_NAME.fullmatch(name), path, "name of a weight", name)
        plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided and not value.is_quantized
        plain = plain and value.device.type == "cpu" and not value.is_complex()
        _expect(plain, path, f"weight {name}", type(value).__name__)
        size = value.numel() * value.element_size()
        where = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.is_neg())
        if size and where in alike:
            shared[name] = alike[where]
            continue
        left -= size
        # A tensor may claim more elements than it stores, by strides of zero.
        _expect(left >= 0 and size <= value.untyped_storage().nbytes(), path, f"size of {name}", "")
        alike[where] = name
        copies[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return copies, shared


def _expect(condition: object, path: Path, what: str, value: Any) -> None:
    if not condition:
        raise RectalError(f"{path} cannot be used: its {what} {str(value)[:80]!r} is not what nnU-Net writes there.")
