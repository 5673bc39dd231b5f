"""Score predicted masks against references, lesion by lesion, and write lesion_detection.json and lesion_detection.csv.

Every reference is a case; one without a prediction of the same name is reported and its lesions count as missed.
Predictions without a reference are not scored, and named.
dataset.json, for labels and file ending, is looked for in the folder of predictions and in and above that of
references; patients.csv, if there is one, beside it.
"""

import argparse
from pathlib import Path

from rectal_nnformer.cli.values import positive_integer

HELP = "score predictions against references, lesion by lesion"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("-gt", metavar="DIR", type=Path, required=True, help="reference masks, <case>.nii.gz")
    parser.add_argument("-pred", metavar="DIR", type=Path, required=True, help="predicted masks by the same names")
    parser.add_argument("-o", metavar="DIR", type=Path, help="folder for the results (default: that of -pred)")
    parser.add_argument("-djfile", metavar="FILE", type=Path, help="dataset.json, where it is not found")
    parser.add_argument(
        "-np", metavar="N", type=positive_integer, default=2, help="processes at most (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Score and print the result in one line."""
    from rectal_nnformer.nnunet.layout import check_folder

    for folder in (arguments.pred, arguments.gt):  # said at once; what follows takes seconds to import
        check_folder(folder)
    from rectal_nnformer.evaluation.folder import evaluate_folder
    from rectal_nnformer.evaluation.summary import detection_line

    output = arguments.o or arguments.pred
    result = evaluate_folder(arguments.pred, arguments.gt, arguments.djfile, output, arguments.np)
    print(f"{detection_line(result)}\nThe lesions are in {output}: lesion_detection.json, .csv")
