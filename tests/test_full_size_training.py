"""Full-size networks, planned, trained and validated as they are published, by real commands."""

import json

import pytest
from pipeline import converted_cohort, run, run_here

DATASET = "Dataset501_Rectal"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Environment and base folder of a converted dataset for which the published patches are planned."""
    base = tmp_path_factory.mktemp("published")
    return converted_cohort(base, 501, "Rectal", num_cases=5, size=(128, 128, 19), spacing=(1.0, 1.0, 3.0)), base


@pytest.mark.parametrize(
    ("backbone", "name", "patch_size"),
    [
        ("smit", "SMIT", [64, 128, 128]),
        ("swin_unetr", "SwinUNETR", [64, 96, 96]),
        ("swin_unetr_v2", "SwinUNETRV2", [64, 96, 96]),
    ],
)
def test_full_size_networks_train_and_validate_on_the_published_patch(converted, backbone, name, patch_size):
    """An epoch of one iteration, one case validated."""
    variables, base = converted
    plans = f"nnUNetRectal{name}Plans"
    run_here(
        variables, "rectal_nnformer", "plan_and_preprocess", "-d", 501, "--backbone", backbone, "-np", 1, "-npfp", 1
    )
    configurations = json.loads((base / f"nnUNet_preprocessed/{DATASET}/{plans}.json").read_text())["configurations"]
    assert configurations["3d_fullres"]["patch_size"] == patch_size
    trainer = f"Short{name}"
    run(variables, "rectal_nnformer", "train", 501, "3d_fullres", 0, "-tr", trainer, "-p", plans, "-device", "cpu")
    fold = base / f"nnUNet_results/{DATASET}/{trainer}__{plans}__3d_fullres/fold_0"
    assert len(list((fold / "validation").glob("*.nii.gz"))) == 1
    assert json.loads((fold / "validation/lesion_detection.json").read_text())["n_reference"] == 1
