"""Plan and preprocess raw datasets for SMIT or Swin UNETR.

Measures the dataset, plans target spacing, patch, batch and augmentation from that, says why as 'rectal_nnformer plan'
does, and runs nnU-Net's own preprocessing. Two configurations are planned on the same preprocessed data: 3d_fullres,
whose patch suits the dataset, and 3d_fullres_cubic, the input size of pretraining.
"""

import argparse

from rectal_nnformer.cli.plan import add_backbone, add_planning_arguments, plan_and_explain
from rectal_nnformer.cli.values import positive_integer
from rectal_nnformer.nnunet.names import CUBIC, FULLRES

HELP = "plan target spacing, patch, batch and augmentation, and preprocess"
IF_INTERRUPTED = "The same command again finishes the work."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand; they are nnU-Net's where nnU-Net has them."""
    add_backbone(parser, required=True)
    add_planning_arguments(parser)
    parser.add_argument(
        "-c",
        nargs="+",
        choices=(FULLRES, CUBIC),
        default=[FULLRES],
        metavar="CONFIGURATION",
        help="configurations to preprocess for; both read the same data, so either makes them (default: 3d_fullres)",
    )
    parser.add_argument("--no_pp", action="store_true", help="do not preprocess: the same as 'rectal_nnformer plan'")
    parser.add_argument(
        "-np", type=positive_integer, metavar="N", help="processes for preprocessing (default: 4, at most one per core)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Plan and preprocess each dataset and print what was planned and why."""
    plan_and_explain(arguments, preprocess=not arguments.no_pp, num_processes=arguments.np)
