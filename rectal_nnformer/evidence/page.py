"""The page of the evidence, and the numbers behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from rectal_nnformer.analysis.records import read_attention
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import read_evaluation
from rectal_nnformer.evaluation.rates import Interval
from rectal_nnformer.evidence.outcome import Cohort, Finding, SeedOutcome, Verdict, findings_of, mean_over_seeds
from rectal_nnformer.evidence.preset import RECIPES
from rectal_nnformer.evidence.reuse import kept_features
from rectal_nnformer.reporting.methods import software_versions
from rectal_nnformer.reporting.pages import render
from rectal_nnformer.reporting.tables import Table
from rectal_nnformer.study.progress import hours
from rectal_nnformer.study.steps import ExternalStep, TrainStep
from rectal_nnformer.utils.files import read_json, write_json, write_text
from rectal_nnformer.utils.text import number, percent

if TYPE_CHECKING:
    from rectal_nnformer.evidence.run import EvidenceRun

PAGE_FILE, NUMBERS_FILE = "README.md", "evidence.json"
COHORTS: tuple[Cohort, ...] = ("internal", "external")


@dataclass(frozen=True)
class KeptFeatures:
    """Debiased CKA of fine-tuned with pretrained features, mean over blocks and seeds.

    Attributes:
        value: Of all held-out cases.
        interval: 95 % over bootstrap draws of the cases.
        chance: 95th percentile of what chance gives.
        draws: The value in each draw.
    """

    value: float
    interval: Interval
    chance: float
    draws: tuple[float, ...]


@dataclass(frozen=True)
class FeatureFinding:
    """A claim about features, with its effect and interval over draws of the cases."""

    text: str
    tested: str
    value: float
    interval: Interval
    verdict: Verdict


def write_page(run: "EvidenceRun") -> Path:
    """Write evidence.json and README.md from what all recipes and seeds came to, and return the page.

    Raises:
        RectalError: Something is missing or damaged.
    """
    from rectal_nnformer.evidence.run import TIMES_FILE

    outcomes, kept = _outcomes(run), _kept(run)
    findings, features = findings_of(outcomes), feature_findings(kept)
    times = read_json(run.folder / TIMES_FILE, remedy="Run the evidence again.")
    numbers = {
        "preset": {"name": run.name, **asdict(run.preset)},
        "recipes": {recipe.name: _numbers(outcomes[recipe.name], kept.get(recipe.name)) for recipe in RECIPES},
        "claims": [asdict(finding) for finding in findings],
        "feature_claims": [asdict(finding) for finding in features],
        "seconds": times,
        "device": run.device,
        "versions": software_versions(),
    }
    write_json(run.folder / NUMBERS_FILE, numbers)
    text = render(
        "evidence.md",
        run=run,
        preset=run.preset,
        recipes=_recipe_table(outcomes, kept),
        claims=_claim_table(findings, features),
        tumors={cohort: len(mean_over_seeds(outcomes["Base"], "detection", cohort).values) for cohort in COHORTS},
        shown=[*(one.verdict for one in findings), *(one.verdict for one in features)],
        time=hours(sum(times.values())),
        pretraining_time=hours(times.get("pretraining", 0)),
        software=", ".join(f"{name} {version}" for name, version in software_versions().items()),
    )
    write_text(run.folder / PAGE_FILE, text)
    return run.folder / PAGE_FILE


def _outcomes(run: "EvidenceRun") -> dict[str, list[SeedOutcome]]:
    from rectal_nnformer.evidence.run import steps_of_seed, study_of_seed

    found: dict[str, list[SeedOutcome]] = {recipe.name: [] for recipe in RECIPES}
    for seed in run.preset.seeds:
        steps = steps_of_seed(study_of_seed(run, seed))
        external = {step.recipe.name: step.output for step in steps if isinstance(step, ExternalStep)}
        for step in steps:
            if isinstance(step, TrainStep):
                name, fold = step.recipe.name, step.model.fold(step.fold)
                found[name].append(seed_outcome(fold.validation, external[name]))
    return found


def seed_outcome(validation: Path, external: Path) -> SeedOutcome:
    """Read what one training came to, from its validation and the scores of the external cohort.

    Raises:
        RectalError: A file is missing or damaged.
    """
    attention = read_attention(validation)
    if attention is None:
        raise RectalError(f"{validation} has no attention dilution; see the log of the training why.")
    return SeedOutcome(
        cohorts={"internal": read_evaluation(validation).cases, "external": read_evaluation(external).cases},
        adi={case.case: _mean(stage.adi for stage in case.stages) for case in attention.cases},
        stage_adi=tuple(stage.adi for stage in attention.stages),
        a_rp=_mean(stage.a_rp for stage in attention.stages),
    )


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else 0.0


def _kept(run: "EvidenceRun") -> dict[str, KeptFeatures]:
    """Return the features that each pretrained recipe kept."""
    from rectal_nnformer.evidence.run import steps_of_seed, study_of_seed
    from rectal_nnformer.networks.starting_weights import recorded_pretrained_file

    found: dict[str, list[tuple[float, float, list[float]]]] = {}
    for seed in run.preset.seeds:
        for step in steps_of_seed(study_of_seed(run, seed)):
            if isinstance(step, TrainStep) and recorded_pretrained_file(step.model.fold(step.fold).path)[0]:
                one = kept_features(step.model.fold(step.fold), run.device)
                found.setdefault(step.recipe.name, []).append(one)
    return {name: kept_over_seeds(of_seeds) for name, of_seeds in found.items()}


def kept_over_seeds(of_seeds: Sequence[tuple[float, float, Sequence[float]]]) -> KeptFeatures:
    """Return the mean over seeds of `kept_features`, draw by draw."""
    values, chances, draws = zip(*of_seeds, strict=True)
    together = np.mean(draws, axis=0)
    return KeptFeatures(fmean(values), _interval(together), fmean(chances), tuple(together.tolist()))


def feature_findings(kept: Mapping[str, KeptFeatures]) -> tuple[FeatureFinding, ...]:
    """Return what the features say: whether Base keeps those of CT, and whether augmentation changes them more."""
    base = kept["Base"]
    low, high = base.interval
    first = FeatureFinding(
        "Fine-tuning keeps features of CT",
        f"CKA of Base with pretraining, against chance ({base.chance:.3f})",
        base.value,
        base.interval,
        "shown" if low > base.chance else "opposite" if high < base.chance else "not shown",
    )
    return (first, *(_change(kept, *names) for names in (("TA", "Base"), ("ACT", "Crop"), ("Crop", "Base"))))


def _change(kept: Mapping[str, KeptFeatures], one: str, other: str) -> FeatureFinding:
    what = "Cropping" if one == "Crop" else "Tumour-aware augmentation"
    where = " on the planned patch" if one == "ACT" else ""
    interval = _interval(np.subtract(kept[one].draws, kept[other].draws))
    return FeatureFinding(
        f"{what} changes the features of CT more{where}",
        f"CKA with pretraining, {one} - {other}",
        kept[one].value - kept[other].value,
        interval,
        "shown" if interval[1] < 0 else "opposite" if interval[0] > 0 else "not shown",
    )


def _interval(draws: Any) -> Interval:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _numbers(outcomes: Sequence[SeedOutcome], kept: KeptFeatures | None) -> dict[str, Any]:
    cohorts: dict[str, Any] = {
        cohort: {
            "detection_rate": fmean(mean_over_seeds(outcomes, "detection", cohort).values),
            "dice_mean": fmean(mean_over_seeds(outcomes, "Dice", cohort).values),
            "false_positives_per_case": fmean(mean_over_seeds(outcomes, "false positives", cohort).values),
            "detection_rate_of_seeds": [fmean(mean_over_seeds([o], "detection", cohort).values) for o in outcomes],
            "dice_mean_of_seeds": [fmean(mean_over_seeds([o], "Dice", cohort).values) for o in outcomes],
        }
        for cohort in COHORTS
    }
    stages = [_mean(values) for values in zip(*(outcome.stage_adi for outcome in outcomes), strict=True)]
    cka = None if kept is None else {"value": kept.value, "interval": kept.interval, "chance": kept.chance}
    return {**cohorts, "adi_of_stages": stages, "a_rp": fmean(o.a_rp for o in outcomes), "cka": cka}


def _recipe_table(outcomes: Mapping[str, Sequence[SeedOutcome]], kept: Mapping[str, KeptFeatures]) -> Table:
    rows = []
    for name, of_seeds in outcomes.items():
        values = _numbers(of_seeds, kept.get(name))
        cells = [
            f"{percent(values[cohort]['detection_rate'])} / {number(values[cohort]['dice_mean'], 3)} / "
            f"{number(values[cohort]['false_positives_per_case'])}"
            for cohort in COHORTS
        ]
        adi = ", ".join(number(value, 3) for value in values["adi_of_stages"])
        cka = _with_interval(kept[name].value, kept[name].interval) if name in kept else "-"
        rows.append((name, *cells, adi, number(values["a_rp"], 3), cka))
    header = ("recipe", "held-out cases", "other site", "ADI by stage", "attention on padding", "CKA with pretraining")
    return Table(header, rows)


def _claim_table(findings: Sequence[Finding], features: Sequence[FeatureFinding]) -> Table:
    places = {"internal": "held-out cases", "external": "other site"}
    rows = [
        (
            finding.claim.text,
            f"{finding.claim.measure}, {finding.claim.first} - {finding.claim.second}, {places[finding.claim.cohort]}",
            _with_interval(finding.difference.value, finding.difference.patient_bootstrap_95),
            ", ".join(f"{value:+.3f}" for value in finding.of_seeds),
            number(finding.p_holm, 3),
            finding.verdict,
        )
        for finding in findings
    ]
    rows += [
        (one.text, f"{one.tested}, held-out cases", _with_interval(one.value, one.interval), "", "", one.verdict)
        for one in features
    ]
    return Table(("claim", "how tested", "effect (95 % interval)", "each seed", "p (Holm)", "verdict"), rows)


def _with_interval(value: float | None, interval: Interval | None) -> str:
    words = "-" if value is None else f"{value:+.3f}"
    return words if interval is None else f"{words} ({interval[0]:+.3f} to {interval[1]:+.3f})"
