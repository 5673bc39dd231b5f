"""Writing a report, at a user's request or at the end of a long training."""

from datetime import datetime
from pathlib import Path

from rectal_nnformer.reporting.report.gallery import draw_clips
from rectal_nnformer.reporting.report.page import report_page
from rectal_nnformer.reporting.runs import read_run
from rectal_nnformer.utils.files import write_text

REPORT_FILE = "report.html"


def write_report(model_folder: Path, output: Path | None = None, num_processes: int = 1) -> Path:
    """Write `report.html` about a trained model: one page of less than 25 MB that needs no other file and no network.

    Images are read from nnUNet_raw, references from nnUNet_preprocessed, beside nnUNet_results or where the variables
    point; without them there are no pictures, and the page says so.

    Args:
        model_folder: Folder of the model in nnUNet_results, which holds the folds.
        output: The file; None takes `report.html` in the model folder.
        num_processes: At most so many processes draw the pictures.

    Returns:
        The file.

    Raises:
        RectalError: It is not the folder of a trained and evaluated model, or a file in it is damaged.
    """
    run = read_run(model_folder)
    path = output or run.folder / REPORT_FILE
    clips = draw_clips(run, num_processes)
    write_text(path, report_page(run, clips, datetime.now().astimezone().strftime("%d %B %Y, %H:%M")))
    return path


def try_report(model_folder: Path, output: Path | None = None, num_processes: int = 1) -> str:
    """Write the report and return where it is; where that fails, return why and how to try again.

    For the end of a training, which no trouble with a page about it may spoil.
    """
    try:
        return f"The report is {write_report(model_folder, output, num_processes)}"
    except Exception as error:
        again = f"rectal_nnformer report {model_folder}" + (f" -o {output}" if output else "")
        return f"The report could not be written ({error}). The results are complete; to try again: {again}"
