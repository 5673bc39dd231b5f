"""On a real pelvic series: the pretraining cube, padded, against the planned patch, with the same random weights."""

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
from pipeline import environment, run

from rectal_nnformer.cohort import write_implanted_cohort

REAL = Path(__file__).parents[2] / "shared" / "data" / "pelvic_t2w"
DATASET = "Dataset601_Real"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not REAL.is_dir(), reason="real series are not at hand")]


@pytest.fixture(scope="module")
def real_dataset(tmp_path_factory):
    """Environment and base folder of five implanted cases of two real scans, converted."""
    base = tmp_path_factory.mktemp("real")
    variables = environment(base)
    scans = {}
    for folder in sorted(REAL.glob("*axial")):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        scans[folder.name] = reader.Execute()
    write_implanted_cohort(base / "cohort", scans, REAL / "rectum.json", 5)
    folders = ("--images", base / "cohort/images", "--masks", base / "cohort/masks")
    run(variables, "rectal_nnformer", "convert", "nifti", *folders, "-d", 601, "--name", "Real")
    return variables, base


def stages(real_dataset, name, configuration):
    """Measure the first fold with random weights; return its stages and the whole result."""
    variables, base = real_dataset
    run(
        variables, "rectal_nnformer", "attention", "-d", 601, "-tr", f"nnUNetTrainer{name}_Base_Scratch",
        "-p", f"nnUNetRectal{name}Plans", "-c", configuration, "-f", 0, "--weights", "random",
        "-o", base / f"{name}_{configuration}", "-device", "cpu",
    )  # fmt: skip
    path = base / f"{name}_{configuration}/fold_0/attention_dilution_random.json"
    content = json.loads(path.read_text())
    print(name, configuration, json.dumps(content["stages"]))
    return content["stages"], content


@pytest.mark.parametrize(
    ("backbone", "name", "real_planned", "real_cubic"),
    [
        ("smit", "SMIT", [0.906, 0.938, 1.0, 1.0], [0.453, 0.469, 0.5, 0.5]),
        ("swin_unetr", "SwinUNETR", [0.795, 0.525, 0.42, 1.0], [0.568, 0.394, 0.42, 0.667]),
    ],
)
def test_the_padded_cube_dilutes_attention_more_than_the_planned_patch(
    real_dataset, backbone, name, real_planned, real_cubic
):
    variables, _ = real_dataset
    run(variables, "rectal_nnformer", "plan_and_preprocess", "-d", 601, "-b", backbone, "-np", 1, "-npfp", 1)
    planned, content = stages(real_dataset, name, "3d_fullres")
    cubic, _ = stages(real_dataset, name, "3d_fullres_cubic")
    assert content["cases"][0]["tiles"] == 4 if backbone == "smit" else 9
    for stage in (*planned, *cubic):
        # Random weights attend nearly uniformly, but for the mask of shifted windows.
        assert stage["adi"] <= stage["uniform_adi"] + 0.02
    assert all(a["adi"] <= b["adi"] + 1e-6 for a, b in zip(planned, cubic, strict=True))
    assert planned[0]["adi"] < cubic[0]["adi"]
    assert [stage["real_token_fraction"] for stage in planned] == pytest.approx(real_planned, abs=0.02)
    assert [stage["real_token_fraction"] for stage in cubic] == pytest.approx(real_cubic, abs=0.02)
    if backbone == "smit":
        shares = [[stage["scattered_padding_share"] for stage in found] for found in (planned, cubic)]
        assert all(a < b for a, b in zip(*shares, strict=True))
