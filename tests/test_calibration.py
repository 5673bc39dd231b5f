import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from monai.metrics import CalibrationErrorMetric
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss

from rectal_nnformer.evaluation.calibration import NestedCalibration, calibrate, fit_temperature
from rectal_nnformer.evaluation.log_odds import NEAR_MM, count_log_odds, from_sparse, near_tumor
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

pytestmark = pytest.mark.filterwarnings("error")

SHAPE = (6, 30, 30)


def scan(seed, true_temperature=2.5):
    """Return log-odds that are too sure, what the reference holds, and which voxels are near the tumour."""
    generator = np.random.default_rng(seed)
    log_odds = (generator.normal(-1, 5, SHAPE) * 64).round().clip(-1024, 1024).astype(np.float32) / 64
    reference = generator.random(SHAPE) < expit(log_odds / true_temperature)
    return log_odds, reference, generator.random(SHAPE) < 0.4


def measures_of_voxels(log_odds, truth):
    """Return expected calibration error, Brier score and log loss of voxels."""
    p = 1 / (1 + np.exp(-log_odds.astype(float)))
    bins = np.floor(p * 15)
    gaps = [abs(p[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return sum(gaps), np.mean((p - truth) ** 2), -np.log(np.where(truth, p, 1 - p)).mean()


def shown(calibration):
    return calibration.ece, calibration.brier, calibration.log_loss


def test_measures_are_those_of_the_voxels():
    log_odds, reference, near = scan(0)
    before = calibrate({0: count_log_odds(log_odds, reference, near)}).before
    assert shown(before.all_voxels) == pytest.approx(measures_of_voxels(log_odds, reference), abs=1e-9)
    assert shown(before.near_tumor) == pytest.approx(measures_of_voxels(log_odds[near], reference[near]), abs=1e-9)
    assert (before.all_voxels.n_voxels, before.all_voxels.n_tumor) == (reference.size, reference.sum())
    assert before.near_tumor.n_voxels == near.sum()


def test_measures_are_those_of_libraries():
    log_odds, reference, near = scan(1)
    result = calibrate({0: count_log_odds(log_odds, reference, near)}).before.all_voxels
    p = expit(log_odds.astype(float))
    metric = CalibrationErrorMetric(num_bins=15)
    metric(y_pred=torch.tensor(p)[None, None], y=torch.tensor(reference)[None, None])
    assert result.ece == pytest.approx(metric.aggregate().item(), abs=1e-5)  # in float32
    assert result.brier == pytest.approx(brier_score_loss(reference.ravel(), p.ravel()), abs=1e-9)
    assert result.log_loss == pytest.approx(log_loss(reference.ravel(), p.ravel()), abs=1e-9)


def test_bins_hold_all_voxels_and_their_means():
    log_odds, reference, near = scan(2)
    bins = calibrate({0: count_log_odds(log_odds, reference, near)}).before.all_voxels.bins
    p = expit(log_odds.astype(float))
    assert sum(b.n_voxels for b in bins) == reference.size
    for b in bins:
        inside = (p >= b.low) & (p < b.high)
        assert b.n_voxels == inside.sum()
        assert (b.mean_probability, b.tumor_share) == pytest.approx((p[inside].mean(), reference[inside].mean()))


def test_log_odds_are_rounded_and_bounded():
    log_odds = np.array([[[-np.inf, -16.1, 0.0, 0.4 / 64, 0.6 / 64, 17, np.inf]]], dtype=np.float32)
    counts = count_log_odds(log_odds, np.ones_like(log_odds, bool), np.zeros_like(log_odds, bool)).counts
    assert np.flatnonzero(counts[0, 1]).tolist() == [0, 1024, 1025, 2048]
    assert counts[0, 1][[0, 1024, 1025, 2048]].tolist() == [2, 2, 1, 2]
    assert counts.sum() == 7


def test_counts_add_up_and_are_stored_sparsely():
    one, other = (count_log_odds(*scan(seed)) for seed in (3, 4))
    together = [np.concatenate(pair) for pair in zip(scan(3), scan(4), strict=True)]
    np.testing.assert_array_equal((one + other).counts, count_log_odds(*together).counts)
    stored = json.loads(json.dumps([array.tolist() for array in one.sparse()]))
    np.testing.assert_array_equal(from_sparse(*stored).counts, one.counts)
    assert not from_sparse([], []).counts.any()


def test_near_the_tumour_is_within_ten_millimetres():
    spacing = (3.0, 0.5, 1.5)
    reference, prediction = np.zeros((12, 60, 30), dtype=bool), np.zeros((12, 60, 30), dtype=bool)
    reference[6, 30, 15] = prediction[0, 0, 0] = True
    grid = np.stack(np.meshgrid(*map(np.arange, reference.shape), indexing="ij"), axis=-1) * spacing
    expected = [np.linalg.norm(grid - np.array(at) * spacing, axis=-1) for at in ((6, 30, 15), (0, 0, 0))]
    np.testing.assert_array_equal(near_tumor(reference, prediction, spacing), np.min(expected, axis=0) <= NEAR_MM)
    np.testing.assert_array_equal(near_tumor(reference, reference, spacing), expected[0] <= NEAR_MM)
    assert not near_tumor(reference & False, reference & False, spacing).any()


def test_the_temperature_is_the_one_that_the_truth_was_drawn_with():
    counts = sum((count_log_odds(*scan(seed)) for seed in range(10)), from_sparse([], []))
    assert fit_temperature(counts) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(count_log_odds(*scan(0, true_temperature=1))) == pytest.approx(1, rel=0.1)


def test_no_temperature_has_a_lower_log_loss_on_the_other_folds():
    scans = {fold: scan(fold) for fold in range(3)}
    folds = {fold: count_log_odds(*of_fold) for fold, of_fold in scans.items()}
    result = calibrate(folds)
    near = {fold: (log_odds[near], truth[near]) for fold, (log_odds, truth, near) in scans.items()}
    for fold, temperature in result.fold_temperatures.items():
        log_odds, truth = (np.concatenate([near[f][i] for f in near if f != fold]) for i in (0, 1))
        losses = [
            measures_of_voxels(log_odds / t, truth)[2] for t in (temperature * 0.99, temperature, temperature * 1.01)
        ]
        assert losses[1] < min(losses[0], losses[2])
    scaled = np.concatenate([near[fold][0] / result.fold_temperatures[fold] for fold in near])
    truth = np.concatenate([near[fold][1] for fold in near])
    assert shown(result.after.near_tumor) == pytest.approx(measures_of_voxels(scaled, truth), abs=1e-9)
    assert result.after.near_tumor.ece < result.before.near_tumor.ece / 3


def test_labels_of_a_held_out_fold_have_no_say_in_its_temperature():
    folds = {fold: count_log_odds(*scan(fold)) for fold in range(3)}
    log_odds, reference, near = scan(1)
    permuted = np.random.default_rng(0).permuted(reference)
    before, after = calibrate(folds), calibrate({**folds, 1: count_log_odds(log_odds, permuted, near)})
    assert after.fold_temperatures[1] == before.fold_temperatures[1]
    assert after.fold_temperatures[0] != before.fold_temperatures[0]
    assert after.after != before.after


def test_every_set_of_folds_is_defined():
    log_odds, reference, near = scan(0)
    nothing = count_log_odds(log_odds, reference & False, near & False)
    none = calibrate({0: nothing, 1: nothing})
    assert (none.temperature, none.after, none.before.near_tumor.ece) == (None, None, None)
    assert none.reason.startswith("near the tumour the other folds")
    assert none.before.all_voxels.n_tumor == 0
    assert calibrate({}).reason == "there is no fold: no other to fit a temperature on"
    one = calibrate({3: count_log_odds(log_odds, reference, near)})
    assert one.reason == "there is one fold only: no other to fit a temperature on"
    assert one.temperature > 1
    perfect = count_log_odds(np.where(reference, 9, -9).astype(np.float32), reference, near)
    assert calibrate({0: perfect, 1: perfect}).temperature == pytest.approx(1 / 20, rel=1e-3)


def test_the_result_is_read_as_it_was_written(tmp_path):
    result = calibrate({fold: count_log_odds(*scan(fold)) for fold in range(2)})
    write_json(tmp_path / "calibration.json", asdict(result))
    assert read_own(NestedCalibration, tmp_path / "calibration.json", "") == result
