"""The study of all recipes from one seed."""

import json

from rectal_nnformer.evidence.cohorts import MRI_DATASET, cohort_folder
from rectal_nnformer.evidence.preset import PLANS, TRAINERS, EvidenceRun
from rectal_nnformer.study.record import External, Recipe, Study
from rectal_nnformer.study.steps import ExternalStep, TrainStep, steps_of


def study_of_seed(run: EvidenceRun, seed: int) -> Study:
    """Return the study of all recipes from one seed."""
    external = cohort_folder(run.folder, "external")
    return Study(
        folder=run.folder / f"seed_{seed}",
        dataset=MRI_DATASET,
        baseline=run.recipes[0].name,
        recipe=tuple(
            Recipe(name=one.name, trainer=f"{TRAINERS}{one.trainer}", plans=PLANS, configuration=one.configuration)
            for one in run.recipes
        ),
        folds=(0,),
        epochs=run.preset.epochs,
        iterations=run.preset.iterations,
        seed=seed,
        device=run.device,
        side_by_side=run.workers,
        external=External(images=external / "images", masks=external / "masks"),
    )


def steps_of_seed(run: EvidenceRun, seed: int) -> list[TrainStep | ExternalStep]:
    """Return what trains and scores; plans are made before, and pages of studies are not asked for."""
    return [step for step in steps_of(study_of_seed(run, seed)) if isinstance(step, TrainStep | ExternalStep)]


def study_text(run: EvidenceRun, seed: int) -> str:
    """Return the study of a seed as a study.toml, its places relative to the folder of the evidence."""
    study = study_of_seed(run, seed)
    content = study.model_dump(mode="json", exclude={"folder", "recipe", "external"}, exclude_defaults=True)
    external = {key: place.relative_to(run.folder).as_posix() for key, place in study.external or ()}
    recipes = [recipe.model_dump(exclude_none=True) for recipe in study.recipe]
    tables = [("", content), ("[external]\n", external), *(("[[recipe]]\n", recipe) for recipe in recipes)]
    # Texts, whole numbers and lists of them are written alike in JSON and TOML.
    parts = [head + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()) for head, table in tables]
    return f"{HEAD.format(seed=seed)}{chr(10).join(parts)}"


HEAD = """# What `rectal_nnformer evidence` trained and scored from seed {seed}; with other seeds `seed` alone differs.
# Cohorts, plans and pretrained weights were made before. Places are relative to its folder.

"""
