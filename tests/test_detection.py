import json
import time
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rectal_nnformer.evaluation import detect_lesions
from rectal_nnformer.evaluation.detection import SIZE_BINS, size_bin
from rectal_nnformer.evaluation.matching import match_strictly
from rectal_nnformer.evaluation.surface import surface_agreement

SPACING = (3.0, 0.5, 0.5)
GOLDEN = json.loads((Path(__file__).parent / "data" / "lesion_detection.json").read_text())["cases"]


def boxes_mask(shape, boxes):
    mask = np.zeros(shape, dtype=bool)
    for z0, z1, y0, y1, x0, x1 in boxes:
        mask[z0:z1, y0:y1, x0:x1] = True
    return mask


# --- the published grouping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden_counts(case):
    prediction, reference = (boxes_mask(case["shape"], case[f"{name}_boxes"]) for name in ("prediction", "reference"))
    result = detect_lesions(prediction, reference, SPACING)
    assert {name: getattr(result, name) for name in case["expected"]} == case["expected"]


def test_a_lesion_whose_best_prediction_is_taken_by_another_group_is_missed():
    # The long prediction is the right lesion's only one, but shares more with the left lesion: it is merged there.
    reference = boxes_mask((4, 10, 60), [(0, 4, 0, 10, 0, 20), (0, 4, 0, 10, 30, 40)])
    prediction = boxes_mask((4, 10, 60), [(0, 4, 0, 5, 0, 20), (0, 4, 6, 10, 5, 32)])
    result = detect_lesions(prediction, reference, SPACING)
    left, right = result.lesions
    assert (left.detected, right.detected, right.iou) == (True, False, 0.0)
    assert result.n_false_positive == 0


def test_ties_go_to_the_lower_label():
    # One prediction covers the end of each lesion equally; the first lesion has a prediction of its own as well, which
    # shares just as much with it. Joining the lower label, both lesions meet in the bridging prediction.
    reference = boxes_mask((3, 12, 30), [(0, 3, 0, 12, 0, 12), (0, 3, 0, 12, 18, 30)])
    prediction = boxes_mask((3, 12, 30), [(0, 3, 0, 3, 8, 22), (0, 3, 6, 9, 0, 4)])
    result = detect_lesions(prediction, reference, SPACING)
    assert [lesion.group for lesion in result.lesions] == [1, 1]


# --- against a matcher that knows nothing of labels, tables or boxes --------------------------------------------------


def flood_fill(mask, min_voxels):
    """Return the 26-connected components as sets of voxels, in scanning order."""
    left = [tuple(index) for index in np.argwhere(mask).tolist()]
    waiting, components = set(left), []
    for start in left:
        if start not in waiting:
            continue
        waiting.remove(start)
        component, edge = {start}, [start]
        while edge:
            voxel = edge.pop()
            for step in product((-1, 0, 1), repeat=3):
                neighbour = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if neighbour in waiting:
                    waiting.remove(neighbour)
                    component.add(neighbour)
                    edge.append(neighbour)
        if len(component) >= min_voxels:
            components.append(component)
    return components


def first_best(scores):
    """Return the key of the first highest positive score, or None."""
    best = max(scores.values(), default=0)
    return next((key for key, score in scores.items() if score == best and score > 0), None)


def match_by_hand(prediction, reference, min_voxels, min_iou):
    """Return per lesion whether it is detected and strictly detected, and the false positives of both matchings."""
    lesions, predictions = flood_fill(reference, min_voxels), flood_fill(prediction, min_voxels)
    groups = {}
    for lesion in lesions:
        best = first_best({number: len(lesion & found) for number, found in enumerate(predictions)})
        if best is not None:
            groups.setdefault(best, []).append(lesion)
    merged = {key: [] for key in groups}
    for found in predictions:
        best = first_best({key: sum(len(found & lesion) for lesion in members) for key, members in groups.items()})
        if best is not None:
            merged[best].append(found)

    detected, explained = [], []
    for key, members in groups.items():
        a, b = set().union(*members), set().union(*merged[key])
        if Fraction(len(a & b), len(a | b)) > min_iou:
            detected += members
            explained += merged[key]
    strict = [
        (lesion, found)
        for lesion, found in product(lesions, predictions)
        if lesion & found
        and [other for other in predictions if other & lesion] == [found]
        and [other for other in lesions if other & found] == [lesion]
        and Fraction(len(lesion & found), len(lesion | found)) > min_iou
    ]
    return {
        "detected": [lesion in detected for lesion in lesions],
        "strict": [any(lesion == pair[0] for pair in strict) for lesion in lesions],
        "false_positives": [len(found) for found in predictions if found not in explained],
        "strict_false_positives": len(predictions) - len(strict),
    }


SHAPE = (5, 9, 10)
BOX = st.tuples(
    *(st.tuples(st.integers(0, length - 1), st.integers(1, 4)).map(lambda p: (p[0], p[0] + p[1])) for length in SHAPE)
).map(lambda axes: tuple(bound for axis in axes for bound in axis))
BLOBS = st.tuples(st.lists(BOX, max_size=6), st.lists(BOX, max_size=3)).map(
    lambda sets: boxes_mask(SHAPE, sets[0]) & ~boxes_mask(SHAPE, sets[1])
)


@settings(max_examples=80)
@given(BLOBS, BLOBS, st.integers(1, 6), st.sampled_from([1, 2, 5]))
def test_random_blobs_are_matched_as_by_hand(prediction, reference, min_voxels, tenths):
    result = detect_lesions(prediction, reference, SPACING, min_voxels, tenths / 10)
    expected = match_by_hand(prediction, reference, min_voxels, Fraction(tenths, 10))
    assert [lesion.detected for lesion in result.lesions] == expected["detected"]
    assert [lesion.detected_strict for lesion in result.lesions] == expected["strict"]
    assert [found.voxels for found in result.false_positives] == expected["false_positives"]
    assert result.strict.n_detected == sum(expected["strict"])
    assert result.strict.n_missed == result.n_reference - result.strict.n_detected
    assert result.strict.n_false_positive == expected["strict_false_positives"]


@settings(max_examples=25)
@given(BLOBS, BLOBS)
def test_what_counts_strictly_counts_in_the_grouping(prediction, reference):
    result = detect_lesions(prediction, reference, SPACING, min_voxels=1)
    assert all(lesion.detected for lesion in result.lesions if lesion.detected_strict)
    assert result.n_false_positive <= result.strict.n_false_positive


@settings(max_examples=15)
@given(BLOBS, BLOBS, st.tuples(*(st.integers(0, 5) for _ in range(3))))
def test_empty_surroundings_move_centroids_and_nothing_else(prediction, reference, before):
    padding = [(n, 2) for n in before]
    plain = detect_lesions(prediction, reference, SPACING, 1)
    padded = detect_lesions(np.pad(prediction, padding), np.pad(reference, padding), SPACING, 1)
    for here, there in zip(plain.lesions + plain.false_positives, padded.lesions + padded.false_positives, strict=True):
        assert np.allclose(np.add(here.centroid, before), there.centroid)
        assert {**vars(here), "centroid": None} == {**vars(there), "centroid": None}


# --- records ---------------------------------------------------------------------------------------------------------


def test_records_of_a_detected_lesion_and_a_false_positive():
    reference = boxes_mask((20, 40, 40), [(5, 15, 10, 30, 10, 30)])
    prediction = boxes_mask((20, 40, 40), [(5, 15, 10, 30, 10, 20), (0, 2, 35, 39, 35, 39)])
    result = detect_lesions(prediction.astype(np.uint8) * 3, reference, SPACING)
    (lesion,), (false_positive,) = result.lesions, result.false_positives
    assert (lesion.label, lesion.voxels, lesion.centroid, lesion.group) == (1, 4000, (9.5, 19.5, 19.5), 1)
    assert lesion.volume_cm3 == pytest.approx(4000 * 0.75 / 1000)
    assert (lesion.size_bin, lesion.detected, lesion.detected_strict) == ("0-5", True, True)
    assert (lesion.iou, lesion.dice, lesion.volume_ratio) == (0.5, pytest.approx(2 / 3), 0.5)
    # The far face is 10 voxels of 0.5 mm away.
    assert lesion.hd95_mm == pytest.approx(5.0)
    assert (false_positive.voxels, false_positive.centroid) == (32, (0.5, 36.5, 36.5))
    assert result.n_predicted == 2


def test_a_missed_lesion_has_its_iou_and_no_outline_measures():
    reference = boxes_mask((20, 40, 40), [(5, 15, 10, 30, 10, 30)])
    prediction = boxes_mask((20, 40, 40), [(5, 7, 10, 20, 10, 20)])
    (lesion,) = detect_lesions(prediction, reference, SPACING).lesions
    assert (lesion.detected, lesion.iou, lesion.group) == (False, 0.05, 1)
    assert (lesion.dice, lesion.hd95_mm, lesion.surface_dice_2mm, lesion.volume_ratio) == (None,) * 4


def test_lesions_of_one_group_share_its_measures():
    reference = boxes_mask((10, 12, 30), [(5, 10, 5, 12, 5, 12), (5, 10, 5, 12, 20, 27)])
    prediction = boxes_mask((10, 12, 30), [(5, 10, 5, 12, 5, 27)])
    one, other = detect_lesions(prediction, reference, SPACING).lesions
    assert (one.group, one.dice, one.volume_ratio) == (other.group, other.dice, other.volume_ratio)
    assert one.volume_ratio == pytest.approx(22 / 14)


@pytest.mark.parametrize(
    ("volume", "name"),
    [(0.1, "0-5"), (4.999, "0-5"), (5, "5-10"), (10, "10-20"), (20, "20-40"), (40, "40+"), (99, "40+")],
)
def test_size_bins_include_their_lower_bound(volume, name):
    assert size_bin(volume) == name
    assert list(SIZE_BINS) == ["0-5", "5-10", "10-20", "20-40", "40+"]


@settings(max_examples=15)
@given(BLOBS)
def test_a_perfect_prediction_is_perfect(mask):
    result = detect_lesions(mask, mask, SPACING, min_voxels=1)
    assert result.n_missed == result.n_false_positive == result.strict.n_missed == 0
    for lesion in result.lesions:
        assert (lesion.iou, lesion.dice, lesion.hd95_mm, lesion.volume_ratio) == (1, 1, 0, 1)
        assert lesion.surface_dice_2mm == pytest.approx(1)


def directed_percentile(one, other, percent):
    """Of the distances from the border voxels of one mask to those of another, in mm."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    distances = ndimage.distance_transform_edt(~borders[1], sampling=SPACING)
    return np.percentile(distances[borders[0]], percent)


def test_hd95_is_the_larger_95th_percentile_of_the_two_directions():
    rng = np.random.default_rng(5)
    one, other = (ndimage.gaussian_filter(rng.normal(size=(14, 30, 30)), 3) > 0.05 for _ in range(2))
    expected = max(directed_percentile(one, other, 95), directed_percentile(other, one, 95))
    assert surface_agreement(one, other, SPACING)[0] == pytest.approx(expected, rel=1e-3)
    assert expected > max(directed_percentile(one, other, 90), directed_percentile(other, one, 90))


def test_surface_dice_weighs_by_area_and_hd95_is_in_mm():
    # A box of 30 x 10 x 10 mm against itself one slice of 3 mm up. Of the 1400 mm2 of each surface, 1160 on the sides
    # are within 2 mm of the other one, and of the horizontal face that lies inside the other box a rim of 64 mm2.
    # Counting border voxels instead would give 0.67.
    box = boxes_mask((16, 30, 30), [(3, 13, 5, 25, 5, 25)])
    hd95, surface_dice = surface_agreement(np.roll(box, 1, axis=0), box, SPACING)
    assert hd95 == pytest.approx(3.0)
    assert surface_dice == pytest.approx((1160 + 64) / 1400, abs=0.01)


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing"),
    [
        (np.zeros((4, 4, 4), bool), np.zeros((4, 4, 5), bool), SPACING),
        (np.zeros((4, 4), bool), np.zeros((4, 4), bool), SPACING),
        (np.zeros((4, 4, 4)), np.zeros((4, 4, 4), bool), SPACING),
        (np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool), (1.0, 1.0)),
        (np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool), (1.0, 0.0, 1.0)),
    ],
)
def test_input_that_cannot_be_right_is_refused(prediction, reference, spacing):
    with pytest.raises(ValueError):
        detect_lesions(prediction, reference, spacing)


def test_strict_matching_needs_more_than_the_threshold():
    """A lesion of 2 voxels of which a prediction of 1 covers one: their intersection over union is a half."""
    table = np.array([[0, 0], [1, 1]])
    assert match_strictly(table, min_iou=0.5) == {}
    assert match_strictly(table, min_iou=0.49) == {1: 1}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_full_size_case_takes_less_than_half_a_second_of_one_core():
    z, y, x = np.ogrid[:57, :384, :384]

    def ball(center, radius):
        distances = [((axis - c) * s) ** 2 for axis, c, s in zip((z, y, x), center, SPACING, strict=True)]
        return sum(distances) < radius**2

    reference = ball((10, 90, 100), 20) | ball((28, 200, 190), 15) | ball((45, 280, 300), 18)
    prediction = ball((10, 92, 98), 20) | ball((29, 203, 194), 15) | ball((44, 282, 301), 18)
    times = []
    for _ in range(4):
        start = time.process_time()
        result = detect_lesions(prediction, reference, SPACING)
        times.append(time.process_time() - start)
    assert result.n_detected == 3
    assert min(times) < 0.5
