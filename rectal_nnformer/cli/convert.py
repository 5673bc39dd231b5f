"""Turn scans and tumour masks into an nnU-Net raw dataset with folds by patient and a contact sheet."""

import argparse
import os
from pathlib import Path

from rectal_nnformer.cli.values import positive_integer

HELP = "convert NIfTI files or DICOM series to nnUNet_raw/DatasetXXX_Name"
IF_INTERRUPTED = "No dataset was written."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per source format."""
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)

    text = "one NIfTI, NRRD or MetaImage file per case and per mask, matched by name"
    nifti = formats.add_parser("nifti", help=text, description=text)
    nifti.add_argument("--images", metavar="DIR", type=Path, required=True, help="<case>.nii.gz or <case>_0000.nii.gz")
    nifti.add_argument(
        "--masks", metavar="DIR", type=Path, help="<case>.nii.gz, 1 is tumour; without it the cases go to imagesTs"
    )
    nifti.add_argument(
        "--prepared",
        action="store_true",
        help="images were scaled to 0 to 800 beforehand, as the method's authors do; nothing normalizes them again",
    )
    _add_common(nifti, "default: every case is a patient of its own")

    text = "DICOM series in any nesting of folders, found by SeriesInstanceUID"
    dicom = formats.add_parser("dicom", help=text, description=text)
    dicom.add_argument("--series", metavar="DIR", type=Path, required=True, help="folder to look through")
    dicom.add_argument(
        "--masks",
        metavar="DIR",
        type=Path,
        help="one NIfTI, NRRD or MetaImage per series, named by series folder or SeriesInstanceUID, 1 is tumour; "
        "without it the cases go to imagesTs",
    )
    dicom.add_argument(
        "--planes",
        nargs="+",
        choices=("axial", "sagittal", "coronal"),
        default=["axial"],
        help="acquisition planes to take (default: axial)",
    )
    dicom.add_argument(
        "--description", metavar="REGEX", help="take only series whose SeriesDescription matches, say 't2.*tra'"
    )
    _add_common(dicom, "default: the PatientID in the DICOM headers")


def run(arguments: argparse.Namespace) -> None:
    """Convert and say where the dataset lies."""
    common = {
        "patients": arguments.patients,
        "split_by_case": arguments.split_by_case,
        "workers": arguments.workers,
    }
    if arguments.format == "nifti":
        from rectal_nnformer.dataset_conversion.nifti import convert_nifti

        convert_nifti(
            arguments.images,
            arguments.masks,
            arguments.dataset,
            arguments.name,
            prepared=arguments.prepared,
            **common,
        )
    else:
        from rectal_nnformer.dataset_conversion.dicom import convert_dicom

        convert_dicom(
            arguments.series,
            arguments.masks,
            arguments.dataset,
            arguments.name,
            planes=arguments.planes,
            description=arguments.description,
            **common,
        )


def _add_common(parser: argparse.ArgumentParser, default_patients: str) -> None:
    parser.add_argument("-d", dest="dataset", metavar="ID", type=int, required=True, help="dataset id, 1 to 999")
    parser.add_argument("--name", required=True, help="dataset name: Rectal makes DatasetXXX_Rectal")
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
    parser.add_argument(
        "-np",
        dest="workers",
        metavar="N",
        type=positive_integer,
        default=min(4, os.cpu_count() or 1),
        help="number of processes (default: %(default)s)",
    )
