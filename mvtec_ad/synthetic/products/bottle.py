"""Bottle: dark glass seen straight from above on an overexposed lamp.

The glass is drawn as a strip, angle by radius, because everything intact about it is a ring. A remap then bends the
strip into the picture, each height of the bottle a little aside of the next, as a camera sees a bottle that is not
quite below it. What is broken or dirty is drawn on the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.damage import fracture, soil
from mvtec_ad.synthetic.tools.drawing import (
    Streams,
    blend,
    bump,
    canvas_grid,
    fill,
    mix,
    noise,
    smoothstep,
    to_mask,
)
from mvtec_ad.synthetic.tools.optics import camera

DEFECTS = ("broken_large", "broken_small", "contamination")

_RADIUS = 0.449  # of the outline, in image sides; all other radii are in units of it
_REACH = 1.14  # the strip's outer end
_MOUTH, _RIM = 0.50, 0.77
# Radius, red, green, blue: the glass from the mouth to the lamp beside the bottle, without any light on it.
_RINGS = np.array(
    [
        [0.00, 33, 33, 45],
        [0.47, 32, 32, 44],
        [0.485, 60, 40, 42],
        [0.495, 46, 36, 44],
        [0.507, 92, 90, 96],
        [0.52, 52, 54, 62],
        [0.55, 42, 44, 53],
        [0.59, 46, 48, 57],
        [0.615, 62, 65, 70],
        [0.64, 72, 76, 84],
        [0.70, 68, 70, 79],
        [0.735, 64, 66, 75],
        [0.76, 72, 68, 74],
        [0.80, 74, 74, 82],
        [0.83, 64, 65, 74],
        [0.86, 78, 79, 86],
        [0.893, 120, 114, 116],
        [0.925, 76, 77, 84],
        [0.945, 60, 62, 71],
        [0.97, 76, 81, 88],
        [0.99, 140, 144, 146],
        [1.01, 242, 244, 236],
        [1.03, 262, 262, 260],
        [1.14, 275, 275, 274],
    ],
    np.float32,
)


@dataclass(frozen=True)
class _Pose:
    centre: np.ndarray  # of the outline, in image sides from the top left corner
    radius: float
    tilt: np.ndarray  # how far the mouth lies aside of the outline, in radii

    def place(self, angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """Returns image positions `(n, 2)` of points on the glass."""
        ring = np.column_stack([np.cos(angle), np.sin(angle)]) * np.reshape(radius, (-1, 1))
        return self.centre + self.radius * (ring + self.tilt * (1 - np.reshape(radius, (-1, 1))))


def draw(streams: Streams, size: int, defect: str | None, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one bottle; see `products`."""
    jitter = streams.pose.normal(0, 1, 5)
    pose = _Pose(0.5 + 0.0045 * jitter[:2], _RADIUS * (1 + 0.004 * jitter[2]), 0.012 * jitter[3:])
    canvas = _project(_glass(streams, size), pose, size)
    region = None
    if defect:
        region = _PAINTERS[defect](streams.defect, severity, pose, canvas)
    image = camera(canvas, streams.sensor, blur=0.0022, grain=0.008)
    return image, np.zeros((size, size), bool) if region is None else to_mask(region)


def _project(strip: np.ndarray, pose: _Pose, size: int) -> np.ndarray:
    """Bends the strip (angle, radius, colour) into the picture, float32 of shape `(side, side, 3)`."""
    x, y = canvas_grid(size)
    # The ring of radius r is centred at tilt * (1 - r): solved for r to first order in the tilt.
    x = (x + 0.5 - pose.centre[0]) / pose.radius - pose.tilt[0]
    y = (y + 0.5 - pose.centre[1]) / pose.radius - pose.tilt[1]
    x, y = (np.array(axis, np.float32) for axis in np.broadcast_arrays(x, y))
    radius, angle = cv2.cartToPolar(x, y)
    radius += float(pose.tilt[0]) * x + float(pose.tilt[1]) * y
    rows, columns = strip.shape[:2]
    across = np.clip(radius * (columns / _REACH) - 0.5, 0, columns - 1)
    around = angle * (rows / (2 * np.pi)) - 0.5
    return cv2.remap(strip, across, around, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _glass(streams: Streams, size: int) -> np.ndarray:
    """Returns the intact bottle as a strip: float32 of shape `(angles, radii, 3)`."""
    light, surface = streams.light, streams.surface
    angles, radii = 4 * size, size
    angle = (np.arange(angles, dtype=np.float32)[:, None] + 0.5) * (2 * np.pi / angles)
    radius = (np.arange(radii, dtype=np.float32)[None, :] + 0.5) * (_REACH / radii)
    lamp = 0.9 + light.normal(0, 0.35)  # where the side light stands: lower right

    strip = np.repeat(_rings(surface, radius), angles, 0)
    glass = smoothstep(0.35, 0.52, radius) * smoothstep(1.0, 0.9, radius)  # neither mouth nor background
    clouds = noise(surface, (angles, radii), (6, 3), octaves=4, wrap=True)
    strip *= (1 + glass * (0.13 * np.cos(angle - lamp - 3.4) + 0.035 * clouds))[..., None]
    _knurl(strip, surface, angle, radius, lamp)
    _lip_arcs(strip, light, angle, radius)
    _rim(strip, streams, angle, radius, lamp)
    _glow(strip, light, angle, radius)
    return strip


def _rings(rng: Generator, radius: np.ndarray) -> np.ndarray:
    """Returns the colours along the radius, `(1, radii, 3)`, with the small differences between two bottles."""
    knots = _RINGS[:, 0] + rng.normal(0, 0.0022, len(_RINGS)) * (_RINGS[:, 0] < 0.97)
    dim = 1 + rng.normal(0, 0.05, len(_RINGS)) * (_RINGS[:, 0] < 0.97)
    knots = np.maximum.accumulate(knots)
    return np.dstack([np.interp(radius, knots, dim * _RINGS[:, c] / 255) for c in (1, 2, 3)]).astype(np.float32)


def _band(strip: np.ndarray, radius: np.ndarray, inner: float, outer: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of the strip between two radii, to be painted in place, and its radii."""
    columns = slice(*np.searchsorted(radius[0], [inner, outer]))
    return strip[:, columns], radius[:, columns]


def _knurl(strip: np.ndarray, rng: Generator, angle: np.ndarray, radius: np.ndarray, lamp: float) -> None:
    """Roughens the wall under the mouth and lights its bumps from one side."""
    part, r = _band(strip, radius, 0.50, 0.63)
    height = noise(rng, part.shape[:2], (150, 7), octaves=2, wrap=True)
    slope = np.gradient(height, axis=1) * np.cos(angle - lamp) - np.gradient(height, axis=0) * np.sin(angle - lamp)
    slope *= strip.shape[1] / 256
    facing = bump(r, 0.565, 0.065) ** 0.25 * (0.75 + 0.45 * np.cos(angle - lamp))
    relief = facing * (0.07 * np.clip(slope, -0.8, 2.2) + 0.015)
    part += relief[..., None] * np.array([0.9, 1.05, 1.0], np.float32)


def _lip_arcs(strip: np.ndarray, rng: Generator, angle: np.ndarray, radius: np.ndarray) -> None:
    """Thin reflections on the lip, each a part of a circle."""
    for _ in range(12):
        centre, start, reach = rng.uniform(0.625, 0.755), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.8)
        half = rng.uniform(0.004, 0.009)
        part, r = _band(strip, radius, centre - half, centre + half)
        arc = bump(r, centre, half) * smoothstep(reach, reach * 0.4, np.abs(_turn(angle - start)))
        part += (rng.uniform(-0.12, 0.24) * arc)[..., None]


def _turn(angle: np.ndarray) -> np.ndarray:
    """Returns the same angles between -pi and pi."""
    return np.mod(angle + np.pi, 2 * np.pi) - np.pi


def _rim(strip: np.ndarray, streams: Streams, angle: np.ndarray, radius: np.ndarray, lamp: float) -> None:
    """The brown edge of the rim: wavy strands of light, and two glints that follow the lamp."""
    rng, light, angles = streams.surface, streams.light, strip.shape[0]
    part, r = _band(strip, radius, _RIM - 0.06, _RIM + 0.06)
    r = r - 0.004 * noise(rng, (angles, 1), (9, 1), octaves=4, wrap=True)
    streaks = noise(rng, part.shape[:2], (40, 6), octaves=3, wrap=True)
    for aside, half, strength in ((0.0, 0.012, 0.5), (0.018, 0.012, 0.4), (-0.013, 0.008, 0.25)):
        fade = np.clip(0.55 + 0.45 * noise(rng, (angles, 1), (5, 1), octaves=4, wrap=True), 0.05, 1.5)
        strand = bump(r, _RIM + aside, half) * fade * np.clip(0.8 + 0.35 * streaks, 0.1, 1.8)
        part += (strength * strand)[..., None] * np.array([1.0, 0.52, 0.30], np.float32)
    for offset in (-1.35, 1.65):  # the lamp's two mirror images
        spot, width = lamp + offset + light.normal(0, 0.12), light.uniform(0.05, 0.13)
        glint = bump(r, _RIM - 0.01, 0.018) * bump(_turn(angle - spot), 0, width) * np.clip(0.4 + streaks, 0, 1.6)
        part += (light.uniform(0.35, 1.0) * glint)[..., None] * np.array([1.0, 0.85, 0.55], np.float32)


def _glow(strip: np.ndarray, rng: Generator, angle: np.ndarray, radius: np.ndarray) -> None:
    """The lamp through the bottom of the bottle: a faint, soft spot in the mouth, brown in some bottles."""
    part, r = _band(strip, radius, 0, _MOUTH)
    aside, towards = rng.uniform(0, 0.12), rng.uniform(0, 2 * np.pi)
    distance = np.sqrt(r**2 + aside**2 - 2 * aside * r * np.cos(angle - towards))
    tint = rng.uniform(0.0, 0.06) + max(0.0, rng.normal(0, 0.03)) * np.array([1.0, 0.5, 0.2])
    part += smoothstep(0.36, 0.0, distance)[..., None] * tint.astype(np.float32)


def _contour(rng: Generator, start: float, width: float, inner: float, outer: float, pose: _Pose) -> np.ndarray:
    """Returns the outline `(n, 2)` of a piece that is missing between two angles: steep ends, chipped far side."""
    corners = np.sort(rng.uniform(0.05, 0.95, max(5, int(width * 10))))
    depth = np.clip(rng.normal(0.86, 0.10, corners.size), 0.4, 1.0)
    depth[[0, -1]] *= rng.uniform(0.3, 0.9, 2)
    far = pose.place(start + width * corners, inner + (outer - inner) * depth)
    near = pose.place(start + width * np.linspace(1, 0, 24), np.full(24, inner))
    return np.concatenate([far, near])


def _break(rng: Generator, severity: float, pose: _Pose, canvas: np.ndarray, width: float, outer: float) -> np.ndarray:
    """Breaks a piece out of the lip and lights the fracture. Returns the coverage of the piece."""
    side, start = canvas.shape[0], float(rng.uniform(0, 2 * np.pi))
    points = _contour(rng, start, width, _MOUTH - 0.015, outer, pose)
    gap = fill(points, (side, side), side)
    low = np.maximum(points.min(0) * side - 3, 0).astype(int)
    high = np.minimum(points.max(0) * side + 3, side).astype(int)
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    part, inside = canvas[window], gap[window]
    rows, columns = inside.shape
    blend(part, fracture(rng, severity, rows, columns, np.ptp(points, axis=0)), 0.92 * inside)
    edge = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) * inside
    broken_line = np.clip(0.35 + 0.6 * noise(rng, (rows, columns), (6, 6), octaves=3), 0, 1)
    blend(part, (0.70, 0.69, 0.68), edge * broken_line * mix(0.3, 0.8, severity))
    return gap


def _broken_large(rng: Generator, severity: float, pose: _Pose, canvas: np.ndarray) -> np.ndarray:
    width = mix(0.7, 3.2, severity) * float(rng.uniform(0.85, 1.15))
    return _break(rng, severity, pose, canvas, width, outer=mix(0.68, 0.86, severity))


def _broken_small(rng: Generator, severity: float, pose: _Pose, canvas: np.ndarray) -> np.ndarray:
    width = mix(0.12, 0.6, severity) * float(rng.uniform(0.85, 1.15))
    return _break(rng, severity, pose, canvas, width, outer=mix(0.57, 0.78, severity))


def _contamination(rng: Generator, severity: float, pose: _Pose, canvas: np.ndarray) -> np.ndarray:
    """Lays something into the mouth or onto its edge. Returns its coverage."""
    middle = pose.place(rng.uniform(0, 2 * np.pi, 1), np.array([np.sqrt(rng.uniform(0.0, 0.36))]))[0]
    return soil(rng, severity, canvas, middle, mix(0.03, 0.15, severity) * float(rng.uniform(0.8, 1.2)))


_PAINTERS = dict(zip(DEFECTS, (_broken_large, _broken_small, _contamination), strict=True))
