"""What was found in scans without a reference: as a page, as a table, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rectal_nnformer import __version__
from rectal_nnformer.evaluation.findings import Finding
from rectal_nnformer.imaging.masks import MIN_VOXELS
from rectal_nnformer.nnunet.layout import ModelFolder
from rectal_nnformer.reporting.gallery import Clip
from rectal_nnformer.reporting.pages import html_page

NOTICE = (
    "For research only, not a medical device: a program found this, nobody has checked it, and no patient may be "
    "treated by it."
)
OUTCOMES = FOUND, NOTHING_FOUND, NOT_PREDICTED = "found", "nothing found", "not predicted"
NUMBERS = {
    "lesion": "lesion",
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
CSV_COLUMNS = ("scan", "outcome", *NUMBERS, "note")
TERMS = (
    ("lesion", f"A 26-connected component of at least {MIN_VOXELS} voxels of what was predicted as tumour."),
    ("largest diameter", "The largest distance between the centres of two voxels of the lesion, in any direction."),
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
    """

    scan: str
    lesions: Sequence[Finding] = ()
    problem: str = ""
    unwritten: str = ""
    note: str = ""
    files: Sequence[str] = ()
    clips: Sequence[Clip] = ()

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        return NOT_PREDICTED if self.problem else FOUND if self.lesions else NOTHING_FOUND


@dataclass(frozen=True)
class PredictingModel:
    """The model that predicted: its folds and their checkpoint, and a digest of these files."""

    folder: ModelFolder
    folds: Sequence[str]
    checkpoint: str
    digest: str

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
            "version": __version__,
        }


def findings_rows(scans: Sequence[ScanFindings]) -> list[dict[str, Any]]:
    """Return a row per lesion, and one per scan without any, by `CSV_COLUMNS`; what is missing is empty."""
    rows = []
    for scan in scans:
        told: dict[str, Any] = {"scan": scan.scan, "outcome": scan.outcome, **dict.fromkeys(NUMBERS, "")}
        told["note"] = "; ".join(filter(None, (scan.problem, scan.unwritten, scan.note)))
        rows += [{**told, **_numbers(lesion)} for lesion in scan.lesions] or [told]
    return rows


def _numbers(lesion: Finding) -> dict[str, float]:
    first, last = lesion.slices
    left, back, head = (round(value, 2) for value in lesion.position_mm)
    volume, diameter = round(lesion.volume_cm3, 4), round(lesion.diameter_mm, 2)
    return dict(zip(NUMBERS, (lesion.label, volume, diameter, first, last, left, back, head), strict=True))


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
        model.folder,
        date,
        scans=scans,
        rows=findings_rows(scans),
        num_lesions=sum(len(scan.lesions) for scan in scans),
        counts={outcome: outcomes.count(outcome) for outcome in OUTCOMES},
        cards=cards,
        card_of=_cards_by_lesion(cards),
        about=[(name.replace("_", " "), value) for name, value in model.described().items()],
        HEADERS=HEADERS,
        NOTICE=NOTICE,
        TERMS=TERMS,
    )


def _cards_by_lesion(cards: Sequence[tuple[str, Clip]]) -> Mapping[tuple[str, int], str]:
    return {(clip.subject.case, clip.subject.component.label): ident for ident, clip in cards}
