"""Commands that look at results: evaluate, report, compare, attention, feature_reuse."""

import argparse
from pathlib import Path

from rectal_nnformer.cli.command import Command
from rectal_nnformer.cli.options import add_device, add_groups, add_model, add_processes, check_groups, fold
from rectal_nnformer.nnunet import layout, preflight


def evaluate(arguments: argparse.Namespace) -> None:
    """Score predicted masks against references, lesion by lesion: lesion_detection.json and lesion_detection.csv.

    Every reference is a case; one without a prediction of the same name is reported and its lesions count as missed.
    Predictions without a reference are not scored, and named. dataset.json, for labels and file ending, is looked for
    in the folder of predictions and in and above that of references; patients.csv beside it or above the references.
    """
    output = arguments.o or arguments.pred
    for folder in (arguments.pred, arguments.gt):
        layout.check_folder(folder)
    if arguments.djfile:
        preflight.check_file(arguments.djfile)
    preflight.check_output_folder(output)
    check_groups(arguments.groups)
    from rectal_nnformer.evaluation.folder import evaluate_folder
    from rectal_nnformer.evaluation.summary import detection_line

    result = evaluate_folder(arguments.pred, arguments.gt, arguments.djfile, output, arguments.np)
    print(f"{detection_line(result)}\nThe lesions are in {output}: lesion_detection.json, .csv")
    if arguments.groups:
        from rectal_nnformer.reporting.writing import write_group_rates

        print(f"The rates by group are {write_group_rates(result, arguments.groups, output)}")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gt", metavar="DIR", type=Path, required=True, help="reference masks, <case>.nii.gz")
    parser.add_argument("--pred", metavar="DIR", type=Path, required=True, help="predicted masks by the same names")
    parser.add_argument("-o", metavar="DIR", type=Path, help="folder for the results (default: that of --pred)")
    parser.add_argument("-djfile", metavar="FILE", type=Path, help="dataset.json, where it is not found")
    add_groups(parser)
    add_processes(parser, default=2)


def report(arguments: argparse.Namespace) -> None:
    """Write report.html about a trained model, or about predictions that 'evaluate' scored, such as of a test set.

    One page tells what was found and missed, in numbers and pictures.

    The page needs no other file and no network, and can be passed on. It shows the pictures of your patients, and the
    names of their cases.
    """
    preflight.check_reported(arguments.model)
    check_groups(arguments.groups)
    if arguments.images:
        layout.check_folder(arguments.images)
    if arguments.o:
        preflight.check_output_file(arguments.o)
    from rectal_nnformer.reporting.writing import write_report

    print(
        f"The report is {write_report(arguments.model, arguments.o, arguments.np, arguments.images, arguments.groups)}"
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="FOLDER",
        type=Path,
        help="folder of the model in nnUNet_results, which holds the folds; or one that 'evaluate' wrote into",
    )
    parser.add_argument("-o", metavar="FILE", type=Path, help="the page (default: report.html in FOLDER)")
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="images of scored predictions (default: imagesTs beside references in labelsTs)",
    )
    add_groups(parser)
    add_processes(parser, default=2)


def compare(arguments: argparse.Namespace) -> None:
    """Put trained models side by side: which tumours each detected, how sure a difference is, attention and features.

    The models are compared on the cases that all of them were validated on. Written are compare.md, compare.json,
    compare.csv (a row per tumour) and compare.png.
    """
    preflight.check_comparison(arguments.models)
    preflight.check_output_folder(arguments.o)
    check_groups(arguments.groups)
    from rectal_nnformer.evaluation.summary import detection_line
    from rectal_nnformer.reporting.comparison import compare_models
    from rectal_nnformer.reporting.pages import left_out_words
    from rectal_nnformer.reporting.writing import write_comparison

    comparison = compare_models(arguments.models, arguments.groups)
    paths = write_comparison(comparison, arguments.o)
    if left_out := left_out_words(comparison):
        print(f"Note: {left_out}")
    for result in comparison.models:
        print(f"{result.name}: {detection_line(result.detection)}")
    print(f"The comparison is {paths[0]}, with {', '.join(path.name for path in paths[1:])} beside it")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+", help="folders of the models in nnUNet_results")
    parser.add_argument(
        "-o", metavar="DIR", type=Path, default=Path(), help="folder for the results (default: this one)"
    )
    add_groups(parser)


def attention(arguments: argparse.Namespace) -> None:
    """Measure the attention dilution of folds on their validation cases; write attention_dilution.json and .csv.

    Every fold's validation does this for its final checkpoint. Here it can be repeated, or done with other weights: the
    pretrained file, or random weights, for which nothing need be trained. Results go into the folder validation of the
    fold, under a name that tells the weights unless they are the final checkpoint.
    """
    names = arguments.d, arguments.tr, arguments.p, arguments.c
    preflight.check_analysis(*names, arguments.f, arguments.weights, arguments.o)
    preflight.check_device(arguments.device)
    from rectal_nnformer.analysis.on_demand import dilution_of_fold

    model = layout.planned_model(*names)
    for number in arguments.f:
        line, path = dilution_of_fold(
            model.fold(number), weights=arguments.weights, output=arguments.o, device=arguments.device
        )
        print(f"fold {number}: {line}\n  {path}")


def _add_attention(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("-f", metavar="FOLD", type=fold, nargs="+", default=["0"], help="folds, or all (default: 0)")
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        default=layout.CHECKPOINT_FINAL,
        help="a checkpoint of the fold, 'pretrained' or 'random' (default: %(default)s)",
    )
    parser.add_argument("-o", metavar="DIR", type=Path, help="write to DIR/MODEL/fold_X instead")
    add_device(parser)


def feature_reuse(arguments: argparse.Namespace) -> None:
    """Compare the features of two networks, block by block, on crops of the first one's validation cases: debiased CKA.

    FIRST is the folder of a trained fold, .../TRAINER__PLANS__CONFIGURATION/fold_X. SECOND is another one, or a
    pretrained file. Both are read from one crop per case, the same part of the patient for both, also where their
    patches differ.
    """
    first = layout.FoldFolder.from_path(arguments.first)
    layout.check_compared(arguments.second)
    if arguments.o:
        preflight.check_output_file(arguments.o)
    preflight.check_device(arguments.device)
    from rectal_nnformer.analysis.on_demand import reuse_of_fold

    line, path = reuse_of_fold(first, arguments.second, arguments.o, arguments.device)
    print(f"{line}\n  {path}")


def _add_feature_reuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="FIRST", type=Path, help="folder of a trained fold")
    parser.add_argument("second", metavar="SECOND", type=Path, help="folder of a trained fold, or a pretrained file")
    parser.add_argument(
        "-o",
        metavar="FILE",
        type=Path,
        help="JSON file to write (default: in FIRST/validation, feature_reuse.json against a pretrained file, "
        "feature_reuse_TRAINER_fold_X.json against a fold)",
    )
    add_device(parser)


COMMANDS = (
    Command(evaluate, "score predictions against references, lesion by lesion", _add_evaluate),
    Command(
        report,
        "write a page about a trained model or a scored test set: detection, pictures, attention, features, plan",
        _add_report,
    ),
    Command(compare, "compare trained models tumour by tumour", _add_compare),
    Command(
        attention, "measure how much attention goes to padding, of folds, pretrained or random weights", _add_attention
    ),
    Command(
        feature_reuse,
        "compare the features of a fold with those of another or of a pretrained file (CKA)",
        _add_feature_reuse,
    ),
)
