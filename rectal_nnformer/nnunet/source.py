"""Read trainers' names and commands' options from nnU-Net's source, since importing it takes half a minute."""

import argparse
import ast
import importlib.util
import os
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import TRAINERS_VARIABLE, environment_with_trainers
from rectal_nnformer.nnunet.names import split_length

_COMMANDS = {
    "nnUNetv2_train": ("run/run_training.py", "run_training_entry"),
    "nnUNetv2_predict": ("inference/predict_from_raw_data.py", "predict_entry_point"),
}
"""File and function in which each command says its options."""

_TYPES = {"str": str, "int": int, "float": float}


def package_folder() -> Path:
    """Return the folder of the package nnunetv2, without importing it.

    Raises:
        RectalError: It is not installed.
    """
    spec = importlib.util.find_spec("nnunetv2")
    if spec is None or not spec.submodule_search_locations:
        raise RectalError("nnunetv2 is not installed. Install it in the environment of rectal_nnformer.")
    return Path(spec.submodule_search_locations[0])


def trainer_names() -> set[str]:
    """Return all names under which nnU-Net can find a trainer: in its own folder, in ours, in the user's.

    Other names of these modules are among them, as nnU-Net would take those too. "*" means that a module takes all
    names of another one, so that there may be more.

    Raises:
        RectalError: A module there is not Python.
    """
    folders = environment_with_trainers()[TRAINERS_VARIABLE].split(os.pathsep)
    return names_in(stock_trainers_folder(), *map(Path, folders))


def planner_names() -> set[str]:
    """Return the names under which nnU-Net can find a planner, all that its modules of planners bind."""
    return names_in(package_folder() / "experiment_planning/experiment_planners")


def base_trainer(name: str) -> str:
    """Return the trainer whose class is in a module: a name that ends in a length may stand for that of another.

    Raises:
        RectalError: As `trainer_names`.
    """
    base, length = split_length(name)
    return base if any(part is not None for part in length) and name not in trainer_names() else name


def stock_trainers_folder() -> Path:
    """Return the folder of nnU-Net's own trainers."""
    return package_folder() / "training/nnUNetTrainer"


def names_in(*folders: Path) -> set[str]:
    """Return the names that the modules in folders of trainers bind; refuse one that is not Python."""
    return {name for folder in folders for path in _modules(folder) for name in _bound_names(path)}


def add_options(parser: argparse.ArgumentParser, command: str, optional: Sequence[str] = ()) -> None:
    """Add the options of `nnUNetv2_train` or `nnUNetv2_predict` as its source adds them.

    Those that are named optional, without hyphens, may be missing here though nnU-Net requires them.
    """
    file, function = _COMMANDS[command]
    for node in ast.walk(_parsed(package_folder() / file)):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
                    action = parser.add_argument(*map(ast.literal_eval, call.args), **dict(_keywords(call)))
                    action.required &= action.dest not in optional


def _keywords(call: ast.Call) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a call that are literals or types; nnU-Net computes only a few defaults."""
    for keyword in call.keywords:
        if keyword.arg == "type" and isinstance(keyword.value, ast.Name):
            yield "type", _TYPES[keyword.value.id]
        elif keyword.arg is not None:
            try:
                yield keyword.arg, ast.literal_eval(keyword.value)
            except ValueError:
                continue


def _modules(folder: Path) -> Iterator[Path]:
    """Yield the modules that nnU-Net looks through, those of packages in the folder included."""
    for module in pkgutil.iter_modules([str(folder)]):
        if module.ispkg:
            yield from _modules(folder / module.name)
        elif (path := folder / f"{module.name}.py").is_file():
            yield path


def _bound_names(path: Path) -> Iterator[str]:
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise RectalError(
            f"{path} is not Python ({error}), and nnU-Net imports every module in the folders that {TRAINERS_VARIABLE} "
            "names. Fix it or take it away."
        ) from error
