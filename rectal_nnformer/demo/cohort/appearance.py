"""How made scans look: the kind of scanner, its geometry and noise, the levels of tissue, and the look of tumours."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Range = tuple[float, float]
"""Bounds between which a value is drawn for each scan, or for each tumour."""

_SIGNAL = {
    "fat": 430.0,
    "muscle": 62.0,
    "cortex": 22.0,
    "red marrow": 235.0,
    "yellow marrow": 365.0,
    "bladder": 640.0,
    "wall": 85.0,
    "mucosa": 200.0,
    "gland": 185.0,
    "fluid": 420.0,
    "stool": 105.0,
    "gel": 560.0,
    "gas": 12.0,
}
"""Typical signal of turbo spin echo T2-weighted MRI, fat at 430."""

_HOUNSFIELD = {
    "fat": -100.0,
    "muscle": 58.0,
    "cortex": 650.0,
    "red marrow": 240.0,
    "yellow marrow": 130.0,
    "bladder": 8.0,
    "wall": 75.0,
    "mucosa": 110.0,
    "gland": 85.0,
    "fluid": 18.0,
    "stool": 30.0,
    "gel": 12.0,
    "gas": -950.0,
}
"""Attenuation in HU in the portal venous phase, in which walls, glands and mucosa take up contrast."""


@dataclass(frozen=True)
class TumorLook:
    """How tumours look.

    Attributes:
        brightness: Mean signal, from muscle (0) to fat (1).
        texture: Strength of coarse texture on that scale.
        mucin: Brightness of lakes where the coarse texture is high; 0 has none.
    """

    brightness: Range = (0.38, 0.62)
    texture: Range = (0.02, 0.06)
    mucin: float = 0.0


@dataclass(frozen=True)
class Appearance:
    """How a made scan looks; by default as the demo's T2-weighted MRI.

    Attributes:
        spacing: Voxel size along (z, y, x), mm.
        matrix: Voxels along y and x.
        slices: Least and most slices.
        lowest: Height of the lowest slice above the lower symphysis, mm.
        signal: Level of each tissue; that of a scan is within a tenth of it.
        streaks: What fat adds to muscle between its bundles.
        crumbs: What bright crumbs add to stool.
        air: Level of air, the lowest that a tissue is painted with.
        coil: How far the signal falls towards the corners of the field.
        near: How far it rises towards the front and back, where coils lie.
        noise: Standard deviation of the noise.
        reconstructed: Whether noise is that of a reconstruction, as of CT, which is finely grained and can be negative,
            and not Rician, as of the magnitude of MRI.
        tumor: The look of tumours.
    """

    spacing: tuple[float, float, float] = (3.0, 0.5, 0.5)
    matrix: int = 384
    slices: tuple[int, int] = (19, 24)
    lowest: Range = (-6, 3)
    signal: Mapping[str, float] = field(default_factory=lambda: _SIGNAL)
    streaks: float = 110.0
    crumbs: float = 130.0
    air: float = 0.0
    coil: Range = (0.25, 0.5)
    near: Range = (0.05, 0.2)
    noise: Range = (9, 15)
    reconstructed: bool = False
    tumor: TumorLook = TumorLook()


MRI = Appearance()
"""The demo's."""

MUCINOUS_MRI = replace(
    MRI,
    spacing=(5.0, 0.5, 0.5),
    slices=(12, 15),
    coil=(0.45, 0.7),
    near=(0.25, 0.5),
    noise=(12, 20),
    tumor=TumorLook((0.72, 0.92), (0.06, 0.12), 0.25),
)
"""Of another site: thick slices, another coil, and tumours that are brighter and hold lakes of mucin."""

CONTRAST_CT = Appearance(
    spacing=(3.0, 0.75, 0.75),
    matrix=256,
    slices=(44, 52),
    lowest=(-42, -30),
    signal=_HOUNSFIELD,
    streaks=-45.0,
    crumbs=60.0,
    air=-1000.0,
    coil=(0, 0),
    near=(0, 0),
    noise=(10, 22),
    reconstructed=True,
    tumor=TumorLook((0.1, 0.2), (0.01, 0.03)),
)
"""CT with contrast, in HU, over more of the body."""
