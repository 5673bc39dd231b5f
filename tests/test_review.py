from dataclasses import asdict, replace

import numpy as np
import pytest
from confidence_cases import random_cases
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from rectal_nnformer.evaluation.candidates import Candidate
from rectal_nnformer.evaluation.resampling import auroc, draw_patients
from rectal_nnformer.evaluation.review import (
    MEASURES,
    MeasureReview,
    mean_confidence,
    review_measure,
    review_measures,
    review_order,
    spearman,
    surest,
)
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def cases():
    return random_cases(80, seed=6)[0]


def candidates(*pairs):
    return tuple(
        Candidate(index, 20, 0.1, (0, 0, 0), confidence=confidence, in_mask=in_mask, shared_voxels=())
        for index, (confidence, in_mask) in enumerate(pairs, start=1)
    )


def with_confidence(case, value):
    return replace(case, candidates=candidates((value, True)))


@pytest.mark.parametrize(
    ("pairs", "highest", "mean"),
    [
        ([(0.9, True), (0.5, True), (0.95, False)], 0.9, 0.7),
        ([(0.3, False), (0.4, False)], 0.4, 0.4),
        ([], 0.0, 0.0),
    ],
)
def test_confidence_of_a_case_is_that_of_its_mask_else_of_its_best_candidate(pairs, highest, mean):
    assert surest(candidates(*pairs)) == highest
    assert mean_confidence(candidates(*pairs)) == pytest.approx(mean)


def test_measures_are_scipys_and_sklearns(cases):
    result = review_measure("confidence", cases)
    sure = np.array([surest(case.candidates) for case in cases])
    scored = np.array([case.dice is not None for case in cases])
    dice = np.array([case.dice for case in cases if case.dice is not None])
    assert result.spearman_dice.value == pytest.approx(spearmanr(sure[scored], dice).statistic, abs=1e-12)
    assert result.auroc_low_dice.value == pytest.approx(roc_auc_score(dice <= 0.2, -sure[scored]), abs=1e-12)
    tumor = [case for case in cases if case.n_reference]
    missed = roc_auc_score([case.n_missed > 0 for case in tumor], [-surest(case.candidates) for case in tumor])
    assert result.auroc_missed.value == pytest.approx(missed, abs=1e-12)
    assert (result.n_cases, result.n_low_dice) == (80, (dice <= 0.2).sum())


def test_failures_are_looked_for_among_the_least_sure(cases):
    """Ties are looked at in any order: the mean over many orders."""
    rounded = [with_confidence(case, round(surest(case.candidates), 1)) for case in cases]
    failed = np.array([case.dice is not None and case.dice <= 0.2 for case in rounded])
    sure = np.array([surest(case.candidates) for case in rounded])
    generator = np.random.default_rng(0)
    orders = [np.lexsort((generator.random(80), sure)) for _ in range(4000)]
    for flagged, expected in zip(review_measure("confidence", rounded).flagged, (8, 16), strict=True):
        found = np.mean([failed[order[:expected]].sum() for order in orders]) / failed.sum()
        assert flagged.n_flagged == expected
        assert flagged.failures_found.value == pytest.approx(found, abs=0.003)


def test_a_tenth_of_seventy_is_seven(cases):
    assert review_measure("confidence", cases[:70]).flagged[0].n_flagged == 7


def test_rank_correlation_of_weighted_cases_is_that_of_repeated_ones():
    generator = np.random.default_rng(1)
    first, second = generator.integers(0, 9, 30) / 8, generator.integers(0, 9, 30) / 8
    weights = draw_patients([str(index) for index in range(30)])[:5]
    expected = [spearmanr(np.repeat(first, row), np.repeat(second, row)).statistic for row in weights]
    assert spearman(first, second, weights) == pytest.approx(expected, abs=1e-12)


def test_random_confidences_of_cases_tell_nothing(cases):
    generator = np.random.default_rng(0)
    result = review_measure("confidence", [with_confidence(case, generator.random()) for case in cases])
    for estimate in (result.auroc_low_dice, result.auroc_missed):
        low, high = estimate.patient_bootstrap_95
        assert low < 0.5 < high
    low, high = result.spearman_dice.patient_bootstrap_95
    assert low < 0 < high


def test_what_chance_gives_depends_on_how_many_lesions_a_case_has():
    """Drawn by candidate, the surest of many lesions is surer than a lone one: failed cases with many look sure."""
    generator = np.random.default_rng(0)
    missed = np.arange(60) < 20
    one = np.ones((1, 60), dtype=int)

    def mean_auroc(measure, by_case=False):
        found = []
        for _ in range(300):
            drawn = [candidates(*((generator.random(), True) for _ in range(4 if many else 1))) for many in missed]
            if by_case:
                drawn = [tuple(replace(c, confidence=of[0].confidence) for c in of) for of in drawn]
            found.append(auroc(-np.array([measure(of) for of in drawn]), missed, one)[0])
        return np.mean(found)

    assert mean_auroc(surest) == pytest.approx(1 / 5, abs=0.02)  # that a lone one is the surest of five
    assert mean_auroc(mean_confidence) == pytest.approx(0.5, abs=0.02)
    assert mean_auroc(surest, by_case=True) == pytest.approx(0.5, abs=0.02)


def test_confidences_that_know_tell_all(cases):
    known = [with_confidence(case, 0.5 if case.dice is None else case.dice / 2 + 0.5) for case in cases]
    result = review_measure("confidence", [case for case in known if case.dice is not None])
    assert (result.spearman_dice.value, result.auroc_low_dice.value) == pytest.approx((1, 1))
    entropies = [replace(case, entropy=1 - surest(case.candidates)) for case in known]
    assert review_measure("entropy", entropies).spearman_dice == review_measure("confidence", known).spearman_dice


def test_the_least_sure_case_comes_first_and_the_unknown_last(cases):
    named = [
        replace(with_confidence(cases[0], value), case=name, entropy=entropy)
        for name, value, entropy in (("a", 0.9, 0.1), ("b", 0.2, 0.1), ("c", 0.9, 0.8))
    ]
    unknown = replace(cases[0], case="0", candidates=None)
    assert [case.case for case in review_order([unknown, *named])] == ["b", "a", "c", "0"]
    assert [case.case for case in review_order([unknown, *named], "entropy")] == ["c", "a", "b", "0"]


def test_every_cohort_is_defined(cases):
    perfect = [replace(case, dice=1.0, n_missed=0) for case in cases]
    failed = [replace(case, dice=0.0, n_missed=1, n_reference=1) for case in cases]
    empty = [replace(case, dice=None, n_missed=0, n_reference=0) for case in cases]
    for cohort in ([], perfect[:1], failed[:1], empty[:1], perfect, failed, empty):
        for result in review_measures(cohort):
            assert result.auroc_low_dice.value is None
            assert result.spearman_dice.value is None
    shares = {at.failures_found.value for at in review_measure("confidence", failed[:10]).flagged}
    assert shares == {0.1, 0.2}
    nothing = {result.measure: result.reason for result in review_measures(cases)}
    assert list(nothing) == list(MEASURES)
    assert nothing["entropy"] == "no case has a known entropy"
    assert not nothing["confidence"]


def test_the_result_is_read_as_it_was_written(cases, tmp_path):
    results = tuple(review_measures(cases))
    write_json(tmp_path / "review.json", [asdict(result) for result in results])
    assert read_own(tuple[MeasureReview, ...], tmp_path / "review.json", "") == results
