"""A checkpoint that the method's authors fine-tuned, as an nnU-Net model folder."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient

from rectal_nnformer import __version__
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.prepared import PREPARED_CHANNEL, PREPARED_SCHEME, PREPARED_WINDOW
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.networks.checkpoint_file import read_checkpoint
from rectal_nnformer.networks.pretrained import PretrainedReport, load_pretrained, read_weights
from rectal_nnformer.nnunet import layout
from rectal_nnformer.nnunet.names import FULLRES, RECORD_KEY, TRAINER_FAMILIES
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.planning.memory import MIN_BATCH_SIZE
from rectal_nnformer.planning.planner import configuration_settings
from rectal_nnformer.utils.files import staged_folder, write_json, writing

ARGUMENT_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "patch_size": (("roi_x", "roi_y", "roi_z"), ("roi_size",), ("patch_size",), ("img_size",)),
    "spacing": (("space_x", "space_y", "space_z"), ("spacing",), ("pixdim",)),
    "window": (("a_min", "a_max"),),
}
"""Names under which training scripts store a value in a checkpoint's arguments; the first ones present count. Sizes and
spacings are in the order x, y, z."""

BACKBONE_MARKERS = (("layers1c.", "swin_unetr_v2"), ("swinViT.", "swin_unetr"), ("transformer.", "smit"))
"""Parts of parameter names that tell the backbone; the first one found counts."""


@dataclass(frozen=True)
class ImportedModel:
    """A whole network from a checkpoint, and everything that nnU-Net must know of it.

    The dataset's name in the plans is a placeholder until the model is written.
    """

    network: PlannedNetwork
    plans: Plans
    dataset_json: dict[str, Any]
    trainer: str
    report: PretrainedReport

    @property
    def folder_name(self) -> str:
        """Name of the model's folder in nnUNet_results/DatasetXXX_Name."""
        return f"{self.trainer}__{self.plans.name}__{FULLRES}"


def read_model(
    path: Path,
    *,
    patch_size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    window: Sequence[float] | None = None,
) -> ImportedModel:
    """Read a checkpoint of a whole network whose volumes were prepared beforehand.

    Args:
        path: Checkpoint with the network under `state_dict` and the arguments of its training under `args`.
        patch_size: Voxels (x, y, z); needed only if the arguments do not hold it.
        spacing: Of the prepared volumes, mm (x, y, z); needed only if the arguments do not hold it.
        window: Lower and upper intensity of the prepared volumes, by default 0 and 800.

    Raises:
        RectalError: The file is no checkpoint of a whole network known here; patch size or spacing are neither stored
            nor given, differ from the stored ones, or cannot be used; the stored window is another.
    """
    arguments = _stored_arguments(path)
    size = _agreed(path, arguments, "patch_size", patch_size)
    if any(value != int(value) for value in size):
        raise RectalError(f"A patch size is in whole voxels, not {_listed(size)}.")
    patch = [int(value) for value in size]
    millimetres = _agreed(path, arguments, "spacing", spacing)
    low, high = _checked_window(path, arguments, window)
    weights = read_weights(path, ("state_dict",))
    backbone = _checked_backbone(path, list(weights.names.values()), patch)
    image, output = "encoder1.layer.conv1.conv.weight", "out.conv.conv.weight"
    if not {image, output} <= set(weights.tensors):
        raise RectalError(
            f"{path} is no checkpoint of a whole network: it has no {image} or no {output}. An encoder alone starts a "
            "training, see documentation/reference/pretrained-weights.md."
        )
    channels, heads = weights.tensors[image].shape[1], weights.tensors[output].shape[0]
    if heads < 2:
        raise RectalError(f"{path} has {heads} output; nnU-Net needs one for the background and one for each class.")
    configuration = prepared_configuration(backbone, patch, millimetres, [[low, high]] * channels)
    network = PlannedNetwork(channels, heads, **configuration["architecture"]["arch_kwargs"])
    report = load_pretrained(network.backbone, path)
    plans = Plans.of(prepared_plans(backbone, configuration, {"imported_from": path.name, "md5": report.md5}))
    return ImportedModel(
        network, plans, prepared_dataset_json(channels, heads), f"{TRAINER_FAMILIES[backbone]}_Base", report
    )


def write_model(model: ImportedModel, folder: Path, dataset_name: str) -> None:
    """Write a model folder as nnU-Net's training leaves it, with a single fold, so that its commands take it.

    Raises:
        RectalError: `folder` holds something already.
    """
    plans = {**model.plans.content, "dataset_name": dataset_name}
    checkpoint = {
        "network_weights": model.network.state_dict(),
        "trainer_name": model.trainer,
        "init_args": {"plans": plans, "configuration": FULLRES, "fold": 0, "dataset_json": model.dataset_json},
        # The logits of a prediction are then those of the network alone.
        "inference_allowed_mirroring_axes": None,
    }
    try:
        with staged_folder(folder) as temporary:
            write_json(temporary / layout.PLANS_JSON, plans)
            write_json(temporary / layout.DATASET_JSON, model.dataset_json)
            fold = temporary / layout.fold_name(0)
            (fold / layout.VALIDATION).mkdir(parents=True)
            with writing(fold / layout.CHECKPOINT_FINAL):
                torch.save(checkpoint, fold / layout.CHECKPOINT_FINAL)
            # What a training leaves besides, empty but for a note; nnU-Net's export to zip insists on it.
            note = f"Imported from {model.plans.record['imported_from']}"
            write_json(temporary / layout.DATASET_FINGERPRINT, {"note": note, "spacings": [], "shapes_after_crop": []})
            summary = {"note": f"{note}; not validated here", "metric_per_case": [], "mean": {}, "foreground_mean": {}}
            write_json(fold / layout.VALIDATION / layout.SUMMARY_JSON, summary)
            figure = Figure(figsize=(6, 1))
            figure.text(0.5, 0.5, f"{note}; no training took place here", ha="center", va="center")
            figure.savefig(fold / layout.PROGRESS_PNG)
    except FileExistsError:
        raise RectalError(f"{folder} exists and is not empty. Name another folder or remove it.") from None


def _stored_arguments(path: Path) -> Mapping[str, Any]:
    """Return the arguments of the training that a checkpoint holds; empty if it holds none."""
    content = read_checkpoint(path)
    stored = content.get("args") if isinstance(content, Mapping) else None
    values = vars(stored) if isinstance(stored, argparse.Namespace) else stored
    return values if isinstance(values, Mapping) else {}


def _stored(path: Path, arguments: Mapping[str, Any], what: str) -> tuple[float, ...] | None:
    """Return the stored numbers of a key of `ARGUMENT_NAMES`; a single number stands for all three axes."""
    for names in ARGUMENT_NAMES[what]:
        found = [arguments[name] for name in names if arguments.get(name) is not None]
        if len(found) != len(names):
            continue
        values = found[0] if len(names) == 1 else found
        values = [values] * 3 if isinstance(values, Real) else values
        try:
            numbers = tuple(float(value) for value in values)
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != (2 if what == "window" else 3):
            raise RectalError(f"{path} stores {', '.join(names)} = {found}, from which no {what} can be read.")
        return numbers
    return None


def _agreed(path: Path, arguments: Mapping[str, Any], what: str, given: Sequence[float] | None) -> tuple[float, ...]:
    """Return three positive numbers that were stored, or given, or both."""
    stored = _stored(path, arguments, what)
    names = " or ".join(", ".join(group) for group in ARGUMENT_NAMES[what])
    if given is None and stored is None:
        raise RectalError(
            f"{path} does not say its {what}: its arguments hold no {names}. Give --{what.replace('_', '-')} X Y Z."
        )
    if given is not None and stored is not None and not all(map(math.isclose, given, stored)):
        raise RectalError(
            f"{path} was trained with the {what} {_listed(stored)} (x, y, z), as its arguments say; {_listed(given)} "
            f"was given. A network of another geometry is another network: leave --{what.replace('_', '-')} out."
        )
    values = stored if stored is not None else tuple(float(value) for value in given or ())
    if len(values) != 3 or not all(0 < value < math.inf for value in values):
        raise RectalError(f"The {what} must be three positive numbers x y z, not {_listed(values)}.")
    return values


def _checked_window(path: Path, arguments: Mapping[str, Any], given: Sequence[float] | None) -> tuple[float, float]:
    stored = _stored(path, arguments, "window")
    if given is None and stored is not None and stored != PREPARED_WINDOW:
        raise RectalError(
            f"{path} stores the intensities a_min, a_max = {_listed(stored)}, but prepared volumes reach from "
            f"{_listed(PREPARED_WINDOW)}. Say with --window LOW HIGH what its network reads as 0 and 1."
        )
    low, high = given if given is not None else PREPARED_WINDOW
    return float(low), float(high)


def _checked_backbone(path: Path, names: Sequence[str], patch: Sequence[int]) -> str:
    """Return the network that parameters with these names belong to; it must take the patch."""
    backbone = next((found for part, found in BACKBONE_MARKERS if any(part in name for name in names)), None)
    if backbone is None:
        known = ", ".join(TRAINER_FAMILIES)
        raise RectalError(f"{path} is no checkpoint of {known}: no parameter has a name of theirs.")
    multiple = BACKBONES[backbone].multiple
    if any(size % multiple for size in patch):
        raise RectalError(
            f"{path} holds {backbone}, whose published code runs on multiples of {multiple} voxels; the patch size is "
            f"{_listed(patch)}. Check --patch-size."
        )
    return backbone


def prepared_configuration(
    backbone: str, patch_size: Sequence[int], spacing: Sequence[float], intensity_window: list[list[float]]
) -> dict[str, Any]:
    """Return a configuration that resamples prepared volumes and leaves intensities alone; arguments are in x, y, z."""
    network = {"backbone": backbone, "backbone_kwargs": {}, "intensity_window": intensity_window}
    return configuration_settings(
        {**network, "spatial_axes": [2, 1, 0]},
        [PREPARED_SCHEME] * len(intensity_window),
        data_identifier=f"nnUNetRectalPreparedPlans_{FULLRES}",
        preprocessor_name="DefaultPreprocessor",
        batch_size=MIN_BATCH_SIZE,
        patch_size=list(patch_size)[::-1],
        median_image_size_in_voxels=list(patch_size)[::-1],
        spacing=list(spacing)[::-1],
    )


def prepared_plans(backbone: str, configuration: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plans around a configuration, complete for nnU-Net's own preprocessing."""
    # nnU-Net hands these to every normalization, also to the one that does nothing.
    unused = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 0.0)
    channels = len(configuration["normalization_schemes"])
    return {
        "dataset_name": "",
        "plans_name": BACKBONES[backbone].plans_name.replace("Plans", "PreparedPlans"),
        "original_median_spacing_after_transp": configuration["spacing"],
        "original_median_shape_after_transp": configuration["patch_size"],
        "image_reader_writer": SimpleITKIOWithReorient.__name__,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {FULLRES: configuration},
        "experiment_planner_used": "rectal_nnformer weights import",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(channel): unused for channel in range(channels)},
        RECORD_KEY: {"version": __version__, **origin},
    }


def prepared_dataset_json(channels: int, heads: int) -> dict[str, Any]:
    """Return nnU-Net's description of prepared volumes and of the classes of a network with so many outputs."""
    names = ["tumor"] if heads == 2 else [f"class_{label}" for label in range(1, heads)]
    return {
        "channel_names": {str(channel): PREPARED_CHANNEL for channel in range(channels)},
        "labels": {"background": 0, **{name: label for label, name in enumerate(names, start=1)}},
        "numTraining": 0,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": SimpleITKIOWithReorient.__name__,
    }


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
