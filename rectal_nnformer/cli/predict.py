"""Run nnUNetv2_predict with our trainers within reach; every argument goes to it as it stands."""

import argparse
from collections.abc import Sequence

from rectal_nnformer.cli.pass_through import pass_through_to

HELP = "nnUNetv2_predict with our trainers"

add_arguments, predict = pass_through_to(
    "nnUNetv2_predict", "-i DIR -o DIR -d DATASET -c CONFIGURATION -tr TRAINER -p PLANS [-f FOLD ...] [-device cpu]"
)


def run(arguments: argparse.Namespace) -> None:
    """Check that input, model and device are there, then let nnU-Net predict; its arguments are checked by itself."""
    from rectal_nnformer.nnunet.preflight import check_device, check_input, check_model

    given = _values_of(arguments.passed_through)
    if "-i" in given:
        check_input(*given["-i"][:1])
    if given.get("-d") and given.get("-c"):
        trainer, plans = (given.get(flag, [default])[0] for flag, default in DEFAULTS.items())
        folds = given.get("-f", ["0", "1", "2", "3", "4"])
        checkpoint = given.get("-chk", ["checkpoint_final.pth"])[0]
        check_model(given["-d"][0], f"{trainer}__{plans}__{given['-c'][0]}", folds, checkpoint)
    if not {"-h", "--help"} & set(given):
        check_device(given.get("-device", ["cuda"])[0])
    predict(arguments)


DEFAULTS = {"-tr": "nnUNetTrainer", "-p": "nnUNetPlans"}
"""nnU-Net's own."""


def _values_of(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Return what follows each option. By exact names: argparse would read `-device` as `-d evice`."""
    values: dict[str, list[str]] = {}
    option = ""
    for argument in arguments:
        if argument.startswith("-") and not argument[1:2].isdigit():
            option = argument
            values[option] = []
        elif option:
            values[option].append(argument)
    return {option: found for option, found in values.items() if found or option.startswith(("--", "-h"))}
