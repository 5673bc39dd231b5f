"""Rectal tumours: their shape in the wall and their look on T2-weighted MRI, for phantoms and for real scans alike.

A tumour is placed in the coordinates of the rectum: depth below its outer surface, arc along its circumference, and
height along the slices. There it is an ellipsoid, made irregular by noise: on one side of the wall (polypoid), along a
part of the circumference (semi-annular) or around it (annular). Arrays have axes (z, y, x).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d, label

from rectal_nnformer.demo.cohort.appearance import MRI, TumorLook
from rectal_nnformer.demo.cohort.fields import Field, Mask, partial_volume, smooth_noise
from rectal_nnformer.errors import RectalError

MIN_VOLUME_CM3 = 0.5
GAP_MM = 7.0
"""Least distance between two tumours: more than two slices of 3 mm, so that they stay apart when resampled."""

BEYOND_WALL_MM = 3.0
"""How far tumours grow at most through the wall into the fat around it."""
MAX_SHARE_OF_RECTUM = 0.45
"""A tumour's volume over that of the outlined rectum: more would leave nothing to recognise the rectum by."""

_KINDS = ("polypoid", "semi-annular", "annular")
_COUNT_SHARES = (0.5, 0.35, 0.15)
_VOLUME_BINS_CM3 = ((1.0, 3.0), (3.0, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 32.0))
_VOLUME_SHARES = (0.08, 0.2, 0.36, 0.26, 0.1)
_MARGIN_MM = 10.0


@dataclass(frozen=True)
class Tumor:
    """A tumour in the grid of its scan: the share of each voxel that it fills, in [0, 1], and its look.

    `brightness` is its mean signal on a scale from muscle (0) to fat (1), and `texture` what is added to that.
    """

    kind: str
    share: Field
    brightness: float
    texture: Field

    @property
    def mask(self) -> Mask:
        """Where the tumour fills more than half of the voxel."""
        return self.share > 0.5

    def signal(self, muscle: float, fat: float) -> Field:
        """Return the tumour's signal, given that of muscle and of fat; only meaningful where `share` is above 0."""
        return muscle + (fat - muscle) * np.clip(self.brightness + self.texture, 0.1, 0.95)


@dataclass(frozen=True)
class Case:
    """A scan with its tumours: `image` and `mask` share a grid, `mask` is uint8 with 1 in the tumours."""

    image: sitk.Image
    mask: sitk.Image
    tumors: tuple[Tumor, ...]


@dataclass(frozen=True)
class _RectumFrame:
    """Coordinates of the rectum in mm and radians, (z, y, x); z from the first slice of the box."""

    box: tuple[slice, ...]
    spacing: tuple[float, ...]
    inside: Mask
    depth: Field
    angle: Field
    lever: Field
    z: Field
    span: tuple[float, float]
    radius: float


def place_tumors(
    rectum: Mask,
    spacing: Sequence[float],
    rng: np.random.Generator,
    num_tumors: int | None = None,
    look: TumorLook = MRI.tumor,
) -> tuple[Tumor, ...]:
    """Draw tumours, one to three unless told, in a rectum's wall and lumen (z, y, x); each is one connected component.

    Volumes are mostly 3 to 20 cm3, never below 0.5 cm3; tumours keep `GAP_MM` from each other. Where the rectum is too
    short for the number drawn, there are fewer, but always one. `spacing` is along (z, y, x) in mm.

    Raises:
        RectalError: The rectum has no room for a tumour of 0.5 cm3.
    """
    if not rectum.any():
        raise RectalError("The rectum outline is empty on this scan's slices: there is no wall to place a tumour in")
    wanted = num_tumors or int(rng.choice((1, 2, 3), p=_COUNT_SHARES))
    frame = _rectum_frame(rectum, spacing)
    occupied = np.zeros(frame.inside.shape, dtype=bool)
    tumors: list[Tumor] = []
    while len(tumors) < wanted and (fitted := _fit_tumor(frame, occupied, wanted, rng)) is not None:
        share, kind = fitted
        occupied |= share > 0.5
        tumors.append(_finish(share, kind, frame, rectum.shape, look, rng))
    if not tumors:
        volume = np.count_nonzero(rectum) * math.prod(spacing) / 1000
        raise RectalError(
            f"The rectum outline holds {volume:.1f} cm3 and has no room for a tumour of {MIN_VOLUME_CM3} cm3. "
            "Outline more slices or larger ellipses."
        )
    return tuple(tumors)


def _rectum_frame(rectum: Mask, spacing: Sequence[float]) -> _RectumFrame:
    """Measure the rectum within its bounding box and a margin in the slice."""
    dz, dy, dx = spacing
    slices = np.flatnonzero(rectum.any(axis=(1, 2)))
    # One more slice at each end where there is one: partial volume needs a slope, and a tumour may taper off there.
    first, last = max(0, slices[0] - 1), min(len(rectum), slices[-1] + 2)
    rows = np.flatnonzero(rectum.any(axis=(0, 2)))
    columns = np.flatnonzero(rectum.any(axis=(0, 1)))
    box = (
        slice(first, last),
        slice(max(0, rows[0] - int(_MARGIN_MM / dy)), rows[-1] + int(_MARGIN_MM / dy) + 1),
        slice(max(0, columns[0] - int(_MARGIN_MM / dx)), columns[-1] + int(_MARGIN_MM / dx) + 1),
    )
    inside = rectum[box]
    filled = inside[slices - first]
    repeat = np.clip(np.arange(last - first), slices[0] - first, slices[-1] - first) - (slices[0] - first)
    # In each slice the signed distance to the outer surface in mm, positive inside.
    distances = [
        distance_transform_edt(s, sampling=(dy, dx)) - distance_transform_edt(~s, sampling=(dy, dx)) for s in filled
    ]
    depth = np.stack([gaussian_filter(distance, 1.5) for distance in distances])[repeat]
    areas = filled.sum(axis=(1, 2))
    y, x = np.arange(inside.shape[1]) * dy, np.arange(inside.shape[2]) * dx
    center_y = gaussian_filter1d((filled.sum(axis=2) @ y) / areas, 1.0, mode="nearest")[repeat]
    center_x = gaussian_filter1d((filled.sum(axis=1) @ x) / areas, 1.0, mode="nearest")[repeat]
    offset_y = y[None, :, None] - center_y[:, None, None]
    offset_x = x[None, None, :] - center_x[:, None, None]
    radius = float(np.sqrt(np.median(areas) * dy * dx / np.pi))
    return _RectumFrame(
        box=box,
        spacing=(dz, dy, dx),
        inside=inside,
        depth=depth.astype(np.float32),
        angle=np.arctan2(offset_y, offset_x).astype(np.float32),
        # Towards the centre arcs would shrink to nothing and every tumour meet in a point.
        lever=np.maximum(np.hypot(offset_y, offset_x), 0.6 * radius).astype(np.float32),
        z=(np.arange(last - first) * dz).astype(np.float32)[:, None, None],
        span=(float(slices[0] - first) * dz, float(slices[-1] - first) * dz),
        radius=radius,
    )


def _fit_tumor(
    frame: _RectumFrame, occupied: Mask, num_wanted: int, rng: np.random.Generator
) -> tuple[Field, str] | None:
    """Draw ever smaller tumours until one is in one piece and keeps its distance from those in `occupied`."""
    clearance = distance_transform_edt(~occupied, sampling=frame.spacing) if occupied.any() else None
    low, high = _VOLUME_BINS_CM3[rng.choice(len(_VOLUME_BINS_CM3), p=_VOLUME_SHARES)]
    most = rng.uniform(0.6, 1) * MAX_SHARE_OF_RECTUM * _volume_cm3(frame.inside, frame) / num_wanted
    # A second tumour beside a first one is seldom a large one, nor would it find room.
    volume = min(rng.uniform(low, high), most if clearance is None else min(most, 5.0))
    for _ in range(12):
        kind, implicit = _draw_form(frame, volume, rng)
        share = _grow(frame, implicit, volume)
        mask = share > 0.5
        whole = label(mask, structure=np.ones((3, 3, 3)))[1] == 1
        large_enough = _volume_cm3(mask, frame) >= MIN_VOLUME_CM3
        if whole and large_enough and (clearance is None or clearance[mask].min() > GAP_MM):
            return share, kind
        volume = max(0.8 * volume, 2 * MIN_VOLUME_CM3)
    return None


def _draw_form(frame: _RectumFrame, volume: float, rng: np.random.Generator) -> tuple[str, Callable[[float], Field]]:
    """Draw a tumour's form: its kind, and what gives, at a scale in mm, a field that is negative inside.

    Small ones are polypoid, large ones take in more of the circumference. Lengths are relative to the scale.
    """
    probabilities = np.array([1.0, 0.7, 0.0] if volume < 6 else [0.35, 1.0, 0.8])
    kind = _KINDS[rng.choice(3, p=probabilities / probabilities.sum())]
    width, wanted_thickness = {
        "polypoid": (rng.uniform(0.9, 1.2), rng.uniform(0.6, 0.85)),
        "semi-annular": (rng.uniform(1.6, 2.2), rng.uniform(0.45, 0.6)),
        "annular": (np.inf, rng.uniform(0.4, 0.55)),
    }[kind]
    noise_length = rng.uniform(3.0, 5.0)
    wanted_height, angle, position = rng.uniform(0.85, 1.3), rng.uniform(-np.pi, np.pi), rng.uniform()
    extension = rng.uniform(0.0, BEYOND_WALL_MM)
    lumps = rng.uniform(0.06, 0.12) * smooth_noise(rng, frame.inside.shape, frame.spacing, noise_length)
    turn = np.abs(np.mod(frame.angle - angle + np.pi, 2 * np.pi) - np.pi) * frame.lever
    span = frame.span[1] - frame.span[0]

    def implicit(scale: float) -> Field:
        # The lumen stays open and the tumour within the outlined slices, however large it is meant to be.
        thickness = min(wanted_thickness * scale, (0.62 if kind == "polypoid" else 0.36) * frame.radius)
        height = min(wanted_height * scale, max(0.5 * span, frame.spacing[0]))
        center_z = frame.span[0] + height + position * (span - 2 * height)
        arc = turn / (width * min(scale, 1.1 * frame.radius))
        squared = ((frame.depth - thickness + extension) / thickness) ** 2
        # A fourth power ends tumours bluntly: along z for all, since thin tips vanish in thick slices, and along the
        # wall for those that are evenly thick there.
        squared += ((frame.z - center_z) / height) ** 4 + (arc**2 if kind == "polypoid" else arc**4)
        beyond_reach = (-BEYOND_WALL_MM - frame.depth) / thickness
        return np.maximum(np.sqrt(squared) - np.float32(1) + lumps, beyond_reach)

    return kind, implicit


def _grow(frame: _RectumFrame, implicit: Callable[[float], Field], volume: float) -> Field:
    """Find by bisection the scale at which the tumour has the volume in cm3, or comes nearest to it."""
    low, high = 1.0, 60.0
    for _ in range(10):
        scale = math.sqrt(low * high)
        if _volume_cm3(implicit(scale) < 0, frame) < volume:
            low = scale
        else:
            high = scale
    return partial_volume(implicit(low))


def _finish(
    share: Field, kind: str, frame: _RectumFrame, shape: tuple[int, ...], look: TumorLook, rng: np.random.Generator
) -> Tumor:
    """Draw the tumour's look and put it back from the rectum's box into the whole volume."""
    coarse = smooth_noise(rng, share.shape, frame.spacing, 2.5)
    fine = smooth_noise(rng, share.shape, frame.spacing, 0.8)
    whole_share, whole_texture = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    whole_share[frame.box] = share
    texture = rng.uniform(*look.texture) * coarse + 0.025 * fine
    if look.mucin:
        texture += look.mucin * np.clip(coarse, 0, 1)
    whole_texture[frame.box] = texture
    return Tumor(kind, whole_share, rng.uniform(*look.brightness), whole_texture)


def _volume_cm3(mask: Mask, frame: _RectumFrame) -> float:
    return float(np.count_nonzero(mask)) * math.prod(frame.spacing) / 1000
