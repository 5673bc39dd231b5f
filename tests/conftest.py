"""What several test modules share."""

import pytest
from pipeline import environment, run, write_cohort


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """Environment and base folder of Dataset007_Small: six small cases, converted and planned for smit_small."""
    base = tmp_path_factory.mktemp("small_dataset")
    variables = environment(base)
    write_cohort(base / "cohort", 6)
    folders = ("--images", base / "cohort/images", "--masks", base / "cohort/masks")
    run(variables, "rectal_nnformer", "convert", "nifti", *folders, "-d", 7, "--name", "Small")
    run(variables, "rectal_nnformer", "plan_and_preprocess", "-d", 7, "--backbone", "smit_small", "-np", 1, "-npfp", 1)
    return variables, base
