"""The tumour fingerprint of a dataset as a file, made together with the intensity window.

One pass over the cases measures both. Intensities are taken in units of the normalized image, and expressed in units of
the window once that is known; the change of units is linear, so no case is read twice.

`documentation/reference/fingerprint.md` describes the content.
"""

from typing import Any

from rectal_nnformer.imaging.masks import MIN_VOXELS, tumor_labels
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.planning.fingerprint.cases import CaseFiles, measure_case
from rectal_nnformer.planning.fingerprint.clusters import cluster_appearance
from rectal_nnformer.planning.fingerprint.distributions import describe_dataset
from rectal_nnformer.planning.fingerprint.lesions import RING_MM, in_window_units
from rectal_nnformer.planning.fingerprint.outliers import find_outliers
from rectal_nnformer.planning.intensity_window import Window, write_intensity_window
from rectal_nnformer.utils.files import read_json_if_whole, write_json
from rectal_nnformer.utils.parallel import map_with_progress

FILE_NAME = "rectal_fingerprint.json"
VERSION = 1
"""Of the file's content; files of another version are made again."""


def load_tumor_fingerprint(dataset: TrainingDataset) -> dict[str, Any] | None:
    """Return the content of the dataset's tumour fingerprint; None where it is missing, unreadable or outdated."""
    content = read_json_if_whole(dataset.preprocessed.path / FILE_NAME) or {}
    up_to_date = (content.get("version"), content.get("raw_signature")) == (VERSION, dataset.signature())
    return content if up_to_date else None


def extract_tumor_fingerprint(dataset: TrainingDataset, num_processes: int) -> dict[str, Any]:
    """Measure every training case, write the fingerprint and the intensity window, and return the fingerprint.

    All lengths are mm, all axes (x, y, z), all intensities in units of the intensity window.

    Raises:
        RectalError: A case cannot be read, holds NaN, a channel of it is constant, or its label has another shape.
    """
    signature = dataset.signature()
    labels = tumor_labels(dataset.dataset_json)
    jobs = [
        CaseFiles(name, files["images"], files["label"], dataset.reader, dataset.prepared_channels, labels)
        for name, files in dataset.cases.items()
    ]
    measured = map_with_progress(measure_case, jobs, num_processes, "Measuring tumours and intensities")
    percentiles = {name: window for name, (window, _) in zip(dataset.cases, measured, strict=True)}
    window = write_intensity_window(dataset, percentiles, signature)
    cases = {name: _in_window_units(record, window) for name, (_, record) in zip(dataset.cases, measured, strict=True)}
    outliers = find_outliers(cases)
    clusters = _assign_clusters(cases, {outlier["case"] for outlier in outliers})
    content = {
        "version": VERSION,
        "raw_signature": signature,
        "tumor_labels": labels,
        "channels": dataset.channel_names,
        "intensity_window": window,
        "ring_mm": RING_MM,
        "min_lesion_voxels": MIN_VOXELS,
        "outliers": outliers,
        "dataset": {**describe_dataset(cases), "appearance_clusters": clusters},
        "cases": cases,
    }
    write_json(dataset.preprocessed.path / FILE_NAME, content)
    return content


def _assign_clusters(cases: dict[str, dict[str, Any]], suspected: set[str]) -> dict[str, Any]:
    """Write the cluster of each lesion with a ring, outside suspected masks, into its record; return the clusters."""
    lesions = [
        lesion
        for name, case in cases.items()
        for lesion in case["lesions"]
        if name not in suspected and lesion["ring_voxels"]
    ]
    result = cluster_appearance(lesions)
    for lesion, cluster in zip(lesions, result.pop("assignment"), strict=True):
        lesion["cluster"] = cluster
    return result


def _in_window_units(record: dict[str, Any], window: Window) -> dict[str, Any]:
    lesions = [
        {
            **lesion,
            "cluster": None,
            "channels": [
                in_window_units(intensities, *bounds)
                for intensities, bounds in zip(lesion["channels"], window, strict=True)
            ],
        }
        for lesion in record["lesions"]
    ]
    return {**record, "lesions": lesions}
