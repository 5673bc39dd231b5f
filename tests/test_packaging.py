"""What an installation from a wheel contains."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import rectal_nnformer

CHECKOUT = Path(__file__).parents[1]


def test_a_wheel_holds_one_package_with_trainers_and_conversion_inside(tmp_path):
    source = tmp_path / "source"
    for name in ("rectal_nnformer", "trainers", "dataset_conversion"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert {file.split("/")[0].removesuffix(".dist-info") for file in files} == {
        "rectal_nnformer",
        f"rectal_nnformer-{rectal_nnformer.__version__}",
    }
    for file in (
        "trainers/nnUNetTrainerSMIT.py",
        "dataset_conversion/nifti.py",
        "cli/demo.py",
        "py.typed",
        "reporting/report/assets/report.css",
        "reporting/report/assets/report.js",
    ):
        assert f"rectal_nnformer/{file}" in files
