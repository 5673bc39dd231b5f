"""Run nnUNetv2_train with our trainers within reach; every argument goes to it as it stands."""

import argparse
from collections.abc import Sequence

from rectal_nnformer.cli.pass_through import pass_through_to

HELP = "nnUNetv2_train with our trainers"

add_arguments, train = pass_through_to("nnUNetv2_train", "DATASET CONFIGURATION FOLD -tr TRAINER -p PLANS")


def run(arguments: argparse.Namespace) -> None:
    """Check that dataset, plans and configuration are there, then let nnU-Net train; it checks its arguments itself."""
    from rectal_nnformer.nnunet.layout import check_configuration, find_dataset, find_plans

    given: list[str] = arguments.passed_through
    if len(given) > 2 and not any(value.startswith("-") for value in given[:2]):
        dataset, configuration = given[:2]
        plans = _plans_name(given)
        check_configuration(find_plans(find_dataset("nnUNet_preprocessed", dataset), plans), configuration)
    train(arguments)


def _plans_name(arguments: Sequence[str]) -> str:
    """Return the value of -p as nnU-Net reads it, which takes '-p NAME', '-p=NAME' and '-pNAME'."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("-pretrained_weights")  # lest it be read as -p
    name: str = parser.parse_known_args(arguments)[0].p
    return name
