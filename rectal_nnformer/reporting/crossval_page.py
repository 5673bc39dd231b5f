"""The page that tells a cross-validation's lesions, attention and features in words and tables (Markdown)."""

from collections.abc import Iterable, Mapping, Sequence

from rectal_nnformer.evaluation.detection import MIN_IOU, MIN_VOXELS
from rectal_nnformer.evaluation.summary import CohortDetection, Spread, patient_interval_words, rate_words
from rectal_nnformer.reporting.analyses import ReuseProfile, StageProfile
from rectal_nnformer.utils.markdown import plain, table
from rectal_nnformer.utils.text import number, numbered, percent, percent_interval, plural


def crossval_page(
    pooled: CohortDetection,
    folds: Mapping[int, CohortDetection],
    patients_shared_between_folds: int,
    picture: str | None,
    picture_note: str,
    attention: Sequence[StageProfile] = (),
    reuse: ReuseProfile | None = None,
) -> str:
    """Return the page.

    Args:
        pooled: All folds together.
        folds: Each fold.
        patients_shared_between_folds: Patients with cases in more than one fold.
        picture: File name of the picture beside the page; None if there is none.
        picture_note: Why there is none.
        attention: Attention dilution per stage, if it was analysed.
        reuse: Feature reuse, if it is defined.
    """
    picture_lines = [f"![Best, median and worst case]({picture})"] if picture else [f"No picture: {picture_note}"]
    sections = {
        f"# Lesion detection over {plural(len(folds), 'fold')}": _headline(pooled)
        + _optimism(patients_shared_between_folds),
        "## Folds": _fold_table(pooled, folds),
        "## By lesion size": _size_table(pooled),
        "## Outlines": _outline_table(pooled),
        "## Attention lost on padding": _attention_table(attention, list(folds)),
        "## Features kept from pretraining": _reuse_table(reuse, list(folds)),
        "## Missed lesions": _missed_table(folds),
        "## Cases to look at": _noted_cases(folds),
        "## Pictures": picture_lines,
        "## What the numbers mean": _MEANING,
    }
    return "\n\n".join("\n".join([heading, "", *lines]) for heading, lines in sections.items()) + "\n"


_MEANING = [
    f"A lesion is a 26-connected component of at least {MIN_VOXELS} voxels. Lesions that share a prediction, and",
    "predictions that share a lesion, are merged into groups; a lesion is detected if the intersection over union",
    f"of its group is above {MIN_IOU}. *Strict* merges nothing: one prediction must overlap the lesion, alone, and",
    "no other lesion. *By patient* is the 95 % interval from drawing patients with replacement; there is none where no",
    "two patients differ, as when everything is detected. The other intervals are Wilson's, which take lesions as",
    "independent and hold then too. HD95 and surface Dice describe detected groups: they say nothing about missed",
    "lesions. Folds are different networks: attention and features are the mean over them.",
]


def _headline(pooled: CohortDetection) -> list[str]:
    missing = pooled.n_cases_prediction_missing
    lines = [
        f"**{pooled.n_detected} of {plural(pooled.n_reference, 'tumour')} detected "
        f"({rate_words(pooled.detection_rate)})**, "
        f"by patient {patient_interval_words(pooled.detection_rate)}.",
        "",
        f"- Strict: {pooled.strict.n_detected} of {pooled.n_reference} ({rate_words(pooled.strict.detection_rate)}).",
        f"- Cases with a tumour in which at least one was detected: {pooled.case_rate.count} of "
        f"{pooled.case_rate.total} ({rate_words(pooled.case_rate)}).",
        f"- {plural(pooled.n_false_positive, 'false positive')} in {plural(pooled.n_cases, 'case')} of "
        f"{plural(pooled.n_patients, 'patient')} ({number(pooled.false_positives_per_case)} per case).",
        f"- Dice per case: mean {number(pooled.case_dice.mean)}, median {number(pooled.case_dice.median)}.",
    ]
    if missing:
        lines.append(f"- Prediction files missing: {missing}. The lesions of these cases count as missed.")
    return lines


def _optimism(patients_shared_between_folds: int) -> list[str]:
    if not patients_shared_between_folds:
        return []
    return [
        "",
        "**These rates are optimistic**: the validation sets of different folds share "
        f"{plural(patients_shared_between_folds, 'patient')}, so networks were tested on patients of whom they had "
        "seen another scan in training.",
    ]


def _fold_table(pooled: CohortDetection, folds: Mapping[int, CohortDetection]) -> list[str]:
    header = ("fold", "cases", "detected", "rate", "95 % CI", "by patient", "strict", "cases with a detection")
    rows = [(str(fold), result) for fold, result in folds.items()] + [("all", pooled)]
    return table(
        (*header, "false positives per case", "Dice mean", "Dice median"),
        [
            (
                name,
                str(result.n_cases),
                f"{result.n_detected}/{result.n_reference}",
                percent(result.detection_rate.rate),
                percent_interval(result.detection_rate.wilson_95),
                patient_interval_words(result.detection_rate),
                f"{result.strict.n_detected}/{result.n_reference}",
                f"{result.case_rate.count}/{result.case_rate.total}",
                number(result.false_positives_per_case),
                number(result.case_dice.mean),
                number(result.case_dice.median),
            )
            for name, result in rows
        ],
    )


def _size_table(pooled: CohortDetection) -> list[str]:
    return table(
        ("volume (cm3)", "detected", "rate", "95 % CI"),
        [
            (name, f"{rate.count}/{rate.total}", percent(rate.rate), percent_interval(rate.wilson_95))
            for name, rate in pooled.size_bins.items()
        ],
    )


def _outline_table(pooled: CohortDetection) -> list[str]:
    groups = pooled.detected_groups
    measures: dict[str, Spread] = {
        "Dice": groups.dice,
        "HD95 (mm)": groups.hd95_mm,
        "surface Dice at 2 mm": groups.surface_dice_2mm,
        "volume ratio, prediction to reference": groups.volume_ratio,
    }
    return table(
        (f"of {plural(groups.dice.count, 'detected group')}", "mean", "median"),
        [(name, number(spread.mean), number(spread.median)) for name, spread in measures.items()],
    )


def _attention_table(stages: Sequence[StageProfile], folds: Sequence[int]) -> list[str]:
    if not stages:
        return ["Not analysed: 'rectal_nnformer attention' measures it."]
    analysed = sorted({fold for stage in stages for fold in stage.adi_of_folds})
    rows = [(f"fold {fold}", [stage.adi_of_folds.get(fold) for stage in stages]) for fold in analysed]
    rows += [
        (words, [stage.means[name] for stage in stages])
        for words, name in (
            ("mean over the folds", "adi"),
            ("uniform attention, mean", "uniform_adi"),
            ("mass on padding, mean", "a_rp"),
        )
    ]
    numbers = table(
        ("attention dilution index", *(f"stage {stage.stage}" for stage in stages)),
        [(words, *(number(value, 3) for value in values)) for words, values in rows],
    )
    return [*numbers, *_without(analysed, folds, "rectal_nnformer attention")]


def _without(analysed: Iterable[int], folds: Sequence[int], command: str) -> list[str]:
    missing = [fold for fold in folds if fold not in set(analysed)]
    return ["", f"Without {numbered('fold', missing)}: '{command}' measures it."] if missing else []


def _reuse_table(reuse: ReuseProfile | None, folds: Sequence[int]) -> list[str]:
    if reuse is None:
        return ["Not analysed, or too few cases: 'rectal_nnformer feature_reuse' compares with a pretrained file."]
    rows = [
        (f"fold {fold}", str(reuse.num_crops[fold]), mean, reuse.drift_intervals[fold])
        for fold, mean in reuse.folds.items()
    ]
    rows.append(("mean over the folds", "", reuse.mean_diagonal, None))
    numbers = table(
        ("debiased CKA with the pretrained encoder", "cases", "mean of the blocks", "drift", "95 % CI of the drift"),
        [
            (
                name,
                crops,
                number(mean, 3),
                number(None if mean is None else 1 - mean, 3),
                "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
            )
            for name, crops, mean, interval in rows
        ],
    )
    return [*numbers, *_without(reuse.folds, folds, "rectal_nnformer feature_reuse")]


def _missed_table(folds: Mapping[int, CohortDetection]) -> list[str]:
    missed = [
        (str(fold), case.case, str(lesion.label), f"{lesion.volume_cm3:.2f}", number(lesion.iou))
        for fold, result in folds.items()
        for case in result.cases
        for lesion in case.lesions
        if not lesion.detected
    ]
    return table(("fold", "case", "lesion", "volume (cm3)", "IoU"), missed) if missed else ["None."]


def _noted_cases(folds: Mapping[int, CohortDetection]) -> list[str]:
    notes = [
        f"- fold {fold}, {plain(case.case)}: {case.note}"
        for fold, result in folds.items()
        for case in result.cases
        if case.note
    ]
    return notes or ["None is special: every case has a reference lesion and a prediction."]
