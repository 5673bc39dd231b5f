"""Write report.html about a trained model: what was found and missed, in numbers and pictures, on one page.

The page needs no other file and no network, and can be passed on. It shows the pictures of your patients, and the names
of their cases.
"""

import argparse
from pathlib import Path

from rectal_nnformer.cli.values import positive_integer

HELP = "write a page about a trained model: detection, pictures, attention, features, plan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument(
        "model", metavar="RUN", type=Path, help="folder of the model in nnUNet_results, which holds the folds"
    )
    parser.add_argument("-o", metavar="FILE", type=Path, help="the page (default: report.html in RUN)")
    parser.add_argument(
        "-np", metavar="N", type=positive_integer, default=2, help="processes at most (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the page and print where it is."""
    from rectal_nnformer.nnunet.layout import check_model_folder

    # Says at once what is not there; what follows takes seconds to import.
    check_model_folder(arguments.model.expanduser().resolve())
    from rectal_nnformer.reporting.writing import write_report

    print(f"The report is {write_report(arguments.model, arguments.o, arguments.np)}")
