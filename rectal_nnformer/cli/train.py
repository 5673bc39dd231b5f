"""Run nnUNetv2_train with our trainers within reach; every argument goes to it as it stands."""

import argparse

from rectal_nnformer.cli.pass_through import pass_through_to, values_of

HELP = "nnUNetv2_train with our trainers"

add_arguments, train = pass_through_to("nnUNetv2_train", "DATASET CONFIGURATION FOLD -tr TRAINER -p PLANS")


def run(arguments: argparse.Namespace) -> None:
    """Check that dataset, plans and configuration are there, then let nnU-Net train; it checks its arguments itself."""
    from rectal_nnformer.paths import check_configuration, find_dataset, find_plans

    given: list[str] = arguments.passed_through
    if len(given) > 2 and not any(value.startswith("-") for value in given[:2]):
        dataset, configuration = given[:2]
        plans = values_of(given).get("-p", ["nnUNetPlans"])[0]
        check_configuration(find_plans(find_dataset("nnUNet_preprocessed", dataset), plans), configuration)
    train(arguments)
