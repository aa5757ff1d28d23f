"""Metal nut: a T-nut with four lobes lies near the middle of a dark table, seen from above.

It is drawn in its own frame (`metal_nut_surface`), which is then turned and laid onto the table. A defect edits the
surface before it is lit.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.products.metal_nut_surface import (
    REACH,
    Edit,
    Nut,
    appearance,
    axes,
    manufacture,
    polar,
    sheet_cover,
)
from mvtec_ad.synthetic.tools.drawing import (
    OVERSAMPLING,
    Streams,
    fill,
    mix,
    noise,
    smooth_contour,
    smoothstep,
    stroke,
    to_mask,
)
from mvtec_ad.synthetic.tools.optics import camera, uneven_light

DEFECTS = ("bent", "color", "flip", "scratch")

_RADIUS = 0.425  # of the nut, in image sides
_SWING = np.radians(16)  # most that a nut is turned out of one of its four like positions
_FILMS = ((0.16, 0.24, 0.55), (0.62, 0.16, 0.12), (0.42, 0.27, 0.13), (0.20, 0.42, 0.45))  # heat, paint, oil, dye


def draw(streams: Streams, size: int, defect: str | None, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one nut; see `products`."""
    pose = streams.pose
    turn = float(pose.uniform(-_SWING, _SWING) + pose.integers(4) * np.pi / 2)
    centre, radius = pose.normal(0, 0.006, 2), _RADIUS * float(pose.uniform(0.99, 1.01))
    frame = round(2 * REACH * _RADIUS * size * OVERSAMPLING)
    nut = manufacture(frame, turn, streams.light, streams.surface)
    place = _placement(turn, centre, radius, size, frame)

    edit = _EDITS[defect](streams.defect, severity, nut) if defect else Edit()
    colour, cover = appearance(nut, edit)
    side = (size * OVERSAMPLING,) * 2
    colour *= cover[..., None]
    layers = cv2.warpAffine(np.dstack([colour, cover]), place, side)
    shadow = cv2.warpAffine(sheet_cover(frame), place, side)
    canvas = _table(streams.light, size, shadow)
    canvas *= 1 - layers[..., 3:]
    canvas += layers[..., :3]
    image = camera(canvas, streams.sensor, blur=0.0013, grain=0.009)
    if not defect:
        return image, np.zeros((size, size), bool)
    region = np.asarray(edit.region * np.maximum(cover, sheet_cover(frame)), np.float32)
    return image, to_mask(cv2.warpAffine(region, place, side))


def _placement(turn: float, centre: np.ndarray, radius: float, size: int, frame: int) -> np.ndarray:
    """Returns the matrix from pixels of the nut's frame to pixels of the canvas."""
    scale = radius / _RADIUS * (2 * REACH * _RADIUS * size * OVERSAMPLING) / frame
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (0.5 + centre) * size * OVERSAMPLING - 0.5
    return np.column_stack([linear, middle - linear @ np.full(2, (frame - 1) / 2)])


def _table(light: Generator, size: int, outline: np.ndarray) -> np.ndarray:
    """Returns the dark table: cloth-like grain, uneven light, darker beside the nut."""
    tone = np.array([0.062, 0.063, 0.067]) * float(np.exp(light.normal(0, 0.18)))
    grain = noise(light, outline.shape, (40, 40), octaves=4, persistence=0.9)
    small = cv2.GaussianBlur(cv2.resize(outline, (64, 64), interpolation=cv2.INTER_AREA), (0, 0), 2.0)
    shadow = cv2.resize(small, outline.shape, interpolation=cv2.INTER_CUBIC)
    level = uneven_light(light, size, 0.5) * (1 + 0.16 * grain) * (1 - 0.45 * shadow)
    return level[..., None] * tone.astype(np.float32)


def _spot(rng: Generator) -> np.ndarray:
    """Returns a place on one of the lobes, in radii of the nut."""
    angle = np.radians(rng.uniform(8, 46) + 90 * rng.integers(4))
    return rng.uniform(0.55, 0.86) * np.array([np.cos(angle), np.sin(angle)])


def _bent(rng: Generator, severity: float, nut: Nut) -> Edit:
    """One lobe with its prong is bent, up or down and aside, about a crease beside the collar."""
    radius, angle = polar(nut.side)
    start = np.pi / 2 * rng.integers(4)
    past = np.mod(angle - start + np.radians(15), 2 * np.pi) - np.radians(15)  # angle beyond the lobe's first flank
    aside = rng.choice([-1, 1])
    until = past - np.radians(10) * (1 + aside) * np.clip(radius - 0.6, 0, 1)  # room for a prong that moves on
    sector = smoothstep(*np.radians([-9, -2]), past) * smoothstep(*np.radians([79.5, 76.0]), until)
    crease = float(rng.uniform(0.52, 0.60))
    outer = np.clip(radius - crease, 0, None) * sector
    sweep = aside * mix(0.03, 0.5, severity) * rng.uniform(0.6, 1.0)
    slope = rng.choice([-1, 1]) * mix(0.08, 0.9, severity) * rng.uniform(0.7, 1.0)
    inward = mix(0.02, 0.55, severity) * rng.uniform(0.6, 1.0)
    amount = outer * outer / (outer + 0.06)
    cos, sin = np.cos(angle), np.sin(angle)
    shift = np.stack([amount * (-sweep * sin - inward * cos), amount * (sweep * cos - inward * sin)])
    twist = 1 + rng.uniform(-0.8, 0.8) * np.sin(past - np.radians(27))
    region, relief = amount > 0.0001, slope * amount * twist
    return Edit(region=region.astype(np.float32), relief=relief.astype(np.float32), shift=shift)


def _color(rng: Generator, severity: float, nut: Nut) -> Edit:
    """A film of paint, oil or heat tint with a soft edge."""
    middle, reach = _spot(rng), mix(0.08, 0.30, severity) * rng.uniform(0.8, 1.2)
    turn, squeeze = rng.uniform(0, 2 * np.pi), np.array([1.0, rng.uniform(0.55, 1.0)])
    contour = reach * squeeze * smooth_contour(rng, 0.25) @ axes(turn)
    blob = fill(REACH + middle + contour, (nut.side,) * 2, nut.pixels)
    soft = cv2.GaussianBlur(blob, (0, 0), 0.045 * nut.pixels)
    thickness = np.clip(0.8 + 0.2 * noise(rng, blob.shape, (12, 12), octaves=4), 0.3, 1)
    film = smoothstep(0.12, 0.95, soft) * thickness * mix(0.18, 0.85, severity)
    colour = 1.7 * np.array(_FILMS[rng.integers(len(_FILMS))])
    return Edit(region=(soft > 0.2).astype(np.float32), film=film, film_colour=colour)


def _flip(rng: Generator, severity: float, nut: Nut) -> Edit:
    """The nut lies upside down."""
    cover = sheet_cover(nut.side)
    return Edit(region=np.maximum(cover, cover[:, ::-1]), upside_down=mix(0.15, 1.0, severity))


def _scratch(rng: Generator, severity: float, nut: Nut) -> Edit:
    """Deep scratches: a bright bottom beside a raised burr."""
    shape, relief, shade, bare, region = (nut.side,) * 2, 0.0, 0.0, 0.0, 0.0
    middle, slant = _spot(rng), rng.uniform(0, np.pi)
    t = np.linspace(-1, 1, 24)[:, None]
    bite = np.clip(0.85 + 0.3 * noise(rng, shape, (30, 30), octaves=3), 0.4, 1.3)
    for _ in range(1 + int(rng.integers(0, 5) * severity + 0.5)):
        angle, reach = slant + rng.normal(0, 0.3), mix(0.08, 0.38, severity) * rng.uniform(0.6, 1.0)
        ahead, aside = axes(angle)
        line = REACH + middle + rng.normal(0, 0.05, 2) + reach * (t * ahead + rng.uniform(-0.3, 0.3) * t * t * aside)
        width = mix(0.010, 0.022, severity)
        groove, burr = (stroke(line + k * width * aside, width, shape, nut.pixels) for k in (0, 1))
        relief = relief + mix(0.0015, 0.007, severity) * (burr - 0.6 * groove)
        shade = np.maximum(shade, mix(0.1, 0.6, severity) * burr * (1 - groove))
        bare = np.maximum(bare, mix(0.15, 0.75, severity) * groove * bite)
        region = np.maximum(region, np.maximum(groove, burr))
    return Edit(region=region, relief=relief, shade=shade, bare=bare)


_EDITS = dict(zip(DEFECTS, (_bent, _color, _flip, _scratch), strict=True))
