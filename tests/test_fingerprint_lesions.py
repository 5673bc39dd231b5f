"""Geometry and intensities of lesions, against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rectal_nnformer.imaging.masks import bounding_box, find_components
from rectal_nnformer.planning.fingerprint.lesions import (
    boundary,
    describe_geometry,
    describe_intensities,
    gradient_magnitude,
    in_window_units,
    padded_box,
    ring_around,
)
from rectal_nnformer.planning.fingerprint.placement import describe_placement, separation

SPACINGS = st.tuples(*[st.sampled_from((0.5, 0.7, 1.0, 3.0, 6.0))] * 3)


@st.composite
def masks(draw, max_side=7, density=0.2):
    """A random mask of at least one voxel."""
    shape = draw(st.tuples(*[st.integers(1, max_side)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.random(shape) < density
    mask[tuple(rng.integers(0, shape))] = True
    return mask


@given(masks(), SPACINGS, st.floats(0.5, 8))
@settings(max_examples=60)
def test_a_ring_is_every_allowed_voxel_within_its_width(lesion, spacing, width):
    allowed = np.random.default_rng(0).random(lesion.shape) < 0.7
    ring = ring_around(lesion, allowed, spacing, width)
    inside = np.argwhere(lesion)
    for voxel in np.ndindex(lesion.shape):
        distance = np.linalg.norm((inside - voxel) * spacing, axis=1).min()
        if abs(distance - width) > 1e-3 * width:
            assert ring[voxel] == (0 < distance < width and allowed[voxel])


def test_a_ring_holds_voxels_at_exactly_its_width():
    lesion = np.zeros((1, 1, 25), dtype=bool)
    lesion[..., 12] = True
    ring = ring_around(lesion, np.ones_like(lesion), (3.0, 0.5, np.float32(0.5)), 5.0)
    assert np.flatnonzero(ring).tolist() == [*range(2, 12), *range(13, 23)]


@given(masks(), SPACINGS, st.floats(0, 10))
@settings(max_examples=60)
def test_a_padded_box_holds_all_that_is_near(lesion, spacing, margin):
    """So that the ring in the box is the ring in the whole array."""
    (box,) = ndimage.find_objects(lesion.astype(int))
    grown = padded_box(box, margin, spacing, lesion.shape)
    ring = ring_around(lesion, np.ones_like(lesion), spacing, margin)
    outside = ring.copy()
    outside[grown] = False
    assert not outside.any()
    np.testing.assert_array_equal(ring_around(lesion[grown], np.ones_like(lesion[grown]), spacing, margin), ring[grown])


@given(masks(), SPACINGS)
@settings(max_examples=60)
def test_size_and_extent_are_those_of_the_voxels(lesion, spacing):
    box = bounding_box(lesion)
    described = describe_geometry(lesion[box], box, spacing)
    voxels = np.argwhere(lesion)
    faces = (voxels.max(axis=0) + 1 - voxels.min(axis=0)) * spacing
    assert described["extent_mm"] == pytest.approx(faces[::-1].tolist())
    assert described["centroid_mm"] == pytest.approx((voxels.mean(axis=0) * spacing)[::-1].tolist())
    assert described["volume_cm3"] == pytest.approx(len(voxels) * np.prod(spacing) / 1000)


def brute_components(mask):
    """Return the components as sets of voxels, by flooding through all 26 neighbours."""
    left = {tuple(int(i) for i in voxel) for voxel in np.argwhere(mask)}
    components = []
    while left:
        found, front = set(), [left.pop()]
        while front:
            voxel = front.pop()
            found.add(voxel)
            near = {tuple(np.add(voxel, step).tolist()) for step in itertools.product((-1, 0, 1), repeat=3)} & left
            left -= near
            front += near
        components.append(frozenset(found))
    return components


@given(masks(density=0.15), st.integers(1, 6))
@settings(max_examples=60)
def test_components_are_joined_through_faces_edges_and_corners(mask, min_voxels):
    found = find_components(mask, min_voxels)
    as_sets = {
        frozenset(tuple(int(i) for i in voxel) for voxel in np.argwhere(found.labels == number))
        for number in range(1, len(found.boxes) + 1)
    }
    assert as_sets == {component for component in brute_components(mask) if len(component) >= min_voxels}


@given(masks(density=0.6))
@settings(max_examples=60)
def test_a_boundary_voxel_has_a_neighbour_outside(lesion):
    found = boundary(lesion)
    for voxel in np.ndindex(lesion.shape):
        neighbours = [
            np.add(voxel, sign * np.eye(3, dtype=int)[axis]).tolist() for axis in range(3) for sign in (-1, 1)
        ]
        within = [n for n in neighbours if all(0 <= i < s for i, s in zip(n, lesion.shape, strict=True))]
        assert found[voxel] == (lesion[voxel] and any(not lesion[tuple(n)] for n in within))


def test_the_gradient_is_per_mm_and_needs_no_second_slice():
    z, _, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (4, 5, 6)), indexing="ij")
    image = (3 * z * 3.0 + 4 * x * 0.5).astype(np.float32)
    np.testing.assert_allclose(gradient_magnitude(image, (3.0, 0.5, 0.5)), 5, rtol=1e-5)
    np.testing.assert_allclose(gradient_magnitude(image[:1], (3.0, 0.5, 0.5)), 4, rtol=1e-5)


@given(low=st.floats(-5, 0), width=st.floats(0.5, 20))
def test_changing_units_afterwards_is_measuring_in_these_units(low, width):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(4, 8, 8)).astype(np.float32)
    lesion = np.zeros(image.shape, dtype=bool)
    lesion[1:3, 2:5, 2:6] = True
    ring = ring_around(lesion, np.ones_like(lesion), (2.0, 1.0, 1.0))
    converted = in_window_units(describe_intensities(image, lesion, ring, (2.0, 1.0, 1.0)), low, low + width)
    measured = describe_intensities((image - low) / width, lesion, ring, (2.0, 1.0, 1.0))
    assert flat(converted) == pytest.approx(flat(measured), rel=1e-3, abs=1e-4)


def flat(content, prefix=""):
    if not isinstance(content, dict):
        return {prefix: content}
    return {key: value for name, part in content.items() for key, value in flat(part, f"{prefix}/{name}").items()}


def test_intensities_are_those_of_lesion_and_ring():
    image = np.zeros((5, 20, 20), dtype=np.float32)
    lesion = np.zeros(image.shape, dtype=bool)
    lesion[1:4, 8:12, 8:12] = True
    image[lesion] = np.linspace(1, 3, lesion.sum())
    described = describe_intensities(image, lesion, ring_around(lesion, np.ones_like(lesion), (3, 1, 1)), (3, 1, 1))
    assert described["inside"]["mean"] == pytest.approx(2)
    assert described["inside"]["spread"] == pytest.approx(image[lesion].std())
    assert described["inside"]["percentiles"]["5"] == pytest.approx(1.1)
    assert described["ring"] == {
        "mean": 0,
        "spread": 0,
        "percentiles": {"5": 0, "25": 0, "50": 0, "75": 0, "95": 0},
    }
    assert described["contrast"] == pytest.approx(2)
    alone = describe_intensities(image, lesion, np.zeros_like(lesion), (3, 1, 1))
    assert alone["ring"] is None and alone["contrast"] is None
    everywhere = describe_intensities(image, np.ones_like(lesion), np.zeros_like(lesion), (3, 1, 1))
    assert in_window_units(everywhere, 0, 1)["boundary_gradient"] is None


@given(shift=st.floats(-3, 3), ratio=st.floats(0.2, 5), gain=st.floats(0.1, 10))
def test_separation_rises_with_differences_and_knows_no_unit(shift, ratio, gain):
    rng = np.random.default_rng(2)
    ring, lesion = rng.normal(size=(1, 4000)), shift + ratio * rng.normal(size=(1, 4000))
    value = separation(lesion, ring)
    # Two normal distributions of equal weight: the mixture's variance is the mean variance and a quarter of the gap.
    expected = np.log((1 + ratio**2) / 2 + shift**2 / 4) / 2 - np.log(ratio) / 2
    assert value == pytest.approx(expected, abs=0.05)
    assert separation(gain * lesion + 7, gain * ring + 7) == pytest.approx(value, abs=1e-3)


def ball_case(offset=(0, 0, 0)):
    """A dim ball in noise, and a mask of it that was moved by `offset` voxels (z, y, x)."""
    rng = np.random.default_rng(3)
    spacing = (3.0, 1.0, 1.0)
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip((24, 90, 90), spacing, strict=True)), indexing="ij")
    ball = (z - 36) ** 2 + (y - 45) ** 2 + (x - 45) ** 2 < 12**2
    image = (rng.normal(size=ball.shape) + 2 * ball).astype(np.float32)[None]
    return image, np.roll(ball, offset, axis=(0, 1, 2)), np.ones(ball.shape, dtype=bool), spacing


def test_a_mask_in_place_separates_better_than_anywhere_else():
    placement = describe_placement(*ball_case())
    assert placement["separation"] > 0.3
    assert placement["better_share"] == 0
    assert placement["num_displacements"] > 100


def test_a_moved_mask_tells_where_it_would_fit():
    placement = describe_placement(*ball_case((0, 20, -10)))
    assert placement["separation"] < 0.1
    assert placement["best_separation"] > 0.3
    assert placement["best_displacement_mm"] == [10, -20, 0]


def test_displacements_keep_out_of_the_empty_border():
    """A constant border would separate from everything."""
    image, mask, inside, spacing = ball_case()
    inside[:, :, :30] = inside[:, :, 60:] = False
    image[:, ~inside] = -5
    placement = describe_placement(image, mask, inside, spacing)
    assert placement["better_share"] == 0
    assert placement["best_displacement_mm"][0] == 0


def test_without_room_or_lesion_nothing_is_compared():
    image, mask, inside, spacing = ball_case()
    box = padded_box(bounding_box(mask), 5.0, spacing, mask.shape)
    tight = describe_placement(image[(slice(None), *box)], mask[box], inside[box], spacing)
    assert tight["separation"] > 0.3
    assert (tight["num_displacements"], tight["better_share"], tight["best_displacement_mm"]) == (0, None, None)
    assert describe_placement(image, np.zeros_like(mask), inside, spacing) is None
