"""Put a dataset that 'rectal_nnformer export_dataset' wrote into nnUNet_preprocessed, under the id and name it had.

Every byte is verified before anything is put in place, and nothing of the file is executed, then or in training.
"""

import argparse
from pathlib import Path

HELP = "verify a dataset from a collaborator and put it into nnUNet_preprocessed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("file", metavar="FILE", type=Path, help="written by export_dataset")


def run(arguments: argparse.Namespace) -> None:
    """Import and say how to train."""
    from rectal_nnformer.sharing import import_dataset

    folder = import_dataset(arguments.file)
    plans = sorted(path.stem for path in folder.glob("*Plans*.json"))
    print(f"Imported {folder}")
    print(f"Train with: nnUNetv2_train {folder.name} CONFIGURATION FOLD -p PLANS; plans: {', '.join(plans)}")
    print(
        "Plans of rectal_nnformer need its trainers: rectal_nnformer train, or nnUNetv2_train -tr nnUNetTrainerSMIT_ACT"
    )
