"""The choice of patch and batch, the warnings, and both in words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_planning_memory import affine_count

from rectal_nnformer.cli import main
from rectal_nnformer.errors import RectalError
from rectal_nnformer.geometry import Size
from rectal_nnformer.nnunet.layout import PreprocessedDataset, RawDataset
from rectal_nnformer.nnunet.names import CUBIC
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.planning import describe_plans
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.planning.dataset import TrainingDataset
from rectal_nnformer.planning.memory import MemoryTarget
from rectal_nnformer.planning.patch_choice import PatchChoice, choose_patch_and_batch, largest_lesion
from rectal_nnformer.planning.plan_warnings import dataset_warnings, lesion_warnings, memory_warnings
from rectal_nnformer.planning.record import LargestLesion

SMALL_PLANS = "Dataset007_Small/nnUNetRectalSMITSmallPlans.json"
SMIT, SWIN = BACKBONES["smit"], BACKBONES["swin_unetr"]
COHORT = [(192, 192, 57)] * 40
MILLIMETRE = (1.0, 1.0, 1.0)


class Reader:
    pass


class SimpleITKIOWithReorient:
    pass


def raw_dataset(folder=Path("/nowhere"), num_cases=40, channel="T2w", reader=SimpleITKIOWithReorient):
    dataset_json = {"channel_names": {"0": channel}, "labels": {"background": 0, "tumor": 1}}
    cases = {f"case{number}": {} for number in range(num_cases)}
    raw, preprocessed = RawDataset(folder), PreprocessedDataset(folder / "preprocessed")
    return TrainingDataset(501, dataset_json, cases, reader, raw, preprocessed)


def target(gigabytes):
    """A GPU on which a step takes 1.8 GB and 1.2 times 2000 bytes per voxel: 7 GB for 128 x 128 x 64, batch 2."""
    return MemoryTarget(gigabytes, affine_count(fixed=2**30))


def lesion(*extent: float) -> LargestLesion:
    return LargestLesion(extent, ("case3", "case7", "case9"))


def test_batch_is_the_smaller_of_both_configurations_and_covers_a_twentieth_of_the_dataset():
    plenty = choose_patch_and_batch(COHORT * 10, SMIT, target(1000), None, MILLIMETRE)
    assert plenty.batch_limits == (40, 20)
    assert plenty.batch_size == 20
    memory = target(24)
    limited = choose_patch_and_batch(COHORT * 10, SMIT, memory, None, MILLIMETRE)
    assert memory.required(limited.cubic, limited.batch_size) <= 24
    assert memory.required(limited.cubic, limited.batch_size + 1) > 24
    assert choose_patch_and_batch(COHORT[:3], SMIT, memory, None, MILLIMETRE).batch_size == 2


def test_images_then_gpu_then_lesions_decide_the_patch():
    choice = choose_patch_and_batch(COHORT, SMIT, target(24), lesion(40, 40, 30), MILLIMETRE)
    assert choice.filled == choice.fitting == choice.patch_size == (128, 128, 64)
    small = choose_patch_and_batch(COHORT, SMIT, target(5), lesion(40, 40, 60), MILLIMETRE)
    assert (small.filled, small.fitting, small.patch_size) == ((128, 128, 64), (64, 64, 64), (64, 64, 128))
    assert choose_patch_and_batch(COHORT, SWIN, target(24), lesion(40, 40, 60), MILLIMETRE).patch_size == (96, 96, 96)
    # The same lesion takes fewer voxels of 1.5 mm.
    assert choose_patch_and_batch(COHORT, SWIN, target(24), lesion(40, 40, 60), (1.5,) * 3).patch_size == (96, 96, 64)


def test_a_gpu_that_holds_no_patch_is_refused():
    with pytest.raises(RectalError, match=r"No patch of smit fits a GPU of 2 GB.*-gpu_memory_target"):
        choose_patch_and_batch(COHORT, SMIT, target(2), None, MILLIMETRE)


def test_largest_lesion_is_taken_per_axis_with_its_case():
    cases = {"a": [[10.0, 50.0, 5.0], [60.0, 5.0, 5.0]], "b": [], "c": [[20.0, 20.0, 20.0]]}
    fingerprint = {"cases": {name: {"lesions": [{"extent_mm": e} for e in found]} for name, found in cases.items()}}
    assert largest_lesion(fingerprint) == LargestLesion((60.0, 50.0, 20.0), ("a", "a", "c"))
    assert largest_lesion({"cases": {"b": {"lesions": []}}}) is None


def test_an_ordinary_dataset_gives_no_warning():
    assert list(dataset_warnings(raw_dataset(), (0.5, 0.5, 3.0))) == []


@pytest.mark.parametrize(
    ("dataset", "spacing", "words"),
    [
        (raw_dataset(num_cases=19), (0.5, 0.5, 3.0), ["19 training cases are few"]),
        (raw_dataset(num_cases=4), (0.5, 0.5, 3.0), ["nnU-Net cannot make its 5 folds", "4 training cases are few"]),
        (raw_dataset(channel="CT"), (0.5, 0.5, 3.0), ["the channel is z-scored volume by volume"]),
        (raw_dataset(), (1.0, 1.0, 1.2), [r"nearly isotropic (1.00 x 1.00 x 1.20 mm)"]),
        (raw_dataset(reader=Reader), (0.5, 0.5, 3.0), ["read by Reader, which does not reorient"]),
    ],
)
def test_an_unusual_dataset_is_warned_of(dataset, spacing, words):
    found = list(dataset_warnings(dataset, spacing))
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))


@pytest.mark.parametrize("place", [".", "preprocessed"])
def test_four_cases_with_folds_of_their_own_can_be_trained(tmp_path, place):
    (tmp_path / "preprocessed").mkdir()
    (tmp_path / place / "splits_final.json").write_text("[]")
    (found,) = dataset_warnings(raw_dataset(tmp_path, num_cases=4), (0.5, 0.5, 3.0))
    assert "are few" in found


PATCH: Size = (128, 128, 64)
CHOICE = PatchChoice(PATCH, PATCH, PATCH, (128, 128, 128), 2, (9, 4))


def test_lesions_that_change_or_exceed_the_patch_are_warned_of_by_case():
    assert list(lesion_warnings(CHOICE, lesion(50, 50, 54), MILLIMETRE)) == []
    (small,) = lesion_warnings(CHOICE, lesion(50, 50, 55), MILLIMETRE)
    assert "only 64 mm along z: the largest lesion is 55 mm long along z (case case9)" in small
    (grown,) = lesion_warnings(replace(CHOICE, patch_size=(128, 128, 128)), lesion(50, 50, 55), MILLIMETRE)
    assert "128 mm instead of 64 mm along z" in grown
    (none,) = lesion_warnings(CHOICE, None, MILLIMETRE)
    assert "No training case has a lesion" in none


def test_patches_that_do_not_fit_are_warned_of():
    assert list(memory_warnings(CHOICE, target(24))) == []
    assert ["3d_fullres_cubic does not fit 8 GB" in warning for warning in memory_warnings(CHOICE, target(8))] == [True]
    shrunk = replace(CHOICE, fitting=(64, 64, 64))
    first, _ = memory_warnings(shrunk, target(5))
    assert "fill a patch of 128 x 128 x 64 voxels" in first
    assert "64 x 64 x 64 fits 5 GB" in first


@pytest.mark.parametrize(
    ("windows", "schemes", "words"),
    [
        ([[-1.421, 2.4]], ["ZScoreNormalization"], "-1.42 to 2.4 after ZScoreNormalization"),
        (
            [[-4.153, 2.7], [0.0, 800.0]],
            ["ZScoreNormalization", "NoNormalization"],
            "-4.15 to 2.7 after ZScoreNormalization; 0 to 800 as prepared",
        ),
    ],
)
def test_each_channel_is_explained_with_its_window_and_normalization(small_dataset, windows, schemes, words):
    plans = json.loads((small_dataset[1] / "nnUNet_preprocessed" / SMALL_PLANS).read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration["normalization_schemes"] = schemes
    configuration["architecture"]["arch_kwargs"]["intensity_window"] = windows
    plans["rectal_nnformer"]["augmentation"]["channels"] *= len(windows)
    assert f"  intensity window  {words}" in describe_plans(Plans.of(plans)).splitlines()


def test_patches_taken_are_marked_and_long_lines_are_wrapped(small_dataset):
    plans = json.loads((small_dataset[1] / "nnUNet_preprocessed" / SMALL_PLANS).read_text())
    record = plans["rectal_nnformer"]
    record["warnings"] = ["The mask of one case " + "looks wrong, " * 20]
    marked = [
        line.split("  ")[0].strip() for line in describe_plans(Plans.of(plans)).splitlines() if line[:2] in (" *", " +")
    ]
    sizes = [" x ".join(map(str, record["patch_sizes"][name]["patch_size"])) for name in ("3d_fullres", CUBIC)]
    assert marked[:2] == [f"* {sizes[0]}", f"+ {sizes[1]}"]
    assert max(map(len, describe_plans(Plans.of(plans)).splitlines())) <= 100
    # Where both are the same patch, it has both marks.
    record["patch_sizes"]["3d_fullres"] = record["patch_sizes"][CUBIC]
    assert f"*+ {sizes[1]}" in describe_plans(Plans.of(plans))


def test_plans_can_be_explained_again_without_the_raw_dataset(small_dataset, monkeypatch, capsys):
    variables, base = small_dataset
    monkeypatch.setenv("nnUNet_preprocessed", variables["nnUNet_preprocessed"])
    plans = base / "nnUNet_preprocessed" / "Dataset007_Small" / "nnUNetRectalSMITSmallPlans.json"
    stored = plans.with_name("nnUNetRectalSMITSmallPlans_explanation.txt")
    explanation, before = stored.read_text(), plans.read_bytes()
    stored.unlink()
    main(["plan", "-d", "7", "-p", "nnUNetRectalSMITSmallPlans"])
    assert capsys.readouterr().out == explanation == stored.read_text()
    assert plans.read_bytes() == before


def test_plans_that_are_missing_or_not_ours_cannot_be_explained(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "Dataset501_Tiny"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    (folder / "nnUNetPlans.json").write_text(
        json.dumps({"plans_name": "nnUNetPlans", "dataset_name": folder.name, "configurations": {}})
    )
    for name, message in (
        ("Other", "Plans of this dataset: nnUNetPlans"),
        ("nnUNetPlans", "Plan again with --backbone"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(["plan", "-d", "501", "-p", name])
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(folder.glob("*_explanation.txt"))
