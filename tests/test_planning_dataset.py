"""Planning and preprocessing raw datasets through nnU-Net, on six tiny volumes."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from small_datasets import IN_LPS, set_folders, write_raw_dataset, write_volume
from test_planning_memory import affine_count

from rectal_nnformer.augmentation.settings import PLANNED, PUBLISHED
from rectal_nnformer.cli import data, main
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.volumes import check_volume
from rectal_nnformer.networks.adapter import NETWORK_CLASSES
from rectal_nnformer.nnunet.names import NETWORKS
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.planning import (
    BACKBONES,
    RectalExperimentPlanner,
    api,
    describe_plans,
    memory,
    plan_dataset,
    preprocessing,
)
from rectal_nnformer.planning.fingerprint import planned_augmentation
from rectal_nnformer.planning.intensity_window import case_percentiles, read_normalized
from rectal_nnformer.planning.planner import LINEAR

DATASET = "Dataset501_Tiny"
CASES = [f"case{i}" for i in range(6)]
SIZE, SPACING = (32, 40, 12), (0.5, 0.5, 3.0)
DATA = "nnUNetRectalPlans_3d_fullres_1.0x1.0x1.0mm"


def volume(case, size=SIZE):
    """A bright ramp along patient left to right, with a border of zeros and noise of its own."""
    rng = np.random.default_rng(CASES.index(case))
    array = rng.normal(300, 20, size[::-1]) + 10 * np.arange(size[0])
    array[:, :2] = 0
    return array.astype(np.float32)


def write_image(path, array, spacing=SPACING):
    write_volume(path, array, spacing, IN_LPS)


def write_dataset(raw, **dataset_json):
    cases = {}
    for number, case in enumerate(CASES):
        label = np.zeros(SIZE[::-1], dtype=np.uint8)
        label[5:8, 10 + number : 20 + number, 10:20] = 1
        cases[case] = volume(case), label
    return write_raw_dataset(raw / DATASET, cases, SPACING, IN_LPS, **dataset_json)


@pytest.fixture(scope="module")
def planned_once(tmp_path_factory):
    """A dataset planned and preprocessed for smit_small under nnUNet_n_proc_DA=0; tests work on copies of it."""
    base = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(monkeypatch, base)
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        write_dataset(base / "nnUNet_raw")
        plan_dataset(501, "smit_small", num_processes=1, num_processes_fingerprint=1)
    return base


@pytest.fixture
def planned(planned_once, tmp_path, monkeypatch):
    """The folder nnUNet_preprocessed/Dataset501_Tiny of a copy, times of files included."""
    shutil.copytree(planned_once, tmp_path, dirs_exist_ok=True)
    set_folders(monkeypatch, tmp_path)
    return tmp_path / "nnUNet_preprocessed" / DATASET


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """The folder nnUNet_raw of an empty installation."""
    set_folders(monkeypatch, tmp_path)
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def stock_preprocessing(planned, monkeypatch):
    """Put one that copies the finished data in place of nnU-Net's preprocessing; count calls."""
    finished = planned.parent / "finished"
    shutil.copytree(planned / DATA, finished)
    calls = Counter()

    def copy_data(dataset_id, plans_identifier, configuration, num_processes):
        plans = json.loads((planned / f"{plans_identifier}.json").read_text())
        assert configuration == "3d_fullres"
        calls[plans["plans_name"]] += 1
        target = planned / plans["configurations"]["3d_fullres"]["data_identifier"]
        shutil.copytree(finished, target, dirs_exist_ok=True)

    monkeypatch.setattr(preprocessing, "run_preprocessing", copy_data)
    return calls


@pytest.fixture
def stock_fingerprint(planned, monkeypatch):
    """Put nnU-Net's fingerprint extraction in place of one that writes the finished file, and count its calls."""
    finished = (planned / "dataset_fingerprint.json").read_text()
    calls = Counter()

    def write_fingerprint(dataset_id, *arguments, clean, verbose):
        if not (planned / "dataset_fingerprint.json").is_file() or clean:
            calls[dataset_id] += 1
            (planned / "dataset_fingerprint.json").write_text(finished)

    monkeypatch.setattr(api, "extract_fingerprint_dataset", write_fingerprint)
    return calls


@pytest.fixture
def stock_memory(monkeypatch):
    """Put memory that is linear in the voxels in place of the count, which takes seconds for each patch."""
    count = affine_count()
    monkeypatch.setattr(
        memory, "step_memory", lambda network, patch_size, batch_size, **_: count(patch_size, batch_size)
    )


def read_plans(folder, name="nnUNetRectalSMITSmallPlans"):
    return json.loads((folder / f"{name}.json").read_text())


def run_cli(*arguments):
    main(["plan_and_preprocess", *arguments])


def test_plans_name_stock_classes_and_both_configurations(planned):
    manager = PlansManager(str(planned / "nnUNetRectalSMITSmallPlans.json"))
    assert manager.available_configurations == ["3d_fullres", "3d_fullres_cubic"]
    assert manager.image_reader_writer_class.__name__ == "SimpleITKIOWithReorient"
    fullres, cubic = (manager.get_configuration(name) for name in manager.available_configurations)
    # 16 x 19 x 36 voxels at 1 mm (two of 40 rows are cropped away): 36 of 48 are three quarters, 19 of 32 are not.
    assert (fullres.patch_size, cubic.patch_size) == ([48, 16, 16], [48, 48, 48])
    assert fullres.spacing == [1, 1, 1]
    assert fullres.batch_size == cubic.batch_size == 2
    assert fullres.data_identifier == cubic.data_identifier == DATA
    assert fullres.normalization_schemes == ["ZScoreNormalization"]
    assert fullres.use_mask_for_norm == [False]
    for resample in (fullres.resampling_fn_data, fullres.resampling_fn_seg, fullres.resampling_fn_probabilities):
        assert resample.keywords["force_separate_z"] is False
        assert resample.keywords["order"] == 1


def test_plans_hold_what_the_network_is_built_from(planned):
    architecture = read_plans(planned)["configurations"]["3d_fullres"]["architecture"]
    arguments = architecture["arch_kwargs"]
    assert architecture["network_class_name"] == "rectal_nnformer.networks.adapter.PlannedNetwork"
    assert arguments["backbone"] == "smit"
    assert arguments["backbone_kwargs"] == {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    assert arguments["spatial_axes"] == [2, 1, 0]


def test_intensity_window_is_the_median_of_percentiles_of_the_normalized_images(planned):
    percentiles = []
    for case in CASES:
        image = volume(case)[:, 2:]
        percentiles.append(np.percentile((image - image.mean()) / image.std(), (0, 99.5)))
    arguments = read_plans(planned)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    np.testing.assert_allclose(arguments["intensity_window"], [np.median(percentiles, axis=0)], rtol=1e-5)


def test_every_channel_has_its_own_window(tmp_path):
    paths = [tmp_path / f"case0_000{channel}.nii.gz" for channel in range(2)]
    write_image(paths[0], volume("case0"))
    write_image(paths[1], -volume("case0"))
    image = read_normalized("case0", [str(path) for path in paths], SimpleITKIO, [False, False])
    first, second = case_percentiles(image)
    image = volume("case0")[:, 2:]
    for sign, window in ((1, first), (-1, second)):
        expected = np.percentile(sign * (image - image.mean()) / image.std(), (0, 99.5))
        np.testing.assert_allclose(window, expected, rtol=1e-4)


def test_planning_notes_by_what_a_scan_is_recognized(planned):
    digests = json.loads((planned / "image_digests.json").read_text())
    checked = check_volume(planned.parents[1] / "nnUNet_raw" / DATASET / "imagesTr/case1_0000.nii.gz")
    assert list(digests) == CASES and digests["case1"] == checked.digest


class TestPreparedVolumes:
    """Scaled to [0, 800] beforehand, as the channel name noNorm says: left alone, by nnU-Net and by the window."""

    def dataset(self, base, monkeypatch, top):
        set_folders(monkeypatch, base)
        folder = write_dataset(base / "nnUNet_raw", channel_names={"0": "noNorm"})
        for case in CASES:
            array = volume(case)
            scaled = np.maximum(array / array.max() * top, 0.001).astype(np.float32)
            write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", scaled)

    def test_their_intensities_stay_and_the_window_is_that_of_preparation(self, tmp_path, monkeypatch):
        self.dataset(tmp_path, monkeypatch, 790)
        plan_dataset(501, "smit_small", num_processes=1, num_processes_fingerprint=1)
        preprocessed_folder = tmp_path / "nnUNet_preprocessed" / DATASET
        configuration = read_plans(preprocessed_folder)["configurations"]["3d_fullres"]
        assert configuration["normalization_schemes"] == ["NoNormalization"]
        assert configuration["architecture"]["arch_kwargs"]["intensity_window"] == [[0, 800]]
        folder = str(preprocessed_folder / DATA)
        image = np.asarray(infer_dataset_class(folder)(folder).load_case("case0")[0][:])
        assert 0.0009 <= image.min() < 0.0011
        assert 600 < image.max() <= 790.001

    @pytest.mark.parametrize("top", [1.0, 1500])
    def test_other_intensities_under_that_name_are_refused(self, tmp_path, monkeypatch, top):
        self.dataset(tmp_path, monkeypatch, top)
        with pytest.raises(RectalError, match=rf"Case case\d: .*'noNorm'.* 0 to 800, .* to {top:g}"):
            plan_dataset(501, "smit_small", num_processes=1, num_processes_fingerprint=1)


def test_preprocessed_data_are_linear_between_slices_and_in_ras_order(planned):
    data, segmentation, _, _ = infer_dataset_class(str(planned / DATA))(str(planned / DATA)).load_case("case0")
    image = np.asarray(data[:])[0]
    assert image.shape == (36, 19, 16)
    # Nearest neighbour would repeat each slice three times.
    differences = np.abs(np.diff(image, axis=0)).max(axis=(1, 2))
    assert (differences > 1e-3).sum() > 30
    # The ramp rises to the patient's left in the file; nnU-Net holds x rising to the right.
    assert (np.diff(image.mean(axis=(0, 1))) < 0).all()
    assert set(np.unique(np.asarray(segmentation[:]))) == {0, 1}


def test_record_and_summary_give_spacing_patch_and_token_accounting(planned):
    plans = read_plans(planned)
    record = plans["rectal_nnformer"]
    assert record["patch_sizes"]["3d_fullres"]["patch_size"] == [16, 16, 48]
    assert record["patch_sizes"]["3d_fullres"]["real_voxel_share"] == pytest.approx([1, 1, 0.75])
    assert record["patch_sizes"]["3d_fullres"]["real_token_fraction"] == pytest.approx([9 / 12, 5 / 6])
    assert [48, 48, 48] in [alternative["patch_size"] for alternative in record["alternatives"]]
    summary = describe_plans(Plans.of(plans))
    assert (planned / "nnUNetRectalSMITSmallPlans_explanation.txt").read_text() == summary + "\n"
    assert max(map(len, summary.splitlines())) <= 100
    text = " ".join(summary.split())
    assert "1.00 x 1.00 x 1.00 mm: the median 0.50 x 0.50 x 3.00 has the geometric mean 0.91" in text
    assert text == " ".join(describe_plans(Plans.of(plans), width=None).split())
    assert "16 x 16 x 48" in summary
    assert "0.750 0.833" in summary


def test_all_backbones_share_one_preprocessing(planned, stock_preprocessing, stock_memory, capsys):
    plan_dataset(501, "smit", num_processes=1)
    plan_dataset(501, "swin_unetr", num_processes=1, gpu_memory_target=80)
    plan_dataset(501, "swin_unetr_v2", num_processes=1)
    assert not stock_preprocessing
    assert "preprocessed already" in capsys.readouterr().out
    for name, patch in (
        ("nnUNetRectalSMITPlans", [64, 64, 64]),
        ("nnUNetRectalSwinUNETRPlans", [64, 32, 32]),
        ("nnUNetRectalSwinUNETRV2Plans", [64, 32, 32]),
    ):
        fullres = read_plans(planned, name)["configurations"]["3d_fullres"]
        assert (fullres["data_identifier"], fullres["patch_size"]) == (DATA, patch)


def test_another_spacing_gets_its_own_data(planned, stock_preprocessing, stock_memory):
    plans = plan_dataset(
        501, "smit", overwrite_target_spacing=(2, 0.7, 0.7), plans_name="Coarse", num_processes=1
    ).content
    fullres = plans["configurations"]["3d_fullres"]
    assert fullres["data_identifier"] == "nnUNetRectalPlans_3d_fullres_0.7x0.7x2.0mm"
    assert fullres["spacing"] == [2.0, 0.7, 0.7]
    assert stock_preprocessing == {"Coarse": 1}
    assert (planned / DATA / "case0.b2nd").is_file()
    assert (planned / fullres["data_identifier"] / "case0.b2nd").is_file()


def test_coarsest_axis_comes_first_and_the_network_is_told(planned):
    plans = plan_dataset(501, "smit_small", overwrite_target_spacing=(1.0, 1.0, 2.0), preprocess=False).content
    fullres = plans["configurations"]["3d_fullres"]
    assert plans["transpose_forward"] == [2, 0, 1]
    assert fullres["spacing"] == [2.0, 1.0, 1.0]
    # Planned for x, y, z: 8 x 19 x 36 voxels.
    assert plans["rectal_nnformer"]["patch_sizes"]["3d_fullres"]["patch_size"] == [16, 16, 48]
    assert fullres["patch_size"] == [16, 48, 16]
    assert fullres["median_image_size_in_voxels"] == [8, 36, 19]
    assert fullres["architecture"]["arch_kwargs"]["spatial_axes"] == [0, 2, 1]
    assert fullres["data_identifier"] == "nnUNetRectalPlans_3d_fullres_2.0x1.0x1.0mm_axes201"


SHALLOW = {"depths": [2, 2], "num_heads": [2, 4]}


def test_smaller_networks_and_patches_can_be_planned(planned, stock_memory):
    plans = plan_dataset(
        501, "smit", plans_name="Tiny", backbone_kwargs=SHALLOW, max_patch_size=32, preprocess=False
    ).content
    assert plans == read_plans(planned, "Tiny")
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [32, 16, 16]
    assert plans["configurations"]["3d_fullres_cubic"]["patch_size"] == [32, 32, 32]


def test_planning_again_keeps_no_configuration_of_older_plans(planned):
    plans = read_plans(planned)
    plans["configurations"]["own"] = {"inherits_from": "3d_fullres"}
    (planned / "nnUNetRectalSMITSmallPlans.json").write_text(json.dumps(plans))
    plan_dataset(501, "smit_small", preprocess=False)
    assert "own" not in read_plans(planned)["configurations"]


def said_by(capsys, command, *options):
    """Return what a command that plans says, on one line."""
    main([command, "-d", "501", "--backbone", "smit_small", "-npfp", "1", *options])
    return " ".join(capsys.readouterr().out.split())


def train(planned, fold, model="Trainer__nnUNetRectalSMITSmallPlans__3d_fullres"):
    """Leave what nnU-Net leaves of a fold that was trained by the plans of now."""
    folder = planned.parents[1] / "nnUNet_results" / DATASET / model
    (folder / f"fold_{fold}").mkdir(parents=True)
    shutil.copy(planned / "nnUNetRectalSMITSmallPlans.json", folder / "plans.json")
    (folder / f"fold_{fold}/checkpoint_latest.pth").touch()


def test_the_same_plans_again_replace_nothing(planned, stock_fingerprint, capsys):
    train(planned, 0)
    said = said_by(capsys, "plan")
    assert "is replaced" not in said and "Trained by other plans" not in said and "do not fit" not in said


def test_replaced_plans_say_what_differs_and_which_folds_no_longer_fit(planned, stock_fingerprint, capsys):
    train(planned, 1)
    (planned.parents[1] / "nnUNet_results" / DATASET / "Trainer__OtherPlans__3d_fullres/fold_0").mkdir(parents=True)
    said = said_by(capsys, "plan", "-overwrite_target_spacing", "2", "1", "1", "--lesion-wise")
    assert "WARNING: " in said and "nnUNetRectalSMITSmallPlans.json was there and is replaced" in said
    assert "3d_fullres spacing [1.0, 1.0, 1.0] -> [2.0, 1.0, 1.0]" in said and "augmentation" in said
    assert "normalization_schemes" not in said.partition("is replaced")[2]
    assert "Trainer__nnUNetRectalSMITSmallPlans__3d_fullres/fold_1" in said and "OtherPlans__" not in said
    assert said.count("-overwrite_plans_name NAME") == 2
    assert "have no preprocessed data yet" in said and "1.0x1.0x2.0mm" in said
    assert said.index("GB of a GPU") < said.index("is replaced"), "the warnings must not scroll away"


def test_preprocessing_again_leaves_only_the_folds_to_warn_of(planned, stock_fingerprint, stock_preprocessing, capsys):
    train(planned, 0)
    options = ("-overwrite_target_spacing", "2", "1", "1")
    said_by(capsys, "plan_and_preprocess", *options)
    said = said_by(capsys, "plan_and_preprocess", *options)
    assert "Trained by other plans of this name: Trainer__nnUNetRectalSMITSmallPlans__3d_fullres/fold_0" in said
    assert "is replaced" not in said and "preprocessed data in" not in said


def test_plans_under_another_name_replace_nothing(planned, stock_fingerprint, capsys):
    train(planned, 0)
    options = ("-overwrite_plans_name", "TwoPlans", "-overwrite_target_spacing", "2", "1", "1")
    said = said_by(capsys, "plan", *options)
    assert "is replaced" not in said and "Trained by" not in said
    assert read_plans(planned)["configurations"]["3d_fullres"]["spacing"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("content", ["[]", "{", '{"configurations": {"2d": []}}'])
def test_a_damaged_plans_file_is_replaced_and_named(planned, stock_fingerprint, capsys, content):
    (planned / "nnUNetRectalSMITSmallPlans.json").write_text(content)
    assert "everything, it cannot be read as plans" in said_by(capsys, "plan")


def test_planning_alone_tells_that_the_data_are_of_older_images(planned, stock_fingerprint, capsys):
    label = planned.parents[1] / "nnUNet_raw" / DATASET / "labelsTr/case0.nii.gz"
    os.utime(label, (1, 1))
    said = said_by(capsys, "plan")
    assert f"The preprocessed data in {planned / DATA} do not fit these plans" in said
    assert "Run 'rectal_nnformer plan_and_preprocess' with the same options" in said


def test_nnunets_planning_call_takes_the_planner(planned, stock_memory):
    plans, name = plan_experiment_dataset(501, RectalExperimentPlanner, overwrite_target_spacing=(1.5, 1.5, 1.5))
    assert name == "nnUNetRectalSMITPlans"
    assert read_plans(planned, name) == plans
    assert plans["configurations"]["3d_fullres"]["spacing"] == [1.5, 1.5, 1.5]


def test_interrupted_preprocessing_leaves_neither_plans_nor_data(planned, stock_preprocessing, monkeypatch):
    copy_data = preprocessing.run_preprocessing
    (planned / "nnUNetRectalSMITSmallPlans.json").unlink()
    remove_record(planned)

    def interrupted(*arguments):
        copy_data(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(preprocessing, "run_preprocessing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan_dataset(501, "smit_small", num_processes=1)
    assert not (planned / DATA).exists()
    assert not list(planned.glob("*Plans.json"))
    assert not list(planned.glob(".*"))
    monkeypatch.setattr(preprocessing, "run_preprocessing", copy_data)
    plan_dataset(501, "smit_small", num_processes=1)
    assert len(list((planned / DATA).glob("*.pkl"))) == len(CASES)


def remove_case(planned):
    (planned / DATA / "case3.pkl").unlink()


def cut_case(planned):
    (planned / DATA / "case3_seg.b2nd").write_bytes(b"")


def overwrite_within_case(planned):
    path = planned / DATA / "case3.b2nd"
    content = bytearray(path.read_bytes())
    content[-400:-200] = bytes(200)
    path.write_bytes(content)


def remove_record(planned):
    (planned / f"{DATA}_source.json").unlink()


def cut_reference(planned):
    reference = planned / "gt_segmentations" / "case3.nii.gz"
    reference.write_bytes(reference.read_bytes()[:50])


def remove_reference(planned):
    (planned / "gt_segmentations" / "case3.nii.gz").unlink()


@pytest.mark.parametrize(
    "damage", [remove_case, cut_case, overwrite_within_case, remove_record, cut_reference, remove_reference]
)
def test_incomplete_data_are_made_again(planned, stock_preprocessing, damage):
    damage(planned)
    plan_dataset(501, "smit_small", num_processes=1)
    assert stock_preprocessing == {"nnUNetRectalSMITSmallPlans": 1}


def test_half_copied_references_are_copied_again(planned, stock_preprocessing):
    reference = planned / "gt_segmentations" / "case3.nii.gz"
    whole = reference.read_bytes()
    cut_reference(planned)
    plan_dataset(501, "smit_small", num_processes=1)
    assert reference.read_bytes() == whole


def test_a_reference_that_a_full_disk_cuts_off_is_not_left(planned, stock_preprocessing, monkeypatch):
    remove_record(planned)
    remove_reference(planned)

    def fill_up(_, target):
        Path(target).write_bytes(b"begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy2", fill_up)
    with pytest.raises(RectalError, match="No space left on device"):
        plan_dataset(501, "smit_small", num_processes=1)
    left = {path.name for path in (planned / "gt_segmentations").iterdir()}
    assert left == {f"{case}.nii.gz" for case in CASES} - {"case3.nii.gz"}


def test_leftovers_of_a_killed_run_are_removed(planned, stock_preprocessing):
    remove_record(planned)
    (planned / f".{DATA}.abc.partial").mkdir()
    (planned / f".{DATA}.abc.partial.json").write_text("{}")
    plan_dataset(501, "smit_small", num_processes=1)
    assert not list(planned.glob(".*"))


def test_changed_raw_data_are_noticed(planned, stock_fingerprint, stock_preprocessing):
    raw = planned.parents[1] / "nnUNet_raw" / DATASET
    write_image(raw / "imagesTr" / "case0_0000.nii.gz", volume("case0") ** 2)
    before = json.loads((planned / "rectal_intensity_window.json").read_text())
    plan_dataset(501, "smit_small", num_processes=1, num_processes_fingerprint=1)
    after = json.loads((planned / "rectal_intensity_window.json").read_text())
    assert before["cases"]["case0"] != after["cases"]["case0"]
    assert before["cases"]["case1"] == after["cases"]["case1"]
    assert stock_fingerprint == {501: 1}
    assert stock_preprocessing == {"nnUNetRectalSMITSmallPlans": 1}


def test_clean_makes_everything_again(planned, stock_fingerprint, stock_preprocessing):
    window_file = planned / "rectal_intensity_window.json"
    window_file.write_text(window_file.read_text().replace('"case0"', '"outdated"'))
    plan_dataset(501, "smit_small", num_processes=1, num_processes_fingerprint=1, clean=True)
    assert list(json.loads(window_file.read_text())["cases"]) == CASES
    assert stock_fingerprint == {501: 1}
    assert stock_preprocessing == {"nnUNetRectalSMITSmallPlans": 1}


def test_a_dataset_planned_before_gets_its_tumour_fingerprint(planned, stock_fingerprint, stock_preprocessing):
    """And nothing else is made again."""
    path = planned / "rectal_fingerprint.json"
    before, window = path.read_text(), (planned / "rectal_intensity_window.json").read_text()
    path.unlink()
    plan_dataset(501, "smit_small", num_processes=1, num_processes_fingerprint=1)
    assert path.read_text() == before
    assert (planned / "rectal_intensity_window.json").read_text() == window
    assert not stock_fingerprint and not stock_preprocessing


def test_plans_hold_the_published_augmentation_unless_asked(planned):
    assert read_plans(planned)["rectal_nnformer"]["augmentation"] == {
        "ranges": "published",
        "lesion_wise": False,
        "channels": [{"name": "T2w", "scale": [0.5, 1.5], "shift": [-0.2, 0.2]}],
    }


def test_planned_augmentation_and_lesion_wise_draws_reach_the_plans(planned, capsys):
    run_cli("-d", "501", "--backbone", "smit_small", "--no_pp", "--tumor-augmentation", "planned", "--lesion-wise")
    stored = read_plans(planned)["rectal_nnformer"]["augmentation"]
    fingerprint = json.loads((planned / "rectal_fingerprint.json").read_text())
    assert stored == {"ranges": "planned", "lesion_wise": True, **planned_augmentation(fingerprint)}
    assert "(planned, one draw per lesion)" in capsys.readouterr().out


def test_augmentation_is_planned_from_a_fingerprint_that_is_up_to_date(planned):
    with pytest.raises(RectalError, match="'published' or 'planned', not 'wide'"):
        RectalExperimentPlanner(501, tumor_augmentation="wide")
    (planned / "rectal_fingerprint.json").unlink()
    with pytest.raises(RectalError, match=r"or tumour fingerprint.*'rectal_nnformer plan -d 501"):
        RectalExperimentPlanner(501, tumor_augmentation="planned")


def test_suspected_masks_are_told_at_the_end(planned, stock_fingerprint, capsys):
    label = np.zeros(SIZE[::-1], dtype=np.uint8)
    write_image(planned.parents[1] / "nnUNet_raw" / DATASET / "labelsTr" / "case2.nii.gz", label)
    run_cli("-d", "501", "--backbone", "smit_small", "--no_pp", "-npfp", "1")
    assert "WARNING: Look at the mask of case case2: it holds no tumour." in capsys.readouterr().out


def test_fingerprint_cut_short_is_made_again(planned, stock_fingerprint):
    fingerprint = planned / "dataset_fingerprint.json"
    whole = fingerprint.read_text()
    fingerprint.write_text(whole[:100])
    plan_dataset(501, "smit_small", preprocess=False)
    assert fingerprint.read_text() == whole
    plan_dataset(501, "smit_small", preprocess=False)
    assert stock_fingerprint == {501: 1}


def test_folds_of_the_raw_dataset_are_used_and_never_replaced(planned):
    raw = planned.parents[1] / "nnUNet_raw" / DATASET
    folds = [{"train": CASES[:4], "val": CASES[4:]}]
    (raw / "splits_final.json").write_text(json.dumps(folds))
    plan_dataset(501, "smit_small", preprocess=False)
    assert json.loads((planned / "splits_final.json").read_text()) == folds
    (raw / "splits_final.json").write_text(json.dumps([{"train": CASES[2:], "val": CASES[:2]}]))
    with pytest.raises(RectalError, match="holds other folds"):
        plan_dataset(501, "smit_small", preprocess=False)
    assert json.loads((planned / "splits_final.json").read_text()) == folds


def test_command_line_plans_and_says_what_and_why(planned, stock_preprocessing, stock_memory, capsys):
    run_cli("-d", "501", "--backbone", "smit_small", "-np", "1", "-npfp", "1")
    output = capsys.readouterr()
    assert "geometric mean" in output.out
    assert output.out.count("WARNING") == 1
    assert "WARNING: 6 training cases are few" in output.out
    assert re.search(r"batch +2: as many as make 5 % of the dataset, at least 2; ", output.out)
    run_cli("-d", "501", "--backbone", "smit", "--no_pp", "-overwrite_target_spacing", "3", "0.5", "0.5")
    assert read_plans(planned, "nnUNetRectalSMITPlans")["configurations"]["3d_fullres"]["spacing"] == [3, 0.5, 0.5]
    assert not stock_preprocessing
    capsys.readouterr()
    main(["plan", "-d", "501", "--backbone", "smit_small", "-gpu_memory_target", "8", "-npfp", "1"])
    assert describe_plans(Plans.of(read_plans(planned))) in capsys.readouterr().out
    assert read_plans(planned)["rectal_nnformer"]["gpu_memory_target"] == 8
    assert not stock_preprocessing


def test_command_line_warns_of_a_reader_that_does_not_reorient(planned, stock_fingerprint, capsys):
    dataset_json = planned.parents[1] / "nnUNet_raw" / DATASET / "dataset.json"
    content = json.loads(dataset_json.read_text())
    del content["overwrite_image_reader_writer"]
    dataset_json.write_text(json.dumps(content))
    run_cli("-d", "501", "--backbone", "smit_small", "--no_pp", "-npfp", "1")
    assert "Images are read by SimpleITKIO, which does not reorient" in capsys.readouterr().out
    assert read_plans(planned)["image_reader_writer"] == "SimpleITKIO"


def test_command_line_offers_every_backbone_and_augmentation(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "-d", "501", "--backbone", "none"])
    assert f"there is no none, but {', '.join(BACKBONES)}." in capsys.readouterr().err
    assert {backbone.network for backbone in BACKBONES.values()} == set(NETWORKS) == set(NETWORK_CLASSES)
    assert data.AUGMENTATIONS == (PUBLISHED, PLANNED)


def test_unknown_dataset_is_refused(raw):
    with pytest.raises(RectalError, match=r"No dataset is called 501 in nnUNet_raw .* holds no dataset"):
        plan_dataset(501, "smit")


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_missing_variable_is_named(raw, monkeypatch, variable):
    write_dataset(raw)
    monkeypatch.delenv(variable)
    with pytest.raises(RectalError, match=f"{variable} is not set"):
        plan_dataset(501, "smit")


def test_two_datasets_of_one_number_are_refused(raw):
    write_dataset(raw)
    (raw.parent / "nnUNet_preprocessed" / "Dataset501_Other").mkdir()
    with pytest.raises(RectalError, match="More than one dataset has the number 501"):
        plan_dataset(501, "smit")


def test_misspelt_reader_is_refused(raw):
    write_dataset(raw, overwrite_image_reader_writer="SimpleITKIOWithReorientation")
    with pytest.raises(RectalError, match="'SimpleITKIOWithReorientation', which nnU-Net does not have"):
        plan_dataset(501, "smit")


def test_missing_label_and_missing_channel_are_named(raw):
    folder = write_dataset(raw)
    (folder / "labelsTr" / "case2.nii.gz").unlink()
    with pytest.raises(RectalError, match=r"Case case2 .* has no label file"):
        plan_dataset(501, "smit")
    (folder / "imagesTr" / "case1_0001.nii.gz").write_bytes(b"")
    with pytest.raises(RectalError, match=r"Case case1 .* has 2 image files"):
        plan_dataset(501, "smit")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        # ITK reads NaN as 0 from NIfTI, but not from MetaImage.
        (np.full((4, 4, 4), np.nan), "NaN"),
        (np.full((4, 4, 4), 3.0), "same value"),
        (np.zeros((4, 4, 4)), "same value"),
    ],
)
def test_image_without_usable_intensities_is_named(tmp_path, array, message):
    path = tmp_path / "case4_0000.mha"
    write_image(path, array)
    with pytest.raises(RectalError, match=f"Case case4: .*case4_0000.mha .*{message}"):
        read_normalized("case4", [str(path)], SimpleITKIO, [False])


def test_unreadable_image_is_named(raw):
    folder = write_dataset(raw)
    (folder / "imagesTr" / "case4_0000.nii.gz").write_bytes(b"not an image")
    with pytest.raises(RectalError, match=r"case case4: .* cannot be read"):
        plan_dataset(501, "smit", num_processes_fingerprint=1)
    assert not list((raw.parent / "nnUNet_preprocessed").rglob("*.json"))


def test_two_dimensional_dataset_is_refused(planned):
    fingerprint = planned / "dataset_fingerprint.json"
    content = json.loads(fingerprint.read_text())
    content["shapes_after_crop"] = [[1, 40, 32]] * len(CASES)
    content["spacings"] = [[999.0, 1.0, 1.0]] * len(CASES)
    fingerprint.write_text(json.dumps(content))
    with pytest.raises(RectalError, match="two-dimensional"):
        plan_dataset(501, "smit", preprocess=False)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, 1, float("nan"))])
def test_impossible_target_spacing_is_refused(planned, spacing):
    with pytest.raises(RectalError, match="three positive numbers"):
        plan_dataset(501, "smit", overwrite_target_spacing=spacing, preprocess=False)


STOCK = """
import sys
try:
    import rectal_nnformer
except ImportError:
    pass
else:
    sys.exit("the package is not blocked")
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
if __name__ == "__main__":
    preprocess_dataset(501, "nnUNetRectalSMITSmallPlans", ["3d_fullres"], [1])
    dataset = infer_dataset_class(sys.argv[1])(sys.argv[1])
    print(dataset.identifiers, dataset.load_case("case0")[0].shape)
"""


def test_the_data_are_those_of_nnunets_own_preprocessing(planned, tmp_path):
    """Images to rounding, segmentations and the voxels to crop around exactly."""
    plans = PlansManager(str(planned / "nnUNetRectalSMITSmallPlans.json"))
    raw, dataset_json = planned.parents[1] / "nnUNet_raw" / DATASET, json.loads((planned / "dataset.json").read_text())
    data = infer_dataset_class(str(planned / DATA))(str(planned / DATA))
    for case in CASES:
        files = ([str(raw / f"imagesTr/{case}_0000.nii.gz")], str(raw / f"labelsTr/{case}.nii.gz"))
        stock = plans.get_configuration("3d_fullres")
        image, labels, properties = DefaultPreprocessor(verbose=False).run_case(*files, plans, stock, dataset_json)
        found, found_labels, _, found_properties = data.load_case(case)
        np.testing.assert_allclose(found[:], image, atol=1e-5)
        np.testing.assert_array_equal(found_labels[:], labels)
        for label, voxels in properties["class_locations"].items():
            np.testing.assert_array_equal(found_properties["class_locations"][label], voxels)


@pytest.mark.slow
def test_stock_nnunet_preprocesses_and_reads_without_this_package(planned, tmp_path):
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    # Loaded by every interpreter on this path, those that nnU-Net spawns included.
    (blocker / "sitecustomize.py").write_text("import sys\nsys.modules['rectal_nnformer'] = None\n")
    script = tmp_path / "stock.py"
    script.write_text(STOCK)
    shutil.rmtree(planned / DATA)
    assert (planned / "rectal_fingerprint.json").is_file()  # beside nnU-Net's files, and no hindrance
    done = subprocess.run(
        [sys.executable, str(script), str(planned / DATA)],
        env={**os.environ, "PYTHONPATH": str(blocker)},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert f"{CASES} (1, 36, 19, 16)" in done.stdout


REAL = Path(__file__).parents[2] / "shared" / "data" / "pelvic_t2w"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real series are not at hand")
def test_plan_of_real_series(raw):
    folder = raw / DATASET
    write_dataset(raw)
    for path in (*folder.rglob("*.nii.gz"),):
        path.unlink()
    for series in sorted(REAL.glob("*axial")):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
        image = reader.Execute()
        label = sitk.Cast(image * 0, sitk.sitkUInt8)
        label[150:200, 200:260, 6:14] = 1
        sitk.WriteImage(image, str(folder / "imagesTr" / f"{series.name}_0000.nii.gz"))
        sitk.WriteImage(label, str(folder / "labelsTr" / f"{series.name}.nii.gz"))
    expected = {
        "smit": ([128, 128, 64], [0.906, 0.938, 1.0, 1.0], [0.453, 0.469, 0.5, 0.5]),
        "swin_unetr": ([96, 96, 64], [0.795, 0.525, 0.42, 1.0], [0.568, 0.394, 0.42, 0.667]),
    }
    for backbone, (patch_size, fullres, cubic) in expected.items():
        plans = plan_dataset(501, backbone, preprocess=False, num_processes_fingerprint=1).content
        accounts = plans["rectal_nnformer"]["patch_sizes"]
        assert plans["rectal_nnformer"]["target_spacing"] == [1, 1, 1]
        assert accounts["3d_fullres"]["patch_size"] == patch_size
        assert np.round(accounts["3d_fullres"]["real_token_fraction"], 3).tolist() == fullres
        assert np.round(accounts["3d_fullres_cubic"]["real_token_fraction"], 3).tolist() == cubic
        check_explanation_of_real_series(backbone, describe_plans(Plans.of(plans)))


EXPLAINED = {
    # what it is planned for, patch, share of image, real tokens and dilution by stage, GB, mm
    "smit": (
        "64 x 64 x 64 0.89 0.906 0.938 1.000 1.000 0.043 0.050 0.000 0.000 3.5 64 x 64 x 64",
        "* 128 x 128 x 64 0.89 0.906 0.938 1.000 1.000 0.043 0.050 0.000 0.000 8.5 128 x 128 x 64",
        "+ 128 x 128 x 128 0.45 0.453 0.469 0.500 0.500 0.043 0.083 0.125 0.250 15.2 128 x 128 x 128",
        "+ 128 x 128 x 128 0.545 0.525 0.500 0.500",
        "* 128 x 128 x 64 0.091 0.050 0.000 0.000",
    ),
    "swin_unetr": (
        "32 x 32 x 64 0.89 0.481 0.233 0.571 1.000 0.294 0.478 0.250 0.000 2.4 32 x 32 x 64",
        "* 96 x 96 x 64 0.89 0.795 0.525 0.420 1.000 0.111 0.253 0.418 0.000 5.6 96 x 96 x 64",
        "+ 96 x 96 x 96 0.59 0.568 0.394 0.420 0.667 0.102 0.294 0.418 0.333 7.4 96 x 96 x 96",
    ),
}


def check_explanation_of_real_series(backbone, explanation):
    lines = [" ".join(line.split()) for line in explanation.splitlines()]
    for line in EXPLAINED[backbone]:
        assert any(found.startswith(line) for found in lines), explanation
    assert max(map(len, explanation.splitlines())) <= 100
    text = " ".join(explanation.split())
    assert "the median 0.50 x 0.50 x 3.00 has the geometric mean 0.91" in text
    assert "nnU-Net cannot make its 5 folds" in text


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real series are not at hand")
def test_resampling_restores_thick_slices_better_than_nnunets_default():
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(REAL / "prostatex-0000_t2w_sagittal")))
    # The rows of sagittal slices run head to foot: averaging six makes thick axial slices, of two the truth.
    fine = sitk.GetArrayFromImage(reader.Execute())[5:14, :318].astype(np.float32).transpose(1, 2, 0)
    thick, truth = (fine.reshape(-1, n, *fine.shape[1:]).mean(axis=1) for n in (6, 2))
    # Left to right is the same before and after, so its spacing does not matter; nnU-Net takes the largest for z.
    spacings = (3.375, 0.5625, 0.5625), (1.125, 0.5625, 0.5625)

    def error(**options):
        restored = resample_data_or_seg_to_shape(thick[None], truth.shape, *spacings, is_seg=False, **options)[0]
        return np.square(restored - truth).mean() / truth.var()

    assert error(**LINEAR) < 0.9 * error(order=3, order_z=0, force_separate_z=True)


def test_a_disk_with_too_little_space_is_told_before_preprocessing(planned, stock_preprocessing, monkeypatch):
    remove_record(planned)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(RectalError, match=f"The preprocessed data of {DATASET} need at least"):
        plan_dataset(501, "smit_small", num_processes=1)
    assert not stock_preprocessing
