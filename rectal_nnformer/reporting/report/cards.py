"""The gallery: a card for each missed and detected tumour and each false positive, slice by slice."""

from collections.abc import Sequence

from rectal_nnformer.evaluation.detection import Lesion
from rectal_nnformer.reporting.report.gallery import KINDS, Clip, Kind, Picture
from rectal_nnformer.reporting.report.markup import Content, Markup, tag
from rectal_nnformer.reporting.report.tables import section
from rectal_nnformer.utils.text import number, numbered, plural

OPEN_AT_MOST = 30
SCALE_MM = 20
HEADINGS: dict[Kind, str] = {
    "missed": "Missed tumours",
    "detected": "Detected tumours",
    "false positive": "False positives",
}
NOTHING: dict[Kind, str] = {
    "missed": "No tumour was missed.",
    "detected": "No tumour was detected.",
    "false positive": "There are no false positives.",
}
HOW_TO_READ = (
    "Each card goes through the slices of one tumour, from the feet up, beginning where it is largest: move the slider "
    "or swipe. Patient right (R) is on the left of the picture, anterior (A) is up. "
    "Thinner, paler lines are other tumour in the same slice."
)


def gallery(clips: Sequence[Clip]) -> Markup:
    """Return the gallery, missed tumours first."""
    groups = [_group(kind, [(i, clip) for i, clip in enumerate(clips) if clip.subject.kind == kind]) for kind in KINDS]
    return section(
        "pictures", "Pictures", tag("p", HOW_TO_READ, class_="note"), *_missing_note(clips), _toolbar(), *groups
    )


def card_ids(clips: Sequence[Clip]) -> dict[str, str]:
    """Return the id of the first card of each case."""
    ids: dict[str, str] = {}
    for index, clip in enumerate(clips):
        ids.setdefault(clip.subject.case, _card_id(index))
    return ids


def _card_id(index: int) -> str:
    return f"card-{index + 1}"


def _missing_note(clips: Sequence[Clip]) -> list[Markup]:
    without = sum(not clip.pictures for clip in clips)
    if not without:
        return []
    return [
        tag(
            "p",
            f"{without} of {plural(len(clips), 'card')} have no picture; each says why. Images are looked for in "
            "nnUNet_raw, references in nnUNet_preprocessed: set these variables and write the report again.",
            class_="caution",
        )
    ]


def _toolbar() -> Markup:
    """Return the switches of the outlines, which work by style sheet alone, and a filter that a script shows."""
    switches = [
        tag(
            "label",
            tag("input", type="checkbox", id=f"show-{name}", checked=True, autocomplete="off"),
            _sample(name),
            words,
            class_="switch",
        )
        for name, words in (("reference", "reference, solid"), ("prediction", "prediction, dashed"))
    ]
    search = tag(
        "label", "Case name contains ", tag("input", type="search", id="card-text", autocomplete="off"), hidden=True
    )
    return tag("form", *switches, search, class_="controls toolbar", aria_label="Outlines shown")


def _sample(name: str) -> Markup:
    line = tag("line", x1=1, x2=27, y1=6, y2=6, class_=name)
    return tag("svg", line, viewBox="0 0 28 12", class_="sample", aria_hidden="true")


def _group(kind: Kind, clips: Sequence[tuple[int, Clip]]) -> Markup:
    heading = tag("h3", f"{HEADINGS[kind]} ({len(clips)})")
    if not clips:
        return tag("div", heading, tag("p", NOTHING[kind], class_="note"), class_="group")
    cards = tag("ul", *(_card(index, clip) for index, clip in clips), class_="cards")
    is_open = kind == "missed" or len(clips) <= OPEN_AT_MOST
    return tag("details", tag("summary", heading), cards, class_="group", open=is_open)


def _card(index: int, clip: Clip) -> Markup:
    subject = clip.subject
    name = subject.kind.replace(" ", "-")
    title = tag(
        "h4", tag("bdi", subject.case, class_="case-name"), " ", tag("span", subject.kind, class_=f"tag {name}")
    )
    viewer: Content = _viewer(clip) if clip.pictures else tag("p", f"No picture: {clip.problem}.", class_="no-picture")
    return tag(
        "li",
        title,
        viewer,
        tag("p", _facts(clip), class_="facts-line"),
        class_="card",
        id=_card_id(index),
        data_name=subject.case,
    )


def _facts(clip: Clip) -> str:
    component, fold = clip.subject.component, clip.subject.fold
    size = f"{number(component.volume_cm3)} cm³, fold {fold}"
    apart = f", slices {clip.slice_mm:.3g} mm apart" if clip.pictures else ""
    if not isinstance(component, Lesion):
        return f"False positive {component.label}: {size}{apart}"
    together = f" together with {numbered('tumour', clip.subject.together)}" if clip.subject.together else ""
    facts = f"Tumour {component.label}: {size},{together} IoU {number(component.iou)}"
    if component.detected:
        facts = f"{facts}, Dice {number(component.dice)}, HD95 {number(component.hd95_mm, 1)} mm"
    return f"{facts}{apart}"


def _viewer(clip: Clip) -> Markup:
    """Return the slices side by side in a strip that shows one at a time."""
    subject = clip.subject
    what = "false positive" if subject.kind == "false positive" else "tumour"
    slices = [_slice(clip, picture) for picture in clip.pictures]
    strip = tag(
        "ol",
        *slices,
        class_="strip",
        tabindex=0,
        role="group",
        aria_label=f"{plural(len(slices), 'slice')} of {subject.case}, {what} {subject.component.label}",
    )
    sides = [tag("span", letter, class_=f"side side-{letter}", aria_hidden="true") for letter in "RLA"]
    return tag("div", strip, *sides, *_scale(clip), class_="viewer")


def _scale(clip: Clip) -> list[Markup]:
    """Return a bar that is as long as `SCALE_MM` of the picture, and its length in words."""
    bar = tag("path", d=f"M0 0h{100 * SCALE_MM / clip.width_mm:.1f}")
    return [
        tag("svg", bar, viewBox="0 -1 100 2", preserveAspectRatio="none", class_="scale-bar", aria_hidden="true"),
        tag("span", f"{SCALE_MM} mm", class_="scale", aria_hidden="true"),
    ]


def _slice(clip: Clip, picture: Picture) -> Markup:
    width, height = clip.pixels
    image = tag(
        "img", src=picture.data_uri, width=width, height=height, alt=_alternative(clip, picture), loading="lazy"
    )
    rows, columns = clip.shape
    outlines = tag(
        "svg",
        *(tag("path", d=path, class_=name) for name, path in picture.outlines.items()),
        viewBox=f"0 0 {columns} {rows}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    place = tag("span", f"{picture.number} / {clip.num_slices}", class_="place", aria_hidden="true")
    return tag("li", image, outlines, place, class_="slice", data_largest=picture.number == clip.largest)


def _alternative(clip: Clip, picture: Picture) -> str:
    drawn = [name for name in ("reference", "prediction") if any(key.split()[0] == name for key in picture.outlines)]
    outlined = " and ".join(drawn) + " outlined" if drawn else "nothing outlined"
    return f"Slice {picture.number} of {clip.num_slices}: {outlined}"
