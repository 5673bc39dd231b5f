"""Plan and preprocess raw datasets for SMIT or Swin UNETR.

Extracts nnU-Net's fingerprint and the intensity window, plans target spacing and patch size from them, and runs
nnU-Net's own preprocessing. Two configurations are planned on the same preprocessed data: 3d_fullres, whose patch suits
the dataset, and 3d_fullres_cubic, the input size of pretraining.
"""

import argparse

HELP = "plan target spacing and patch size, and preprocess"
IF_INTERRUPTED = "The same command again finishes the work."
BACKBONES = ("smit", "swin_unetr", "swin_unetr_v2", "smit_small")
CONFIGURATIONS = ("3d_fullres", "3d_fullres_cubic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand; they are nnU-Net's where nnU-Net has them."""
    parser.add_argument("-d", nargs="+", type=int, required=True, metavar="ID", help="dataset IDs, such as 501 502")
    parser.add_argument(
        "-b",
        choices=BACKBONES,
        required=True,
        help="network to plan for; smit_small is a narrow, shallow SMIT for trying things out on a CPU, to which no "
        "pretrained weights fit",
    )
    parser.add_argument(
        "-c",
        nargs="+",
        choices=CONFIGURATIONS,
        default=["3d_fullres"],
        metavar="CONFIGURATION",
        help="configurations to preprocess for; both read the same data, so either makes them (default: 3d_fullres)",
    )
    parser.add_argument("--no_pp", action="store_true", help="write the plans, but do not preprocess")
    parser.add_argument(
        "--clean", action="store_true", help="make fingerprint and preprocessed data again even if they are up to date"
    )
    parser.add_argument(
        "--verify_dataset_integrity", action="store_true", help="let nnU-Net check all images and labels first"
    )
    parser.add_argument(
        "-np", type=int, metavar="N", help="processes for preprocessing (default: 4, at most one per core)"
    )
    parser.add_argument(
        "-npfp", type=int, metavar="N", help="processes for the fingerprint (default: 8, at most one per core)"
    )
    parser.add_argument(
        "-overwrite_target_spacing",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="target spacing in mm instead of the planned one, in nnU-Net's order: through plane first",
    )
    parser.add_argument("-overwrite_plans_name", metavar="NAME", help="name of the plans instead of the network's")


def run(arguments: argparse.Namespace) -> None:
    """Plan each dataset and print what was planned and why."""
    from rectal_nnformer.planning.api import plan_dataset, verify_integrity
    from rectal_nnformer.planning.dataset import open_raw_dataset
    from rectal_nnformer.planning.summary import describe_plans

    datasets = [open_raw_dataset(dataset_id) for dataset_id in arguments.d]
    summaries = []
    for dataset in datasets:
        if arguments.verify_dataset_integrity:
            verify_integrity(dataset, arguments.npfp)
        plans = plan_dataset(
            dataset.dataset_id,
            arguments.b,
            overwrite_target_spacing=arguments.overwrite_target_spacing,
            plans_name=arguments.overwrite_plans_name,
            preprocess=not arguments.no_pp,
            num_processes=arguments.np,
            num_processes_fingerprint=arguments.npfp,
            clean=arguments.clean,
        )
        summaries.append(describe_plans(plans))
        if not dataset.is_reoriented:
            summaries.append(_orientation_warning(dataset.name, dataset.reader.__name__))
    print("", *summaries, sep="\n")


def _orientation_warning(name: str, reader: str) -> str:
    return (
        f"WARNING: {name} is read by {reader}, which does not reorient images. Pretrained weights know directions: "
        'they hold only if dataset.json says "overwrite_image_reader_writer": "SimpleITKIOWithReorient".'
    )
