"""Tell what is in a file from elsewhere without executing anything of it. Nothing is written.

Knows bundles of datasets and models, which are verified to the last byte, nnU-Net's model zips, checkpoints, pretrained
weights, preprocessed arrays (.b2nd) and case properties (.pkl). Says so where a file is not safe to open, and what
opening it would import.
"""

import argparse
from pathlib import Path

HELP = "tell what is in a bundle, model zip, checkpoint or pickle, executing nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("file", metavar="FILE", type=Path, help="any file, of one's own or from elsewhere")


def run(arguments: argparse.Namespace) -> None:
    """Print the description."""
    from rectal_nnformer.sharing import inspect_file

    print(inspect_file(arguments.file))
