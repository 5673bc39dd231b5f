"""Plans of cohorts drawn at random: always valid, divisible, inside memory. From fingerprints, without any image."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_datasets import set_folders, write_dataset_json

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.planning import RectalExperimentPlanner, accounting, describe_plans
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.planning.dataset import open_raw_dataset
from rectal_nnformer.planning.memory import GIB, step_memory

NUM_CASES = 9
DATASET = "Dataset501_Random"


@st.composite
def cohorts(draw):
    """Spacings (z, y, x) in mm, shapes after cropping, and the largest lesion (x, y, z) in mm of each case."""
    between = st.floats(0, 1)

    def spread(low, high, width):
        middle = draw(st.floats(low, high))
        return [min(max(middle * (1 + width * (draw(between) - 0.5)), low), high) for _ in range(NUM_CASES)]

    in_plane, through_plane = spread(0.3, 1.5, 0.3), spread(1, 6, 0.3)
    matrix, slices = spread(200, 640, 0.5), spread(12, 80, 0.5)
    cropped = draw(st.booleans())
    shapes, lesions = [], []
    for number in range(NUM_CASES):
        share = draw(st.floats(0.5, 1)) if cropped else 1.0
        shapes.append([round(slices[number]), round(matrix[number] * share), round(matrix[number])])
        spacing = (through_plane[number], in_plane[number], in_plane[number])
        extent = np.array(shapes[-1]) * spacing
        lesions.append((extent * draw(st.floats(0.02, 0.6)))[::-1].tolist())
    return [[z, y, y] for z, y in zip(through_plane, in_plane, strict=True)], shapes, lesions


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A raw dataset of empty files, which planning from fingerprints never reads."""
    base = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(monkeypatch, base)
        monkeypatch.setattr(accounting.training_account, "__defaults__", (1,))
        folder = base / "nnUNet_raw" / DATASET
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)
        for number in range(NUM_CASES):
            (folder / "imagesTr" / f"case{number}_0000.nii.gz").touch()
            (folder / "labelsTr" / f"case{number}.nii.gz").touch()
        write_dataset_json(folder, NUM_CASES)
        (base / "nnUNet_preprocessed" / DATASET).mkdir()
        yield open_raw_dataset(501)


def write_fingerprints(dataset, spacings, shapes, lesions):
    signature = dataset.signature()
    fingerprint = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
    }
    measures = {"spacing_mm": [1.0] * 3, "field_of_view_mm": [1.0] * 3, "cropped_extent_mm": [1.0] * 3}
    measures |= {"shape": [1] * 3, "cropped_shape": [1] * 3, "empty_border_share": 0.0}
    mask = {"tumor_voxels": 99, "tumor_outside_image_share": 0.0, "tiny_components": 0, "mask_digest": ""}
    lesion = {"voxels": 99, "volume_cm3": 1.0, "centroid_mm": [1.0] * 3, "ring_voxels": 9, "channels": []}
    cases = {
        f"case{i}": {**measures, **mask, "placement": None, "lesions": [{**lesion, "extent_mm": e, "cluster": None}]}
        for i, e in enumerate(lesions)
    }
    tumors = {
        "version": load_version(),
        "raw_signature": signature,
        "channels": ["T2w"],
        "tumor_labels": [1],
        "intensity_window": [[-1.3, 2.7]],
        "ring_mm": 5.0,
        "min_lesion_voxels": 11,
        "dataset": {},
        "cases": cases,
        "outliers": [],
    }
    window = {"window": [[-1.3, 2.7]], "raw_signature": signature}
    for name, content in (
        ("dataset_fingerprint", fingerprint),
        ("rectal_fingerprint", tumors),
        ("rectal_intensity_window", window),
    ):
        (dataset.preprocessed.path / f"{name}.json").write_text(json.dumps(content))


def load_version():
    from rectal_nnformer.planning.fingerprint import store

    return store.VERSION


def check_plan(dataset, cohort, backbone, gigabytes):
    write_fingerprints(dataset, *cohort)
    planner = RectalExperimentPlanner(501, gigabytes, backbone=backbone)
    try:
        plans = planner.make_plans()
    except RectalError as error:
        assert "-gpu_memory_target" in str(error)
        assert gigabytes < 4
        return
    plans = json.loads(json.dumps(plans.content, allow_nan=False))
    known, record = BACKBONES[backbone], plans["rectal_nnformer"]
    fullres, cubic = (PlansManager(plans).get_configuration(name) for name in ("3d_fullres", "3d_fullres_cubic"))
    assert fullres.spacing[0] in (1.0, 1.5)
    assert len(set(fullres.spacing)) == 1
    patch, batch = fullres.patch_size[::-1], fullres.batch_size
    assert all(size % known.multiple == 0 and known.multiple <= size <= known.largest for size in patch)
    assert known.is_admissible(patch)
    assert set(cubic.patch_size) == {known.largest}
    # Inside memory by a count of exactly this step, not by what the planner derives from smaller batches.
    step = step_memory(known.network, patch, batch, backbone_kwargs=known.kwargs)
    assert step.required / GIB <= gigabytes + 0.05
    assert batch == 2 or batch <= min(record["batch_size_limits"])
    assert cubic.batch_size == batch
    for axis, needed in enumerate((np.max(cohort[2], axis=0) + 10) / fullres.spacing[0]):
        told = any(f"mm along {'xyz'[axis]}" in warning for warning in record["warnings"])
        assert told == (record["fitting_patch_size"][axis] < needed)
    account = record["patch_sizes"]["3d_fullres"]
    assert all(0 < share <= 1 for share in account["real_token_fraction"])
    assert all(0 <= share < 1 for share in account["uniform_adi"])
    assert " x ".join(map(str, patch)) in describe_plans(Plans.of(plans))


RANDOM = settings(max_examples=1, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
TARGETS = st.sampled_from([2.5, 5.0, 8.0, 12.0, 24.0, 80.0])


@RANDOM
@given(cohorts(), TARGETS)
def test_plans_of_random_cohorts_are_valid_divisible_and_inside_memory(dataset, cohort, gigabytes):
    check_plan(dataset, cohort, "smit", gigabytes)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["smit", "smit_small", "swin_unetr", "swin_unetr_v2"])
def test_plans_of_many_random_cohorts(dataset, backbone):
    many = settings(RANDOM, max_examples=60)
    many(given(cohorts(), TARGETS)(lambda cohort, gigabytes: check_plan(dataset, cohort, backbone, gigabytes)))()
