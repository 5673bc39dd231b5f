"""Plan target spacing, patch, batch and augmentation for SMIT or Swin UNETR, and say why.

Measures the dataset, writes the plans and their explanation into nnUNet_preprocessed, and prints the explanation.
'rectal_nnformer plan_and_preprocess' does the same and then makes the preprocessed data. With -p nothing is planned:
plans that are there are explained as they are.
"""

import argparse
from typing import TYPE_CHECKING, Any

from rectal_nnformer.names import BACKBONES

if TYPE_CHECKING:
    from rectal_nnformer.planning.dataset import RawDataset

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
    from rectal_nnformer.paths import nnunet_folder

    # Says at once what is not set; what follows takes seconds to import.
    nnunet_folder("nnUNet_preprocessed" if arguments.p else "nnUNet_raw")
    from rectal_nnformer.planning.dataset import open_raw_dataset
    from rectal_nnformer.planning.explanation import describe_plans, explain_plans

    if arguments.p:
        print(*(explain_plans(dataset_id, arguments.p) for dataset_id in arguments.d), sep="\n\n")
        return
    datasets = [open_raw_dataset(dataset_id) for dataset_id in arguments.d]
    explanations = [describe_plans(plan(dataset, arguments, preprocess=False)) for dataset in datasets]
    print("", *explanations, sep="\n")


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
        type=float,
        metavar="GB",
        help="memory of the GPU that shall train: decides the batch size and limits the patch (default: 24)",
    )
    parser.add_argument(
        "-overwrite_target_spacing",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="target spacing in mm instead of the planned one, in nnU-Net's order: through plane first",
    )
    parser.add_argument("-overwrite_plans_name", metavar="NAME", help="name of the plans instead of the network's")
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
        "-npfp", type=int, metavar="N", help="processes for the fingerprint (default: 8, at most one per core)"
    )


def plan(dataset: "RawDataset", arguments: argparse.Namespace, preprocess: bool, **options: Any) -> dict[str, Any]:
    """Plan a dataset by the options of `add_planning_arguments` and return the plans."""
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
        preprocess=preprocess,
        num_processes_fingerprint=arguments.npfp,
        clean=arguments.clean,
        **options,
    )
