"""Run nnUNetv2_predict with our trainers within reach; every argument goes to it as it stands."""

import argparse

from rectal_nnformer.cli.pass_through import pass_through_to

HELP = "nnUNetv2_predict with our trainers"

add_arguments, predict = pass_through_to(
    "nnUNetv2_predict", "-i DIR -o DIR -d DATASET -c CONFIGURATION -tr TRAINER -p PLANS [-f FOLD ...]"
)


def run(arguments: argparse.Namespace) -> None:
    """Check that input and model are there, then let nnU-Net predict; its arguments are checked by itself."""
    from rectal_nnformer.prediction import check_input, check_model

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("-i", "-d", "-c"):
        parser.add_argument(flag)
    parser.add_argument("-tr", default="nnUNetTrainer")
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("-f", nargs="+", default=["0", "1", "2", "3", "4"])
    parser.add_argument("-chk", default="checkpoint_final.pth")
    known, _ = parser.parse_known_args(arguments.passed_through)
    if known.i is not None:
        check_input(known.i)
    if None not in (known.d, known.c):
        check_model(known.d, f"{known.tr}__{known.p}__{known.c}", known.f, known.chk)
    predict(arguments)
