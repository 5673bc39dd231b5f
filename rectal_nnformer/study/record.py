"""What a study is, as its study.toml says, and the file that a study begins with."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.wish import check_wish
from rectal_nnformer.nnunet.layout import (
    ModelFolder,
    PreprocessedDataset,
    RawDataset,
    most_alike,
    nnunet_folder,
)
from rectal_nnformer.nnunet.names import CUBIC, FULLRES, NUM_FOLDS, TRAINER_FAMILIES, Device, Length
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.preflight import check_recipe, check_trainer
from rectal_nnformer.nnunet.source import planner_names, trainer_names
from rectal_nnformer.nnunet.splits import read_splits
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.utils.files import is_there, read_bytes, read_json, write_text
from rectal_nnformer.utils.json_records import Record
from rectal_nnformer.utils.text import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STUDY_FILE = "study.toml"
OWN: Literal["own"] = "own"
"""Epochs of a recipe whose trainer is taken as it is called, such as one that was trained before."""
PLACE = "folder"
"""What a study knows beside the keys of its file: where that is."""
LENGTH = Length(epochs=1000, seed=0)
"""Of every recipe of a new study, so that they differ in nothing else: the epochs are nnU-Net's own, whose recipes are
what ours are compared with, and no fewer."""
REMEDY = f"Fix it; 'rectal_nnformer study init' writes a {STUDY_FILE} with every key explained."


PRIMUS = "primus"
"""As a planner: plans for nnU-Net's transformer of this name."""
COUNT, AMOUNT, NAME = "a whole number above 0", "a number above 0", "a text that is not empty"
EPOCHS = f'{COUNT}, or "{OWN}"'

Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


def _key(allowed: str, default: Any = ..., **limits: Any) -> Any:
    """Return a key of study.toml and what may stand there, in words for messages."""
    return Field(default=default, description=allowed, **limits)


class Slurm(Record):
    """What jobs of SLURM ask for; keys of any other name are options of sbatch."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool] = Field(init=False)

    hours: PositiveFloat = _key(AMOUNT, 24)
    cpus: PositiveInt = _key(COUNT, 12)
    gpus: dict[str, PositiveFloat] = _key("kinds of GPU with their GB, such as { 'gpu:a100:1' = 80 }", {})
    setup: tuple[str, ...] = _key('commands, such as ["module load cuda"]', ())

    @property
    def options(self) -> dict[str, Any]:
        """Options of sbatch, as they are written there."""
        return {key.replace("_", "-"): value for key, value in (self.model_extra or {}).items()}


class Recipe(Record):
    """One way to train: a trainer on plans, which a backbone of ours or a planner of nnU-Net's makes."""

    name: str = _key("letters, digits and any of _ . + - after the first", pattern=r"^\w[\w.+-]*$")
    trainer: str = _key("the name of a trainer", pattern=r"^\w+$")
    plans: str = _key("the name of plans", pattern=r"^\w[\w.-]*$")
    configuration: Text = _key("the name of a configuration, such as 3d_fullres", FULLRES)
    backbone: str | None = _key(f"one of {', '.join(BACKBONES)}", None)
    planner: Text | None = _key("the name of a planner of nnU-Net's", None)
    epochs: PositiveInt | Literal["own"] | None = _key(EPOCHS, None)
    gpu_memory: PositiveFloat | None = _key(f"{AMOUNT}, in GB", None)
    npz: bool | None = _key("true or false", None)

    @property
    def is_planned_here(self) -> bool:
        """Whether it says how its plans are made."""
        return self.backbone is not None or self.planner is not None


class External(Record):
    """Scans and masks of a cohort that no recipe was trained on; places may begin with ~."""

    images: Place = _key("the folder of the scans, in quotes")
    masks: Place = _key("the folder of the masks, in quotes")


class Study(Record):
    """All of study.toml; `folder` is the one that it lies in."""

    folder: Path
    dataset: str = _key("the name of a dataset, DatasetXXX_Name", pattern=r"^Dataset\d{3}_\w+$")
    baseline: str = _key("the name of a recipe")
    recipe: tuple[Recipe, ...] = _key("one table [[recipe]] or more", min_length=1)
    folds: tuple[NonNegativeInt, ...] | None = _key("numbers of folds, such as [0, 1, 2]", None, min_length=1)
    epochs: PositiveInt | Literal["own"] = _key(EPOCHS, OWN)
    iterations: PositiveInt | None = _key(COUNT, None)
    seed: int | None = _key("a whole number, not below 0", None, ge=0)
    operating_point: str | None = _key('a wish, such as "fp-per-case=0.5"', None)
    npz: bool = _key("true or false", False)
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = _key(
        "three numbers above 0, such as [3.0, 1.0, 1.0]", None
    )
    device: Device = _key('"cuda", "cpu" or "mps"', "cuda")
    gpus: tuple[NonNegativeInt, ...] = _key("numbers of GPUs, such as [0, 1]", (0,), min_length=1)
    side_by_side: PositiveInt = _key(COUNT, 1)
    engine: Literal["local", "slurm"] = _key('"local" or "slurm"', "local")
    tracking: Literal["off", "tensorboard", "mlflow"] = _key('"off", "tensorboard" or "mlflow"', "off")
    external: External | None = _key("a table [external] with images and masks", None)
    slurm: Slurm = _key("a table [slurm]", Slurm())

    @property
    def file(self) -> Path:
        """The study.toml."""
        return self.folder / STUDY_FILE

    def model(self, recipe: Recipe) -> ModelFolder:
        """Return the model of a recipe, trained or not."""
        trainer = recipe.trainer
        epochs = recipe.epochs or self.epochs
        if recipe.epochs != OWN:
            trainer = Length(None if epochs == OWN else int(epochs), self.iterations, self.seed).name(trainer)
        return ModelFolder.named(self.dataset, trainer, recipe.plans, recipe.configuration)

    def recipes_of(self, plans: str) -> tuple[Recipe, ...]:
        """Return the recipes that are trained by plans, first those that say how these are made."""
        named = [recipe for recipe in self.recipe if recipe.plans == plans]
        return tuple(sorted(named, key=lambda recipe: not recipe.is_planned_here))

    def fold_numbers(self) -> tuple[int, ...]:
        """Return the folds to train: those that were chosen, or all that the dataset has or will have."""
        return self.folds or tuple(range(self.num_folds()))

    def num_folds(self) -> int:
        """Return how many folds the dataset has, or will have when it is planned."""
        files = [kind.at(self.dataset).splits for kind in (PreprocessedDataset, RawDataset)]
        return next((len(read_splits(splits)) for splits in files if is_there(splits)), NUM_FOLDS)


def read_study(folder: Path) -> Study:
    """Read the study.toml in a folder.

    Raises:
        RectalError: There is none, or something in it cannot be, such as an unknown key, backbone or baseline, or the
            same name or model twice. What must be there besides, `check_study` tells.
    """
    path = folder / STUDY_FILE
    try:
        content = tomllib.loads(read_bytes(path, f"Make it with 'rectal_nnformer study init -o {folder}'.").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RectalError(f"{path} cannot be read as TOML ({error}). {REMEDY}") from None
    refused = f"{path} cannot be used"
    if PLACE in content:
        raise RectalError(f"{refused}: {_no_key(PLACE, Study)} {REMEDY}")
    study = _study_of({**content, PLACE: str(folder.absolute())}, refused, REMEDY)
    for problem in _problems(study):
        raise RectalError(f"{refused}: {problem} {REMEDY}")
    return study


def _study_of(content: dict[str, Any], refused: str, remedy: str) -> Study:
    try:
        return Study.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise RectalError(f"{refused}: {_wrong_key(error, content)} {remedy}") from None


def _wrong_key(error: ValidationError, content: dict[str, Any]) -> str:
    """Return the first key that is wrong, its value, and what may stand there."""
    first = error.errors(include_url=False, include_context=False)[0]
    kind: type[Record] = Study
    key, *rest = first["loc"]
    table, place, values = "", "", content
    if key in _TABLES and rest and (key != "recipe" or len(rest) > 1):
        kind, values, table, place = _TABLES[key], content[key], f"{key}.", f" in {key}"
        if key == "recipe":
            number = int(rest.pop(0))
            values = values[number]
            place = f" in the recipe {values.get('name', number + 1)}"
            table = f"{place[8:]}, "
        key = rest[0]
    field = kind.model_fields.get(str(key))
    if first["type"] == "extra_forbidden":
        return _no_key(str(key), kind, place)
    allowed = field.description if field else "a text, a number, true or false"
    if key not in values:
        return f"{table}{key} is missing; it must be {allowed}."
    return f"{table}{key} is {json.dumps(values[key], default=str)[:200]}, but must be {allowed}."


def _no_key(key: str, kind: type[Record], place: str = "") -> str:
    return f"there is no key {key}{place}.{nearest(key, kind.model_fields.keys() - {PLACE, key})}"


_TABLES: dict[str, type[Record]] = {"recipe": Recipe, "external": External, "slurm": Slurm}
"""Keys that are tables with keys of their own."""


def study_of_model(model: ModelFolder, slurm: Mapping[str, Any], **chosen: Any) -> Study:
    """Return the study of one model as it is called; its jobs are noted in the folder of the model.

    `chosen` are other keys of a study, such as folds and device.

    Raises:
        RectalError: A value of `slurm` cannot be.
    """
    recipe = {"name": model.trainer, "trainer": model.trainer, "plans": model.plans, "epochs": OWN}
    content = {
        PLACE: str(model.path),
        "dataset": model.dataset,
        "baseline": model.trainer,
        "recipe": [{**recipe, "configuration": model.configuration}],
        "slurm": slurm,
        **chosen,
    }
    return _study_of(content, "These jobs cannot be asked for", "Fix --slurm.")


def _problems(study: Study) -> Iterator[str]:
    names = [recipe.name for recipe in study.recipe]
    models = [study.model(recipe).name for recipe in study.recipe]
    for what, values in (("name", names), ("model", models)):
        for value, times in Counter(values).items():
            if times > 1:
                yield f"{times} recipes have the {what} {value}."
    if study.baseline not in names:
        yield f"the baseline {study.baseline} is none of the recipes.{nearest(study.baseline, names)}"
    for recipe in study.recipe:
        model = study.model(recipe)
        if ModelFolder.parse(model.path) != model:
            yield (
                f"the recipe {recipe.name} makes the model {model.name}, in which __ may stand only between trainer, "
                "plans and configuration."
            )
        if recipe.backbone is not None and recipe.planner is not None:
            yield f"the recipe {recipe.name} has a backbone and a planner; only one of them makes its plans."
        if recipe.backbone is not None and recipe.backbone not in BACKBONES:
            yield f"there is no backbone {recipe.backbone}.{nearest(recipe.backbone, BACKBONES)}"
    if repeated := [fold for fold, times in Counter(study.folds).items() if times > 1]:
        yield f"folds names {', '.join(map(str, repeated))} more than once."
    try:
        check_wish(study.operating_point)
    except RectalError as error:
        yield f"operating_point: {error}"


def check_study(study: Study) -> None:
    """Refuse, before anything is done, what would be found out in a job: a place or name that is not there.

    Raises:
        RectalError: Names the key, its value, what there is instead, and what to do.
    """
    for recipe in study.recipe:
        check_trainer(study.model(recipe).trainer, f"trainer of the recipe {recipe.name} in {study.file}")
    for problem in _not_there(study):
        raise RectalError(f"{study.file} cannot be used: {problem}")


def _not_there(study: Study) -> Iterator[str]:
    places = [Path(nnunet_folder(kind.variable)) for kind in (RawDataset, PreprocessedDataset)]
    if not any((place / study.dataset).is_dir() for place in places):
        present = {path.name for place in places for path in place.glob("Dataset*")}
        where = f"which is neither in {places[0]} nor in {places[1]}"
        remedy = "Convert it, or fix the name or nnU-Net's variables."
        yield f"dataset is {study.dataset}, {where}.{nearest(study.dataset, present)} {remedy}"
    number = study.num_folds()
    if outside := [str(fold) for fold in study.folds or () if fold >= number]:
        yield f"folds names {', '.join(outside)}, but {study.dataset} has the folds 0 to {number - 1}. Fix it."
    for key, place in study.external or ():
        if not place.exists() or (key == "masks" and not place.is_dir()):
            kind = "folder" if key == "masks" else "folder or scan"
            yield f"external.{key} is {place}, and there is no such {kind}.{most_alike(place)} Fix it."
        elif place.is_dir() and not any(place.iterdir()):
            yield f"external.{key} is {place}, which is empty. Fix it, or put the files there."
    for recipe in study.recipe:
        for check in (_unplannable, _untrainable):
            yield from (f"recipe {recipe.name}, {problem}" for problem in check(study, recipe))


def _unplannable(study: Study, recipe: Recipe) -> Iterator[str]:
    if recipe.planner not in (None, PRIMUS) and recipe.planner not in (planners := planner_names()):
        hint = nearest(str(recipe.planner), planners)
        yield f"planner is {recipe.planner}, which nnU-Net does not have.{hint} Fix it."
    plans = PreprocessedDataset.at(study.dataset).plans_file(recipe.plans)
    made_by = study.recipes_of(recipe.plans)[0]
    if plans.is_file():
        present = list(read_json(plans, ["configurations"], "Plan the dataset again.")["configurations"])
    else:
        present = [FULLRES, CUBIC] if made_by.backbone is not None else [recipe.configuration]
    if recipe.configuration not in present:
        there = f"but {recipe.plans} has {', '.join(present)}"
        yield f"configuration is {recipe.configuration}, {there}.{nearest(recipe.configuration, present)} Fix it."
    if not (plans.is_file() or made_by.is_planned_here or _is_trained(study, recipe)):
        yield (
            f"plans is {recipe.plans}, but {plans} does not exist, and neither a backbone nor a planner says how it is "
            f"made.{nearest(recipe.plans, PreprocessedDataset.at(study.dataset).plans_names())} Add one of them, or "
            "plan by hand."
        )


def _untrainable(study: Study, recipe: Recipe) -> Iterator[str]:
    """Yield what every training of a recipe would refuse: plans of another network, or a patch, than its trainer's."""
    plans = PreprocessedDataset.at(study.dataset).plans_file(recipe.plans)
    made_by = study.recipes_of(recipe.plans)[0]
    if _is_trained(study, recipe) or not (plans.is_file() or made_by.is_planned_here):
        return
    backbone = BACKBONES[made_by.backbone].network if made_by.backbone is not None else None
    if plans.is_file():
        network = Plans.read(plans).configuration(recipe.configuration).network
        planned = network.backbone if network else None
        if made_by.is_planned_here and planned != backbone:
            key = "planner" if backbone is None else "backbone"
            yield (
                f"{key} is {getattr(made_by, key)}, but {plans} holds {planned or 'a network of nnU-Net'}. Fix it, or "
                "give its plans another name."
            )
        backbone = planned
    try:
        check_recipe(study.model(recipe).trainer, backbone, recipe.plans, recipe.configuration, study.dataset)
    except RectalError as error:
        yield f"{error} Or fix trainer, configuration, backbone or planner of the recipe."


def _is_trained(study: Study, recipe: Recipe) -> bool:
    return all(study.model(recipe).fold(fold).checkpoint_final.is_file() for fold in study.fold_numbers())


def write_study(
    folder: Path,
    dataset: str,
    backbones: Sequence[str],
    external: tuple[Path, Path] | None,
    trained: Sequence[ModelFolder],
) -> Path:
    """Write the study.toml of a new study: the recipes of each backbone, and nnU-Net's own to compare with.

    Args:
        folder: Where to; it must hold no study yet.
        dataset: DatasetXXX_Name.
        backbones: Keys of `rectal_nnformer.planning.backbones.BACKBONES`.
        external: Images and masks of another cohort.
        trained: Models of the dataset that are there already, which join the study as they are.

    Raises:
        RectalError: There is a study.toml.
    """
    path = folder / STUDY_FILE
    if is_there(path):
        raise RectalError(f"{path} is there already. Name another folder with -o, or move it away.")
    recipes = [recipe for backbone in backbones for recipe in _recipes_of(backbone)]
    recipes += [recipe for recipe in _BASELINES if recipe.trainer in trainer_names()]
    recipes = _adopting(recipes, trained)
    environment = Environment(
        loader=PackageLoader("rectal_nnformer.study", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["toml"] = json.dumps  # texts and numbers are written alike
    page = environment.get_template("template.toml").render(
        dataset=dataset,
        baseline=_BASELINES[0].name,
        recipes=recipes,
        external=external and list(map(str, external)),
        length=LENGTH._asdict(),
    )
    write_text(path, page)
    return path


def _adopting(recipes: Sequence[Recipe], trained: Sequence[ModelFolder]) -> list[Recipe]:
    """Return recipes, of which those that were trained before by their trainer's own length stay so, and what else was.

    Those are not validated again for probabilities.
    """
    names = {model.name for model in trained}
    made: dict[str, Recipe] = {}
    for recipe in recipes:
        plans = f"__{recipe.plans}__{recipe.configuration}"
        if (own := recipe.trainer + plans) in names or recipe.epochs == OWN:
            made[own] = recipe.model_copy(update={"epochs": OWN, "npz": None})
        else:
            made[LENGTH.name(recipe.trainer) + plans] = recipe
    for model in trained:
        adopted = Recipe(
            name=f"{model.trainer}-{model.plans}-{model.configuration}",
            trainer=model.trainer,
            plans=model.plans,
            configuration=model.configuration,
            epochs=OWN,
        )
        made.setdefault(model.name, adopted)
    return list(made.values())


def _recipes_of(backbone: str) -> list[Recipe]:
    """Return the two by two, and what pretraining and masked padding give, or the trial of a network for a CPU."""
    planned = BACKBONES[backbone]
    family = TRAINER_FAMILIES[planned.network]
    chosen = [
        ("Base", CUBIC, "Base"),
        ("TA", CUBIC, "TA"),
        ("Crop", FULLRES, "Base"),
        ("ACT", FULLRES, "ACT"),
        ("Scratch", FULLRES, "ACT_Scratch"),
        ("MaskedPadding", FULLRES, "ACT_MaskedPadding"),
    ]
    if planned.kwargs:  # no pretrained file fits
        chosen = [("CPU", FULLRES, "CPU"), ("CPU-cube", CUBIC, "CPU")]
    return [
        Recipe(
            name=f"{family.removeprefix('nnUNetTrainer')}-{name}",
            trainer=f"{family}_{recipe}",
            plans=planned.plans_name,
            configuration=configuration,
            backbone=backbone,
            epochs=OWN if planned.kwargs else None,
        )
        for name, configuration, recipe in chosen
    ]


_RESENC_L = "nnUNetResEncUNetLPlans"
_BASELINES = (
    Recipe(
        name="nnU-Net",
        trainer="nnUNetTrainer",
        plans="nnUNetPlans",
        planner="ExperimentPlanner",
        gpu_memory=8,
        npz=True,
    ),
    Recipe(
        name="ResEnc-L",
        trainer="nnUNetTrainer",
        plans=_RESENC_L,
        planner="nnUNetPlannerResEncL",
        gpu_memory=24,
        npz=True,
    ),
    Recipe(
        name="Primus-M",
        trainer="nnUNet_Primus_M_Trainer",
        plans="nnUNetPrimusPlans",
        planner=PRIMUS,
        gpu_memory=24,
        npz=True,
    ),
)
"""nnU-Net's own recipes: the default, the residual encoder that its authors recommend, and its transformer.

Of probabilities that they save FROC is drawn; our trainers keep how sure they are of lesions in any case."""
