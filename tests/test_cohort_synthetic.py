"""Synthetic scans: geometry and look of a pelvic series, exact masks, the same cohort from the same seed."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, label

from rectal_nnformer.demo.cohort.cohort import write_synthetic_cohort
from rectal_nnformer.errors import RectalError

TOUCHING = np.ones((3, 3, 3))
NAMES = ["synthetic_000.nii.gz", "synthetic_001.nii.gz"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "synthetic"
    write_synthetic_cohort(folder, num_cases=2, seed=5, num_workers=2)
    return folder


@pytest.fixture(scope="module")
def cases(cohort):
    return [[sitk.ReadImage(cohort / part / name) for part in ("images", "masks")] for name in NAMES]


def test_folder_holds_pairs_and_nothing_else(cohort):
    assert sorted(p.name for p in cohort.iterdir()) == ["images", "masks"]
    for part in ("images", "masks"):
        assert sorted(p.name for p in (cohort / part).iterdir()) == NAMES


def test_geometry_is_that_of_an_oblique_pelvic_series(cases):
    for image, mask in cases:
        np.testing.assert_allclose(image.GetSpacing(), (0.5, 0.5, 3.0), rtol=1e-5)
        assert image.GetSize()[:2] == (384, 384)
        assert 19 <= image.GetSize()[2] <= 24
        direction = np.reshape(image.GetDirection(), (3, 3))
        np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-5)
        tilt = np.degrees(np.arccos(direction[2, 2]))
        assert 2 < tilt < 30
        assert np.argmax(np.abs(direction), axis=0).tolist() == [0, 1, 2]
        for get in ("GetSpacing", "GetDirection", "GetOrigin"):
            np.testing.assert_allclose(getattr(mask, get)(), getattr(image, get)(), atol=1e-5)
        assert mask.GetSize() == image.GetSize()


def test_masks_are_binary_with_one_to_three_tumors(cases):
    for _, mask in cases:
        array = sitk.GetArrayFromImage(mask)
        assert array.dtype == np.uint8
        assert set(np.unique(array)) == {0, 1}
        assert 1 <= label(array, TOUCHING)[1] <= 3


def test_tumors_lie_behind_the_middle_inside_the_body_between_muscle_and_fat(cases):
    for image, mask in cases:
        scan, tumor = sitk.GetArrayFromImage(image).astype(float), sitk.GetArrayFromImage(mask) > 0
        rows, columns = np.nonzero(tumor.any(axis=0))
        assert rows.min() > 384 * 0.4
        assert columns.min() > 384 * 0.25 and columns.max() < 384 * 0.75
        dark, fat = np.percentile(scan, (15, 80))
        smooth = gaussian_filter(scan, (0, 2, 2))
        assert dark < np.percentile(smooth[tumor], 5)
        assert np.percentile(smooth[tumor], 90) < fat
        # Threshold alone would not do: most voxels of such brightness are other tissue.
        alike = (smooth > np.percentile(smooth[tumor], 10)) & (smooth < np.percentile(smooth[tumor], 90))
        assert alike.sum() > 3 * tumor.sum()


def test_scans_show_air_muscle_fat_and_bladder(cases):
    for image, _ in cases:
        scan = gaussian_filter(sitk.GetArrayFromImage(image).astype(float), (0, 2, 2))
        fat = np.percentile(scan, 80)
        assert scan[:, :3].mean() < 0.35 * fat  # air in front
        assert np.mean(scan < 0.3 * fat) > 0.15  # muscle and cortex
        bladder = scan[scan.shape[0] // 2 :, 60:220, 110:280] > 1.25 * fat
        assert bladder.sum() * 0.75 / 1000 > 10
        # Noise is there, and stronger than none: the first differences of the air are not flat.
        assert scan.std() > 0.2 * fat


def test_cases_differ(cases):
    assert cases[0][0].GetDirection() != cases[1][0].GetDirection()
    middle = [sitk.GetArrayFromImage(image)[9].astype(float) for image, _ in cases]
    assert np.corrcoef(middle[0].ravel(), middle[1].ravel())[0, 1] < 0.95


def test_a_case_depends_on_seed_and_number_alone(cohort, tmp_path):
    write_synthetic_cohort(tmp_path / "alone", num_cases=1, seed=5, num_workers=1)
    for part in ("images", "masks"):
        one, two = (sitk.ReadImage(folder / part / NAMES[0]) for folder in (cohort, tmp_path / "alone"))
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(two))
        assert one.GetDirection() == two.GetDirection()
        assert one.GetOrigin() == two.GetOrigin()


def test_a_full_folder_and_senseless_numbers_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RectalError, match="not an empty folder"):
        write_synthetic_cohort(tmp_path)
    with pytest.raises(RectalError, match="at least one case"):
        write_synthetic_cohort(tmp_path / "new", num_cases=0)
    with pytest.raises(RectalError, match="seed"):
        write_synthetic_cohort(tmp_path / "new", seed=-1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interruption_leaves_no_folder(tmp_path, monkeypatch):
    def interrupt(rng, appearance):
        raise KeyboardInterrupt

    monkeypatch.setattr("rectal_nnformer.demo.cohort.cohort.synthesize_case", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic_cohort(tmp_path / "cohort", num_cases=1, num_workers=1)
    assert list(tmp_path.iterdir()) == []
