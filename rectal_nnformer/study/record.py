"""What a study is, as its study.toml says, and the file that a study begins with."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import ModelFolder, PreprocessedDataset
from rectal_nnformer.nnunet.names import CUBIC, FULLRES, NUM_FOLDS, TRAINER_FAMILIES, Length
from rectal_nnformer.nnunet.preflight import check_trainer
from rectal_nnformer.nnunet.source import trainer_names
from rectal_nnformer.nnunet.splits import read_splits
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.utils.files import is_there, read_bytes, write_text
from rectal_nnformer.utils.json_records import Record, described
from rectal_nnformer.utils.text import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STUDY_FILE = "study.toml"
OWN: Literal["own"] = "own"
"""Epochs of a recipe whose trainer is taken as it is called, such as one that was trained before."""
REMEDY = f"Fix it; 'rectal_nnformer study init' writes a {STUDY_FILE} with every key explained."


class Slurm(Record):
    """What jobs of SLURM ask for; keys of any other name are options of sbatch."""

    model_config = ConfigDict(extra="allow")

    hours: PositiveFloat = 24
    cpus: PositiveInt = 12
    gpus: dict[str, PositiveFloat] = Field(default_factory=dict)
    setup: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Options of sbatch, as they are written there."""
        return {key.replace("_", "-"): value for key, value in (self.model_extra or {}).items()}


class Recipe(Record):
    """One way to train: a trainer on plans, which a backbone of ours or a planner of nnU-Net's makes."""

    name: str = Field(pattern=r"^\w[\w.+-]*$")
    trainer: str
    plans: str
    configuration: str = FULLRES
    backbone: str | None = None
    planner: str | None = None
    epochs: PositiveInt | Literal["own"] | None = None
    gpu_memory: PositiveFloat | None = None


class External(Record):
    """Scans and masks of a cohort that no recipe was trained on."""

    images: str
    masks: str


class Study(Record):
    """All of study.toml; `folder` is the one that it lies in."""

    folder: Path
    dataset: str
    baseline: str
    recipe: tuple[Recipe, ...] = Field(min_length=1)
    folds: tuple[int, ...] | None = None
    epochs: PositiveInt | Literal["own"] = "own"
    iterations: PositiveInt | None = None
    seed: int | None = Field(default=None, ge=0)
    operating_point: str | None = None
    npz: bool = False
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    device: Literal["cuda", "cpu", "mps"] = "cuda"
    gpus: tuple[int, ...] = Field(default=(0,), min_length=1)
    side_by_side: PositiveInt = 1
    engine: Literal["local", "slurm"] = "local"
    tracking: Literal["off", "tensorboard", "mlflow"] = "off"
    external: External | None = None
    slurm: Slurm = Field(default_factory=Slurm)

    def model(self, recipe: Recipe) -> ModelFolder:
        """Return the model of a recipe, trained or not."""
        trainer = recipe.trainer
        epochs = recipe.epochs or self.epochs
        if recipe.epochs != OWN:
            trainer = Length(None if epochs == OWN else int(epochs), self.iterations, self.seed).name(trainer)
        return ModelFolder.named(self.dataset, trainer, recipe.plans, recipe.configuration)

    def fold_numbers(self) -> tuple[int, ...]:
        """Return the folds to train: those that were chosen, or all that the dataset has or will have."""
        splits = PreprocessedDataset.at(self.dataset).splits
        return self.folds or tuple(range(len(read_splits(splits)) if is_there(splits) else NUM_FOLDS))


def read_study(folder: Path) -> Study:
    """Read the study.toml in a folder.

    Raises:
        RectalError: There is none, or something in it cannot be: an unknown key, trainer, backbone or baseline, or the
            same name or model twice.
    """
    path = folder / STUDY_FILE
    try:
        content = tomllib.loads(read_bytes(path, f"Make it with 'rectal_nnformer study init -o {folder}'.").decode())
        text = json.dumps({**content, "folder": str(folder.absolute())}, default=str)
        study = Study.model_validate_json(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RectalError(f"{path} cannot be read as TOML ({error}). {REMEDY}") from None
    except ValidationError as error:
        raise RectalError(f"{path} cannot be used ({described(error)}). {REMEDY}") from None
    for problem in _problems(study):
        raise RectalError(f"{path} cannot be used: {problem} {REMEDY}")
    if study.operating_point is not None:
        from rectal_nnformer.evaluation.operating_point import NO_POINT, parse_wish  # imports SciPy

        if study.operating_point != NO_POINT:
            parse_wish(study.operating_point)
    return study


def study_of_model(model: ModelFolder, slurm: Mapping[str, Any], **chosen: Any) -> Study:
    """Return the study of one model as it is called; its jobs are noted in the folder of the model.

    `chosen` are other keys of a study, such as folds and device.

    Raises:
        RectalError: A value of `slurm` cannot be.
    """
    recipe = {"name": model.trainer, "trainer": model.trainer, "plans": model.plans, "epochs": OWN}
    content = {
        "folder": str(model.path),
        "dataset": model.dataset,
        "baseline": model.trainer,
        "recipe": [{**recipe, "configuration": model.configuration}],
        "slurm": slurm,
        **chosen,
    }
    try:
        return Study.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise RectalError(f"These jobs cannot be asked for ({described(error)}). Fix --slurm.") from None


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
        if recipe.backbone is not None and recipe.planner is not None:
            yield f"the recipe {recipe.name} has a backbone and a planner; only one of them makes its plans."
        if recipe.backbone is not None and recipe.backbone not in BACKBONES:
            yield f"there is no backbone {recipe.backbone}.{nearest(recipe.backbone, BACKBONES)}"
    if not re.fullmatch(r"Dataset\d{3}_\w+", study.dataset):
        yield f"a dataset is called DatasetXXX_Name; got {study.dataset}."


def check_trainers(study: Study) -> None:
    """Refuse recipes whose trainer nnU-Net will not find."""
    for recipe in study.recipe:
        check_trainer(study.model(recipe).trainer)


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
    models = {(recipe.trainer, recipe.plans, recipe.configuration) for recipe in recipes}
    for model in trained:
        if (model.trainer, model.plans, model.configuration) not in models:
            recipes.append(
                Recipe(
                    name=f"{model.trainer}-{model.plans}-{model.configuration}",
                    trainer=model.trainer,
                    plans=model.plans,
                    configuration=model.configuration,
                    epochs=OWN,
                )
            )
    environment = Environment(
        loader=PackageLoader("rectal_nnformer.study", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["toml"] = json.dumps  # texts and numbers are written alike
    page = environment.get_template("template.toml").render(
        dataset=dataset, baseline=_BASELINES[0].name, recipes=recipes, external=external and list(map(str, external))
    )
    write_text(path, page)
    return path


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
        )
        for name, configuration, recipe in chosen
    ]


_RESENC_L = "nnUNetResEncUNetLPlans"
_BASELINES = (
    Recipe(name="nnU-Net", trainer="nnUNetTrainer", plans="nnUNetPlans", planner="ExperimentPlanner", gpu_memory=8),
    Recipe(name="ResEnc-L", trainer="nnUNetTrainer", plans=_RESENC_L, planner="nnUNetPlannerResEncL", gpu_memory=24),
    Recipe(
        name="Primus-M",
        trainer="nnUNet_Primus_M_Trainer",
        plans="nnUNetPrimusPlans",
        planner="primus",
        gpu_memory=24,
    ),
)
"""nnU-Net's own recipes: the default, the residual encoder that its authors recommend, and its transformer."""
