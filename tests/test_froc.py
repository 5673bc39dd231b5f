from dataclasses import asdict, replace

import numpy as np
import pytest
from confidence_cases import SHAPE, SPACING, random_cases, scored_case
from sklearn.metrics import average_precision_score, roc_auc_score

from rectal_nnformer.evaluation import detect_lesions
from rectal_nnformer.evaluation.froc import FALSE_POSITIVE_RATES, Curves, detection_curves
from rectal_nnformer.evaluation.resampling import auroc, draw_patients
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def two_hundred():
    return random_cases(200, patients=150)


def counts_of_masks(maps, thresholds):
    """Return lesions detected, false positives, both strictly, and the volume of false positives, of whole masks."""
    table = np.zeros((len(thresholds), 5))
    for reference, confidence in maps:
        known = {}  # between two of its confidences a case stays as it is
        for row, threshold in zip(table, thresholds, strict=True):
            mask = confidence >= threshold
            if (key := mask.tobytes()) not in known:
                found = detect_lesions(mask, reference, SPACING)
                volume = sum(component.volume_cm3 for component in found.false_positives)
                strict = found.strict
                known[key] = (
                    *(found.n_detected, found.n_false_positive),
                    *(strict.n_detected, strict.n_false_positive, volume),
                )
            row += known[key]
    return table


def measures_by_hand(detected, false, n_lesions, n_cases):
    """Return average precision and sensitivities, walking down the thresholds."""
    average_precision, best = 0.0, 0.0
    within = dict.fromkeys(FALSE_POSITIVE_RATES, 0.0)
    for found, wrong in zip(detected, false, strict=True):
        sensitivity = found / n_lesions
        if sensitivity > best:
            average_precision += (sensitivity - best) * found / (found + wrong)
            best = sensitivity
        for rate in within:
            if wrong / n_cases <= rate:
                within[rate] = max(within[rate], sensitivity)
    return average_precision, list(within.values())


def test_curves_of_200_random_cases_are_those_of_the_masks_above_each_threshold(two_hundred):
    cases, maps = two_hundred
    curves = detection_curves(cases)
    thresholds = sorted({value for _, confidence in maps for value in confidence[confidence > 0]}, reverse=True)
    assert [point.confidence for point in curves.points] == thresholds
    table = counts_of_masks(maps, thresholds)
    n_lesions = curves.n_reference
    for point, row in zip(curves.points, table, strict=True):
        detected, false, detected_strict, false_strict, volume = row
        expected = (
            detected / n_lesions,
            false / 200,
            detected / (detected + false),
            detected_strict / n_lesions,
            false_strict / 200,
            detected_strict / (detected_strict + false_strict),
            volume / 200,
        )
        assert tuple(asdict(point).values())[1:] == pytest.approx(expected, abs=1e-12)

    for froc, counts in ((curves.merged, table[:, :2]), (curves.strict, table[:, 2:4])):
        precision, sensitivities = measures_by_hand(*counts.T, n_lesions, 200)
        assert froc.average_precision.value == pytest.approx(precision, abs=1e-12)
        assert [at.sensitivity.value for at in froc.sensitivities] == pytest.approx(sensitivities, abs=1e-12)
        assert [at.false_positives_per_case for at in froc.sensitivities] == list(FALSE_POSITIVE_RATES)


def test_the_point_of_the_mask_is_the_evaluation(two_hundred):
    cases, _ = two_hundred
    mask = detection_curves(cases).mask
    n_lesions = sum(case.n_reference for case in cases)
    assert mask.sensitivity == sum(case.n_detected for case in cases) / n_lesions
    assert mask.false_positives_per_case == sum(case.n_false_positive for case in cases) / 200
    assert mask.sensitivity_strict == sum(case.strict.n_detected for case in cases) / n_lesions
    volume = sum(component.volume_cm3 for case in cases for component in case.false_positives)
    assert mask.false_positive_cm3_per_case == pytest.approx(volume / 200)


def test_curves_are_those_of_picai_eval_where_nothing_can_be_merged():
    picai_eval = pytest.importorskip("picai_eval")
    cases, maps = random_cases(200, seed=1, touching_one=True)
    curves = detection_curves(cases)
    metrics = picai_eval.evaluate(
        y_det=[confidence for _, confidence in maps],
        y_true=[reference for reference, _ in maps],
        num_parallel_calls=1,
    )
    # Its last threshold is 0, that of the lesions without a candidate.
    detected, false = metrics.lesion_TP[:-1].astype(float), metrics.lesion_FP[:-1].astype(float)
    for froc in (curves.merged, curves.strict):
        assert froc.average_precision.value == pytest.approx(metrics.AP, abs=1e-9)
        for at in froc.sensitivities:
            rate = at.false_positives_per_case
            assert at.sensitivity.value == pytest.approx(metrics.lesion_TPR_at_FPR(rate), abs=1e-6)  # in float32
            allowed = detected[false / 200 <= rate]
            assert at.sensitivity.value == pytest.approx((allowed[-1] if len(allowed) else 0) / metrics.num_lesions)
    points = [(p.sensitivity * curves.n_reference, p.false_positives_per_case * 200) for p in curves.points]
    np.testing.assert_allclose(points, np.stack([detected, false], axis=1), atol=1e-9)
    assert curves.roc.auroc.value == pytest.approx(metrics.auroc, abs=1e-9)


def test_average_precision_is_sklearns_where_each_lesion_has_one_candidate():
    cases, _ = random_cases(60, seed=2, touching_one=True)
    labels, scores = [], []
    for case in cases:
        for candidate in case.candidates:
            shared = candidate.shared_voxels
            found = [s / (lesion.voxels + candidate.voxels - s) for s, lesion in zip(shared, case.lesions, strict=True)]
            labels.append(max(found, default=0) > 0.1)
            scores.append(candidate.confidence)
    share = sum(labels) / sum(case.n_reference for case in cases)  # sklearn knows nothing of the lesions missed
    expected = share * average_precision_score(labels, scores)
    assert detection_curves(cases).merged.average_precision.value == pytest.approx(expected, abs=1e-12)


def bridged():
    """Return a case whose first lesion is found at 0.9 and lost at 0.2, when the candidate there joins it to another.

    At 0.1 a third candidate covers the rest, and both are found.
    """
    reference, confidence = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE)
    reference[:, 0:6, 0:4] = reference[:, 0:24, 5:24] = True
    confidence[:, 0:2, 0:4] = 0.9
    confidence[:, 3:6, 0:6] = 0.2
    confidence[:, 8:24, 8:24] = 0.1
    return scored_case("bridged", reference, confidence)


def test_a_lesion_that_grouping_loses_again_takes_nothing_from_the_average_precision():
    curves = detection_curves([bridged()])
    assert [point.sensitivity for point in curves.points] == [0.5, 0.0, 1.0]
    # Found at 0.9 with precision 1, the other half at 0.1 with precision 1.
    assert curves.merged.average_precision.value == 1.0
    assert [at.sensitivity.value for at in curves.merged.sensitivities[:4]] == [1.0] * 4
    assert [point.false_positives_per_case for point in curves.points] == [0, 2, 0]


def test_bands_hold_the_value_and_repeat_themselves(two_hundred):
    cases, _ = two_hundred
    curves = detection_curves(cases)
    assert curves == detection_curves(cases)
    for at in (*curves.merged.band, *curves.strict.sensitivities):
        low, high = at.sensitivity.patient_bootstrap_95
        assert low <= at.sensitivity.value <= high
    values = [at.sensitivity.value for at in curves.merged.band]
    assert values == sorted(values)


def test_bands_draw_patients_with_all_of_their_cases():
    once, _ = random_cases(30, seed=3)
    twice = [replace(case, case=f"{case.case}_{time}") for case in once for time in (1, 2)]
    assert detection_curves(once).merged == detection_curves(twice).merged


def without_candidates(case):
    return replace(case, candidates=())


@pytest.mark.parametrize("number", [1, 3])
def test_a_curve_without_candidates_finds_nothing(number):
    cases = [without_candidates(bridged()) for _ in range(number)]
    curves = detection_curves(cases)
    assert (curves.points, curves.mask.sensitivity, curves.mask.precision) == ((), 0.0, None)
    assert curves.merged.average_precision.value == 0.0
    assert {at.sensitivity.value for at in curves.merged.band} == {0.0}
    assert curves.roc.reason == "there is no ROC curve per case: all cases have a tumour"


def test_a_cohort_without_tumour_has_false_positives_only():
    confidence = np.zeros(SHAPE)
    confidence[:, 0:3, 0:3] = 0.75
    cases = [scored_case(f"case_{index}", np.zeros(SHAPE, bool), confidence * (index > 0)) for index in range(4)]
    curves = detection_curves(cases)
    [point] = curves.points
    assert (point.sensitivity, point.precision, point.false_positives_per_case) == (None, 0.0, 0.75)
    assert curves.merged.average_precision.value is None
    assert {at.sensitivity.value for at in curves.merged.sensitivities} == {None}
    assert curves.roc.reason == "there is no ROC curve per case: no case has a tumour"
    assert detection_curves(cases[:1]).points == ()


def test_all_missed_is_defined():
    reference, confidence = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE)
    reference[:, 0:4, 0:4], confidence[:, 8:12, 8:12] = True, 0.25
    curves = detection_curves([scored_case("missed", reference, confidence)])
    assert curves.merged.average_precision.value == 0.0
    assert [(p.sensitivity, p.precision, p.false_positives_per_case) for p in curves.points] == [(0, 0, 1)]


def test_no_case_and_cases_of_an_earlier_version_have_a_reason_in_place_of_a_curve():
    assert detection_curves([]).reason == "there is no case"
    cases = [bridged(), replace(bridged(), case="old", candidates=None)]
    curves = detection_curves(cases)
    assert curves.reason == "1 case without known confidence of lesions: old"
    assert (curves.points, curves.merged, curves.n_cases) == ((), None, 2)


def test_a_case_without_a_prediction_file_is_missed_at_every_threshold():
    gone = replace(bridged(), case="gone", candidates=None, prediction_missing=True)
    assert [point.sensitivity for point in detection_curves([bridged(), gone]).points] == [0.25, 0.0, 0.5]


def test_curves_are_read_as_they_were_written(two_hundred, tmp_path):
    curves = detection_curves(two_hundred[0][:20])
    write_json(tmp_path / "curves.json", asdict(curves))
    assert read_own(Curves, tmp_path / "curves.json", "") == curves


def test_area_under_the_curve_of_weighted_cases_is_sklearns():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 8, 40) / 8, generator.random(40) < 0.3
    weights = draw_patients([str(index) for index in range(40)])[:5]
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert auroc(scores, positive, weights) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(auroc(scores, np.ones(40, bool), weights)).all()
