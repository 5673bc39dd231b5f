"""Folds by patient, and what counts as the same grid, on inputs drawn at random."""

from collections import Counter

import numpy as np
from conversion_inputs import SPACING, as_image, scan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rectal_nnformer.dataset_conversion.patient_folds import make_folds, patient_list, patient_pseudonyms
from rectal_nnformer.imaging.reading import geometry_problems
from rectal_nnformer.nnunet.patients import read_patient_list

cohorts = st.lists(st.integers(1, 6), min_size=5, max_size=40).map(
    lambda sizes: {f"c{p:02d}_{i}": f"p{p}" for p, size in enumerate(sizes) for i in range(size)}
)


@given(cohorts)
def test_every_case_is_validated_once_and_never_beside_its_patient_in_training(patients):
    folds = make_folds(patients)
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(patients)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(patients)
        assert not {patients[c] for c in fold["train"]} & {patients[c] for c in fold["val"]}


@given(cohorts)
def test_folds_are_as_even_as_the_largest_patient_allows(patients):
    sizes = [len(fold["val"]) for fold in make_folds(patients)]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= max(Counter(patients.values()).values())


@given(cohorts, st.randoms())
def test_folds_depend_on_neither_order_nor_names_of_patients(patients, random):
    cases = list(patients)
    random.shuffle(cases)
    renamed = {case: f"other {hash(patients[case])}" for case in cases}
    assert make_folds(renamed) == make_folds(patients)


@given(cohorts)
def test_pseudonyms_group_as_the_patients_do(patients):
    renamed = patient_pseudonyms(patients)
    assert list(renamed) == sorted(patients)
    pairs = {(patients[case], renamed[case]) for case in patients}
    assert len(pairs) == len(set(patients.values())) == len(set(renamed.values()))
    assert renamed[min(patients)] == "patient_001"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9,.;_-]+", fullmatch=True), st.sampled_from("ab,"), min_size=1))
def test_a_written_list_of_patients_reads_back(tmp_path, patients):
    (tmp_path / "p.csv").write_text(patient_list(patients))
    assert read_patient_list(tmp_path / "p.csv") == patients


@settings(max_examples=50)
@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1), st.floats(0, 0.5))
def test_a_shift_is_another_geometry_from_a_tenth_of_a_voxel_on(direction, voxels):
    image = scan()
    mask = scan()
    shift = np.array(direction) / np.linalg.norm(direction) * voxels * min(SPACING)
    mask.SetOrigin(np.add(image.GetOrigin(), shift).tolist())
    if abs(voxels - 0.1) > 1e-3:
        assert bool(geometry_problems(image, mask)) == (voxels > 0.1)


@given(st.floats(0, 0.1))
def test_a_rotation_is_another_geometry_if_it_moves_a_corner(angle):
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    image = as_image(np.zeros((9, 10, 12), np.uint8), np.eye(3))
    mask = as_image(np.zeros((9, 10, 12), np.uint8), rotation)
    farthest = 2 * np.sin(angle / 2) * np.hypot(11 * SPACING[0], 9 * SPACING[1])
    if abs(farthest - 0.05) > 1e-4:
        assert bool(geometry_problems(image, mask)) == (farthest > 0.05)
