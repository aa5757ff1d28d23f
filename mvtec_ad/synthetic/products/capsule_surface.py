"""The surface of a hard-gelatin capsule: where each pixel of its own frame meets it, and what colour it is there.

It is a body of revolution, R(u), with u along the axis: a black cap on the left is pushed over an orange body. A dent
moves points of the circumference sideways; a relief tilts the normals. The print lies on a flat sheet, axis by arc
length, and is wrapped around.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import bump, noise, smoothstep, stroke
from mvtec_ad.synthetic.tools.lettering import text

HALF_LENGTH = 0.405  # in image sides, as all lengths here
RADIUS = 0.142  # of the cap
_BODY_RADIUS = 0.1345
_DOME = 0.128  # length of the rounded ends
MARGIN = 0.02  # empty strip around the capsule
CORNER = np.array([HALF_LENGTH + MARGIN, RADIUS + MARGIN])  # from the strip's corner to the capsule's middle
DENT_REACH = 0.2  # how far beyond the axis a dent reaches, in radii

# What is printed, where on the axis, and the height of a capital.
PRINTS = (("novalis", -0.205, 0.047), ("500", 0.190, 0.066))

_BLACK = np.array([0.058, 0.054, 0.060], np.float32)
_INK = np.array([0.86, 0.85, 0.82], np.float32)
_SCUFFED = np.array([0.74, 0.69, 0.63], np.float32)  # torn gelatin scatters the light


@dataclass
class Edit:
    """What a defect does to the surface; maps of shape `(rows, columns)` on the strip."""

    region: np.ndarray | float = 0.0  # 1 where the surface may change, the outline of the mask
    dent: np.ndarray | None = None  # (1, columns), how far one side of the outline is pressed in
    side: int = -1  # which: -1 the upper, 1 the lower
    relief: np.ndarray | float = 0.0  # height above the surface
    pit: np.ndarray | float = 0.0  # share of the light that is lost in a hole
    gap: np.ndarray | float = 0.0  # where the cap is open, and shows the body in it
    scuff: np.ndarray | float = 0.0  # how far the gloss is gone
    sheet: np.ndarray | None = None  # another print


@dataclass(frozen=True)
class Lamps:
    """The lamps as the capsule mirrors them: two tubes along its length."""

    height: np.ndarray  # y of the normals that mirror each of them
    width: np.ndarray
    strength: np.ndarray
    lean: float  # how far the tubes are turned against the capsule
    reach: float  # half their length, as x of the normals


@dataclass(frozen=True)
class Capsule:
    """One capsule under one light."""

    u: np.ndarray  # (1, columns), along the axis
    v: np.ndarray  # (rows, 1), across
    pixels: float  # canvas pixels per unit
    seam: float  # where the cap ends
    orange: np.ndarray  # colour of the body
    sheet: np.ndarray  # the print, 0 to 1; columns as `u`, rows are arc length at `pixels` per unit
    lamps: Lamps
    relief: np.ndarray  # waves and dimples of the gelatin
    fill: float  # up to where the body is filled with powder
    powder: np.ndarray  # the powder's mottling, zero mean
    dust: np.ndarray  # 0 to 1


def strip(pixels: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns u of shape `(1, columns)` and v of shape `(rows, 1)`: the capsule's own frame, axis along the rows."""
    columns, rows = round(2 * (HALF_LENGTH + MARGIN) * pixels), round(2 * (RADIUS + MARGIN) * pixels)
    u = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) / pixels
    v = (np.arange(rows, dtype=np.float32) + 0.5 - rows / 2) / pixels
    return u[None, :].astype(np.float32), v[:, None].astype(np.float32)


def printed(rng: Generator, pixels: float, columns: int, roll: float) -> np.ndarray:
    """Returns the print, with the small differences between two capsules."""
    shape = (round(np.pi * RADIUS * pixels), columns)  # rows: half the circumference
    ink = np.zeros(shape, np.float32)
    for line, place, height in PRINTS:
        jitter = rng.normal(0, [0.004, 0.004, 0.01])
        centre = (CORNER[0] + place + jitter[0], shape[0] / (2 * pixels) + RADIUS * roll + jitter[1])
        ink = np.maximum(ink, text(line, shape, pixels, centre, height, float(jitter[2])))
    grain = noise(rng, shape, (16, 34), octaves=3, persistence=0.8)
    return ink * np.clip(float(rng.uniform(0.86, 0.98)) + 0.10 * grain, 0, 1)


def _spots(rng: Generator, shape: tuple[int, int], pixels: float, count: int, radii: tuple[float, float]) -> np.ndarray:
    """Returns small discs anywhere on the strip, 0 to 1."""
    canvas = np.zeros(shape, np.uint8)
    for _ in range(count):
        at = rng.uniform(0, 1, 2) * 2 * CORNER * pixels
        radius = radii[0] * (radii[1] / radii[0]) ** rng.uniform()
        grey = int(255 * rng.uniform(0.3, 1))
        cv2.circle(canvas, tuple(int(c) for c in at * 16), int(radius * pixels * 16), grey, -1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def dimples(rng: Generator, shape: tuple[int, int], pixels: float) -> np.ndarray:
    """Returns the relief of small dimples and bubbles that good capsules have too."""
    sunk = _spots(rng, shape, pixels, int(rng.integers(0, 5)), (0.003, 0.008))
    raised = _spots(rng, shape, pixels, int(rng.integers(0, 7)), (0.0015, 0.004))
    return 0.0012 * cv2.GaussianBlur(raised - sunk, (0, 0), 0.0022 * pixels)


def dust(rng: Generator, shape: tuple[int, int], pixels: float) -> np.ndarray:
    """Returns specks and a fibre or two."""
    cover = _spots(rng, shape, pixels, int(rng.integers(6, 40)), (0.0007, 0.0020))
    for _ in range(int(rng.integers(0, 3))):
        t, bend = np.linspace(-1, 1, 16), rng.normal(0, 0.4, 2)
        turn, middle = rng.uniform(0, np.pi), rng.uniform(0, 1, 2) * 2 * CORNER
        curve = np.column_stack([t, bend[0] * t**2 + bend[1] * t**3])
        curve = curve @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        fibre = stroke(middle + rng.uniform(0.008, 0.018) * curve, 0.0016, shape, pixels)
        cover = np.maximum(cover, rng.uniform(0.2, 0.6) * fibre)
    return cover


def _profile(capsule: Capsule) -> np.ndarray:
    """Returns the squared radius along the axis, `(1, columns)`; negative beyond the ends."""
    u, seam = capsule.u, capsule.seam
    radius = _BODY_RADIUS + (RADIUS - _BODY_RADIUS) * smoothstep(seam + 0.004, seam - 0.003, u)
    radius += 0.0016 * bump(u, seam - 0.012, 0.012)  # the rim of the cap
    radius -= 0.0022 * bump(u, seam - 0.058, 0.011) + 0.0010 * bump(u, seam - 0.083, 0.009)  # rings that lock it
    radius -= 0.0012 * bump(u, seam + 0.040, 0.012)
    beyond = np.clip((np.abs(u) - HALF_LENGTH + _DOME) / _DOME, 0, None)
    return radius**2 * (1 - beyond**2.2)


def _dented(v: np.ndarray, edit: Edit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where on the undented cross-section a point lies, the share of the dent there and that share's slope."""
    v, point = v * -edit.side, v * -edit.side
    span = (1 + DENT_REACH) * RADIUS
    for _ in range(5):  # a fixed point: point + dent * share(point) = v
        t = np.clip((DENT_REACH * RADIUS - point) / span, 0, 1)
        share = t * t * (3 - 2 * t)
        point = v - edit.dent * share
    return point * -edit.side, share, -6 * t * (1 - t) / span


def _surface(capsule: Capsule, edit: Edit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Meets the surface at each pixel.

    Returns:
        Coverage (0 to 1), normal of shape `(3, rows, columns)`, and sine of the angle around the axis.
    """
    square = _profile(capsule)
    slope = np.gradient(square, axis=1) * (capsule.pixels / 2)  # R dR/du
    if edit.dent is None:
        point, share, stretch, lean = capsule.v, 0.0, 1.0, 0.0
    else:
        point, share, share_slope = _dented(capsule.v, edit)
        stretch = 1 + edit.dent * share_slope
        lean = np.gradient(edit.dent, axis=1) * capsule.pixels * share * -edit.side
    depth = np.clip(square - point * point, 0, None)
    sine = np.clip(point / np.sqrt(np.maximum(square, 1e-6)), -1, 1)
    normal = np.stack(
        np.broadcast_arrays(
            -slope * (sine * sine + (1 - sine * sine) * stretch) - lean * point,
            point,
            np.sqrt(depth) * stretch,
        )
    ).astype(np.float32)
    normal /= np.sqrt(np.square(normal).sum(0)) + 1e-6
    distance = (square - point * point) / (2 * np.sqrt(slope * slope + point * point) + 1e-4)
    return np.clip(distance * capsule.pixels + 0.5, 0, 1), _tilted(normal, capsule, edit), sine


def _tilted(normal: np.ndarray, capsule: Capsule, edit: Edit) -> np.ndarray:
    """Tilts the normals by the slope of the relief along the surface."""
    relief = (capsule.relief + edit.relief) * np.float32(capsule.pixels)
    x = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    y = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    along = x * normal[0] + y * normal[1]
    tilted = normal * (1 + along)
    tilted[0] -= x
    tilted[1] -= y
    return tilted / (np.sqrt(np.square(tilted).sum(0)) + 1e-6)


def _gloss(normal: np.ndarray, lamps: Lamps) -> np.ndarray:
    """Returns the light that the polished surface mirrors: tubes overhead, a dim room, the bright table below."""
    x, y, z = normal
    light = np.clip(1 - z, 0, 1) ** 3 * smoothstep(0.75, 0.40, z) * (0.42 + 0.30 * y)  # the table, at a low angle
    light += 0.02 + 0.11 * np.exp(-np.square((y + 0.62) / 0.30)) * smoothstep(0.95, 0.2, np.abs(x))  # the ceiling
    across = y + lamps.lean * x
    for height, width, strength in zip(lamps.height, lamps.width, lamps.strength, strict=True):
        tube = np.exp(-(np.square((across - height) / width) ** 2))
        light += strength * tube * smoothstep(lamps.reach, lamps.reach * 0.6, np.abs(x))
    return light


def _shell(capsule: Capsule, normal: np.ndarray, gap: np.ndarray | float) -> np.ndarray:
    """Returns the colour of the gelatin under even light with its own shading, `(rows, columns, 3)`."""
    _, y, z = normal
    cap = (np.clip((capsule.seam - capsule.u) * capsule.pixels + 0.5, 0, 1) * (1 - gap))[..., None]
    facing = 0.42 + 0.50 * np.clip(0.85 * z - 0.40 * y, 0, 1)
    beside = np.clip(capsule.u - capsule.seam, 0, None)
    facing = facing * (1 - 0.5 * np.exp(-beside / 0.005)) * (1 + capsule.powder * z)
    facing *= 1 + 0.10 * smoothstep(-0.02, 0.025, capsule.u + 0.03 * y - capsule.fill)
    glow = 0.20 * smoothstep(0.35, 0.85, y) * smoothstep(0.05, 0.45, z)  # light that has passed through the body
    body = capsule.orange * (facing + glow)[..., None]
    body[..., 1] *= 0.80 + 0.20 * z  # the longer the way through the gelatin, the redder
    return body + (_BLACK * (0.5 + 0.7 * facing)[..., None] - body) * cap


def wrapped(capsule: Capsule, sheet: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Returns a sheet as it lies around the capsule, `(rows, columns)`."""
    rows = np.arcsin(sine) * (RADIUS * capsule.pixels) + (len(sheet) / 2 - 0.5)
    columns = np.broadcast_to(np.arange(sine.shape[1], dtype=np.float32), sine.shape)
    return cv2.remap(sheet, np.ascontiguousarray(columns), rows.astype(np.float32), cv2.INTER_LINEAR)


def cut(capsule: Capsule, edit: Edit, columns: slice) -> tuple[Capsule, Edit]:
    """Returns a part of the strip."""

    def part(value: object) -> object:
        whole = isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == capsule.u.size
        return value[:, columns] if whole else value

    piece, change = ({f.name: part(getattr(item, f.name)) for f in fields(item)} for item in (capsule, edit))
    return replace(capsule, **piece), Edit(**change)


def appearance(capsule: Capsule, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
    """Returns colour, float32 of shape `(rows, columns, 3)`, and outline, `(rows, columns)`."""
    outline, normal, sine = _surface(capsule, edit)
    colour = _shell(capsule, normal, edit.gap)
    lit = (0.55 + 0.45 * normal[2] - 0.12 * normal[1])[..., None]
    ink = wrapped(capsule, capsule.sheet if edit.sheet is None else edit.sheet, sine)
    colour += (_INK * lit - colour) * (0.92 * ink)[..., None]
    colour += (np.float32(0.5) * lit - colour) * (0.6 * capsule.dust)[..., None]
    scuff = np.asarray(edit.scuff, np.float32)[..., None]
    colour += (_SCUFFED * lit - colour) * (0.6 * scuff)
    gloss = _gloss(normal, capsule.lamps)
    gloss *= (1 - 0.25 * capsule.dust) * (1 + 2 * capsule.powder)  # fingers leave smudges
    colour += gloss[..., None] * (1 - 0.7 * scuff) * (1 - 0.3 * colour)
    return colour * (1 - np.asarray(edit.pit, np.float32)[..., None]), outline.astype(np.float32)
