"""nnU-Net's plans as types: read and checked once, then passed on; nnU-Net itself gets the content as it was read."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import check_present
from rectal_nnformer.nnunet.names import RECORD_KEY
from rectal_nnformer.utils.files import read_json

PLAN_AGAIN = "Plan the dataset again."

PositiveMm = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@checked(frozen=True)
class PlannedBackbone:
    """What this project's plans say of the network: the arguments of `PlannedNetwork` by their names."""

    backbone: str
    backbone_kwargs: dict[str, Any]
    intensity_window: list[tuple[FiniteFloat, FiniteFloat]]
    spatial_axes: list[int]


@checked(frozen=True)
class Configuration:
    """A configuration of plans, with what it inherits from others; `settings` is all that nnU-Net reads of it.

    Patch size (voxels) and spacing (mm) are in the order of stored arrays.
    """

    data_identifier: str
    patch_size: tuple[PositiveInt, ...]
    spacing: tuple[PositiveMm, ...]
    batch_size: PositiveInt
    normalization_schemes: list[str]
    settings: dict[str, Any]

    @cached_property
    def network(self) -> PlannedBackbone | None:
        """The network; None where it is none of this project's."""
        kwargs = (self.settings.get("architecture") or {}).get("arch_kwargs", {})
        return TypeAdapter(PlannedBackbone).validate_python(kwargs) if "backbone" in kwargs else None


@dataclass(frozen=True)
class Plans:
    """Plans of a dataset, whoever made them; `content` is the dictionary that nnU-Net's classes and a file take."""

    content: dict[str, Any]
    name: str
    dataset_name: str
    configurations: Mapping[str, Configuration]

    @classmethod
    def read(cls, path: Path) -> "Plans":
        """Read a plans file.

        Raises:
            RectalError: It cannot be read, or does not hold plans.
        """
        return cls.of(read_json(path, ("plans_name", "dataset_name", "configurations"), PLAN_AGAIN), str(path))

    @classmethod
    def of(cls, content: Any, source: str = "the dictionary") -> "Plans":
        """Check the dictionary that nnU-Net passes around, or a plans file holds; messages name its source.

        Raises:
            RectalError: It is not that of plans; names the first value that cannot be.
        """
        key, configurations = "", {}
        try:
            name, dataset_name = content["plans_name"], content["dataset_name"]
            for key in content["configurations"]:
                settings = _with_inherited(content["configurations"], key, source)
                _refuse_imports(settings, f"{source}, {key}")
                configurations[key] = TypeAdapter(Configuration).validate_python({**settings, "settings": settings})
                _ = configurations[key].network  # checked here, not where it is used
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (key, *first["loc"])))
            problem = f"{first['msg']}: {place}" if first["type"] == "missing" else f"{place} is {first['input']!r}"
            raise RectalError(f"{source} cannot be read as plans ({problem}). {PLAN_AGAIN}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RectalError(f"{source} cannot be read as plans ({error!r}). {PLAN_AGAIN}") from error
        return cls(content, str(name), str(dataset_name), configurations)

    def configuration(self, name: str) -> Configuration:
        """Return a configuration.

        Raises:
            RectalError: There is none of that name.
        """
        check_present(name, self.configurations, self.name)
        return self.configurations[name]

    @property
    def record(self) -> Mapping[str, Any]:
        """What this project's planner noted; empty in plans of others."""
        record = self.content.get(RECORD_KEY, {})
        return record if isinstance(record, dict) else {}


_LAYER = re.compile(r"torch\.nn\.(modules\.\w+\.)?[A-Z]\w*")
_NETWORK = re.compile(r"(dynamic_network_architectures|rectal_nnformer|monai)\.[\w.]*\.[A-Z]\w*")


def _refuse_imports(settings: Mapping[str, Any], source: str) -> None:
    """Refuse an architecture that names anything but a network and its layers: nnU-Net imports and calls it.

    Raises:
        RectalError: Names it.
    """
    architecture = settings.get("architecture", {})
    arguments = architecture.get("arch_kwargs", {})
    named = [(architecture.get("network_class_name"), _NETWORK)]
    named += [(arguments.get(key), _LAYER) for key in architecture.get("_kw_requires_import", ())]
    for name, allowed in named:
        if name is not None and not allowed.fullmatch(str(name)):
            raise RectalError(
                f"{source} names {name}, which is no layer of PyTorch and no network of nnU-Net, MONAI or this "
                "project. nnU-Net would import and call it. Use its own commands if you trust who made the plans."
            )


def ancestry(name: str, parent_of: Callable[[str], str | None], present: Collection[str]) -> list[str]:
    """Return a configuration and those that it inherits from, nearest first, up to one that is missing or a circle."""
    line = [name]
    while (parent := parent_of(line[-1])) is not None and parent in present and parent not in line:
        line.append(parent)
    return line


def _with_inherited(configurations: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """Return the settings of a configuration over those that it inherits, as nnU-Net resolves them."""
    line = ancestry(name, lambda child: configurations[child].get("inherits_from"), configurations)
    beyond = configurations[line[-1]].get("inherits_from")
    if beyond is not None:
        problem = "inherits from itself" if beyond in configurations else f"inherits from {beyond}, which is missing"
        raise RectalError(f"{source} cannot be read as plans (the configuration {line[-1]} {problem}). {PLAN_AGAIN}")
    return {key: value for ancestor in reversed(line) for key, value in configurations[ancestor].items()}
