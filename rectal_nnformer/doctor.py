"""What on this machine, in these folders and in these datasets would go wrong later, each with its remedy."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, WEIGHTS_VARIABLE, weights_folder
from rectal_nnformer.nnunet.checkpoints import checkpoint_problem
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import (
    FOLDER_VARIABLES,
    REMEDIES,
    FoldFolder,
    ModelFolder,
    PreprocessedDataset,
    RawDataset,
    folder_variables,
)
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.splits import check_folds_of, preprocessed_cases
from rectal_nnformer.utils.text import plural

OK, NOTE, PROBLEM = "ok", "note", "problem"
FEW_GIGABYTES = 20
"""Preprocessed data of a small cohort and the checkpoints of five folds take about so much."""
LITTLE_MEMORY = 16
LITTLE_SHARED_MEMORY = 1
"""GB in /dev/shm, through which nnU-Net's processes hand batches over; containers often have 64 MB."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: What it is about, such as "nnUNet_raw".
        state: "ok", "note" (may be meant) or "problem".
        text: What was found.
        remedy: What to do; empty where nothing is to be done.
    """

    about: str
    state: str
    text: str
    remedy: str = ""


def examine(datasets: Sequence[str] = (), num_processes: int = 1) -> list[Finding]:
    """Look at variables, versions, disk, memory, GPU, weights, all planned datasets and all trained folds.

    Args:
        datasets: Ids or names of raw datasets of which every image and mask is read.
        num_processes: Processes that read them.
    """
    checks = (_variables, _versions, _space, _gpus, _weights, _preprocessed, _folds)
    found = [finding for check in checks for finding in check()]
    for dataset in datasets:
        found += _raw_dataset(dataset, num_processes)
    return found


def _variables() -> Iterator[Finding]:
    for name in FOLDER_VARIABLES:
        folder = folder_variables().get(name)
        remedy = "Set it with 'eval \"$(rectal_nnformer env --base DIR)\"', DIR being where your data shall lie."
        if not folder:
            yield Finding(name, PROBLEM, "is not set", remedy)
        elif not Path(folder).is_dir():
            made = name != "nnUNet_raw"  # by planning and training
            state = f"names {folder}, which is no folder{' yet' if made else ''}"
            todo = "It is made when it is needed." if made else f"Make it, or {remedy[0].lower()}{remedy[1:]}"
            yield Finding(name, NOTE if made else PROBLEM, state, todo)
        elif not os.access(folder, os.W_OK):
            yield Finding(name, NOTE, f"is {folder}, in which you may not write", "Ask for the right, or set another.")
        else:
            yield Finding(name, OK, f"is {folder}")


def _versions() -> Iterator[Finding]:
    """Compare what is installed with what this package, nnU-Net and the network library say that they need."""
    wrong = {}
    for package in ("rectal_nnformer", "nnunetv2", "monai", "batchgeneratorsv2"):
        for text in metadata.requires(package) or ():
            needed = Requirement(text)
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            try:
                version = metadata.version(needed.name)
            except metadata.PackageNotFoundError:
                wrong[needed.name] = f"is not installed; {package} needs it"
                continue
            if not needed.specifier.contains(version, prereleases=True):
                wrong[needed.name] = f"has the version {version}; {package} needs {needed.specifier}"
    for name, problem in wrong.items():
        yield Finding(name, PROBLEM, problem, f"Install another: pip install '{name}' with that range.")
    if not wrong:
        names = ("rectal_nnformer", "nnunetv2", "torch", "numpy")
        yield Finding("versions", OK, ", ".join(f"{name} {metadata.version(name)}" for name in names))


def _space() -> Iterator[Finding]:
    for name, folder in folder_variables().items():
        if Path(folder).is_dir():
            free = shutil.disk_usage(folder).free / 1e9
            few = free < FEW_GIGABYTES
            remedy = "Free some, or set the variable to a folder on another disk." if few else ""
            yield Finding(f"disk of {name}", NOTE if few else OK, f"{free:.0f} GB left", remedy)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    little = memory < LITTLE_MEMORY
    remedy = "Use fewer processes: -np 1, and nnUNet_n_proc_DA=2." if little else ""
    yield Finding("memory", NOTE if little else OK, f"{memory:.0f} GB", remedy)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / 2**30
        little = size < LITTLE_SHARED_MEMORY
        remedy = "Start the container with --ipc=host or --shm-size=8g." if little else ""
        yield Finding("shared memory", PROBLEM if little else OK, f"{size:.1f} GB in /dev/shm", remedy)


def _gpus() -> Iterator[Finding]:
    """Compare each GPU's memory with what the plans of each dataset were made for."""
    import torch

    if not torch.cuda.is_available():
        remedy = "Check the driver and CUDA_VISIBLE_DEVICES, or train the small networks with -device cpu."
        yield Finding("GPU", NOTE, "PyTorch sees none", remedy)
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        gigabytes = properties.total_memory / 2**30
        yield Finding(f"GPU {number}", OK, f"{properties.name}, {gigabytes:.0f} GB")
        for dataset, plans in _all_plans():
            needed = plans.record.get("gpu_memory_target")
            if needed and gigabytes < 0.95 * needed:
                remedy = f"Plan again with -gpu_memory_target {int(gigabytes)}."
                yield Finding(
                    f"GPU {number}", NOTE, f"has less than the {needed:g} GB of {plans.name} of {dataset}", remedy
                )


def _weights() -> Iterator[Finding]:
    folder = weights_folder()
    if folder is None or not folder.is_dir():
        state = "is not set" if folder is None else f"names {folder}, which is no folder"
        remedy = "Set it to the folder of the pretrained files; 'rectal_nnformer weights' lists them."
        yield Finding(
            WEIGHTS_VARIABLE, NOTE, f"{state}: trainers that start from a pretrained file will refuse", remedy
        )
        return
    for file in PRETRAINED_FILES:
        status = file.status(folder)
        warns = "WARNING" in status
        yield Finding(file.name, PROBLEM if warns else OK, status, "Download it again." if warns else "")


def _all_plans() -> Iterator[tuple[str, Plans]]:
    """Yield the plans of every preprocessed dataset that can be read, with its name."""
    for dataset in _datasets():
        for name in dataset.plans_names():
            try:
                yield dataset.name, Plans.read(dataset.plans_file(name))
            except RectalError:
                continue


def _datasets() -> list[PreprocessedDataset]:
    folder = folder_variables().get(PreprocessedDataset.variable)
    found = Path(folder).glob("Dataset*") if folder else ()
    paths = [path for path in sorted(found) if re.fullmatch(r"Dataset\d{3}_.+", path.name) and path.is_dir()]
    return [PreprocessedDataset(path) for path in paths]


def _preprocessed() -> Iterator[Finding]:
    """Look at plans, data and folds of every preprocessed dataset."""
    for dataset in _datasets():
        problems = []
        try:
            read_dataset_json(dataset.dataset_json, f"{REMEDIES['nnUNet_preprocessed'].capitalize()}.")
            cases = None
            for name in dataset.plans_names():
                plans = Plans.read(dataset.plans_file(name))
                folders = {dataset.data_folder(c.settings) for c in plans.configurations.values()}
                problems += [f"{name} has no data in {f.name}" for f in sorted(folders) if not f.is_dir()]
                cases = next(filter(None, map(preprocessed_cases, sorted(folders))), cases)
            for note in check_folds_of(dataset, cases):
                yield Finding(dataset.name, NOTE, note, "Look at the folds before you train.")
        except RectalError as error:
            problems.append(str(error))
        remedy = "Run 'rectal_nnformer plan_and_preprocess'."
        for problem in problems:
            yield Finding(dataset.name, PROBLEM, problem, remedy)
        if not problems:
            yield Finding(dataset.name, OK, f"planned: {', '.join(dataset.plans_names()) or 'nothing yet'}")


def _folds() -> Iterator[Finding]:
    """Tell how far every fold of every trained model is."""
    results = folder_variables().get("nnUNet_results")
    paths = sorted(Path(results).glob("Dataset*/*__*__*")) if results else []
    for model in filter(None, map(ModelFolder.parse, paths)):
        unfinished = [fold for fold in model.folds() if not fold.is_finished]
        yield from (_unfinished(fold) for fold in unfinished)
        if not unfinished and model.folds():
            yield Finding(
                model.name, OK, f"{plural(len(model.folds()), 'fold')} of {model.dataset} trained and validated"
            )


def _unfinished(fold: FoldFolder) -> Finding:
    about = f"{fold.model.name} {fold.name}"
    damaged = {path.name: checkpoint_problem(path, fold.model.trainer) for path in fold.checkpoints()}
    told = [f"{name} {problem}" for name, problem in damaged.items() if problem]
    if told:
        return Finding(
            about, PROBLEM, "; ".join(told), f"Restore or remove the file in {fold.path}, then go on with --c."
        )
    import torch

    number = "" if fold.fold == "all" else f" -f {fold.fold}"
    number += "" if torch.cuda.is_available() else " -device cpu"
    model = fold.model
    command = (
        f"rectal_nnformer crossval -d {model.dataset} -tr {model.trainer} -p {model.plans} -c {model.configuration}"
    )
    state = "is trained and not validated" if fold.is_trained else "is not trained to its end"
    return Finding(about, NOTE, state, f"Go on with '{command}{number}', unless it is running.")


def _raw_dataset(name: str, num_processes: int) -> list[Finding]:
    """Check the folds of a raw dataset, and read every image and mask."""
    from rectal_nnformer.planning.case_check import check_dataset
    from rectal_nnformer.planning.dataset import open_raw_dataset

    try:
        path = RawDataset.find(name).path
        notes = check_dataset(open_raw_dataset(path.name), num_processes)
    except RectalError as error:
        return [Finding(f"raw dataset {name}", PROBLEM, str(error), "Put right what is named, then plan again.")]
    found = [Finding(path.name, NOTE, note, "Look at it before you train.") for note in notes]
    return found or [Finding(path.name, OK, "every image and mask can be used")]
