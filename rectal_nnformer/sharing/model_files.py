"""A model folder of nnU-Net's written anew from vetted content: what travels, and what is kept of an imported one."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.sharing import vetting
from rectal_nnformer.sharing.checkpoints import read_model_checkpoint, write_model_checkpoint
from rectal_nnformer.sharing.identity import Renamer, Traces, scrubbed
from rectal_nnformer.sharing.pages import MAX_BYTES as MAX_PAGE_BYTES
from rectal_nnformer.sharing.pages import clean_page
from rectal_nnformer.sharing.strict_json import load_json_file
from rectal_nnformer.utils.files import write_json, write_text

CHECKPOINT = "checkpoint_final.pth"
PLANS, DATASET, FINGERPRINT = "plans.json", "dataset.json", "dataset_fingerprint.json"
SUMMARY = "crossval_summary"
REPORT = "report.html"
PRIVATE_COLUMNS = ("patient",)
FOLD = re.compile(r"fold_(\d{1,3}|all)")
MODEL_FOLDER = re.compile(r"([A-Za-z_]\w*)__([\w.+-]+?)__([\w.+-]+)", re.ASCII)
SUMMARY_KEYS = ("foreground_mean", "mean")
"""Of nnU-Net's summary.json; its list of cases holds paths."""


@dataclass
class Model:
    """A model that has been written anew.

    Attributes:
        trainer: Name of the trainer in its checkpoints.
        plans: Name of its plans.
        configuration: Name of its configuration.
        files: Its files, relative to its folder.
        removed: What was left out, in words.
    """

    trainer: str
    plans: str
    configuration: str
    files: list[str] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)

    @property
    def folder_name(self) -> str:
        """Name of its folder in nnUNet_results/DatasetXXX_Name."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"


def fold_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of finished folds by number or "all"."""
    found = {
        path.name.removeprefix("fold_"): path for path in sorted(folder.glob("fold_*")) if FOLD.fullmatch(path.name)
    }
    return {name: path for name, path in found.items() if (path / CHECKPOINT).is_file()}


def rewrite_model(
    source: Path, target: Path, dataset_name: str, renamer: Renamer, folds: Sequence[str] | None = None
) -> Model:
    """Write the model folder `source` anew into the existing folder `target`; nothing of it is executed.

    Args:
        source: A model folder, of our own or unpacked from elsewhere.
        target: Where to write.
        dataset_name: DatasetXXX_Name that plans must name.
        renamer: New names of cases in the summary and the report.
        folds: Numbers of the folds, or "all"; None takes those that are finished.

    Raises:
        RectalError: Anything is not as nnU-Net or this package writes it.
    """
    traces = Traces()
    removed: set[str] = {"optimizer state and training curves of checkpoints"}
    dataset_json = vetting.only(_read(source / DATASET), vetting.DATASET_KEYS)
    if "name" in dataset_json:
        dataset_json["name"] = dataset_name
    vetting.check_dataset_json(dataset_json, DATASET)
    plans = vetting.cleaned_plans(_read(source / PLANS), lambda content: scrubbed(content, renamer, traces, removed))
    vetting.check_plans(plans, PLANS, dataset_name)
    write_json(target / DATASET, dataset_json)
    write_json(target / PLANS, plans)
    model = _rewrite_folds(source, target, plans, dataset_json, folds)
    if (source / FINGERPRINT).is_file():
        write_json(target / FINGERPRINT, vetting.only(_read(source / FINGERPRINT), vetting.FINGERPRINT_KEYS))
    _rewrite_summaries(source, target, renamer, traces, removed)
    model.removed = removed
    model.files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    return model


def _rewrite_folds(
    source: Path,
    target: Path,
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    folds: Sequence[str] | None,
) -> Model:
    """Write the checkpoint and the mean scores of each fold; all must be of one trainer and configuration."""
    present = fold_folders(source)
    missing = [fold for fold in folds or () if fold not in present]
    if missing or not present:
        raise RectalError(
            f"{source} has no {CHECKPOINT} in fold_{missing[0] if missing else '*'}. Train it to the end."
        )
    models = set()
    for fold in tqdm(folds or list(present), desc="Checkpoints", unit="fold"):
        content = read_model_checkpoint(present[fold] / CHECKPOINT)
        if str(content["fold"]) != fold or content["configuration"] not in plans["configurations"]:
            raise RectalError(f"{present[fold] / CHECKPOINT} is of fold {content['fold']}, {content['configuration']}.")
        models.add((content["trainer_name"], plans["plans_name"], content["configuration"]))
        folder = target / f"fold_{fold}"
        folder.mkdir()
        write_model_checkpoint(folder / CHECKPOINT, content, plans, dataset_json)
        summary = present[fold] / "validation/summary.json"
        if summary.is_file():
            (folder / "validation").mkdir()
            means = _numbers_only(vetting.only(_read(summary), SUMMARY_KEYS))
            write_json(folder / "validation/summary.json", means)
    if len(models) != 1:
        raise RectalError(f"{source} mixes checkpoints of several trainers or configurations: {sorted(models)}.")
    return Model(*models.pop())


def _rewrite_summaries(source: Path, target: Path, renamer: Renamer, traces: Traces, removed: set[str]) -> None:
    """Write the summary over the folds and the report, without patients, pictures, paths and programs."""

    def text(content: str) -> str:
        return str(scrubbed(content, renamer, traces, removed))

    if (source / f"{SUMMARY}.json").is_file():
        content = scrubbed(_read(source / f"{SUMMARY}.json"), renamer, traces, removed)
        write_json(target / f"{SUMMARY}.json", content)
    if (source / f"{SUMMARY}.csv").is_file():
        write_text(target / f"{SUMMARY}.csv", _clean_table(_text_of(source / f"{SUMMARY}.csv"), text))
    if (source / f"{SUMMARY}.md").is_file():
        lines = [line for line in _text_of(source / f"{SUMMARY}.md").splitlines() if "![" not in line]
        write_text(target / f"{SUMMARY}.md", "".join(f"{_plain_markdown(text(line))}\n" for line in lines))
    if (source / REPORT).is_file():
        write_text(target / REPORT, clean_page(_text_of(source / REPORT), text))
        removed.add("pictures, scripts and dates of the report")


def _plain_markdown(line: str) -> str:
    """Return a line of Markdown in which neither tags nor links work."""
    return re.sub(r"\](?=[(:\[])", "] ", re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line))


def _clean_table(table: str, text: Any) -> str:
    try:
        rows = list(csv.DictReader(table.splitlines()))
    except csv.Error as error:
        raise RectalError(f"{SUMMARY}.csv cannot be read ({error}).") from None
    columns = [name for name in (rows[0] if rows else {}) if name and name not in PRIVATE_COLUMNS]
    result = io.StringIO()
    writer = csv.writer(result, lineterminator="\n")
    writer.writerow([_no_formula(name) for name in columns])
    writer.writerows([[_no_formula(text(row[name] or "")) for name in columns] for row in rows])
    return result.getvalue()


def _no_formula(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; numbers keep their sign."""
    return cell if re.fullmatch(r"-([\d.]+(e[+-]?\d+)?)?", cell) else re.sub(r"^[=+@\s-]+", "", cell)


def _numbers_only(content: Any) -> Any:
    """Return a JSON content with texts left out."""
    if isinstance(content, dict):
        return {key: _numbers_only(value) for key, value in content.items() if not isinstance(value, str)}
    if isinstance(content, list):
        return [_numbers_only(value) for value in content if not isinstance(value, str)]
    return content


def _read(path: Path) -> Any:
    if not path.is_file():
        raise RectalError(f"The model has no {path.name}.")
    return load_json_file(path, path.name, nan_as_none=path.name in (f"{SUMMARY}.json", "summary.json"))


def _text_of(path: Path) -> str:
    if path.stat().st_size > MAX_PAGE_BYTES:
        raise RectalError(f"{path.name} has more than {MAX_PAGE_BYTES} bytes.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RectalError(f"{path.name} is no text.") from None
