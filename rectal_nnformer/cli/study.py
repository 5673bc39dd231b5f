"""The commands that run a whole comparison: study, evidence."""

import argparse
import sys
from pathlib import Path

from rectal_nnformer.cli.command import Command
from rectal_nnformer.cli.options import add_device, add_processes
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evidence.preset import PRESETS, EvidenceRun
from rectal_nnformer.nnunet import layout, preflight
from rectal_nnformer.planning.backbones import BACKBONES


def study(arguments: argparse.Namespace) -> None:
    """Compare recipes on the folds of one dataset, from the plans to a page; what is done is not done again.

    'init' writes study.toml into a folder, to be edited; 'run' trains, predicts, scores and reports what is missing;
    'status' tells from the files how far everything is; 'report' writes the page from what is finished.
    """
    ACTIONS[arguments.action](arguments)


def _init(arguments: argparse.Namespace) -> None:
    if (arguments.external_images is None) != (arguments.external_masks is None):
        arguments.parser.error("--external-images and --external-masks go together")
    external = None
    if arguments.external_images:
        preflight.check_input(arguments.external_images)
        layout.check_folder(arguments.external_masks)
        external = arguments.external_images.absolute(), arguments.external_masks.absolute()
    dataset = preflight.named_dataset(arguments.d)
    results = Path(layout.nnunet_folder("nnUNet_results")) / dataset
    parsed = [layout.ModelFolder.parse(path) for path in sorted(results.glob("*__*__*"))]
    trained = [model for model in parsed if model and any(fold.checkpoints() for fold in model.folds())]
    from rectal_nnformer.study.record import write_study

    path = write_study(arguments.o, dataset, arguments.backbones, external, trained)
    print(
        f"{path} is the study. Edit it, its device and recipes above all, then: rectal_nnformer study run {arguments.o}"
    )
    for model in trained:
        print(f"Trained before, and part of it: {model.name}")


def _run(arguments: argparse.Namespace) -> None:
    from rectal_nnformer.study.record import check_study, read_study

    read = read_study(arguments.folder)
    check_study(read)
    from rectal_nnformer.study.jobs import run_here, submit
    from rectal_nnformer.study.page import PAGE_FILE
    from rectal_nnformer.study.steps import missing_weights, steps_of

    steps = steps_of(read)
    if (missing := missing_weights(steps)) and not arguments.dry_run:
        raise RectalError("\n".join(missing))
    for problem in missing:
        print(f"WARNING: {problem}", file=sys.stderr)
    if read.engine == "slurm" or arguments.dry_run:
        submit(read, steps, arguments.dry_run)
        return
    if any(step.needs_gpu and not step.is_done() for step in steps):
        preflight.check_device(read.device, f'write device = "cpu" into {read.file}')
    run_here(read, steps)
    print(f"The page of the study is {read.folder / PAGE_FILE}")


def _status(arguments: argparse.Namespace) -> None:
    from rectal_nnformer.study.record import read_study

    read = read_study(arguments.folder)
    from rectal_nnformer.study.progress import status_lines
    from rectal_nnformer.study.steps import steps_of

    print(*status_lines(steps_of(read)), sep="\n")


def _report(arguments: argparse.Namespace) -> None:
    from rectal_nnformer.study.record import read_study

    read = read_study(arguments.folder)
    from rectal_nnformer.study.page import write_page

    print(f"The page of the study is {write_page(read)}")


ACTIONS = {"init": _init, "run": _run, "status": _status, "report": _report}


def _add_study(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = (
        "write study.toml, with every key explained: the recipes of the backbones, nnU-Net's own to compare with, and "
        "what was trained on the dataset before"
    )
    init = actions.add_parser("init", help=text, description=text)
    init.set_defaults(parser=init)
    init.add_argument("-d", metavar="DATASET", required=True, help="dataset id or name")
    init.add_argument(
        "-o", metavar="DIR", type=Path, default=Path("study"), help="folder of the study (default: study)"
    )
    init.add_argument(
        "--backbones", nargs="+", choices=list(BACKBONES), default=["smit"], help="networks to train (default: smit)"
    )
    init.add_argument(
        "--external-images", metavar="DIR", type=Path, help="scans of another cohort, as predict takes them"
    )
    init.add_argument("--external-masks", metavar="DIR", type=Path, help="their masks, CASE.nii.gz")
    texts = {
        "run": "do what is missing, on this machine or as jobs of SLURM; stopped or killed, the same command goes on",
        "status": "tell from the files how far each step and fold is, and about how long the trainings still take",
        "report": "write the page from what is finished: study.html, study.csv and the comparison",
    }
    for action, text in texts.items():
        subparser = actions.add_parser(action, help=text, description=text)
        subparser.add_argument("folder", metavar="DIR", type=Path, help="folder with study.toml")
        if action == "run":
            subparser.add_argument(
                "--dry-run", action="store_true", help="print what would be submitted to SLURM, which need not be there"
            )


def evidence(arguments: argparse.Namespace) -> None:
    """Show the method's mechanisms in a study of small networks on made scans; what is done is not done again.

    Cohorts are made, an encoder is pretrained on CT, every recipe is trained on few MRI from each seed, and scored on
    held-out cases and on those of another site. It ends in README.md, a page of claims with effects, intervals and
    verdicts, and evidence.json. Everything is written to one folder, and no variable need be set.
    """
    preflight.check_output_folder(arguments.o)
    preflight.check_device(arguments.device)
    from rectal_nnformer.evidence.run import run_evidence

    folder, name = arguments.o.expanduser().resolve(), arguments.preset
    print(f"The page is {run_evidence(EvidenceRun(folder, name, PRESETS[name], arguments.device, arguments.np))}")


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", metavar="DIR", type=Path, required=True, help="folder for everything; one that was begun goes on"
    )
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="smallest",
        help="ten minutes on two cores, two hours on them, or a night on a GPU (default: %(default)s)",
    )
    add_device(parser, default="cpu")
    add_processes(parser, 2)


COMMANDS = (
    Command(
        study,
        "compare recipes and nnU-Net's own on the same folds: train, predict, score and report what is missing",
        _add_study,
        if_interrupted="What is done is kept: 'study run' goes on from there.",
    ),
    Command(
        evidence,
        "show the method's mechanisms with small networks on made scans: a study that needs no data",
        _add_evidence,
        if_interrupted="What is done is kept: the same command goes on from there.",
    ),
)
