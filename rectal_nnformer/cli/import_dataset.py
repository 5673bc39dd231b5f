"""Verify a dataset that 'rectal_nnformer export_dataset' wrote, and put it into nnUNet_preprocessed.

Writes nnUNet_preprocessed/DatasetXXX_Name, under the id and name it had, and prints how to train on it. Every byte is
verified before anything is put in place, and nothing of the file is executed, then or in training. A dataset that is
there already is not replaced; after an error nothing is left.
"""

import argparse
from pathlib import Path

HELP = "verify a dataset from a collaborator and put it into nnUNet_preprocessed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("file", metavar="FILE", type=Path, help="bundle that export_dataset wrote")


def run(arguments: argparse.Namespace) -> None:
    """Import and say how to train."""
    from rectal_nnformer.cli.training_hint import training_commands
    from rectal_nnformer.sharing import import_dataset

    folder = import_dataset(arguments.file)
    print(f"Imported {folder}")
    print("Train with:", *training_commands(folder), sep="\n  ")
