from dataclasses import asdict, replace

import numpy as np
import pytest
from confidence_cases import SHAPE, random_cases, scored_case

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.operating_point import (
    NestedPoint,
    OperatingPoint,
    choose,
    nested_point,
)
from rectal_nnformer.evaluation.rates import rate_of
from rectal_nnformer.evaluation.wish import Wish, parse_wish
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

pytestmark = pytest.mark.filterwarnings("error")

WISHES = [Wish("fp-per-case", 0.5), Wish("sensitivity", 0.3), Wish("f1")]


@pytest.fixture(scope="module")
def folds():
    cases, _ = random_cases(60, seed=4, patients=50)
    return {fold: cases[fold::3] for fold in range(3)}


@pytest.mark.parametrize("text", ["fp-per-case=0.5", "fp-per-case=0", "fp-per-case=2", "sensitivity=0.95", "f1"])
def test_wishes_are_read_as_they_are_written(text):
    assert str(parse_wish(f" {text} ")) == text


@pytest.mark.parametrize(
    "text",
    ["", "f1=1", "fp-per-case", "fp-per-case=-1", "fp-per-case=nan", "sensitivity=0", "sensitivity=95", "dice=1"],
)
def test_other_wishes_are_refused_and_those_that_are_possible_named(text):
    with pytest.raises(RectalError, match=r"fp-per-case=0\.5 .* sensitivity=0\.95 .* f1"):
        parse_wish(text)


def at_point(cases, point):
    """Return lesions detected and false positives at a point, where each lesion and candidate touches one other."""
    found = false = 0
    for case in cases:
        for candidate in case.candidates:
            if candidate.confidence < point[0] or candidate.volume_cm3 < point[1]:
                continue
            pairs = zip(candidate.shared_voxels, case.lesions, strict=True)
            hit = any(shared / (lesion.voxels + candidate.voxels - shared) > 0.1 for shared, lesion in pairs)
            found, false = found + hit, false + (not hit)
    return found, false


@pytest.mark.parametrize("wish", [*WISHES, Wish("sensitivity", 0.99), Wish("fp-per-case", 0.0)], ids=str)
def test_the_choice_is_the_best_of_all_points(wish):
    cases, _ = random_cases(25, seed=5, touching_one=True)
    lesions = sum(case.n_reference for case in cases)
    pairs = [(candidate, case) for case in cases for candidate in case.candidates]
    wrong = [c.volume_cm3 for c, case in pairs if at_point([replace(case, candidates=(c,))], (0, 0)) == (0, 1)]
    volumes = [0.0, *np.quantile(wrong, [0.25, 0.5, 0.75, 0.9])]
    points = [(c.confidence, volume) for c, _ in pairs for volume in volumes if c.volume_cm3 >= volume]
    counts = {point: at_point(cases, point) for point in points}

    def worth(point):
        found, false = counts[point]
        if wish.kind == "f1":
            return (2 * found / (found + false + lesions), *point)
        if wish.kind == "sensitivity":
            return (
                (True, -false, found, point[0]) if found >= wish.value * lesions else (False, found, -false, point[0])
            )
        if false > wish.value * 25:
            return (False, -false, found, point[0])
        return (True, found, -point[1], -point[0])

    choice = choose(cases, wish)
    chosen = (choice.point.min_confidence, choice.point.min_volume_cm3)
    best = max(points, key=lambda point: (*worth(point)[:4], -point[1]))
    assert counts[chosen] == (choice.n_detected, choice.n_false_positive) == counts[best]
    assert worth(chosen)[:3] == worth(best)[:3]
    assert chosen[0] == best[0]


def test_a_wish_that_cannot_be_met_says_so(folds):
    choice = choose(folds[0], Wish("sensitivity", 1.0))
    assert not choice.met
    assert choice.note == "no threshold finds so many lesions; the one with the highest sensitivity was taken"
    best = max(choose(folds[0], Wish("fp-per-case", 100.0)).n_detected, choice.n_detected)
    assert choice.n_detected == best


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_nested_rates_are_of_each_fold_at_the_point_of_the_others(folds, wish):
    result = nested_point(folds, wish)
    everything = [case for fold in folds.values() for case in fold]
    assert result.chosen == choose(everything, wish)
    for fold, choice in result.folds.items():
        assert choice == choose([case for other in folds if other != fold for case in folds[other]], wish)
    kept = {fold: [choose_at(case, result.folds[fold].point) for case in cases] for fold, cases in folds.items()}
    alone = nested_point({0: [case for cases in kept.values() for case in cases]}, wish).mask
    assert result.nested == alone


def choose_at(case, point):
    """Return a case whose mask holds the candidates that a point keeps."""
    candidates = [
        replace(c, in_mask=c.confidence >= point.min_confidence and c.volume_cm3 >= point.min_volume_cm3)
        for c in case.candidates
    ]
    return replace(case, candidates=tuple(candidates))


def test_rates_of_the_mask_are_those_of_the_evaluation(folds):
    mask = nested_point(folds, Wish("f1")).mask
    cases = [case for fold in folds.values() for case in fold]
    found, false, lesions = (
        sum(getattr(c, n) for c in cases) for n in ("n_detected", "n_false_positive", "n_reference")
    )
    assert (mask.sensitivity.count, mask.sensitivity.total) == (found, lesions)
    assert (mask.precision.count, mask.precision.total) == (found, found + false)
    assert mask.f1.value == pytest.approx(2 * found / (found + false + lesions))
    assert mask.false_positives_per_case.value == false / len(cases)
    patients = sorted({case.patient for case in cases})
    sums = [
        [sum(getattr(case, name) for case in cases if case.patient == patient) for patient in patients]
        for name in ("n_detected", "n_reference")
    ]
    assert mask.sensitivity == rate_of(*sums)


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_lesions_of_a_held_out_fold_have_no_say_in_its_own_point(folds, wish):
    """Labels are permuted over the cases of a fold, and others are left without any."""
    before = nested_point(folds, wish)
    shuffled = [
        replace(
            case,
            lesions=other.lesions,
            n_reference=other.n_reference,
            candidates=tuple(
                replace(
                    candidate,
                    shared_voxels=tuple(min(candidate.voxels, lesion.voxels) // 2 for lesion in other.lesions),
                )
                for candidate in case.candidates
            ),
        )
        for case, other in zip(folds[1], folds[1][1:] + folds[1][:1], strict=True)
    ]
    after = nested_point({**folds, 1: shuffled}, wish)
    assert after.folds[1] == before.folds[1]
    assert after.nested != before.nested
    assert after.folds[0] != before.folds[0]


def test_one_fold_has_a_point_and_no_nested_rates(folds):
    result = nested_point({2: folds[2]}, Wish("f1"))
    assert result.reason.startswith("there is one fold only")
    assert result.chosen == choose(folds[2], Wish("f1"))
    assert (result.folds, result.nested) == (None, None)
    assert result.mask is not None


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_every_cohort_with_a_candidate_has_a_point(wish):
    empty, confidence = np.zeros(SHAPE), np.zeros(SHAPE)
    reference = np.zeros(SHAPE, dtype=bool)
    reference[:, 0:4, 0:4], confidence[:, 12:16, 12:16] = True, 0.5
    nothing = scored_case("nothing", reference & False, empty)
    missed = scored_case("missed", reference, empty)
    invented = scored_case("invented", reference & False, confidence)
    elsewhere = scored_case("elsewhere", reference, confidence)
    for cases in ([invented], [elsewhere], [nothing, missed, invented, elsewhere]):
        choice = choose(cases, wish)
        assert choice.n_detected == 0
        assert choice.point == OperatingPoint(0.5, 0.0)
        assert not nested_point({0: cases, 1: cases}, wish).reason
    assert nested_point({0: [invented], 1: [invented]}, wish).nested.sensitivity.rate is None
    for cases in ([nothing], [missed, missed]):
        with pytest.raises(RectalError, match=f"no operating point for {wish}: no case has a candidate"):
            choose(cases, wish)
        result = nested_point({0: cases, 1: cases}, wish)
        assert result.reason.startswith("no case has a candidate")
        assert (result.chosen, result.folds, result.nested) == (None, None, None)
        assert result.mask.sensitivity.count == 0
    lone = nested_point({0: [missed], 1: [elsewhere]}, wish)
    assert lone.reason.startswith("candidates are in fold 1 only")
    assert (lone.chosen, lone.nested) == (choose([missed, elsewhere], wish), None)
    old = replace(missed, candidates=None)
    assert nested_point({0: [old]}, wish).reason == "1 case without known confidence of lesions: missed"
    assert nested_point({}, wish).reason == "there is no case"
    with pytest.raises(RectalError, match="case missed was scored without"):
        choose([old], wish)


def test_the_result_is_read_as_it_was_written(folds, tmp_path):
    result = nested_point(folds, Wish("sensitivity", 0.9))
    write_json(tmp_path / "point.json", asdict(result))
    assert read_own(NestedPoint, tmp_path / "point.json", "") == result
