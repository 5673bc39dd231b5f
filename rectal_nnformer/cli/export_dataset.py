"""Write a preprocessed dataset into one file for collaborators: data, plans, fingerprints, folds, ground truth.

Reads nnUNet_preprocessed/DatasetXXX_Name and writes FILE; with --pseudonymize also pseudonyms.csv, the key, into that
folder, where it stays. Patients, people and computers are not told: documentation/sharing.md says what travels and what
does not. Case names do travel unless --pseudonymize is given. The collaborator runs 'rectal_nnformer import_dataset
FILE'.
"""

import argparse
from pathlib import Path

HELP = "write a preprocessed dataset into one file for collaborators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("-d", metavar="DATASET", required=True, help="dataset id or name, in nnUNet_preprocessed")
    parser.add_argument(
        "-o",
        metavar="FILE",
        type=Path,
        required=True,
        help="file to write, a zip, replacing one of that name once it is complete",
    )
    parser.add_argument(
        "--pseudonymize",
        action="store_true",
        help="give cases random names everywhere; the key stays here, as pseudonyms.csv in the preprocessed dataset",
    )
    parser.add_argument(
        "--without-ground-truth",
        "--without_ground_truth",
        action="store_true",
        help="leave out the masks on the original grid; training works without them, its final scoring does not",
    )
    parser.add_argument(
        "--folds",
        "-f",
        metavar="FOLD",
        type=int,
        nargs="+",
        help="send these folds and their cases alone; they keep their numbers (default: all cases and folds)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Export and say what to do with the file."""
    from rectal_nnformer.sharing import export_dataset

    path = export_dataset(
        arguments.d,
        arguments.o,
        pseudonymize=arguments.pseudonymize,
        with_ground_truth=not arguments.without_ground_truth,
        folds=arguments.folds,
    )
    print(f"{path} is complete. Look at what it tells with 'rectal_nnformer inspect {path}' before it leaves.")
    if not arguments.pseudonymize:
        print("It tells the names of the cases. If these identify patients, export with --pseudonymize.")
