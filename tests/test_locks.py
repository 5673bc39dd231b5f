"""Two processes at once: one key, one dataset of an id, one training of a fold."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pipeline import what_is_not_whole
from sharing_inputs import CASES, contents, set_folders, write_dataset

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import claimed_id
from rectal_nnformer.planning import plan_dataset
from rectal_nnformer.utils.files import locked

HOLD = """
import sys, time
from pathlib import Path
from rectal_nnformer.utils.files import locked

with locked(Path(sys.argv[1]), "held"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
COMMAND = "import sys; from rectal_nnformer.cli import main; main(sys.argv[1:])"


def start(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/lock for a minute."""
    process = start(HOLD, tmp_path / "lock", 60)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_what_another_process_holds_is_refused_and_free_after_it_was_killed(tmp_path, holder):
    with pytest.raises(RectalError, match="wait for it"), locked(tmp_path / "lock", "wait for it"):
        raise AssertionError
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "lock", "wait for it"):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_waiting_says_so_once_and_ends_with_the_other_process(tmp_path, capsys):
    process = start(HOLD, tmp_path / "lock", 1)
    process.stdout.readline()
    with locked(tmp_path / "lock", "waiting", wait=True):
        process.wait(10)
    assert capsys.readouterr().out == "waiting\n" and not (tmp_path / "lock").exists()


def test_a_worker_that_outlives_a_killed_process_holds_nothing(tmp_path):
    program = HOLD.replace('print("held"', 'import os\n    if os.fork() == 0: time.sleep(60)\n    print("held"')
    process = start(program, tmp_path / "lock", 60)
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    try:
        with locked(tmp_path / "lock", "wait for it"):
            pass
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)


def test_many_at_once_take_turns(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom rectal_nnformer.utils.files import locked\n"
        "count = Path(sys.argv[2])\n"
        "for _ in range(20):\n"
        "    with locked(Path(sys.argv[1]), 'waiting', wait=True):\n"
        "        count.write_text(str(int(count.read_text()) + 1))\n"
    )
    (tmp_path / "count").write_text("0")
    processes = [start(program, tmp_path / "lock", tmp_path / "count") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"


def test_two_pseudonymizing_exports_at_once_have_one_key(tmp_path, monkeypatch):
    folder = write_dataset(set_folders(monkeypatch, tmp_path))
    outputs = [tmp_path / f"{number}.zip" for number in range(2)]
    processes = [start(COMMAND, "export_dataset", "-d", 501, "-o", path, "--pseudonymize") for path in outputs]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    with (folder / "pseudonyms.csv").open(encoding="utf-8") as file:
        key = dict(list(csv.reader(file))[1:])
    assert key.keys() == set(CASES)
    for path in outputs:
        splits = json.loads(contents(path)[0]["splits_final.json"])
        assert {case for fold in splits for case in fold["val"]} == set(key.values())
    assert not list(folder.glob(".*"))


def test_two_conversions_under_one_id_and_other_names_do_not_both_succeed(tmp_path, monkeypatch):
    set_folders(monkeypatch, tmp_path)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(6):
        image = np.random.default_rng(number).normal(size=(12, 24, 24)).astype(np.float32)
        mask = np.zeros(image.shape, np.uint8)
        mask[3:6, 8:14, 8 + number : 14 + number] = 1
        sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / f"images/case_{number}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / f"masks/case_{number}.nii.gz"))
    common = ("--images", tmp_path / "images", "--masks", tmp_path / "masks", "-d", 501, "-np", 1, "--name")
    processes = [start(COMMAND, "convert", "nifti", *common, name) for name in ("One", "Two")]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], printed
    (refused,) = (text for text, process in zip(printed, processes, strict=True) if process.returncode)
    assert "Dataset501" in refused and "Traceback" not in refused
    (dataset,) = (tmp_path / "nnUNet_raw").iterdir()
    assert len(list((dataset / "imagesTr").iterdir())) == 6


def test_an_id_that_was_taken_meanwhile_is_refused(tmp_path):
    (tmp_path / "Dataset501_Other").mkdir()
    with pytest.raises(RectalError, match="Dataset501_Other was made meanwhile"), claimed_id(tmp_path / "Dataset501_A"):
        raise AssertionError
    before = time.monotonic()
    with claimed_id(tmp_path / "Dataset502_A"):
        assert time.monotonic() - before < 1
    assert [path.name for path in tmp_path.iterdir()] == ["Dataset501_Other"]


def test_planning_waits_for_another_process_that_plans_the_dataset(small_dataset, monkeypatch, capfd):
    """Else each removes the folder in which the other makes its data."""
    variables, base = small_dataset
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, variables[name])
    lock = base / "nnUNet_preprocessed/.Dataset007.lock"
    process = start(HOLD, lock, 1)
    process.stdout.readline()
    plan_dataset(7, "smit_small", num_processes=1, num_processes_fingerprint=1)
    assert process.poll() == 0 and not lock.exists()
    printed = capfd.readouterr().out
    assert printed.count("Dataset007_Small is being planned or imported by another process. Waiting for it.") == 1
    assert "has been preprocessed already" in printed


@pytest.mark.slow
def test_two_plannings_of_one_dataset_at_once_both_succeed(small_dataset, tmp_path):
    """The second finds what the first has made, and makes nothing again."""
    variables, base = small_dataset
    variables = {**variables, "nnUNet_preprocessed": str(tmp_path)}
    arguments = ("plan_and_preprocess", "-d", "7", "--backbone", "smit_small", "-np", "1", "-npfp", "1")
    command = [sys.executable, "-c", COMMAND, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    processes = [subprocess.Popen(command, env=variables, **pipes) for _ in range(2)]
    printed = sorted(
        process.communicate(timeout=300)[0].count("has been preprocessed already") for process in processes
    )
    assert [process.returncode for process in processes] == [0, 0] and printed == [0, 1]
    assert not list(tmp_path.rglob(".*")) and not what_is_not_whole(tmp_path)
    made, expected = tmp_path / "Dataset007_Small", base / "nnUNet_preprocessed/Dataset007_Small"
    assert sorted(map(str, (p.relative_to(made) for p in made.rglob("*")))) == sorted(
        map(str, (p.relative_to(expected) for p in expected.rglob("*")))
    )
