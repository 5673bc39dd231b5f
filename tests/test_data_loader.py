"""Crops of the training loader stay within the padded volume and still hold the lesion."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from rectal_nnformer.geometry import last_crop_start
from rectal_nnformer.training.data_loader import BoundedDataLoader


def loader_for(loader_class, patch_size, final_patch_size):
    """A loader of which only the geometry is used."""
    loader = loader_class.__new__(loader_class)
    loader.patch_size = patch_size
    loader.need_to_pad = np.array(patch_size) - np.array(final_patch_size)
    loader.has_ignore = False
    loader.annotated_classes_key = (-1, 0, 1)
    return loader


def real_share(lower, size, patch):
    return max(0, min(lower + patch, size) - max(lower, 0)) / patch


def test_a_tumor_in_the_upper_slices_no_longer_fills_the_crop_with_padding():
    voxel = {1: np.array([[0, 55, 60, 60]])}
    geometry = ((64, 128, 128), (64, 128, 128))
    (stock, *_), _ = loader_for(nnUNetDataLoader, *geometry).get_bbox((57, 192, 192), True, voxel)
    (bounded, *_), _ = loader_for(BoundedDataLoader, *geometry).get_bbox((57, 192, 192), True, voxel)
    assert real_share(stock, 57, 64) < 0.6
    assert real_share(bounded, 57, 64) == 57 / 64


@given(
    st.lists(
        st.tuples(st.integers(5, 200), st.integers(8, 160), st.integers(0, 80), st.floats(0, 0.999)),
        min_size=3,
        max_size=3,
    )
)
def test_foreground_crops_stay_within_the_padded_volume_and_hold_the_voxel(axes):
    sizes = [size for size, *_ in axes]
    final_patch = [final for _, final, *_ in axes]
    patch = [final + pad for _, final, pad, _ in axes]
    voxel = [int(size * position) for size, *_, position in axes]
    loader = loader_for(BoundedDataLoader, patch, final_patch)
    lower, upper = loader.get_bbox(sizes, True, {1: np.array([[0, *voxel]])})
    last = last_crop_start(sizes, patch, loader.need_to_pad)
    for axis in range(3):
        assert upper[axis] - lower[axis] == patch[axis]
        assert lower[axis] <= last[axis]
        assert lower[axis] <= voxel[axis] < upper[axis]
        padding = max(patch[axis] - final_patch[axis], patch[axis] - sizes[axis])
        assert -lower[axis] <= (padding + 1) // 2
        assert upper[axis] - sizes[axis] <= (padding + 1) // 2


def test_the_last_crop_ends_with_the_padding_of_which_the_far_end_has_the_odd_voxel():
    assert last_crop_start((10, 10, 3), (4, 4, 8), (3, 2, 0)) == [8, 7, -2]
