"""Implanting tumours into given scans, and the outline that says where the rectum is."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from rectal_nnformer.demo.cohort.cohort import write_implanted_cohort
from rectal_nnformer.demo.cohort.implant import REACH_MM, implant_tumors
from rectal_nnformer.demo.cohort.rectum_outline import Ellipse, outline_mask, read_rectum_outlines
from rectal_nnformer.errors import RectalError

TOUCHING = np.ones((3, 3, 3))
SHAPE = (16, 120, 128)
OUTLINE = [
    {"z": 3, "center_xy": [60, 66], "radii_xy": [26, 24]},
    {"z": 13, "center_xy": [66, 70], "radii_xy": [34, 30]},
]
ELLIPSES = [Ellipse(e["z"], e["center_xy"], e["radii_xy"]) for e in OUTLINE]
REAL = Path(__file__).parents[2] / "shared" / "data" / "pelvic_t2w"
REAL_SERIES = ["prostatex-0000_t2w_axial", "prostatex-0001_t2w_axial"]


def stand_in(seed=0):
    """A scan with fat around a dark rectum and muscle at both sides, in noise."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    scan = np.full(SHAPE, 430.0)
    scan[:, :, :14] = scan[:, :, -14:] = 60
    scan[:, np.hypot(y - 68, x - 63) < 30] = 90
    scan = np.hypot(scan + rng.normal(0, 12, SHAPE), rng.normal(0, 12, SHAPE))
    image = sitk.GetImageFromArray(np.rint(scan).astype(np.uint16))
    image.SetSpacing((0.6, 0.6, 3.0))
    image.SetOrigin((-30, -40, 12))
    image.SetDirection((1, 0, 0, 0, 0.96, 0.28, 0, -0.28, 0.96))
    return image


def real_scan(name):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(REAL / name)))
    return reader.Execute()


@pytest.fixture
def outline_file(tmp_path):
    path = tmp_path / "rectum.json"
    path.write_text(json.dumps({"note": "by eye", "axial_a": OUTLINE, "axial_b": OUTLINE}))
    return path


def rectum_of(image, ellipses):
    return outline_mask(ellipses, image.GetSize()[::-1], "a series")


def check_implanted(image, rectum, seed):
    """Assert that a case is the given scan with tumours where its mask says, and nothing else."""
    case = implant_tumors(image, rectum, np.random.default_rng(seed))
    assert case.image.GetPixelID() == image.GetPixelID()
    for result in (case.image, case.mask):
        assert result.GetSize() == image.GetSize()
        assert result.GetSpacing() == image.GetSpacing()
        assert result.GetDirection() == image.GetDirection()
        assert result.GetOrigin() == image.GetOrigin()
    before, after = (sitk.GetArrayFromImage(i).astype(float) for i in (image, case.image))
    mask = sitk.GetArrayFromImage(case.mask) > 0
    assert label(mask, TOUCHING)[1] == len(case.tumors) >= 1
    spacing = image.GetSpacing()[::-1]
    shares = np.max([tumor.share for tumor in case.tumors], axis=0)
    far = np.stack([distance_transform_edt(s == 0, sampling=spacing[1:]) for s in shares]) > REACH_MM
    far[~(shares > 0).any(axis=(1, 2))] = True
    np.testing.assert_array_equal(before[far], after[far])
    assert np.mean(before[mask] != after[mask]) > 0.9
    assert distance_transform_edt(~rectum, sampling=spacing)[mask].max() < 5
    return before, after, mask


def test_the_scan_is_unchanged_but_for_the_tumor():
    image = stand_in()
    rectum = rectum_of(image, ELLIPSES)
    for seed in range(4):
        before, after, mask = check_implanted(image, rectum, seed)
        # Brighter than the wall and the muscle, darker than the fat, and as noisy as the scan.
        in_wall = mask & rectum & (before < 200)
        assert 130 < np.median(after[in_wall]) < 350
        noise = [np.std((a - gaussian_filter(a, (0, 1, 1)))[in_wall]) for a in (before, after)]
        assert 0.5 < noise[1] / noise[0] < 2


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real series are missing: {REAL}")
@pytest.mark.parametrize("name", REAL_SERIES)
def test_real_scans_keep_everything_but_the_tumor(name):
    image = real_scan(name)
    rectum = rectum_of(image, read_rectum_outlines(REAL / "rectum.json")[name])
    before, after, mask = check_implanted(image, rectum, 0)
    fat = np.percentile(before, 80)
    assert 0.2 * fat < np.median(after[mask]) < 0.9 * fat
    assert np.median(after[mask & rectum]) > 1.2 * np.median(before[mask & rectum])


def test_a_flat_scan_and_a_foreign_mask_are_refused():
    image = stand_in()
    rectum = rectum_of(image, ELLIPSES)
    with pytest.raises(RectalError, match="no contrast"):
        implant_tumors(image * 0, rectum, np.random.default_rng(0))
    with pytest.raises(RectalError, match="mask on its grid"):
        implant_tumors(image, rectum[1:], np.random.default_rng(0))


def test_outline_is_interpolated_linearly_and_ends_with_its_slices(outline_file):
    outlines = read_rectum_outlines(outline_file)
    assert sorted(outlines) == ["axial_a", "axial_b"]
    mask = outline_mask(outlines["axial_a"], SHAPE, "axial_a")
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == list(range(3, 14))
    y, x = np.nonzero(mask[8])  # halfway: centre (63, 68), radii (30, 27)
    assert (x.min(), x.max(), y.min(), y.max()) == (33, 93, 41, 95)


@pytest.mark.parametrize(
    ("outline", "complaint"),
    [
        ([OUTLINE[0]], "at least two ellipses"),
        ({"z": 3}, "at least two ellipses"),
        ([OUTLINE[0], {"z": 5, "radii_xy": [3, 3]}], "ellipse 2 lacks center_xy"),
        ([OUTLINE[0], {}], "lacks z, center_xy, radii_xy"),
        ([OUTLINE[0], 7], "ellipse 2 is 7"),
        ([OUTLINE[0], OUTLINE[0]], "two ellipses at z = 3"),
        ([OUTLINE[0], {**OUTLINE[1], "z": "top"}], "z = 'top'"),
        ([OUTLINE[0], {**OUTLINE[1], "center_xy": [1]}], r"center_xy = \[1\]"),
        ([OUTLINE[0], {**OUTLINE[1], "radii_xy": [4, 0]}], "must be positive"),
    ],
)
def test_incomplete_outlines_are_refused_by_series_name(tmp_path, outline, complaint):
    path = tmp_path / "rectum.json"
    path.write_text(json.dumps({"scan_7": outline}))
    with pytest.raises(RectalError, match=f"series scan_7.*{complaint}"):
        read_rectum_outlines(path)


def test_an_outline_beyond_the_scan_is_refused(outline_file):
    ellipses = read_rectum_outlines(outline_file)["axial_a"]
    for shape, axis in (((9, 120, 128), "z"), ((16, 90, 128), "y"), ((16, 120, 90), "x")):
        with pytest.raises(RectalError, match=f"series scan_7 spans .* along {axis}"):
            outline_mask(ellipses, shape, "scan_7")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_no_outline_is_refused(tmp_path, text):
    path = tmp_path / "rectum.json"
    path.write_text(text)
    with pytest.raises(RectalError, match="JSON"):
        read_rectum_outlines(path)
    with pytest.raises(RectalError, match=r"missing\.json"):
        read_rectum_outlines(tmp_path / "missing.json")


def test_cohort_is_spread_over_the_outlined_series(tmp_path, outline_file, capsys):
    series = {"axial_b": stand_in(1), "sagittal": stand_in(2), "axial_a": stand_in(3)}
    used = write_implanted_cohort(tmp_path / "cohort", series, outline_file, num_cases=5, seed=1)
    assert used == ["axial_a", "axial_b"]
    assert "sagittal is left out" in capsys.readouterr().out
    with (tmp_path / "cohort" / "patients.csv").open(newline="") as table:
        rows = list(csv.reader(table))
    assert rows[0] == ["case", "patient"]
    assert rows[1:] == [[f"implanted_{i:03d}", used[i % 2]] for i in range(5)]
    for part in ("images", "masks"):
        names = sorted(p.name for p in (tmp_path / "cohort" / part).iterdir())
        assert names == [f"implanted_{i:03d}.nii.gz" for i in range(5)]
    masks = [sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "cohort" / "masks" / n)) for n in names]
    assert not np.array_equal(masks[0], masks[2])  # one scan, other tumours


def test_implanted_cohort_depends_on_the_seed_alone(tmp_path, outline_file):
    series = {"axial_a": stand_in()}
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_implanted_cohort(tmp_path / name, series, outline_file, num_cases=1, seed=seed)
    one, two, three = (
        sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / name / "images" / "implanted_000.nii.gz"))
        for name in ("one", "two", "three")
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


def test_series_without_any_outline_are_refused(tmp_path, outline_file):
    with pytest.raises(RectalError, match=r"axial_a, axial_b.*none of the given ones: other"):
        write_implanted_cohort(tmp_path / "cohort", {"other": stand_in()}, outline_file)
    assert not (tmp_path / "cohort").exists()
