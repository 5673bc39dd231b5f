"""On a real pelvic series: the pretraining cube, padded, against the planned patch, with the same random weights."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rectal_nnformer.analysis.dilution import Tile, measure_dilution, stage_records
from rectal_nnformer.analysis.tiles import sliding_window
from rectal_nnformer.demo.cohort.implant import implant_tumors
from rectal_nnformer.demo.cohort.rectum_outline import outline_mask, read_rectum_outlines
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.planning.backbones import BACKBONES
from rectal_nnformer.planning.rules import choose_patch_size

REAL = Path(__file__).parents[2] / "shared" / "data" / "pelvic_t2w"
SERIES = "prostatex-0000_t2w_axial"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not REAL.is_dir(), reason="real series are not at hand")]


@pytest.fixture(scope="module")
def real_case():
    """An axial series with an implanted tumour at 1 mm: image in [0, 1] without exact zeros, and tumour, (z, y, x)."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(REAL / SERIES)))
    scan = reader.Execute()
    rectum = outline_mask(read_rectum_outlines(REAL / "rectum.json")[SERIES], scan.GetSize()[::-1], SERIES)
    case = implant_tumors(scan, rectum, np.random.default_rng(0), num_tumors=1)
    image = resampled(case.image, sitk.sitkLinear)
    image = (image / np.percentile(image, 99)).clip(0.001, 1)
    return Tile(torch.from_numpy(image)[None], torch.from_numpy(resampled(case.mask, sitk.sitkNearestNeighbor) > 0))


def resampled(image, interpolator):
    """Return an image at 1 mm as float32 (z, y, x)."""
    spacing = image.GetSpacing()
    size = [round(n * s) for n, s in zip(image.GetSize(), spacing, strict=True)]
    origin = image.TransformContinuousIndexToPhysicalPoint([0.5 / s - 0.5 for s in spacing])
    moved = sitk.Resample(
        image, size, sitk.Transform(), interpolator, origin, (1, 1, 1), image.GetDirection(), 0, sitk.sitkFloat32, True
    )
    return sitk.GetArrayFromImage(moved)


def stages(case, backbone, patch_size):
    """Measure random weights on the tile with the most tumour of a patch size (x, y, z)."""
    torch.manual_seed(0)
    network = PlannedNetwork(
        1, 2, backbone=backbone, backbone_kwargs={}, intensity_window=[[0.0, 1.0]], spatial_axes=[2, 1, 0]
    ).eval()
    tile = max(sliding_window(case, patch_size[::-1]), key=lambda tile: int(tile.tumor.sum()))
    found = stage_records(measure_dilution(network, [tile], torch.device("cpu")))
    print(backbone, patch_size, found)
    return found


@pytest.mark.parametrize(
    ("backbone", "planned_size", "real_planned", "real_cubic"),
    [
        ("smit", (128, 128, 64), [0.906, 0.938, 1.0, 1.0], [0.453, 0.469, 0.5, 0.5]),
        ("swin_unetr", (96, 96, 64), [0.795, 0.525, 0.42, 1.0], [0.568, 0.394, 0.42, 0.667]),
    ],
)
def test_the_padded_cube_dilutes_attention_more_than_the_planned_patch(
    real_case, backbone, planned_size, real_planned, real_cubic
):
    assert real_case.tumor.shape == (57, 192, 192)
    assert choose_patch_size([real_case.tumor.shape[::-1]], BACKBONES[backbone]) == planned_size
    cube = (BACKBONES[backbone].largest,) * 3
    planned, cubic = stages(real_case, backbone, planned_size), stages(real_case, backbone, cube)
    for stage in (*planned, *cubic):
        # Random weights attend nearly uniformly, but for the mask of shifted windows.
        assert stage.adi <= stage.uniform_adi + 0.02
    assert all(a.adi <= b.adi + 1e-6 for a, b in zip(planned, cubic, strict=True))
    assert planned[0].adi < cubic[0].adi
    assert planned[0].tumor_adi is not None
    assert [stage.real_token_fraction for stage in planned] == pytest.approx(real_planned, abs=0.02)
    assert [stage.real_token_fraction for stage in cubic] == pytest.approx(real_cubic, abs=0.02)
    if backbone == "smit":
        shares = [[stage.scattered_padding_share for stage in found] for found in (planned, cubic)]
        assert all(a < b for a, b in zip(*shares, strict=True))
