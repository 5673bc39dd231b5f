"""Plan target spacing, patch, batch and augmentation for SMIT or Swin UNETR, and say why.

Measures the dataset, writes the plans and their explanation into nnUNet_preprocessed, and prints the explanation.
'rectal_nnformer plan_and_preprocess' does the same and then makes the preprocessed data. With -p nothing is planned:
plans that are there are explained as they are.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rectal_nnformer.cli.values import plans_name, positive_integer, positive_number
from rectal_nnformer.nnunet.names import BACKBONES

if TYPE_CHECKING:
    from rectal_nnformer.nnunet.plans import Plans
    from rectal_nnformer.planning.dataset import TrainingDataset

HELP = "plan target spacing, patch, batch and augmentation, and say why"
IF_INTERRUPTED = "The same command again finishes the work."
AUGMENTATIONS = ("published", "planned")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand; they are nnU-Net's where nnU-Net has them."""
    what = parser.add_mutually_exclusive_group(required=True)
    add_backbone(what)
    what.add_argument("-p", metavar="NAME", help="plans to explain, as they are, instead of planning")
    add_planning_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Plan or explain each dataset and print the explanations."""
    if arguments.p:
        _explain(arguments.d, arguments.p)
    else:
        plan_and_explain(arguments, preprocess=False)


def _explain(dataset_ids: Sequence[int], plans: str) -> None:
    from rectal_nnformer.nnunet.layout import find_dataset, find_plans

    for dataset_id in dataset_ids:  # what is not there is said at once; what follows takes seconds to import
        find_plans(find_dataset("nnUNet_preprocessed", dataset_id), plans)
    from rectal_nnformer.planning.explanation import explain_plans

    print(*(explain_plans(dataset_id, plans) for dataset_id in dataset_ids), sep="\n\n")


def add_backbone(parser: Any, **options: Any) -> None:
    """Add the choice of a network to a parser or group."""
    parser.add_argument(
        "-b",
        choices=BACKBONES,
        help="network to plan for; smit_small is a narrow, shallow SMIT for trying things out on a CPU, to which no "
        "pretrained weights fit",
        **options,
    )


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide a plan."""
    parser.add_argument("-d", nargs="+", type=int, required=True, metavar="ID", help="dataset IDs, such as 501 502")
    parser.add_argument(
        "-gpu_memory_target",
        type=positive_number,
        metavar="GB",
        help="memory of the GPU that shall train: decides the batch size and limits the patch (default: 24)",
    )
    parser.add_argument(
        "-overwrite_target_spacing",
        nargs=3,
        type=positive_number,
        metavar=("Z", "Y", "X"),
        help="target spacing in mm instead of the planned one, in nnU-Net's order: through plane first",
    )
    parser.add_argument(
        "-overwrite_plans_name", type=plans_name, metavar="NAME", help="name of the plans instead of the network's"
    )
    parser.add_argument(
        "-tumor_augmentation",
        choices=AUGMENTATIONS,
        default="published",
        help="ranges of the tumour-aware augmentation: as published, or planned from the dataset's lesions "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--lesion_wise",
        action="store_true",
        help="let the tumour-aware augmentation draw for each lesion instead of once for all tumours in a sample",
    )
    parser.add_argument(
        "--verify_dataset_integrity", action="store_true", help="let nnU-Net check all images and labels first"
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="measure the dataset again, and preprocess it again where that is asked for",
    )
    parser.add_argument(
        "-npfp",
        type=positive_integer,
        metavar="N",
        help="processes for the fingerprint (default: 8, at most one per core)",
    )


def plan_and_explain(arguments: argparse.Namespace, preprocess: bool, **options: Any) -> None:
    """Plan each dataset by the options of `add_planning_arguments`; print plans in words, then what they replace."""
    from rectal_nnformer.nnunet.layout import find_dataset, nnunet_folder

    nnunet_folder("nnUNet_preprocessed")
    for dataset_id in arguments.d:  # what is not there is said at once; what follows takes seconds to import
        find_dataset("nnUNet_raw", dataset_id)
    from rectal_nnformer.planning.dataset import open_raw_dataset
    from rectal_nnformer.planning.explanation import describe_plans
    from rectal_nnformer.planning.outdated import print_warning

    warnings: list[str] = []
    datasets = [open_raw_dataset(dataset_id) for dataset_id in arguments.d]
    plans = [_plan(dataset, arguments, preprocess=preprocess, warn=warnings.append, **options) for dataset in datasets]
    print("", *map(describe_plans, plans), sep="\n")
    for warning in warnings:
        print_warning(warning)


def _plan(dataset: "TrainingDataset", arguments: argparse.Namespace, **options: Any) -> "Plans":
    from rectal_nnformer.planning.api import plan_dataset, verify_integrity

    if arguments.verify_dataset_integrity:
        verify_integrity(dataset, arguments.npfp)
    return plan_dataset(
        dataset.dataset_id,
        arguments.b,
        gpu_memory_target=arguments.gpu_memory_target,
        overwrite_target_spacing=arguments.overwrite_target_spacing,
        plans_name=arguments.overwrite_plans_name,
        tumor_augmentation=arguments.tumor_augmentation,
        lesion_wise=arguments.lesion_wise,
        num_processes_fingerprint=arguments.npfp,
        clean=arguments.clean,
        **options,
    )
