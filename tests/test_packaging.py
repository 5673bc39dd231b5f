"""What a wheel, a source distribution and an editable installation contain."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import rectal_nnformer

CHECKOUT = Path(__file__).parents[1]
FILES = (
    "__init__.pyi",
    "trainers/nnUNetTrainerSMIT.py",
    "dataset_conversion/nifti.py",
    "networks/__init__.pyi",
    "py.typed",
    "reporting/assets/report.css",
    "reporting/assets/report.js",
    "reporting/templates/report.html",
    "reporting/templates/compare.md",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The checkout as git would clone it, links included, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("source") / "checkout"
    made = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "build", "dist", "venv")
    folder.mkdir()
    for name in ("rectal_nnformer", "trainers", "dataset_conversion", "tests", "documentation"):
        shutil.copytree(CHECKOUT / name, folder / name, symlinks=True, ignore=made)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    return folder


def test_a_wheel_holds_one_package_with_trainers_and_conversion_as_real_files(source, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert {file.split("/")[0].removesuffix(".dist-info") for file in files} == {
        "rectal_nnformer",
        f"rectal_nnformer-{rectal_nnformer.__version__}",
    }
    assert {f"rectal_nnformer/{file}" for file in FILES} <= set(files)


def test_a_source_distribution_holds_them_as_real_files(source, tmp_path):
    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path], cwd=source, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        members = {member.name.partition("/")[2]: member for member in tar}
    assert {f"rectal_nnformer/{file}" for file in FILES} <= set(members)
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]


def test_the_trainers_are_one_folder_and_import_path_is_file_path():
    import rectal_nnformer.dataset_conversion
    import rectal_nnformer.trainers
    from rectal_nnformer.nnunet.layout import trainers_folder

    package = Path(rectal_nnformer.__file__).parent
    for module, name in (
        (rectal_nnformer.trainers, "trainers"),
        (rectal_nnformer.dataset_conversion, "dataset_conversion"),
    ):
        assert Path(module.__file__).parent.resolve() == (package / name).resolve()
    assert trainers_folder() == (package / "trainers").resolve()


def imported(path):
    """Return the first part of the name of every module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_package_that_is_imported_is_declared():
    declared = re.findall(r'"([\w.-]+)>=', (CHECKOUT / "setup.py").read_text(encoding="utf-8"))
    names = {name.lower().replace("_", "-") for name in declared}
    folders = ("rectal_nnformer", "dataset_conversion", "trainers")
    modules = {name for folder in folders for path in (CHECKOUT / folder).rglob("*.py") for name in imported(path)}
    providers = {"mlflow": ["mlflow-skinny"], "tomli": ["tomli"], **metadata.packages_distributions()}
    for module in modules - {"rectal_nnformer"} - sys.stdlib_module_names:
        assert names & {name.lower().replace("_", "-") for name in providers[module]}, f"setup.py lacks {module}"
