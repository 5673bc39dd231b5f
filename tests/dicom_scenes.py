"""DICOM series that lie in space in every way, and lesions on them that no flip leaves as they are."""

import numpy as np
import SimpleITK as sitk
from conversion_inputs import SAGITTAL, TILT, as_image, write_series
from scipy.spatial.transform import Rotation

from rectal_nnformer.dicom.lesions import Algorithm
from rectal_nnformer.dicom.series import find_series

SIZE = (44, 40, 12)  # x, y, z
SPACING = (0.8, 0.9, 3.0)
FRAME = "1.2.826.0.1.77"
ALGORITHM = Algorithm("rectal_nnformer", "1.2.3", "0123456789abcdef0123456789abcdef")
CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
DIRECTIONS = {
    "oblique axial": TILT,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "oblique sagittal": Rotation.from_euler("xyz", [8, -11, 17], degrees=True).as_matrix() @ SAGITTAL,
    "oblique coronal": Rotation.from_euler("xyz", [-9, 14, 6], degrees=True).as_matrix() @ CORONAL,
    "reversed order": TILT @ np.diag([1.0, -1.0, -1.0]),
    "feet first": TILT @ np.diag([-1.0, 1.0, -1.0]),
    "rotated": Rotation.from_euler("xyz", [21, 13, -32], degrees=True).as_matrix(),
    "turned in plane": TILT @ np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
}
PLANES = ["axial", "sagittal", "coronal"]


def write_scene(folder, direction=TILT, uid="1.2.826.0.1.5", size=SIZE, spacing=SPACING, **tags):
    """Write a series of noise with a frame of reference; return it as it is found."""
    noise = np.random.default_rng(0).integers(1, 1000, size[::-1]).astype(np.int16)
    write_series(folder, as_image(noise, direction, spacing), uid, T0020_0052=FRAME, **tags)
    (series,) = find_series(folder, PLANES).series
    return series


def coordinates(series):
    """Return the patient coordinates (3, z, y, x) of every voxel by SimpleITK, which knows nothing of our affine."""
    image = sitk.Image([*series.shape[::-1]], sitk.sitkUInt8)
    image.SetOrigin(series.origin)
    image.SetSpacing(series.spacing)
    image.SetDirection(series.direction)
    first, *others = (
        np.array(image.TransformIndexToPhysicalPoint(index)) for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    steps = np.stack([other - first for other in others], axis=1)
    return first[:, None, None, None] + np.einsum("ij,jzyx->izyx", steps, np.indices(series.shape)[::-1])


def hand(series, radius=10.6):
    """Return two masks: a ball of 5 cm3 with a hole, and a bar that points left, with a thumb to the front."""
    points = coordinates(series)
    centre = points[:, series.shape[0] // 2, series.shape[1] // 2, series.shape[2] // 2]
    left, back, up = (points.reshape(3, -1).T - centre).T.reshape(points.shape)
    ball = left**2 + back**2 + up**2 < radius**2
    hole = (left - 2) ** 2 + (back + 2) ** 2 + up**2 < 16
    bar = (np.abs(back) < 2) & (np.abs(up) < 3.5) & (left > 0) & (left < 14)
    thumb = (np.abs(left - 4) < 2.5) & (np.abs(up) < 3.5) & (back < 0) & (back > -9)
    return ball & ~hole, bar | thumb, centre
