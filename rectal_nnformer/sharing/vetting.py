"""What dataset.json, plans and splits may say: nnU-Net's keys alone, and values that stay within the dataset's folder.

nnU-Net takes folder names, class names and file endings from these files without asking. Plans can name any class of
any module to be imported and called, and any folder to read pickles from.
"""

import itertools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing.bundle import check_paths
from rectal_nnformer.sharing.case_grid import Resampling

DATASET_NAME = re.compile(r"Dataset(\d{3})_[A-Za-z0-9][\w.-]*", re.ASCII)
IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*", re.ASCII)
FILE_ENDING = re.compile(r"(\.[A-Za-z0-9]+){1,2}")
OUR_KEY = "rectal_nnformer"
OUR_NETWORK = "rectal_nnformer.networks.adapter.PlannedNetwork"
NETWORKS = re.compile(
    rf"dynamic_network_architectures\.architectures\.\w+\.[A-Z]\w*|{re.escape(OUR_NETWORK)}", re.ASCII
)
LAYERS = re.compile(
    r"torch\.nn\.(?:modules\.(?:conv|instancenorm|batchnorm|normalization|activation|dropout)\.)?[A-Z]\w*", re.ASCII
)
"""Classes that plans may name: layers of PyTorch, networks of nnU-Net's library and the one of this package."""

DATASET_KEYS = (
    "name",
    "channel_names",
    "modality",
    "labels",
    "regions_class_order",
    "numTraining",
    "file_ending",
    "overwrite_image_reader_writer",
)
TOLD_DATASET_KEYS = (
    "description",
    "reference",
    "licence",
    "license",
    "release",
    "author",
    "dataset",
    "training",
    "test",
)
"""Keys whose removal is told by name; names of others could tell something themselves."""

FINGERPRINT_KEYS = (
    "spacings",
    "shapes_after_crop",
    "foreground_intensity_properties_per_channel",
    "median_relative_size_after_cropping",
)
PLANS_KEYS = (
    "dataset_name",
    "plans_name",
    "original_median_spacing_after_transp",
    "original_median_shape_after_transp",
    "image_reader_writer",
    "transpose_forward",
    "transpose_backward",
    "configurations",
    "experiment_planner_used",
    "label_manager",
    "foreground_intensity_properties_per_channel",
    "continue_training",
    OUR_KEY,
)
CONFIGURATION_KEYS = (
    "inherits_from",
    "previous_stage",
    "next_stage",
    "data_identifier",
    "preprocessor_name",
    "batch_size",
    "patch_size",
    "median_image_size_in_voxels",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    *(f"resampling_fn_{what}{end}" for what in ("data", "seg", "probabilities") for end in ("", "_kwargs")),
    "architecture",
    "batch_dice",
    # Plans of older versions describe the network here.
    "UNet_class_name",
    "UNet_base_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
    "unet_max_num_features",
)
CLASS_KEYS = (
    "image_reader_writer",
    "experiment_planner_used",
    "label_manager",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_seg",
    "resampling_fn_probabilities",
    "UNet_class_name",
)


def only(content: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the entries of known keys."""
    return {key: value for key, value in content.items() if key in keys}


def cleaned_plans(plans: Mapping[str, Any], scrub: Callable[[Any], Any]) -> dict[str, Any]:
    """Return plans without unknown keys; `scrub` is applied to what is not nnU-Net's."""
    kept = only(plans, PLANS_KEYS)
    kept["configurations"] = {name: only(conf, CONFIGURATION_KEYS) for name, conf in plans["configurations"].items()}
    if OUR_KEY in kept:
        kept[OUR_KEY] = scrub(kept[OUR_KEY])
    return kept


def check_dataset_name(name: Any) -> int:
    """Return the id in DatasetXXX_Name.

    Raises:
        RectalError: It is no such name.
    """
    match = DATASET_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise RectalError(f"{name!r} is no name of a dataset, DatasetXXX_Name.")
    return int(match.group(1))


def check_dataset_json(content: Any, name: str) -> None:
    """Refuse a dataset.json that says more than nnU-Net reads, or that could lead out of the dataset's folder.

    Raises:
        RectalError: What is wrong.
    """
    _check_keys(content, DATASET_KEYS, name)
    _expect(FILE_ENDING.fullmatch(str(content.get("file_ending"))), name, "file_ending", content.get("file_ending"))
    channels = content.get("channel_names", content.get("modality"))
    _expect(
        isinstance(channels, dict) and all(isinstance(c, str) for c in channels.values()), name, "channel_names", ""
    )
    labels = content.get("labels")
    _expect(isinstance(labels, dict) and all(_is_label(value) for value in labels.values()), name, "labels", labels)
    reader = content.get("overwrite_image_reader_writer", "None")
    _expect(isinstance(reader, str) and IDENTIFIER.fullmatch(reader), name, "overwrite_image_reader_writer", reader)


def check_plans(content: Any, name: str, dataset_name: str) -> None:
    """Refuse plans that name other folders, other datasets, or classes beyond nnU-Net's and this package's.

    Raises:
        RectalError: What is wrong.
    """
    _check_keys(content, PLANS_KEYS, name)
    _expect(content.get("dataset_name") == dataset_name, name, "dataset_name", content.get("dataset_name"))
    _check_name(content.get("plans_name"), name, "plans_name")
    _check_classes(content, name)
    for key in ("transpose_forward", "transpose_backward"):
        _expect(content.get(key, [0, 1, 2]) in map(list, itertools.permutations(range(3))), name, key, content.get(key))
    _expect(isinstance(content.get("configurations"), dict), name, "configurations", "")
    for configuration, settings in content["configurations"].items():
        where = f"{name}, configuration {configuration!r}"
        _check_name(configuration, name, "configurations")
        _check_keys(settings, CONFIGURATION_KEYS, where)
        _check_classes(settings, where)
        for key in ("data_identifier", "inherits_from", "previous_stage", "next_stage"):
            for value in settings[key] if isinstance(settings.get(key), list) else [settings.get(key)]:
                if value is not None:
                    _check_name(value, where, key)
        for key in ("patch_size", "batch_size"):
            _check_sizes(settings.get(key, 1), where, key)
        _check_spacing(settings.get("spacing", [1, 1, 1]), where)
        if "architecture" in settings:
            _check_architecture(settings["architecture"], where)


def check_splits(content: Any, name: str, cases: Collection[str]) -> None:
    """Refuse splits that are no list of folds, or that name cases which are not there.

    Raises:
        RectalError: What is wrong.
    """
    _expect(isinstance(content, list) and len(content) <= 1000, name, "folds", "")
    known = set(cases)
    for fold in content:
        _expect(isinstance(fold, dict) and fold.keys() == {"train", "val"}, name, "folds", "")
        for part in fold.values():
            _expect(isinstance(part, list) and all(isinstance(case, str) for case in part), name, "folds", "")
            unknown = sorted(set(part) - known)
            _expect(not unknown, name, "cases", unknown[:1])


def data_identifiers(plans: Mapping[str, Any]) -> dict[str, str]:
    """Return the folder of preprocessed data of each configuration, inherited ones included."""
    found = {name: _inherited(plans["configurations"], name, "data_identifier") for name in plans["configurations"]}
    return {name: identifier for name, identifier in found.items() if identifier is not None}


def resamplings(plans: Mapping[str, Any]) -> list[tuple[str, Resampling | None]]:
    """Return each folder of preprocessed data with how plans ask for it to be made; None where that is not known."""
    configurations, found = plans["configurations"], []
    for name, identifier in data_identifiers(plans).items():
        spacing, preprocessor = (_inherited(configurations, name, key) for key in ("spacing", "preprocessor_name"))
        known = spacing is not None and preprocessor == "DefaultPreprocessor"
        axes = plans.get("transpose_forward", range(3))
        found.append((identifier, Resampling(tuple(axes), tuple(spacing)) if known else None))
    return found


def _inherited(configurations: Mapping[str, Any], name: Any, key: str) -> Any:
    """Return what a configuration or the first of its ancestors that tells it tells; None if none does."""
    seen = set()
    while name in configurations and name not in seen and key not in configurations[name]:
        seen.add(name)
        name = configurations[name].get("inherits_from")
    return configurations[name].get(key) if name in configurations else None


def _check_architecture(content: Any, where: str) -> None:
    _check_keys(content, ("network_class_name", "arch_kwargs", "_kw_requires_import"), where)
    network, layers = content.get("network_class_name"), content.get("_kw_requires_import")
    _expect(isinstance(network, str) and NETWORKS.fullmatch(network), where, "network_class_name", network)
    arguments = content.get("arch_kwargs")
    _expect(isinstance(arguments, dict) and isinstance(layers, list), where, "arch_kwargs", "")
    for key in layers:
        value = arguments.get(key) if isinstance(key, str) else key
        _expect(value is None or (isinstance(value, str) and LAYERS.fullmatch(value)), where, str(key), value)


def _check_classes(content: Mapping[str, Any], where: str) -> None:
    for key in CLASS_KEYS:
        value = content.get(key, "none")
        _expect(isinstance(value, str) and IDENTIFIER.fullmatch(value), where, key, value)
    schemes = content.get("normalization_schemes", [])
    plain = isinstance(schemes, list) and all(isinstance(s, str) and IDENTIFIER.fullmatch(s) for s in schemes)
    _expect(plain, where, "normalization_schemes", schemes)


def _check_sizes(value: Any, where: str, key: str) -> None:
    sizes = value if isinstance(value, list) else [value]
    _expect(all(type(n) is int and 0 < n <= 4096 for n in sizes), where, key, value)


def _check_spacing(value: Any, where: str) -> None:
    plain = isinstance(value, list) and all(type(size) in (int, float) and 0 < size < 1e6 for size in value)
    _expect(plain and len(value) in (2, 3), where, "spacing", value)


def _check_name(value: Any, where: str, key: str) -> None:
    _expect(isinstance(value, str) and PLAIN_NAME.fullmatch(value) and len(value) <= 100, where, key, value)
    check_paths([value])


def _check_keys(content: Any, keys: Collection[str], where: str) -> None:
    _expect(isinstance(content, dict), where, "content", "")
    unknown = sorted(set(content) - set(keys))
    _expect(not unknown, where, "unknown key", unknown[:1])


def _is_label(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(type(number) is int and 0 <= number < 1 << 16 for number in values)


def _expect(condition: object, where: str, what: str, value: Any) -> None:
    if not condition:
        raise RectalError(
            f"{where} cannot be used: {what} {str(value)[:80]!r} is not what nnU-Net or this package would write there."
        )
