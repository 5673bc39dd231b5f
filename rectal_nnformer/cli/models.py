"""Commands that make and use models: train, predict, crossval, weights."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from rectal_nnformer.cli import options as shared
from rectal_nnformer.cli.command import Command, Parser
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.wish import check_wish
from rectal_nnformer.networks.pretrained_files import (
    PRETRAINED_FILES,
    WEIGHTS_VARIABLE,
    find_pretrained,
    is_web_page,
    md5_of,
    weights_folder,
)
from rectal_nnformer.nnunet import preflight
from rectal_nnformer.nnunet.layout import (
    CHECKPOINT_FINAL,
    ModelFolder,
    check_weights_file,
    find_dataset,
    find_plans,
    fold_name,
    nnunet_folder,
)
from rectal_nnformer.nnunet.names import DICOM_OBJECTS, FULLRES, NETWORKS, NIFTI
from rectal_nnformer.nnunet.source import add_options
from rectal_nnformer.training.pretrained_start import check_pretrained_file, start_of

ONLY_A_WEB_PAGE = 3
"""Exit code of `weights fetch` for a file that has to be downloaded by hand."""


def train(arguments: argparse.Namespace) -> None:
    """Run nnUNetv2_train with our trainers: DATASET [CONFIGURATION] FOLD, then its options.

    Without CONFIGURATION it is 3d_fullres. --help lists the options.
    """
    values = list(itertools.takewhile(lambda value: not value.startswith("-"), arguments.passed))
    passed = [values[0], FULLRES, *arguments.passed[1:]] if len(values) == 2 else arguments.passed
    given = _read("nnUNetv2_train", passed, arguments.parser)
    if given.fold != "all" and not given.fold.isdecimal():
        raise RectalError(f"The fold is a number or 'all', not {given.fold}: DATASET CONFIGURATION FOLD.")
    folds = () if given.fold == "all" else (int(given.fold),)
    model = preflight.check_training(given.dataset_name_or_id, given.tr, given.p, given.configuration, folds)
    if given.pretrained_weights:
        check_weights_file(Path(given.pretrained_weights))
    elif not (given.val or (given.c and model.fold(given.fold).checkpoints())):
        check_pretrained_file(model)
    preflight.check_device(given.device)
    _check_opened(given)
    if given.fold != "all":
        for note in preflight.settle_training_folds(given.dataset_name_or_id, given.p, given.configuration):
            print(f"Note: {note}", flush=True)
    from rectal_nnformer.training.run_folds import train_fold

    fold = model.fold(given.fold)
    if not given.pretrained_weights:
        raise SystemExit(train_fold(fold, passed, given.device))
    from rectal_nnformer.training.starting_checkpoint import fitted_checkpoint

    with fitted_checkpoint(Path(given.pretrained_weights), fold) as path:
        exchanged = [] if path == Path(given.pretrained_weights) else ["-pretrained_weights", str(path)]
        raise SystemExit(train_fold(fold, [*passed, *exchanged], given.device))  # the last one counts


def _check_opened(given: argparse.Namespace) -> None:
    """Refuse properties of cases and checkpoints that nnU-Net would open in this training and run code from."""
    from rectal_nnformer.networks.checkpoint_file import check_checkpoints
    from rectal_nnformer.nnunet.case_files import check_properties
    from rectal_nnformer.nnunet.layout import PreprocessedDataset
    from rectal_nnformer.nnunet.plans import Plans

    dataset = PreprocessedDataset.find(given.dataset_name_or_id)
    configuration = Plans.read(find_plans(dataset.path, given.p)).configuration(given.configuration)
    check_properties(dataset.data_folder(configuration.settings))
    if given.c or given.val or given.val_best:
        model = ModelFolder.named(dataset.name, given.tr, given.p, given.configuration)
        check_checkpoints(model.fold(given.fold))


def predict(arguments: argparse.Namespace) -> None:
    """Run nnUNetv2_predict with our trainers and its own options.

    Scans are NIfTI, NRRD or MetaImage files in a folder, or one file; or DICOM series anywhere below a folder. For a
    model of one channel files may have any name; for one of several --channels says which series are which. Every scan
    is checked before; one that cannot be used is named and the others are predicted. Without -c it is 3d_fullres.
    --help lists the options.
    What was found is written beside the masks: findings.html, findings.csv and findings.json.
    """
    # Abbreviations are taken as nnU-Net takes them, or one of ours would be passed on to it.
    ours = Parser(prog=arguments.parser.prog, add_help=False, allow_abbrev=True)
    shared.add_series(ours)
    ours.set_defaults(planes=None)  # what was not given need not fit
    _add_channels(ours)
    _add_formats(ours)
    # As nnU-Net calls it elsewhere, and would take it for here.
    whole = ["--continue_prediction" if text == "--c" else text for text in arguments.passed]
    own, passed = ours.parse_known_args(whole)
    given = _read("nnUNetv2_predict", passed, arguments.parser, optional=["c"], parents=[ours])
    configuration = given.c or FULLRES
    preflight.check_input(Path(given.i))
    preflight.check_output_folder(Path(given.o))
    _check_choice_of_series(own, Path(given.i))
    _check_formats(own.formats, given)
    model = preflight.check_model(given.d, given.tr, given.p, configuration, list(map(str, given.f)), given.chk)
    preflight.check_device(given.device)
    from rectal_nnformer.dataset_conversion.channels import parse_channels
    from rectal_nnformer.networks.checkpoint_file import check_checkpoint
    from rectal_nnformer.nnunet.checkpoints import checkpoint_problem
    from rectal_nnformer.nnunet.plans import Plans
    from rectal_nnformer.prediction import run

    Plans.read(model.plans_file)  # refuses those that name anything but layers, which nnU-Net would import

    for fold in given.f:
        path = model.fold(fold).path / given.chk
        check_checkpoint(path)
        if problem := checkpoint_problem(path, model.trainer):
            raise RectalError(f"{path} {problem}. Restore it, or predict with other folds (-f).")
    job = run.PredictionJob(
        model,
        Path(given.i),
        Path(given.o),
        passed if given.c else [*passed, "-c", configuration],
        continued=given.continue_prediction,
        part=(given.num_parts, given.part_id),
        folds=list(map(str, given.f)),
        checkpoint=given.chk,
        planes=own.planes or shared.DEFAULT_PLANES,
        description=own.description,
        formats=own.formats,
        keep_names=own.keep_names,
        channels=parse_channels(own.channels or ()),
    )
    raise SystemExit(run.predict(job))


def _add_channels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channels",
        nargs="+",
        metavar="NAME=REGEX",
        help="for models of several channels on DICOM: the series of a study that are its channels, by their "
        "SeriesDescription, say T2='t2.*tra' ADC='adc', in place of --description; masks lie on the first, onto which "
        "the others are resampled",
    )


def _add_formats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as",
        dest="formats",
        nargs="+",
        choices=(NIFTI, *DICOM_OBJECTS),
        default=[NIFTI],
        help="what to write of each scan, several at once (default: nifti): masks; on DICOM series also objects for "
        "viewers, with a segment or ROI per lesion. Without nifti no mask is kept, so that --continue_prediction and "
        "--save_probabilities need it",
    )
    parser.add_argument(
        "--keep-names",
        action="store_true",
        help="call DICOM series by their folders, and name folders and files in messages, which may tell patients' "
        "names; without it series are called by a hash of their SeriesInstanceUID, and series.csv says which is which",
    )


def _check_choice_of_series(own: argparse.Namespace, place: Path) -> None:
    """Refuse options that choose DICOM series where there are image files, all of which are predicted."""
    given = [f"--{name}" for name in ("planes", "description", "channels") if getattr(own, name) is not None]
    if given and (image := preflight.find_image(place)):
        raise RectalError(
            f"{' and '.join(given)} chooses DICOM series, and {image} is none. Leave it out, or name a folder of DICOM "
            "with -i."
        )


def _check_formats(formats: Sequence[str], given: argparse.Namespace) -> None:
    """Refuse DICOM objects on what is no DICOM, and options of nnU-Net's that need masks to stay."""
    objects = " and ".join(kind for kind in formats if kind != NIFTI)
    if objects and (image := preflight.find_image(Path(given.i))):
        raise RectalError(
            f"{image} is no DICOM series, and only on these {objects} can lie. Name a folder of DICOM with -i, or take "
            "--as nifti."
        )
    for option in ("continue_prediction", "save_probabilities"):
        if NIFTI not in formats and getattr(given, option):
            raise RectalError(f"--{option} needs masks that stay: add nifti to --as.")


def _read(
    command: str, passed: Sequence[str], ours: Parser, optional: Sequence[str] = (), parents: Sequence[Parser] = ()
) -> argparse.Namespace:
    """Return arguments as one of nnU-Net's commands will read them, or end with its help or a message.

    The help holds the options of `parents`, too.
    """
    parser = Parser(prog=ours.prog, description=ours.description, allow_abbrev=True, parents=parents)
    add_options(parser, command, optional)
    given, rest = parser.parse_known_args(passed)
    if rest:
        parser.refuse(rest)
    return given


def crossval(arguments: argparse.Namespace) -> None:
    """Train and validate the folds of a cross-validation through nnUNetv2_train and summarize the lesion detection.

    Finished folds are not repeated and interrupted ones continue, so the same command can simply be run again. What
    each fold prints goes to crossval_log.txt in its folder. At the end report.html is written into the folder of the
    model. With --slurm the folds become jobs of a cluster, and the summary another one after them.
    """
    model = preflight.check_training(arguments.d, arguments.tr, arguments.p, arguments.c, arguments.f or ())
    check_wish(arguments.operating_point)
    if arguments.dry_run and arguments.slurm is None:
        raise RectalError("--dry-run goes with --slurm.")
    if arguments.groups and arguments.slurm is not None:
        raise RectalError("--groups goes without --slurm. Give it to 'crossval' or 'report' when the jobs are done.")
    shared.check_groups(arguments.groups)
    if arguments.slurm is not None and any(arguments.gpus):
        raise RectalError("--gpus goes without --slurm, which gives each fold its GPU.")
    if arguments.status or arguments.slurm is not None:
        _crossval_jobs(model, arguments)
        return
    preflight.check_gpus(arguments.gpus, arguments.device)
    folds = arguments.f or range(preflight.check_folds(find_dataset("nnUNet_preprocessed", arguments.d)))
    if not all(model.fold(fold).checkpoints() for fold in folds):
        check_pretrained_file(model)
    preflight.check_device(arguments.device)
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
        operating_point=arguments.operating_point,
        groups=arguments.groups,
    )
    print(f"{detection_line(summary.pooled)}\nThe summary is {model_folder / 'crossval_summary.md'}")
    print(try_report(model_folder))


def _crossval_jobs(model: ModelFolder, arguments: argparse.Namespace) -> None:
    """Tell how far the folds are, or submit them: the study of a single recipe, whose files lie with the model."""
    from rectal_nnformer.study.jobs import submit
    from rectal_nnformer.study.progress import status_lines
    from rectal_nnformer.study.record import study_of_model
    from rectal_nnformer.study.steps import steps_of_model

    study = study_of_model(
        model,
        dict(arguments.slurm or ()),
        folds=arguments.f,
        device=arguments.device,
        npz=arguments.npz,
        operating_point=arguments.operating_point,
    )
    steps = steps_of_model(study, study.recipe[0])
    if arguments.status:
        print(*status_lines(steps), sep="\n")
        return
    if not all(model.fold(fold).checkpoints() for fold in study.fold_numbers()):
        check_pretrained_file(model)
    submit(study, steps, arguments.dry_run)


def _add_crossval(parser: argparse.ArgumentParser) -> None:
    shared.add_model(parser)
    parser.add_argument(
        "-f", metavar="FOLD", type=shared.natural_number, nargs="+", help="folds to train (default: all of the splits)"
    )
    shared.add_device(parser)
    parser.add_argument(
        "--gpus",
        metavar="GPU",
        nargs="+",
        default=[None],
        help="GPU numbers; folds are trained side by side, one on each GPU",
    )
    parser.add_argument("--npz", action="store_true", help="save the validation probabilities, as nnUNetv2_train --npz")
    parser.add_argument(
        "--operating-point",
        metavar="WISH",
        help="which lesions predict counts, chosen on the folds: fp-per-case=0.5 (at most so many false positives per "
        "case), sensitivity=0.95 (at least so many found), f1, or none (all of the mask; default: as chosen before)",
    )
    shared.add_groups(parser)
    parser.add_argument(
        "--slurm",
        metavar="KEY=VALUE",
        nargs="*",
        type=shared.key_and_value,
        help="submit to SLURM instead of training here: hours=24, cpus=12, or options of sbatch such as partition=gpu",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --slurm: print the scripts; needs no SLURM")
    parser.add_argument("--status", action="store_true", help="train nothing, tell how far the folds are")


def weights(arguments: argparse.Namespace) -> None:
    """List, check, download and verify the pretrained files that backbones start from, or import a fine-tuned one.

    Nothing but 'fetch' uses the network.
    """
    # A missing file is named at once; what follows takes seconds to import.
    if arguments.action == "verify":
        check_weights_file(arguments.file)
        _verify(arguments.file, arguments.backbone)
    elif arguments.action == "import":
        check_weights_file(arguments.checkpoint)
        if arguments.o:
            preflight.check_new_folder(arguments.o)
        _import(arguments, preflight.named_dataset(arguments.d) if arguments.d else "Dataset000_Imported")
    elif arguments.action == "check":
        preflight.check_trainer(arguments.tr)
        _check(arguments.tr)
    elif arguments.action == "fetch":
        _fetch(arguments.name)
    else:
        _list()


def _add_weights(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per action; none means list."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    text = (
        "list the files: where and from whom each is had, its size, MD5 and licence, where it is looked for, and what "
        "was found, with its MD5 checked"
    )
    actions.add_parser("list", help=text + " (default)", description=text)
    text = "tell whether the file that a trainer starts from is there and can be used: exit code 0, or 1 if not"
    check = actions.add_parser("check", help=text, description=text)
    check.add_argument("-tr", metavar="TRAINER", required=True, help="name of the trainer")
    text = (
        "download a file into the folder of weights, resumed after a cut, and verify it; exit code "
        f"{ONLY_A_WEB_PAGE} and the address of the page for one that is had from a web page alone"
    )
    fetch = actions.add_parser("fetch", help=text, description=text)
    fetch.add_argument(
        "name", metavar="NAME", choices=[file.name for file in PRETRAINED_FILES], help="its name in 'list'"
    )
    text = "load a file into a fresh network and print what was loaded, missing and ignored"
    verify = actions.add_parser("verify", help=text, description=text)
    verify.add_argument("file", metavar="FILE", type=Path)
    verify.add_argument(
        "-b",
        "--backbone",
        choices=NETWORKS,
        help="network to load it into (default: the one the file's name belongs to)",
    )
    text = "turn a checkpoint of a whole network into a model folder with which nnU-Net predicts prepared volumes"
    imported = actions.add_parser("import", help=text, description=text)
    imported.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    target = imported.add_mutually_exclusive_group(required=True)
    target.add_argument("-o", metavar="DIR", type=Path, help="model folder to write")
    target.add_argument(
        "-d", metavar="DATASET", help="write it into nnUNet_results, for this dataset: a name DatasetXXX_Name or an id"
    )
    stored = "needed only where the checkpoint's arguments do not hold it; another than theirs is refused"
    imported.add_argument(
        "--patch-size",
        nargs=3,
        type=shared.positive_integer,
        metavar=("X", "Y", "Z"),
        help=f"patch size in voxels; {stored}",
    )
    imported.add_argument(
        "--spacing",
        nargs=3,
        type=shared.positive_number,
        metavar=("X", "Y", "Z"),
        help=f"spacing of prepared volumes in mm; {stored}",
    )
    imported.add_argument(
        "--window",
        nargs=2,
        type=shared.finite_number,
        metavar=("LOW", "HIGH"),
        help="intensities of prepared volumes (default: 0 800)",
    )


def _list() -> None:
    folder = weights_folder()
    if folder is None:
        print(f"{WEIGHTS_VARIABLE} is not set; set it to the folder that holds your downloads")
    else:
        print(f"{WEIGHTS_VARIABLE} is {folder}" + ("" if folder.is_dir() else ", WARNING: there is no such folder"))
    for file in PRETRAINED_FILES:
        print(f"{file.backbone:14s} {file.name:22s} {file.status(folder)}")
        print(*(f"{'':14s} {line}" for line in file.description()), sep="\n")
    print("Terms of use are the publishers': read them there.")


def _check(trainer: str) -> None:
    """Print whether a trainer's file is there and, unless it is the published one, fits; end with 1 if not."""
    start = start_of(trainer)
    if start is None:
        print(f"{trainer} starts from no pretrained file.")
        return
    try:
        path = find_pretrained(*start)
        if md5_of(path) in {file.md5 for file in PRETRAINED_FILES if file.name == path.name}:
            print(f"{trainer} starts from {path}: found, MD5 correct.")
        else:
            _verify(path, start[0])
    except RectalError as error:
        print(error)
        raise SystemExit(1) from None


def _fetch(name: str) -> None:
    """Download a file, unless it is there; end with `ONLY_A_WEB_PAGE` where that cannot be done."""
    file = next(file for file in PRETRAINED_FILES if file.name == name)
    folder = weights_folder()
    if folder is not None and (folder / name).exists():
        published = file.md5 is None or md5_of(folder / name) == file.md5
        if not published or is_web_page(folder / name):
            raise RectalError(f"{folder / name} is there, but is not the published file. To download it, move it away.")
        print(f"{folder / name} is there: {file.status(folder)}. Nothing was downloaded.")
        return
    if file.address is None:
        place = f"the folder that {WEIGHTS_VARIABLE} names" if folder is None else str(folder)
        print(f"{name} is had from a web page alone, so nothing was downloaded.", *file.description(), sep="\n")
        print(f"Put it into {place}, under this name.")
        raise SystemExit(ONLY_A_WEB_PAGE)
    if folder is None:
        raise RectalError(f"{WEIGHTS_VARIABLE} is not set. Set it to the folder that {name} shall be put into.")
    from rectal_nnformer.networks.download import download

    print(f"{name} from {file.publisher}: {file.address}")
    path = download(file, folder)
    print(f"{path}: {file.status(folder)}. Licence: {file.licence}.")
    if file.md5 is None:
        print(f"Its MD5 is {md5_of(path)}; none is published. Whether it fits: rectal_nnformer weights verify {path}")


def _verify(path: Path, backbone: str | None) -> None:
    from rectal_nnformer.networks import load_pretrained
    from rectal_nnformer.networks.adapter import NETWORK_CLASSES
    from rectal_nnformer.networks.checkpoint_file import read_checkpoint

    read_checkpoint(path)  # first what it is, whatever it is called
    backbone = backbone or next((file.backbone for file in PRETRAINED_FILES if file.name == path.name), None)
    if backbone is None:
        raise RectalError(f"No backbone is known for a file called {path.name}. Name one with --backbone.")
    print(load_pretrained(NETWORK_CLASSES[backbone](1, 2), path))
    print(f"The file fits {backbone}.")


def _import(arguments: argparse.Namespace, dataset_name: str) -> None:
    from rectal_nnformer.planning.from_checkpoint import read_model, write_model

    # First what the file is: without one, no dataset matters.
    geometry = {"patch_size": arguments.patch_size, "spacing": arguments.spacing, "window": arguments.window}
    model = read_model(arguments.checkpoint, **geometry)
    results = nnunet_folder("nnUNet_results") if arguments.d else None
    folder = results / dataset_name / model.folder_name if results else arguments.o
    write_model(model, folder, dataset_name)
    print(model.report)
    print(f"Model folder: {folder}")
    options = f"-d {dataset_name} -tr {model.trainer} -p {model.plans.name} -c 3d_fullres -f 0"
    command = f"nnUNetv2_predict {options}" if results else f"nnUNetv2_predict_from_modelfolder -m {folder} -f 0"
    print(f"Predict prepared volumes with: {command} -i INPUT -o OUTPUT")
    checkpoint = folder / fold_name(0) / CHECKPOINT_FINAL
    print(f"Start a training from it with: nnUNetv2_train ... -pretrained_weights {checkpoint}")


COMMANDS = (
    Command(train, "nnUNetv2_train with our trainers"),
    Command(
        predict,
        "nnUNetv2_predict with our trainers, on files or DICOM, with a page of what was found",
        if_interrupted="Masks that are in -o already are kept: --continue_prediction goes on from there.",
    ),
    Command(
        crossval,
        "train, validate and summarize the folds of a cross-validation, with a report",
        _add_crossval,
        if_interrupted="Finished folds are kept: the same command goes on from there.",
    ),
    Command(
        weights,
        "list, check, download and verify pretrained files, or import a fine-tuned one",
        _add_weights,
        if_interrupted="What was downloaded is kept: 'weights fetch' goes on from there.",
    ),
)
