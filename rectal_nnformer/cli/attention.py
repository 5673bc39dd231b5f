"""Measure the attention dilution of folds on their validation cases; write attention_dilution.json and .csv.

Every fold's validation does this for its final checkpoint. Here it can be repeated, or done with other weights:
the pretrained file, or random weights, for which nothing need be trained. Results go into the folder validation of the
fold, under a name that tells the weights unless they are the final checkpoint.
"""

import argparse
from pathlib import Path

from rectal_nnformer.cli.values import fold

HELP = "measure how much attention goes to padding, of folds, pretrained or random weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand, named as in nnU-Net."""
    parser.add_argument("-d", metavar="DATASET", required=True, help="dataset id or name")
    parser.add_argument("-tr", metavar="TRAINER", required=True, help="trainer, such as nnUNetTrainerSMIT_ACT")
    parser.add_argument("-p", metavar="PLANS", required=True, help="plans, such as nnUNetRectalSMITPlans")
    parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="default: %(default)s")
    parser.add_argument("-f", metavar="FOLD", type=fold, nargs="+", default=["0"], help="folds, or all (default: 0)")
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        default="checkpoint_final.pth",
        help="a checkpoint of the fold, 'pretrained' or 'random' (default: %(default)s)",
    )
    parser.add_argument("-o", metavar="DIR", type=Path, help="write to DIR/MODEL/fold_X instead")
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), default="cuda", help="device to compute on (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure, write and print one line per fold."""
    from rectal_nnformer.nnunet.layout import planned_model

    # Says at once what is not there; what follows takes seconds to import.
    model = planned_model(arguments.d, arguments.tr, arguments.p, arguments.c)
    from rectal_nnformer.analysis.on_demand import dilution_of_fold

    for number in arguments.f:
        line, path = dilution_of_fold(
            model.fold(number), weights=arguments.weights, output=arguments.o, device=arguments.device
        )
        print(f"fold {number}: {line}\n  {path}")
