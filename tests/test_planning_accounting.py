"""What padding costs: expected shares of tiles and training crops, against nnU-Net's own loader and predictor."""

import itertools

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from rectal_nnformer.geometry import mask_budget
from rectal_nnformer.planning import BACKBONES, accounting
from rectal_nnformer.planning.backbones import resolve_backbone
from rectal_nnformer.planning.crops import Crop, crop_size, draw_crops, real_voxels
from rectal_nnformer.training.data_loader import BoundedDataLoader

REAL_SERIES = [(192, 192, 57), (192, 192, 57)]
PATCH = (16, 32, 32)
COHORTS = st.lists(st.tuples(*[st.integers(1, 400)] * 3), min_size=1, max_size=6)


@settings(max_examples=20)
@given(COHORTS, st.sampled_from(sorted(BACKBONES)))
def test_tiles_are_accounted_for_as_the_mean_over_the_cases(cohort, name):
    backbone = BACKBONES[name]
    patch = (backbone.largest, backbone.largest, backbone.multiple)
    single = [accounting.tile_account(patch, [case], backbone) for case in cohort]
    whole = accounting.tile_account(patch, cohort, backbone)
    for values in ("real_volume_share", "real_token_fraction", "uniform_adi"):
        expected = np.mean([getattr(account, values) for account in single], axis=0)
        np.testing.assert_allclose(getattr(whole, values), expected)


def test_real_tokens_and_scattered_updates_of_a_real_series():
    smit = BACKBONES["smit"]
    account = accounting.tile_account((128, 128, 128), REAL_SERIES, smit)
    assert [round(f, 3) for f in account.real_token_fraction] == [0.453, 0.469, 0.500, 0.500]
    assert account.real_volume_share == pytest.approx(57 / 128)
    shares = accounting.expected_scattered_shares((128, 128, 128), REAL_SERIES, smit)
    assert [round(s, 3) for s in shares] == [0.545, 0.525, 0.500, 0.500]


def test_dilution_of_a_stage_is_the_mean_over_its_blocks():
    odd = resolve_backbone("smit", {"depths": [3, 2, 1, 4]})
    account = accounting.tile_account((128, 128, 128), REAL_SERIES, odd)
    shifted_share = (1 / 3, 1 / 2, 0, 1 / 2)
    pairs = zip(account.unshifted_uniform_adi, account.shifted_uniform_adi, shifted_share, strict=True)
    assert account.uniform_adi == pytest.approx([(1 - share) * a + share * b for a, b, share in pairs])


@pytest.mark.parametrize(("name", "kwargs"), [("swin_unetr", {}), ("smit", {"window_reverse": "inverse"})])
def test_windows_put_back_in_place_scatter_nothing(name, kwargs):
    backbone = resolve_backbone(name, kwargs)
    assert accounting.expected_scattered_shares((96, 96, 96), REAL_SERIES, backbone) == [0, 0, 0, 0]


@settings(max_examples=25)
@given(st.tuples(*[st.integers(1, 70)] * 3))
def test_every_tile_of_the_predictor_holds_what_is_expected(extent):
    # Arrays are (z, y, x) there; what is not padding is 1.
    small = resolve_backbone("smit_small", max_patch_size=32)
    patch = (32, 16, 16)
    padded = pad_nd_image(np.ones((1, *extent), dtype=np.float32), patch, "constant", {"constant_values": 0})
    starts = compute_steps_for_sliding_window(padded.shape[1:], patch, 0.5)
    account = accounting.tile_account(patch[::-1], [extent[::-1]], small)
    for corner in itertools.product(*starts):
        tile = padded[0][tuple(slice(c, c + n) for c, n in zip(corner, patch, strict=True))] > 0
        budget = mask_budget(tile.transpose(2, 1, 0), small.window, num_stages=small.num_stages)
        assert [stage.real_fraction for stage in budget] == pytest.approx(account.real_token_fraction)
        assert [stage.uniform_adi for stage in budget] == pytest.approx(account.unshifted_uniform_adi)


def spatial_transform(patch_size):
    """nnU-Net's own, as its trainer makes it for patches that are not flat."""
    angle = 30 / 180 * np.pi
    transforms = nnUNetTrainer.get_training_transforms(patch_size, (-angle, angle), None, (0, 1, 2), False)
    (spatial,) = (t for t in transforms.transforms if isinstance(t, SpatialTransform))
    return spatial


def padded_crop(extent, start, size):
    """Cut a crop of ones, padded with zeros, from an image of ones: float (1, z, y, x)."""
    crop = torch.zeros(1, *size)
    crop[(0, *(slice(max(-s, 0), n - s) for n, s in zip(extent, start, strict=True)))] = 1
    return crop


def test_crop_sizes_are_those_of_the_trainer():
    assert crop_size((64, 128, 128)) == (140, 205, 168)


def test_real_voxels_are_those_that_the_spatial_transform_leaves():
    np.random.seed(1)
    transform = spatial_transform(PATCH)
    kinds = set()
    for crop, _ in draw_crops([(14, 40, 40), (30, 26, 60)], PATCH, per_kind=10):
        image = padded_crop(crop.extent, crop.start, crop_size(PATCH))
        parameters = transform.get_parameters(image=image)
        transformed = transform._apply_to_image(image, **parameters)[0].numpy() > 1e-4
        ours = real_voxels(Crop(crop.extent, crop.start, parameters["affine"]), PATCH)
        kinds.add(parameters["affine"] is None)
        # Points within rounding of a border may fall on either side.
        assert (ours != transformed).mean() < 0.002
    assert kinds == {True, False}


class OnesDataset:
    """Images of ones with a lesion anywhere, as the training loader reads them."""

    def __init__(self, extents):
        self.extents = dict(enumerate(extents))
        self.identifiers = list(self.extents)

    def load_case(self, identifier):
        extent = self.extents[identifier]
        voxels = np.stack([np.zeros(50, int), *(np.random.randint(0, n, 50) for n in extent)], axis=1)
        ones = np.ones((1, *extent), dtype=np.float32)
        return ones, np.zeros((1, *extent), dtype=np.int8), None, {"class_locations": {1: voxels}}


def loader_for(extents, patch_size):
    labels = LabelManager({"background": 0, "tumor": 1}, None)
    return BoundedDataLoader(
        OnesDataset(extents),
        2,
        crop_size(patch_size),
        patch_size,
        labels,
        oversample_foreground_percent=0.33,
        transforms=spatial_transform(patch_size),
    )


@pytest.mark.parametrize("extents", [[(14, 40, 40)], [(14, 40, 40), (10, 60, 24), (40, 40, 40)]])
def test_training_crops_hold_on_average_what_the_loader_and_the_spatial_transform_leave(extents):
    np.random.seed(2)
    small = resolve_backbone("smit_small", max_patch_size=32)
    loader = loader_for(extents, PATCH)
    found = []
    for _ in range(200):
        for image in loader.generate_train_batch()["data"]:
            inside = image[0].numpy() > 1e-4
            budget = mask_budget(inside.transpose(2, 1, 0), small.window, num_stages=small.num_stages)
            adi = [stage.uniform_adi for stage in budget]
            found.append([inside.mean(), *(stage.real_fraction for stage in budget), *adi])
    account = accounting.training_account(PATCH[::-1], [extent[::-1] for extent in extents], small, 60)
    expected = [account.real_volume_share, *account.real_token_fraction, *account.unshifted_uniform_adi]
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - expected) < 3 * error + 0.01).all()


def test_rotation_costs_real_voxels_of_the_published_patch():
    account = accounting.training_account((128, 128, 64), REAL_SERIES, BACKBONES["smit"])
    assert 0.845 < account.real_volume_share < 0.87 < 57 / 64
    assert account == accounting.training_account((128, 128, 64), REAL_SERIES, BACKBONES["smit"])


def test_weights_of_drawn_crops_are_those_of_training():
    drawn = list(draw_crops([(57, 192, 192)], (64, 128, 128), 4))
    assert sum(weight for _, weight in drawn) == pytest.approx(1)
    plain = sum(weight for crop, weight in drawn if crop.affine is None)
    assert plain == pytest.approx(0.64)


def test_a_volume_smaller_than_the_patch_stays_near_its_middle():
    for crop, _ in draw_crops([(57, 192, 192)], (64, 128, 128), 20):
        if crop.affine is None:
            inside = real_voxels(crop, (64, 128, 128))
            assert inside.mean() == pytest.approx(57 / 64, abs=0.01)
