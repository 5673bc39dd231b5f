"""How the package is laid out: imports between rooms go one way, few modules are loose, types reach everything."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rectal_nnformer

PACKAGE = Path(rectal_nnformer.__file__).parent
NAME = PACKAGE.name
LOWER_FIRST = (
    {"errors"},
    {"utils"},
    {"imaging", "geometry"},
    {"nnunet"},
    {"networks", "augmentation", "dicom"},
    {"planning", "evaluation", "dataset_conversion"},
    {"analysis"},
    {"reporting"},
    {"prediction"},
    {"training"},
    {"trainers", "sharing", "pretraining"},
    {"demo", "doctor", "study"},
    {"evidence"},
    {"cli"},
)
"""Rooms, and modules that are loose beside them: each imports from the rows above it alone."""
ROW = {room: row for row, rooms in enumerate(LOWER_FIRST) for room in rooms}


def modules():
    """Return every module with its room; the links to the top-level folders are followed."""
    for entry in sorted(PACKAGE.iterdir()):
        for path in [entry] if entry.suffix == ".py" else sorted(entry.rglob("*.py")):
            if path.name != "__init__.py" or entry.is_dir():
                yield entry.stem, path


def rooms_imported(path):
    """Return the rooms that a module imports from anywhere in it, for type checking alone included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith(f"{NAME}.")}


def test_rooms_import_only_what_lies_below_them():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for room, path in modules()
        for other in rooms_imported(path) - {room}
        if other in ROW and ROW[other] >= ROW[room]
    ]
    assert not wrong


def test_imports_between_rooms_have_no_circle():
    graph = {}
    for room, path in modules():
        graph.setdefault(room, set()).update(rooms_imported(path) - {room})
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert {"utils", "planning", "cli"} <= set(order)


def test_every_room_has_its_row():
    assert {room for room, _ in modules()} == set(ROW)


def test_the_documented_map_has_every_room_in_such_an_order():
    text = (PACKAGE.parent / "documentation/contributing.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    assert [ROW[room] for room in rooms] == sorted(ROW[room] for room in rooms)
    assert set(rooms) == {room for room, path in modules() if path.parent != PACKAGE}


def test_few_modules_are_loose():
    assert len(list(PACKAGE.glob("*.py"))) <= 5


@pytest.mark.slow
def test_a_call_with_wrong_arguments_is_refused_by_mypy(tmp_path, monkeypatch):
    api = pytest.importorskip("mypy.api")
    program = tmp_path / "program.py"
    program.write_text(
        "from rectal_nnformer.dataset_conversion.raw_dataset import convert_cases\n"
        "convert_cases(1, 2, 3, 4, 5, nonsense=6)\n"
    )
    config = PACKAGE.parent / "pyproject.toml"
    monkeypatch.setenv("MYPYPATH", str(PACKAGE.parent))
    found, _, code = api.run(["--config-file", str(config), str(program)])
    assert code == 1 and 'Too many arguments for "convert_cases"' in found
    assert 'Argument 1 to "convert_cases" has incompatible type "int"' in found
