"""The anatomy of the male and female lower pelvis as implicit shapes in mm, varied from case to case.

Coordinates: x to the patient's left, y to the back, both from the middle of the field of view; z upwards from the
level of the lower symphysis. Shapes are evaluated on a grid whose coordinates were bent slightly, so that none of them
stays a plain ellipsoid. Their places and sizes follow axial T2-weighted series of the prostate and rectum.
"""

from dataclasses import dataclass

import numpy as np

from rectal_nnformer.demo.cohort.fields import Field


@dataclass(frozen=True)
class Grid:
    """Coordinates in mm of every voxel, each broadcastable to (z, y, x)."""

    x: Field
    y: Field
    z: Field


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned by `angle` degrees in the axial plane (from x towards y); lengths in mm."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float = 0.0

    def implicit(self, grid: Grid) -> Field:
        """Return relative distance from the centre minus 1: negative inside, -1 at the centre."""
        # Plain floats: a numpy scalar of 64 bits would make every array twice as large.
        cosine, sine = float(np.cos(np.radians(self.angle))), float(np.sin(np.radians(self.angle)))
        x, y, z = grid.x - self.center[0], grid.y - self.center[1], grid.z - self.center[2]
        along, across = cosine * x + sine * y, cosine * y - sine * x
        squared = (along / self.radii[0]) ** 2 + (across / self.radii[1]) ** 2 + (z / self.radii[2]) ** 2
        return np.sqrt(squared) - np.float32(1)

    def shrunk(self, thickness: float) -> "Ellipsoid":
        """Return the ellipsoid without a shell of `thickness` mm."""
        x, y, z = (max(radius - thickness, 0.5) for radius in self.radii)
        return Ellipsoid(self.center, (x, y, z), self.angle)

    def mirrored(self) -> "Ellipsoid":
        """Return the ellipsoid of the other side of the body."""
        x, y, z = self.center
        return Ellipsoid((-x, y, z), self.radii, -self.angle)

    def varied(self, rng: np.random.Generator) -> "Ellipsoid":
        """Return the ellipsoid moved by some mm and sized by some percent."""
        x, y, z = (np.asarray(self.center) + rng.normal(0, 1.2, 3)).tolist()
        radius_x, radius_y, radius_z = (np.asarray(self.radii) * rng.uniform(0.93, 1.07, 3)).tolist()
        return Ellipsoid((x, y, z), (radius_x, radius_y, radius_z), self.angle + rng.normal(0, 2))


_TALL = 500.0

# Shapes of the patient's left side; the right side mirrors them. Muscles in front of or beside the bones they cover.
MUSCLES = {
    "rectus abdominis": Ellipsoid((17, -71, 48), (18, 6.5, 34)),
    "obturator externus": Ellipsoid((52, -16, -4), (50, 14, 24), 38),
    "pectineus": Ellipsoid((64, -50, 2), (40, 15, 30), 20),
    "adductors": Ellipsoid((32, -22, -18), (32, 13, 20), 55),
    "iliopsoas": Ellipsoid((88, -48, 40), (27, 16, 45), 12),
    "gluteus minimus": Ellipsoid((92, -14, 72), (22, 18, 24), 5),
    "obturator internus": Ellipsoid((50, 14, 28), (50, 9, _TALL), 100),
    "gemelli": Ellipsoid((70, 52, 25), (29, 14, 55), -35),
    "gluteus maximus": Ellipsoid((64, 92, 30), (60, 21, _TALL), -14),
    "quadratus femoris": Ellipsoid((92, 36, 0), (24, 26, 28), 20),
    "piriformis": Ellipsoid((84, 52, 62), (28, 15, 26), -20),
}
BONES = {
    "pubis": Ellipsoid((22, -52, 6), (22, 16, 18), 14),
    "lower ramus": Ellipsoid((42, -8, -12), (36, 7, 12), 52),
    "upper ramus": Ellipsoid((58, -36, 28), (25, 13, 14), 25),
    "ischium": Ellipsoid((66, 50, 8), (17, 18, 28), -25),
    "posterior column": Ellipsoid((72, 32, 46), (13, 26, 34), 8),
    "acetabular roof": Ellipsoid((70, -4, 74), (15, 34, 19), 3),
}
FEMORAL_HEAD = Ellipsoid((96, -2, 42), (25, 25, 25))
JOINT = Ellipsoid((96, -2, 42), (28.5, 28.5, 28.5))
VESSELS = (
    Ellipsoid((70, -66, 30), (6.5, 6.0, _TALL)),
    Ellipsoid((60, -58, 30), (5.5, 7.0, _TALL), 20),
    Ellipsoid((47, -30, 42), (2.5, 3.5, 26)),
)
COCCYX = Ellipsoid((0, 84, 62), (10, 7, 26))


@dataclass(frozen=True)
class Rectum:
    """The course of the rectum: a curved tube with an elliptic section, from the anal canal upwards."""

    bottom: float
    bend: float
    back: float
    sway: float
    phase: float
    radius: float
    flatness: float
    waist: float

    @staticmethod
    def drawn(rng: np.random.Generator) -> "Rectum":
        """Draw a rectum: how it bends backwards, sways sideways and widens."""
        return Rectum(
            bottom=rng.uniform(10, 16),
            bend=rng.uniform(14, 22),
            back=rng.uniform(22, 30),
            sway=rng.uniform(2, 7),
            phase=rng.uniform(0, 2 * np.pi),
            radius=rng.uniform(17.5, 24),
            flatness=rng.uniform(0.82, 1.2),
            waist=rng.uniform(0.04, 0.12),
        )

    def center(self, z: Field) -> tuple[Field, Field]:
        """Return x and y of the middle at heights z."""
        height = z - self.bottom
        x = self.sway * np.sin(height / 16 + self.phase) * np.clip(height / 12, 0, 1)
        y = 23 + self.back * (1 - np.exp(-np.maximum(height, 0) / self.bend))
        return x, y

    def radii(self, z: Field) -> tuple[Field, Field]:
        """Return the radii along x and y at heights z."""
        height = np.maximum(z - self.bottom, 0)
        size = self.radius * (0.62 + 0.38 * np.clip(height / 18, 0, 1))
        size = size * (1 + self.waist * np.sin(height / 6 + self.phase))
        return size / self.flatness**0.5, size * self.flatness**0.5

    def implicit(self, grid: Grid, level: Field, inset: Field | float = 0.0) -> Field:
        """Return relative distance minus 1 of the tube whose wall lies `inset` mm within the outer surface.

        The course follows `level`, the height of each slice in mm, (z, 1, 1), rather than the grid's bent heights.
        """
        (x, y), (radius_x, radius_y) = self.center(level), self.radii(level)
        squared = ((grid.x - x) / (radius_x - inset)) ** 2 + ((grid.y - y) / (radius_y - inset)) ** 2
        return np.maximum(np.sqrt(squared) - np.float32(1), (self.bottom - grid.z + inset) / 6)
