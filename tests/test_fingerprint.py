"""The tumour fingerprint of whole datasets: content, outliers, clusters, planned augmentation, files."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist, squareform
from small_datasets import IN_RAS, set_folders, write_raw_dataset, write_volume

from rectal_nnformer.demo.cohort import write_synthetic_cohort
from rectal_nnformer.errors import RectalError
from rectal_nnformer.planning.dataset import open_raw_dataset
from rectal_nnformer.planning.fingerprint import (
    describe_outliers,
    extract_tumor_fingerprint,
    load_tumor_fingerprint,
    planned_augmentation,
)
from rectal_nnformer.planning.fingerprint.augmentation import augmentation_ranges
from rectal_nnformer.planning.fingerprint.clusters import cluster_appearance
from rectal_nnformer.planning.fingerprint.outliers import find_outliers
from rectal_nnformer.planning.intensity_window import load_intensity_window

DATASET = "Dataset502_Lesions"
SIZE, SPACING = (64, 72, 20), (1.0, 1.0, 3.0)
BORDER = 6
NUM_CASES = 10


def case_arrays(number):
    """Patchy tissue with a dim lesion (every third case has two) and an empty border at low x; (z, y, x) each."""
    rng = np.random.default_rng(number)
    shape = SIZE[::-1]
    tissue = gaussian_filter(rng.normal(size=shape), (1.5, 4, 4))
    image = 300 + 100 * tissue / tissue.std() + rng.normal(0, 10, shape)
    mask = np.zeros(shape, dtype=np.uint8)
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, SPACING[::-1], strict=True)), indexing="ij")
    for center in [(30, 46, 42), (30, 20, 22)][: 1 + (number % 3 == 0)]:
        place = np.add(center, rng.uniform(-4, 4, 3))
        radius = rng.uniform(7, 9)
        mask[(z - place[0]) ** 2 + (y - place[1]) ** 2 + (x - place[2]) ** 2 < radius**2] = 1
    level = rng.uniform(180, 320)
    image[mask > 0] = level + rng.normal(0, 15, int(mask.sum()))
    image[:, :, :BORDER] = 0
    return image.astype(np.float32), mask


@pytest.fixture(scope="module")
def arrays():
    return {f"case{number}": case_arrays(number) for number in range(NUM_CASES)}


@pytest.fixture
def extract(tmp_path, monkeypatch):
    """A function that writes a dataset and returns it with its fingerprint."""
    set_folders(monkeypatch, tmp_path)

    def write_and_extract(cases, num_processes=1, spacing=SPACING, **dataset_json):
        write_raw_dataset(tmp_path / "nnUNet_raw" / DATASET, cases, spacing, **dataset_json)
        dataset = open_raw_dataset(502)
        return dataset, extract_tumor_fingerprint(dataset, num_processes)

    return write_and_extract


def named(fingerprint):
    """Return the kinds of each case that is named, by case; a wrong mask may be unlike the others besides."""
    kinds = {}
    for outlier in fingerprint["outliers"]:
        kinds.setdefault(outlier["case"], []).append(outlier["kind"])
    return {case: [kind for kind in found if kind != "unlike"] for case, found in kinds.items()}


def test_a_clean_cohort_is_described_and_nobody_accused(extract, arrays):
    dataset, fingerprint = extract(arrays, num_processes=2)
    assert json.loads((dataset.preprocessed.path / "rectal_fingerprint.json").read_text()) == fingerprint
    assert fingerprint["outliers"] == [] and describe_outliers(fingerprint) == []
    assert list(fingerprint["cases"]) == list(arrays)
    case = fingerprint["cases"]["case0"]
    assert case["spacing_mm"] == list(SPACING) and case["shape"] == list(SIZE)
    assert case["field_of_view_mm"] == [64, 72, 60]
    assert case["cropped_shape"] == [58, 72, 20] and case["cropped_extent_mm"] == [58, 72, 60]
    assert case["empty_border_share"] == pytest.approx(BORDER / SIZE[0])
    assert case["tumor_voxels"] == arrays["case0"][1].sum() == sum(lesion["voxels"] for lesion in case["lesions"])
    whole = fingerprint["dataset"]
    assert (whole["num_cases"], whole["num_lesions"]) == (10, 14)
    extents = np.array([lesion["extent_mm"] for c in fingerprint["cases"].values() for lesion in c["lesions"]])
    assert whole["max_lesion_extent_mm"] == extents.max(axis=0).tolist()
    assert whole["lesion_extent_mm"]["y"]["95"] == pytest.approx(np.percentile(extents[:, 1], 95))


def test_intensities_are_in_units_of_the_window_the_plans_hold(extract, arrays):
    dataset, fingerprint = extract(arrays)
    ((low, high),) = load_intensity_window(dataset)
    assert fingerprint["intensity_window"] == [[low, high]]
    image, mask = arrays["case1"]
    cropped = image[:, :, BORDER:]
    unit = ((cropped - cropped.mean()) / cropped.std() - low) / (high - low)
    tumor = mask[:, :, BORDER:] > 0
    (lesion,) = fingerprint["cases"]["case1"]["lesions"]
    assert lesion["channels"][0]["inside"]["mean"] == pytest.approx(unit[tumor].mean(), abs=1e-4)
    assert lesion["channels"][0]["inside"]["spread"] == pytest.approx(unit[tumor].std(), abs=1e-4)
    assert lesion["channels"][0]["inside"]["percentiles"]["95"] == pytest.approx(
        np.percentile(unit[tumor], 95), abs=1e-4
    )


def test_rings_leave_out_neighbours_tiny_components_and_the_border(extract, arrays):
    image, _ = arrays["case0"]
    mask = np.zeros(SIZE[::-1], dtype=np.uint8)
    mask[8:12, 20:30, 10:20] = 1
    mask[8:12, 32:40, 10:20] = 1  # 2 mm from the first
    mask[9:11, 24:26, 22:24] = 1  # 8 voxels: no lesion, but no ring either
    _, fingerprint = extract({**arrays, "case0": (image, mask)})
    case = fingerprint["cases"]["case0"]
    assert case["tiny_components"] == 1
    first, second = case["lesions"]
    assert (first["voxels"], second["voxels"]) == (400, 320)
    voxels = np.argwhere(mask[:, :31, :20])
    free = np.add(np.argwhere(mask[6:14, :50, :30] == 0), (6, 0, 0))
    distances = [np.linalg.norm((voxels - voxel) * SPACING[::-1], axis=1).min() for voxel in free[free[:, 2] >= BORDER]]
    assert first["ring_voxels"] == np.count_nonzero(np.array(distances) <= 5)


def shifted(mask, y, x):
    return np.roll(mask, (y, x), axis=(1, 2))


def test_an_empty_and_a_shifted_mask_are_named(extract, arrays):
    cases = dict(arrays)
    cases["case4"] = (arrays["case4"][0], np.zeros_like(arrays["case4"][1]))
    cases["case7"] = (arrays["case7"][0], shifted(arrays["case7"][1], -20, -10))
    _, fingerprint = extract(cases)
    assert named(fingerprint) == {"case4": ["empty"], "case7": ["misplaced"]}
    clusters = {name: {found["cluster"] for found in case["lesions"]} for name, case in fingerprint["cases"].items()}
    assert clusters["case7"] == {None} and clusters["case1"] == {0}
    first, second = describe_outliers(fingerprint)
    assert "mask of case case4: it holds no tumour." in first
    # Moved back by 20 mm along y and 10 mm along x it would fit.
    assert "mask of case case7" in second and "(+10, +20, +0) mm along (x, y, z)" in second


def test_masks_that_two_cases_exchanged_are_named(extract, arrays):
    cases = dict(arrays)
    cases["case2"] = (arrays["case2"][0], arrays["case5"][1])
    cases["case5"] = (arrays["case5"][0], arrays["case2"][1])
    _, fingerprint = extract(cases)
    assert named(fingerprint) == {"case2": ["misplaced"], "case5": ["misplaced"]}


def test_a_copied_mask_names_both_cases_and_the_wrong_one_is_misplaced(extract, arrays):
    cases = {**arrays, "case1": (arrays["case1"][0], arrays["case8"][1])}
    _, fingerprint = extract(cases)
    assert named(fingerprint) == {"case1": ["copied", "misplaced"], "case8": ["copied"]}
    assert "the same as that of case case8" in describe_outliers(fingerprint)[0]


def test_a_mask_in_the_empty_border_is_named(extract, arrays):
    image, mask = arrays["case3"]
    image = image.copy()
    image[:, :, -30:] = 0
    image[0, 0, -1] = 300  # a lone voxel keeps the border in the crop
    _, fingerprint = extract({**arrays, "case3": (image, mask)})
    assert "outside" in named(fingerprint)["case3"]


def test_specks_are_no_lesions(extract, arrays):
    mask = np.zeros_like(arrays["case3"][1])
    mask[5, 30, 30:40] = 1
    _, fingerprint = extract({**arrays, "case3": (arrays["case3"][0], mask)})
    assert named(fingerprint) == {"case3": ["empty"]}
    assert fingerprint["cases"]["case3"]["tiny_components"] == 1


def record(number, separation=0.5, mean=0.4, spread=0.05):
    """A case's record with one lesion, as far as the outlier rules read it."""
    return {
        "tumor_voxels": 99,
        "tumor_outside_image_share": 0.0,
        "lesions": [{"voxels": 99, **lesion(mean + 0.001 * number, spread)}],
        "mask_digest": str(number),
        "placement": {
            "separation": separation,
            "num_displacements": 0,
            "better_share": None,
            "best_separation": None,
            "best_displacement_mm": None,
        },
    }


def accused(cases):
    return [(outlier["case"], outlier["kind"]) for outlier in find_outliers(cases)]


def test_a_few_cases_are_no_cohort_to_compare_with():
    cases = {f"case{number}": record(number) for number in range(5)}
    cases["case0"] = record(0, separation=0.01)
    assert accused(cases) == [("case0", "misplaced")]
    del cases["case4"]
    assert accused(cases) == []


def test_a_mask_that_fits_best_where_it_is_gets_the_benefit_of_the_doubt():
    cases = {f"case{number}": record(number) for number in range(9)}
    cases["case0"] = record(0, separation=0.3)
    cases["case0"]["placement"] |= {"num_displacements": 100, "better_share": 0.2, "best_separation": 0.1}
    assert accused(cases) == [("case0", "misplaced")]
    cases["case0"]["placement"]["better_share"] = 0.02
    assert accused(cases) == []
    cases["case0"]["placement"]["separation"] = 0.1
    assert accused(cases) == [("case0", "misplaced")]


def test_what_looks_like_no_other_tumour_is_named_and_a_rare_kind_is_not():
    cases = {f"case{number}": record(number) for number in range(20)}
    cases["case3"] = record(3, mean=0.9)
    cases["case5"] = record(5, spread=0.2)
    assert accused(cases) == [("case3", "unlike"), ("case5", "unlike")]
    (first, _) = describe_outliers({"outliers": find_outliers(cases)})
    assert "mask of case case3: it covers what no other case's lesions look like (mean 0.90 of the window" in first
    cases["case7"], cases["case9"] = record(7, mean=0.9), record(9, mean=0.9)
    assert accused(cases) == [("case5", "unlike")]


@pytest.mark.slow
def test_outliers_among_realistic_scans(extract, tmp_path):
    """Phantoms of the pelvis: none accused as they are; exchanged, shifted and empty masks named."""
    write_synthetic_cohort(tmp_path / "cohort", num_cases=10, seed=3)
    cases = {}
    for path in sorted((tmp_path / "cohort/images").iterdir()):
        image, mask = (
            sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "cohort" / part / path.name))[:19]
            for part in ("images", "masks")
        )
        cases[path.name.removesuffix(".nii.gz")] = (image.astype(np.float32), mask)
    _, clean = extract(cases, spacing=(0.5, 0.5, 3.0))
    assert clean["outliers"] == []
    first, second, third, fourth, *_ = cases
    wrong = {
        first: cases[second][1],
        second: cases[first][1],
        third: shifted(cases[third][1], 0, 40),
        fourth: np.zeros_like(cases[fourth][1]),
    }
    shutil.rmtree(tmp_path / "nnUNet_raw")
    _, planted = extract(
        {**cases, **{name: (cases[name][0], mask) for name, mask in wrong.items()}}, spacing=(0.5, 0.5, 3)
    )
    assert set(named(planted)) == set(wrong)
    assert named(planted)[fourth] == ["empty"]


def test_every_tumor_label_and_channel_is_measured(extract, arrays):
    cases = {}
    for name, (image, mask) in arrays.items():
        labels = mask.copy()
        labels[:, :40][mask[:, :40] > 0] = 2  # one lesion, two labels
        cases[name] = ([image, 1000 - image], labels)
    _, fingerprint = extract(
        cases,
        channel_names={"0": "T2w", "1": "ADC"},
        labels={"background": 0, "tumor core": 1, "tumor rim": 2, "lymph node": 3},
    )
    assert fingerprint["tumor_labels"] == [1, 2] and fingerprint["channels"] == ["T2w", "ADC"]
    assert fingerprint["dataset"]["num_lesions"] == 14
    first, second = fingerprint["cases"]["case1"]["lesions"][0]["channels"]
    assert np.sign(first["contrast"]) == -np.sign(second["contrast"])
    assert [channel["name"] for channel in planned_augmentation(fingerprint)["channels"]] == ["T2w", "ADC"]


def test_a_dataset_without_any_lesion_is_described(extract, arrays):
    empty = {name: (image, np.zeros_like(mask)) for name, (image, mask) in arrays.items()}
    _, fingerprint = extract(empty)
    assert fingerprint["dataset"]["max_lesion_extent_mm"] is None
    assert fingerprint["dataset"]["lesion_volume_cm3"] is None
    assert named(fingerprint) == {name: ["empty"] for name in arrays}
    with pytest.raises(RectalError, match="cannot be planned from 0 lesions"):
        planned_augmentation(fingerprint)


def test_a_mask_of_another_grid_is_named(extract, arrays):
    with pytest.raises(RectalError, match=r"Case case2: .*case2.nii.gz has 64 x 72 x 19 voxels .* 64 x 72 x 20"):
        extract({**arrays, "case2": (arrays["case2"][0], arrays["case2"][1][:-1])})


def test_an_unreadable_mask_is_named(extract, arrays):
    dataset, _ = extract(arrays)
    (dataset.raw.path / "labelsTr" / "case6.nii.gz").write_bytes(b"no mask")
    with pytest.raises(RectalError, match=r"Case case6: .*case6.nii.gz cannot be read"):
        extract_tumor_fingerprint(dataset, 1)


def test_single_slices_are_measured_too(extract, arrays):
    """Planning refuses them later, by name."""
    flat = {name: (image[10:11], mask[10:11]) for name, (image, mask) in arrays.items()}
    _, fingerprint = extract(flat)
    assert {lesion["extent_mm"][2] for case in fingerprint["cases"].values() for lesion in case["lesions"]} == {3.0}
    assert fingerprint["outliers"] == []


def test_changed_raw_data_make_a_fingerprint_outdated(extract, arrays):
    dataset, fingerprint = extract(arrays)
    assert load_tumor_fingerprint(dataset) == fingerprint
    path = dataset.preprocessed.path / "rectal_fingerprint.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    assert load_tumor_fingerprint(dataset) is None
    path.write_text(json.dumps({**fingerprint, "version": 0}))
    assert load_tumor_fingerprint(dataset) is None
    path.write_text(whole)
    write_volume(dataset.raw.path / "labelsTr" / "case0.nii.gz", arrays["case1"][1], SPACING, IN_RAS)
    assert load_tumor_fingerprint(dataset) is None


def lesion(mean, spread=0.05, contrast=-0.1):
    return {"channels": [{"inside": {"mean": mean, "spread": spread}, "contrast": contrast}], "ring_voxels": 1}


def test_lesions_of_one_kind_are_one_cluster_and_of_two_kinds_two():
    rng = np.random.default_rng(0)
    dim = [lesion(*row) for row in rng.normal((0.35, 0.05, -0.1), (0.03, 0.005, 0.03), (40, 3))]
    mucinous = [lesion(*row) for row in rng.normal((0.8, 0.12, 0.3), (0.03, 0.01, 0.03), (8, 3))]
    alone = cluster_appearance(dim)
    assert alone["silhouette"] is None and set(alone["assignment"]) == {0}
    both = cluster_appearance(dim + mucinous)
    assert both["assignment"] == [0] * 40 + [1] * 8
    assert both["silhouette"] > 0.5
    assert [cluster["num_lesions"] for cluster in both["clusters"]] == [40, 8]
    assert both["clusters"][1]["channels"][0]["mean"] == pytest.approx(0.8, abs=0.05)
    assert cluster_appearance(dim + mucinous) == both
    # A single odd lesion is no kind.
    assert cluster_appearance([*dim, mucinous[0]])["silhouette"] is None
    assert cluster_appearance([])["clusters"] == []


def test_silhouette_against_its_definition():
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(0.35, 0.05, (5, 3)), rng.normal(0.8, 0.05, (6, 3))])
    found = cluster_appearance([lesion(*row) for row in rows])
    low, median, high = np.percentile(rows, (25, 50, 75), axis=0)
    distances = squareform(pdist(np.clip((rows - median) / ((high - low) / 1.349), -3, 3)))
    assignment = np.array(found["assignment"])
    values = []
    for index, own in enumerate(assignment):
        others = [i for i in np.flatnonzero(assignment == own) if i != index]
        a = distances[index, others].mean()
        b = min(distances[index, assignment == label].mean() for label in set(assignment) - {own})
        values.append((b - a) / max(a, b))
    assert len(set(assignment)) == 2
    assert found["silhouette"] == pytest.approx(np.mean(values))


@given(st.lists(st.floats(0.06, 1.0), min_size=5, max_size=60))
def test_planned_ranges_cover_the_observed_ratios_and_keep_the_identity(means):
    (s_low, s_high), (o_low, o_high) = augmentation_ranges(means)
    median = np.median(means)
    low, high = np.percentile(np.divide(means, median), (5, 95))
    assert (s_low * median + o_low) / median <= low + 1e-9
    assert (s_high * median + o_high) / median >= high - 1e-9
    assert 0 < s_low <= 1 <= s_high
    assert o_low <= 0 <= o_high


def test_planned_draws_have_the_spread_of_the_lesions():
    rng = np.random.default_rng(0)
    means = rng.normal(0.4, 0.06, 4000)
    scale, shift = augmentation_ranges(means)
    drawn = rng.uniform(*scale, 100_000) * 0.4 + rng.uniform(*shift, 100_000)
    assert drawn.mean() == pytest.approx(0.4, abs=0.01)
    assert drawn.std() == pytest.approx(0.95 * 0.06, rel=0.03)


def test_suspected_masks_have_no_say_in_the_ranges(extract, arrays):
    _, fingerprint = extract(arrays)
    expected = planned_augmentation(fingerprint)
    odd = {**fingerprint["cases"]["case0"], "lesions": [lesion(5.0)] * 9}
    with_odd = {**fingerprint, "cases": {**fingerprint["cases"], "odd": odd}}
    assert planned_augmentation(with_odd) != expected
    accused = {**with_odd, "outliers": [{"case": "odd", "kind": "misplaced", "reason": "it hardly fits"}]}
    assert planned_augmentation(accused) == expected


def test_lesions_brighter_than_the_window_count_as_the_transform_sees_them():
    means = [0.5, 0.6, 0.7, 0.8, 0.9, 1.5, 1.9]
    fingerprint = {
        "outliers": [],
        "channels": ["T2w"],
        "cases": {f"case{number}": {"lesions": [lesion(mean)]} for number, mean in enumerate(means)},
    }
    (channel,) = planned_augmentation(fingerprint)["channels"]
    assert (channel["scale"], channel["shift"]) == augmentation_ranges([0.5, 0.6, 0.7, 0.8, 0.9, 1, 1])


def test_ranges_of_lesions_at_the_windows_lower_end_are_refused():
    cases = {"case0": {"lesions": [lesion(0.01)] * 9}}
    with pytest.raises(RectalError, match=r"channel T2w: the median lesion lies at 0\.01"):
        planned_augmentation({"outliers": [], "channels": ["T2w"], "cases": cases})


def test_cases_with_the_same_reason_share_a_warning():
    empty, copied = "it holds no tumour", "it is the same as that of case a"
    found = [("a", empty), ("b", copied), ("c", empty), ("d", empty), ("d", copied)]
    outliers = [{"case": case, "kind": "any", "reason": reason} for case, reason in found]
    assert describe_outliers({"outliers": outliers}) == [
        f"Look at the mask of each of the cases a, c: {empty}.",
        f"Look at the mask of case b: {copied}.",
        f"Look at the mask of case d: {empty}; {copied}.",
    ]
