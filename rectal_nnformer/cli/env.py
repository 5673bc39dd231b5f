"""Print the shell lines that set nnU-Net's variables: eval "$(rectal_nnformer env)"."""

import argparse
import shlex

HELP = "print the export lines for nnU-Net's environment variables"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument(
        "--base",
        metavar="DIR",
        help="also set nnUNet_raw, nnUNet_preprocessed and nnUNet_results to the folders of these names in DIR; "
        "without it they are printed as they are set now",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print one `export NAME=VALUE` a line."""
    from rectal_nnformer.nnunet.layout import folder_variables, trainers_folder

    variables = {**folder_variables(arguments.base), "nnUNet_extTrainer": str(trainers_folder())}
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
