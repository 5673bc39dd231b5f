"""The page of a study, and its table as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, read_evaluation
from rectal_nnformer.evaluation.statistics import Difference
from rectal_nnformer.evaluation.summary import CohortDetection, summarize_cases
from rectal_nnformer.reporting.charts import difference_chart
from rectal_nnformer.reporting.cohort import CohortAnalysis, analyse_cohort
from rectal_nnformer.reporting.comparison import Comparison, check_same_references, compare_models
from rectal_nnformer.reporting.confidence_page import froc_beside, has_froc, how_to_know
from rectal_nnformer.reporting.methods import software_versions, training_settings
from rectal_nnformer.reporting.pages import html_page
from rectal_nnformer.reporting.results import NO_FOLD, ModelResults, read_results
from rectal_nnformer.reporting.tables import Table, p_words
from rectal_nnformer.reporting.writing import DATE_FORMAT, write_comparison
from rectal_nnformer.study.progress import hours
from rectal_nnformer.study.record import Recipe, Study
from rectal_nnformer.study.steps import EXTERNAL_FOLDER, ExternalStep, steps_of
from rectal_nnformer.study.table import AgainstBaseline, Cost, FoldCost, against_baseline, cost_of, on_shared_cases
from rectal_nnformer.utils.files import csv_text, write_text
from rectal_nnformer.utils.text import number, percent, percent_interval, plural

PAGE_FILE, TABLE_FILE, COSTS_FILE = "study.html", "study.csv", "study_costs.csv"
NO_TUMOUR = "no case has a tumour to be found."
TOLD_SETTINGS = ("epochs", "iterations per epoch", "batch size", "learning rate")


@dataclass(frozen=True)
class External:
    """What recipes found in another cohort, on the same cases.

    Attributes:
        results: By recipe.
        unscored: Recipes that have not scored it, or not as it is now.
        left_out: Cases that a recipe has no prediction of, such as scans that cannot be read: they tell nothing of the
            recipes, and are left out of all.
    """

    results: Mapping[str, CohortDetection]
    unscored: Sequence[str]
    left_out: Sequence[str]


@dataclass(frozen=True)
class Findings:
    """What is known of the recipes whose folds are scored, in the order of the study, the baseline among them."""

    study: Study
    recipes: tuple[Recipe, ...]
    models: Mapping[str, ModelResults]
    shared: Mapping[str, CohortDetection]
    comparison: Comparison
    external: External

    @cached_property
    def against(self) -> dict[str, AgainstBaseline]:
        """Every other recipe against the baseline."""
        return against_baseline(self.shared, self.study.baseline)

    @cached_property
    def external_against(self) -> dict[str, AgainstBaseline]:
        """The same on the external cohort; empty where the baseline has not predicted it."""
        results, baseline = self.external.results, self.study.baseline
        return against_baseline(results, baseline) if baseline in results else {}

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What each recipe took."""
        steps = steps_of(self.study)
        return {name: cost_of(model.folder, _planned_gb(model), steps) for name, model in self.models.items()}


def write_page(study: Study) -> Path:
    """Write study.html, study.csv, study_costs.csv and the comparison of what is finished into the folder of the study.

    Raises:
        RectalError: The baseline or all others have no scored fold yet, or a file is damaged.
    """
    found = _findings(study)
    write_comparison(found.comparison, study.folder)
    rows = _rows(found)
    write_text(study.folder / TABLE_FILE, csv_text(list(rows[0]), rows))
    costs = [{"recipe": name, **asdict(fold)} for name, cost in found.costs.items() for fold in cost.folds]
    write_text(study.folder / COSTS_FILE, csv_text(["recipe", *(field.name for field in fields(FoldCost))], costs))
    date = datetime.now().astimezone().strftime(DATE_FORMAT)
    path = study.folder / PAGE_FILE
    write_text(path, _page(found, date))
    return path


def _findings(study: Study) -> Findings:
    folds = study.fold_numbers()
    scores = {
        recipe: [study.model(recipe).fold(fold).validation / EVALUATION_FILE for fold in folds]
        for recipe in study.recipe
    }
    done = [recipe for recipe, files in scores.items() if any(file.is_file() for file in files)]
    names = [recipe.name for recipe in done]
    if study.baseline not in names or len(names) < 2:
        raise RectalError(
            f"The page compares recipes with {study.baseline}; scored are {', '.join(names) or 'none'}. Run "
            f"'rectal_nnformer study run {study.folder}' until the baseline and another one have a validated fold."
        )
    folders = [study.model(recipe).path for recipe in done]
    models = {name: read_results(folder, folds) for name, folder in zip(names, folders, strict=True)}
    return Findings(
        study=study,
        recipes=tuple(done),
        models=models,
        shared=on_shared_cases({name: model.pooled for name, model in models.items()}),
        comparison=compare_models(folders, of_folds=folds),
        external=_external(study, done),
    )


def _external(study: Study, recipes: Sequence[Recipe]) -> External:
    """Return what recipes found in the cohort that the study names now, of those whose scores of it are up to date."""
    steps = [step for step in steps_of(study) if isinstance(step, ExternalStep) and step.recipe in recipes]
    done = {step.recipe.name: step.output for step in steps if step.is_done()}
    unscored = [step.recipe.name for step in steps if step.recipe.name not in done]
    if not done:
        return External({}, unscored, ())
    scored = {name: read_evaluation(folder) for name, folder in done.items()}
    remedy = f"Remove {study.folder / EXTERNAL_FOLDER} and run the study again, which predicts and scores it anew."
    check_same_references({done[name]: result for name, result in scored.items()}, remedy)
    without = {case.case for result in scored.values() for case in result.cases if case.prediction_missing}
    predicted = {
        name: summarize_cases([case for case in result.cases if case.case not in without])
        for name, result in scored.items()
    }
    return External(on_shared_cases(predicted), unscored, sorted(without))


def _planned_gb(model: ModelResults) -> float | None:
    account = model.plans.record.get("patch_sizes", {}).get(model.folder.configuration, {})
    return account.get("batch_memory_gb")


def _rows(found: Findings) -> list[dict[str, Any]]:
    """Return the table of the study as numbers, a row per recipe; what costs is not in it, as it is never the same."""
    rows = []
    for recipe in found.recipes:
        result, against = found.shared[recipe.name], found.against.get(recipe.name)
        row: dict[str, Any] = {
            "recipe": recipe.name,
            "model": found.study.model(recipe).name,
            "cases": result.n_cases,
            "tumours": result.n_reference,
            "detected": result.n_detected,
            "detected_strict": result.strict.n_detected,
            "false_positives": result.n_false_positive,
            "dice_mean": result.case_dice.mean,
        }
        for what in ("detection_rate", "dice", "false_positives_per_case"):
            difference: Difference | None = getattr(against, what, None)
            row[f"{what}_difference"] = difference.value if difference else None
        row["detection_p_holm"] = against.detection.p_holm if against else None
        row["dice_p_holm"] = against.dice_p_holm if against else None
        if outside := found.external.results.get(recipe.name):
            row |= {"external_tumours": outside.n_reference, "external_detected": outside.n_detected}
        rows.append(row)
    # Every row has every column, be it empty.
    columns = {column: None for row in rows for column in row}
    return [{**columns, **row} for row in rows]


def _page(found: Findings, date: str) -> str:
    study, base, outside = found.study, found.study.baseline, found.external
    unscored = [recipe.name for recipe in study.recipe if recipe not in found.recipes]
    folds = study.fold_numbers()
    incomplete = [name for name, model in found.models.items() if set(model.folds) < set(folds)]
    return html_page(
        "study.html",
        [study.dataset, plural(len(found.recipes), "recipe"), f"baseline {base}"],
        date,
        baseline=base,
        recipes=found.recipes,
        unscored=unscored,
        incomplete=incomplete,
        num_cases=found.comparison.num_shared_cases,
        num_patients=found.comparison.num_shared_patients,
        num_left_out=len(found.comparison.left_out_cases),
        num_in_other_folds=found.comparison.num_cases_in_other_folds,
        results=_result_table(found.shared, found.against, base),
        charts=_forest(found.against, base, "cross-validation"),
        froc=_froc_of_folds(found),
        external_froc=_external_froc(found),
        external=_result_table(outside.results, found.external_against, base) if outside.results else None,
        external_unscored=outside.unscored,
        external_left_out=outside.left_out,
        external_charts=_forest(found.external_against, base, "external") if found.external_against else {},
        analyses=_analysis_table(found),
        costs=_cost_table(found.costs),
        disputed=_disputed_table(found),
        methods=methods_text(found),
        software=", ".join(f"{name} {version}" for name, version in software_versions().items()),
    )


def _forest(against: Mapping[str, AgainstBaseline], baseline: str, cohort: str) -> dict[str, Markup]:
    """Return the differences in detection rate and Dice, a row per recipe, by their captions."""
    charts = {}
    for ident, what, p_name in (("detection_rate", "detection rate", ""), ("dice", "Dice", "dice_p_holm")):
        rows = {name: getattr(result, ident) for name, result in against.items()}
        p = {name: getattr(r, p_name) if p_name else r.detection.p_holm for name, r in against.items()}
        words = [f"{name}: {_difference_words(row)}, adjusted p {p_words(p[name])}" for name, row in rows.items()]
        title = f"Difference in {what} to {baseline}, {cohort}"
        notes = {name: f"p {p_words(p[name])}" for name in rows}
        charts[title] = difference_chart(f"{cohort}-{ident}", title, "; ".join(words), rows, notes)
    return charts


@dataclass(frozen=True)
class FrocPart:
    """FROC on one cohort: the analyses that have a curve, charts beside the baseline's by caption, and why not."""

    known: Sequence[tuple[str, CohortAnalysis]]
    charts: Mapping[str, Markup]
    without: Mapping[str, str]


def _froc_of_folds(found: Findings) -> FrocPart:
    named = zip(found.recipes, found.comparison.models, strict=True)
    remedies = {name: how_to_know(model) for name, model in found.models.items()}
    return _froc("froc", found.study.baseline, {recipe.name: model.analysis for recipe, model in named}, remedies)


def _external_froc(found: Findings) -> FrocPart:
    analyses = {name: analyse_cohort({NO_FOLD: one}, {}, None, None) for name, one in found.external.results.items()}
    remedies = {
        name: f"Remove {found.study.folder / EXTERNAL_FOLDER / name} and run the study again, which predicts it anew."
        for name in analyses
    }
    return _froc("external-froc", found.study.baseline, analyses, remedies)


def _froc(ident: str, base: str, analyses: Mapping[str, CohortAnalysis], remedies: Mapping[str, str]) -> FrocPart:
    """Return each recipe's curve beside the baseline's, or why it has none and what to do about it."""
    curves = {name: analysis.curves for name, analysis in analyses.items() if has_froc(analysis.curves)}
    without = {
        name: f"{analysis.curves.reason}. {remedies[name]}" if analysis.curves.reason else NO_TUMOUR
        for name, analysis in analyses.items()
        if name not in curves
    }
    others = [name for name in curves if name != base] or list(curves)
    charts = {
        f"{name} and {base}" if base in curves and name != base else name: froc_beside(
            f"{ident}-{number}", {one: curves[one] for one in (name, base) if one in curves}
        )
        for number, name in enumerate(others)
    }
    return FrocPart([(name, analyses[name]) for name in curves], charts, without)


def _difference_words(difference: Difference) -> str:
    interval = difference.patient_bootstrap_95
    return number(difference.value, 3) + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _result_table(
    cohorts: Mapping[str, CohortDetection], against: Mapping[str, AgainstBaseline], baseline: str
) -> Table:
    header = ("recipe", "detected", "rate", "95 % CI", "false positives per case", "Dice mean")
    differences = ("difference in rate", "p (Holm)", "difference in Dice", "p (Holm)")
    rows = []
    for name, result in cohorts.items():
        cells = [
            name + (" (baseline)" if name == baseline else ""),
            f"{result.n_detected}/{result.n_reference}",
            percent(result.detection_rate.rate),
            percent_interval(result.detection_rate.wilson_95),
            number(result.false_positives_per_case),
            number(result.case_dice.mean, 3),
        ]
        if one := against.get(name):
            tests = p_words(one.detection.p_holm), p_words(one.dice_p_holm)
            cells += [_difference_words(one.detection_rate), tests[0], _difference_words(one.dice), tests[1]]
        rows.append([*cells, *["-"] * (len(header) + len(differences) - len(cells))])
    return Table((*header, *differences), rows, "Recipes on the same tumours; differences are to the baseline")


def _analysis_table(found: Findings) -> Table:
    rows = []
    for recipe, model in zip(found.recipes, found.comparison.models, strict=True):
        adi = [number(stage.means["adi"], 3) for stage in model.stages]
        reuse = model.reuse.mean_diagonal if model.reuse else None
        result = found.shared[recipe.name]
        rate, dice = percent(result.detection_rate.rate), number(result.case_dice.mean, 3)
        rows.append((recipe.name, ", ".join(adi) or "-", number(reuse, 3), rate, dice))
    header = ("recipe", "ADI per stage", "CKA with pretraining, mean", "detection rate", "Dice mean")
    return Table(header, rows, "Attention lost on padding and features kept, beside the outcome")


def _cost_table(costs: Mapping[str, Cost]) -> Table:
    rows = [
        (
            name,
            hours(cost.seconds),
            number(cost.gpu_memory_gb, 1),
            number(cost.host_memory_gb, 1),
            "-" if cost.parameters is None else f"{cost.parameters / 1e6:.2f}",
        )
        for name, cost in costs.items()
    ]
    header = ("recipe", "training, all folds", "GPU memory, planned (GB)", "host memory (GB)", "parameters (millions)")
    return Table(header, rows, "What a recipe took; memory is that of one training")


def _disputed_table(found: Findings) -> Table:
    """Return the tumours that some recipes found and others missed."""
    names = [recipe.name for recipe in found.recipes]
    keys = [f"detected: {model.name}" for model in found.comparison.models]
    rows = [
        (
            lesion["case"],
            str(lesion["label"]),
            number(lesion["volume_cm3"]),
            *("found" if lesion[key] else "missed" for key in keys),
        )
        for lesion in found.comparison.lesions
        if len({bool(lesion[key]) for key in keys}) > 1
    ]
    return Table(("case", "tumour", "cm³", *names), rows, "Tumours that one recipe found and another missed")


def methods_text(found: Findings) -> Sequence[str]:
    """Return paragraphs that say how the study was made, for the methods of a paper."""
    study, comparison = found.study, found.comparison
    base = found.shared[study.baseline]
    cases = (
        f"{plural(comparison.num_shared_cases, 'case')} of {plural(comparison.num_shared_patients, 'patient')} with "
        f"{plural(base.n_reference, 'tumour')}"
    )
    folds = set.intersection(*(set(model.folds) for model in found.models.values()))
    same = f"on the same {plural(len(folds), 'fold')} of {cases}"
    if other := comparison.num_cases_in_other_folds:
        same = f"on {cases}, of which {other} were held out in folds of different numbers"
    data = f"{plural(len(found.recipes), 'recipe')} were compared by cross-validation {same}."
    trained = [
        f"{recipe.name}: {study.model(recipe).trainer} on {recipe.plans}, {recipe.configuration}{_settings(model)}"
        for recipe, model in zip(found.recipes, found.models.values(), strict=True)
    ]
    tests = (
        f"Each recipe was compared with {study.baseline}. Detection was tested per tumour by McNemar's exact test, "
        "Dice per patient by Wilcoxon's signed-rank test, two-sided; p-values were adjusted for the number of recipes "
        "by Holm's method, for detection and Dice apart. 95 % intervals of differences come from drawing patients with "
        "replacement, those of rates are Wilson's."
    )
    left_out = len(found.external.left_out)
    without = f" {plural(left_out, 'case')} more, without a prediction, counted for no recipe." if left_out else ""
    outside = [
        f"An external cohort of {plural(cohort.n_cases, 'case')} was predicted by all folds of each recipe together."
        f"{without}"
        for cohort in list(found.external.results.values())[:1]
    ]
    return [data, f"Trained were {'; '.join(trained)}.", tests, *outside]


def _settings(model: ModelResults) -> str:
    words = [f"{name} {value}" for name, value in training_settings(model) if name in TOLD_SETTINGS]
    return f" ({', '.join(words)})" if words else ""
