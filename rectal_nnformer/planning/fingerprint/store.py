"""The tumour fingerprint of a dataset as a file, made together with the intensity window.

One pass over the cases measures both. Intensities are taken in units of the normalized image, and expressed in units of
the window once that is known; the change of units is linear, so no case is read twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from rectal_nnformer.imaging.masks import MIN_VOXELS, tumor_labels
from rectal_nnformer.nnunet.names import FINGERPRINT_FILE
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.planning.fingerprint.cases import measure_case
from rectal_nnformer.planning.fingerprint.clusters import cluster_appearance
from rectal_nnformer.planning.fingerprint.lesions import RING_MM, in_window_units
from rectal_nnformer.planning.fingerprint.outliers import find_outliers
from rectal_nnformer.planning.fingerprint.record import Case, Fingerprint, LesionMeasures
from rectal_nnformer.planning.intensity_window import write_intensity_window
from rectal_nnformer.utils.files import read_json_if_whole, write_json
from rectal_nnformer.utils.parallel import map_with_progress

VERSION = 1
"""Of the file's content; files of another version are made again."""

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
"""Of the values that are described over the dataset."""


def load_tumor_fingerprint(dataset: TrainingDataset) -> Fingerprint | None:
    """Return the dataset's tumour fingerprint; None where it is missing, damaged or outdated."""
    content = read_json_if_whole(dataset.preprocessed.path / FINGERPRINT_FILE)
    try:
        found = TypeAdapter(Fingerprint).validate_python(content)
    except ValidationError:
        return None
    return found if (found["version"], found["raw_signature"]) == (VERSION, dataset.signature()) else None


def extract_tumor_fingerprint(dataset: TrainingDataset, num_processes: int) -> Fingerprint:
    """Measure every training case, write the fingerprint and the intensity window, and return the fingerprint.

    All lengths are mm, all axes (x, y, z), all intensities in units of the intensity window.

    Raises:
        RectalError: A case cannot be read, holds NaN, a channel of it is constant, or its label has another shape.
    """
    signature = dataset.signature()
    labels = tumor_labels(dataset.dataset_json)
    measure = partial(measure_case, reader=dataset.reader, prepared=dataset.prepared_channels, labels_of_tumor=labels)
    jobs = [(name, files["images"], files["label"]) for name, files in dataset.cases.items()]
    measured = map_with_progress(measure, jobs, num_processes, "Measuring tumours and intensities")
    percentiles = {name: window for name, (window, _) in zip(dataset.cases, measured, strict=True)}
    window = write_intensity_window(dataset, percentiles, signature)
    cases = {name: case for name, (_, case) in zip(dataset.cases, measured, strict=True)}
    for lesion in (lesion for case in cases.values() for lesion in case["lesions"]):
        lesion["channels"] = [
            in_window_units(i, *low_high) for i, low_high in zip(lesion["channels"], window, strict=True)
        ]
    outliers = find_outliers(cases)
    trusted = [case for name, case in cases.items() if name not in {outlier["case"] for outlier in outliers}]
    with_ring = [lesion for case in trusted for lesion in case["lesions"] if lesion["ring_voxels"]]
    clusters = cluster_appearance(with_ring)
    for lesion, cluster in zip(with_ring, clusters.pop("assignment"), strict=True):
        lesion["cluster"] = cluster
    content: Fingerprint = {
        "version": VERSION,
        "raw_signature": signature,
        "tumor_labels": labels,
        "channels": dataset.channel_names,
        "intensity_window": window,
        "ring_mm": RING_MM,
        "min_lesion_voxels": MIN_VOXELS,
        "outliers": outliers,
        "dataset": {**_describe_dataset(cases), "appearance_clusters": clusters},
        "cases": cases,
    }
    write_json(dataset.preprocessed.path / FINGERPRINT_FILE, content)
    return content


def _describe_dataset(cases: Mapping[str, Case]) -> dict[str, Any]:
    """Return counts and distributions over the cases and over all lesions; see `_percentiles` for the latter's form."""
    records = cases.values()
    lesions = [lesion for case in records for lesion in case["lesions"]]
    extents = [lesion["extent_mm"] for lesion in lesions]
    return {
        "num_cases": len(cases),
        "num_lesions": len(lesions),
        "lesions_per_case": _percentiles(len(case["lesions"]) for case in records),
        "spacing_mm": _per_axis([case["spacing_mm"] for case in records]),
        "field_of_view_mm": _per_axis([case["field_of_view_mm"] for case in records]),
        "cropped_extent_mm": _per_axis([case["cropped_extent_mm"] for case in records]),
        "empty_border_share": _percentiles(case["empty_border_share"] for case in records),
        "lesion_volume_cm3": _percentiles(lesion["volume_cm3"] for lesion in lesions),
        "lesion_extent_mm": _per_axis(extents),
        "max_lesion_extent_mm": np.max(extents, axis=0).tolist() if extents else None,
        "appearance": _per_channel(lesions),
    }


def _percentiles(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return the percentiles 0, 5, 25, 50, 75, 95 and 100, by their number, of what could be measured, or None."""
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    return dict(zip(map(str, PERCENTILES), np.percentile(measured, PERCENTILES).tolist(), strict=True))


def _per_axis(values: Sequence[Sequence[float]]) -> dict[str, dict[str, float] | None]:
    return {axis: _percentiles(value[index] for value in values) for index, axis in enumerate("xyz")}


def _per_channel(lesions: Sequence[LesionMeasures]) -> list[dict[str, dict[str, float] | None]]:
    return [
        {
            "mean": _percentiles(found["inside"]["mean"] for found in channel),
            "spread": _percentiles(found["inside"]["spread"] for found in channel),
            "contrast": _percentiles(found["contrast"] for found in channel),
            "boundary_gradient": _percentiles(found["boundary_gradient"] for found in channel),
        }
        for channel in zip(*(lesion["channels"] for lesion in lesions), strict=True)
    ]
