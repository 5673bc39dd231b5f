"""The sections about the encoder: attention lost on padding, and features kept from pretraining."""

import math
from collections.abc import Sequence

from rectal_nnformer.nnunet.names import CUBIC
from rectal_nnformer.planning.record import planning_record
from rectal_nnformer.reporting.analyses import (
    ATTENTION_FILE,
    REUSE_FILE,
    ReuseProfile,
    StageProfile,
    reuse_profile,
    stage_profiles,
)
from rectal_nnformer.reporting.report.charts import Series, heat_map, profile_chart
from rectal_nnformer.reporting.report.markup import Markup, join, tag
from rectal_nnformer.reporting.report.tables import definitions, numbers_below, section, table
from rectal_nnformer.reporting.runs import Run, cubic_siblings
from rectal_nnformer.utils.text import number, numbered, plural

MOST_EPOCHS = 40
ADI_MEANING = (
    "The attention dilution index (ADI) is the share of the entropy of attention that falls on padding, over all "
    "tokens that hold image: 0 is none. Beside it stands what uniform attention would give. The padded baseline is the "
    "pretraining input (3d_fullres_cubic) under uniform attention, as the plans expect it of this dataset."
)
NO_PADDING = (
    "The images fill the patch: no tile of them held padding, so there is nothing to dilute, and all values are 0."
)
CKA_MEANING = (
    "Centered kernel alignment (CKA, debiased) compares each block's features with those of the pretrained encoder on "
    "the same crops: 1 is the same up to rotation and scale, 0 unrelated. Drift is 1 minus the mean of the diagonal. "
    "Much reuse need not mean accuracy."
)


def attention(run: Run) -> Markup:
    """Return attention dilution per stage, beside uniform attention and the padded baseline."""
    stages = stage_profiles(run.attention)
    series = _attention_series(run, stages)
    content: list[Markup | None] = [tag("p", ADI_MEANING, class_="note")]
    if not stages:
        content.append(tag("p", _how_to_measure_attention(run), class_="hint"))
    if stages and all(stage.means["uniform_adi"] == 0 for stage in stages):
        content.append(tag("p", NO_PADDING, class_="note"))
    if series:
        places = [str(i) for i in range(max(len(one.values) for one in series))]
        described = "; ".join(f"{s.name}: {', '.join(number(v, 3) for v in s.values)}" for s in series)
        chart = profile_chart("adi", "Attention dilution index per stage", described, places, series, "stage")
        content += [numbers_below(chart, _series_table(places, series)), _fold_table(stages), _flow_table(stages)]
    if stages and (missing := [fold for fold in run.folds if fold not in run.attention]):
        content.append(
            tag("p", f"Without {numbered('fold', missing)}. {_to_measure_attention(run, missing)}", class_="hint")
        )
    return section("attention", "Attention lost on padding", *content, _epochs_chart(run))


def features(run: Run) -> Markup:
    """Return feature reuse: similarity to the pretrained encoder block by block, and between all blocks."""
    profile = reuse_profile(run.reuse)
    meaning = tag("p", CKA_MEANING, class_="note")
    if profile is None:
        missing = tag("p", _how_to_measure_reuse(run), class_="hint")
        return section("features", "Features kept from pretraining", meaning, missing)
    pair = run.reuse[min(profile.folds)]
    facts = definitions(
        [
            ("compared", f"{pair.get('first', 'this model')} with {pair.get('second', 'the pretrained encoder')}"),
            ("drift", number(None if profile.mean_diagonal is None else 1 - profile.mean_diagonal, 3)),
            ("distance of the best match, blocks", number(profile.best_match_distance)),
            ("crops per fold", ", ".join(str(n) for n in profile.num_crops.values())),
            ("note", pair.get("note") or None),
        ]
    )
    return section(
        "features",
        "Features kept from pretraining",
        meaning,
        numbers_below(_diagonal_chart(profile), _diagonal_table(profile)),
        tag("p", _WHISKERS, class_="note"),
        _reuse_table(profile),
        _folds_without_reuse(run, profile),
        numbers_below(join([_matrix_chart(profile), tag("figcaption", _MATRIX_CAPTION)]), facts),
    )


_WHISKERS = "Whiskers are the range over the folds, or the 95 % interval over cases where there is one fold."
_MATRIX_CAPTION = (
    "CKA between every two blocks: rows are blocks of this model, columns of the pretrained encoder, numbered as in "
    "the table; darker is more alike. Where features are reused, the diagonal stays dark."
)


def _how_to_measure_attention(run: Run) -> str:
    return (
        f"Attention dilution was not measured: no fold has a validation/{ATTENTION_FILE}, which the validation of a "
        f"fold writes. {_to_measure_attention(run, list(run.folds))}"
    )


def _to_measure_attention(run: Run, folds: Sequence[int]) -> str:
    return (
        f"To measure it now: rectal_nnformer attention -d {run.dataset} -tr {run.trainer} -p {run.plans_name} "
        f"-c {run.configuration} -f {' '.join(map(str, folds))}"
    )


def _how_to_measure_reuse(run: Run) -> str:
    if notes := [str(content["note"]) for content in run.reuse.values() if content.get("note")]:
        return f"Feature reuse is undefined. {notes[0]}"
    return (
        f"Feature reuse was not measured: no fold has a validation/{REUSE_FILE}, which the validation of a fold writes "
        f"if the training started from a pretrained file that is at hand. {_to_measure_reuse(run, min(run.folds))}"
    )


def _to_measure_reuse(run: Run, fold: int) -> str:
    # The page is passed on: it tells no paths of this computer.
    folder = f"$nnUNet_results/{run.dataset}/{run.folder.name}/fold_{fold}"
    return f"To compare with one now: rectal_nnformer feature_reuse {folder} PRETRAINED_FILE"


def _folds_without_reuse(run: Run, profile: ReuseProfile) -> Markup | None:
    missing = [fold for fold in run.folds if fold not in profile.folds]
    if not missing:
        return None
    return tag("p", f"Without {numbered('fold', missing)}. {_to_measure_reuse(run, missing[0])}", class_="hint")


def _attention_series(run: Run, stages: Sequence[StageProfile]) -> list[Series]:
    series = []
    if stages:
        series.append(Series("this model", [s.means["adi"] for s in stages], [s.adi_range for s in stages], style=0))
        series.append(Series("uniform attention, same tiles", [s.means["uniform_adi"] for s in stages], style=1))
    elif (planned := _planned_uniform_adi(run, run.configuration)) is not None:
        series.append(Series(f"uniform attention, {run.configuration}", planned, style=1))
    if run.configuration != CUBIC and (baseline := _planned_uniform_adi(run, CUBIC)) is not None:
        series.append(Series("padded baseline, uniform", baseline, style=2))
    for trainer, by_fold in cubic_siblings(run)[:2]:
        values = [stage.means["adi"] for stage in stage_profiles(by_fold)]
        series.append(
            Series(f"{trainer.removeprefix('nnUNetTrainer')}, cubic, measured", values, style=3 + len(series) % 2)
        )
    return series


def _planned_uniform_adi(run: Run, configuration: str) -> Sequence[float] | None:
    """Return what the plans expect of uniform attention at each stage; None for plans of other software."""
    record = planning_record(run.plans)
    account = record.patch_sizes.get(configuration) if record else None
    return account.uniform_adi if account else None


def _epochs_chart(run: Run) -> Markup | None:
    """Return the attention dilution index in the course of training; None where no fold was followed."""
    if not run.epochs:
        return None
    shown = list(run.epochs)[:: math.ceil(len(run.epochs) / MOST_EPOCHS)]
    stages = sorted({stage for values in run.epochs.values() for stage in values})
    series = [Series(f"stage {s}", [run.epochs[epoch].get(s) for epoch in shown], style=s) for s in stages]
    places = [str(epoch) for epoch in shown]
    described = "; ".join(f"{one.name}: {number(one.values[0], 3)} to {number(one.values[-1], 3)}" for one in series)
    title = "ADI during training, on one crop of each fold"
    chart = profile_chart("epochs", title, described, places, series, "epoch")
    return tag("figure", chart, tag("figcaption", f"{title}: {described}."))


def _fold_table(stages: Sequence[StageProfile]) -> Markup | None:
    """Return the attention dilution index of each fold."""
    folds = sorted({fold for stage in stages for fold in stage.adi_of_folds})
    if not folds:
        return None
    rows = [(str(fold), *(number(stage.adi_of_folds.get(fold), 3) for stage in stages)) for fold in folds]
    mean = ("mean", *(number(stage.means["adi"], 3) for stage in stages))
    return table("ADI of each fold", ("fold", *(f"stage {stage.stage}" for stage in stages)), [*rows, mean])


def _reuse_table(profile: ReuseProfile) -> Markup:
    """Return the feature reuse of each fold."""
    rows = [(str(fold), mean, profile.drift_intervals[fold]) for fold, mean in profile.folds.items()]
    rows.append(("mean", profile.mean_diagonal, None))
    return table(
        "Feature reuse of each fold",
        ("fold", "mean CKA", "drift", "95 % interval of the drift"),
        [
            (
                fold,
                number(mean, 3),
                number(None if mean is None else 1 - mean, 3),
                "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
            )
            for fold, mean, interval in rows
        ],
    )


def _series_table(places: Sequence[str], series: Sequence[Series]) -> Markup:
    rows = [
        (place, *(number(one.values[i] if i < len(one.values) else None, 3) for one in series))
        for i, place in enumerate(places)
    ]
    return table("ADI per stage", ("stage", *(one.name for one in series)), rows)


def _flow_table(stages: Sequence[StageProfile]) -> Markup | None:
    if not stages:
        return None
    return table(
        "What real tokens pay attention to, mean over the folds",
        (
            "stage",
            "ADI, least and most of the folds",
            "mass on padding (A_rp)",
            "ADI of tumour tokens",
            "real positions fed by padding",
            "real tokens",
        ),
        [
            (
                str(stage.stage),
                "-" if stage.adi_range is None else f"{number(stage.adi_range[0], 3)}-{number(stage.adi_range[1], 3)}",
                *(
                    number(stage.means[name], 3)
                    for name in ("a_rp", "tumor_adi", "scattered_padding_share", "real_token_fraction")
                ),
            )
            for stage in stages
        ],
    )


def _diagonal_chart(profile: ReuseProfile) -> Markup:
    series = [Series("this model and pretrained", profile.diagonal, profile.intervals, style=0)]
    if any(value is not None for value in profile.null_p95):
        series.append(Series("unrelated features, 95th percentile", profile.null_p95, style=1))
    described = f"From {number(profile.diagonal[0])} in the first block to {number(profile.diagonal[-1])} in the last."
    places = [str(i + 1) for i in range(len(profile.blocks))]
    # Without bias, the estimate for unrelated features may lie below 0.
    drawn = [*profile.diagonal, *profile.null_p95, *(bounds[0] for bounds in profile.intervals if bounds)]
    lowest = -0.25 if min((value for value in drawn if value is not None), default=0.0) < 0 else 0.0
    return profile_chart(
        "cka",
        "Similarity of each block to itself before fine-tuning",
        described,
        places,
        series,
        "block",
        (lowest, 1.0),
    )


def _diagonal_table(profile: ReuseProfile) -> Markup:
    folds = plural(len(profile.folds), "fold")
    return table(
        f"CKA along the diagonal, {folds}",
        ("block", "name", "CKA", "range", "unrelated"),
        [
            (
                str(i + 1),
                name,
                number(profile.diagonal[i]),
                "-" if (bounds := profile.intervals[i]) is None else f"{bounds[0]:.2f}-{bounds[1]:.2f}",
                number(profile.null_p95[i]),
            )
            for i, name in enumerate(profile.blocks)
        ],
        numeric_from=2,
    )


def _matrix_chart(profile: ReuseProfile) -> Markup:
    described = (
        f"{len(profile.blocks)} by {len(profile.blocks)} blocks. Mean of the diagonal {number(profile.mean_diagonal)}."
    )
    return heat_map(
        "matrix",
        "CKA between all blocks of this model and of the pretrained encoder",
        described,
        profile.matrix,
        "block of the pretrained encoder",
    )
