"""Commands that make data and plans: convert, plan, plan_and_preprocess."""

import argparse
import os
from pathlib import Path
from typing import Any

from rectal_nnformer.cli.command import Command
from rectal_nnformer.cli.options import (
    add_processes,
    add_series,
    dataset_number,
    plans_name,
    positive_integer,
    positive_number,
)
from rectal_nnformer.nnunet import preflight
from rectal_nnformer.nnunet.layout import check_folder, find_dataset, find_plans, nnunet_folder
from rectal_nnformer.nnunet.names import CUBIC, FULLRES
from rectal_nnformer.planning.backbones import BACKBONES

AUGMENTATIONS = ("published", "planned")


def convert(arguments: argparse.Namespace) -> None:
    """Turn scans and tumour masks into an nnU-Net raw dataset with folds by patient and a contact sheet."""
    of_files = arguments.format == "nifti"
    source = arguments.images if of_files else arguments.series
    if of_files and arguments.manifest and arguments.masks:
        arguments.parser.error("--manifest lists the masks, too: leave --masks out")
    if of_files and not (arguments.images or arguments.manifest):
        arguments.parser.error("one of the arguments --images --manifest is required")
    for folder in filter(None, (source, arguments.masks)):
        check_folder(folder)
    for file in filter(None, (arguments.patients, arguments.dataset_json, arguments.manifest if of_files else None)):
        preflight.check_file(file)
    from rectal_nnformer.dataset_conversion.labels import parse_labels
    from rectal_nnformer.dataset_conversion.target import Options

    common = Options(
        labels=parse_labels(arguments.labels or ()),
        dataset_json=arguments.dataset_json,
        patients=arguments.patients,
        split_by_case=arguments.split_by_case,
        test=arguments.test,
        dry_run=arguments.dry_run,
        workers=arguments.np,
    )
    dataset = arguments.d, arguments.name
    if not of_files:
        from rectal_nnformer.dataset_conversion.channels import parse_channels
        from rectal_nnformer.dataset_conversion.dicom import convert_dicom

        chosen = {"planes": arguments.planes, "description": arguments.description}
        channels = parse_channels(arguments.channels)
        convert_dicom(source, arguments.masks, *dataset, **chosen, channels=channels, **common)
        return
    kind = {"prepared": arguments.prepared, "channels": arguments.channels}
    if arguments.manifest:
        from rectal_nnformer.dataset_conversion.manifest import convert_manifest

        convert_manifest(arguments.manifest, source, *dataset, **kind, **common)
    else:
        from rectal_nnformer.dataset_conversion.nifti import convert_nifti

        convert_nifti(source, arguments.masks, *dataset, **kind, **common)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)

    text = "one NIfTI, NRRD or MetaImage file per case and per mask, matched by name"
    nifti = formats.add_parser("nifti", help=text, description=text)
    nifti.set_defaults(parser=nifti)
    nifti.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="<case>.nii.gz or <case>_0000.nii.gz; with --manifest the folder that its paths are relative to (default: "
        "its own)",
    )
    nifti.add_argument(
        "--masks", metavar="DIR", type=Path, help="<case>.nii.gz, 1 is tumour; without it the cases go to imagesTs"
    )
    nifti.add_argument(
        "--manifest",
        metavar="FILE",
        type=Path,
        help="JSON that lists image and label under training, as of the Medical Segmentation Decathlon and MONAI, in "
        "place of --masks; 'fold' of an entry is kept; without, validation is what the only fold validates; testing "
        "goes to imagesTs",
    )
    nifti.add_argument(
        "--channels",
        nargs="+",
        metavar="NAME",
        default=(),
        help="names of the channels, say T2 ADC for <case>_0000.nii.gz and <case>_0001.nii.gz, which lie on one grid "
        "(default: T2w alone)",
    )
    nifti.add_argument(
        "--prepared",
        action="store_true",
        help="images were scaled to 0 to 800 beforehand, as the method's authors do; nothing normalizes them again; "
        "images that all reach from 0 to 800 are recognized",
    )
    nifti.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME=VALUES",
        help="labels in the order of their numbers, and the values that stand for them in the masks, say tumor=255, or "
        "tumor=1,2 rectum=3; other values become background (default: 1 is tumour)",
    )
    _add_target(nifti, "default: every case is a patient of its own")

    text = "DICOM series in any nesting of folders, found by SeriesInstanceUID"
    dicom = formats.add_parser("dicom", help=text, description=text)
    dicom.set_defaults(parser=dicom)
    dicom.add_argument("--series", metavar="DIR", type=Path, required=True, help="folder to look through")
    dicom.add_argument(
        "--masks",
        metavar="DIR",
        type=Path,
        help="one NIfTI, NRRD or MetaImage per series, named by series folder or SeriesInstanceUID, 1 is tumour, or "
        "DICOM-SEG and RTSTRUCT at any depth; those among the series count as well; without it the cases go to "
        "imagesTs",
    )
    dicom.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME=REGEX",
        help="labels in the order of their numbers, and the names of their structures in DICOM-SEG and RTSTRUCT, say "
        "tumor='gtv.*|tumou?r' rectum='rect.*' (the whole name, in any case), or their values in mask files, say "
        "tumor=1,2 rectum=3; where two overlap, the first has the voxel (default: the only structure is the tumour)",
    )
    dicom.add_argument(
        "--channels",
        nargs="+",
        metavar="NAME=REGEX",
        default=(),
        help="series of a study that become the channels of a case, by their SeriesDescription, say T2='t2.*tra' "
        "ADC='adc', in place of --description; masks lie on the first, onto which the others are resampled",
    )
    add_series(dicom)
    _add_target(dicom, "default: the PatientID in the DICOM headers")


def _add_target(parser: argparse.ArgumentParser, default_patients: str) -> None:
    """Add the options of every format: the dataset to write, and how its folds are made."""
    parser.add_argument("-d", metavar="ID", type=dataset_number, required=True, help="dataset id, 1 to 999")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--name", help="name of a new dataset: Rectal makes DatasetXXX_Rectal")
    which.add_argument(
        "--add",
        action="store_true",
        help="add training cases to the dataset of this id: old ones keep their names and folds, known patients theirs",
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="make a labelled test cohort for 'rectal_nnformer evaluate', in imagesTs and labelsTs: no folds needed",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check all, print which case would be made of what, and write nothing"
    )
    parser.add_argument(
        "--dataset-json",
        metavar="FILE",
        type=Path,
        help="dataset.json whose labels, with regions and the ignore label, and names of channels are kept",
    )
    parser.add_argument(
        "--patients",
        metavar="CSV",
        type=Path,
        help=f"columns case and patient, so that all scans of a patient are in one fold; {default_patients}",
    )
    parser.add_argument(
        "--split-by-case",
        action="store_true",
        help="make folds by case, not by patient; the detection rate is then optimistic",
    )
    add_processes(parser, default=min(4, os.cpu_count() or 1))


def plan(arguments: argparse.Namespace) -> None:
    """Plan target spacing, patch, batch and augmentation for SMIT or Swin UNETR, and say why.

    Measures the dataset, writes the plans and their explanation into nnUNet_preprocessed, and prints the explanation.
    'rectal_nnformer plan_and_preprocess' does the same and then makes the preprocessed data. With -p nothing is
    planned: plans that are there are explained as they are.
    """
    if not arguments.p:
        _plan_and_explain(arguments, preprocess=False)
        return
    datasets = [find_dataset("nnUNet_preprocessed", dataset) for dataset in arguments.d]
    for dataset in datasets:
        find_plans(dataset, arguments.p)
    from rectal_nnformer.planning.explanation import explain_plans

    print(*(explain_plans(dataset.name, arguments.p) for dataset in datasets), sep="\n\n")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    _add_backbone(what)
    what.add_argument("-p", metavar="NAME", help="plans to explain, as they are, instead of planning")
    _add_planning(parser)


def plan_and_preprocess(arguments: argparse.Namespace) -> None:
    """Plan and preprocess raw datasets for SMIT or Swin UNETR.

    Measures the dataset, plans target spacing, patch, batch and augmentation from that, says why as 'rectal_nnformer
    plan' does, and runs nnU-Net's preprocessing. Two configurations are planned on the same preprocessed data:
    3d_fullres, whose patch suits the dataset, and 3d_fullres_cubic, the input size of pretraining.
    """
    _plan_and_explain(arguments, preprocess=not arguments.no_pp, num_processes=arguments.np)


def _add_plan_and_preprocess(parser: argparse.ArgumentParser) -> None:
    _add_backbone(parser, required=True)
    _add_planning(parser)
    parser.add_argument(
        "-c",
        nargs="+",
        choices=(FULLRES, CUBIC),
        default=[FULLRES],
        metavar="CONFIGURATION",
        help="configurations to preprocess for; both read the same data, so either makes them (default: 3d_fullres)",
    )
    parser.add_argument("--no_pp", action="store_true", help="do not preprocess: the same as 'rectal_nnformer plan'")
    parser.add_argument(
        "-np", type=positive_integer, metavar="N", help="processes for preprocessing (default: 4, at most one per core)"
    )


def _add_backbone(parser: Any, **options: Any) -> None:
    """Add the choice of a network to a parser or group."""
    parser.add_argument(
        "-b",
        "--backbone",
        choices=tuple(BACKBONES),
        help="network to plan for; smit_small is a narrow, shallow SMIT for trying things out on a CPU, to which no "
        "pretrained weights fit",
        **options,
    )


def _add_planning(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide a plan."""
    parser.add_argument("-d", nargs="+", required=True, metavar="DATASET", help="dataset ids or names, in nnUNet_raw")
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
        "--tumor-augmentation",
        choices=AUGMENTATIONS,
        default="published",
        help="ranges of the tumour-aware augmentation: as published, or planned from the dataset's lesions "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--lesion-wise",
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


def _plan_and_explain(arguments: argparse.Namespace, **options: Any) -> None:
    """Plan each dataset; print the plans in words, then the warnings about what they replace."""
    nnunet_folder("nnUNet_preprocessed")
    names = [find_dataset("nnUNet_raw", dataset).name for dataset in arguments.d]
    from rectal_nnformer.planning.api import plan_dataset, verify_integrity
    from rectal_nnformer.planning.dataset import open_raw_dataset
    from rectal_nnformer.planning.explanation import describe_plans
    from rectal_nnformer.planning.outdated import print_warning

    warnings: list[str] = []
    plans = []
    for dataset in [open_raw_dataset(name) for name in names]:
        if arguments.verify_dataset_integrity:
            verify_integrity(dataset, arguments.npfp)
        made = plan_dataset(
            dataset.dataset_id,
            arguments.backbone,
            gpu_memory_target=arguments.gpu_memory_target,
            overwrite_target_spacing=arguments.overwrite_target_spacing,
            plans_name=arguments.overwrite_plans_name,
            tumor_augmentation=arguments.tumor_augmentation,
            lesion_wise=arguments.lesion_wise,
            num_processes_fingerprint=arguments.npfp,
            clean=arguments.clean,
            warn=warnings.append,
            **options,
        )
        plans.append(made)
    print("", *map(describe_plans, plans), sep="\n")
    for warning in dict.fromkeys(warnings):
        print_warning(warning)


COMMANDS = (
    Command(
        convert,
        "convert NIfTI, NRRD or MetaImage files or DICOM series to nnUNet_raw/DatasetXXX_Name",
        _add_convert,
        if_interrupted="No dataset was written, and none was changed.",
    ),
    Command(
        plan,
        "plan target spacing, patch, batch and augmentation, and say why",
        _add_plan,
        if_interrupted="The same command again finishes the work.",
    ),
    Command(
        plan_and_preprocess,
        "plan target spacing, patch, batch and augmentation, and preprocess",
        _add_plan_and_preprocess,
        if_interrupted="The same command again finishes the work.",
    ),
)
