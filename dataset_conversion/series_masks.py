"""Which masks belong to which DICOM series: files by name, segmentations and structure sets by the UIDs in them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rectal_nnformer.dataset_conversion.images import list_images, stem
from rectal_nnformer.dataset_conversion.masks import MaskFile, MaskSource, check_values, choose_structures
from rectal_nnformer.dataset_conversion.target import Target
from rectal_nnformer.dicom.outlines import Outlines
from rectal_nnformer.dicom.series import Findings, find_outlines, series_of
from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.utils.text import some


@dataclass
class SeriesMasks:
    """The masks of the series of a conversion.

    Attributes:
        sources: The mask of each SeriesInstanceUID.
        unmatched: Masks that belong to no series, by the reason.
        problems: What is wrong, by case or file name.
    """

    sources: dict[str, MaskSource] = field(default_factory=dict)
    unmatched: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def match_masks(
    findings: Findings, names: Mapping[str, str], folder: Path, masks: Path | None, target: Target
) -> SeriesMasks:
    """Look for the mask of every series that was found in `folder`.

    Args:
        findings: What the folder holds, segmentations and structure sets included.
        names: The case name of each SeriesInstanceUID.
        folder: The folder of the series.
        masks: A folder with image files directly in it, and with segmentations and structure sets at any depth.
        target: What stands for each label; see `masks`.

    Raises:
        RectalError: A folder cannot be read, or labels are chosen by name where a mask is an image file.
    """
    result, labels, tumor = SeriesMasks(), target.labels, tumor_labels(target.content)
    apart = masks is not None and folder.resolve() not in (masks.resolve(), *masks.resolve().parents)
    hidden: list[Path] = []
    given = find_outlines(masks, hidden) if masks is not None and apart else []
    if deeper := [str(path) for path in hidden if path.parent != masks]:  # the others are told with the mask files
        print(f"Left aside, hidden: {some(deeper)}")
    objects = _by_series([*findings.outlines, *given], findings, names, result)
    _tell_unused(findings.outlines, given, objects, findings, result)
    files = [] if masks is None else list_images(masks, [o.path for o in (*given, *findings.outlines)])
    if files and labels:
        check_values(labels)
    by_name = _match_files(files, findings, names, result)
    for series in findings.series:
        name, file, outlines = names[series.uid], by_name.get(series.uid), objects.get(series.uid, [])
        try:
            if file and outlines:
                result.problems[name].append(f"{file.name} and {outlines[0].path} are masks of the same series")
            elif file:
                result.sources[series.uid] = MaskFile(file, labels)
            elif outlines:
                result.sources[series.uid] = choose_structures(series, outlines, labels, tumor)
            else:
                result.problems[name].append(
                    f"no mask {name}.nii.gz or {series.uid}.nii.gz for the series in {series.folder}, and no DICOM-SEG "
                    "or RTSTRUCT that refers to it; add it, or choose series with --description"
                )
        except RectalError as error:
            result.problems[name].append(str(error))
    return result


def _by_series(
    objects: Sequence[Outlines], findings: Findings, names: Mapping[str, str], result: SeriesMasks
) -> dict[str, list[Outlines]]:
    """Return the objects that lie on each series; those that lie on several become problems."""
    found: defaultdict[str, list[Outlines]] = defaultdict(list)
    for outlines in objects:
        series = series_of(outlines, findings.series)
        if outlines.problem:
            result.problems[str(outlines.path)].append(outlines.problem)
        elif len(series) > 1:
            result.problems[str(outlines.path)].append(
                f"lies on {len(series)} series by its UIDs: {', '.join(names[s.uid] for s in series)}; "
                "choose one with --description or --planes"
            )
        elif series:
            found[series[0].uid].append(outlines)
    return found


def _tell_unused(
    lying: Sequence[Outlines],
    given: Sequence[Outlines],
    used: Mapping[str, Sequence[Outlines]],
    findings: Findings,
    result: SeriesMasks,
) -> None:
    """Say which objects belong to no series: those among the masks cannot be meant so, those among the scans can."""
    known = {o.path for objects in used.values() for o in objects} | {Path(path) for path in result.problems}
    for outlines in (*lying, *given):
        if outlines.path in known or outlines.series_uids & findings.broken.keys():
            continue
        why = f"{outlines.kind} {_why_unused(outlines, findings)}"
        if outlines in given:
            result.unmatched[f"no series for this mask: {why}"].append(outlines.path.name)
        else:
            print(f"Ignored: {outlines.path}: {why}")


def _why_unused(outlines: Outlines, findings: Findings) -> str:
    ignored = [findings.ignored[uid][1] for uid in outlines.series_uids if uid in findings.ignored]
    if ignored:
        return f"of a series that was ignored: {ignored[0]}"
    return f"of a series that is not there ({some(sorted(outlines.series_uids)) or 'it names none'})"


def _match_files(
    files: Sequence[Path], findings: Findings, names: Mapping[str, str], result: SeriesMasks
) -> dict[str, Path]:
    """Return the mask file of each SeriesInstanceUID, by series folder, case or UID in its name."""
    uids: defaultdict[str, set[str]] = defaultdict(set)
    for s in findings.series:
        for key in (s.uid, names[s.uid], s.folder.resolve().name):
            uids[key].add(s.uid)
    masks: dict[str, Path] = {}
    for path in files:
        key = stem(path)
        found = sorted(uids.get(key, ()), key=lambda uid: names[uid])
        if len(found) > 1:
            choices = ", ".join(names[uid] for uid in found)
            result.problems[path.name].append(
                f"mask fits several series; name it by one of the cases {choices}, or by UID"
            )
        elif found and found[0] in masks:
            result.problems[names[found[0]]].append(
                f"{masks[found[0]].name} and {path.name} are masks of the same series"
            )
        elif found:
            masks[found[0]] = path
        elif ignored := _named(key, findings.ignored):
            result.unmatched[f"no series for this mask: its series was ignored: {ignored}"].append(path.name)
        elif not _named(key, findings.broken):
            result.unmatched["no series for this mask: no series folder or SeriesInstanceUID of this name"].append(
                path.name
            )
    return masks


def _named(key: str, series: Mapping[str, tuple[Path, str]]) -> str:
    """Return what is said about the series of this UID or folder name; empty if there is none."""
    return next((why for uid, (folder, why) in series.items() if key in (uid, folder.resolve().name)), "")
