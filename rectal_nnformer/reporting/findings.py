"""What was found in scans without a reference: as a page, as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rectal_nnformer import __version__
from rectal_nnformer.evaluation.findings import Finding
from rectal_nnformer.evaluation.wish import NO_POINT
from rectal_nnformer.imaging.masks import MIN_VOXELS
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.reporting.gallery import Clip
from rectal_nnformer.reporting.pages import html_page

NOTICE = (
    "For research only, not a medical device: a program found this, nobody has checked it, and no patient may be "
    "treated by it."
)
OUTCOMES = FOUND, NOTHING_FOUND, NOT_PREDICTED = "found", "nothing found", "not predicted"
LESION, ADDED, REMOVED, BELOW = "lesion", "added lesion", "removed", "below the threshold"
SHOWN_FROM = 0.1
"""Fainter candidates are in the tables alone, not on the page."""
NUMBERS = {
    "lesion": "lesion",
    "confidence": "confidence",
    "volume_cm3": "volume, cm³",
    "diameter_mm": "largest diameter, mm",
    "first_slice": "first slice",
    "last_slice": "last slice",
    "left_mm": "left, mm",
    "back_mm": "back, mm",
    "head_mm": "head, mm",
}
"""Columns of numbers in the CSV file, with their headers in the page."""
HEADERS = {"scan": "scan", **NUMBERS, "note": "note"}
CSV_COLUMNS = ("scan", "outcome", "kind", *NUMBERS, "note")
OTHER_HEADERS = {"scan": "scan", "kind": "kind", **{name: NUMBERS[name] for name in list(NUMBERS)[1:]}}
TERMS = (
    ("lesion", f"A 26-connected component of at least {MIN_VOXELS} voxels of what was predicted as tumour."),
    ("largest diameter", "The largest distance between the centres of two voxels of the lesion, in any direction."),
    (
        "confidence",
        "How sure the network is: the mean tumour probability of the voxels, from 0 to 1. It is not how probable it is "
        "that the lesion is a tumour.",
    ),
    (
        "removed, below the threshold",
        "Places that are no lesions: taken away by the operating point of the model, or seen by the network with a "
        "probability too low for the mask.",
    ),
    (
        "entropy",
        "How undecided the network is about the voxels where it sees tumour at all: 0 is certain, 1 a toss-up.",
    ),
    (
        "disagreement of the folds",
        "1 minus the mean Dice of the masks of two folds of the model: 0 if all are the same.",
    ),
    (
        "slices",
        "As viewers number them: by InstanceNumber or frame in DICOM, else from 1, along the axis across the slices.",
    ),
    (
        "left, back, head",
        "Mean position of the lesion's voxels in the scanner's coordinates, as DICOM has them: mm to the patient's "
        "left, to the back and to the head of an origin that only this scan and those beside it share.",
    ),
)


@dataclass(frozen=True)
class ScanFindings:
    """What was found in one scan.

    Attributes:
        problem: Why it was not predicted; empty if it was.
        unwritten: Why a DICOM object of it was not written; empty if all were.
        note: What else to know of it.
        files: Names of what was written of it.
        clips: A clip for each lesion.
        others: Candidates that are no lesions, the surest first.
        entropy: As in `CaseCandidates`, and so is the following.
    """

    scan: str
    lesions: Sequence[Finding] = ()
    problem: str = ""
    unwritten: str = ""
    note: str = ""
    files: Sequence[str] = ()
    clips: Sequence[Clip] = ()
    others: Sequence[Finding] = ()
    entropy: float | None = None
    disagreement: float | None = None

    @property
    def confidence(self) -> float | None:
        """How sure the network is of its surest lesion, or of its surest candidate where it found no lesion."""
        known = [finding.confidence for finding in self.lesions or self.others if finding.confidence is not None]
        return max(known, default=None)

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        return NOT_PREDICTED if self.problem else FOUND if self.lesions else NOTHING_FOUND


@dataclass(frozen=True)
class PredictingModel:
    """The model that predicted: its folds and their checkpoint, a digest of these files, and what counts as lesion."""

    folder: ModelFolder
    folds: Sequence[str]
    checkpoint: str
    digest: str
    operating_point: str = ""

    def described(self) -> dict[str, str]:
        """Return all that tells it from others, for people."""
        return {
            "dataset": self.folder.dataset,
            "trainer": self.folder.trainer,
            "plans": self.folder.plans,
            "configuration": self.folder.configuration,
            "folds": ", ".join(self.folds),
            "checkpoint": self.checkpoint,
            "model_digest": self.digest,
            "operating_point": self.operating_point or f"{NO_POINT}: lesions are those of the network's mask",
            "version": __version__,
        }


def findings_rows(scans: Sequence[ScanFindings]) -> list[dict[str, Any]]:
    """Return a row per lesion, and one per scan without any, by `CSV_COLUMNS`; what is missing is empty."""
    rows = []
    for scan in scans:
        told: dict[str, Any] = {"scan": scan.scan, "outcome": scan.outcome, "kind": "", **dict.fromkeys(NUMBERS, "")}
        told["note"] = "; ".join(filter(None, (scan.problem, scan.unwritten, scan.note)))
        rows += [
            {**told, "kind": ADDED if lesion.added else LESION, **_numbers(lesion)} for lesion in scan.lesions
        ] or [told]
    return rows


def other_rows(scans: Sequence[ScanFindings]) -> list[dict[str, Any]]:
    """Return a row per candidate that is no lesion, by `CSV_COLUMNS`."""
    return [
        {
            "scan": scan.scan,
            "outcome": scan.outcome,
            "kind": REMOVED if other.removed else BELOW,
            **_numbers(other),
            "lesion": "",
            "note": "",
        }
        for scan in scans
        for other in scan.others
    ]


def review_rows(scans: Sequence[ScanFindings]) -> list[ScanFindings]:
    """Return the scans of which something is known, in the order in which to look at them: the least sure first."""
    known = [scan for scan in scans if (not scan.problem and scan.entropy is not None) or scan.confidence is not None]
    return sorted(known, key=lambda scan: (bool(scan.lesions), scan.confidence or 0.0))


def _numbers(lesion: Finding) -> dict[str, float | str]:
    first, last = lesion.slices
    left, back, head = (round(value, 2) for value in lesion.position_mm)
    confidence = "" if lesion.confidence is None else round(lesion.confidence, 4)
    volume, diameter = round(lesion.volume_cm3, 4), round(lesion.diameter_mm, 2)
    values = (lesion.label, confidence, volume, diameter, first, last, left, back, head)
    return dict(zip(NUMBERS, values, strict=True))


def findings_json(scans: Sequence[ScanFindings], model: PredictingModel, date: str) -> dict[str, Any]:
    """Return what `findings.json` holds."""
    return {
        "notice": NOTICE,
        "date": date,
        "model": model.described(),
        "scans": [
            {
                "scan": scan.scan,
                "outcome": scan.outcome,
                "lesions": [asdict(lesion) for lesion in scan.lesions],
                "others": [asdict(other) for other in scan.others],
                "entropy": scan.entropy,
                "disagreement": scan.disagreement,
                "problem": scan.problem,
                "unwritten": scan.unwritten,
                "note": scan.note,
                "files": list(scan.files),
            }
            for scan in scans
        ],
    }


def findings_page(scans: Sequence[ScanFindings], clips: Sequence[Clip], model: PredictingModel, date: str) -> str:
    """Return what was found as HTML, with the clips of all scans, and the date as given."""
    cards = [(f"card-{place}", clip) for place, clip in enumerate(clips, start=1)]
    outcomes = [scan.outcome for scan in scans]
    return html_page(
        "findings.html",
        model.folder.titles,
        date,
        scans=scans,
        rows=findings_rows(scans),
        others=[row for row in other_rows(scans) if row["kind"] == REMOVED or float(row["confidence"]) >= SHOWN_FROM],
        review=review_rows(scans),
        num_lesions=sum(len(scan.lesions) for scan in scans),
        counts={outcome: outcomes.count(outcome) for outcome in OUTCOMES},
        cards=cards,
        card_of=_cards_by_lesion(cards),
        about=[(name.replace("_", " "), value) for name, value in model.described().items()],
        HEADERS=HEADERS,
        OTHER_HEADERS=OTHER_HEADERS,
        NOTICE=NOTICE,
        SHOWN_FROM=SHOWN_FROM,
        TERMS=TERMS,
    )


def _cards_by_lesion(cards: Sequence[tuple[str, Clip]]) -> Mapping[tuple[str, int], str]:
    return {(clip.subject.case, clip.subject.component.label): ident for ident, clip in cards}
