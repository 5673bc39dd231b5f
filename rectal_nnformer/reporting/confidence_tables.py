"""Tables and charts of how sure a model is: FROC, operating point, calibration, review, volumes."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from rectal_nnformer.evaluation.agreement import Limits, VolumeAgreement
from rectal_nnformer.evaluation.calibration import Calibration, NestedCalibration, RegionCalibration
from rectal_nnformer.evaluation.case_detection import CaseDetection
from rectal_nnformer.evaluation.froc import FALSE_POSITIVE_RATES, Curves, Froc
from rectal_nnformer.evaluation.operating_point import Choice, NestedPoint, PointRates
from rectal_nnformer.evaluation.rates import Interval, Rate
from rectal_nnformer.evaluation.resampling import Estimate
from rectal_nnformer.evaluation.review import LOW_DICE, MEASURES, MeasureReview
from rectal_nnformer.reporting.charts import Axis, Drawing, plane_chart
from rectal_nnformer.reporting.tables import Table, counts
from rectal_nnformer.utils.text import number, percent, percent_interval

FRACTIONS = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}
MEASURE_WORDS = {
    "confidence": "confidence of the surest lesion",
    "mean_confidence": "mean confidence of the lesions",
    "entropy": "entropy",
    "disagreement": "disagreement of the folds",
}
REGION_WORDS = {"all_voxels": "all voxels", "near_tumor": "near the tumour"}
LOWEST_FP = 1 / 16
"""Where the logarithmic axis begins; fewer false positives, and none, stand there."""
SHARES = Axis("", 0.0, 1.0, {share / 4: f"{25 * share} %" for share in range(5)})


def sensitivity_table(froc: Mapping[str, Froc]) -> Table:
    """Return the sensitivities at false positives per case, and average precision, of curves by name."""
    sensitivities = [[_estimated_share(one.sensitivity) for one in curve.sensitivities] for curve in froc.values()]
    return Table(
        ("sensitivity at false positives per case", *froc),
        [
            *((_per_case(rate), *found) for rate, *found in zip(FALSE_POSITIVE_RATES, *sensitivities, strict=True)),
            ("average precision", *(_estimated(curve.average_precision) for curve in froc.values())),
        ],
        "Sensitivity by false positives per case, with 95 % intervals by patient",
    )


def point_table(point: NestedPoint) -> Table:
    """Return what the masks as they are give, and what nested operating points give."""
    rows = {"masks as they are": point.mask, f"at the operating point ({point.wish}), nested": point.nested}
    header = ("sensitivity", "precision", "F1", "false positives per case", "their volume per case (cm³)")
    return Table(
        ("", *header),
        [(name, *_point_cells(rates)) for name, rates in rows.items() if rates is not None],
        "Rates of the masks, and at operating points that were chosen on the other folds",
    )


def _point_cells(rates: PointRates) -> tuple[str, ...]:
    return (
        _rate(rates.sensitivity),
        _rate(rates.precision),
        _estimated(rates.f1),
        _estimated(rates.false_positives_per_case),
        _estimated(rates.false_positive_cm3_per_case),
    )


def choice_table(point: NestedPoint) -> Table:
    """Return the operating point of each fold, chosen on the others, and of all."""
    choices: dict[str, Choice | None] = {f"without fold {fold}": one for fold, one in (point.folds or {}).items()}
    return Table(
        (
            "chosen on the cases",
            "smallest confidence",
            "smallest volume (cm³)",
            "detected there",
            "false there",
            "note",
        ),
        [
            (
                name,
                number(one.point.min_confidence, 3),
                number(one.point.min_volume_cm3),
                f"{one.n_detected}/{one.n_reference}",
                str(one.n_false_positive),
                one.note,
            )
            for name, one in {**choices, "of all folds": point.chosen}.items()
            if one is not None
        ],
        f"Operating points for {point.wish}",
    )


def calibration_table(nested: NestedCalibration) -> Table:
    """Return how far probabilities are from what is, before and after temperatures of the other folds."""
    states = {"": nested.before, ", after temperature": nested.after}
    return Table(
        ("voxels", "expected calibration error", "Brier score", "log loss", "share of tumour"),
        [
            (
                f"{words}{state}",
                number(one.ece, 4),
                number(one.brier, 4),
                number(one.log_loss, 4),
                percent(one.n_tumor / one.n_voxels if one.n_voxels else None),
            )
            for state, regions in states.items()
            if regions is not None
            for words, one in _regions(regions)
        ],
        "Calibration of the tumour probability",
    )


def _regions(regions: RegionCalibration) -> list[tuple[str, Calibration]]:
    return [(words, getattr(regions, name)) for name, words in REGION_WORDS.items()]


def reliability_table(calibration: Calibration) -> Table:
    """Return the bins of a reliability diagram."""
    return Table(
        ("probability", "mean", "share that is tumour", "voxels"),
        [
            (
                f"{one.low:.2f}-{one.high:.2f}",
                number(one.mean_probability, 3),
                number(one.tumor_share, 3),
                str(one.n_voxels),
            )
            for one in calibration.bins
        ],
        "Reliability near the tumour",
    )


def review_table(measures: Sequence[MeasureReview]) -> Table:
    """Return whether measures of a case tell where the network failed."""
    shares = [f"failures among the least sure {one.share:.0%}" for one in measures[0].flagged] if measures else []
    return Table(
        ("measure", "Spearman with Dice", f"AUROC, Dice ≤ {LOW_DICE}", "AUROC, missed tumour", *shares),
        [
            (
                MEASURE_WORDS[one.measure],
                _estimated(one.spearman_dice),
                _estimated(one.auroc_low_dice),
                _estimated(one.auroc_missed),
                *(_estimated_share(flagged.failures_found) for flagged in one.flagged),
            )
            for one in measures
        ],
        "Does being unsure tell failures? 95 % intervals by patient",
    )


def order_table(cases: Sequence[CaseDetection], most: int | None = None) -> Table:
    """Return the cases in the order in which to look at them, at most so many."""
    known = [case for case in cases if MEASURES["confidence"](case) is not None][:most]
    return Table(
        ("case", "confidence", "entropy", "tumours missed", "false positives", "Dice"),
        [
            (
                case.case,
                number(MEASURES["confidence"](case)),
                number(case.entropy),
                f"{case.n_missed} of {case.n_reference}",
                str(case.n_false_positive),
                number(case.dice),
            )
            for case in known
        ],
        "Cases, those of which the network is least sure first",
    )


def volume_table(volumes: VolumeAgreement) -> Table:
    """Return how well predicted volumes agree with those of the reference."""
    rows = {"predicted - reference (cm³)": volumes.difference_cm3, "predicted / reference": volumes.ratio}
    return Table(
        ("volume of all tumour of a case", "cases", "mean", "lower limit", "upper limit"),
        [
            *((name, str(limits.n_cases), *_limit_cells(limits)) for name, limits in rows.items()),
            ("ICC(A,1)", str(volumes.n_cases), _with_interval(volumes.icc, volumes.icc_95), "", ""),
        ],
        "Agreement of volumes: Bland-Altman limits and intraclass correlation, with 95 % intervals",
    )


def _limit_cells(limits: Limits) -> tuple[str, ...]:
    values = ((limits.bias, limits.bias_95), (limits.lower, limits.lower_95), (limits.upper, limits.upper_95))
    return tuple(_with_interval(value, interval) for value, interval in values)


def froc_chart(ident: str, curves: Mapping[str, Curves]) -> Markup:
    """Return sensitivity against false positives per case, by model; a single one with its band and its mask."""
    drawings = []
    for style, (name, one) in enumerate(curves.items()):
        points = [(p.false_positives_per_case, p.sensitivity) for p in one.points if p.sensitivity is not None]
        line = [(max(x, LOWEST_FP), y) for x, y in points]
        if one.merged and len(curves) == 1:
            band = [(r.false_positives_per_case, r.sensitivity.patient_bootstrap_95) for r in one.merged.band]
            edges = [(x, interval) for x, interval in band if interval]
            outline = [(x, low) for x, (low, _) in edges] + [(x, high) for x, (_, high) in reversed(edges)]
            drawings.append(Drawing("95 % by patient" if outline else "", outline, "band", style))
        drawings.append(Drawing(name, line, "line", style % 5))
        if one.mask and one.mask.sensitivity is not None:
            at = max(one.mask.false_positives_per_case, LOWEST_FP), one.mask.sensitivity
            drawings.append(Drawing(f"{name}: masks as they are", [at], "marks", style % 5))
    described = "; ".join(f"{name}: {_curve_words(one)}" for name, one in curves.items())
    ticks = {2.0**power: _per_case(2.0**power) for power in range(-3, 4)}
    x = Axis("false positives per case", LOWEST_FP, 16.0, ticks, log=True)
    return plane_chart(ident, "Sensitivity by false positives per case", described, drawings, x, SHARES)


def _curve_words(curves: Curves) -> str:
    if curves.merged is None:
        return curves.reason
    return ", ".join(
        f"{percent(one.sensitivity.value)} at {_per_case(one.false_positives_per_case)}"
        for one in curves.merged.sensitivities
    )


def _per_case(rate: float) -> str:
    return FRACTIONS.get(rate, f"{rate:g}")


def reliability_chart(ident: str, nested: NestedCalibration | None) -> Markup | None:
    """Return the share of tumour against the probability near the tumour, before and after temperatures."""
    if nested is None:
        return None
    drawings = [Drawing("perfect", [(0.0, 0.0), (1.0, 1.0)], "line", 2)]
    for style, (name, regions) in enumerate({"as it is": nested.before, "after temperature": nested.after}.items()):
        if regions is not None:
            points = [
                (one.mean_probability, one.tumor_share)
                for one in regions.near_tumor.bins
                if one.mean_probability is not None and one.tumor_share is not None
            ]
            drawings += [Drawing("", points, "line", style), Drawing(name, points, "marks", style)]
    described = "; ".join(
        f"expected calibration error {words}: {number(one.ece, 3)}" for words, one in _regions(nested.before)
    )
    x = Axis("tumour probability", 0.0, 1.0, {share / 4: f"{share / 4:g}" for share in range(5)})
    return plane_chart(ident, "Share of tumour by probability, near the tumour", described, drawings, x, SHARES)


def volume_chart(ident: str, cases: Sequence[CaseDetection], volumes: VolumeAgreement) -> Markup | None:
    """Return the difference of volumes against their mean, a mark per case, bias and limits; None without cases."""
    if not volumes.n_cases:
        return None
    points = [
        ((case.predicted_cm3 + case.reference_cm3) / 2, case.predicted_cm3 - case.reference_cm3)
        for case in cases
        if case.predicted_cm3 is not None and case.reference_cm3 is not None
    ]
    limits = volumes.difference_cm3
    widest = max([abs(y) for _, y in points] + [abs(v) for v in (limits.lower, limits.upper) if v is not None] + [0.1])
    largest = max([x for x, _ in points] + [0.1])
    drawings = [Drawing("case", points, "marks", 0)]
    for name, value, style in (("mean", limits.bias, 0), ("95 % limits", limits.lower, 1), ("", limits.upper, 1)):
        if value is not None:
            drawings.append(Drawing(name, [(0.0, value), (largest, value)], "line", style))
    described = (
        f"Mean difference {number(limits.bias)} cm³, limits {number(limits.lower)} to {number(limits.upper)} cm³"
    )
    x = Axis("mean of both volumes, cm³", 0.0, largest, {largest * i / 4: f"{largest * i / 4:.3g}" for i in range(5)})
    y = Axis("", -widest, widest, {widest * i / 2: f"{widest * i / 2:.2g}" for i in range(-2, 3)})
    return plane_chart(ident, "Predicted minus reference volume, cm³", described, drawings, x, y)


def _rate(rate: Rate) -> str:
    words = f"{counts(rate, '-')} {percent(rate.rate)}" if rate.total else "-"
    return f"{words} ({percent_interval(rate.wilson_95)})" if rate.wilson_95 else words


def _with_interval(value: float | None, interval: Interval | None, digits: int = 2) -> str:
    told = number(value, digits)
    return told + (f" ({number(interval[0], digits)} to {number(interval[1], digits)})" if interval else "")


def _estimated(estimate: Estimate) -> str:
    return _with_interval(estimate.value, estimate.patient_bootstrap_95)


def _estimated_share(estimate: Estimate) -> str:
    interval = estimate.patient_bootstrap_95
    return percent(estimate.value) + (f" ({percent_interval(interval)})" if interval else "")
