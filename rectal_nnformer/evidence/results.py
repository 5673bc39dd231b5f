"""Reading what every recipe of the evidence came to from the files of its trainings."""

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from rectal_nnformer.analysis.records import read_attention
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import read_evaluation
from rectal_nnformer.evidence.outcome import SeedOutcome
from rectal_nnformer.evidence.page import Results, write_page
from rectal_nnformer.evidence.preset import TIMES_FILE, EvidenceRun
from rectal_nnformer.evidence.reuse import KeptFeatures, kept_features, kept_over_seeds
from rectal_nnformer.evidence.seeds import steps_of_seed, study_text
from rectal_nnformer.networks.starting_weights import recorded_pretrained_file
from rectal_nnformer.pretraining.loop import LOG
from rectal_nnformer.pretraining.losses import LOSS_NAMES
from rectal_nnformer.study.steps import ExternalStep, TrainStep
from rectal_nnformer.utils.files import read_json, read_table


def write_results(run: EvidenceRun) -> Path:
    """Read what all recipes came to from all seeds, write numbers and page, and return the page.

    Raises:
        RectalError: Something is missing or damaged.
    """
    outcomes: dict[str, list[SeedOutcome]] = {recipe.name: [] for recipe in run.recipes}
    kept: dict[str, list[tuple[float, float, list[float]]]] = {}
    for seed in run.preset.seeds:
        steps = steps_of_seed(run, seed)
        external = {step.recipe.name: step.output for step in steps if isinstance(step, ExternalStep)}
        for step in steps:
            if isinstance(step, TrainStep):
                name, fold = step.recipe.name, step.model.fold(step.fold)
                outcomes[name].append(seed_outcome(fold.validation, external[name]))
                if recorded_pretrained_file(fold.path)[0]:
                    kept.setdefault(name, []).append(kept_features(fold, run.device))
    features: dict[str, KeptFeatures] = {name: kept_over_seeds(of_seeds) for name, of_seeds in kept.items()}
    times = read_json(run.folder / TIMES_FILE, remedy="Run the evidence again.")
    restored, study = restoration(run.weights / LOG), study_text(run, run.preset.seeds[0])
    results = Results(run.name, run.preset, run.device, outcomes, features, restored, study, times)
    return write_page(results, run.folder)


def seed_outcome(validation: Path, external: Path) -> SeedOutcome:
    """Read what one training came to, from its validation and the scores of the external cohort.

    Raises:
        RectalError: A file is missing or damaged.
    """
    attention = read_attention(validation)
    if attention is None:
        raise RectalError(f"{validation} has no attention dilution; the log of the training tells why.")
    return SeedOutcome(
        cohorts={"internal": read_evaluation(validation).cases, "external": read_evaluation(external).cases},
        adi={case.case: _mean(stage.adi for stage in case.stages) for case in attention.cases},
        stage_adi=tuple(stage.adi for stage in attention.stages),
        a_rp=_mean(stage.a_rp for stage in attention.stages),
    )


def restoration(log: Path) -> tuple[float, float]:
    """Return the error of restored voxels in the last epoch of a pretraining, and that of their mean."""
    columns = LOSS_NAMES[1:3]
    _, last = read_table(log, columns, "The log of the pretraining", "Begin the evidence anew.", others=True)[-1]
    error, by_mean = (float(last[column]) for column in columns)
    return error, by_mean


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else 0.0
