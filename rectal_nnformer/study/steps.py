"""The steps of a study, and which of them are to be done: a function of the files that are there."""

import fcntl
import math
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, read_compared
from rectal_nnformer.evaluation.folder import evaluate_folder
from rectal_nnformer.evaluation.operating_point import read_point
from rectal_nnformer.evaluation.wish import NO_POINT, parse_wish
from rectal_nnformer.nnunet.commands import run_command
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import (
    CHECKPOINT_FINAL,
    TRAINING_LOCK,
    DatasetFolder,
    ModelFolder,
    PreprocessedDataset,
    RawDataset,
    dataset_number,
    id_lock,
)
from rectal_nnformer.nnunet.names import FULLRES
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.splits import preprocessed_cases
from rectal_nnformer.prediction.run import SOME_UNUSABLE
from rectal_nnformer.reporting.findings import PredictingModel
from rectal_nnformer.reporting.results import FINDINGS_FILE
from rectal_nnformer.reporting.writing import REPORT_FILE, SUMMARY_NAME, write_report
from rectal_nnformer.study.record import PRIMUS, Recipe, Study
from rectal_nnformer.training.pretrained_start import check_pretrained_file
from rectal_nnformer.training.run_folds import LOG_NAME, TrainingJob
from rectal_nnformer.training.tracking import VARIABLE as TRACKING_VARIABLE
from rectal_nnformer.utils.files import is_held, locked, read_json, read_json_if_whole, write_json

AUGMENTERS = "nnUNet_n_proc_DA"
PRIMUS_PLANNER, PRIMUS_MULTIPLE = "nnUNetPlannerResEncL", 8
"""Plans for nnU-Net's Primus: those of a planner, with a patch size that its tokens divide."""
JOBS_FOLDER, EXTERNAL_FOLDER = "jobs", "external"
COHORT_FILE = "cohort.json"
"""Beside predictions of another cohort: where its scans are."""
SET_ASIDE = "set_aside"
"""In a dataset's folder of results: models that the study trained by plans that it made anew, by the time of that."""


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One thing to do, which leaves files; a job on its own.

    Attributes:
        study: The study.
        name: Unique in it.
        group: Steps of a group run side by side, as an array of a cluster.
        needs: Names of the steps that must be done before.
        needs_gpu: Whether it computes on the study's device.
    """

    study: Study
    name: str
    group: str
    needs: tuple[str, ...] = ()
    needs_gpu: bool = False

    @property
    def record_file(self) -> Path:
        """The file that tells when it ran, where, and how it ended."""
        return self.study.folder / JOBS_FOLDER / f"{word(self.name)}.json"

    @property
    def lock_file(self) -> Path:
        """The sign of the lock that is held while it runs."""
        return self.record_file.with_suffix(".lock")

    @property
    def model_name(self) -> str:
        """What it makes is of this model; empty where it is of several."""
        return ""

    def record(self) -> dict[str, Any]:
        """Return what is noted of its last run; nothing where that was for another model."""
        noted = read_json_if_whole(self.record_file) or {}
        return noted if noted.get("model") == self.model_name else {}

    @abstractmethod
    def to_do(self) -> str | None:
        """Return why it is to be done, what is outdated in words; "" where files are missing, None where it is done."""

    def is_done(self) -> bool:
        """Whether its files are there, whole, and made from what is there now."""
        return self.to_do() is None

    @abstractmethod
    def run(self) -> None:
        """Do it, from where it stands."""


@dataclass(frozen=True, kw_only=True)
class RecipeStep(Step):
    """A step of one recipe."""

    recipe: Recipe

    @property
    def model(self) -> ModelFolder:
        """The model of the recipe."""
        return self.study.model(self.recipe)

    @property
    def model_name(self) -> str:
        """What the folder of the model is called."""
        return self.model.name

    @property
    def number(self) -> int:
        """Id of the dataset."""
        return int(dataset_number(self.study.dataset))

    def job(self) -> TrainingJob:
        """How its folds are trained."""
        npz = self.study.npz if self.recipe.npz is None else self.recipe.npz
        return TrainingJob(self.model, self.study.device, npz)

    def other_spacing(self, plans: Path) -> str:
        """Return in words how the spacing in a file of plans differs from the study's; empty where it does not.

        Plans of which no recipe says how they are made are taken as they are.
        """
        wanted, made_by = self.study.spacing, self.study.recipes_of(self.recipe.plans)[0]
        if wanted is None or not made_by.is_planned_here or not plans.is_file():
            return ""
        read = Plans.read(plans)
        stored = read.configuration(FULLRES).spacing
        found = [stored[axis] for axis in read.content.get("transpose_backward", range(len(stored)))]
        if all(map(math.isclose, found, wanted)):
            return ""
        return f"a spacing of {_mm(found)}, and not {_mm(wanted)}"


@dataclass(frozen=True, kw_only=True)
class PlanStep(RecipeStep):
    """Plans and their data; those of ours and of nnU-Net's planners."""

    @property
    def model_name(self) -> str:
        """Models share plans."""
        return ""

    def to_do(self) -> str | None:
        """Ask for plans of the study's spacing, and data of every case."""
        dataset = PreprocessedDataset.at(self.study.dataset)
        file = dataset.plans_file(self.recipe.plans)
        if other := self.other_spacing(file):
            return f"planned for {other}"
        if any(step.recipe.plans == self.recipe.plans for step in self._trained_on_other_spacing()):
            return "models were trained on another spacing"
        try:
            self._refuse_data_of_others(dataset, file)
            return "" if self._without_data(dataset, file) else None
        except RectalError:  # there are no plans, or none that can be used
            return ""

    def _without_data(self, dataset: PreprocessedDataset, plans_file: Path) -> list[str]:
        """Return the configurations, of all recipes of these plans, whose data are not there for every case."""
        plans, num_cases = Plans.read(plans_file), _num_cases(dataset)
        names = dict.fromkeys(recipe.configuration for recipe in self.study.recipes_of(self.recipe.plans))
        folders = {name: dataset.data_folder(plans.configuration(name).settings) for name in names}
        return [name for name, folder in folders.items() if not 0 < num_cases <= len(preprocessed_cases(folder) or ())]

    def run(self) -> None:
        """Plan and preprocess.

        Raises:
            RectalError: It failed, or what was made on another spacing must not be replaced.
        """
        dataset = PreprocessedDataset.at(self.study.dataset)
        waiting = f"{self.study.dataset} is being planned. Waiting for it."
        with locked(id_lock(dataset.path), waiting, wait=True):
            self._set_other_spacing_aside(dataset)
        if self.recipe.backbone is not None:
            from rectal_nnformer.planning.api import plan_dataset

            plan_dataset(
                self.number,
                self.recipe.backbone,
                plans_name=self.recipe.plans,
                overwrite_target_spacing=self.study.spacing,
            )
            return
        file = dataset.plans_file(self.recipe.plans)
        with locked(id_lock(dataset.path), waiting, wait=True):
            if not file.is_file():
                self._plan(file)
            self._refuse_data_of_others(dataset, file)
            if missing := self._without_data(dataset, file):  # others may be there, of plans that share them
                processes = ("-np", *[min(4, os.cpu_count() or 1)] * len(missing))
                names = ("-plans_name", self.recipe.plans, "-c", *missing)
                _run("nnUNetv2_preprocess", "-d", self.number, *names, *processes)

    def _trained_on_other_spacing(self) -> "list[TrainStep]":
        """Return the trainings of the study, by any plans that it makes, that began on another spacing."""
        steps = [step for recipe in self.study.recipe for step in steps_of_model(self.study, recipe)]
        return [step for step in steps if isinstance(step, TrainStep) and step.began_on_other_spacing()]

    def _set_other_spacing_aside(self, dataset: PreprocessedDataset) -> None:
        """Remove plans of another spacing, of all recipes since they may share data, and move away what they trained.

        Data whose folder does not tell the spacing, as those of nnU-Net's planners, are removed, too.
        """
        trained = self._trained_on_other_spacing()
        known = {(step.model, str(step.fold)) for step in trained if step.record()}
        models = list(dict.fromkeys(step.model for step in trained))
        for fold in (fold for model in models for fold in model.folds() if fold.checkpoints()):
            if (fold.model, fold.fold) not in known:
                raise RectalError(
                    f"{fold.path} was trained on another spacing than that of {self.study.file} and not by this study. "
                    f"Take its spacing, give its recipe plans of another name than {fold.model.plans}, or move the "
                    "model away."
                )
        for step in trained:
            if step.is_trained_now():
                raise RectalError(f"{step.name} is running on another spacing. Wait for it or end it.")
        place = self.model.path.parent / SET_ASIDE / f"{datetime.now():%Y-%m-%d_%H.%M.%S}"
        for model in models:
            place.mkdir(parents=True, exist_ok=True)
            print(f"{model.name} was trained on another spacing and is set aside: {place}", flush=True)
            model.path.rename(place / model.name)
        plannings = [PlanStep(study=self.study, recipe=recipe, name="", group="") for recipe in self.study.recipe]
        for planning in plannings:
            file = dataset.plans_file(planning.recipe.plans)
            if other := planning.other_spacing(file):
                if planning.recipe.backbone is None:
                    settings = Plans.read(file).configuration(FULLRES).settings
                    shutil.rmtree(dataset.data_folder(settings), ignore_errors=True)
                print(f"{file} has {other}: it is made again.", flush=True)
                file.unlink()

    def _refuse_data_of_others(self, dataset: PreprocessedDataset, file: Path) -> None:
        """Refuse plans whose folder of data is that of other plans with another spacing; nnU-Net would mix them up."""
        ours = Plans.read(file).configuration(self.recipe.configuration)
        for name in dataset.plans_names():
            for theirs in Plans.read(dataset.plans_file(name)).configurations.values():
                if theirs.data_identifier == ours.data_identifier and theirs.spacing != ours.spacing:
                    raise RectalError(
                        f"{self.recipe.plans} and {name} share the data {ours.data_identifier}, but not the target "
                        f"spacing, {ours.spacing} and {theirs.spacing} mm. Remove {file} and take the spacing "
                        f"of {name} for the study, or move those plans, their data and models away."
                    )

    def _plan(self, file: Path) -> None:
        _run("nnUNetv2_extract_fingerprint", "-d", self.number, "-np", min(8, os.cpu_count() or 1))
        planner = PRIMUS_PLANNER if self.recipe.planner == PRIMUS else self.recipe.planner
        spacing = ("-overwrite_target_spacing", *self.study.spacing) if self.study.spacing else ()
        names = ("-pl", planner, "-overwrite_plans_name", self.recipe.plans)
        _run("nnUNetv2_plan_experiment", "-d", self.number, *names, *spacing)
        if self.recipe.planner == PRIMUS:
            plans = read_json(file, ["configurations"])
            settings = plans["configurations"][self.recipe.configuration]
            settings["patch_size"] = [-(-n // PRIMUS_MULTIPLE) * PRIMUS_MULTIPLE for n in settings["patch_size"]]
            write_json(file, plans)


@dataclass(frozen=True, kw_only=True)
class TrainStep(RecipeStep):
    """One fold: trained, validated and scored."""

    fold: int

    def to_do(self) -> str | None:
        """Ask for a fold that is trained on the study's spacing, and validated."""
        if self.began_on_other_spacing():
            return f"trained on {self.other_spacing(self.model.plans_file)}"
        if self.job().is_finished(self.fold):
            return None
        return "no probabilities were saved (npz)" if self.model.fold(self.fold).is_finished else ""

    def began_on_other_spacing(self) -> bool:
        """Whether there are checkpoints of a training by plans of another spacing."""
        return bool(self.other_spacing(self.model.plans_file) and self.model.fold(self.fold).checkpoints())

    def begins(self) -> bool:
        """Whether it trains from the start, and does not go on from a checkpoint."""
        return self.began_on_other_spacing() or not self.model.fold(self.fold).checkpoints()

    def is_trained_now(self) -> bool:
        """Whether a process trains the fold, of this study or another."""
        folder = self.model.fold(self.fold).path
        return is_held(folder / TRAINING_LOCK) or is_held(folder / LOG_NAME, fcntl.flock)

    def run(self) -> None:
        """Train by nnUNetv2_train from where the fold stands."""
        from rectal_nnformer.training.crossval import train_model

        os.environ[TRACKING_VARIABLE] = self.study.tracking
        train_model(self.job(), [self.fold])


@dataclass(frozen=True, kw_only=True)
class SummaryStep(RecipeStep):
    """The summary and report of a cross-validation."""

    def to_do(self) -> str | None:
        """Ask for both, of all folds of the study, newer than what they tell of, and for the operating point wished."""
        summary = self.model.path / f"{SUMMARY_NAME}.json"
        told = read_json_if_whole(summary)
        if told is None:
            return ""
        folds = self.study.fold_numbers()
        if missing := [str(fold) for fold in folds if str(fold) not in told.get("folds", {})]:
            return f"it lacks fold {', '.join(missing)}"
        wish, had = self.study.operating_point, told.get("wish")
        if wish is not None and _wish(wish) != _wish(had or NO_POINT):
            return f"its operating point is for {had or NO_POINT}, and not for {wish}"
        scores = [self.model.fold(fold).validation / EVALUATION_FILE for fold in folds]
        outdated = _outdated(summary, scores)
        return _outdated(self.model.path / REPORT_FILE, [summary]) if outdated is None else outdated

    def run(self) -> None:
        """Score and analyse what a training left undone, sum up, and write the page."""
        from rectal_nnformer.training.crossval import cross_validate

        model = self.model
        cross_validate(
            model.dataset,
            trainer=model.trainer,
            plans=model.plans,
            configuration=model.configuration,
            folds=self.study.fold_numbers(),
            device=self.study.device,
            save_probabilities=self.job().save_probabilities,
            operating_point=self.study.operating_point,
        )
        write_report(self.model.path)


@dataclass(frozen=True, kw_only=True)
class ExternalStep(RecipeStep):
    """Another cohort, predicted by all folds and scored."""

    @property
    def output(self) -> Path:
        """Folder of the predictions and scores."""
        return self.study.folder / EXTERNAL_FOLDER / self.recipe.name

    def to_do(self) -> str | None:
        """Ask for scores of these scans and masks, by the folds and the operating point of now."""
        external, scores = self.study.external, self.output / EVALUATION_FILE
        assert external is not None
        if not scores.is_file():
            return ""
        if self._predicted_of() != str(external.images):
            return "other images were predicted"
        if read_compared(self.output).references != external.masks.resolve():
            return "it was scored by other masks"
        told = (read_json_if_whole(self.output / FINDINGS_FILE) or {}).get("model", {})
        now = self._predicting_model()
        if changed := [key.replace("_", " ") for key in ("folds", "operating_point") if told.get(key) != now[key]]:
            return f"it was predicted by another model: {', '.join(changed)}"
        checkpoints = [self.model.fold(fold).path / CHECKPOINT_FINAL for fold in self.study.fold_numbers()]
        return _outdated(scores, [*checkpoints, *_with_content(external.images), *_with_content(external.masks)])

    def _predicted_of(self) -> str:
        return (read_json_if_whole(self.output / COHORT_FILE) or {}).get("images", "")

    def _predicting_model(self) -> dict[str, str]:
        point = read_point(self.model.path)
        folds = list(map(str, self.study.fold_numbers()))
        return PredictingModel(self.model, folds, CHECKPOINT_FINAL, "", str(point) if point else "").described()

    def run(self) -> None:
        """Predict what has no mask yet, and score; what was predicted of other scans is removed."""
        external = self.study.external
        assert external is not None
        if self._predicted_of() != str(external.images):
            shutil.rmtree(self.output, ignore_errors=True)
            write_json(self.output / COHORT_FILE, {"images": str(external.images)})
        model, folds = self.model, self.study.fold_numbers()
        names = ("-d", model.dataset, "-tr", model.trainer, "-p", model.plans, "-c", model.configuration, "-f", *folds)
        places = ("-i", external.images, "-o", self.output, "-device", self.study.device)
        options = ("--continue_prediction", *(["--save_probabilities"] if self.study.npz else []))
        findings = self.output / FINDINGS_FILE
        before = findings.stat().st_mtime_ns if findings.is_file() else None
        code = _run("rectal_nnformer", "predict", *names, *places, *options, allowed=SOME_UNUSABLE)
        if code:
            if not findings.is_file() or findings.stat().st_mtime_ns == before:
                raise RectalError(f"predict of {external.images} failed with exit code {code}; see above why.")
            print("WARNING: the scans named above are not predicted; the page leaves their cases out for all recipes.")
        evaluate_folder(self.output, external.masks, model.dataset_json, self.output, 2)


@dataclass(frozen=True, kw_only=True)
class PageStep(Step):
    """The comparison and the page of the study."""

    def to_do(self) -> str | None:
        """Ask for a page that is newer than the study and all summaries and scores that it tells of."""
        from rectal_nnformer.study.page import PAGE_FILE

        told = [self.study.model(recipe).path / f"{SUMMARY_NAME}.json" for recipe in self.study.recipe]
        if self.study.external:
            folder = self.study.folder / EXTERNAL_FOLDER
            told += [folder / recipe.name / EVALUATION_FILE for recipe in self.study.recipe]
        return _outdated(self.study.folder / PAGE_FILE, [*told, self.study.file])

    def run(self) -> None:
        """Write it."""
        from rectal_nnformer.study.page import write_page

        write_page(self.study)


def steps_of_model(study: Study, recipe: Recipe, needs: tuple[str, ...] = ()) -> list[Step]:
    """Return the training of each fold of a recipe, which needs other steps, and the summary."""
    group = f"train {recipe.name}"
    folds = study.fold_numbers()
    trainings = [
        TrainStep(
            study=study, recipe=recipe, fold=fold, name=f"{group} {fold}", group=group, needs=needs, needs_gpu=True
        )
        for fold in folds
    ]
    name = f"summarize {recipe.name}"
    trained = tuple(step.name for step in trainings)
    return [*trainings, SummaryStep(study=study, recipe=recipe, name=name, group=name, needs=trained)]


def steps_of(study: Study) -> list[Step]:
    """Return all steps of a study, none before one that it needs."""
    steps: dict[str, Step] = {}
    for plans in dict.fromkeys(recipe.plans for recipe in study.recipe):
        name, recipe = f"plan {plans}", study.recipes_of(plans)[0]
        steps[name] = PlanStep(study=study, recipe=recipe, name=name, group=name)
    for recipe in study.recipe:
        of_model = steps_of_model(study, recipe, (f"plan {recipe.plans}",))
        if study.external:
            name, summary = f"external {recipe.name}", of_model[-1]
            # The summary chooses the operating point, by which lesions are predicted.
            needs = (summary.name,) if study.operating_point is not None else summary.needs
            of_model.append(
                ExternalStep(study=study, recipe=recipe, name=name, group=name, needs=needs, needs_gpu=True)
            )
        steps |= {step.name: step for step in of_model}
    ends = tuple(name for name, step in steps.items() if isinstance(step, SummaryStep | ExternalStep))
    return [*steps.values(), PageStep(study=study, name="page", group="page", needs=ends)]


def missing_steps(steps: Sequence[Step]) -> list[Step]:
    """Return what is to be done, in order.

    Plans whose every fold is trained are not needed any more; what sums up is made anew where what it tells of is.
    """
    done = {step.name for step in steps if step.is_done()}
    needed = {name for step in steps if step.name not in done for name in step.needs}
    missing: dict[str, Step] = {}
    for step in steps:
        is_needed = step.name in needed or not isinstance(step, PlanStep)
        tells_of_missing = not isinstance(step, TrainStep) and bool(missing.keys() & set(step.needs))
        if (step.name not in done and is_needed) or tells_of_missing:
            missing[step.name] = step
    return list(missing.values())


def missing_weights(steps: Sequence[Step]) -> list[str]:
    """Return what is to be done about pretrained files that trainings are to start from and that are not there.

    Each text begins with the recipes that it is for.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        if not isinstance(step, TrainStep) or not step.begins():
            continue
        made_by = step.study.recipes_of(step.recipe.plans)[0]
        if made_by.planner is not None:
            continue  # not of our networks
        try:
            check_pretrained_file(step.model, made_by.backbone)
        except RectalError as error:
            found[str(error)].append(step.recipe.name)
    return [f"{', '.join(dict.fromkeys(recipes))}: {problem}" for problem, recipes in found.items()]


def _num_cases(dataset: DatasetFolder) -> int:
    """Return how many training cases a dataset has, by the raw one where it is at hand."""
    raw = RawDataset.at(dataset.name)
    path = raw.dataset_json if raw.dataset_json.is_file() else dataset.dataset_json
    return int(read_dataset_json(path, "Convert the dataset again.").get("numTraining", 0))


def _outdated(path: Path, others: Sequence[Path]) -> str | None:
    """Return in words what a file is older than; "" where it or another is missing, None where it is up to date."""
    if not path.is_file() or not all(other.exists() for other in others):
        return ""
    newer = [other for other in others if other.stat().st_mtime_ns > path.stat().st_mtime_ns]
    return f"older than {newer[0]}" if newer else None


def _with_content(place: Path) -> list[Path]:
    """Return a file, or a folder and all below it; nothing where it is gone, so that what was made of it stays."""
    return [place, *place.rglob("*")] if place.exists() else []


def _wish(text: str) -> str:
    return text if text == NO_POINT else str(parse_wish(text))


def _mm(spacing: Sequence[float]) -> str:
    return f"{' x '.join(f'{size:g}' for size in spacing)} mm"


def word(name: str) -> str:
    """Return the name of a step as that of a file or job."""
    return re.sub(r"[^\w.+-]", "-", name)


def _run(command: str, *arguments: object, allowed: int = 0) -> int:
    """Run a command and return its exit code, 0 or the other that is allowed."""
    # nnU-Net's planner takes the number of augmenting processes for one of threads, and fails where that is 0.
    variables = {AUGMENTERS: "1"} if os.environ.get(AUGMENTERS) == "0" else {}
    code = run_command(command, list(map(str, arguments)), variables)
    if code not in (0, allowed):
        raise RectalError(f"{command} {' '.join(map(str, arguments))} failed with exit code {code}; see above why.")
    return code
