"""Write a trained model into one file for collaborators: plans, checkpoints without optimizer, summary and report.

Reads nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION and writes FILE; with --pseudonymize also the key of
the names, pseudonyms.csv, into nnUNet_preprocessed/DatasetXXX_Name, where it stays. Nothing but the weights is learnt
from patients, and no picture travels; documentation/sharing.md says what does. The collaborator runs 'rectal_nnformer
import_model FILE' and needs this package if the trainer is one of its own.
"""

import argparse
from pathlib import Path

HELP = "write a trained model into one file for collaborators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand, named as in nnU-Net."""
    parser.add_argument("-d", metavar="DATASET", required=True, help="dataset id or name, in nnUNet_results")
    parser.add_argument(
        "-o",
        metavar="FILE",
        type=Path,
        required=True,
        help="file to write, a zip, replacing one of that name once it is complete",
    )
    parser.add_argument("-tr", metavar="TRAINER", required=True, help="trainer, such as nnUNetTrainerSMIT_ACT")
    parser.add_argument("-p", metavar="PLANS", required=True, help="plans, such as nnUNetRectalSMITPlans")
    parser.add_argument(
        "-c", metavar="CONFIGURATION", default="3d_fullres", help="configuration of the plans (default: %(default)s)"
    )
    parser.add_argument(
        "-f", "--folds", dest="folds", metavar="FOLD", nargs="+", help="folds to send (default: all that are finished)"
    )
    parser.add_argument(
        "--pseudonymize",
        action="store_true",
        help="give cases in the summary and the report the names that export_dataset --pseudonymize gives them; the "
        "key stays here",
    )


def run(arguments: argparse.Namespace) -> None:
    """Export and say what to do with the file."""
    from rectal_nnformer.sharing import export_model

    path = export_model(
        arguments.d,
        arguments.o,
        trainer=arguments.tr,
        plans=arguments.p,
        configuration=arguments.c,
        folds=arguments.folds,
        pseudonymize=arguments.pseudonymize,
    )
    print(f"{path} is complete. Look at what it tells with 'rectal_nnformer inspect {path}' before it leaves.")
