"""The parts of a three-core cable. `manufacture` draws everything random about an intact one; a defect edits them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import OVERSAMPLING, Streams, noise
from mvtec_ad.synthetic.tools.optics import uneven_light

# Radii in image sides.
SHEATH, CAVITY = 0.462, 0.395
CONDUCTOR, CORE = 0.1835, 0.1235
_ORBIT = CAVITY - CONDUCTOR + 0.003  # from the middle of the cable to that of a conductor
_RINGS = (1, 6, 12, 18)  # strands of a bundle, from its middle outwards
STRAND = 0.0193
_ANGLES = np.pi * np.array([-0.5, 5 / 6, 1 / 6])  # top, lower left, lower right

GAP = np.array([0.050, 0.044, 0.056], np.float32)
_TABLE = np.array([0.150, 0.142, 0.190], np.float32)
_GREY = np.array([0.615, 0.615, 0.635], np.float32)
# Insulation and its stripe: green with yellow, blue, brown.
_PIGMENTS = np.array(
    [
        [[0.250, 0.385, 0.215], [0.640, 0.590, 0.225]],
        [[0.225, 0.305, 0.410], [0.245, 0.325, 0.430]],
        [[0.385, 0.315, 0.280], [0.405, 0.335, 0.300]],
    ]
)


@dataclass
class Strands:
    """The cut ends of one bundle; the first axis counts strands."""

    centre: np.ndarray  # from the middle of the conductor, in image sides
    radius: np.ndarray
    tilt: np.ndarray  # slope of the cut face, x and y
    squeeze: np.ndarray  # how far it is from round, along x and along x = y
    marks: np.ndarray  # phase, direction x and y of the saw's marks
    tone: np.ndarray
    sunk: np.ndarray  # 0 level with the others, 1 missing


@dataclass
class Conductor:
    """One insulated bundle."""

    centre: np.ndarray  # in image sides from the top left corner
    pigment: np.ndarray  # (2, 3): insulation and stripe
    turn: float  # of the stripes
    core: np.ndarray  # shift of the bundle inside the insulation
    strands: Strands
    sunk: float = 0.0  # 0 level with the others, 1 absent


@dataclass
class Cut:
    """Material that is missing from a plastic part."""

    outline: np.ndarray  # (n, 2), image sides
    outwards: np.ndarray  # unit vector towards which its floor falls
    dark: float  # how much of the light its floor loses
    lip: float  # height of the raised edge
    torn: np.ndarray  # relief of the floor: grid of random numbers


@dataclass
class Wire:
    """A strand that lies bent over the section."""

    path: np.ndarray  # (n, 2), image sides, from its root to its tip
    radius: float
    tone: float


@dataclass
class Cable:
    """One cable under one light."""

    centre: np.ndarray
    conductors: list[Conductor]
    sheath: np.ndarray  # its colour
    table: np.ndarray
    lamp: np.ndarray  # direction in the picture towards the lamp
    light: np.ndarray  # (size, size), what falls on each point; all maps have half the canvas's resolution
    bend: np.ndarray  # (2, size, size), shift of every outline, in image sides
    grain: np.ndarray  # (size, size), unevenness of the cut plastic, about -3 to 3
    specks: np.ndarray  # (n, 5): x, y, radius, tone, strength
    cuts: list[Cut] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)


def manufacture(streams: Streams, size: int) -> Cable:
    """Draws everything random about one intact cable."""
    pose, light, surface = streams.pose, streams.light, streams.surface
    centre, turn = 0.5 + pose.normal(0, 0.0045, 2), float(pose.normal(0, 0.03))
    azimuth, reach = light.normal(-2.2, 0.25), light.uniform(0.75, 1.1)
    exposure = np.exp(light.normal(0, 0.055)) * (1 + light.normal(0, 0.010, 3))
    falling = uneven_light(light, size, fall=0.10, vignette=0.12)[::OVERSAMPLING, ::OVERSAMPLING]
    conductors = [_conductor(streams, centre, turn, place) for place in range(3)]
    return Cable(
        centre,
        conductors,
        sheath=_GREY * exposure * (1 + surface.normal(0, 0.04) + surface.normal(0, 0.004, 3)),
        table=_TABLE * exposure * (1 + light.normal(0, 0.12)),
        lamp=reach * np.array([np.cos(azimuth), np.sin(azimuth)]),
        light=falling,
        bend=np.stack([0.0022 * noise(surface, (size, size), (4, 4), octaves=2, persistence=0.35) for _ in range(2)]),
        grain=_grain(surface, size),
        specks=_specks(surface),
    )


def _conductor(streams: Streams, centre: np.ndarray, turn: float, place: int) -> Conductor:
    pose, surface = streams.pose, streams.surface
    angle = _ANGLES[place] + turn + pose.normal(0, 0.012)
    middle = centre + _ORBIT * np.array([np.cos(angle), np.sin(angle)]) + pose.normal(0, 0.0015, 2)
    batch = 1 + surface.normal(0, 0.07) + surface.normal(0, 0.025, 3)
    return Conductor(
        middle,
        pigment=_PIGMENTS[place] * batch,
        turn=turn + float(surface.normal(0.6, 0.12)),
        core=surface.normal(0, 0.003, 2),
        strands=_strands(surface),
    )


def _strands(rng: Generator) -> Strands:
    """Packs a bundle: concentric rings, pushed about until hardly two strands overlap."""
    count = sum(_RINGS)
    angle = np.concatenate([rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(n) / n for n in _RINGS])
    ring = np.repeat(np.arange(len(_RINGS)), _RINGS) * 2 * STRAND * 0.95
    radius = STRAND * (1 + np.clip(rng.normal(0, 0.055, count), -0.13, 0.13))
    centre = ring[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.003, (count, 2))
    reach = radius[:, None] + radius
    for _ in range(10):
        apart = centre[:, None] - centre
        distance = np.sqrt(np.square(apart).sum(-1)) + 1e-6
        push = np.clip(0.94 * reach - distance, 0, None) / distance
        centre = 0.99 * (centre + 0.35 * (push[..., None] * apart).sum(1))
        far = np.sqrt(np.square(centre).sum(1, keepdims=True))
        centre *= np.minimum(1, (CORE + 0.001 - radius[:, None]) / np.maximum(far, 1e-6))
    age = rng.normal(0, 0.07)
    return Strands(
        centre,
        radius,
        tilt=rng.normal(0, 0.20, (count, 2)),
        squeeze=rng.normal(0, 0.10, (count, 2)),
        marks=np.column_stack([rng.uniform(0, 6.28, count), rng.normal(0, 1, (count, 2))]),
        tone=np.exp(age + rng.normal(0, 0.12, count)),
        sunk=np.zeros(count),
    )


def _grain(rng: Generator, size: int) -> np.ndarray:
    """Returns the unevenness of the cut: the blade's marks all across, and lumps of every size."""
    x, y = map_grid(size)
    lumps = noise(rng, (size, size), (18, 18), octaves=4, persistence=0.8)
    slant = rng.normal(0.5, 0.25)
    marks = noise(rng, (2048, 1), (150, 1), octaves=2, persistence=0.8)[:, 0]
    across = x * np.float32(np.cos(slant)) + y * np.float32(np.sin(slant)) + 0.15 * y * y + np.float32(0.0012) * lumps
    strength = np.clip(0.26 + 0.2 * noise(rng, (size, size), (3, 3), octaves=2), 0, 0.7)  # here smeared, there torn
    return lumps + strength * marks[np.clip(across * 1300 + 1024, 0, 2047).astype(np.int32)]


def map_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `drawing.canvas_grid` at half the canvas's resolution."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return axis[None, :], axis[:, None]


def _specks(rng: Generator) -> np.ndarray:
    """Dust, copper filings and pits, as on every cut: position, radius, tone and strength."""
    count = 26
    angle, far = rng.uniform(0, 2 * np.pi, count), SHEATH * np.sqrt(rng.uniform(0, 0.98, count))
    radius = 0.0012 + 0.0022 * rng.uniform(0, 1, count) ** 3
    tone, strength = rng.uniform(0, 1, count), rng.uniform(0.1, 0.75, count)
    return np.column_stack([0.5 + far * np.cos(angle), 0.5 + far * np.sin(angle), radius, tone, strength])
