"""Put trained models side by side: which tumours each detected, how sure a difference is, attention and features.

The runs are compared on the cases that all of them were validated on. Written are compare.md, compare.json, compare.csv
(a row per tumour) and compare.png.
"""

import argparse
from pathlib import Path

HELP = "compare trained models tumour by tumour"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of the models in nnUNet_results")
    parser.add_argument(
        "-o", metavar="DIR", type=Path, default=Path(), help="folder for the results (default: this one)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Compare and print what each run found."""
    from rectal_nnformer.nnunet.layout import check_model_folder

    for folder in arguments.runs:  # what is not there is said at once; what follows takes seconds to import
        check_model_folder(folder.expanduser().resolve())
    from rectal_nnformer.evaluation.summary import detection_line
    from rectal_nnformer.reporting.comparison import compare_models
    from rectal_nnformer.reporting.pages import left_out_words
    from rectal_nnformer.reporting.writing import write_comparison

    comparison = compare_models(arguments.runs)
    paths = write_comparison(comparison, arguments.o)
    if left_out := left_out_words(comparison):
        print(f"Note: {left_out}")
    for result in comparison.models:
        print(f"{result.name}: {detection_line(result.detection)}")
    print(f"The comparison is {paths[0]}, with {', '.join(path.name for path in paths[1:])} beside it")
