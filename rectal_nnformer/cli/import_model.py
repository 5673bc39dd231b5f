"""Verify a model of 'rectal_nnformer export_model' or nnUNetv2_export_model_to_zip, and put it into nnUNet_results.

Writes nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION, under the names it had, and prints how to predict
with it; of a model that tells how its validation went, the report is made again, without pictures. Nothing of the file
is executed: checkpoints are read as data and written anew, as nnU-Net opens them unrestricted. A model that is there
already is not replaced; after an error nothing is left.
"""

import argparse
from pathlib import Path

HELP = "verify a model from a collaborator and put it into nnUNet_results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="bundle that export_model wrote, or a model zip of nnU-Net's"
    )


def run(arguments: argparse.Namespace) -> None:
    """Import and say how to predict."""
    from rectal_nnformer.sharing import import_model

    for folder in import_model(arguments.file):
        trainer, plans, configuration = folder.name.split("__")
        folds = " ".join(sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*")))
        options = f"-d {folder.parent.name} -tr {trainer} -p {plans} -c {configuration} -f {folds}"
        print(f"Imported {folder}")
        print(f"Predict with: rectal_nnformer predict {options} -i INPUT -o OUTPUT")
        if any(folder.glob("fold_*/validation/lesion_detection.json")):
            from rectal_nnformer.reporting.report import try_report

            print(try_report(folder))
