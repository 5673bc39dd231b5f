"""nnU-Net's dataset.json, read and checked once; nnU-Net itself gets the content as it was read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.files import read_json
from rectal_nnformer.utils.json_records import described

Label = Annotated[int, Field(ge=0)]


@checked(frozen=True)
class _Files:
    """Images and mask of a case, by path, where they are not in nnU-Net's folders."""

    images: list[str]
    label: str


@checked(frozen=True)
class _DatasetJson:
    """What nnU-Net and this project read of it."""

    labels: Annotated[dict[str, Label | list[Label]], Field(min_length=1)]
    file_ending: Annotated[str, Field(pattern=r"^\.[^/\\]+$")]
    channel_names: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    modality: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    regions_class_order: list[Label] | None = None
    dataset: dict[str, _Files] | None = None
    overwrite_image_reader_writer: str | None = None


def read_dataset_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a dataset.json.

    Raises:
        RectalError: It cannot be read, lacks labels or file ending, or holds a value that nnU-Net does not take.
            `remedy` says, as a sentence, what the user can do then.
    """
    content = read_json(path, ["labels", "file_ending"], remedy)
    try:
        TypeAdapter(_DatasetJson).validate_python(content)
    except ValidationError as error:
        raise RectalError(f"{path} is not nnU-Net's dataset.json ({described(error)}). {remedy}") from error
    return content


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Return what the images of a case are called, in the order of their numbers."""
    names = dataset_json.get("channel_names") or dataset_json.get("modality") or {"0": ""}
    return [str(name) for name in names.values()]
