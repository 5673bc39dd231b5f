"""Groups of lesions that look alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from rectal_nnformer.planning.fingerprint.distributions import appearance_value

FEATURES = ("contrast", "mean", "spread")
MAX_CLUSTERS = 5
MIN_SILHOUETTE = 0.5
"""Below this mean silhouette the structure of a clustering is weak or artificial (Kaufman and Rousseeuw 1990)."""
MIN_LESIONS, MIN_SHARE = 3, 0.05
"""A cluster has at least 3 lesions and 5 % of all."""
MAX_DEVIATIONS = 3.0

Values = NDArray[np.float64]


def cluster_appearance(lesions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Group lesions by contrast to the ring, mean and spread in all channels.

    Ward's hierarchical clustering, which needs no start values and so is the same every time, of robustly scaled
    features, cut where the mean silhouette (Rousseeuw 1987) is highest. Without a cut into 2 to 5 clusters of at least
    3 lesions and 5 % each whose silhouette is 0.5 or more, all lesions are one cluster.

    Args:
        lesions: Records of the lesions, each with a ring.

    Returns:
        `silhouette`, None for one cluster; `clusters`, the largest first, with `num_lesions` and, per channel, the
        medians of the features; `assignment`, the cluster of each lesion.
    """
    features = np.array([_features(lesion) for lesion in lesions], dtype=float)
    silhouette, assignment = _best_cut(features) if len(lesions) >= 2 * MIN_LESIONS else _one_cluster(len(lesions))
    order = np.argsort(-np.bincount(assignment), kind="stable") if lesions else np.empty(0, dtype=int)
    return {
        "silhouette": silhouette,
        "clusters": [_describe(features[assignment == label]) for label in order],
        "assignment": [int(np.flatnonzero(order == label)[0]) for label in assignment],
    }


def mean_silhouette(distances: Values, assignment: NDArray[np.int_]) -> float:
    """Return the mean over all samples of (b - a) / max(a, b), a single sample in its cluster counting 0.

    a is the mean distance to the other samples of the cluster, b the smallest mean distance to those of another.

    Args:
        distances: (samples, samples).
        assignment: Cluster of each sample, from 0, at least two clusters without gaps.
    """
    members = np.eye(assignment.max() + 1)[assignment]
    sizes = members.sum(axis=0)
    sums = distances @ members
    own = np.arange(len(assignment)), assignment
    own_mean = sums[own] / np.maximum(sizes[assignment] - 1, 1)
    means = sums / sizes
    means[own] = np.inf
    other_mean = means.min(axis=1)
    values = (other_mean - own_mean) / np.maximum(np.maximum(own_mean, other_mean), 1e-12)
    return float(np.where(sizes[assignment] > 1, values, 0).mean())


def _features(lesion: Mapping[str, Any]) -> list[float | None]:
    channels = range(len(lesion["channels"]))
    return [appearance_value(lesion, channel, key) for channel in channels for key in FEATURES]


def _best_cut(features: Values) -> tuple[float | None, NDArray[np.int_]]:
    """Return silhouette and assignment of the best admissible cut, or of a single cluster."""
    scaled = _robustly_scaled(features)
    tree, distances = linkage(scaled, method="ward"), squareform(pdist(scaled))
    smallest = max(MIN_LESIONS, MIN_SHARE * len(features))
    best, best_assignment = _one_cluster(len(features))
    for number in range(2, MAX_CLUSTERS + 1):
        assignment = fcluster(tree, number, criterion="maxclust") - 1
        if assignment.max() and np.bincount(assignment).min() >= smallest:
            silhouette = mean_silhouette(distances, assignment)
            if silhouette >= (MIN_SILHOUETTE if best is None else best):
                best, best_assignment = silhouette, assignment
    return best, best_assignment


def _one_cluster(num_lesions: int) -> tuple[None, NDArray[np.int_]]:
    return None, np.zeros(num_lesions, dtype=int)


def _robustly_scaled(features: Values) -> Values:
    """Return features in interquartile ranges / 1.349 from their median, limited so that no single one dominates."""
    quartiles = np.percentile(features, (25, 50, 75), axis=0)
    scale = np.maximum((quartiles[2] - quartiles[0]) / 1.349, 1e-6)
    return np.clip((features - quartiles[1]) / scale, -MAX_DEVIATIONS, MAX_DEVIATIONS)


def _describe(features: Values) -> dict[str, Any]:
    medians = np.median(features, axis=0).reshape(-1, len(FEATURES))
    return {
        "num_lesions": len(features),
        "channels": [dict(zip(FEATURES, map(float, channel), strict=True)) for channel in medians],
    }
