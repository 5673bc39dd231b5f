"""What the template of the report shows of confidence and volumes: curves, reliability, cases to look at first."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rectal_nnformer.evaluation.agreement import Limits, means_and_differences
from rectal_nnformer.evaluation.calibration import Calibration, NestedCalibration
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.froc import BAND_RATES, FALSE_POSITIVE_RATES, Curves
from rectal_nnformer.evaluation.operating_point import NestedPoint
from rectal_nnformer.evaluation.review import MEASURES, review_order
from rectal_nnformer.evaluation.wish import NO_POINT
from rectal_nnformer.nnunet.names import TRAINER_FAMILIES
from rectal_nnformer.reporting.charts import Axis, Curve, plane_chart, round_axis
from rectal_nnformer.reporting.cohort import CohortAnalysis
from rectal_nnformer.reporting.confidence_tables import AS_THEY_ARE, rate_name
from rectal_nnformer.reporting.results import FolderResults, ModelResults, Results
from rectal_nnformer.utils.text import number, percent, plural

QUARTERS = {0.0: "0 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 1.0: "100 %"}
REVIEW_COLUMNS = {
    "confidence": "confidence",
    "entropy": "entropy",
    "disagreement": "disagreement",
    "n_missed": "missed",
    "n_false_positive": "false positives",
    "dice": "Dice",
    "predicted_cm3": "predicted cm³",
    "reference_cm3": "reference cm³",
}
"""Columns of the list of cases to look at first, with their headers."""
AT_POINT = "masks at the operating point of the prediction"


def confidence_context(results: Results, analysis: CohortAnalysis) -> dict[str, Any]:
    """Return what the template asks for."""
    cases = results.pooled.cases
    rows = [_review_row(case) for case in review_order(cases)]
    known = any(not one.reason for one in analysis.review)
    masks = _what_masks_are(results)
    return {
        "analysis": analysis,
        "froc_chart": _froc_chart(analysis.curves, analysis.point, masks),
        "roc_chart": _roc_chart(analysis.curves),
        "reliability_chart": _reliability_chart(analysis.calibration) if analysis.calibration else None,
        "volume_chart": _volume_chart(cases, analysis.volumes.difference_cm3),
        "review": rows if known else [],
        "REVIEW_COLUMNS": {
            name: words for name, words in REVIEW_COLUMNS.items() if any(row[name] is not None for row in rows)
        },
        "masks": masks,
        "predicted_at": results.model.get("operating_point") if isinstance(results, FolderResults) else None,
        "how_to_know": how_to_know(results),
    }


def _what_masks_are(results: Results) -> str:
    """Return what masks are scored: as the network gave them, or changed by the operating point of `predict`."""
    predicted_at = results.model.get("operating_point", "") if isinstance(results, FolderResults) else ""
    return AT_POINT if predicted_at and not predicted_at.startswith(NO_POINT) else AS_THEY_ARE


def how_to_know(results: Results) -> str:
    """Return how to get what earlier versions and nnU-Net's own trainers do not keep."""
    if not isinstance(results, ModelResults):
        return (
            "Predict the scans again, with --save_probabilities, and evaluate again: 'rectal_nnformer predict' keeps "
            "how sure the network is beside the masks, and nnU-Net's probabilities tell it, too."
        )
    folder = results.folder
    again = f"rectal_nnformer train {folder.dataset} {folder.configuration} FOLD -tr {folder.trainer} -p {folder.plans}"
    options = f"-d {folder.dataset} -tr {folder.trainer} -p {folder.plans} -c {folder.configuration}"
    crossval = f"rectal_nnformer crossval {options}"
    npz = "" if folder.trainer.startswith(tuple(TRAINER_FAMILIES.values())) else " --npz"
    return f"Validate each fold again: {again} --val{npz}. Then sum up: {crossval}"


def _froc_chart(curves: Curves, point: NestedPoint, masks: str) -> Markup | None:
    if not has_froc(curves):
        return None
    strict = [(one.false_positives_per_case_strict, one.sensitivity_strict or 0.0) for one in curves.points]
    mask = _mask_point(curves)
    drawn = [
        _froc_curve("detected, band: 95 % by patient", curves, 0, with_band=True),
        Curve("strict", strict, 1),
        Curve(masks, [mask], 4, "marks"),
    ]
    described = [f"Masks: {percent(mask[1])} detected with {number(mask[0])} false positives per case"]
    if point.nested and point.nested.sensitivity.rate is not None:
        nested = (point.nested.false_positives_per_case.value or 0.0, point.nested.sensitivity.rate)
        drawn.append(Curve("the operating point, nested", [nested], 3, "marks"))
        described.append(f"operating point: {percent(nested[1])} with {number(nested[0])}")
    described.append(f"the curve: {_at_rates(curves)}")
    return _froc_plane("froc", "Tumours detected against false positives per case (FROC)", described, drawn)


def has_froc(curves: Curves) -> bool:
    """Whether there is a curve to draw: confidence is known, and there is a tumour to be found."""
    return curves.merged is not None and bool(curves.n_reference)


def froc_beside(ident: str, named: Mapping[str, Curves]) -> Markup:
    """Return one or two curves in a chart, with the band of the first; marks are the masks as they are.

    Args:
        ident: Unique on the page.
        named: Curves for which `has_froc` is true.
    """
    drawn, described = [], []
    for style, (name, curves) in enumerate(named.items()):
        band = ", band: 95 % by patient" if style == 0 else ""
        drawn += [
            _froc_curve(f"{name}{band}", curves, style, with_band=style == 0),
            Curve("", [_mask_point(curves)], style, "marks"),
        ]
        described.append(f"{name}: {_at_rates(curves)}")
    return _froc_plane(ident, f"FROC of {' and '.join(named)}", described, drawn)


def _froc_curve(name: str, curves: Curves, style: int, with_band: bool) -> Curve:
    points = [(one.false_positives_per_case, one.sensitivity or 0.0) for one in curves.points]
    band = [
        (one.false_positives_per_case, *one.sensitivity.patient_bootstrap_95)
        for one in (curves.merged.band if curves.merged and with_band else ())
        if one.sensitivity.patient_bootstrap_95
    ]
    return Curve(name, points, style, band=band)


def _mask_point(curves: Curves) -> tuple[float, float]:
    assert curves.mask is not None
    return curves.mask.false_positives_per_case, curves.mask.sensitivity or 0.0


def _at_rates(curves: Curves) -> str:
    return ", ".join(
        f"{percent(one.sensitivity.value)} at {rate_name(one.false_positives_per_case)}"
        for one in (curves.merged.sensitivities if curves.merged else ())
    )


def _froc_plane(ident: str, title: str, described: Sequence[str], drawn: Sequence[Curve]) -> Markup:
    ticks = {rate: rate_name(rate) for rate in FALSE_POSITIVE_RATES}
    return plane_chart(
        ident,
        title,
        "; ".join(described) + ".",
        Axis("false positives per case", BAND_RATES[0], BAND_RATES[-1], ticks, logarithmic=True),
        Axis("tumours detected", 0, 1, QUARTERS),
        drawn,
    )


def _roc_chart(curves: Curves) -> Markup | None:
    if curves.roc is None or curves.roc.reason:
        return None
    points = list(zip(curves.roc.false_positive_rate, curves.roc.true_positive_rate, strict=True))
    return plane_chart(
        "roc",
        "Cases with a tumour told from those without (ROC)",
        f"Area under the curve {number(curves.roc.auroc.value)}.",
        Axis("cases without a tumour, taken for one with", 0, 1, QUARTERS),
        Axis("cases with a tumour found", 0, 1, QUARTERS),
        [Curve("confidence of the surest lesion", points, 0), Curve("chance", [(0, 0), (1, 1)], 2)],
    )


def _reliability_chart(calibration: NestedCalibration) -> Markup:
    before = calibration.before.near_tumor
    drawn = [Curve("as it is", _bins(before), 0, "both")]
    described = f"Calibration error {number(before.ece, 3)}"
    if calibration.after:
        after = calibration.after.near_tumor
        drawn.append(Curve("after the temperature", _bins(after), 1, "both"))
        described += f", {number(after.ece, 3)} after the temperature"
    return plane_chart(
        "reliability",
        "Share of tumour by probability, near the tumour",
        f"{described}.",
        Axis("probability of tumour", 0, 1, QUARTERS),
        Axis("share of tumour", 0, 1, QUARTERS),
        [*drawn, Curve("as it should be", [(0, 0), (1, 1)], 2)],
    )


def _bins(calibration: Calibration) -> list[tuple[float, float]]:
    found = [(one.mean_probability, one.tumor_share) for one in calibration.bins]
    return [(mean, share) for mean, share in found if mean is not None and share is not None]


def _volume_chart(cases: Sequence[CaseDetection], limits: Limits) -> Markup | None:
    """Return Bland and Altman's picture; None without a case of known volumes."""
    points = [(float(mean), float(difference)) for mean, difference in means_and_differences(cases)]
    if not points:
        return None
    levels = [level for level in (limits.lower, limits.upper) if level is not None]
    x_axis = round_axis("mean of both volumes (cm³)", [x for x, _ in points])
    y_axis = round_axis("prediction - reference (cm³)", [*(y for _, y in points), *levels])
    names = ("95 % limits of agreement", "")
    bias = limits.bias or 0.0
    told = f"bias {number(bias)} cm³, limits {number(limits.lower)} and {number(limits.upper)}"
    return plane_chart(
        "volumes",
        "Difference of volumes by their mean (Bland and Altman)",
        f"{plural(len(points), 'case')}; {told}.",
        x_axis,
        y_axis,
        [
            Curve("a case", points, 0, "marks"),
            Curve("mean difference (bias)", [(x_axis.low, bias), (x_axis.high, bias)], 4),
            *(
                Curve(name, [(x_axis.low, level), (x_axis.high, level)], 1)
                for name, level in zip(names, levels, strict=False)
            ),
        ],
    )


def _review_row(case: CaseDetection) -> dict[str, Any]:
    return {**vars(case), "confidence": MEASURES["confidence"](case)}
