"""The command that makes a pretrained file: pretrain."""

import argparse
from pathlib import Path

from rectal_nnformer.cli import options as shared
from rectal_nnformer.cli.command import Command
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained_files import WEIGHTS_VARIABLE
from rectal_nnformer.nnunet import preflight
from rectal_nnformer.nnunet.layout import check_weights_file, find_dataset, nnunet_folder
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.utils.text import plural

EPOCHS, BATCH_SIZE = 500, 6
"""As published."""
PROCESSES = 4


def pretrain(arguments: argparse.Namespace) -> None:
    """Pretrain an encoder on scans without outlines: masked image modelling with self-distillation, as SMIT's.

    The scans are those in imagesTr of a raw dataset, or where there are none in imagesTs; no labels are needed. What
    comes out is a file that trainers start from, with the losses and a picture of restored regions beside it. An
    interrupted pretraining goes on with the same command.
    """
    if arguments.b is None and arguments.p is None:
        raise RectalError(f"Name the network with -b ({', '.join(BACKBONES)}), or plans that hold it with -p.")
    raw = find_dataset("nnUNet_raw", arguments.d)
    nnunet_folder("nnUNet_preprocessed")
    name = f"pretraining__{arguments.b or Path(arguments.p).stem}"
    folder = arguments.o or nnunet_folder("nnUNet_results") / raw.name / name
    preflight.check_output_folder(folder)
    if arguments.start is not None:
        check_weights_file(arguments.start)
    if arguments.p is not None and arguments.p.endswith(".json"):
        preflight.check_file(Path(arguments.p))
    preflight.check_device(arguments.device)
    from rectal_nnformer.pretraining.loop import Pretraining
    from rectal_nnformer.pretraining.settings import settle

    settings, scans = settle(
        raw.name, arguments.b, arguments.p, arguments.start, arguments.epochs, arguments.batch_size, arguments.np
    )
    size, voxel = (" x ".join(f"{number:g}" for number in numbers) for numbers in (settings.view, settings.spacing))
    print(
        f"{plural(settings.scans, 'scan')}, {settings.epochs} times: {plural(settings.steps, 'step')} of "
        f"{settings.batch_size}; views of {size} voxels of {voxel} mm"
    )
    pretraining = Pretraining(settings, scans, folder, arguments.device, arguments.start)
    pretraining.run()
    print(f"The pretrained file is {pretraining.weights_file}")
    print(f"Trainers start from it with: export {WEIGHTS_VARIABLE}={folder.absolute()}")


def _add_pretrain(parser: argparse.ArgumentParser) -> None:
    shared.add_dataset(parser, "nnUNet_raw")
    parser.add_argument("-b", metavar="BACKBONE", choices=BACKBONES, help=f"network: {', '.join(BACKBONES)}")
    parser.add_argument(
        "-p",
        metavar="PLANS",
        help="plans of this dataset by name, or a file of plans of the dataset to be fine-tuned on: network, spacing, "
        "intensity window and size of views are theirs (default: by the planner's rules, of the scans)",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="FILE",
        type=Path,
        help="pretrained file to go on from (default: random weights)",
    )
    parser.add_argument(
        "-o",
        metavar="DIR",
        type=Path,
        help="folder to write (default: nnUNet_results/DATASET/pretraining__ and the backbone or the plans)",
    )
    parser.add_argument(
        "--epochs",
        metavar="N",
        type=shared.positive_integer,
        default=EPOCHS,
        help="times that every scan is taken (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=shared.positive_integer,
        default=BATCH_SIZE,
        help="scans in a step, two views of each (default: %(default)s)",
    )
    shared.add_device(parser)
    shared.add_processes(parser, PROCESSES)


COMMANDS = (
    Command(
        pretrain,
        "pretrain an encoder on scans without outlines",
        _add_pretrain,
        if_interrupted="The same command goes on from there.",
    ),
)
