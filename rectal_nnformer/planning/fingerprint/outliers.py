"""Masks that look wrong: empty, outside the image, copied from another case, swapped or shifted.

Distances from the cohort are in robust deviations from its median, 1.4826 times the median absolute deviation.
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rectal_nnformer.imaging.masks import MIN_VOXELS
from rectal_nnformer.planning.fingerprint.record import Case, Fingerprint, Outlier, Placement
from rectal_nnformer.utils.text import plural

MAX_OUTSIDE = 0.05
"""Share of a mask that may lie where the image is empty."""
MIN_CASES = 5
"""With fewer cases there is no cohort to compare a mask with."""
LOW_SCORE, VERY_LOW_SCORE = -2.0, -3.5
MAX_BETTER_SHARE = 0.05
MAX_DISTANCE = 3.5
"""Iglewicz and Hoaglin (1993) call a value an outlier beyond this many robust deviations."""
KIND_DISTANCE, KIND_SIZE = 2.0, 2
"""A mask with this many others within this distance looks like a kind of tumour, however rare."""
MIN_LOG_SCALE, MIN_MEAN_SCALE = 0.2, 0.05
"""Deviations are never taken for smaller, in natural logarithms and in units of the window."""

_MIN_SEPARATION = 1e-4


def find_outliers(cases: Mapping[str, Case]) -> list[Outlier]:
    """Return `case`, `kind` and `reason` of each mask that looks wrong, in the order of the cases.

    Kinds: `empty` (no lesion), `outside` (partly where the image is empty), `copied` (voxel by voxel that of another
    case), `misplaced` (fits its image worse than the others fit theirs) and `unlike` (holds what looks like no other
    tumour). A case can be named more than once.
    """
    copies = _copied_masks(cases)
    placed = {name: case["placement"] for name, case in cases.items() if case["placement"]}
    separations = {name: [np.log(max(p["separation"], 0) + _MIN_SEPARATION)] for name, p in placed.items()}
    scores = _robust_distances(separations, [MIN_LOG_SCALE])
    usual = float(np.median([placement["separation"] for placement in placed.values()])) if placed else 0.0
    unlike = _unlike(cases)
    found: list[Outlier] = []
    for name, case in cases.items():
        outside = case["tumor_outside_image_share"]
        specks = f" of at least {MIN_VOXELS} voxels" if case["tumor_voxels"] else ""
        reasons = {
            "empty": None if case["lesions"] or outside == 1 else f"it holds no tumour{specks}",
            "outside": f"{outside:.0%} of it lies where the image is empty (shifted?)" if outside > MAX_OUTSIDE else "",
            "copied": copies.get(name),
            "misplaced": _misplaced(placed[name], float(scores[name][0]), usual) if name in scores else None,
            "unlike": unlike.get(name),
        }
        found += [{"case": name, "kind": kind, "reason": reason} for kind, reason in reasons.items() if reason]
    return found


def describe_outliers(fingerprint: Fingerprint) -> list[str]:
    """Return one warning per case that is named as an outlier; cases with the same reasons share one."""
    reasons, cases = defaultdict(list), defaultdict(list)
    for outlier in fingerprint["outliers"]:
        reasons[outlier["case"]].append(outlier["reason"])
    for case, found in reasons.items():
        cases["; ".join(found)].append(case)
    return [
        f"Look at the mask of {'each of the cases' if len(names) > 1 else 'case'} {', '.join(names)}: {text}."
        for text, names in cases.items()
    ]


def case_appearance(case: Case) -> list[float]:
    """Return mean and logarithm of the spread of all lesions of a case together, for each channel in turn."""
    voxels = [lesion["voxels"] for lesion in case["lesions"]]
    appearance = []
    for channel in range(len(case["lesions"][0]["channels"])):
        inside = [lesion["channels"][channel]["inside"] for lesion in case["lesions"]]
        mean = np.average([values["mean"] for values in inside], weights=voxels)
        square = np.average([values["mean"] ** 2 + values["spread"] ** 2 for values in inside], weights=voxels)
        appearance += [float(mean), float(np.log(max(square - mean**2, 1e-8)) / 2)]
    return appearance


def _robust_distances(values: Mapping[str, list[float]], min_scale: list[float]) -> dict[str, NDArray[np.float64]]:
    """Return each case's distance from the cohort's median in robust deviations, feature by feature."""
    if len(values) < MIN_CASES:
        return {}
    features = np.array(list(values.values()))
    deviations = features - np.median(features, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(deviations), axis=0), min_scale)
    return dict(zip(values, deviations / scale, strict=True))


def _unlike(cases: Mapping[str, Case]) -> dict[str, str]:
    """Return a reason for each case whose lesions are far from the cohort's and from those of all but one other."""
    values = {name: case_appearance(case) for name, case in cases.items() if case["lesions"]}
    num_channels = len(next(iter(values.values()), ())) // 2
    distances = _robust_distances(values, [MIN_MEAN_SCALE, MIN_LOG_SCALE] * num_channels)
    medians = np.median(list(values.values()), axis=0) if values else np.empty(0)
    reasons = {}
    for name, distance in distances.items():
        alike = sum(bool(np.abs(other - distance).max() <= KIND_DISTANCE) for other in distances.values()) - 1
        if np.abs(distance).max() > MAX_DISTANCE and alike < KIND_SIZE:
            feature = int(np.abs(distance).argmax())
            value, usual = values[name][feature], medians[feature]
            which, value, usual = ("spread", np.exp(value), np.exp(usual)) if feature % 2 else ("mean", value, usual)
            reasons[name] = (
                f"it covers what no other case's lesions look like ({which} {value:.2f} of the window, the cohort's "
                f"median {usual:.2f}; swapped, shifted or rare?)"
            )
    return reasons


def _copied_masks(cases: Mapping[str, Case]) -> dict[str, str]:
    """Return a reason for each case that shares its mask with others."""
    groups = defaultdict(list)
    for name, case in cases.items():
        if case["tumor_voxels"]:
            groups[case["mask_digest"]].append(name)
    reasons = {}
    for group in groups.values():
        for name in group if len(group) > 1 else ():
            first, *more = (other for other in group if other != name)
            others = f" and {plural(len(more), 'other')}" if more else ""
            reasons[name] = f"it is the same as that of case {first}{others} (copied or swapped?)"
    return reasons


def _misplaced(placement: Placement, score: float, usual: float) -> str | None:
    """Return a reason if a mask separates its image far worse than usual, or worse and not better than elsewhere."""
    elsewhere = placement["better_share"]
    fits_here = elsewhere is not None and elsewhere <= MAX_BETTER_SHARE
    if score > LOW_SCORE or (fits_here and score > VERY_LOW_SCORE):
        return None
    text = f"it hardly separates the image (separation {placement['separation']:.3f}, the cohort's median {usual:.3f}"
    if elsewhere is not None:
        text += f"; {elsewhere:.0%} of {placement['num_displacements']} places nearby separate better"
    best, moved = placement["best_separation"], placement["best_displacement_mm"]
    if best is None or moved is None or best < usual / 2:
        return f"{text}; swapped or shifted?)"
    displacement = ", ".join(f"{mm:+.0f}" for mm in moved)
    return f"{text}; moved by ({displacement}) mm along (x, y, z) it would fit, so perhaps shifted, else swapped)"
