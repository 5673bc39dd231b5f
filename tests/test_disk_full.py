"""A disk that fills up in the middle of a command: an exit code that is not 0, a message, and nothing half-written."""

import os
import re
import resource
import shutil
import subprocess
import threading
from contextlib import suppress
from functools import partial

import pytest
from pipeline import SCRIPTS, run, what_is_not_whole

from rectal_nnformer.evaluation.operating_point import Choice, OperatingPoint, write_point

pytestmark = pytest.mark.slow
PLANS = "nnUNetRectalSMITSmallPlans"
MODEL = ("-d", "7", "-tr", "OneCaseSMIT_CPU", "-p", PLANS)
MEGABYTE = 1_000_000
SAMPLE = [
    ("convert", 20_000, "full"),
    ("convert", MEGABYTE, "freed"),
    ("convert", 100_000, "largest file"),
    ("plan_and_preprocess", MEGABYTE, "freed"),
    ("train", MEGABYTE, "full"),
    ("predict", 1_000, "freed"),
    ("export", MEGABYTE, "full"),
    ("export", MEGABYTE, "largest file"),
    ("report", 20_000, "full"),
    ("predict with a point", 300, "largest file"),
    ("predict with probabilities", 20_000, "largest file"),
    ("export_model", 100_000, "largest file"),
    ("import_model", 100_000, "largest file"),
    ("import_dataset", 100_000, "largest file"),
]
"""Command, after how many bytes the disk is full, and how: for good, freed again, or no file may be that large."""
COMMANDS = (
    *("convert", "plan_and_preprocess", "train", "predict", "export", "report"),
    *("predict with a point", "predict with probabilities", "export_model", "import_model", "import_dataset"),
)
POINTS = 10
SHARES_OF_LARGEST_FILE = (0.1, 0.5, 0.9)
SECONDS_FULL = 0.3
LEAST_FREE = 8192
LOOK_FIRST = ("convert", "plan_and_preprocess", "train")
"""Commands that look whether there is space enough before they begin."""


def pytest_generate_tests(metafunc):
    if "how" in metafunc.fixturenames:
        points = [(point + 0.5) / POINTS for point in range(POINTS)]
        full = [(command, at, how) for how in ("full", "freed") for at in points for command in COMMANDS]
        full += [(command, at, "largest file") for at in SHARES_OF_LARGEST_FILE for command in COMMANDS]
        chosen = full if metafunc.config.getoption("--full-series") else SAMPLE
        metafunc.parametrize(("command", "at", "how"), chosen)


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


class Filler(threading.Thread):
    """Lets a disk be full after some bytes, and may free it a moment later; notes how many were on it at most.

    Where a command looks at the space first, the disk is filled when so many bytes are there; else there is room for no
    more from the start, which also meets a file that is written in one go.
    """

    def __init__(self, disk, at, how, looks_first):
        super().__init__()
        self.disk, self.freed, self.most, self.ended = disk, how == "freed", 0, threading.Event()
        self.ballast, self.at = disk / "ballast", at if looks_first else 0
        if how in ("full", "freed") and not looks_first:
            self._take(shutil.disk_usage(disk).free - at)
        self.waits = how in ("full", "freed") and looks_first

    def run(self):
        while not self.ended.wait(0.002):
            usage = shutil.disk_usage(self.disk)
            self.most = max(self.most, usage.used)
            if self.waits and usage.used >= self.at:
                while (free := shutil.disk_usage(self.disk).free) and not self.ended.is_set():
                    with suppress(OSError):  # the command took some of it meanwhile
                        self._take(free)
                self.waits = False
            if self.freed and not self.waits and shutil.disk_usage(self.disk).free < LEAST_FREE:
                self.ended.wait(SECONDS_FULL)
                self.ballast.unlink()
                self.freed = False

    def _take(self, num_bytes):
        with self.ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), num_bytes)


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
    run(variables, "rectal_nnformer", "export_model", *MODEL, "-f", 0, "-o", own / "model.zip")
    run(variables, "rectal_nnformer", "export_dataset", "-d", 7, "-o", own / "dataset.zip")
    with_point = shutil.copytree(own / "nnUNet_results", own / "with_point")
    for model in with_point.glob("*/*"):
        write_point(Choice("f1", OperatingPoint(0.99, 0.0), True, "", 1, 1, 1, 0), model)
    return variables, own, base


def commands(base, own, disk):
    """For each command its arguments and the variables that put what it writes on the small disk."""
    cohort = base / "cohort"
    convert = ("convert", "nifti", "--images", cohort / "images", "--masks", cohort / "masks", "-d", 8, "--name", "New")
    plan = ("plan_and_preprocess", "-d", 7, "--backbone", "smit_small", "-np", 1, "-npfp", 1)
    train = ("train", 7, "3d_fullres", 1, *MODEL[2:], "-device", "cpu")
    images = own / "nnUNet_raw/Dataset007_Small/imagesTr"
    predict = ("predict", "-i", images, "-o", disk / "masks", *MODEL, "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)
    model = own / f"nnUNet_results/Dataset007_Small/OneCaseSMIT_CPU__{PLANS}__3d_fullres"
    return {
        "convert": (convert, {"nnUNet_raw": str(disk)}),
        "plan_and_preprocess": (plan, {"nnUNet_preprocessed": str(disk)}),
        "train": (train, {"nnUNet_results": str(disk)}),
        "predict": (predict, {}),
        "predict with a point": (predict, {"nnUNet_results": str(own / "with_point")}),
        "predict with probabilities": ((*predict, "--save_probabilities"), {}),
        "export": (("export_dataset", "-d", 7, "-o", disk / "sent.zip"), {}),
        "export_model": (("export_model", *MODEL, "-f", 0, "-o", disk / "model.zip"), {}),
        "import_model": (("import_model", own / "model.zip"), {"nnUNet_results": str(disk)}),
        "import_dataset": (("import_dataset", own / "dataset.zip"), {"nnUNet_preprocessed": str(disk)}),
        "report": (("report", model, "-o", disk / "report.html"), {}),
    }


class Outcome:
    """What a command did on a small disk: exit code, what it printed, which files it left and how large they are."""

    def __init__(self, trained, disk, command, at=0, how="undisturbed"):
        variables, own, base = trained
        arguments, places = commands(base, own, disk)[command]
        filler = Filler(disk, at, how, command in LOOK_FIRST)
        filler.start()
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (at, at)) if how == "largest file" else None
        result = subprocess.run(
            [SCRIPTS / "rectal_nnformer", *map(str, arguments)],
            env={**variables, **places, "TQDM_DISABLE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
            preexec_fn=limit,
        )
        filler.ended.set()
        filler.join()
        self.code, self.printed, self.most = result.returncode, result.stdout, filler.most
        paths = [path for path in disk.rglob("*") if path.is_file() and path.name != "ballast"]
        self.sizes = {without_time(path.relative_to(disk)): path.stat().st_size for path in paths}


def without_time(path):
    return re.sub(r"training_log_[\d_]+", "training_log", str(path))


@pytest.fixture(scope="module")
def undisturbed():
    """What each command does on a disk with room enough, once it was run so."""
    return {}


def test_a_full_disk_is_told_and_leaves_nothing_half_written(trained, undisturbed, disk, command, at, how):
    if isinstance(at, float):
        if command not in undisturbed:
            undisturbed[command] = Outcome(trained, disk, command)
            assert undisturbed[command].code == 0, undisturbed[command].printed[-3000:]
            empty(disk)
        expected = undisturbed[command]
        at = int(at * (max(expected.sizes.values()) if how == "largest file" else expected.most))
    else:
        expected = None
    outcome = Outcome(trained, disk, command, at, how)
    print(f"{command} {how} at {at}: exit code {outcome.code}, {outcome.printed.strip()[-200:]!r}")
    assert not what_is_not_whole(disk), outcome.printed[-3000:]
    if outcome.code == 0:  # it was freed in time, or what was to come fitted into what is left of a block
        assert expected is None or outcome.sizes.keys() == expected.sizes.keys()
        assert how == "freed" or expected
    else:
        assert str(disk) in outcome.printed, outcome.printed[-3000:]


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_the_small_disk_is_there(disk):
    assert os.path.ismount(disk)
