"""A disk that fills up in the middle of a command: an exit code that is not 0, a message, and nothing half-written."""

import os
import shutil
import subprocess
import threading
import time

import pytest
from pipeline import SCRIPTS, run, what_is_not_whole

pytestmark = pytest.mark.slow
PLANS = "nnUNetRectalSMITSmallPlans"
MODEL = ("-d", "7", "-tr", "ShortSMIT_CPU", "-p", PLANS)
MEGABYTE = 1_000_000


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MB in main memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk, free):
    """Leave so many bytes free; return the file that takes the others."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - free))
    return ballast


def free_again(disk, ballast, ended):
    """Remove the ballast a moment after the disk is full."""
    while not ended.is_set():
        if shutil.disk_usage(disk).free < 8192:
            time.sleep(0.3)
            ballast.unlink()
            return
        time.sleep(0.005)


@pytest.fixture(scope="module")
def trained(small_dataset, tmp_path_factory):
    """The small dataset with a trained fold, in folders of its own."""
    variables, base = small_dataset
    own = tmp_path_factory.mktemp("disk_full")
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(base / name, own / name)
    variables = {**variables, **{name: str(own / name) for name in variables if name.startswith("nnUNet_r")}}
    variables["nnUNet_preprocessed"] = str(own / "nnUNet_preprocessed")
    (own / "nnUNet_results").mkdir()
    run(variables, "rectal_nnformer", "train", 7, "3d_fullres", 0, *MODEL[2:], "-device", "cpu")
    return variables, own, base


def commands(base, own, disk):
    """For each command its arguments and the variables that put what it writes on the small disk."""
    cohort = base / "cohort"
    convert = ("convert", "nifti", "--images", cohort / "images", "--masks", cohort / "masks", "-d", 8, "--name", "New")
    plan = ("plan_and_preprocess", "-d", 7, "--backbone", "smit_small", "-np", 1, "-npfp", 1)
    train = ("train", 7, "3d_fullres", 1, *MODEL[2:], "-device", "cpu")
    images = own / "nnUNet_raw/Dataset007_Small/imagesTr"
    predict = ("predict", "-i", images, "-o", disk / "masks", *MODEL, "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)
    model = own / f"nnUNet_results/Dataset007_Small/ShortSMIT_CPU__{PLANS}__3d_fullres"
    return {
        "convert": (convert, {"nnUNet_raw": str(disk)}),
        "plan_and_preprocess": (plan, {"nnUNet_preprocessed": str(disk)}),
        "train": (train, {"nnUNet_results": str(disk)}),
        "predict": (predict, {}),
        "export": (("export_dataset", "-d", 7, "-o", disk / "sent.zip"), {}),
        "report": (("report", model, "-o", disk / "report.html"), {}),
    }


@pytest.mark.parametrize(
    ("command", "free", "freed"),
    [
        ("convert", 20_000, False),
        ("convert", MEGABYTE, False),
        ("convert", MEGABYTE, True),
        ("plan_and_preprocess", MEGABYTE, False),
        ("plan_and_preprocess", MEGABYTE, True),
        ("train", MEGABYTE, False),
        ("predict", 1_000, False),
        ("predict", 1_000, True),
        ("export", MEGABYTE, False),
        ("report", 20_000, False),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing_half_written(trained, disk, command, free, freed):
    variables, own, base = trained
    arguments, places = commands(base, own, disk)[command]
    ballast, ended = fill(disk, free), threading.Event()
    watcher = threading.Thread(target=free_again, args=(disk, ballast, ended))
    if freed:
        watcher.start()
    result = subprocess.run(
        [SCRIPTS / "rectal_nnformer", *map(str, arguments)],
        env={**variables, **places, "TQDM_DISABLE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    ended.set()
    if freed:
        watcher.join()
    printed = result.stdout + result.stderr
    assert result.returncode != 0 or freed, printed[-3000:]
    assert not what_is_not_whole(disk), printed[-3000:]
    assert result.returncode == 0 or str(disk) in printed or "sent.zip" in printed, printed[-3000:]


def test_the_small_disk_is_there(disk):
    assert os.path.ismount(disk)
