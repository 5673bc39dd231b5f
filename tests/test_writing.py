"""Volumes arrive whole on the disk, or not at all and with a message."""

import os
import platform
import signal
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from limits import largest_file

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.imaging.writing import write_volume
from rectal_nnformer.nnunet.layout import claimed_id
from rectal_nnformer.utils.files import remove_leftovers, staged_folder, write_json

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from rectal_nnformer.utils.files import staged_file, staged_folder

with staged_file(Path("table.json")) as file, staged_folder(Path("Dataset007_A.B")) as folder:
    file.write_text("half")
    (folder / "half").write_text("half")
    print(os.getpid(), flush=True)
    signal.raise_signal(signal.SIGKILL) if sys.argv[1] == "killed" else sys.stdin.read()
"""


def noise(dtype=np.float32):
    image = sitk.GetImageFromArray((1000 * np.random.default_rng(0).random((20, 40, 60))).astype(dtype))
    image.SetSpacing((1.0, 2.0, 3.0))
    return image


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_written_volume_reads_back(tmp_path, ending, dtype):
    path = tmp_path / f"volume{ending}"
    write_volume(noise(dtype), path)
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), sitk.GetArrayFromImage(noise(dtype)))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("num_bytes", [0, 100, 20_000])
def test_a_volume_that_does_not_fit_is_named_and_removed(tmp_path, ending, num_bytes):
    path = tmp_path / f"volume{ending}"
    with largest_file(num_bytes), pytest.raises(RectalError, match=r"volume.* could not be written whole.*MB left"):
        write_volume(noise(), path)
    assert not list(tmp_path.iterdir())


def test_a_text_that_does_not_fit_leaves_the_previous_one(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, {"a": 1})
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        write_json(path, {"a": "b" * 5000})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


@pytest.fixture
def write_elsewhere(tmp_path):
    """Start another process that writes a file and a folder in `tmp_path`, and is killed or waits."""
    started = []

    def start(what):
        command = [sys.executable, "-c", KILLED_WHILE_WRITING, what]
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        process = subprocess.Popen(command, cwd=tmp_path, **options)
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_both(folder):
    write_json(folder / "table.json", {})
    with staged_folder(folder / "Dataset007_A.B") as staged:
        (staged / "whole").touch()


def test_what_a_killed_process_left_is_removed_when_the_same_is_written_again(tmp_path, write_elsewhere):
    process, _ = write_elsewhere("killed")
    assert process.wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 2 and all(name.startswith(".") for name in names(tmp_path))
    (tmp_path / ".other.json").touch()
    write_both(tmp_path)
    assert names(tmp_path) == [".other.json", "Dataset007_A.B", "table.json"]


def test_what_another_process_is_writing_is_left_alone(tmp_path, write_elsewhere):
    process, _ = write_elsewhere("waiting")
    others = names(tmp_path)
    write_both(tmp_path)
    assert names(tmp_path) == [*others, "Dataset007_A.B", "table.json"]
    process.kill()


def test_what_a_process_of_this_number_left_is_removed(tmp_path):
    """As in containers, where each process begins with the same number."""
    left = tmp_path / f".Dataset007_A.B.{platform.node()}.{os.getpid()}.partial"
    left.mkdir()
    (left / "half").touch()
    write_both(tmp_path)
    assert names(tmp_path) == ["Dataset007_A.B", "table.json"]


def test_what_was_left_on_another_computer_is_removed_by_who_holds_the_lock_alone(tmp_path):
    """Nobody can tell whether that process runs still."""
    folder, file = (
        tmp_path / ".Dataset007_A.B.elsewhere.example.12.partial",
        tmp_path / ".table.elsewhere.12.partial.json",
    )
    folder.mkdir()
    file.touch()
    write_json(tmp_path / "table.json", {})
    with staged_folder(tmp_path / "Dataset007_A.B"):
        assert folder.is_dir() and file.is_file()
    remove_leftovers(tmp_path / "table.json")
    with claimed_id(tmp_path / "Dataset007_A.B"):
        assert names(tmp_path) == [".Dataset007.lock", "Dataset007_A.B", "table.json"]
