"""Where a network sees tumour, surely or hardly: the lesions of its mask and the places that fell short of it.

What was found in a scan is kept beside its mask, in the folder `candidates`: an image of the candidates' numbers, and
JSON with what is known of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.detection import Component, describe_components
from rectal_nnformer.evaluation.log_odds import MAX_LOG_ODDS
from rectal_nnformer.imaging.masks import MIN_VOXELS, Components, TumorHeads, bounding_box, find_components
from rectal_nnformer.imaging.reading import in_order_of, read_image
from rectal_nnformer.imaging.writing import written_whole
from rectal_nnformer.utils.files import staged_file, write_json
from rectal_nnformer.utils.json_records import read_own

FOLDER = "candidates"
NETWORK_FOLDER = "network"
"""Within it, masks as the network gave them: apart, since a case may have any name."""
LEVELS = (0.25, 0.1, 0.03, 0.01)
"""Tumour probabilities, below the mask's threshold, at which further candidates are looked for."""
MOST_CANDIDATES = 50
MOST_DIFFERENT = 1e-3
"""Share of voxels at which a mask may differ from its probabilities: labels of several classes are no threshold."""
REMEDY = "Predict the case again, or remove both files."


@dataclass(frozen=True)
class Candidate(Component):
    """One candidate of a case that was scored.

    Attributes:
        confidence: How sure the network is of it, from 0 to 1.
        in_mask: Whether it is a lesion of the predicted mask.
        shared_voxels: Voxels that it shares with each of the case's reference lesions.
    """

    confidence: float
    in_mask: bool
    shared_voxels: tuple[int, ...]


@dataclass(frozen=True)
class FoundCandidate:
    """What is known of a candidate without a reference: the first attributes of `Candidate`."""

    confidence: float
    in_mask: bool


@dataclass(frozen=True)
class CaseCandidates:
    """The candidates of a scan, in the order of their numbers, and how sure the network is of the scan as a whole.

    Attributes:
        entropy: Mean entropy, in bits, of the voxels whose tumour probability is at least the lowest of `LEVELS`; None
            without any.
        disagreement: 1 minus the mean Dice of the masks of two folds of an ensemble; None for a single network.
    """

    candidates: tuple[FoundCandidate, ...]
    entropy: float | None
    disagreement: float | None = None


def find_candidates(
    log_odds: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], CaseCandidates]:
    """Return the candidates of a scan, with their numbers voxel by voxel, from 1, 0 elsewhere.

    The first are the mask's components. At each of `LEVELS`, in turn, the components that hold no candidate yet become
    candidates, as far as that level reaches. Of more than `MOST_CANDIDATES` below the mask's threshold the surest stay.

    Args:
        log_odds: Of tumour against all else, three axes.
        mask: Where the prediction is tumour, of the same shape.
    """
    levels = [float(logit(level)) for level in LEVELS]
    box = bounding_box((log_odds >= levels[-1]) | mask)
    inner, reached = log_odds[box], mask[box]
    components = find_components(reached)
    numbers = components.labels.astype(np.int32)
    voxels = [inner[part][numbers[part] == number] for number, part in enumerate(components.boxes, start=1)]
    in_mask = len(voxels)
    for level in levels:
        reached = reached | (inner >= level)
        components = find_components(reached)
        for number, part in enumerate(components.boxes, start=1):
            there = components.labels[part] == number
            if not numbers[part][there].any():
                voxels.append(inner[part][there])
                numbers[part][there] = len(voxels)
    confidences = np.array([confidence_of(values) for values in voxels])
    below = in_mask + np.argsort(-confidences[in_mask:], kind="stable")[:MOST_CANDIDATES]
    kept = [*range(in_mask), *sorted(below.tolist())]
    renumbered = np.zeros(len(voxels) + 1, np.uint16)
    renumbered[np.array(kept, dtype=int) + 1] = np.arange(1, len(kept) + 1)
    labels = np.zeros(log_odds.shape, np.uint16)
    labels[box] = renumbered[numbers]
    found = tuple(FoundCandidate(float(confidences[index]), index < in_mask) for index in kept)
    return labels, CaseCandidates(found, _entropy(inner[inner >= levels[-1]]))


def score_candidates(
    numbers: NDArray[Any],
    found: CaseCandidates,
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing: Sequence[float],
) -> tuple[Candidate, ...] | None:
    """Return the candidates of a case with what they share with its reference lesions.

    One that has fewer than `MIN_VOXELS` on this grid, as where voxels of the ignore label were taken away, is left out.

    Args:
        numbers: Of the candidates, voxel by voxel, three axes.
        found: What is known of them.
        prediction: Where the mask is tumour, of the same shape.
        reference: Where the reference is.
        spacing: Voxel size in mm, in the order of the axes.

    Returns:
        None if the mask is not the one that the candidates were found beside: it has a lesion that is none of them.
    """
    box = bounding_box(prediction | reference | (numbers > 0))
    numbers, prediction = numbers[box], prediction[box]
    if np.any(find_components(prediction & (numbers == 0)).labels):
        return None
    lesions = find_components(reference[box]).labels
    total = len(found.candidates) + 1
    shared = np.zeros((total, int(lesions.max(initial=0)) + 1), dtype=int)
    both = (numbers > 0) & (lesions > 0)
    np.add.at(shared, (numbers[both], lesions[both]), 1)
    predicted = np.bincount(numbers[find_components(prediction).labels > 0], minlength=total)
    large_enough = np.bincount(numbers.ravel(), minlength=total) >= MIN_VOXELS
    large_enough[0] = False
    labels = np.where(large_enough, large_enough.cumsum(), 0).astype(np.int32)[numbers]
    components = describe_components(
        Components(labels, ndimage.find_objects(labels)), [axis.start for axis in box], spacing
    )
    return tuple(
        Candidate(
            **{**vars(component), "label": number},
            confidence=found.candidates[number - 1].confidence,
            in_mask=bool(predicted[number]),
            shared_voxels=tuple(shared[number, 1:].tolist()),
        )
        for component, number in zip(components, np.flatnonzero(large_enough).tolist(), strict=True)
    )


def confidence_of(log_odds: NDArray[np.float32]) -> float:
    """Return how sure a network is of a candidate: the mean tumour probability of its voxels, from their log-odds."""
    return float(expit(log_odds.astype(np.float64)).mean())


def _entropy(log_odds: NDArray[np.float32]) -> float | None:
    """Return the mean entropy of voxels in bits, None without any."""
    if not log_odds.size:
        return None
    values = log_odds.astype(np.float64).clip(-MAX_LOG_ODDS, MAX_LOG_ODDS)
    # -p log p - (1 - p) log (1 - p), written so that neither logarithm meets a zero.
    nats = np.logaddexp(0, -values) + values * expit(-values)
    return float(nats.mean() / np.log(2))


def log_odds_of(probabilities: NDArray[np.floating], tumor: TumorHeads) -> NDArray[np.float32]:
    """Return the log-odds (*axes) of tumour from nnU-Net's probabilities (head, *axes), clipped to `MAX_LOG_ODDS`."""
    chosen = probabilities[list(tumor.heads)]
    if tumor.exclusive:
        others = [head for head in range(len(probabilities)) if head not in tumor.heads]
        inside, outside = chosen.sum(0), probabilities[others].sum(0)
    else:
        inside = chosen.max(0)
        outside = 1 - inside
    smallest = np.exp(-MAX_LOG_ODDS)
    odds = np.log(np.maximum(inside, smallest)) - np.log(np.maximum(outside, smallest))
    return odds.clip(-MAX_LOG_ODDS, MAX_LOG_ODDS).astype(np.float32)


def read_log_odds(file: Path, mask: sitk.Image, tumor: TumorHeads, labels: Sequence[int]) -> sitk.Image | None:
    """Return the log-odds of tumour from the probabilities that nnU-Net saved beside a mask, on the grid of these.

    Its axes are as nnU-Net's reader read the scan: as the mask's, or turned to RAS.

    Args:
        file: The `.npz` file; it holds `probabilities` (head, *axes).
        mask: The mask.
        tumor: Which of the heads are tumour.
        labels: Which of the mask's labels are.

    Returns:
        None if there is no file, or it does not belong to the mask.

    Raises:
        RectalError: The file is damaged, or holds something else.
    """
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as content:
            log_odds = log_odds_of(content["probabilities"], tumor)
    except Exception as error:  # arbitrary bytes make the library raise almost anything
        reason = " ".join(str(error).split())
        raise RectalError(
            f"{file} holds no probabilities of the model ({reason}). Predict the case again, or remove it."
        ) from None
    for turned in (mask, sitk.DICOMOrient(mask, "RAS")):
        is_tumor = np.isin(sitk.GetArrayViewFromImage(turned), labels)
        if is_tumor.shape == log_odds.shape and np.mean(is_tumor != (log_odds > 0)) < MOST_DIFFERENT:
            found = sitk.GetImageFromArray(log_odds)
            found.CopyInformation(turned)
            return found
    return None


def candidates_of_probabilities(
    file: Path, mask: sitk.Image, tumor: TumorHeads, labels: Sequence[int]
) -> tuple[sitk.Image, CaseCandidates] | None:
    """Return candidates, with the image of their numbers, from probabilities beside a mask, as `read_log_odds` does."""
    log_odds = read_log_odds(file, mask, tumor, labels)
    if log_odds is None:
        return None
    is_tumor = np.isin(sitk.GetArrayFromImage(in_order_of(mask, log_odds)), labels)
    numbers, found = find_candidates(sitk.GetArrayViewFromImage(log_odds), is_tumor)
    image = sitk.GetImageFromArray(numbers)
    image.CopyInformation(log_odds)
    return image, found


def candidate_files(mask: Path) -> tuple[Path, Path]:
    """Return the image and the JSON file of the candidates of a case, beside its mask."""
    return mask.parent / FOLDER / mask.name, mask.parent / FOLDER / f"{mask.name}.json"


def network_mask(mask: Path) -> Path:
    """Return where the mask that the network gave is kept once an operating point has changed it."""
    return mask.parent / FOLDER / NETWORK_FOLDER / mask.name


def as_predicted(mask: Path) -> Path:
    """Return the file of a mask as the network gave it: the mask itself unless an operating point changed it."""
    kept = network_mask(mask)
    return kept if kept.is_file() else mask


def write_candidates(mask: Path, found: CaseCandidates, write_image: Callable[[str], None]) -> None:
    """Write the candidates of a case; `write_image` writes their numbers to a path, on the grid of the mask.

    Raises:
        RectalError: They could not be written whole, as on a full disk; none are left then.
    """
    image, record = candidate_files(mask)
    record.unlink(missing_ok=True)
    network_mask(mask).unlink(missing_ok=True)
    with staged_file(image) as path, written_whole(path):
        write_image(str(path))
        read_image(path)
    write_json(record, asdict(found))


def read_candidates(mask: Path) -> tuple[sitk.Image, CaseCandidates] | None:
    """Return the image of a case's candidates and what is known of them; None where nothing was written.

    Raises:
        RectalError: A file is damaged, or they do not belong together.
    """
    image, record = candidate_files(mask)
    if not record.is_file():
        return None
    found = read_own(CaseCandidates, record, REMEDY)
    numbers = read_image(image)
    if int(sitk.GetArrayViewFromImage(numbers).max(initial=0)) > len(found.candidates):
        raise RectalError(f"{image} numbers more candidates than {record} describes. {REMEDY}")
    return numbers, found
