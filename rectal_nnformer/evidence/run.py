"""The study of evidence from made scans to its page; what is done is not done again.

nnU-Net reads its variables when it is imported, so everything that imports it is imported late here.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evidence.preset import BACKBONE, PRETRAINING, TIMES_FILE, EvidenceRun
from rectal_nnformer.networks.pretrained_files import WEIGHTS_VARIABLE
from rectal_nnformer.nnunet.layout import folder_variables
from rectal_nnformer.utils.files import is_there, locked, read_json, read_json_if_whole, write_json

SETTINGS_FILE, LOCK = "preset.json", ".evidence.lock"
PRETRAINING_BATCH = 4
AUGMENTERS = "nnUNet_n_proc_DA"


def run_evidence(run: EvidenceRun) -> Path:
    """Make cohorts, pretrain, plan, train every recipe from every seed, score both cohorts, and write the page.

    A study that was begun in the folder goes on. Returns the page.

    Raises:
        RectalError: The folder holds a study of another preset, or a step failed.
    """
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, f"{folder} is being written by another process. Wait for it or end it."):
        _claim(run)
        _set_environment(run)
        _prepare(run)
        from rectal_nnformer.evidence.results import write_results
        from rectal_nnformer.evidence.seeds import steps_of_seed, study_of_seed
        from rectal_nnformer.study.jobs import run_here

        for seed in run.preset.seeds:
            steps = steps_of_seed(run, seed)
            if not all(step.is_done() for step in steps):
                print(f"seed {seed}")
                with _timed(run, f"seed {seed}"):
                    run_here(study_of_seed(run, seed), steps)
        return write_results(run)


def _claim(run: EvidenceRun) -> None:
    """Note the preset in the folder, or see that it is the one noted there."""
    path, ours = run.folder / SETTINGS_FILE, {"name": run.name, **asdict(run.preset)}
    ours = {key: list(value) if isinstance(value, tuple) else value for key, value in ours.items()}
    if is_there(path) and read_json(path, remedy="Name another folder.") != ours:
        raise RectalError(f"{path} is of another preset or version. Name another folder, or move this one away.")
    write_json(path, ours)


def _set_environment(run: EvidenceRun) -> None:
    """Point nnU-Net to folders here, for this process and all that it starts, which augment without helpers."""
    folders = folder_variables(run.folder)
    for folder in folders.values():
        Path(folder).mkdir(exist_ok=True)
    os.environ.update({**folders, WEIGHTS_VARIABLE: str(run.weights)})
    os.environ.update({AUGMENTERS: "1", "nnUNet_def_n_proc": str(run.workers)})


def _prepare(run: EvidenceRun) -> None:
    """Make cohorts and plans, and pretrain."""
    from rectal_nnformer.evidence.cohorts import MRI_DATASET, MRI_ID, make_cohorts
    from rectal_nnformer.nnunet.layout import PreprocessedDataset

    with _timed(run, "cohorts"):
        make_cohorts(run.folder, run.preset, run.workers)
    if not PreprocessedDataset.at(MRI_DATASET).plans_names():
        from rectal_nnformer.planning import plan_dataset

        with _timed(run, "plans"):
            plan_dataset(
                MRI_ID,
                BACKBONE,
                overwrite_target_spacing=(run.preset.spacing,) * 3,
                backbone_kwargs=run.preset.network,
                max_patch_size=run.preset.patch,
                num_processes=run.workers,
                num_processes_fingerprint=run.workers,
            )
    # With helpers no training is the same twice, but a GPU would wait.
    os.environ[AUGMENTERS] = "0" if run.device == "cpu" else str(run.workers)
    with _timed(run, PRETRAINING):
        _pretrain(run)


def _pretrain(run: EvidenceRun) -> None:
    """Pretrain on cubes of the CT scans, in their published window."""
    from rectal_nnformer.evidence.cohorts import CT_DATASET
    from rectal_nnformer.nnunet.layout import PreprocessedDataset
    from rectal_nnformer.planning.backbones import resolve_backbone
    from rectal_nnformer.pretraining.loop import Pretraining
    from rectal_nnformer.pretraining.scans import find_scans, store_scans, window_of
    from rectal_nnformer.pretraining.settings import Settings

    preset = run.preset
    backbone = resolve_backbone(BACKBONE, preset.network, preset.patch)
    spacing, cube = (preset.spacing,) * 3, (preset.patch,) * 3
    scans = find_scans(CT_DATASET)
    stored = store_scans(scans, spacing, PreprocessedDataset.at(CT_DATASET).path / PRETRAINING, run.workers)
    settings = Settings(
        dataset=scans.dataset,
        scans=len(stored),
        scans_digest="made",
        backbone=backbone.network,
        backbone_kwargs=dict(backbone.kwargs),
        spacing=spacing,
        intensity_window=window_of(stored, scans.prepared),
        view=cube,
        epochs=preset.pretraining_epochs,
        batch_size=min(PRETRAINING_BATCH, len(stored)),
        start=None,
    )
    Pretraining(settings, stored, run.weights, run.device).run()


@contextmanager
def _timed(run: EvidenceRun, what: str) -> Iterator[None]:
    """Add the seconds of the block to those that the same took before."""
    begin = time.monotonic()
    try:
        yield
    finally:
        path = run.folder / TIMES_FILE
        times = read_json_if_whole(path) or {}
        times[what] = round(times.get(what, 0) + time.monotonic() - begin, 1)
        write_json(path, times)
