"""The steps of a study, and which of them are to be done: a function of the files that are there."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import EVALUATION_FILE, read_compared
from rectal_nnformer.evaluation.folder import evaluate_folder
from rectal_nnformer.nnunet.commands import run_command
from rectal_nnformer.nnunet.dataset_json import read_dataset_json
from rectal_nnformer.nnunet.layout import (
    CHECKPOINT_FINAL,
    DatasetFolder,
    ModelFolder,
    PreprocessedDataset,
    RawDataset,
    dataset_number,
    id_lock,
)
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.splits import preprocessed_cases
from rectal_nnformer.reporting.writing import REPORT_FILE, SUMMARY_NAME, write_report
from rectal_nnformer.study.record import STUDY_FILE, Recipe, Study
from rectal_nnformer.training.run_folds import TrainingJob
from rectal_nnformer.training.tracking import VARIABLE as TRACKING_VARIABLE
from rectal_nnformer.utils.files import locked, read_json, read_json_if_whole, write_json

AUGMENTERS = "nnUNet_n_proc_DA"
PRIMUS, PRIMUS_PLANNER, PRIMUS_MULTIPLE = "primus", "nnUNetPlannerResEncL", 8
"""Plans for nnU-Net's Primus: those of a planner, with a patch size that its tokens divide."""


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

    @abstractmethod
    def is_done(self) -> bool:
        """Whether its files are there and whole."""

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
    def number(self) -> int:
        """Id of the dataset."""
        return int(dataset_number(self.study.dataset))

    def job(self) -> TrainingJob:
        """How its folds are trained."""
        return TrainingJob(self.model, self.study.device, self.study.npz)


@dataclass(frozen=True, kw_only=True)
class PlanStep(RecipeStep):
    """Plans and their data; those of ours and of nnU-Net's planners."""

    def is_done(self) -> bool:
        """Whether there are plans, and data of every case."""
        dataset = PreprocessedDataset.at(self.study.dataset)
        file = dataset.plans_file(self.recipe.plans)
        return file.is_file() and self._has_data(dataset, file)

    def _has_data(self, dataset: PreprocessedDataset, plans_file: Path) -> bool:
        try:
            self._refuse_data_of_others(dataset, plans_file)
            settings = Plans.read(plans_file).configuration(self.recipe.configuration).settings
            cases = preprocessed_cases(dataset.data_folder(settings)) or ()
            return 0 < _num_cases(dataset) <= len(cases)
        except RectalError:
            return False

    def run(self) -> None:
        """Plan and preprocess.

        Raises:
            RectalError: It failed, or nothing says how these plans are made.
        """
        if self.recipe.backbone is not None:
            from rectal_nnformer.planning.api import plan_dataset

            plan_dataset(
                self.number,
                self.recipe.backbone,
                plans_name=self.recipe.plans,
                overwrite_target_spacing=self.study.spacing,
            )
            return
        dataset = PreprocessedDataset.at(self.study.dataset)
        file = dataset.plans_file(self.recipe.plans)
        if self.recipe.planner is None and not file.is_file():
            raise RectalError(
                f"{file} does not exist, and the recipe {self.recipe.name} says neither by a backbone nor by a planner "
                "how it is made. Add one of them, or plan by hand."
            )
        with locked(id_lock(dataset.path), f"{self.study.dataset} is being planned. Waiting for it.", wait=True):
            if not file.is_file():
                self._plan(file)
            self._refuse_data_of_others(dataset, file)
            if not self._has_data(dataset, file):  # which other plans may share
                names = ("-plans_name", self.recipe.plans, "-c", self.recipe.configuration)
                _run("nnUNetv2_preprocess", "-d", self.number, *names, "-np", min(4, os.cpu_count() or 1))

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

    def is_done(self) -> bool:
        """Whether the fold is trained and validated."""
        return self.job().is_finished(self.fold)

    def run(self) -> None:
        """Train by nnUNetv2_train from where the fold stands."""
        from rectal_nnformer.training.crossval import train_model

        os.environ[TRACKING_VARIABLE] = self.study.tracking
        train_model(self.job(), [self.fold])


@dataclass(frozen=True, kw_only=True)
class SummaryStep(RecipeStep):
    """The summary and report of a cross-validation."""

    def is_done(self) -> bool:
        """Whether both are there, of all folds of the study, and newer than what they tell of."""
        summary = self.model.path / f"{SUMMARY_NAME}.json"
        folds = self.study.fold_numbers()
        told = (read_json_if_whole(summary) or {}).get("folds", {})
        scores = [self.model.fold(fold).validation / EVALUATION_FILE for fold in folds]
        is_whole = {str(fold) for fold in folds} <= set(told)
        return is_whole and _is_newer(self.model.path / REPORT_FILE, [summary]) and _is_newer(summary, scores)

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
            save_probabilities=self.study.npz,
            operating_point=self.study.operating_point,
        )
        write_report(self.model.path)


@dataclass(frozen=True, kw_only=True)
class ExternalStep(RecipeStep):
    """Another cohort, predicted by all folds and scored."""

    @property
    def output(self) -> Path:
        """Folder of the predictions and scores."""
        return self.study.folder / "external" / self.recipe.name

    def is_done(self) -> bool:
        """Whether it is scored against the masks of now, and no fold was trained since."""
        assert self.study.external is not None
        folds = self.study.fold_numbers()
        if not (self.output / EVALUATION_FILE).is_file():
            return False
        if read_compared(self.output).references != Path(self.study.external.masks).resolve():
            return False
        return _is_newer(
            self.output / EVALUATION_FILE, [self.model.fold(fold).path / CHECKPOINT_FINAL for fold in folds]
        )

    def run(self) -> None:
        """Predict what has no mask yet, and score."""
        assert self.study.external is not None
        model, folds = self.model, self.study.fold_numbers()
        names = ("-d", model.dataset, "-tr", model.trainer, "-p", model.plans, "-c", model.configuration, "-f", *folds)
        places = ("-i", self.study.external.images, "-o", self.output)
        _run("rectal_nnformer", "predict", *names, *places, "-device", self.study.device, "--continue_prediction")
        evaluate_folder(self.output, Path(self.study.external.masks), model.dataset_json, self.output, 2)


@dataclass(frozen=True, kw_only=True)
class PageStep(Step):
    """The comparison and the page of the study."""

    def is_done(self) -> bool:
        """Whether the page is newer than the study and all summaries and scores that it tells of."""
        from rectal_nnformer.study.page import PAGE_FILE

        told = [self.study.model(recipe).path / f"{SUMMARY_NAME}.json" for recipe in self.study.recipe]
        if self.study.external:
            told += [self.study.folder / "external" / recipe.name / EVALUATION_FILE for recipe in self.study.recipe]
        return _is_newer(self.study.folder / PAGE_FILE, [*told, self.study.folder / STUDY_FILE])

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
    for recipe in study.recipe:
        name = f"plan {recipe.plans}"
        steps.setdefault(name, PlanStep(study=study, recipe=recipe, name=name, group=name))
    for recipe in study.recipe:
        of_model = steps_of_model(study, recipe, (f"plan {recipe.plans}",))
        if study.external:
            name, needs = f"external {recipe.name}", of_model[-1].needs
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


def _num_cases(dataset: DatasetFolder) -> int:
    """Return how many training cases a dataset has, by the raw one where it is at hand."""
    raw = RawDataset.at(dataset.name)
    path = raw.dataset_json if raw.dataset_json.is_file() else dataset.dataset_json
    return int(read_dataset_json(path, "Convert the dataset again.").get("numTraining", 0))


def _is_newer(path: Path, others: Sequence[Path]) -> bool:
    """Whether a file is there, and not older than any of the others, which are there, too."""
    times = [other.stat().st_mtime_ns if other.is_file() else float("inf") for other in others]
    return path.is_file() and path.stat().st_mtime_ns >= max(times)


def _run(command: str, *arguments: object) -> None:
    # nnU-Net's planner takes the number of augmenting processes for one of threads, and fails where that is 0.
    variables = {AUGMENTERS: "1"} if os.environ.get(AUGMENTERS) == "0" else {}
    if code := run_command(command, list(map(str, arguments)), variables):
        raise RectalError(f"{command} {' '.join(map(str, arguments))} failed with exit code {code}; see above why.")
