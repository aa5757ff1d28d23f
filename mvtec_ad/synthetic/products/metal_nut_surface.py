"""The surface of a T-nut in its own frame: a punched sheet with four lobes and prongs, a collar and a threaded hole.

Lengths are in radii of the nut, origin at its centre. The sheet and its prongs are the same in every nut, so they are
drawn once per size; the collar, the thread and the wear differ from nut to nut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import blend, bump, fill, noise, smoothstep
from mvtec_ad.synthetic.tools.optics import normals

REACH = 1.14  # half the side of the frame
_SUBPIXEL_BITS = 4  # OpenCV draws polygons at 1/16 pixel
# One quarter of the outline, degrees and radius: a lobe, its leaning flank, the notch, the next lobe's flank.
_QUARTER = ((1, 0.955), (5, 1.0), (15, 1.0), (27, 1.0), (39, 1.0), (48, 0.99), (52.5, 0.94), (58, 0.76), (62, 0.60),
            (70, 0.555), (79, 0.575), (84, 0.63))  # fmt: skip
_PRONG = ((51, 0.92), (57, 0.955), (67, 0.985), (75, 0.97), (75.5, 0.95), (71, 0.83), (65, 0.72), (61, 0.68),
          (55, 0.70))  # fmt: skip
_FOLD = ((53.5, 0.93), (60.5, 0.655))  # the line along which a prong is bent
# Radius and height from the hole to the sheet, on the side with the collar and on the other one.
_FRONT = np.array([[0.0, -0.2], [0.225, -0.06], [0.30, -0.018], [0.318, 0.026], [0.334, 0.05], [0.352, 0.052],
                   [0.385, 0.052], [0.405, 0.047], [0.42, 0.02], [0.445, 0.004], [0.475, 0.0], [0.515, 0.0],
                   [0.523, -0.004], [0.535, 0.0], [0.6, 0.0]])  # fmt: skip
_BACK = np.array([[0.0, -0.2], [0.225, -0.14], [0.25, -0.10], [0.28, -0.066], [0.32, -0.032], [0.36, -0.011],
                  [0.395, -0.003], [0.41, 0.004], [0.425, 0.0], [0.45, 0.0], [0.46, -0.005], [0.475, 0.0],
                  [0.5, 0.0], [0.55, 0.0], [0.6, 0.0]])  # fmt: skip
_OPENING, _THREAD_TOP, _THREAD_PITCH = 0.222, 0.316, 0.026


@dataclass
class Edit:
    """What a defect does to the nut; maps have the shape of the frame."""

    region: np.ndarray | float = 0.0  # where the metal may change, the outline of the mask
    relief: np.ndarray | float = 0.0  # added to the height
    shade: np.ndarray | float = 0.0  # share of the light that a burr takes away
    bare: np.ndarray | float = 0.0  # share of fresh, bright metal
    film: np.ndarray | float = 0.0  # how much a film hides the metal
    film_colour: np.ndarray | tuple[float, ...] = (1.0, 1.0, 1.0)
    shift: np.ndarray | None = None  # (2, rows, columns), where the metal goes
    upside_down: float = 0.0  # 0 is the front; more is the mirrored outline and the marks of the other side


@dataclass(frozen=True)
class Nut:
    """One nut under one light."""

    side: int  # of the frame, in canvas pixels
    lamp: np.ndarray  # where the lamp stands, in the nut's frame
    exposure: float
    brush: float  # angle of the grinding marks
    tilt: np.ndarray  # how far the lower end of the hole lies aside
    thread: float  # where the thread starts, 0 to 1
    colour: np.ndarray  # of the metal
    relief: np.ndarray  # unevenness of the sheet, and its wear
    stain: np.ndarray  # relative brightness of the metal, zero mean

    @property
    def pixels(self) -> float:
        """Canvas pixels per radius."""
        return self.side / (2 * REACH)


@lru_cache(maxsize=4)
def polar(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns radius and angle (0 to 2 pi) of each pixel of the frame, read-only."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2 * REACH / side) - REACH
    x, y = np.meshgrid(axis, axis)
    grids = cv2.cartToPolar(x, y)
    for grid in grids:
        grid.setflags(write=False)
    return grids


def axes(angle: float) -> np.ndarray:
    """Returns the direction at `angle` and the one square to it, as rows."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _corners(quarter: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Returns x and y of points given in degrees and radii."""
    degrees, radius = np.asarray(quarter, np.float64).T
    angle = np.radians(degrees)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def _rounded(points: np.ndarray) -> np.ndarray:
    """Cuts the corners of a closed polygon three times (Chaikin 1974)."""
    for _ in range(3):
        after = np.roll(points, -1, 0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], 1).reshape(-1, 2)
    return points


@lru_cache(maxsize=4)
def _sheet(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns cover (prongs included), height of the rounded edges, and distance from a prong's fold, read-only."""
    pixels = side / (2 * REACH)
    turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), k) for k in range(4)]
    outline = _rounded(np.concatenate([_corners(_QUARTER) @ turn for turn in turns]))
    cover = fill(outline + REACH, (side, side), pixels)
    radius, angle = polar(side)
    beyond = np.zeros_like(cover)
    near, far = _corners(_FOLD)
    across = np.array([near[1] - far[1], far[0] - near[0]]) / np.linalg.norm(near - far)
    across *= np.sign(across @ (_corners(_PRONG)[3] - near))
    for turn in turns:
        prong = fill(_rounded(_corners(_PRONG) @ turn) + REACH, (side, side), pixels)
        start, towards = near @ turn, across @ turn
        distance = radius * np.cos(angle - np.arctan2(towards[1], towards[0])) - start @ towards
        beyond = np.where(prong > 0, np.maximum(distance, 0), beyond)
        cover = np.maximum(cover, prong)
    soft = cv2.GaussianBlur(cover, (0, 0), 0.018 * pixels)
    edge = 0.0095 * (1 - np.square(2 - 2 * soft))
    cover = cover * smoothstep(_OPENING - 0.004, _OPENING + 0.004, radius)
    layers = tuple(np.ascontiguousarray(layer, np.float32) for layer in (cover, edge, beyond))
    for layer in layers:
        layer.setflags(write=False)
    return layers


def sheet_cover(side: int) -> np.ndarray:
    """Returns how much of each pixel of the frame an intact nut covers."""
    return _sheet(side)[0]


def _hairlines(rng: Generator, side: int, count: int) -> np.ndarray:
    """Returns fine scratches that tumbling leaves, float32 of shape `(side, side)`, 0 to 1."""
    canvas, pixels = np.zeros((side, side), np.uint8), side / (2 * REACH)
    t = np.linspace(-1, 1, 9)[:, None]
    for _ in range(count):
        middle, angle = rng.uniform(-1, 1, 2), rng.uniform(0, 2 * np.pi)
        reach, width, sag, depth = rng.uniform([0.03, 0.002, -0.15, 40], [0.30, 0.005, 0.15, 200])
        ahead, aside = axes(angle)
        line = middle + reach * (t * ahead + sag * t * t * aside)
        half = 0.5 * width * (1 - t * t) * aside
        points = np.concatenate([line + half, (line - half)[::-1]]) + REACH
        points = np.round((points * pixels - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(canvas, [points], int(depth), cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas.astype(np.float32) / 255


def manufacture(side: int, turn: float, light: Generator, surface: Generator) -> Nut:
    """Returns one nut of the series, turned by `turn` under the lamp."""
    azimuth, lean = light.normal(-2.2, 0.22) - turn, light.uniform(0.38, 0.52)
    shape = (side, side)
    brush = float(surface.normal(0.7, 0.12))  # the sheet was rolled before it was punched
    stain = noise(surface, shape, (4, 4), octaves=5, persistence=0.62)
    grind = noise(surface, shape, (12, 190), octaves=2, persistence=0.6)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), 90 - np.degrees(brush), 1.0)
    grind = cv2.warpAffine(grind, matrix, shape, borderMode=cv2.BORDER_REFLECT)
    waves = noise(surface, shape, (3, 3), octaves=2)
    grain = noise(surface, shape, (50, 50), octaves=3, persistence=0.7)
    lines = _hairlines(surface, side, int(surface.integers(10, 34)))
    relief = 0.008 * waves + 0.00008 * grain + 0.00005 * grind - 0.0018 * lines
    warm = surface.normal(0, 0.017)
    return Nut(
        side,
        lamp=lean * np.array([np.cos(azimuth), np.sin(azimuth)]),
        exposure=float(np.exp(light.normal(0, 0.08))),
        brush=brush,
        tilt=surface.normal(0, 0.012, 2),
        thread=float(surface.uniform()),
        colour=np.array([0.97 + warm, 0.925, 0.885 - 1.4 * warm], np.float32),
        relief=relief,
        stain=0.035 * stain + 0.05 * grind - 0.14 * np.clip(-stain - 1.2, 0, 1),
    )


def _core(nut: Nut, upside_down: float) -> tuple[slice, np.ndarray, np.ndarray]:
    """Returns the window around the hole, the height there and how much light the hole's wall gets."""
    low = round((REACH - 0.6) * nut.pixels)
    window = slice(low, nut.side - low)
    axis = (np.arange(nut.side, dtype=np.float32)[window] + 0.5) / nut.pixels - REACH
    radius = polar(nut.side)[0][window, window]
    deep = smoothstep(0.42, 0.25, radius)
    x, y = axis[None, :] - float(nut.tilt[0]) * deep, axis[:, None] - float(nut.tilt[1]) * deep
    radius, angle = cv2.cartToPolar(x, y)
    profile = _FRONT + (_BACK - _FRONT) * upside_down
    height = np.interp(radius, profile[:, 0], profile[:, 1]).astype(np.float32)
    turns = radius / _THREAD_PITCH - angle / (2 * np.pi) + nut.thread
    threaded = smoothstep(_THREAD_TOP, _THREAD_TOP - 0.012, radius) * (1 - 0.7 * upside_down)
    height += 0.0042 * threaded * np.sin(2 * np.pi * turns)
    return window, height, 0.3 + 0.7 * smoothstep(0.215, 0.335, radius)


def appearance(nut: Nut, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
    """Returns colour `(rows, columns, 3)` and cover `(rows, columns)`, float32."""
    cover, edge, beyond = _sheet(nut.side)
    if edit.upside_down:
        cover, edge, beyond = cover[:, ::-1], 0.5 * edge[:, ::-1], beyond[:, ::-1]
    rise = 2.8 * edit.upside_down - 1.4  # a prong points away from the camera, or towards it
    fold = beyond * beyond / (beyond + 0.04)
    height = nut.relief + edge + rise * fold
    window, core, lit = _core(nut, edit.upside_down)
    height[window, window] += core
    light = 1 + np.clip(2.2 * rise * fold, -0.75, 0.3)
    light[window, window] *= lit
    light *= 1 + nut.stain
    if edit.shift is not None:
        moved = _bend(np.dstack([height, cover, light]), edit.shift * nut.pixels)
        height, cover, light = (np.ascontiguousarray(moved[..., k]) for k in range(3))
    brightness = light * _reflection(nut, height + edit.relief) * (1 - edit.shade)
    brightness = brightness * (1 - edit.bare) + edit.bare * (0.55 + 0.5 * brightness)
    colour = brightness[..., None] * nut.colour
    if np.ndim(edit.film):
        blend(colour, np.asarray(edit.film_colour, np.float32) * (0.06 + brightness[..., None]), edit.film)
    return colour, cover


def _bend(layers: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Moves layers `(rows, columns, n)` by `shift`, in pixels."""
    side = layers.shape[0]
    axis = np.arange(side, dtype=np.float32)
    across, down = (axis[None, :] - shift[0]).astype(np.float32), (axis[:, None] - shift[1]).astype(np.float32)
    return cv2.remap(layers.astype(np.float32), across, down, cv2.INTER_LINEAR)


def _reflection(nut: Nut, height: np.ndarray) -> np.ndarray:
    """Mirrors a large soft lamp in ground metal: the grinding marks spread the light across themselves."""
    normal = normals(height, nut.pixels)
    x, y = 2 * normal[2] * normal[:2]
    steep = np.sqrt(x * x + y * y)
    near = ((np.arange(nut.side, dtype=np.float32) + 0.5) / nut.pixels - REACH) * np.float32(0.20)  # the lamp is close
    x, y = x + near[None, :] - np.float32(nut.lamp[0]), y + near[:, None] - np.float32(nut.lamp[1])
    cos, sin = np.float32(np.cos(nut.brush)), np.float32(np.sin(nut.brush))
    along, across = x * cos + y * sin, y * cos - x * sin
    lamp = np.exp(-4.0 * along * along - 2.2 * across * across)
    room = bump(steep, 0.9, 0.5)  # bright walls, which only a bevel can mirror
    return np.float32(nut.exposure) * (0.09 + 0.78 * lamp + (0.42 - 0.15 * x) * room)
