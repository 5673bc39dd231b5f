"""The page of the evidence, and the numbers behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from rectal_nnformer.evaluation.rates import Interval
from rectal_nnformer.evidence.outcome import LEVEL, Cohort, Finding, SeedOutcome, Verdict, findings_of, mean_over_seeds
from rectal_nnformer.evidence.preset import PRETRAINING, Preset
from rectal_nnformer.evidence.reuse import FeatureFinding, KeptFeatures, feature_findings
from rectal_nnformer.pretraining.loop import FIGURE
from rectal_nnformer.reporting.methods import software_versions
from rectal_nnformer.reporting.pages import render
from rectal_nnformer.reporting.tables import Table
from rectal_nnformer.study.progress import hours
from rectal_nnformer.study.record import STUDY_FILE
from rectal_nnformer.utils.files import write_json, write_text
from rectal_nnformer.utils.text import number, percent, plural

PAGE_FILE, NUMBERS_FILE = "README.md", "evidence.json"
PLACES: dict[Cohort, str] = {"internal": "held-out cases", "external": "other site"}


@dataclass(frozen=True)
class Results:
    """All that the page tells.

    Attributes:
        name: Of the preset.
        preset: What was run.
        device: On which.
        outcomes: Of each recipe, one per seed.
        kept: Features that pretrained recipes kept.
        restoration: Error of restored voxels at the end of the pretraining, and that of their mean.
        study: A study.toml of the first seed.
        seconds: What each part took: cohorts, plans, pretraining, and each seed.
    """

    name: str
    preset: Preset
    device: str
    outcomes: Mapping[str, Sequence[SeedOutcome]]
    kept: Mapping[str, KeptFeatures]
    restoration: tuple[float, float]
    study: str
    seconds: Mapping[str, float]


def write_page(results: Results, folder: Path) -> Path:
    """Write evidence.json, study.toml and README.md into a folder and return the page."""
    findings, features = findings_of(results.outcomes), feature_findings(results.kept)
    versions = software_versions()
    recipes = {name: _numbers(of_seeds, results.kept.get(name)) for name, of_seeds in results.outcomes.items()}
    numbers = {
        "preset": {"name": results.name, **asdict(results.preset)},
        "recipes": recipes,
        "claims": [asdict(finding) for finding in findings],
        "feature_claims": [asdict(finding) for finding in features],
        "restoration": dict(zip(("error", "error_of_mean"), results.restoration, strict=True)),
        "seconds": dict(results.seconds),
        "device": results.device,
        "versions": versions,
    }
    write_json(folder / NUMBERS_FILE, numbers)
    one = next(iter(results.outcomes.values()))
    text = render(
        "evidence.md",
        results=results,
        preset=results.preset,
        recipes=_recipe_table(recipes),
        claims=_claim_table(findings, features),
        figure=f"{PRETRAINING}/{FIGURE}",
        tumors={cohort: len(mean_over_seeds(one, "detection", cohort).values) for cohort in PLACES},
        claims_by_verdict=_counted([*(one.verdict for one in findings), *(one.verdict for one in features)]),
        level=LEVEL,
        num_tested=len(findings),
        num_features=len(features),
        study_file=STUDY_FILE,
        numbers_file=NUMBERS_FILE,
        time=hours(sum(results.seconds.values())),
        pretraining_time=hours(results.seconds.get("pretraining", 0)),
        software=", ".join(f"{name} {version}" for name, version in versions.items()),
    )
    write_text(folder / STUDY_FILE, results.study)
    write_text(folder / PAGE_FILE, text)
    return folder / PAGE_FILE


def _counted(verdicts: Sequence[Verdict]) -> str:
    """Return how many claims there are of each verdict, in words."""
    of_each = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict) if verdict in verdicts)
    return f"{plural(len(verdicts), 'claim')}: {of_each}"


def _numbers(outcomes: Sequence[SeedOutcome], kept: KeptFeatures | None) -> dict[str, Any]:
    """Return what one recipe came to: means over the seeds, and each seed."""
    numbers: dict[str, Any] = {}
    for cohort in PLACES:
        measures = {
            "detection_rate": [fmean(mean_over_seeds([one], "detection", cohort).values) for one in outcomes],
            "dice": [fmean(mean_over_seeds([one], "Dice", cohort).values) for one in outcomes],
            "false_positives_per_case": [
                fmean(mean_over_seeds([one], "false positives", cohort).values) for one in outcomes
            ],
        }
        numbers[cohort] = {name: {"mean": fmean(values), "of_seeds": values} for name, values in measures.items()}
    stages = zip(*(outcome.stage_adi for outcome in outcomes), strict=True)
    numbers["adi_of_stages"] = [fmean(value or 0.0 for value in values) for values in stages]
    numbers["attention_on_padding"] = fmean(outcome.a_rp for outcome in outcomes)
    numbers["cka"] = kept and {"value": kept.value, "interval": kept.interval, "chance": kept.chance}
    return numbers


def _recipe_table(numbers: Mapping[str, dict[str, Any]]) -> Table:
    rows = []
    for name, values in numbers.items():
        cells = [
            " / ".join(
                (
                    percent(values[cohort]["detection_rate"]["mean"]),
                    number(values[cohort]["dice"]["mean"], 3),
                    number(values[cohort]["false_positives_per_case"]["mean"]),
                )
            )
            for cohort in PLACES
        ]
        adi = ", ".join(number(value, 3) for value in values["adi_of_stages"])
        cka = "-" if values["cka"] is None else _effect(values["cka"]["value"], values["cka"]["interval"])
        rows.append((name, *cells, adi, number(values["attention_on_padding"], 3), cka))
    header = ("recipe", *PLACES.values(), "ADI by stage", "attention on padding", "CKA with pretraining")
    return Table(header, rows)


def _claim_table(findings: Sequence[Finding], features: Sequence[FeatureFinding]) -> Table:
    rows = []
    for one in findings:
        claim = one.claim
        tested = f"{claim.measure}, {claim.first} - {claim.second}, {PLACES[claim.cohort]}"
        effect = _effect(one.difference.value, one.difference.patient_bootstrap_95)
        seeds = ", ".join(f"{value:+.3f}" for value in one.of_seeds)
        rows.append(
            (claim.text, tested, effect, seeds, "< 0.001" if one.p_holm < 0.001 else number(one.p_holm, 3), one.verdict)
        )
    for other in features:
        effect = _effect(other.value, other.interval)
        rows.append((other.text, f"{other.tested}, {PLACES['internal']}", effect, "", "", other.verdict))
    return Table(("claim", "how tested", "effect (95 % interval)", "each seed", "p (Holm)", "verdict"), rows)


def _effect(value: float | None, interval: Interval | None) -> str:
    words = "-" if value is None else f"{value:+.3f}"
    return words if interval is None else f"{words} ({interval[0]:+.3f} to {interval[1]:+.3f})"
