"""The same weights give the same voxels whatever the storage order and direction of the image, through nnU-Net."""

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.planning.backbones import SMALL_SMIT
from rectal_nnformer.planning.from_checkpoint import prepared_configuration, prepared_dataset_json, prepared_plans
from rectal_nnformer.planning.rules import spatial_axes

torch.set_num_threads(1)
SIZE, SPACING = (32, 16, 24), (1.0, 1.5, 2.0)
OBLIQUE = (1, 0, 0, 0, 0.96, -0.28, 0, 0.28, 0.96)


@cache
def volume():
    """Intensities (x, y, z) in RAS+ that no flip or permutation leaves as they are."""
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in SIZE), indexing="ij")
    noise = np.random.default_rng(0).normal(0, 40, SIZE)
    return (100 + 300 * x + 200 * y**2 + 100 * z**3 + noise).clip(1, 799).astype(np.float32)


def image():
    """The volume as a file holds it: LPS+ coordinates, oblique, so x and y run against RAS+."""
    stored = sitk.GetImageFromArray(volume()[::-1, ::-1].transpose(2, 1, 0))
    stored.SetSpacing(SPACING)
    stored.SetOrigin((10.0, -20.0, 30.0))
    stored.SetDirection(OBLIQUE)
    return stored


def predictor(transpose):
    """One tile, one network; arrays are stored transposed, which the weights do not notice."""
    configuration = prepared_configuration("smit", SIZE, SPACING, [[0.0, 800.0]])
    for key in ("patch_size", "spacing", "median_image_size_in_voxels"):
        configuration[key] = [configuration[key][axis] for axis in transpose]
    arch_kwargs = configuration["architecture"]["arch_kwargs"]
    arch_kwargs.update(backbone_kwargs=SMALL_SMIT, spatial_axes=spatial_axes(transpose))
    plans = prepared_plans("smit", configuration, {})
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [transpose.index(axis) for axis in range(3)]
    torch.manual_seed(2)  # both classes about half
    network = PlannedNetwork(1, 2, **arch_kwargs).eval()
    manager = PlansManager(plans)
    made = nnUNetPredictor(use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    weights = [network.state_dict()]
    made.manual_initialization(
        network, manager, manager.get_configuration("3d_fullres"), weights, prepared_dataset_json(1, 2), "", None
    )
    return made


def predicted(transpose, stored, folder):
    """Write an image, predict it as nnU-Net does, and return the mask that it writes."""
    sitk.WriteImage(stored, str(folder / "case_0000.nii.gz"))
    made = predictor(transpose)
    reader = made.plans_manager.image_reader_writer_class()
    array, properties = reader.read_images([str(folder / "case_0000.nii.gz")])
    made.predict_single_npy_array(array, properties, None, str(folder / "mask"))
    return sitk.ReadImage(str(folder / "mask.nii.gz"))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAL", "PIR"])
def test_every_orientation_gives_the_voxels_of_the_bare_network_on_x_y_z(orientation, transpose, tmp_path):
    stored = sitk.DICOMOrient(image(), orientation)
    mask = predicted(transpose, stored, tmp_path)
    for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, geometry)(), getattr(stored, geometry)(), atol=1e-5)
    with torch.no_grad():
        backbone = predictor((0, 1, 2)).network.backbone
        expected = backbone(torch.from_numpy(volume())[None, None] / 800)[0].argmax(0).numpy()
    found = sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "RAS")).transpose(2, 1, 0)
    assert 0.1 < expected.mean() < 0.9
    assert np.mean(found != expected) < 1e-3
