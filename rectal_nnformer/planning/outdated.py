"""Warn about outdated plans, data and folds: those of older plans whose name new plans take.

nnU-Net replaces plans without a word, and a training reads them as they are when it starts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rectal_nnformer.augmentation.settings import AUGMENTATION_KEY
from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import ModelFolder, folder_variables
from rectal_nnformer.nnunet.names import FULLRES
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.planning.explanation import wrapped
from rectal_nnformer.planning.preprocessing import is_preprocessed

MOST_CHARACTERS = 60
"""Longer values are not shown: that they differ is enough."""

_DERIVED = ("architecture", "data_identifier", "median_image_size_in_voxels")
"""Keys of a configuration that repeat what others say, or that are taken apart."""

_PREPROCESS = "Run 'rectal_nnformer plan_and_preprocess' with the same options before training."


def outdated_warnings(dataset: TrainingDataset, plans: Plans) -> Iterator[str]:
    """Warn about what does not fit the plans that are about to be written."""
    path = dataset.preprocessed.plans_file(plans.name)
    folder = dataset.preprocessed.data_folder(plans.configuration(FULLRES).settings)
    if path.is_file() and (differences := differing_settings(path, plans)):
        yield (
            f"{path} was there and is replaced. Different, sizes as in the file: {'; '.join(differences)}. To keep "
            "both, plan again with -overwrite_plans_name NAME, and once as before for the old ones."
        )
        if not folder.is_dir():
            yield f"These plans have no preprocessed data yet, which belong into {folder}. {_PREPROCESS}"
    if folder.is_dir() and not is_preprocessed(dataset, plans, FULLRES):
        yield (
            f"The preprocessed data in {folder} do not fit these plans: they are incomplete, or were not made from the "
            f"raw data as they are now by these settings. {_PREPROCESS}"
        )
    if folds := _folds_of_other_plans(dataset.name, plans):
        yield (
            f"Trained by other plans of this name: {', '.join(folds)}. Neither continue them nor add folds to their "
            "models: move these folders away and train again, or plan again with -overwrite_plans_name NAME."
        )


def print_warning(warning: str) -> None:
    """Print a warning as explanations of plans do."""
    print(wrapped(f"WARNING: {warning}"))


def differing_settings(path: Path, plans: Plans) -> list[str]:
    """Return the settings on which data or training depend and in which plans differ, with both values if short.

    The plans file may be damaged or something else.
    """
    try:
        before = dict(_settings(Plans.read(path)))
    except RectalError:
        return ["everything, it cannot be read as plans"]
    after = dict(_settings(plans))
    return [
        f"{key} {change}" if len(change := f"{before.get(key)} -> {after.get(key)}") <= MOST_CHARACTERS else key
        for key in {**after, **before}
        if before.get(key) != after.get(key)
    ]


def _settings(plans: Plans) -> Iterator[tuple[str, Any]]:
    """Yield the settings with names that tell the configuration."""
    yield from ((key, plans.content.get(key)) for key in ("image_reader_writer", "transpose_forward"))
    yield AUGMENTATION_KEY, plans.record.get(AUGMENTATION_KEY)
    for name, configuration in plans.content["configurations"].items():
        network = (configuration.get("architecture") or {}).get("arch_kwargs", {})
        for key, value in {**configuration, **network}.items():
            if key not in _DERIVED:
                yield f"{name} {key}", value


def _folds_of_other_plans(dataset_name: str, plans: Plans) -> list[str]:
    """Return the trained folds of models under the name of the plans whose own plans are others, as MODEL/fold_X."""
    if "nnUNet_results" not in folder_variables():
        return []
    results = Path(folder_variables()["nnUNet_results"]) / dataset_name
    models = filter(None, map(ModelFolder.parse, sorted(results.glob(f"*__{plans.name}__*"))))
    return [
        f"{model.name}/{fold.name}"
        for model in models
        if model.plans_file.is_file() and differing_settings(model.plans_file, plans)
        for fold in model.folds()
        if fold.checkpoints()
    ]
