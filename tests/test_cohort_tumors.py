"""Tumours are exact, connected, in the wall and apart from each other, whatever the rectum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, label

from rectal_nnformer.demo.cohort.fields import partial_volume, smooth_noise
from rectal_nnformer.demo.cohort.tumors import BEYOND_WALL_MM, GAP_MM, MIN_VOLUME_CM3, place_tumors
from rectal_nnformer.errors import RectalError

SPACING = (3.0, 1.0, 1.0)
TOUCHING = np.ones((3, 3, 3))


def tube(num_slices=15, radius=20.0, sway=4.0, size=72):
    z, y, x = np.ogrid[: num_slices + 4, :size, :size]
    center = size / 2 + sway * np.sin(z / 4)
    mask = np.hypot(y - size / 2, x - center) < radius
    mask[:2] = mask[-2:] = False
    return mask


def volume_cm3(mask):
    return mask.sum() * np.prod(SPACING) / 1000


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    radius=st.floats(13, 26),
    num_slices=st.integers(8, 18),
    num_tumors=st.sampled_from([None, 1, 2, 3]),
)
def test_tumors_are_single_parts_in_the_wall_and_do_not_touch(seed, radius, num_slices, num_tumors):
    rectum = tube(num_slices, radius)
    tumors = place_tumors(rectum, SPACING, np.random.default_rng(seed), num_tumors)
    assert 1 <= len(tumors) <= (num_tumors or 3)
    together = np.any([t.mask for t in tumors], axis=0)
    assert label(together, TOUCHING)[1] == len(tumors)
    from_rectum = distance_transform_edt(~rectum, sampling=SPACING)
    for tumor in tumors:
        assert volume_cm3(tumor.mask) >= MIN_VOLUME_CM3
        assert from_rectum[tumor.mask].max() <= BEYOND_WALL_MM + 0.5
        assert not tumor.mask[~rectum.any(axis=(1, 2))].any()
        touched_wall = distance_transform_edt(rectum, sampling=SPACING)[tumor.mask].min()
        assert touched_wall < 4.0
        others = together & ~tumor.mask
        if others.any():
            assert distance_transform_edt(~tumor.mask, sampling=SPACING)[others].min() > GAP_MM


def test_tumors_depend_on_the_seed_alone():
    first, again, other = (place_tumors(tube(), SPACING, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert len(first) == len(again)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.share, two.share)
        np.testing.assert_array_equal(one.texture, two.texture)
    assert not np.array_equal(first[0].share, other[0].share)


def test_tumors_vary_in_number_volume_kind_and_brightness():
    rectum = tube(18, 25.0)
    cases = [place_tumors(rectum, SPACING, np.random.default_rng(seed)) for seed in range(28)]
    tumors = [tumor for case in cases for tumor in case]
    volumes = np.array([volume_cm3(tumor.mask) for tumor in tumors])
    assert {len(case) for case in cases} == {1, 2, 3}
    assert {tumor.kind for tumor in tumors} == {"polypoid", "semi-annular", "annular"}
    for low, high in ((0, 5), (5, 10), (10, 20), (20, 40)):
        assert ((volumes >= low) & (volumes < high)).any(), (low, high)
    assert np.mean((volumes > 3) & (volumes < 20)) > 0.6
    assert np.ptp([tumor.brightness for tumor in tumors]) > 0.15


def test_annular_tumors_leave_the_lumen_open():
    rectum = tube()
    middle = rectum & (distance_transform_edt(rectum, sampling=(1e3, 1, 1)) > 18)
    tumors = [t for seed in range(15) for t in place_tumors(rectum, SPACING, np.random.default_rng(seed))]
    annular = [t for t in tumors if t.kind == "annular"]
    assert annular
    for tumor in annular:
        assert not tumor.mask[middle].any()
        assert label(~tumor.mask[np.argmax(tumor.mask.sum(axis=(1, 2)))])[1] == 2  # outside and lumen


def test_signal_lies_between_muscle_and_fat():
    for tumor in place_tumors(tube(), SPACING, np.random.default_rng(0)):
        signal = tumor.signal(muscle=60.0, fat=430.0)[tumor.mask]
        assert signal.min() > 60 and signal.max() < 430
        assert 60 + 0.3 * 370 < signal.mean() < 60 + 0.7 * 370
        assert signal.std() > 5


def test_a_rectum_without_room_is_refused():
    with pytest.raises(RectalError, match=r"no room for a tumour of 0\.5 cm3"):
        place_tumors(tube(2, 4.0), SPACING, np.random.default_rng(0))
    with pytest.raises(RectalError, match="empty"):
        place_tumors(np.zeros((9, 40, 40), bool), SPACING, np.random.default_rng(0))


@given(position=st.floats(2.1, 6.9), thickness=st.floats(1.0, 4.0))
def test_partial_volume_of_a_slab_is_its_thickness(position, thickness):
    z = np.arange(16, dtype=np.float32)[:, None, None] + np.zeros((16, 4, 4), np.float32)
    implicit = np.abs(z - position - thickness / 2) - np.float32(thickness / 2)
    share = partial_volume(implicit)
    np.testing.assert_array_equal(share > 0.5, implicit < 0)
    assert abs(share[:, 0, 0].sum() - thickness) < 0.51


@pytest.mark.parametrize("length", [0.5, 2.0, 12.0])
def test_smooth_noise_has_unit_spread_and_no_finer_detail_than_asked(length):
    noise = smooth_noise(np.random.default_rng(0), (24, 96, 96), SPACING, length)
    assert noise.shape == (24, 96, 96)
    assert abs(noise.std() - 1) < 0.2
    step = np.abs(np.diff(noise, axis=2)).mean()
    assert step < 1.3 * SPACING[2] / length
