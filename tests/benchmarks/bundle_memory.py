"""Measure the memory that sharing a large dataset takes: python -m tests.benchmarks.bundle_memory GB FOLDER.

Writes a preprocessed dataset of about that size into FOLDER (three times that much is needed in all), exports and
imports it as a user does, and prints the time and the peak of resident memory of each command.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from sharing_inputs import CASES, DATA, NAME, write_dataset

COMMAND = Path(sysconfig.get_path("scripts")) / "rectal_nnformer"
LARGE_CASE = (64, 320, 320)
"""Voxels of a case: 26 MB of noise, which no compression makes smaller."""


def write_large_dataset(preprocessed, num_bytes):
    """Write a dataset of about so many bytes, of one case under many names, and return its folder."""
    first = CASES[0]
    folder = write_dataset(preprocessed, (first,), LARGE_CASE)
    (folder / "splits_final.json").unlink()
    size = sum(path.stat().st_size for path in (folder / DATA).iterdir())
    for number in range(1, max(2, round(num_bytes / size))):
        for path in sorted(folder.glob(f"*/{first}*")):
            shutil.copy(path, path.with_name(path.name.replace(first, f"copy_{number:05d}")))
    return folder


def peak(*arguments, folders):
    """Run a command of rectal_nnformer; return its seconds and its peak of resident memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)], env={**os.environ, **folders}, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return time.monotonic() - start, usage.ru_maxrss / 1024


def measure(base, num_bytes):
    """Return the bytes of a large bundle, and seconds and MiB of exporting, inspecting and importing it in `base`."""
    places = {}
    for side in ("home", "away"):
        places[side] = {n: str(base / side / n) for n in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for folder in places[side].values():
            Path(folder).mkdir(parents=True)
    write_large_dataset(base / "home/nnUNet_preprocessed", num_bytes)
    bundle = base / "bundle.zip"
    results = {"export_dataset": peak("export_dataset", "-d", NAME, "-o", bundle, folders=places["home"])}
    size = bundle.stat().st_size
    results["inspect"] = peak("inspect", bundle, folders=places["away"])
    results["import_dataset"] = peak("import_dataset", bundle, folders=places["away"])
    return size, results


if __name__ == "__main__":
    bundle_bytes, measured = measure(Path(sys.argv[2]), float(sys.argv[1]) * 1e9)
    print(f"bundle of {bundle_bytes / 1e9:.2f} GB")
    for name, (seconds, mebibytes) in measured.items():
        print(f"{name}: {seconds:.0f} s, peak resident memory {mebibytes:.0f} MiB")
