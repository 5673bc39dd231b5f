"""Prediction with what goes in and what comes out checked: nnU-Net itself trusts both."""

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.dataset_conversion.channels import check_channels
from rectal_nnformer.dataset_conversion.images import stem
from rectal_nnformer.dicom.series import DicomSeries
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import read_candidates
from rectal_nnformer.evaluation.operating_point import Choice, read_point
from rectal_nnformer.imaging.masks import label_values, tumor_labels
from rectal_nnformer.imaging.reading import by, read_image
from rectal_nnformer.imaging.volumes import VolumeCheck
from rectal_nnformer.nnunet.dataset_json import channel_names, read_dataset_json
from rectal_nnformer.nnunet.layout import CHECKPOINT_FINAL, TRAINED_ON, ModelFolder, image_name, read_image_digests
from rectal_nnformer.nnunet.names import NIFTI
from rectal_nnformer.prediction.findings import PredictedScan, describe_scan
from rectal_nnformer.prediction.lesion_choice import choose_lesions
from rectal_nnformer.prediction.scans import Scans, find_scans, prepare_scans, processes_for
from rectal_nnformer.reporting.findings import NOTHING_FOUND, PredictingModel, ScanFindings
from rectal_nnformer.reporting.results import FINDINGS_FILE
from rectal_nnformer.reporting.writing import write_findings
from rectal_nnformer.utils.files import csv_text, read_json_if_whole, read_table, write_json, write_text
from rectal_nnformer.utils.parallel import map_with_progress
from rectal_nnformer.utils.text import plural, some


def check_mask(path: Path, size: tuple[int, ...], labels: Collection[int]) -> str:
    """Return what is wrong with a mask that was predicted for an image of some size; empty if nothing is."""
    try:
        mask = read_image(path)
    except RectalError as error:
        return str(error)
    if mask.GetSize() != size:
        return f"{path} has the size {by(mask.GetSize())}, its scan {by(size)}"
    foreign = set(np.unique(sitk.GetArrayViewFromImage(mask)).tolist()) - set(labels)
    return f"{path} is no mask: it holds values that are no labels, such as {min(foreign):g}" if foreign else ""


NNUNETS_NOTES = ("dataset.json", "plans.json", "predict_from_raw_data_args.json")
"""What nnU-Net writes beside masks."""


SOME_UNUSABLE, NOT_PREDICTED = 1, 3
"""Exit codes: some scans cannot be used, and the others are predicted; or some that can be used are not."""
SEEN_BEFORE = "the model was trained on this scan"
UNCHOSEN = "the operating point was not applied: how sure the network is of this scan is not known"
SERIES_FILE, SERIES_COLUMNS = "series.csv", ("scan", "series_uid")
"""Which DICOM series each scan is."""


@dataclass(frozen=True)
class PredictionJob:
    """What is to be predicted.

    Attributes:
        model: The model.
        scans: Folder of the scans, or a single one.
        output: Folder of what was predicted.
        arguments: Those of nnUNetv2_predict.
        continued: Whether masks that are there already are kept.
        part: Every so many-th case, from which one on: nnU-Net's -num_parts and -part_id.
        folds: Those of the model that predict together.
        checkpoint: Name of the file of each fold.
        planes: Which planes of DICOM series to take.
        description: Regular expression for the SeriesDescription of DICOM series to take.
        channels: The same for each channel of the model, by its name, in place of it.
        formats: What to write: NIfTI masks, DICOM objects. Masks are made in any case, but do not stay else.
        keep_names: Whether DICOM series are called by their folders, whose names often are patients'.
    """

    model: ModelFolder
    scans: Path
    output: Path
    arguments: Sequence[str]
    continued: bool
    part: tuple[int, int]
    folds: Sequence[str]
    checkpoint: str = CHECKPOINT_FINAL
    planes: Sequence[str] = ("axial",)
    description: str | None = None
    formats: Sequence[str] = (NIFTI,)
    keep_names: bool = False
    channels: Mapping[str, str] = field(default_factory=dict)

    def predicting_model(self, point: Choice | None) -> PredictingModel:
        """Return what predicts, with the SHA-256 of the folds' checkpoints, one after the other."""
        digest = hashlib.sha256()
        for fold in self.folds:
            with (self.model.fold(fold).path / self.checkpoint).open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        words = str(point) if point else ""
        return PredictingModel(self.model, self.folds, self.checkpoint, digest.hexdigest(), words)


def predict(job: PredictionJob) -> int:
    """Predict the scans that can be used, name the others, make sure of every mask, and return an exit code.

    What was found is written as a page, a table and JSON, and as DICOM objects where they are asked for.

    Raises:
        RectalError: No scan can be used.
    """
    dataset_json = read_dataset_json(job.model.dataset_json, "Import or train the model again.")
    ending, labels = dataset_json["file_ending"], label_values(dataset_json, str(job.model.dataset_json))
    point = read_point(job.model.path)
    names = channel_names(dataset_json)
    channels = _series_of_channels(job, names)
    scans = find_scans(job.scans, len(names), job.planes, job.description, job.keep_names, channels)
    step, first = job.part
    scans.cases = dict(list(scans.cases.items())[first::step])
    if scans.left_aside:
        print(f"Left aside{'' if scans.untold else f' in {job.scans}'}:\n{_listed(scans.left_aside)}")
    with TemporaryDirectory(prefix="rectal_nnformer_") as temporary:
        images = Path(temporary) / "images"
        images.mkdir()
        checks = prepare_scans(scans, images, ending)
        trained_on = _tell_notes(job, checks)
        if not scans.cases:
            reasons = _listed(scans.unusable or scans.left_aside)
            raise RectalError(f"None of the scans in {job.scans} can be used:\n{reasons}")
        folder = job.output if NIFTI in job.formats else Path(temporary) / "masks"
        masks = {case: folder / f"{case}{ending}" for case in scans.cases}
        _refuse_overwriting(scans, masks)
        model = job.predicting_model(point)
        if job.continued:
            _remove_of_other_model(masks, job.output, model)
            _remove_of_older_scans(masks, scans)
            _remove_damaged(masks, checks, labels)
        here = ["-i", str(images), "-o", str(folder), "-num_parts", "1", "-part_id", "0"]
        job.output.mkdir(parents=True, exist_ok=True)
        from rectal_nnformer.prediction import predictor  # imports nnU-Net

        code = predictor.predict_folder(job.model.path, [*job.arguments, *here])
        _give_up_damaged(scans, masks, checks, labels)
        unchosen = _choose_lesions(scans, masks, tumor_labels(dataset_json), point)
        _note_trained_on(folder / TRAINED_ON, masks, trained_on)
        predicted = [
            PredictedScan(
                scan=case,
                image=images / image_name(case, ending),
                mask=masks[case],
                series=next((image for image in sources if isinstance(image, DicomSeries)), None),
                objects={kind: job.output / f"{case}_{kind}.dcm" for kind in job.formats if kind != NIFTI},
                note="; ".join(filter(None, (SEEN_BEFORE if case in trained_on else "", unchosen.get(case, "")))),
            )
            for case, sources in scans.cases.items()
        ]
        findings = _describe(scans, predicted, tumor_labels(dataset_json), model)
    _tell(job, findings)
    if code and not scans.cases:
        return NOT_PREDICTED
    untold = (job.scans, job.output, temporary)
    _write(job, scans.series, [_without_folders(scan, untold) for scan in findings], model)
    if code or len(scans.cases) < len(masks):
        return NOT_PREDICTED
    return SOME_UNUSABLE if any(scan.problem or scan.unwritten for scan in findings) else 0


def _series_of_channels(job: PredictionJob, names: Sequence[str]) -> dict[str, str]:
    """Return what chooses the series of each of the model's channels, in their order; empty if nothing is told.

    Raises:
        RectalError: It is told for other channels than those of the model, or in a way that cannot be.
    """
    if not job.channels:
        return {}
    if sorted(job.channels) != sorted(names):
        raise RectalError(
            f"--channels names {', '.join(job.channels)}, and the model has the channels {', '.join(names)} by "
            f"{job.model.dataset_json}. Name these, each with the SeriesDescription of its series."
        )
    check_channels(job.channels, job.description)
    return {name: job.channels[name] for name in names}


def _tell_notes(job: PredictionJob, checks: Mapping[str, list[VolumeCheck]]) -> dict[str, str]:
    """Print what is to be known of scans before they are predicted; return those that the model was trained on."""
    for check in itertools.chain(*checks.values()):
        if check.note:
            print(f"Note: {check.note}")
    trained_on = _trained_on(job, checks)
    for case, name in trained_on.items():
        known = f" as {name}" if name != case else ""
        print(f"Note: the model was trained on {case}{known}: its result says nothing about new scans.")
    return trained_on


def _give_up_damaged(
    scans: Scans, masks: Mapping[str, Path], checks: Mapping[str, list[VolumeCheck]], labels: Collection[int]
) -> None:
    """Remove what nnU-Net did not write whole, and take the cases for unusable."""
    for case, path in masks.items():
        if problem := check_mask(path, checks[case][0].size, labels):
            _give_up(scans, case, path, problem)
    for folder, name in itertools.product({path.parent for path in masks.values()}, NNUNETS_NOTES):
        if (folder / name).is_file() and read_json_if_whole(folder / name) is None:
            (folder / name).unlink()


def _give_up(scans: Scans, case: str, mask: Path, problem: str) -> None:
    mask.unlink(missing_ok=True)
    del scans.cases[case]
    scans.unusable[case] = problem


def _choose_lesions(
    scans: Scans, masks: Mapping[str, Path], labels: Sequence[int], point: Choice | None
) -> dict[str, str]:
    """Apply a model's operating point to masks; return why it could not be, for cases where that is so.

    Masks of cases of which a file is damaged, or cannot be written, are removed, and the cases taken for unusable.
    """
    if point is not None:
        unmet = f" The wish was not met: {point.note}." if point.note else ""
        print(f"Lesions are what the model's operating point takes: {point}.{unmet}")
    unchosen = {}
    for case in list(scans.cases):
        try:
            if not choose_lesions(masks[case], labels, point.point if point else None) and point is not None:
                unchosen[case] = UNCHOSEN
        except (RectalError, OSError) as error:
            _give_up(scans, case, masks[case], str(error))
    return unchosen


def _describe(
    scans: Scans, predicted: Sequence[PredictedScan], labels: Sequence[int], model: PredictingModel
) -> list[ScanFindings]:
    """Return what was found in scans, and why nothing could be in others; write their DICOM objects."""
    describe = partial(_described, labels=labels, model=model)
    described = map_with_progress(describe, predicted, processes_for(len(predicted)), "Findings")
    failed = [ScanFindings(name, problem=reason) for name, reason in scans.unusable.items()]
    told = (replace(d, problem=scans.told(d.problem), unwritten=scans.told(d.unwritten)) for d in described)
    return [*told, *failed]


def _described(scan: PredictedScan, labels: Sequence[int], model: PredictingModel) -> ScanFindings:
    """Return what was found in a scan, or why nothing could be."""
    try:
        return describe_scan(scan, labels, model)
    except (RectalError, OSError) as error:
        return ScanFindings(scan.scan, problem=str(error))


def _tell(job: PredictionJob, findings: Sequence[ScanFindings]) -> None:
    """Print what was predicted, what was not, and why."""
    failed = {scan.scan: scan.problem for scan in findings if scan.problem}
    unwritten = {scan.scan: scan.unwritten for scan in findings if scan.unwritten}
    print(f"{plural(len(findings) - len(failed), 'scan')} predicted into {job.output}.")
    if removed := sum(other.removed for scan in findings for other in scan.others):
        print(f"{plural(removed, 'lesion')} removed by the operating point; the findings tell them.")
    if added := sum(lesion.added for scan in findings for lesion in scan.lesions):
        print(f"{plural(added, 'lesion')} added by the operating point, below the network's threshold.")
    if without := [scan.scan for scan in findings if scan.outcome == NOTHING_FOUND]:
        objects = [kind for kind in job.formats if kind != NIFTI]
        print(f"No lesion{', so no ' if objects else ''}{' or '.join(objects)}: {some(without)}.")
    if failed:
        print(f"{plural(len(failed), 'scan')} not predicted:\n{_listed(failed)}")
    if unwritten:
        print(f"{plural(len(unwritten), 'scan')} without a DICOM object:\n{_listed(unwritten)}")


def _without_folders(scan: ScanFindings, folders: Iterable[Path | str]) -> ScanFindings:
    """Return findings for pages, which are passed on, and tell no folders of this computer."""
    for folder in map(Path, folders):
        beginning = f"{folder if folder.is_dir() else folder.parent}/"
        told = {name: getattr(scan, name).replace(beginning, "") for name in ("scan", "problem", "unwritten")}
        scan = replace(scan, **told)
    return scan


def _write(
    job: PredictionJob, series: Mapping[str, str], findings: Sequence[ScanFindings], model: PredictingModel
) -> None:
    """Write what was found, and which DICOM series each scan is; those of earlier runs stay known."""
    step, first = job.part
    name = "findings" if step == 1 else f"findings_{first}_of_{step}"
    write_findings(findings, model, job.output, name)
    print(f"What was found: {job.output / name}.html")
    if not series:
        return
    path = job.output / SERIES_FILE
    with suppress(RectalError):
        series = {row["scan"]: row["series_uid"] for _, row in read_table(path, SERIES_COLUMNS, "", "")} | {**series}
    write_text(path, csv_text(SERIES_COLUMNS, (dict(zip(SERIES_COLUMNS, row, strict=True)) for row in series.items())))
    print(f"Which series each scan is: {path}")


def _refuse_overwriting(scans: Scans, masks: Mapping[str, Path]) -> None:
    """Refuse to write a mask where a scan is."""
    images = {path.resolve() for images in scans.cases.values() for image in images for path in image.files}
    if over := [str(path) for path in masks.values() if path.resolve() in images]:
        raise RectalError(f"The mask would take the place of the scan {some(over)}. Name another folder with -o.")


def _note_trained_on(path: Path, cases: Collection[str], trained_on: Mapping[str, str]) -> None:
    """Write which scans of a folder of predictions the model was trained on; other cases keep what was noted."""
    kept = {case: name for case, name in (read_json_if_whole(path) or {}).items() if case not in cases}
    if noted := {**kept, **trained_on}:
        write_json(path, noted)
    else:
        path.unlink(missing_ok=True)


def _trained_on(job: PredictionJob, checks: Mapping[str, list[VolumeCheck]]) -> dict[str, str]:
    """Return the training case that each scan is, of those whose images hold the same voxels.

    A case that all the folds which predict were validated on is none that they were trained on.
    """
    known = {digest: case for case, digest in read_image_digests(job.model.path).items()}
    found = {case: known.get("".join(check.digest for check in checked)) for case, checked in checks.items()}
    held_out = [{stem(path) for path in job.model.fold(fold).validation.glob("*")} for fold in job.folds]
    return {case: name for case, name in found.items() if name and not all(name in validated for validated in held_out)}


def _remove_of_other_model(masks: Mapping[str, Path], output: Path, model: PredictingModel) -> None:
    """Remove masks that other folds or weights predicted, by what the findings of that run tell."""
    told = (read_json_if_whole(output / FINDINGS_FILE) or {}).get("model")
    if not isinstance(told, dict) or told.get("model_digest") in (None, model.digest):
        return
    for case in (others := [case for case, path in masks.items() if path.exists()]):
        masks[case].unlink()
    if others:
        print(f"Predicted again, since other folds or weights had predicted: {some(others)}")


def _remove_of_older_scans(masks: Mapping[str, Path], scans: Scans) -> None:
    """Remove masks of scans that were written since."""
    present = {case: path.stat().st_mtime_ns for case, path in masks.items() if path.exists()}
    written = {case: max(file.stat().st_mtime_ns for i in scans.cases[case] for file in i.files) for case in present}
    for case in (newer := [case for case, time in present.items() if written[case] > time]):
        masks[case].unlink()
    if newer:
        print(f"Predicted again, since the scans are newer than the masks: {some(newer)}")


def _remove_damaged(
    masks: Mapping[str, Path], checks: Mapping[str, list[VolumeCheck]], labels: Collection[int]
) -> None:
    """Remove masks of an earlier run that nnU-Net would take for done."""
    for case, path in masks.items():
        if path.exists() and (problem := check_mask(path, checks[case][0].size, labels) or _candidates_problem(path)):
            print(f"Predicted again: {problem}")
            path.unlink()


def _candidates_problem(mask: Path) -> str:
    """Return why the candidates of a mask cannot be read; empty if they can, or there are none."""
    try:
        read_candidates(mask)
    except RectalError as error:
        return str(error)
    return ""


def _listed(reasons: Mapping[str, str]) -> str:
    return "\n".join(f"  {case}: {reason}" for case, reason in reasons.items())
