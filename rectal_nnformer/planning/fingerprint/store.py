"""The tumour fingerprint of a dataset as a file, made together with the intensity window.

One pass over the cases measures both. Intensities are taken in units of the normalized image, and expressed in units of
the window once that is known; the change of units is linear, so no case is read twice.
"""

from functools import partial

from pydantic import TypeAdapter, ValidationError

from rectal_nnformer.imaging.masks import MIN_VOXELS, tumor_labels
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.planning.fingerprint.cases import measure_case
from rectal_nnformer.planning.fingerprint.clusters import cluster_appearance
from rectal_nnformer.planning.fingerprint.distributions import describe_dataset
from rectal_nnformer.planning.fingerprint.lesions import RING_MM, in_window_units
from rectal_nnformer.planning.fingerprint.outliers import find_outliers
from rectal_nnformer.planning.fingerprint.record import Fingerprint
from rectal_nnformer.planning.intensity_window import write_intensity_window
from rectal_nnformer.utils.files import read_json_if_whole, write_json
from rectal_nnformer.utils.parallel import map_with_progress

FILE_NAME = "rectal_fingerprint.json"
VERSION = 1
"""Of the file's content; files of another version are made again."""


def load_tumor_fingerprint(dataset: TrainingDataset) -> Fingerprint | None:
    """Return the dataset's tumour fingerprint; None where it is missing, damaged or outdated."""
    try:
        found = TypeAdapter(Fingerprint).validate_python(read_json_if_whole(dataset.preprocessed.path / FILE_NAME))
    except ValidationError:
        return None
    return found if (found["version"], found["raw_signature"]) == (VERSION, dataset.signature()) else None


def extract_tumor_fingerprint(dataset: TrainingDataset, num_processes: int) -> Fingerprint:
    """Measure every training case, write the fingerprint and the intensity window, and return the fingerprint.

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
        "dataset": {**describe_dataset(cases), "appearance_clusters": clusters},
        "cases": cases,
    }
    write_json(dataset.preprocessed.path / FILE_NAME, content)
    return content
