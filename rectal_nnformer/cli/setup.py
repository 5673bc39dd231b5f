"""Commands to begin with: demo, env."""

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path

from rectal_nnformer.cli.command import Command
from rectal_nnformer.cli.options import add_device, natural_number, positive_integer
from rectal_nnformer.nnunet import preflight
from rectal_nnformer.nnunet.layout import check_folder, folder_variables, trainers_folder
from rectal_nnformer.utils.text import plural


def demo(arguments: argparse.Namespace) -> None:
    """Run every step once, without any download: cohort, conversion, plan, five folds, detection.

    Everything is written to one folder, and no variable need be set. It takes 6 to 12 minutes on two cores.
    """
    preflight.check_new_folder(arguments.o)
    if arguments.dicom:
        check_folder(arguments.dicom)
    if arguments.rectum:
        preflight.check_file(arguments.rectum)
    from rectal_nnformer.demo.run import Demo, run_demo

    output = arguments.o.expanduser().resolve()
    run_demo(Demo(output, arguments.dicom, arguments.rectum, arguments.device, arguments.seed))


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", metavar="DIR", type=Path, required=True, help="new or empty folder for everything")
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
    add_device(parser, default="cpu")
    parser.add_argument(
        "--seed", metavar="N", type=natural_number, default=0, help="seed of the cohort (default: %(default)s)"
    )


def env(arguments: argparse.Namespace) -> None:
    """Print the shell lines that set nnU-Net's variables: eval "$(rectal_nnformer env)"."""
    variables = {**folder_variables(arguments.base), "nnUNet_extTrainer": str(trainers_folder())}
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


def _add_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base",
        metavar="DIR",
        help="also set nnUNet_raw, nnUNet_preprocessed and nnUNet_results to the folders of these names in DIR; "
        "without it they are printed as they are set now",
    )


def doctor(arguments: argparse.Namespace) -> None:
    """Look for what would go wrong later: variables, versions, disk, memory, GPU, weights, datasets, unfinished folds.

    Each finding has its remedy. The exit code is 1 if there is a problem. With -d every image and mask of a raw dataset
    is read, too.
    """
    from rectal_nnformer.doctor import OK, PROBLEM, examine

    findings = examine(arguments.d, arguments.np)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:8}{finding.about}: {finding.text}")
            if finding.remedy:
                print(f"{'':8}{finding.remedy}")
        number = sum(finding.state == PROBLEM for finding in findings)
        notes = sum(finding.state not in (OK, PROBLEM) for finding in findings)
        print(f"{plural(number, 'problem')}, {plural(notes, 'note')}.")
    raise SystemExit(int(any(finding.state == PROBLEM for finding in findings)))


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", metavar="DATASET", nargs="+", default=[], help="raw datasets to read: ids or names")
    parser.add_argument("-np", metavar="N", type=positive_integer, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


COMMANDS = (
    Command(
        demo,
        "run every step once on a generated cohort, in 6 to 12 minutes",
        _add_demo,
        if_interrupted="Name a new folder with -o to start again.",
    ),
    Command(doctor, "look for what would go wrong later, and say what to do about it", _add_doctor),
    Command(env, "print the export lines for nnU-Net's environment variables", _add_env),
)
