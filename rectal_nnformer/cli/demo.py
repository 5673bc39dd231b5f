"""Go the whole way once, without any download: cohort, conversion, plan, five folds, detection.

Everything is written to one folder, and no variable need be set. It takes less than 20 minutes on two cores.
"""

import argparse
from pathlib import Path

from rectal_nnformer.cli.values import natural_number

HELP = "go the whole way once on a generated cohort, in less than 20 minutes"
IF_INTERRUPTED = "Name a new folder with --output to start again."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="new or empty folder for everything")
    parser.add_argument(
        "--dicom",
        metavar="DIR",
        type=Path,
        help="implant the tumours into these DICOM series instead of synthetic scans",
    )
    parser.add_argument(
        "--rectum",
        metavar="FILE",
        type=Path,
        help="JSON outline of the rectum in these series; its format is in documentation/concepts/demo-cohort.md",
    )
    parser.add_argument(
        "-device", choices=("cpu", "cuda", "mps"), default="cpu", help="device to train on (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=natural_number, default=0, help="seed of the cohort (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the demo."""
    from rectal_nnformer.demo.run import Demo, run_demo

    run_demo(
        Demo(
            output=arguments.output.expanduser().resolve(),
            dicom=arguments.dicom,
            rectum=arguments.rectum,
            device=arguments.device,
            seed=arguments.seed,
        )
    )
