"""Groups of lesions that look alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from rectal_nnformer.planning.fingerprint.record import LesionMeasures

FEATURES = ("contrast", "mean", "spread")
MAX_CLUSTERS = 5
MIN_SILHOUETTE = 0.5
"""Below this mean silhouette the structure of a clustering is weak or artificial (Kaufman and Rousseeuw 1990)."""
MIN_LESIONS, MIN_SHARE = 3, 0.05
"""A cluster has at least 3 lesions and 5 % of all."""
MAX_DEVIATIONS = 3.0

Values = NDArray[np.float64]


def cluster_appearance(lesions: Sequence[LesionMeasures]) -> dict[str, Any]:
    """Group lesions by contrast to the ring, mean and spread in all channels.

    Ward's hierarchical clustering, which needs no start values and so is the same every time, of robustly scaled
    features, cut where the mean silhouette (Rousseeuw 1987) is highest. Without a cut into 2 to 5 clusters of at least
    3 lesions and 5 % each whose silhouette is 0.5 or more, all lesions are one cluster. Each lesion must have a ring.

    Returns:
        `silhouette`, None for one cluster; `clusters`, the largest first, with `num_lesions` and, per channel, the
        medians of the features; `assignment`, the cluster of each lesion.
    """
    rows = [
        [value for i in lesion["channels"] for value in (i["contrast"], i["inside"]["mean"], i["inside"]["spread"])]
        for lesion in lesions
    ]
    features = np.array(rows, dtype=float)
    silhouette, assignment = _best_cut(features)
    order = np.argsort(-np.bincount(assignment), kind="stable") if lesions else np.empty(0, dtype=int)
    clusters = []
    for members in (features[assignment == label] for label in order):
        medians = np.median(members, axis=0).reshape(-1, len(FEATURES)).tolist()
        channels = [dict(zip(FEATURES, channel, strict=True)) for channel in medians]
        clusters.append({"num_lesions": len(members), "channels": channels})
    return {
        "silhouette": silhouette,
        "clusters": clusters,
        "assignment": [int(np.flatnonzero(order == label)[0]) for label in assignment],
    }


def _best_cut(features: Values) -> tuple[float | None, NDArray[np.int_]]:
    """Return silhouette and assignment of the best admissible cut, or of a single cluster."""
    best, best_assignment = None, np.zeros(len(features), dtype=int)
    if len(features) < 2 * MIN_LESIONS:
        return best, best_assignment
    # In interquartile ranges / 1.349 from the median, limited so that no single feature dominates.
    low, median, high = np.percentile(features, (25, 50, 75), axis=0)
    deviations = (features - median) / np.maximum((high - low) / 1.349, 1e-6)
    scaled = np.clip(deviations, -MAX_DEVIATIONS, MAX_DEVIATIONS)
    tree, distances = linkage(scaled, method="ward"), squareform(pdist(scaled))
    for number in range(2, MAX_CLUSTERS + 1):
        assignment = fcluster(tree, number, criterion="maxclust") - 1
        if assignment.max() and np.bincount(assignment).min() >= max(MIN_LESIONS, MIN_SHARE * len(features)):
            silhouette = float(silhouette_score(distances, assignment, metric="precomputed"))
            if silhouette >= (MIN_SILHOUETTE if best is None else best):
                best, best_assignment = silhouette, assignment
    return best, best_assignment
