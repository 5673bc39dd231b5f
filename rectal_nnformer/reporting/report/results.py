"""The sections about detection: the headline, by size, by fold, how well outlined, and the table of cases."""

from collections.abc import Mapping, Sequence

from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.rates import Rate
from rectal_nnformer.evaluation.summary import CohortDetection, patient_interval_words
from rectal_nnformer.reporting.report.charts import IntervalRow, interval_chart
from rectal_nnformer.reporting.report.markup import Content, Markup, tag
from rectal_nnformer.reporting.report.tables import caption_of, definitions, numbers_below, scroll_frame, section, table
from rectal_nnformer.reporting.runs import Run
from rectal_nnformer.utils.text import number, percent, percent_interval, plural

OUTCOMES = {
    "": "all cases",
    "missed": "with a missed tumour",
    "false-positive": "with a false positive",
    "noted": "with a note",
    "clean": "all found, nothing invented",
}
TRIAL = "_CPU"
"""How trainers are called that are for trying things out."""

CASE_COLUMNS = ("case", "missed", "tumours", "false positives", "Dice", "tumour cm³", "fold", "note")


def headline(run: Run) -> Markup:
    """Return the result in one sentence, its intervals, and what to be careful about."""
    pooled = run.pooled
    tumors = plural(pooled.n_reference, "tumour")
    hero = tag("p", tag("strong", str(pooled.n_detected)), f" of {tumors} detected", class_="hero")
    rows = [
        _interval_row("detected", pooled.detection_rate),
        _interval_row("strict", pooled.strict.detection_rate),
        _interval_row("cases", pooled.case_rate),
    ]
    described = "; ".join(f"{row.label}: {row.note}, {percent(row.value)}" for row in rows)
    chart = interval_chart("rates", "Detection rates with 95 % intervals", described, rows)
    facts = [
        ("detection rate", f"{percent(pooled.detection_rate.rate)}"),
        ("95 % interval (Wilson)", percent_interval(pooled.detection_rate.wilson_95)),
        ("95 % interval, by patient", patient_interval_words(pooled.detection_rate)),
        ("false positives", f"{pooled.n_false_positive} ({number(pooled.false_positives_per_case)} per case)"),
        ("Dice per case, median", number(pooled.case_dice.median)),
        ("cases", f"{pooled.n_cases} from {plural(pooled.n_patients, 'patient')}"),
    ]
    below = numbers_below(chart, definitions(facts, "facts tiles"))
    reading = (
        "Circles are rates, bars their 95 % Wilson intervals. Detected: lesions that share a prediction are merged. "
        "Strict: nothing is merged. Cases: at least one tumour found, of the cases that have one."
    )
    return section("result", "Result", hero, *_cautions(run), below, tag("p", reading, class_="note"))


def sizes(pooled: CohortDetection) -> Markup:
    """Return the detection rate by lesion volume."""
    rows = [_interval_row(f"{name} cm³", rate) for name, rate in pooled.size_bins.items()]
    described = "; ".join(
        f"{row.label}: {'no tumour' if row.value is None else f'{row.note} detected'}" for row in rows
    )
    chart = interval_chart("sizes", "Detection rate by tumour volume", described, rows)
    numbers = table(
        "Detected tumours by volume",
        ("volume, cm³", "detected", "rate", "95 % interval"),
        [
            (
                name,
                f"{rate.count} of {rate.total}" if rate.total else "no tumour",
                percent(rate.rate),
                percent_interval(rate.wilson_95),
            )
            for name, rate in pooled.size_bins.items()
        ],
    )
    return section("size", "By tumour size", numbers_below(chart, numbers))


def folds(run: Run) -> Markup:
    """Return the folds beside each other, and how well the detected lesions were outlined."""
    results = [*((str(fold), result) for fold, result in run.folds.items()), ("all", run.pooled)]
    fold_table = table(
        "Validation folds",
        ("fold", "cases", "detected", "rate", "95 % interval", "strict", "false positives per case", "Dice, median"),
        [
            (
                name,
                str(result.n_cases),
                f"{result.n_detected} of {result.n_reference}",
                percent(result.detection_rate.rate),
                percent_interval(result.detection_rate.wilson_95),
                str(result.strict.n_detected),
                number(result.false_positives_per_case),
                number(result.case_dice.median),
            )
            for name, result in results
        ],
    )
    groups = run.pooled.detected_groups
    measures = {
        "Dice": groups.dice,
        "HD95, mm": groups.hd95_mm,
        "surface Dice at 2 mm": groups.surface_dice_2mm,
        "volume, predicted to reference": groups.volume_ratio,
    }
    outline_table = table(
        f"Outlines of {plural(groups.dice.count, 'detected group')} of tumours; missed ones do not count here",
        ("measure", "mean", "median"),
        [(name, number(spread.mean), number(spread.median)) for name, spread in measures.items()],
    )
    return section("folds", "Folds and outlines", fold_table, outline_table)


def cases(run: Run, cards: Mapping[str, str]) -> Markup:
    """Return the table of cases, which sorts and filters where scripts run.

    Args:
        run: The run.
        cards: Id of the first card of the gallery for each case that has one.
    """
    rows = sorted(
        ((fold, case) for fold, result in run.folds.items() for case in result.cases),
        key=lambda row: (-row[1].n_missed, -row[1].n_false_positive, row[1].case),
    )
    head = tag("tr", *(_sortable(name, index) for index, name in enumerate(CASE_COLUMNS)))
    body = tag("tbody", *(_case_row(fold, case, cards.get(case.case)) for fold, case in rows))
    caption = caption_of("Every validated case, misses first. Names lead to the pictures.")
    listing = tag("table", caption, tag("thead", head), body, class_="cases", id="case-table")
    return section(
        "cases",
        "Cases",
        _filters(len(rows)),
        scroll_frame("Table of cases", listing, "frame tall"),
    )


def _interval_row(label: str, rate: Rate) -> IntervalRow:
    return IntervalRow(label, f"{rate.count}/{rate.total}" if rate.total else "-", rate.rate, rate.wilson_95)


def _cautions(run: Run) -> list[Markup]:
    pooled, cautions = run.pooled, []
    if run.trainer.endswith(TRIAL):
        cautions.append(
            "A trial: a small network, trained for minutes on a CPU. What it detects tells nothing of the method."
        )
    if pooled.n_cases < run.dataset_json.get("numTraining", 0):
        cautions.append(
            f"Not all folds: {pooled.n_cases} of {run.dataset_json['numTraining']} training cases, those of "
            f"{'folds' if len(run.folds) > 1 else 'fold'} {', '.join(map(str, run.folds))}."
        )
    if run.patients_shared_between_folds:
        cautions.append(
            "These rates are optimistic: folds share "
            f"{plural(run.patients_shared_between_folds, 'patient')}, whose other scans were seen in training."
        )
    if missing := pooled.n_cases_prediction_missing:
        cautions.append(f"{plural(missing, 'prediction file')} missing: all tumours of these cases count as missed.")
    return [tag("p", text, class_="caution") for text in cautions]


def _filters(total: int) -> Markup:
    """Return the controls; a script shows them."""
    options = [tag("option", text, value=value) for value, text in OUTCOMES.items()]
    return tag(
        "form",
        tag("label", "Name contains ", tag("input", type="search", id="case-text", autocomplete="off")),
        tag("label", "Show ", tag("select", *options, id="case-outcome")),
        tag("output", f"{total} of {plural(total, 'case')}", id="case-count", for_="case-text case-outcome"),
        class_="controls",
        hidden=True,
        id="case-controls",
        role="search",
        aria_label="Filter cases",
    )


def _sortable(name: str, index: int) -> Markup:
    """Return a column's header; a script turns its text into a button."""
    return tag(
        "th", name, scope="col", data_sortable=True, class_=None if index in (0, len(CASE_COLUMNS) - 1) else "number"
    )


def _case_row(fold: int, case: CaseDetection, card: str | None) -> Markup:
    name = tag("bdi", case.case, title=case.case)
    link: Content = tag("a", name, href=f"#{card}") if card else name
    volume = sum(lesion.volume_cm3 for lesion in case.lesions)
    numbers: Sequence[tuple[str, float | None]] = [
        (str(case.n_missed), case.n_missed),
        (str(case.n_reference), case.n_reference),
        (str(case.n_false_positive), case.n_false_positive),
        (number(case.dice), case.dice),
        (number(volume), volume),
        (str(fold), fold),
    ]
    cells = [
        tag("td", _emphasized(text, index), class_="number", data_value="" if value is None else repr(float(value)))
        for index, (text, value) in enumerate(numbers)
    ]
    return tag(
        "tr",
        tag("th", link, scope="row", data_value=case.case),
        *cells,
        tag("td", case.note, data_value=case.note),
        data_name=case.case,
        data_outcome=" ".join(_outcomes(case)),
    )


def _emphasized(text: str, index: int) -> Content:
    """Make misses and false positives stand out where there are any."""
    return tag("strong", text, class_="alert") if index in (0, 2) and text != "0" else text


def _outcomes(case: CaseDetection) -> list[str]:
    found = {
        "missed": case.n_missed > 0,
        "false-positive": case.n_false_positive > 0,
        "noted": bool(case.note),
        "clean": not case.n_missed and not case.n_false_positive,
    }
    return [name for name, applies in found.items() if applies]
