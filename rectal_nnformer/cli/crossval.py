"""Train and validate the folds of a cross-validation through nnUNetv2_train and summarize the lesion detection.

Finished folds are not repeated and interrupted ones continue, so the same command can simply be run again. What each
fold prints goes to crossval_log.txt in its folder. At the end report.html is written into the folder of the model.
"""

import argparse

from rectal_nnformer.cli.values import natural_number

HELP = "train, validate and summarize the folds of a cross-validation, with a report"
IF_INTERRUPTED = "Finished folds are kept: the same command goes on from there."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand, named as in nnU-Net."""
    parser.add_argument("-d", metavar="DATASET", required=True, help="dataset id or name")
    parser.add_argument("-tr", metavar="TRAINER", required=True, help="trainer, such as nnUNetTrainerSMIT_ACT")
    parser.add_argument("-p", metavar="PLANS", required=True, help="plans, such as nnUNetRectalSMITPlans")
    parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="default: %(default)s")
    parser.add_argument(
        "-f", metavar="FOLD", type=natural_number, nargs="+", help="folds to train (default: all of the splits)"
    )
    parser.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), default="cuda", help="device to train on (default: %(default)s)"
    )
    parser.add_argument(
        "-gpus",
        metavar="GPU",
        nargs="+",
        default=[None],
        help="GPU numbers; folds are trained side by side, one on each GPU",
    )
    parser.add_argument("--npz", action="store_true", help="save the validation probabilities, as nnUNetv2_train --npz")


def run(arguments: argparse.Namespace) -> None:
    """Run the cross-validation and print its result."""
    from rectal_nnformer.nnunet.layout import check_configuration, find_dataset, find_plans, nnunet_folder

    # Says at once what is not there; what follows takes seconds to import.
    check_configuration(find_plans(find_dataset("nnUNet_preprocessed", arguments.d), arguments.p), arguments.c)
    nnunet_folder("nnUNet_results")
    from rectal_nnformer.evaluation.summary import detection_line
    from rectal_nnformer.reporting.writing import try_report
    from rectal_nnformer.training.crossval import cross_validate

    model_folder, summary = cross_validate(
        arguments.d,
        trainer=arguments.tr,
        plans=arguments.p,
        configuration=arguments.c,
        folds=arguments.f,
        device=arguments.device,
        gpus=arguments.gpus,
        save_probabilities=arguments.npz,
    )
    print(f"{detection_line(summary.pooled)}\nThe summary is {model_folder / 'crossval_summary.md'}")
    print(try_report(model_folder))
