"""Candidates: lesions of the mask, places below it, how sure the network is, and what is kept of them."""

import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import largest_file
from scipy.special import expit, logit

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import (
    MOST_CANDIDATES,
    CaseCandidates,
    FoundCandidate,
    candidate_files,
    find_candidates,
    log_odds_of,
    network_mask,
    read_candidates,
    score_candidates,
    write_candidates,
)
from rectal_nnformer.evaluation.case_detection import CaseJob, count_voxels, score_case
from rectal_nnformer.evaluation.detection import detect_lesions
from rectal_nnformer.evaluation.fold import evaluate_fold
from rectal_nnformer.evaluation.log_odds import MAX_LOG_ODDS, N_VALUES, read_counts
from rectal_nnformer.evaluation.operating_point import OperatingPoint
from rectal_nnformer.imaging.masks import find_components, tumor_heads
from rectal_nnformer.prediction.lesion_choice import choose_lesions
from rectal_nnformer.prediction.predictor import disagreement_of
from rectal_nnformer.prediction.resampling import resample_log_odds, tumor_log_odds

SHAPE = (12, 20, 30)
SURE, DOUBTFUL, FAINT, SPECK = (
    (slice(2, 6), slice(2, 6), slice(2, 6)),
    (slice(2, 6), slice(12, 16), slice(2, 6)),
    (slice(7, 10), slice(2, 6), slice(20, 24)),
    (slice(1, 3), slice(1, 3), slice(27, 29)),  # 8 voxels, fewer than a lesion has
)
LABELS = {"labels": {"background": 0, "rectum": 1, "tumor": 2}}
REGIONS = {"labels": {"background": 0, "rectum": [1, 2], "tumor": [2]}}


@pytest.fixture
def log_odds():
    values = np.full(SHAPE, -9.0, np.float32)
    for place, probability in ((SURE, 0.9), (DOUBTFUL, 0.3), (FAINT, 0.02), (SPECK, 0.95)):
        values[place] = logit(probability)
    return values


def test_candidates_are_the_lesions_of_the_mask_and_places_below_it(log_odds):
    numbers, found = find_candidates(log_odds, log_odds > 0)
    assert [candidate.in_mask for candidate in found.candidates] == [True, False, False]
    assert [candidate.confidence for candidate in found.candidates] == pytest.approx([0.9, 0.3, 0.02], abs=1e-6)
    for number, place in enumerate((SURE, DOUBTFUL, FAINT), start=1):
        assert (numbers[place] == number).all()
        assert np.sum(numbers == number) == numbers[place].size
    assert not numbers[SPECK].any()


def test_the_skirt_of_a_lesion_is_no_candidate_of_its_own(log_odds):
    log_odds[1:7, 1:7, 1:7] = np.maximum(log_odds[1:7, 1:7, 1:7], logit(0.2))
    numbers, found = find_candidates(log_odds, log_odds > 0)
    assert len(found.candidates) == 3
    assert np.sum(numbers == 1) == log_odds[SURE].size


def test_entropy_is_the_mean_in_bits_where_tumour_is_possible(log_odds):
    p = expit(log_odds[log_odds > logit(0.01)].astype(float))
    expected = np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p))
    assert find_candidates(log_odds, log_odds > 0)[1].entropy == pytest.approx(expected, rel=1e-6)


def test_where_nothing_is_seen_there_is_no_candidate():
    numbers, found = find_candidates(np.full(SHAPE, -MAX_LOG_ODDS, np.float32), np.zeros(SHAPE, bool))
    assert not numbers.any()
    assert found == CaseCandidates((), None)


def test_of_many_places_below_the_mask_the_surest_stay():
    log_odds = np.full((3, 24, 240), -9.0, np.float32)
    probabilities = np.linspace(0.02, 0.4, 2 * MOST_CANDIDATES)
    for index, probability in enumerate(probabilities):
        row, column = divmod(index, 40)
        log_odds[:, 8 * row : 8 * row + 4, 6 * column : 6 * column + 4] = logit(probability)
    found = find_candidates(log_odds, np.zeros(log_odds.shape, bool))[1]
    assert len(found.candidates) == MOST_CANDIDATES
    assert min(one.confidence for one in found.candidates) == pytest.approx(probabilities[MOST_CANDIDATES], rel=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_those_in_the_mask_are_its_components_and_share_what_they_share(seed):
    rng = np.random.default_rng(seed)
    log_odds = sitk.GetArrayFromImage(
        sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(rng.normal(-2, 12, SHAPE).astype(np.float32)), 1.2)
    )
    mask, reference = log_odds > 0, np.roll(log_odds, 1, axis=2) > 0.2
    numbers, found = find_candidates(log_odds, mask)
    scored = score_candidates(numbers, found, mask, reference, (3.0, 0.5, 0.5))
    predicted = find_components(mask).labels
    assert np.array_equal(np.where(predicted > 0, numbers, 0), predicted)
    lesions = find_components(reference).labels
    for candidate in scored:
        there = numbers == candidate.label
        assert candidate.voxels == there.sum() and candidate.volume_cm3 == pytest.approx(0.00075 * there.sum())
        assert candidate.in_mask == bool(predicted[there].any())
        assert candidate.shared_voxels == tuple(np.sum(there & (lesions == n)) for n in range(1, lesions.max() + 1))
    assert sum(one.in_mask for one in scored) == detect_lesions(mask, reference, (3.0, 0.5, 0.5)).n_predicted


def test_candidates_of_another_mask_are_not_taken(log_odds):
    numbers, found = find_candidates(log_odds, log_odds > 0)
    other = np.zeros(SHAPE, bool)
    other[8:11, 15:19, 10:14] = True
    assert score_candidates(numbers, found, other, other, (1.0, 1.0, 1.0)) is None
    fewer = np.zeros(SHAPE, bool)  # a lesion that was taken away, as by an operating point
    scored = score_candidates(numbers, found, fewer, log_odds > 0, (1.0, 1.0, 1.0))
    assert [candidate.in_mask for candidate in scored] == [False] * 3


@pytest.mark.parametrize(("dataset_json", "heads"), [(LABELS, (2,)), (REGIONS, (1,))])
def test_log_odds_of_logits_and_of_probabilities_are_the_same(dataset_json, heads):
    tumor = tumor_heads(dataset_json)
    assert (tumor.heads, tumor.exclusive) == (heads, dataset_json is LABELS)
    logits = torch.randn(3 if tumor.exclusive else 2, 4, 5, 6) * 3
    logits = logits.double()
    probabilities = (logits.softmax(0) if tumor.exclusive else logits.sigmoid()).numpy()
    expected = logit(probabilities[2] if tumor.exclusive else probabilities[1])
    np.testing.assert_allclose(tumor_log_odds(logits, tumor), expected, atol=1e-4)
    np.testing.assert_allclose(log_odds_of(probabilities, tumor), expected, atol=1e-3)


@pytest.mark.parametrize("labels", [{"background": 0, "tumor": 1}, LABELS["labels"], REGIONS["labels"]])
def test_log_odds_are_those_of_resampled_logits(labels):
    tumor = tumor_heads({"labels": labels})
    logits = torch.randn(2 if len(labels) == 2 or not tumor.exclusive else 3, 4, 5, 6)
    expected = tumor_log_odds(torch.nn.functional.interpolate(logits[None], (8, 9, 1), mode="trilinear")[0], tumor)
    np.testing.assert_allclose(resample_log_odds(logits, (8, 9, 1), (1, 1, 1), tumor), expected, atol=1e-5)


def test_disagreement_is_one_minus_the_mean_dice_of_two_folds():
    empty, half, whole = torch.zeros(4, 4), torch.zeros(4, 4), torch.ones(4, 4)
    half[:2] = 1
    masks = [mask > 0 for mask in (empty, half, whole)]
    assert disagreement_of(masks) == pytest.approx(1 - (0 + 0 + 2 / 3) / 3)
    assert disagreement_of([masks[0], masks[0]]) == 0
    assert disagreement_of(masks[:1]) is None


@pytest.fixture
def predicted(tmp_path, log_odds):
    """A mask and its reference, on a grid whose first two axes run against RAS."""
    mask = sitk.GetImageFromArray((log_odds > 0).astype(np.uint8))
    mask.SetSpacing((0.5, 0.5, 3.0))
    reference = np.zeros(SHAPE, np.uint8)
    reference[DOUBTFUL] = 1
    image = sitk.GetImageFromArray(reference)
    image.CopyInformation(mask)
    paths = tmp_path / "mask.nii.gz", tmp_path / "reference.nii.gz"
    for path, content in zip(paths, (mask, image), strict=True):
        sitk.WriteImage(content, str(path))
    return CaseJob("mask", "patient", *paths, (0, 1), (1,), tumor_heads=tumor_heads({"labels": {"b": 0, "tumor": 1}}))


def write_found(job, log_odds):
    mask = sitk.ReadImage(str(job.prediction))
    numbers, found = find_candidates(log_odds, log_odds > 0)
    image = sitk.GetImageFromArray(numbers)
    image.CopyInformation(mask)
    write_candidates(job.prediction, found, lambda path: sitk.WriteImage(image, path))


@pytest.mark.parametrize("source", ["candidates", "probabilities", "probabilities in RAS"])
def test_a_case_is_scored_with_what_was_kept_beside_its_mask(predicted, log_odds, source):
    if source == "candidates":
        write_found(predicted, log_odds)
    else:
        image = sitk.GetImageFromArray(log_odds)
        image.CopyInformation(sitk.ReadImage(str(predicted.prediction)))
        turned = sitk.DICOMOrient(image, "RAS") if "RAS" in source else image
        p = expit(sitk.GetArrayFromImage(turned))
        np.savez_compressed(predicted.prediction.with_name("mask.npz"), probabilities=np.stack([1 - p, p]))
    case = score_case(predicted)
    assert [one.shared_voxels for one in case.candidates] == [(0,), (64,), (0,)]
    assert [one.confidence for one in case.candidates] == pytest.approx([0.9, 0.3, 0.02], abs=1e-6)
    assert (case.reference_cm3, case.predicted_cm3) == pytest.approx((64 * 0.00075, 72 * 0.00075))
    assert 0 < case.entropy < 1 and case.disagreement is None
    assert (case.n_detected, case.n_false_positive) == (0, 1)


def test_without_candidates_and_probabilities_nothing_is_known(predicted, log_odds):
    case = score_case(predicted)
    assert (case.candidates, case.entropy) == (None, None)
    other = expit(log_odds[:-1])
    np.savez_compressed(predicted.prediction.with_name("mask.npz"), probabilities=np.stack([1 - other, other]))
    assert score_case(predicted).candidates is None


def test_voxels_of_the_ignore_label_belong_to_no_candidate(predicted, log_odds):
    write_found(predicted, log_odds)
    reference = sitk.ReadImage(str(predicted.reference))
    values = sitk.GetArrayFromImage(reference)
    values[SURE] = 2
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(reference)
    sitk.WriteImage(image, str(predicted.reference))
    job = replace(predicted, labels=(0, 1, 2), ignore_label=2)
    assert [one.label for one in score_case(job).candidates] == [2, 3]


def test_files_that_do_not_belong_together_are_refused(predicted, log_odds):
    write_found(predicted, log_odds)
    assert read_candidates(predicted.prediction)[1].candidates[0] == FoundCandidate(pytest.approx(0.9), True)
    record = predicted.prediction.parent / "candidates/mask.nii.gz.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "candidates": []}))
    with pytest.raises(RectalError, match=r"mask.nii.gz numbers more candidates than .*json describes. Predict"):
        read_candidates(predicted.prediction)
    case = score_case(predicted)
    assert case.candidates is None and "how sure the network is, is not known: " in case.note


@pytest.mark.parametrize("num_bytes", [0, 100])
def test_candidates_that_cannot_be_written_whole_are_named_and_leave_nothing(predicted, log_odds, num_bytes):
    write_found(predicted, log_odds)
    told = r"candidates/mask\.nii\.gz could not be written whole, and was removed: .* MB left"
    with largest_file(num_bytes), pytest.raises(RectalError, match=told):
        write_found(predicted, log_odds)
    assert [path.name for path in (predicted.prediction.parent / "candidates").iterdir()] == ["mask.nii.gz"]
    assert read_candidates(predicted.prediction) is None


def test_no_name_of_a_case_gives_two_files_one_place(tmp_path):
    masks = [tmp_path / f"{name}.nii.gz" for name in ("x", "network", "network_x", "network.x")]
    places = [path for mask in masks for path in (*candidate_files(mask), network_mask(mask))]
    assert len(set(places)) == 3 * len(masks)


@pytest.mark.parametrize("done_before", [False, True])
def test_a_mask_to_which_a_point_cannot_be_applied_stays_as_it_was(predicted, log_odds, done_before):
    write_found(predicted, log_odds)
    if done_before:
        choose_lesions(predicted.prediction, [1], OperatingPoint(0.2, 0.0))
    before = predicted.prediction.read_bytes()
    error, told = (
        (RectalError, r"/mask\.nii\.gz could not be") if done_before else (OSError, "too large: .*network/.mask")
    )
    with largest_file(100), pytest.raises(error, match=told):
        choose_lesions(predicted.prediction, [1], OperatingPoint(0.99, 0.0))
    assert predicted.prediction.read_bytes() == before
    assert not list(predicted.prediction.parent.rglob("*.partial*"))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, softmax=np.zeros((2, *SHAPE))),
        lambda path: np.savez(path, probabilities=np.zeros((1, *SHAPE))),
        lambda path: np.savez(path, probabilities=np.float32(1)),
        lambda path: np.savez(path, probabilities=np.array([None, {}], dtype=object)),
    ],
    ids=["cut off", "empty", "other names", "one head", "a number", "objects"],
)
def test_damaged_probabilities_are_named_and_the_masks_scored_without(predicted, log_odds, tmp_path, capsys, damage):
    p = expit(log_odds.astype(np.float64))
    path = tmp_path / "mask.npz"
    np.savez_compressed(path, probabilities=np.stack([1 - p, p]))
    damage(path)
    told = r"mask\.npz holds no probabilities of the model \(.+\)\. Predict the case again, or remove it"
    with pytest.raises(RectalError, match=told):
        count_voxels(predicted)
    (tmp_path / "references").mkdir()
    predicted.reference.rename(tmp_path / "references/mask.nii.gz")
    description = {"labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
    (case,) = evaluate_fold(tmp_path, tmp_path / "references", description, ["mask"]).cases
    assert case.candidates is None and "mask.npz holds no probabilities" in case.note
    assert "No calibration: " in capsys.readouterr().out and read_counts(tmp_path) is None


def test_probabilities_are_those_of_the_network_s_mask_where_a_point_changed_it(predicted, log_odds):
    write_found(predicted, log_odds)
    p = expit(log_odds.astype(np.float64))
    np.savez_compressed(predicted.prediction.with_name("mask.npz"), probabilities=np.stack([1 - p, p]))
    before = count_voxels(predicted).counts
    assert choose_lesions(predicted.prediction, [1], OperatingPoint(0.99, 0.0))
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(predicted.prediction))).sum() == 8
    assert np.array_equal(count_voxels(predicted).counts, before)


@pytest.mark.parametrize("point", [None, OperatingPoint(0.0, 0.0)])
def test_small_parts_of_the_mask_stay_where_no_lesion_is_taken_away(tmp_path, point):
    log_odds = np.full(SHAPE, -9.0, np.float32)
    log_odds[1:3, 1:6, 1] = 1.0  # 10 voxels, with 7 below the threshold beside them: one candidate
    log_odds[1, 1:6, 2], log_odds[2, 1:3, 2] = -0.5, -0.5
    job = SimpleNamespace(prediction=tmp_path / "mask.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray((log_odds > 0).astype(np.uint8)), str(job.prediction))
    write_found(job, log_odds)
    before = job.prediction.read_bytes()
    assert choose_lesions(job.prediction, [1], None)
    assert job.prediction.read_bytes() == before
    if point:
        assert choose_lesions(job.prediction, [1], point)
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(job.prediction))).sum() == 17
        assert choose_lesions(job.prediction, [1], None)
        assert job.prediction.read_bytes() == before


def test_labels_of_a_mask_come_back_when_its_point_is_taken_back(tmp_path, log_odds):
    labels = np.where(log_odds > 0, 2, 0).astype(np.uint8)
    labels[2:4, 2:6, 2:6] = 1
    job = SimpleNamespace(prediction=tmp_path / "mask.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(job.prediction))
    write_found(job, log_odds)
    before = job.prediction.read_bytes()
    for confidence in (0.99, 0.0, 0.95):
        assert choose_lesions(job.prediction, [1, 2], OperatingPoint(confidence, 0.0))
        assert job.prediction.read_bytes() != before
    assert choose_lesions(job.prediction, [1, 2], None)
    assert job.prediction.read_bytes() == before


@pytest.mark.parametrize("orientation", ["LPS", "RAS"])
def test_voxels_are_counted_from_probabilities_without_those_of_the_ignore_label(predicted, log_odds, orientation):
    image = sitk.GetImageFromArray(log_odds)
    image.CopyInformation(sitk.ReadImage(str(predicted.prediction)))
    p = expit(sitk.GetArrayFromImage(sitk.DICOMOrient(image, orientation)).astype(np.float64))
    np.savez_compressed(predicted.prediction.with_name("mask.npz"), probabilities=np.stack([1 - p, p]))
    counts = count_voxels(predicted).counts
    assert counts[0].sum(axis=1).tolist() == [log_odds.size - 64, 64]
    assert counts[0][1].nonzero()[0].tolist() == [N_VALUES // 2 + round(64 * logit(0.3))]
    values = np.zeros(SHAPE, np.uint8)
    values[SURE], values[DOUBTFUL] = 2, 1
    reference = sitk.GetImageFromArray(values)
    reference.CopyInformation(sitk.ReadImage(str(predicted.prediction)))
    sitk.WriteImage(reference, str(predicted.reference))
    ignoring = replace(predicted, labels=(0, 1, 2), ignore_label=2)
    assert count_voxels(ignoring).counts[0].sum(axis=1).tolist() == [log_odds.size - 128, 64]


def test_counts_are_kept_until_masks_change(predicted, log_odds, tmp_path):
    description = {"labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
    references = tmp_path / "references"
    references.mkdir()
    predicted.reference.rename(references / "mask.nii.gz")
    p = expit(log_odds.astype(np.float64))
    np.savez_compressed(tmp_path / "mask.npz", probabilities=np.stack([1 - p, p]))
    evaluate_fold(tmp_path, references, description, ["mask"])
    assert read_counts(tmp_path).counts[0].sum() == log_odds.size
    (tmp_path / "mask.npz").unlink()
    evaluate_fold(tmp_path, references, description, ["mask"])
    assert read_counts(tmp_path) is not None
    later = time.time_ns() + 10**9
    os.utime(predicted.prediction, ns=(later, later))
    evaluate_fold(tmp_path, references, description, ["mask"])
    assert read_counts(tmp_path) is None
