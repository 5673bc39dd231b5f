"""The comparison in words and tables (Markdown)."""

from collections.abc import Mapping, Sequence

from rectal_nnformer.evaluation.statistics import Agreement, Difference
from rectal_nnformer.evaluation.summary import NO_RESAMPLING, patient_interval_words
from rectal_nnformer.reporting.analyses import ATTENTION_FILE, REUSE_FILE
from rectal_nnformer.reporting.comparison.results import Comparison, PairComparison, RunResult
from rectal_nnformer.utils.markdown import plain, table
from rectal_nnformer.utils.text import number, numbered, percent, percent_interval, plural, some

_MEANING = [
    "- All numbers are of the cases that every run was validated on, against the same references.",
    "- **McNemar's test** (exact, two-sided) looks only at the tumours that one run of a pair detected and the other",
    "  missed: without a difference between the runs each would have half of them. It takes tumours as independent.",
    "- **Several pairs**: *p, Holm* is adjusted for all pairs of its table, so that the chance of a single false",
    "  finding among them stays at the level; compare it with 0.05. Detection and strict detection are two families.",
    "- **Differences** are first minus second, with 95 % intervals from drawing patients with replacement, each with",
    "  the results of both runs (10,000 draws). They allow for tumours of one patient being alike. They are not",
    "  adjusted for the number of pairs: an interval that just leaves out 0 is weak evidence. Where no two patients",
    "  differ, drawing patients says nothing, and there is no interval.",
    "- No difference found is not evidence of none: look at how wide the interval is.",
]


def comparison_page(comparison: Comparison, picture: str) -> str:
    """Return the page.

    Args:
        comparison: What is compared.
        picture: File name of the picture beside it.
    """
    sections = {
        f"# {plural(len(comparison.runs), 'run')} compared": _introduction(comparison),
        "## Side by side": _run_table(comparison.runs),
        "## Detection, pair by pair": [*_mcnemar_table(comparison.pairs, strict=False), *_adjusted(comparison.pairs)],
        "## Strict detection, pair by pair": _mcnemar_table(comparison.pairs, strict=True),
        "## Differences": [*_difference_table(comparison.pairs), *_unadjusted(comparison.pairs)],
        "## Tumours on which the runs differ": _disputed_table(comparison),
        "## Attention lost on padding": _attention_table(comparison.runs),
        "## Features kept from pretraining": _reuse_table(comparison.runs),
        "## Picture": [f"![Rates, differences, attention and feature reuse of all runs]({picture})"],
        "## What the numbers mean": _MEANING,
    }
    return "\n\n".join("\n".join([heading, "", *lines]) for heading, lines in sections.items()) + "\n"


def left_out_words(comparison: Comparison) -> str:
    """Return which cases the runs do not share, in a sentence; empty if they share all."""
    left_out = comparison.left_out_cases
    if not left_out:
        return ""
    total = comparison.num_shared_cases + len(left_out)
    shared = f"{comparison.num_shared_cases} of {total} cases {'is' if comparison.num_shared_cases == 1 else 'are'}"
    return f"{shared} in all runs; the others are left out: {some(left_out)}."


def _introduction(comparison: Comparison) -> list[str]:
    left_out = left_out_words(comparison)
    lines = [
        *([f"**{plain(left_out)}**", ""] if left_out else []),
        f"On {plural(comparison.num_shared_cases, 'case')} of {plural(comparison.num_shared_patients, 'patient')} with "
        f"{plural(comparison.runs[0].detection.n_reference, 'tumour')}, the same in all runs.",
        "",
        *(f"- {plain(run.name)}: {plain(run.folder)}{_left_out(run)}" for run in comparison.runs),
    ]
    if comparison.num_cases_in_other_folds:
        lines += [
            "",
            f"**The folds differ**: {plural(comparison.num_cases_in_other_folds, 'case')} stood in folds of different "
            "numbers, so that the networks compared on them may have learnt from different cases.",
        ]
    return lines


def _left_out(run: RunResult) -> str:
    return f" ({plural(run.num_left_out, 'case')} left out, which another run lacks)" if run.num_left_out else ""


def _run_table(runs: Sequence[RunResult]) -> list[str]:
    return table(
        (
            "run",
            "detected",
            "rate",
            "95 % CI",
            "by patient",
            "strict",
            "false positives per case",
            "Dice mean",
            "median",
        ),
        [
            (
                run.name,
                f"{run.detection.n_detected}/{run.detection.n_reference}",
                percent(run.detection.detection_rate.rate),
                percent_interval(run.detection.detection_rate.wilson_95),
                patient_interval_words(run.detection.detection_rate),
                f"{run.detection.strict.n_detected}/{run.detection.n_reference}",
                number(run.detection.false_positives_per_case),
                number(run.detection.case_dice.mean),
                number(run.detection.case_dice.median),
            )
            for run in runs
        ],
    )


def _mcnemar_table(pairs: Sequence[PairComparison], strict: bool) -> list[str]:
    tests: list[tuple[PairComparison, Agreement]] = [
        (pair, pair.detection_strict if strict else pair.detection) for pair in pairs
    ]
    return table(
        ("first", "second", "both", "first only", "second only", "neither", "p, McNemar", "p, Holm"),
        [
            (
                pair.first,
                pair.second,
                str(test.both),
                str(test.only_first),
                str(test.only_second),
                str(test.neither),
                _p(test.p),
                _p(test.p_holm),
            )
            for pair, test in tests
        ],
    )


def _adjusted(pairs: Sequence[PairComparison]) -> list[str]:
    """Say at the p-values which of them allows for the number of pairs."""
    if len(pairs) < 2:
        return []
    return ["", f"{len(pairs)} pairs are tested: read *p, Holm*, which is adjusted for that; *p, McNemar* is not."]


def _unadjusted(pairs: Sequence[PairComparison]) -> list[str]:
    if len(pairs) < 2:
        return []
    return ["", f"The intervals are not adjusted for the {len(pairs)} pairs."]


def _difference_table(pairs: Sequence[PairComparison]) -> list[str]:
    return table(
        ("first - second", "detection rate", "Dice per case", "false positives per case"),
        [
            (
                f"{pair.first} - {pair.second}",
                _difference(pair.detection_rate, 100, 1, " points"),
                _difference(pair.dice, 1, 3),
                _difference(pair.false_positives_per_case, 1, 2),
            )
            for pair in pairs
        ],
    )


def _disputed_table(comparison: Comparison) -> list[str]:
    names = [run.name for run in comparison.runs]
    rows = [row for row in comparison.lesions if len({row[f"detected: {name}"] for name in names}) > 1]
    if not rows:
        return ["None: every tumour was detected by all runs or by none."]
    return table(
        ("case", "tumour", "volume (cm3)", *names),
        [
            (
                row["case"],
                str(row["label"]),
                number(row["volume_cm3"]),
                *("detected" if row[f"detected: {name}"] else "missed" for name in names),
            )
            for row in rows
        ],
    )


def _attention_table(runs: Sequence[RunResult]) -> list[str]:
    stages = range(max((len(run.stages) for run in runs), default=0))
    rows = [
        (run.name, what, *(number(run.stages[i].means[key] if i < len(run.stages) else None, 3) for i in stages))
        for run in runs
        if run.stages
        for what, key in (("ADI", "adi"), ("ADI, uniform attention", "uniform_adi"), ("mass on padding", "a_rp"))
    ]
    missing = _missing([run.name for run in runs if not run.stages], ATTENTION_FILE, "rectal_nnformer attention")
    partly = _partly({run.name: run.folds_without_attention for run in runs})
    header = ("run", "mean over folds", *(f"stage {i}" for i in stages))
    return _paragraphs(table(header, rows) if rows else [], partly, missing)


def _reuse_table(runs: Sequence[RunResult]) -> list[str]:
    rows = [
        (
            run.name,
            str(point.fold),
            number(point.reuse, 3),
            percent(point.detection_rate),
            number(point.dice),
        )
        for run in runs
        for point in run.fold_points
    ]
    missing = _missing([run.name for run in runs if run.reuse is None], REUSE_FILE, "rectal_nnformer feature_reuse")
    words = [
        "Feature reuse is the mean CKA (debiased) of the blocks with themselves before fine-tuning.",
        "Much reuse need not mean accuracy.",
        "",
        *table(("run", "fold", "feature reuse", "detection rate", "Dice mean"), rows),
    ]
    partly = _partly({run.name: run.folds_without_reuse for run in runs})
    return _paragraphs(words if rows else [], partly, missing)


def _partly(folds: Mapping[str, Sequence[int]]) -> list[str]:
    """Say which runs are the mean of some folds only, and so may differ for that alone."""
    words = [f"{plain(name)} without {numbered('fold', missing)}" for name, missing in folds.items() if missing]
    return [f"**Not of all folds: {'; '.join(words)}.** Runs may differ for that reason alone."] if words else []


def _paragraphs(*paragraphs: Sequence[str]) -> list[str]:
    """Return the lines of paragraphs with an empty line between those that there are."""
    lines: list[str] = []
    for paragraph in filter(None, paragraphs):
        lines += ["", *paragraph] if lines else paragraph
    return lines


def _missing(names: Sequence[str], file: str, command: str) -> list[str]:
    if not names:
        return []
    return [
        f"Not analysed: {plain(', '.join(names))}. No fold has a validation/{file} with a defined value. The "
        f"validation of a fold writes it; '{command}' measures it later.",
    ]


def _difference(difference: Difference, factor: float, digits: int, unit: str = "") -> str:
    if difference.value is None:
        return "-"
    value = f"{factor * difference.value:+.{digits}f}{unit}"
    if difference.patient_bootstrap_95 is None:
        return f"{value} (no interval: {NO_RESAMPLING})"
    low, high = (f"{factor * bound:+.{digits}f}" for bound in difference.patient_bootstrap_95)
    return f"{value} ({low} to {high})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
