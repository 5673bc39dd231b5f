"""The planning rules: target spacing, patch size, axes, backbones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rectal_nnformer.errors import RectalError
from rectal_nnformer.planning import BACKBONES, rules
from rectal_nnformer.planning.backbones import resolve_backbone

REAL_SERIES = [(192, 192, 57), (192, 192, 57)]

COHORTS = st.lists(st.tuples(*[st.integers(1, 400)] * 3), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("spacing", "target"),
    [
        ((3.0, 0.5, 0.5), 1.0),
        ((4.0, 0.7, 0.7), 1.0),
        ((1.5, 1.5, 1.5), 1.5),
        ((5.0, 0.9, 0.9), 1.5),
        ((1.0, 0.3, 0.3), 1.0),
        ((6.0, 2.0, 2.0), 1.5),
    ],
)
def test_target_spacing_is_the_geometric_mean_rounded_down_within_bounds(spacing, target):
    assert rules.isotropic_target_spacing([spacing, spacing]) == target


def test_target_spacing_is_that_of_the_median_case():
    assert rules.isotropic_target_spacing([(3.0, 0.5, 0.5)] * 3 + [(9.0, 3.0, 3.0)]) == 1.0


@pytest.mark.parametrize(
    ("backbone", "patch_size"),
    [
        ("smit", (128, 128, 64)),
        ("swin_unetr", (96, 96, 64)),
        ("swin_unetr_v2", (96, 96, 64)),
        ("smit_small", (48, 48, 48)),
    ],
)
def test_patch_size_of_a_real_series(backbone, patch_size):
    assert rules.choose_patch_size(REAL_SERIES, BACKBONES[backbone]) == patch_size


def test_patch_size_needs_three_quarters_of_the_image_on_average():
    # On the last axis 96 of 128 voxels are exactly three quarters; one voxel less in one of two cases is too little.
    smit = BACKBONES["smit"]
    assert rules.choose_patch_size([(192, 192, 96)], smit) == (128, 128, 128)
    assert rules.choose_patch_size([(192, 192, 96), (192, 192, 95)], smit) == (128, 128, 64)
    assert rules.choose_patch_size([(192, 192, 20)], smit) == (128, 128, 64)


def test_patch_whose_deepest_map_is_a_single_voxel_grows_along_the_longest_axis():
    assert rules.choose_patch_size([(16, 20, 18)], BACKBONES["swin_unetr"]) == (32, 64, 32)


@given(COHORTS, st.sampled_from(sorted(BACKBONES)), st.sampled_from([None, 48, 64, 70, 100]))
def test_patch_size_is_always_admissible_and_the_largest_that_is_filled(cohort, name, limit):
    try:
        backbone = resolve_backbone(name, max_patch_size=limit)
    except RectalError:
        assert limit == 48
        assert name != "smit_small"
        return
    patch = rules.choose_patch_size(cohort, backbone)
    assert all(size % backbone.multiple == 0 and size <= min(backbone.largest, limit or 128) for size in patch)
    assert max(patch) > 2 ** (backbone.num_stages + 1)
    extents = np.array(cohort)
    for axis, size in enumerate(patch):
        larger = [s for s in backbone.sizes if s > size]
        assert not any(rules.expected_real_share(extents[:, axis], s) >= 0.75 for s in larger)


@pytest.mark.parametrize("transpose_forward", [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
def test_spatial_axes_bring_stored_arrays_to_x_y_z(transpose_forward):
    x, y, z = 5, 3, 2
    as_read = np.arange(z * y * x).reshape(z, y, x)
    stored = as_read.transpose(transpose_forward)
    np.testing.assert_array_equal(stored.transpose(rules.spatial_axes(transpose_forward)), as_read.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("kwargs", "multiple", "largest"),
    [
        ({}, 64, 128),
        ({"depths": [2, 2]}, 16, 128),
        ({"depths": (2, 2, 2), "window_size": 6}, 48, 96),
        ({"depths": (2, 2, 2, 2, 2)}, 128, 128),
    ],
)
def test_smit_patches_follow_from_stages_and_window(kwargs, multiple, largest):
    backbone = resolve_backbone("smit", kwargs)
    assert (backbone.multiple, backbone.largest) == (multiple, largest)


def test_backbone_arguments_replace_those_of_the_variant():
    backbone = resolve_backbone("smit_small", {"embed_dim": 24})
    assert backbone.kwargs == {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}


def test_unknown_backbone_and_impossible_patch_are_refused():
    with pytest.raises(RectalError, match="no backbone 'unet'"):
        resolve_backbone("unet")
    with pytest.raises(RectalError, match="at most 63 voxels"):
        resolve_backbone("smit", max_patch_size=63)
    with pytest.raises(RectalError, match="one axis longer than 32"):
        resolve_backbone("swin_unetr", max_patch_size=32)


@pytest.mark.parametrize(
    ("name", "patch", "smaller"),
    [
        ("smit", (128, 128, 64), [(64, 64, 64), None]),
        ("smit", (128, 64, 128), [(64, 64, 128), (64, 64, 64), None]),
        ("swin_unetr", (96, 96, 64), [(64, 64, 64), (32, 32, 64), None]),
    ],
)
def test_a_patch_too_large_for_the_gpu_shrinks_in_plane_first(name, patch, smaller):
    refused = {patch}
    for expected in smaller:
        assert rules.fit_memory(patch, BACKBONES[name], lambda size: size not in refused) == expected
        refused.add(expected)


def test_a_patch_too_short_for_the_lesions_grows_as_far_as_the_gpu_allows():
    swin = BACKBONES["swin_unetr"]
    grown = rules.fit_lesions((64, 32, 32), (40, 40, 65), swin, lambda size: True)
    assert grown == (64, 64, 96)
    assert rules.fit_lesions((64, 32, 32), (40, 40, 65), swin, lambda size: size[2] < 96) == (64, 64, 64)
    # Never above the size of pretraining.
    assert rules.fit_lesions((96, 96, 64), (200, 20, 60), swin, lambda size: True) == (96, 96, 64)


def test_batch_covers_at_most_a_twentieth_of_the_dataset():
    # 40 images of 2 million voxels: 4 million of 80 million are 4 patches of 128 x 128 x 64, rounded as nnU-Net does.
    assert rules.batch_size_limit((128, 128, 64), [(200, 200, 50)] * 40) == round(4e6 / 2**20) == 4
    assert rules.batch_size_limit((128, 128, 64), [(200, 200, 50)] * 2) == 0
