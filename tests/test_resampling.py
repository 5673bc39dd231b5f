"""nnU-Net's linear resampling of images and segmentations, faster and with the same result."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

from rectal_nnformer.nnunet.resampling import FastResampling
from rectal_nnformer.planning.planner import LINEAR, configuration_settings

ALIKE = [(1.0, 1.0, 1.0)] * 2


def configuration(**changed):
    """A configuration of our planner; `changed` goes into the options of its resampling."""
    settings = configuration_settings({}, ["ZScoreNormalization"], spacing=[1.0, 1.0, 1.0])
    for kind in ("data", "seg"):
        settings[f"resampling_fn_{kind}_kwargs"] = {**settings[f"resampling_fn_{kind}_kwargs"], **changed}
    return settings


def by_nnunet(array, shape, is_seg, spacings=ALIKE, **changed):
    return resample_data_or_seg_to_shape(array, shape, *spacings, is_seg=is_seg, **{**LINEAR, **changed})


sizes = st.tuples(*[st.integers(1, 9)] * 3)


@given(sizes, sizes, st.integers(1, 4), st.integers(0, 2**32 - 1))
@example((5, 8, 2), (3, 1, 3), 2, 372)  # three labels of one share each, beyond the outermost centre of the last axis
def test_segmentations_are_nnunets_with_all_their_ties(size, shape, num_labels, seed):
    """Sizes this small make ties of two and of many labels common: half of the pairs have a ratio of small numbers."""
    labels = np.random.default_rng(seed).integers(-1, num_labels, (1, *size)).astype(np.int8)
    found = FastResampling(configuration()).resampling_fn_seg(labels, shape, *ALIKE)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, by_nnunet(labels, shape, True))


@pytest.mark.parametrize("shape", [(20, 32, 34), (7, 33, 31), (10, 64, 16), (10, 32, 33)])
def test_compact_labels_and_images_of_two_channels(shape):
    rng = np.random.default_rng(0)
    labels = np.zeros((1, 10, 32, 33), np.int16)
    labels[..., 28:] = -1
    labels[:, 2:7, 6:13, 5:14], labels[:, 4:9, 10:20, 9:12] = 1, 2
    image = rng.normal(size=(2, 10, 32, 33)).astype(np.float32)
    fast = FastResampling(configuration())
    np.testing.assert_array_equal(fast.resampling_fn_seg(labels, shape, *ALIKE), by_nnunet(labels, shape, True))
    found = fast.resampling_fn_data(image, shape, *ALIKE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_nnunet(image, shape, False), atol=1e-6)


@pytest.mark.parametrize(
    "changed", [{"order": 3}, {"force_separate_z": True, "order_z": 1}, {"force_separate_z": None}]
)
def test_what_is_not_linear_on_all_axes_is_left_to_nnunet(changed):
    rng = np.random.default_rng(0)
    labels, image = rng.integers(0, 3, (1, 4, 12, 12)), rng.normal(size=(1, 4, 12, 12)).astype(np.float32)
    spacings, shape = [(6.0, 1.0, 1.0), (1.5, 1.5, 1.5)], (16, 8, 8)
    fast = FastResampling(configuration(**changed))
    expected = by_nnunet(labels, shape, True, spacings, **changed)
    np.testing.assert_array_equal(fast.resampling_fn_seg(labels, shape, *spacings), expected)
    expected = by_nnunet(image, shape, False, spacings, **changed)
    np.testing.assert_allclose(fast.resampling_fn_data(image, shape, *spacings), expected, atol=1e-5)


def test_where_no_segmentation_is_needed_it_is_left_alone():
    labels = np.zeros((1, 4, 4, 4), np.int8)
    assert FastResampling(configuration(), segmentations=False).resampling_fn_seg(labels, (8, 8, 8), *ALIKE) is labels
