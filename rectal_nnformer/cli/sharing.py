"""Commands that exchange data and models with collaborators: export, import, inspect."""

import argparse
from functools import partial
from pathlib import Path

from rectal_nnformer.cli.command import Command
from rectal_nnformer.cli.options import add_dataset, add_model, fold, natural_number
from rectal_nnformer.nnunet import preflight
from rectal_nnformer.nnunet.layout import EVALUATION_FILE, ModelFolder, find_dataset, nnunet_folder


def export_dataset(arguments: argparse.Namespace) -> None:
    """Write a preprocessed dataset into one file for collaborators: data, plans, fingerprints, folds, ground truth.

    Reads nnUNet_preprocessed/DatasetXXX_Name and writes FILE; with --pseudonymize also pseudonyms.csv, the key, into
    that folder, where it stays. Patients, people and computers are not named: documentation/reference/bundle.md says
    what travels. Case names do travel unless --pseudonymize is given. The collaborator runs 'rectal_nnformer
    import_dataset FILE'.
    """
    preflight.check_folds(find_dataset("nnUNet_preprocessed", arguments.d), arguments.f or ())
    preflight.check_output_file(arguments.o)
    from rectal_nnformer.sharing import export_dataset

    path = export_dataset(
        arguments.d,
        arguments.o,
        pseudonymize=arguments.pseudonymize,
        with_ground_truth=not arguments.without_ground_truth,
        folds=arguments.f,
    )
    print(f"{path} is complete. See what is in it with 'rectal_nnformer inspect {path}' before it leaves.")
    if not arguments.pseudonymize:
        print("It tells the names of the cases. If these identify patients, export with --pseudonymize.")


def _add_export_dataset(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser, "nnUNet_preprocessed")
    _add_output(parser)
    parser.add_argument(
        "--without-ground-truth",
        action="store_true",
        help="leave out the masks on the original grid; training works without them, its final scoring does not",
    )
    parser.add_argument(
        "-f",
        metavar="FOLD",
        type=natural_number,
        nargs="+",
        help="send these folds and their cases alone; they keep their numbers (default: all cases and folds)",
    )


def import_dataset(arguments: argparse.Namespace) -> None:
    """Verify a dataset that 'rectal_nnformer export_dataset' wrote, and put it into nnUNet_preprocessed.

    Writes nnUNet_preprocessed/DatasetXXX_Name, under the id and name it had, and prints how to train on it. Every byte
    is verified before anything is put in place, and nothing of the file is executed, then or in training. A dataset
    that is there already is not replaced; after an error nothing is left.
    """
    preflight.check_file(arguments.file)
    nnunet_folder("nnUNet_preprocessed")
    from rectal_nnformer.cli.training_hint import training_commands
    from rectal_nnformer.sharing import import_dataset

    folder = import_dataset(arguments.file)
    print(f"Imported {folder}")
    print("Train with:", *training_commands(folder), sep="\n  ")


def export_model(arguments: argparse.Namespace) -> None:
    """Write a trained model into one file for collaborators: plans, checkpoints without optimizer, summary and report.

    Reads nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION and writes FILE; with --pseudonymize also the key
    of the names, pseudonyms.csv, into nnUNet_preprocessed/DatasetXXX_Name, where it stays. Nothing but the weights is
    learnt from patients, and no picture travels; documentation/reference/bundle.md says what does. The collaborator
    runs 'rectal_nnformer import_model FILE' and needs this package if the trainer is one of its own.
    """
    preflight.check_model(arguments.d, arguments.tr, arguments.p, arguments.c, arguments.f or ())
    preflight.check_output_file(arguments.o)
    from rectal_nnformer.sharing import export_model

    path = export_model(
        arguments.d,
        arguments.o,
        trainer=arguments.tr,
        plans=arguments.p,
        configuration=arguments.c,
        folds=arguments.f,
        pseudonymize=arguments.pseudonymize,
    )
    print(f"{path} is complete. See what is in it with 'rectal_nnformer inspect {path}' before it leaves.")


def _add_export_model(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "nnUNet_results")
    _add_output(parser)
    parser.add_argument(
        "-f", metavar="FOLD", type=fold, nargs="+", help="folds to send (default: all that are finished)"
    )


def import_model(arguments: argparse.Namespace) -> None:
    """Verify a model of 'rectal_nnformer export_model' or nnUNetv2_export_model_to_zip, and put it into nnUNet_results.

    Writes nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION, under the names it had, and prints how to
    predict with it; of a model that tells how its validation went, the report is made again, without pictures. Nothing
    of the file is executed: checkpoints are read as data and written anew, as nnU-Net opens them unrestricted. A model
    that is there already is not replaced; after an error nothing is left.
    """
    preflight.check_file(arguments.file)
    nnunet_folder("nnUNet_results")
    from rectal_nnformer.sharing import import_model

    for folder in import_model(arguments.file):
        model = ModelFolder.from_path(folder)
        folds = " ".join(fold.fold for fold in model.folds())
        options = f"-d {model.dataset} -tr {model.trainer} -p {model.plans} -c {model.configuration} -f {folds}"
        print(f"Imported {folder}")
        print(f"Predict with: rectal_nnformer predict {options} -i INPUT -o OUTPUT")
        if any((fold.validation / EVALUATION_FILE).is_file() for fold in model.folds()):
            from rectal_nnformer.reporting import try_report

            print(try_report(folder))


def inspect(arguments: argparse.Namespace) -> None:
    """Tell what is in a file from elsewhere without executing anything of it. Nothing is written.

    Knows bundles of datasets and models, which are verified to the last byte, nnU-Net's model zips, checkpoints,
    pretrained weights, preprocessed arrays (.b2nd) and case properties (.pkl). Says so where a file is not safe to
    open, and what opening it would import.
    """
    preflight.check_file(arguments.file)
    from rectal_nnformer.sharing import inspect_file

    print(inspect_file(arguments.file))


def _add_output(parser: argparse.ArgumentParser) -> None:
    text = "file to write, a zip, replacing one of that name once it is complete"
    parser.add_argument("-o", metavar="FILE", type=Path, required=True, help=text)
    parser.add_argument(
        "--pseudonymize",
        action="store_true",
        help="give cases the same random names everywhere; the key stays here, as pseudonyms.csv in the preprocessed "
        "dataset",
    )


def _add_file(text: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help=text)


COMMANDS = (
    Command(export_dataset, "write a preprocessed dataset into one file for collaborators", _add_export_dataset),
    Command(
        import_dataset,
        "verify a dataset from a collaborator and put it into nnUNet_preprocessed",
        partial(_add_file, "bundle that export_dataset wrote"),
    ),
    Command(export_model, "write a trained model into one file for collaborators", _add_export_model),
    Command(
        import_model,
        "verify a model from a collaborator and put it into nnUNet_results",
        partial(_add_file, "bundle that export_model wrote, or a model zip of nnU-Net's"),
    ),
    Command(
        inspect,
        "tell what is in a bundle, model zip, checkpoint or pickle, executing nothing",
        partial(_add_file, "any file, of one's own or from elsewhere"),
    ),
)
