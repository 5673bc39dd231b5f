"""List the pretrained files that each backbone expects, check one without training, or import a fine-tuned one."""

import argparse
import re
from pathlib import Path

from rectal_nnformer.cli.values import finite_number, positive_integer, positive_number
from rectal_nnformer.nnunet.names import NETWORKS

HELP = "list the pretrained files that are expected and found, verify one, or import a fine-tuned one"
CHECKPOINT = "fold_0/checkpoint_final.pth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per action; none means list."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    text = "list the expected files, where they are looked for, and what was found, with their MD5 checked"
    actions.add_parser("list", help=text + " (default)", description=text)
    text = "load a file into a fresh network and print what was loaded, missing and ignored"
    verify = actions.add_parser("verify", help=text, description=text)
    verify.add_argument("file", metavar="FILE", type=Path)
    verify.add_argument(
        "-b",
        dest="backbone",
        choices=NETWORKS,
        help="network to load it into (default: the one the file's name belongs to)",
    )
    text = "turn a checkpoint of a whole network into a model folder with which nnU-Net predicts prepared volumes"
    _add_import_arguments(actions.add_parser("import", help=text, description=text))


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", metavar="DIR", type=Path, help="model folder to write")
    target.add_argument(
        "-d", metavar="DATASET", help="write it into nnUNet_results, for this dataset: a name DatasetXXX_Name or an id"
    )
    stored = "needed only where the checkpoint's arguments do not hold it; another than theirs is refused"
    parser.add_argument(
        "--patch_size", nargs=3, type=positive_integer, metavar=("X", "Y", "Z"), help=f"patch size in voxels; {stored}"
    )
    parser.add_argument(
        "--spacing",
        nargs=3,
        type=positive_number,
        metavar=("X", "Y", "Z"),
        help=f"spacing of prepared volumes in mm; {stored}",
    )
    parser.add_argument(
        "--window",
        nargs=2,
        type=finite_number,
        metavar=("LOW", "HIGH"),
        help="intensities of prepared volumes (default: 0 800)",
    )


def run(arguments: argparse.Namespace) -> None:
    """List, verify or import."""
    from rectal_nnformer.nnunet.layout import check_weights_file

    # A missing file is named at once; what follows takes seconds to import.
    if arguments.action == "verify":
        check_weights_file(arguments.file)
        _verify(arguments.file, arguments.backbone)
    elif arguments.action == "import":
        check_weights_file(arguments.checkpoint)
        _import(arguments)
    else:
        _list()


def _list() -> None:
    from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, WEIGHTS_VARIABLE, weights_folder

    folder = weights_folder()
    if folder is None:
        print(f"{WEIGHTS_VARIABLE} is not set; set it to the folder that holds your downloads")
    else:
        print(f"{WEIGHTS_VARIABLE} is {folder}" + ("" if folder.is_dir() else ", WARNING: there is no such folder"))
    for file in PRETRAINED_FILES:
        print(f"{file.backbone:14s} {file.name:22s} {file.status(folder)}")
        print(f"{'':14s} {file.origin}; released by {file.publisher}; MD5 {file.md5 or 'not known'}")
    print("Terms of use are the publishers': read them there, this package does not know them.")


def _verify(path: Path, backbone: str | None) -> None:
    from rectal_nnformer.errors import RectalError
    from rectal_nnformer.networks import load_pretrained
    from rectal_nnformer.networks.adapter import BACKBONES
    from rectal_nnformer.networks.checkpoint_file import read_checkpoint
    from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES

    read_checkpoint(path)  # first what it is, whatever it is called
    backbone = backbone or next((file.backbone for file in PRETRAINED_FILES if file.name == path.name), None)
    if backbone is None:
        raise RectalError(f"No backbone is known for a file called {path.name}. Name one with -b.")
    print(load_pretrained(BACKBONES[backbone](1, 2), path))
    print(f"The file fits {backbone}.")


def _import(arguments: argparse.Namespace) -> None:
    from rectal_nnformer.nnunet.layout import nnunet_folder
    from rectal_nnformer.planning.from_checkpoint import read_model, write_model

    # First what the file is: without one, no dataset matters.
    model = read_model(
        arguments.checkpoint,
        patch_size=arguments.patch_size,
        spacing=arguments.spacing,
        window=arguments.window,
    )
    dataset_name = _dataset_name(arguments.d) if arguments.d else "Dataset000_Imported"
    results = nnunet_folder("nnUNet_results") if arguments.d else None
    folder = results / dataset_name / model.folder_name if results else arguments.output
    write_model(model, folder, dataset_name)
    print(model.report)
    print(f"Model folder: {folder}")
    options = f"-d {dataset_name} -tr {model.trainer} -p {model.plans.name} -c 3d_fullres -f 0"
    command = f"nnUNetv2_predict {options}" if results else f"nnUNetv2_predict_from_modelfolder -m {folder} -f 0"
    print(f"Predict prepared volumes with: {command} -i INPUT -o OUTPUT")
    print("Start a training from it with: nnUNetv2_train ... -pretrained_weights " + str(folder / CHECKPOINT))


def _dataset_name(dataset: str) -> str:
    """Return DatasetXXX_Name of a name, or of the id of a dataset that nnU-Net's folders hold."""
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    from rectal_nnformer.errors import RectalError

    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError) as error:
        raise RectalError(
            f"nnU-Net's folders hold no dataset {dataset}, or more than one of that id. Give -d its whole name, "
            "DatasetXXX_Name; it may be a new one."
        ) from error
    if not re.fullmatch(r"Dataset\d{3}_\w+", name):
        raise RectalError(f"A dataset is called DatasetXXX_Name, XXX being three digits; got {name}.")
    return name
