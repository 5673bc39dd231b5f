"""What several test modules share, and how they share a machine."""

import multiprocessing
import os
import shutil
import signal
import sys
from functools import lru_cache
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run side by side, and the commands that they start, take one core each. Read when PyTorch is imported.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ.setdefault(variable, "1")
else:
    # For those processes, read when they start: keep memory that was freed, do not fetch it page by page each time.
    os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(2**30))

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in the background of a shell; what tests start and interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from browser import chromium
from pipeline import converted_cohort, environment, run_here

settings.register_profile("rectal_nnformer", deadline=None)  # on a busy machine any example may take long
settings.load_profile("rectal_nnformer")

FIRST = (
    "test_full_size_training",
    "test_pipeline",
    "test_demo",
    "test_training_state",
    "test_trainers",
    "test_planning_dataset",
    "test_planning_cohorts",
    "test_swin_unetr",
)
"""Modules that take longest: begun first, none of them is left for one worker while the others have nothing to do."""


def pytest_addoption(parser):
    text = "kill and fill the disk at all the points that there are, which takes an hour, not at a sample of them"
    parser.addoption("--full-series", action="store_true", help=text)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


def pytest_collection_finish():
    """Leave out what makes nnU-Net slow on a tiny dataset, or in a process that has imported all of the tests.

    It lists the files in twelve processes, several times for each plan. It draws 10e7 intensities of the tumours, with
    replacement, however few voxels they have. It asks where each module lies whenever it looks for a trainer.
    """
    if listing := sys.modules.get("nnunetv2.utilities.utils"):
        listing.Pool = ThreadPool
    if extraction := sys.modules.get("nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor"):
        few = property(lambda _: 1e5, lambda *_: None)
        extraction.DatasetFingerprintExtractor.num_foreground_voxels_for_intensitystats = few
    if search := sys.modules.get("nnunetv2.utilities.find_class_by_name"):
        search._module_originates_from_path = lru_cache(2**16)(search._module_originates_from_path)


@pytest.fixture(autouse=True)
def same_numbers():
    """Let random numbers that a test draws without a seed be the same in any order of the tests."""
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A running Chromium, for tests that `needs_chromium` does not skip."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="session")
def planned_dataset(tmp_path_factory):
    """Base folder of Dataset007_Small: six small cases, converted and planned for smit_small. No test writes in it."""
    base = tmp_path_factory.mktemp("planned_dataset")
    variables = converted_cohort(base, 7, "Small", num_cases=6)
    run_here(
        variables, "rectal_nnformer", "plan_and_preprocess", "-d", 7, "--backbone", "smit_small", "-np", 1, "-npfp", 1
    )
    return base


@pytest.fixture(scope="module")
def small_dataset(planned_dataset, tmp_path_factory):
    """Environment and base folder of Dataset007_Small in a copy of the module's own, to plan and train in."""
    base = tmp_path_factory.mktemp("small_dataset")
    shutil.copytree(planned_dataset, base, dirs_exist_ok=True)
    return environment(base), base


@pytest.fixture(scope="session", autouse=True)
def warm_workers():
    """Fork what would be spawned from a process that has imported nnU-Net, which takes each of them seconds else."""
    started = multiprocessing.get_context
    warm = started("forkserver")
    warm.set_forkserver_preload(["SimpleITK", "torch", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            multiprocessing, "get_context", lambda method=None: warm if method == "spawn" else started(method)
        )
        yield
