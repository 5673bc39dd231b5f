"""List the pretrained files that each backbone expects, or check one without training."""

import argparse
from pathlib import Path

HELP = "list the pretrained files that are expected and found, or verify one"
BACKBONES = ("smit", "swin_unetr", "swin_unetr_v2")


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
        choices=BACKBONES,
        help="network to load it into (default: the one the file's name belongs to)",
    )


def run(arguments: argparse.Namespace) -> None:
    """List or verify."""
    if arguments.action == "verify":
        _verify(arguments.file, arguments.backbone)
    else:
        _list()


def _list() -> None:
    from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, WEIGHTS_VARIABLE, weights_folder

    folder = weights_folder()
    print(f"{WEIGHTS_VARIABLE} is {folder if folder else 'not set; set it to the folder that holds your downloads'}")
    for file in PRETRAINED_FILES:
        print(f"{file.backbone:14s} {file.name:22s} {file.status(folder)}")
        print(f"{'':14s} {file.origin}; licence: {file.licence}; MD5 {file.md5 or 'not known'}")


def _verify(path: Path, backbone: str | None) -> None:
    from rectal_nnformer.errors import RectalError
    from rectal_nnformer.networks import load_pretrained
    from rectal_nnformer.networks.adapter import BACKBONES as NETWORKS
    from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES

    backbone = backbone or next((file.backbone for file in PRETRAINED_FILES if file.name == path.name), None)
    if backbone is None:
        raise RectalError(f"No backbone is known for a file called {path.name}. Name one with -b.")
    print(load_pretrained(NETWORKS[backbone](1, 2), path))
    print(f"The file fits {backbone}.")
