"""The surface of a tablet: its outline, relief, imprint and matter, and how bright it is.

The tablet is a height map over a window of the picture, which a defect edits before it is lit. Its own frame has u
along its length and v across, in image sides from its centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import (
    OVERSAMPLING,
    Streams,
    canvas_grid,
    fill,
    noise,
    smooth_contour,
    smoothstep,
)
from mvtec_ad.synthetic.tools.optics import normals, shade

HALF = np.array([0.398, 0.222])  # half length and half width
_ROUNDNESS = 2.35  # exponent of the outline: 2 is an ellipse
_DOME, _BEVEL, _BEVEL_WIDTH = 0.034, 0.019, 0.032
_IMPRINT_DEPTH = 0.013
LETTER = 0.168  # distance of a letter's middle from the score line
_LETTER_HEIGHT, _LETTER_WIDTH, _STROKE = 0.172, 0.104, 0.027
_WINDOW = ((0.19, 0.81), (0.04, 0.96))  # rows and columns of the picture that the tablet may reach


@dataclass(frozen=True)
class Pose:
    """Where the tablet lies in the window, and which shape it has."""

    centre: np.ndarray  # from the top left corner of the window
    turn: float
    half: np.ndarray
    roundness: float

    def place(self, points: np.ndarray) -> np.ndarray:
        """Returns window positions `(n, 2)` of points on the tablet."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return self.centre + points @ np.array([[cos, sin], [-sin, cos]])

    def frame(self, shape: tuple[int, int], pixels: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns u and v of every pixel, float32."""
        x = (np.arange(shape[1], dtype=np.float32)[None, :] + 0.5) / pixels - self.centre[0]
        y = (np.arange(shape[0], dtype=np.float32)[:, None] + 0.5) / pixels - self.centre[1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return (cos * x + sin * y).astype(np.float32), (cos * y - sin * x).astype(np.float32)

    def rim(self, angle: np.ndarray) -> np.ndarray:
        """Returns points `(n, 2)` of the outline in the tablet's frame."""
        unit = np.column_stack([np.cos(angle), np.sin(angle)])
        return self.half * np.sign(unit) * np.abs(unit) ** (2 / self.roundness)


@dataclass
class Tablet:
    """One tablet under one light. Maps are float32 of the window's shape; a defect edits them in place."""

    pose: Pose
    pixels: float  # canvas pixels per image side
    outline: np.ndarray  # 1 on the tablet
    height: np.ndarray  # towards the camera, in image sides, without the imprint
    imprint: np.ndarray  # depth of letters and score line, about 1 at the bottom
    density: np.ndarray  # (rows, columns, 3): how much red, green and blue the speckles swallow
    lit: np.ndarray  # share of the light that arrives
    matter: np.ndarray  # red, green and blue of the pressed powder
    lamp: tuple[float, float, float]
    ambient: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the window."""
        return self.outline.shape


def window(size: int) -> tuple[slice, slice]:
    """Returns the rows and columns of the canvas that the tablet may reach."""
    return tuple(slice(*(round(edge * size * OVERSAMPLING) for edge in edges)) for edges in _WINDOW)


def press(streams: Streams, size: int) -> Tablet:
    """Returns an intact tablet."""
    pose_rng, light, surface = streams.pose, streams.light, streams.surface
    pixels = size * OVERSAMPLING
    rows, columns = window(size)
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    middle = 0.5 - np.array([columns.start, rows.start]) / pixels
    pose = Pose(
        middle + pose_rng.normal(0, 0.005, 2).clip(-0.012, 0.012),
        float(np.radians(np.clip(pose_rng.normal(0, 1.2), -3, 3))),
        HALF * (1 + pose_rng.normal(0, 0.007, 2).clip(-0.015, 0.015)),
        _ROUNDNESS,
    )
    tilt = pose_rng.normal(0, 0.02, 2)
    outline, height = body(pose, shape, pixels, noise(surface, shape, (24, 36), octaves=3))
    u, v = pose.frame(shape, pixels)
    powder = noise(surface, shape, (40, 60), octaves=4, persistence=0.95)
    pits = smoothstep(1.1, 3.0, powder)
    height += tilt[0] * u + tilt[1] * v + np.float32(0.00032) * powder - np.float32(0.0016) * pits
    azimuth, slant = light.normal(-2.2, 0.4), light.uniform(0.4, 0.65)  # from the upper left
    warmth, exposure, green = light.normal(0, 0.02), light.normal(0, 0.06), light.normal(0, 0.007)
    mottle = noise(surface, shape, (4, 6), octaves=5, persistence=0.6)
    return Tablet(
        pose,
        pixels,
        outline,
        height,
        _imprint(surface, pose, shape, pixels),
        _speckles(surface, pose, shape, pixels),
        1 + np.float32(0.014) * mottle + np.float32(0.014) * powder - np.float32(0.12) * pits,
        np.array([0.86, 0.83, 0.75]) * np.exp(exposure + np.array([warmth, green, -warmth])),
        (slant * np.cos(azimuth), slant * np.sin(azimuth), 1.0),
        float(light.uniform(0.28, 0.45)),
    )


def body(pose: Pose, shape: tuple[int, int], pixels: float, wear: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Returns outline and height of a domed tablet with a bevelled rim, `wear` (about -1 to 1) nibbling at its edge."""
    u, v = (np.abs(axis) / half for axis, half in zip(pose.frame(shape, pixels), pose.half, strict=True))
    power = np.float32(pose.roundness)
    across, along = u ** (power - 1), v ** (power - 1)
    radius = np.maximum(u * across + v * along, 1e-4) ** (1 / power)  # 1 on the outline
    slope = np.hypot(across / pose.half[0], along / pose.half[1]) * radius ** (1 - power)
    inside = ((1 - radius) / slope - 0.0004 * wear).astype(np.float32)  # distance to the rim
    bevel = 1 - np.square(1 - np.clip(inside / _BEVEL_WIDTH, 0, 1))
    height = _DOME * (1 - radius * radius) + _BEVEL * bevel
    return np.clip(inside * pixels + 0.5, 0, 1), height.astype(np.float32)


def _imprint(rng: Generator, pose: Pose, shape: tuple[int, int], pixels: float) -> np.ndarray:
    """Returns the depth of both letters and of the score line; the punch wears and powder sticks to it."""
    half_width, half_height, half_stroke = _LETTER_WIDTH / 2, _LETTER_HEIGHT / 2, _STROKE / 2
    bars = [(0, 0, half_stroke * 0.75, pose.half[1] * 1.1)]
    for side in (-LETTER, LETTER):
        bars.append((side - half_width + half_stroke, 0, half_stroke, half_height))
        bars.append((side, half_stroke - half_height, half_width, half_stroke))
        bars.append((side - 0.1 * half_width, 0.05 * half_height, 0.9 * half_width, half_stroke * 0.9))
    ink = np.zeros(shape, np.float32)
    for u, v, width, height in bars:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width, height] + [u, v]
        ink = np.maximum(ink, fill(pose.place(corners), shape, pixels))
    ink = np.maximum(cv2.GaussianBlur(ink, (0, 0), 0.0042 * pixels) - np.float32(0.02), 0)
    filling = noise(rng, shape, (5, 8), octaves=3)
    return ink * np.float32(rng.uniform(0.8, 1.15)) * np.clip(1 + 0.09 * filling, 0.5, 1.3)


def _speckles(rng: Generator, pose: Pose, shape: tuple[int, int], pixels: float) -> np.ndarray:
    """Returns what coloured grains in the powder, and a little grey dust, swallow of red, green and blue."""
    count = int(rng.integers(110, 260))
    centres = pose.place(rng.uniform(-1, 1, (count, 2)) * pose.half * 1.02)
    radii = np.clip(0.0025 * np.exp(rng.normal(0, 0.6, count)), 0.0009, 0.0095)
    strengths = rng.uniform(0.15, 1, count) ** 1.5
    browns = rng.uniform(0, 1, count)
    dust = browns > 0.95
    radii[dust] *= 0.6
    tones = np.column_stack([np.where(dust, 0.9, 0.12 + 0.22 * browns), 0.95 - 0.15 * browns, np.full(count, 0.95)])
    grains = [smooth_contour(rng, 0.35, points=28) for _ in range(32)]
    canvas = np.zeros((*shape, 3), np.uint8)
    for index, (place, radius, colour) in enumerate(zip(centres, radii, 255 * strengths[:, None] * tones, strict=True)):
        contour = place + radius * grains[index % len(grains)]
        cv2.fillPoly(canvas, [np.round((contour * pixels - 0.5) * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), 0.0014 * pixels)
    powder = np.clip(1.15 + 0.3 * noise(rng, shape, (60, 90), octaves=2), 0.3, 2) / 255
    return soft * powder[..., None]


def appearance(tablet: Tablet) -> np.ndarray:
    """Returns the lit tablet, float32 of shape `(rows, columns, 3)`."""
    relief = tablet.height - np.float32(_IMPRINT_DEPTH) * tablet.imprint
    diffuse, highlight = shade(normals(relief, tablet.pixels), tablet.lamp, tablet.ambient, gloss=10)
    diffuse *= tablet.lit * (1 - 0.10 * tablet.imprint)  # less light reaches the bottom of a groove
    colour = cv2.exp(-tablet.density) * tablet.matter.astype(np.float32)
    return colour * diffuse[..., None] + np.float32(0.05) * (highlight * tablet.lit)[..., None]


def backdrop(rng: Generator, size: int) -> np.ndarray:
    """Returns the black cloth under the tablet, which a little light from the tablet reaches."""
    x, y = canvas_grid(size)
    halo = smoothstep(1.9, 0.8, np.hypot(x / HALF[0], y / HALF[1]))
    level, glow = rng.uniform(0.008, 0.035), rng.uniform(0.005, 0.02)
    grey = (level + glow * halo).astype(np.float32)
    return grey[..., None] * np.array([1.0, 1.0, 1.08], np.float32)
