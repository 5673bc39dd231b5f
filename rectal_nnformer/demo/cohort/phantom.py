"""Synthetic scans of the pelvis with tumours in the rectal wall, T2-weighted MRI or what an `Appearance` says.

A scan is painted tissue by tissue, each by its share of a voxel, then seen through a scanner: coil shading, point
spread, noise, oblique slices. Arrays have axes (z, y, x).
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from rectal_nnformer.demo.cohort import anatomy
from rectal_nnformer.demo.cohort.appearance import MRI, Appearance
from rectal_nnformer.demo.cohort.fields import Field, Mask, blend, partial_volume, smooth_noise
from rectal_nnformer.demo.cohort.tumors import Case, place_tumors

_BEND_MM = 9.0
"""More than coordinates are ever bent."""
_MIDDLE_MM = ((0.0, 26.0, 0.0), (62.0, 66.0, 500.0))
"""Centre and reach along (x, y, z) of the region of the pelvic floor, its organs and the mesorectum."""


@dataclass(frozen=True)
class _Canvas:
    """A scan being painted, with what the painters share: coordinates before and after bending, and bumps."""

    signal: Field
    grid: anatomy.Grid
    unbent: anatomy.Grid
    bumps: Field
    levels: dict[str, float]
    appearance: Appearance
    rng: np.random.Generator

    def noise(self, length: float | tuple[float, float, float]) -> Field:
        """Return noise of standard deviation 1 without detail finer than `length` mm."""
        return smooth_noise(self.rng, self.signal.shape, self.appearance.spacing, length)

    def paint(self, implicit: Field, value: Field | float) -> None:
        """Fill the inside of an implicit surface."""
        blend(self.signal, partial_volume(implicit), value)

    def paint_shape(self, shape: anatomy.Ellipsoid, value: Field | float, bumps: float = 0.0) -> None:
        """Fill an ellipsoid whose surface is moved by `bumps` of its size; only its surroundings are computed."""
        reach = 1 + 3 * bumps
        in_plane = reach * max(shape.radii[:2]) + _BEND_MM
        box = self.box(shape.center, (in_plane, in_plane, reach * shape.radii[2] + _BEND_MM))
        if any(side.stop - side.start < 2 for side in box):
            return
        part = self.part(box)
        part.paint(shape.implicit(part.grid) + bumps * part.bumps, value if isinstance(value, float) else value[box])

    def box(self, center: tuple[float, float, float], reach: tuple[float, float, float]) -> tuple[slice, ...]:
        """Return the voxels within a reach of a centre, both along (x, y, z) in mm before bending."""
        sides = []
        for axis, middle, distance in zip((self.unbent.x, self.unbent.y, self.unbent.z), center, reach, strict=True):
            low, high = np.searchsorted(axis.ravel(), (middle - distance, middle + distance))
            sides.append(slice(int(low), int(high)))
        return tuple(reversed(sides))

    def part(self, box: tuple[slice, ...]) -> "_Canvas":
        """Return a part of the canvas; what is painted there shows on the whole."""
        z, y, x = box
        return _Canvas(
            self.signal[box],
            anatomy.Grid(self.grid.x[box], self.grid.y[box], self.grid.z[box]),
            anatomy.Grid(self.unbent.x[..., x], self.unbent.y[:, y], self.unbent.z[z]),
            self.bumps[box],
            self.levels,
            self.appearance,
            self.rng,
        )


def synthesize_case(rng: np.random.Generator, appearance: Appearance = MRI) -> Case:
    """Make one synthetic scan with one to three tumours, oblique, of 16-bit integers.

    MRI has 384 x 384 x 19 to 24 voxels of 0.5 x 0.5 x 3 mm.
    """
    canvas = _blank_canvas(rng, appearance)
    _paint_fat(canvas)
    _paint_muscles(canvas)
    _paint_bones(canvas)
    _paint_large_vessels(canvas)
    _paint_bladder(canvas)
    middle = canvas.box(*_MIDDLE_MM)
    organs = canvas.part(middle)
    _paint_pelvic_floor(organs)
    (_paint_prostate if rng.random() < 0.6 else _paint_uterus)(organs)
    _paint_plexus(organs)
    rectum = np.zeros(canvas.signal.shape, dtype=bool)
    rectum[middle] = _paint_rectum(organs)
    tumors = place_tumors(rectum, appearance.spacing, rng, look=appearance.tumor)
    for tumor in tumors:
        blend(canvas.signal, tumor.share, tumor.signal(canvas.levels["muscle"], canvas.levels["fat"]))
    _paint_air(canvas)
    mask = np.zeros(rectum.shape, dtype=np.uint8)
    for tumor in tumors:
        mask[tumor.mask] = 1
    image = sitk.GetImageFromArray(_acquire(canvas))
    _set_oblique_geometry(image, appearance.spacing, rng)
    mask_image = sitk.GetImageFromArray(mask)
    mask_image.CopyInformation(image)
    return Case(image, mask_image, tumors)


def _blank_canvas(rng: np.random.Generator, appearance: Appearance) -> _Canvas:
    """Draw the number of slices, the level, the body's size and the bend of its coordinates."""
    least, most = appearance.slices
    shape = (int(rng.integers(least, most + 1)), appearance.matrix, appearance.matrix)
    spacing, middle = appearance.spacing, (appearance.matrix - 1) / 2
    z, y, x = np.ogrid[tuple(slice(0, size) for size in shape)]
    size = rng.uniform(0.93, 1.07)
    shift_x, shift_y = (float(shift) for shift in rng.normal(0, 2.5, 2))
    unbent = anatomy.Grid(
        x=(((x - middle) * spacing[2] - shift_x) / size).astype(np.float32),
        y=(((y - middle) * spacing[1] - shift_y) / size).astype(np.float32),
        z=(z * spacing[0] + rng.uniform(*appearance.lowest)).astype(np.float32),
    )
    bends = [
        np.clip(1.6 * smooth_noise(rng, shape, spacing, 16) + 0.35 * smooth_noise(rng, shape, spacing, 4), -8, 8)
        for _ in range(3)
    ]
    grid = anatomy.Grid(unbent.x + bends[0], unbent.y + bends[1], unbent.z + bends[2])
    bumps = np.clip(smooth_noise(rng, shape, spacing, 5), -3, 3)
    levels = {name: value * rng.uniform(0.9, 1.1) for name, value in appearance.signal.items()}
    return _Canvas(np.full(shape, levels["fat"], np.float32), grid, unbent, bumps, levels, appearance, rng)


def _both_sides(shape: anatomy.Ellipsoid, rng: np.random.Generator) -> tuple[anatomy.Ellipsoid, anatomy.Ellipsoid]:
    return shape.varied(rng), shape.mirrored().varied(rng)


def _paint_fat(canvas: _Canvas) -> None:
    """Fat with lobules and thin dark septa and vessels: where two smooth fields both pass through zero or nearly so."""
    canvas.signal[:] *= 1 + 0.045 * canvas.noise(6) + 0.025 * canvas.noise((2.0, 1.0, 1.0))
    septa = np.abs(canvas.noise((6.0, 3.0, 3.0)))
    spread = canvas.noise(5.0)
    canvas.signal[:] *= 1 - 0.45 * np.exp(-((septa / 0.07) ** 2)) * np.clip(spread, 0, 1.2)


def _paint_muscles(canvas: _Canvas) -> None:
    """Dark muscle with streaks of fat between its bundles."""
    bundles = canvas.noise((5.0, 0.8, 2.2))
    patches = canvas.noise((6.0, 3.0, 3.0))
    streaks = np.clip(bundles - 1.1, 0, 1.5) * np.clip(0.5 + patches, 0, 1.5)
    muscle = canvas.levels["muscle"] * (1 + 0.14 * canvas.noise((3.0, 1.0, 1.0))) + canvas.appearance.streaks * streaks
    for shape in anatomy.MUSCLES.values():
        for side in _both_sides(shape, canvas.rng):
            canvas.paint_shape(side, muscle, bumps=0.06)


def _paint_bones(canvas: _Canvas) -> None:
    """Marrow within a dark cortex; the femoral heads fattier, in their joints."""
    trabeculae = 1 + 0.09 * canvas.noise((3.0, 1.2, 1.2)) + 0.12 * canvas.noise(6)
    red, yellow = canvas.levels["red marrow"] * trabeculae, canvas.levels["yellow marrow"] * trabeculae
    cortex = canvas.levels["cortex"]
    for shape in (*anatomy.BONES.values(), anatomy.COCCYX):
        sides = _both_sides(shape, canvas.rng) if shape.center[0] else (shape.varied(canvas.rng),)
        for side in sides:
            canvas.paint_shape(side, cortex, bumps=0.07)
            canvas.paint_shape(side.shrunk(1.6), red, bumps=0.07)
    for joint in (anatomy.JOINT, anatomy.JOINT.mirrored()):
        canvas.paint_shape(joint, cortex)
    for head in (anatomy.FEMORAL_HEAD, anatomy.FEMORAL_HEAD.mirrored()):
        canvas.paint_shape(head, canvas.levels["fluid"])
        canvas.paint_shape(head.shrunk(0.8), cortex)
        canvas.paint_shape(head.shrunk(1.9), yellow)
    symphysis = anatomy.Ellipsoid((0, -52, 4), (1.8, 15, 19))
    canvas.paint_shape(symphysis, 1.5 * canvas.levels["muscle"])


def _paint_pelvic_floor(canvas: _Canvas) -> None:
    """The levator funnel, thin above and closing around the anal canal below."""
    grid, rng = canvas.grid, canvas.rng
    rise = np.clip((grid.z + 6) / 40, 0, 1.6)
    across = np.hypot(grid.x / (19 + 22 * rise), (grid.y - 14 - 8 * rise) / (33 + 14 * rise)) - 1
    half_thickness = rng.uniform(1.4, 2.2) * (1 + 0.3 * canvas.noise(6)) / (22 + 18 * rise)
    # In front the funnel is open: there the pubis and the bladder lie.
    open_front = (-6 - grid.y) / 20
    above = (grid.z - 34) / 20
    texture = canvas.levels["muscle"] * (1.25 + 0.2 * canvas.noise((3.0, 0.8, 0.8)))
    canvas.paint(np.maximum(np.maximum(np.abs(across) - half_thickness, open_front), above), texture)
    inner = anatomy.Ellipsoid((0, 14, -4), (17, 28, 23)).varied(rng)
    canvas.paint_shape(inner, texture * 1.25)
    sphincter = anatomy.Ellipsoid((0, 22, 0), (11, 14, 22)).varied(rng)
    canvas.paint_shape(sphincter, texture * 1.9)
    canvas.paint_shape(sphincter.shrunk(5), texture * 1.3)
    canvas.paint_shape(sphincter.shrunk(8.5), canvas.levels["mucosa"])
    urethra = anatomy.Ellipsoid((0, -8, 6), (6, 6, 25)).varied(rng)
    canvas.paint_shape(urethra, texture * 2.0)
    canvas.paint_shape(urethra.shrunk(3.5), texture)


def _paint_bladder(canvas: _Canvas) -> None:
    """Bright urine in a dark wall; from nearly empty to full."""
    rng = canvas.rng
    width, height = rng.uniform(29, 41), rng.uniform(20, 34)
    outer = anatomy.Ellipsoid((rng.normal(0, 2), -33, 34 + height * 0.8), (width, rng.uniform(20, 27), height))
    canvas.paint_shape(outer, canvas.levels["wall"] * (1 + 0.15 * canvas.noise((3.0, 1.0, 1.0))))
    urine = canvas.levels["bladder"] * (1 + 0.02 * canvas.noise(5))
    canvas.paint_shape(outer.shrunk(rng.uniform(2.5, 5.0)), urine)


def _paint_prostate(canvas: _Canvas) -> None:
    """Prostate with nodular transition and bright peripheral zone, and the seminal vesicles above it."""
    rng = canvas.rng
    size = rng.uniform(0.85, 1.15)
    nodules = canvas.noise((3.0, 1.8, 1.8))
    gland = anatomy.Ellipsoid((0, 0, 27), (25 * size, 17 * size, 20)).varied(rng)
    canvas.paint_shape(gland, canvas.levels["wall"])
    canvas.paint_shape(gland.shrunk(0.8), canvas.levels["fluid"] * (0.8 + 0.16 * nodules))
    transition = anatomy.Ellipsoid((0, -4 * size, 28), (18 * size, 12 * size, 18)).varied(rng)
    canvas.paint_shape(transition, canvas.levels["wall"])
    canvas.paint_shape(transition.shrunk(0.7), canvas.levels["gland"] * (1 + 0.3 * nodules))
    tubules = canvas.levels["gland"] * (1.2 + 0.75 * np.tanh(2 * canvas.noise((3.0, 1.0, 1.0))))
    for side in _both_sides(anatomy.Ellipsoid((14, 8, 51), (17, 6.5, 9), -12), rng):
        canvas.paint_shape(side, tubules, bumps=0.15)


def _paint_uterus(canvas: _Canvas) -> None:
    """Vagina and cervix: dark stroma around a bright canal, the uterine body grey above it."""
    rng = canvas.rng
    texture = 1 + 0.12 * canvas.noise((3.0, 1.5, 1.5))
    vagina = anatomy.Ellipsoid((0, 2, 14), (17, 6.5, 24)).varied(rng)
    canvas.paint_shape(vagina, canvas.levels["gland"] * texture)
    canvas.paint_shape(vagina.shrunk(4.5), canvas.levels["fluid"])
    body = anatomy.Ellipsoid((rng.normal(0, 3), -2, 52), (23, 15, 26), rng.normal(0, 8)).varied(rng)
    canvas.paint_shape(body, canvas.levels["gland"] * 1.2 * texture)
    canvas.paint_shape(body.shrunk(6.5), canvas.levels["wall"] * texture)
    canvas.paint_shape(body.shrunk(10), canvas.levels["fluid"] * texture)


def _paint_large_vessels(canvas: _Canvas) -> None:
    """Large vessels, dark by flow within a grey wall."""
    for vessel in anatomy.VESSELS:
        for side in _both_sides(vessel, canvas.rng):
            canvas.paint_shape(side, canvas.levels["wall"] * 2)
            canvas.paint_shape(side.shrunk(1.2), canvas.levels["cortex"] * canvas.rng.uniform(1, 3))


def _paint_plexus(canvas: _Canvas) -> None:
    """The veins beside the organs as bright and dark spots."""
    spots = canvas.noise((4.0, 1.2, 1.2))
    for side in _both_sides(anatomy.Ellipsoid((32, 8, 34), (7, 17, 22), 10), canvas.rng):
        veins = np.maximum(side.implicit(canvas.grid), 1.2 - np.abs(spots))
        bright, dark = np.float32(1.25 * canvas.levels["fluid"]), np.float32(canvas.levels["wall"])
        canvas.paint(veins, np.where(spots > 0, bright, dark))


def _paint_rectum(canvas: _Canvas) -> Mask:
    """Mesorectum, wall and lumen; return wall and lumen as a mask."""
    grid, level, rng = canvas.grid, canvas.unbent.z, canvas.rng
    rectum = anatomy.Rectum.drawn(rng)
    # A coat of mesorectal fat pushes the organs aside where they would overlap the rectum.
    canvas.paint(
        rectum.implicit(grid, level, -rng.uniform(2.0, 4.0)), canvas.levels["fat"] * (1 + 0.04 * canvas.noise(3))
    )
    _paint_mesorectal_vessels(canvas, rectum)
    outer = rectum.implicit(grid, level)
    fibres = 1 + 0.16 * canvas.noise((3.0, 0.8, 0.8))
    canvas.paint(outer, canvas.levels["wall"] * fibres)
    muscle_layer = rng.uniform(2.0, 2.8)
    canvas.paint(rectum.implicit(grid, level, muscle_layer), canvas.levels["mucosa"] * fibres)
    folds = np.clip(1.2 * canvas.noise((5.0, 4.0, 4.0)), -0.8, 3.0)
    lining = muscle_layer + rng.uniform(1.2, 2.0) + folds
    canvas.paint(rectum.implicit(grid, level, lining), _lumen_content(canvas, rectum))
    return outer < 0


def _paint_mesorectal_vessels(canvas: _Canvas, rectum: anatomy.Rectum) -> None:
    """Small vessels and nodes in the fat around the rectum, and the thin fascia that bounds it."""
    around = rectum.implicit(canvas.grid, canvas.unbent.z, -11.0)
    spots = canvas.noise((3.5, 0.9, 0.9))
    bright, dark = np.float32(1.3 * canvas.levels["fat"]), np.float32(0.35 * canvas.levels["fat"])
    canvas.paint(np.maximum(around, 2.3 - np.abs(spots)), np.where(spots > 0, bright, dark))
    fascia = np.maximum(np.abs(around) - 0.018, -canvas.noise(8) - 0.4)
    canvas.paint(np.maximum(fascia, (20 - canvas.grid.y) / 20), canvas.levels["gland"] * 1.2)


def _lumen_content(canvas: _Canvas, rectum: anatomy.Rectum) -> Field:
    """Draw what fills the rectum: stool, stool under gas, gel, or little more than mucosa."""
    rng, levels = canvas.rng, canvas.levels
    lumps = canvas.noise((4.0, 2.0, 2.0))
    crumbs = canvas.noise((2.5, 0.8, 0.8))
    bright = np.clip(lumps + 0.6 * crumbs - 1.7, 0, 1)
    stool = levels["stool"] * (1 + 0.25 * lumps + 0.15 * crumbs) + canvas.appearance.crumbs * bright
    kind = rng.choice(("stool", "gas", "gel", "collapsed"), p=(0.4, 0.25, 0.15, 0.2))
    if kind == "gel":
        return levels["gel"] * (1 + 0.03 * lumps)
    if kind == "gas":
        level = rectum.center(canvas.unbent.z)[1] + rng.uniform(-6, 8)
        gas = np.clip((level - canvas.unbent.y + 0.6 * crumbs) / 1.5, 0, 1)
        return np.maximum(stool * (1 - gas) + levels["gas"] * gas, canvas.appearance.air)
    if kind == "collapsed":
        return levels["stool"] * (1.15 + 0.15 * lumps + 0.12 * crumbs)
    return np.maximum(stool, canvas.appearance.air)


def _paint_air(canvas: _Canvas) -> None:
    """Skin and air in front of the belly, and behind in the natal cleft."""
    rng, grid = canvas.rng, canvas.unbent
    bend = 0.8 * canvas.noise((20.0, 14.0, 14.0))
    front = rng.uniform(-97, -88) + rng.uniform(0.0008, 0.002) * grid.x**2
    canvas.paint(grid.y - front - 1.8 + bend, canvas.levels["gland"] * 0.8)
    canvas.paint(grid.y - front + bend, canvas.appearance.air)
    depth = np.maximum(grid.y - rng.uniform(72, 80) - 0.45 * np.maximum(grid.z, 0), 0)
    cleft = np.abs(canvas.grid.x) - 0.02 * depth
    canvas.paint(np.maximum(cleft - 1.6, 0.5 - depth), canvas.levels["gland"])
    canvas.paint(np.maximum(cleft - 0.4, 2.0 - depth), canvas.appearance.air)


def _acquire(canvas: _Canvas) -> NDArray[np.integer]:
    """See the painted tissue through a scanner: coil shading, point spread in the slice, noise."""
    rng, grid, appearance = canvas.rng, canvas.unbent, canvas.appearance
    if appearance.reconstructed:
        return _reconstruct(canvas)
    # Surface coils lie in front and behind; the corners of the field are far from all of them.
    corner = np.hypot(grid.x / 105, grid.y / 110)
    near, far = (grid.y / 96) ** 2, np.clip(corner - 0.75, 0, 1)
    shading = 1 + rng.uniform(*appearance.near) * near - rng.uniform(*appearance.coil) * far
    shading = shading * np.exp(rng.uniform(0.03, 0.08) * canvas.noise(40))
    true = gaussian_filter(canvas.signal * shading, (0, 0.65, 0.65))
    sigma = rng.uniform(*appearance.noise)
    real, imaginary = (
        sigma * gaussian_filter(rng.standard_normal(true.shape, dtype=np.float32), (0, 0.5, 0.5)) / 0.55
        for _ in range(2)
    )
    return np.rint(np.hypot(true + real, imaginary)).astype(np.uint16)


def _reconstruct(canvas: _Canvas) -> NDArray[np.int16]:
    """See the painted tissue through CT: point spread, and noise whose coarse part the reconstruction takes off."""
    rng = canvas.rng
    true = gaussian_filter(canvas.signal, (0, 0.65, 0.65))
    white = rng.standard_normal(true.shape, dtype=np.float32)
    grain = gaussian_filter(white, (0.4, 0.6, 0.6)) - gaussian_filter(white, (0.4, 1.8, 1.8))
    noisy = true + grain * (rng.uniform(*canvas.appearance.noise) / grain.std())
    return np.rint(np.clip(noisy, -1024, 3071)).astype(np.int16)


def _set_oblique_geometry(image: sitk.Image, spacing: tuple[float, float, float], rng: np.random.Generator) -> None:
    """Tilt the slices as for rectal MRI: mostly about the left-right axis, across the rectum."""
    angles = (-rng.uniform(3, 20), rng.normal(0, 1.5), rng.normal(0, 1.5))
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    image.SetSpacing(spacing[::-1])
    image.SetDirection(direction.ravel())
    image.SetOrigin((-96 + rng.normal(0, 8), -80 + rng.normal(0, 8), -30 + rng.normal(0, 8)))
