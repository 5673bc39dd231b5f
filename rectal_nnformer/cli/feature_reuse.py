"""Compare the features of two networks, block by block, on crops of the first one's validation cases: debiased CKA.

FIRST is the folder of a trained fold, .../TRAINER__PLANS__CONFIGURATION/fold_X. SECOND is another one, or a pretrained
file. Both are read from one crop per case, the same part of the patient for both, also where their patches differ.
"""

import argparse
from pathlib import Path

HELP = "compare the features of a fold with those of another or of a pretrained file (CKA)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("first", metavar="FIRST", type=Path, help="folder of a trained fold")
    parser.add_argument("second", metavar="SECOND", type=Path, help="folder of a trained fold, or a pretrained file")
    parser.add_argument(
        "-o",
        metavar="FILE",
        type=Path,
        help="JSON file to write (default: in FIRST/validation, feature_reuse.json against a pretrained file, "
        "feature_reuse_TRAINER_fold_X.json against a fold)",
    )
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), default="cuda", help="device to compute on (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Compare, write and print one line."""
    from rectal_nnformer.nnunet.layout import FoldFolder, check_compared

    # Says at once what is not there; what follows takes seconds to import.
    first = FoldFolder.from_path(arguments.first)
    check_compared(arguments.second)
    from rectal_nnformer.analysis.on_demand import reuse_of_fold

    line, path = reuse_of_fold(first, arguments.second, arguments.o, arguments.device)
    print(f"{line}\n  {path}")
