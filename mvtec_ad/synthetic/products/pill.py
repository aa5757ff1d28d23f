"""Pill: a white oval tablet with red speckles and a debossed imprint, on black, seen from above.

A defect edits the tablet's relief, matter or outline (`pill_surface`) before it is lit.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.products.pill_surface import HALF, LETTER, Tablet, appearance, backdrop, body, press, window
from mvtec_ad.synthetic.tools.damage import crack_path
from mvtec_ad.synthetic.tools.drawing import (
    Streams,
    blend,
    fill,
    mix,
    noise,
    smooth_contour,
    smoothstep,
    stroke,
    to_mask,
)
from mvtec_ad.synthetic.tools.optics import camera

DEFECTS = ("color", "combined", "contamination", "crack", "faulty_imprint", "pill_type", "scratch")


def draw(streams: Streams, size: int, defect: str | None, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one tablet; see `products`."""
    tablet = press(streams, size)
    canvas = backdrop(streams.light, size)
    region = np.zeros(canvas.shape[:2], np.float32)
    if defect:
        intact = tablet.outline.copy()
        region[window(size)] = _EDITS[defect](streams.defect, severity, tablet) * np.maximum(intact, tablet.outline)
    blend(canvas[window(size)], appearance(tablet), tablet.outline)
    image = camera(canvas, streams.sensor, blur=0.0016, grain=0.012)
    return image, to_mask(region) if defect else np.zeros((size, size), bool)


def _somewhere(rng: Generator, reach: float) -> np.ndarray:
    """Returns a point on the tablet, in its frame, at most `reach` (0 to 1) of the way to the rim."""
    angle, radius = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.uniform())
    return HALF * radius * np.array([np.cos(angle), np.sin(angle)])


def _blur(cover: np.ndarray, tablet: Tablet, sigma: float) -> np.ndarray:
    """Returns the coverage with soft edges, without the long tails of a Gaussian."""
    soft = cv2.GaussianBlur(cover, (0, 0), max(sigma * tablet.pixels, 0.3))
    return np.maximum(soft - np.float32(0.04), 0) / np.float32(0.96)


def _blob(rng: Generator, tablet: Tablet, middle: np.ndarray, radius: float, ragged: float) -> np.ndarray:
    """Returns the coverage of an irregular patch around a point of the tablet."""
    squeeze = np.array([1.0, rng.uniform(0.6, 1.0)])
    points = middle + radius * (smooth_contour(rng, ragged) * squeeze) @ _rotation(rng.uniform(0, 2 * np.pi))
    return fill(tablet.pose.place(points), tablet.shape, tablet.pixels)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _color(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """A stain has soaked into the powder."""
    tint = np.array([[0.03, 0.22, 0.75], [0.08, 0.8, 0.75], [0.75, 0.42, 0.08]])[rng.integers(0, 3)]
    tint = tint * rng.uniform(0.8, 1.2, 3)
    radius = mix(0.012, 0.075, severity) * rng.uniform(0.8, 1.2)
    cover = _blob(rng, tablet, _somewhere(rng, 0.75), radius, ragged=0.22)
    cover = _blur(cover, tablet, 0.12 * radius) * np.clip(0.8 + 0.25 * noise(rng, tablet.shape, (14, 22)), 0.1, 1.3)
    tablet.density += cover[..., None] * (mix(0.08, 0.75, severity) * tint).astype(np.float32)
    return smoothstep(0, 0.15, cover)


def _contamination(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """A crumb or a fibre lies on the tablet and throws a shadow."""
    middle, radius = _somewhere(rng, 0.7), mix(0.008, 0.038, severity) * rng.uniform(0.8, 1.2)
    if rng.uniform() < 0.4:
        t = np.linspace(-1, 1, 48)
        bend = rng.normal(0, 0.6, 3)
        line = np.column_stack([t, bend[0] * t**2 + bend[1] * np.sin(3 * t) + bend[2] * t**3])
        line = middle + 1.8 * radius * line @ _rotation(rng.uniform(0, 2 * np.pi))
        thick = mix(0.0032, 0.0065, severity)
        cover = stroke(tablet.pose.place(line), thick, tablet.shape, tablet.pixels)
    else:
        thick = radius
        cover = _blob(rng, tablet, middle, radius, ragged=0.3)
    relief = _blur(cover, tablet, 0.22 * thick) * cover
    rough = noise(rng, tablet.shape, (30, 45), octaves=4)
    tablet.height += 0.5 * thick * relief + 0.0012 * rough * cover
    kinds = np.array([[1.3, 1.5, 1.7], [0.5, 0.9, 1.4], [0.9, 0.8, 0.65], [1.6, 1.0, 0.6]])
    tone = kinds[rng.integers(0, len(kinds))] * rng.uniform(0.8, 1.2)
    blend(tablet.density, tone * (1 + 0.2 * rough[..., None]) * mix(0.3, 1, severity), cover * mix(0.5, 1, severity))
    away = -0.45 * thick * np.array(tablet.lamp[:2]) * tablet.pixels
    moved = np.array([[1, 0, away[0]], [0, 1, away[1]]])
    shadow = cv2.warpAffine(_blur(cover, tablet, 0.15 * thick), moved, tablet.shape[::-1])
    tablet.lit *= 1 - mix(0.2, 0.5, severity) * shadow * (1 - cover)
    return np.maximum(cover, smoothstep(0, 0.1, shadow))


def _crack(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """The tablet is cracked, or a piece has broken out of its rim."""
    return (_chip if rng.uniform() < 0.5 else _crack_line)(rng, severity, tablet)


def _crack_line(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """A crack runs inwards from the rim; one lip stands higher than the other."""
    angle = rng.uniform(0, 2 * np.pi, 1)
    start = tablet.pose.rim(angle)[0]
    heading = np.arctan2(-start[1], -start[0]) + rng.uniform(-0.6, 0.6)
    line = crack_path(rng, start, heading, mix(0.06, 0.34, severity))
    lip = line + np.array([-np.sin(heading), np.cos(heading)]) * rng.choice([-1, 1]) * 0.005
    width = mix(0.0025, 0.006, severity)
    groove = stroke(tablet.pose.place(line), width, tablet.shape, tablet.pixels)
    raised = _blur(stroke(tablet.pose.place(lip), 0.009, tablet.shape, tablet.pixels), tablet, 0.001)
    tablet.height += mix(0.0005, 0.003, severity) * raised - mix(0.001, 0.004, severity) * groove
    tablet.lit *= 1 - mix(0.15, 0.6, severity) * groove
    return np.maximum(smoothstep(0, 0.3, groove), smoothstep(0, 0.1, raised))


def _chip(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """A piece of the rim is missing: the outline recedes, and the fracture slopes down to it, rough and pale."""
    radius = mix(0.018, 0.085, severity) * rng.uniform(0.85, 1.15)
    rim = tablet.pose.rim(rng.uniform(0, 2 * np.pi, 1))[0]
    outwards = rim / np.linalg.norm(rim)
    gap = _blob(rng, tablet, rim + 0.2 * radius * outwards, radius, ragged=0.15)
    gone = _blob(rng, tablet, rim + 0.35 * radius * outwards, 0.75 * radius, ragged=0.2)
    rough = noise(rng, tablet.shape, (20, 30), octaves=5, persistence=0.8)
    inwards = cv2.distanceTransform((gap > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / tablet.pixels
    tablet.height -= (0.5 * inwards + 0.0011 * rough * np.minimum(inwards / 0.004, 1)).astype(np.float32)
    tablet.imprint *= 1 - gap
    tablet.lit *= 1 + gap * (0.08 + 0.04 * rough)
    tablet.outline *= 1 - gone * gap
    return gap


def _faulty_imprint(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """A letter, or both, is filled with powder, too shallow, or pressed twice."""
    u, _ = tablet.pose.frame(tablet.shape, tablet.pixels)
    near, far = LETTER - 0.08, LETTER + 0.08
    side = rng.choice([-1, 0, 1])  # which letters: 0 is both
    across = np.abs(u) if side == 0 else side * u
    letters = ((across > near) & (across < far)).astype(np.float32)
    kind = rng.uniform()
    if kind < 0.35:
        change = -mix(0.12, 1.0, severity) * tablet.imprint
    elif kind < 0.7:
        filled = smoothstep(0.9, -0.3, noise(rng, tablet.shape, (6, 9), octaves=3) + mix(0.9, -0.9, severity))
        change = -mix(0.3, 1.0, severity) * filled * tablet.imprint
    else:
        angle = rng.uniform(0, 2 * np.pi)
        step = mix(0.004, 0.02, severity) * tablet.pixels * np.array([np.cos(angle), np.sin(angle)])
        moved = np.array([[1, 0, step[0]], [0, 1, step[1]]])
        ghost = cv2.warpAffine(tablet.imprint, moved, tablet.shape[::-1])
        change = np.maximum(mix(0.5, 0.9, severity) * ghost - tablet.imprint, 0)
    change = (change * letters).astype(np.float32)
    tablet.imprint += change
    return smoothstep(0, 0.008, np.abs(change))


def _pill_type(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """Another tablet among these: other speckles or none, other matter, another shape."""
    kind = rng.integers(0, 3)
    if kind == 0:  # blue, green or dark speckles, and coarser
        order = ([2, 1, 0], [1, 0, 1], [1, 1, 1])[rng.integers(0, 3)]
        wide = round(0.004 * tablet.pixels) * 2 + 1
        coarse = cv2.dilate(tablet.density[..., order], cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (wide, wide)))
        tablet.density += severity * (cv2.blur(coarse, (3, 3)) - tablet.density)
    else:  # yellow or greenish matter, nearly free of speckles
        shift = np.array([[0.0, -0.12, -0.55], [-0.17, -0.03, -0.12]])[kind - 1]
        tablet.matter = tablet.matter * np.exp(severity * rng.uniform(0.7, 1.2) * shift)
        tablet.density *= 1 - severity
    pose, intact = tablet.pose, tablet.outline
    stretch = 1 + severity * rng.uniform(0.03, 0.09) * np.array([-1, rng.choice([-1, 0.5])])
    other = replace(pose, half=pose.half * stretch, roundness=pose.roundness + severity * rng.uniform(-0.3, 0.6))
    _, before = body(pose, tablet.shape, tablet.pixels, 0)
    tablet.outline, after = body(other, tablet.shape, tablet.pixels, 0)
    tablet.height += after - before
    scale = 1 + severity * rng.uniform(0.05, 0.25)  # larger letters
    middle = pose.centre * tablet.pixels * (1 - scale)
    matrix = np.array([[scale, 0, middle[0]], [0, scale, middle[1]]])
    tablet.imprint = cv2.warpAffine(tablet.imprint, matrix, tablet.shape[::-1])
    return np.maximum(intact, tablet.outline)


def _scratch(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """Grooves with powder pushed up beside them."""
    slant, middle = rng.uniform(0, np.pi), _somewhere(rng, 0.6)
    region = np.zeros(tablet.shape, np.float32)
    broken = np.clip(0.8 + 0.5 * noise(rng, tablet.shape, (20, 30), octaves=3), 0.15, 1)
    for _ in range(1 + int(rng.integers(0, 4) * severity + 0.5)):
        centre, angle = middle + rng.normal(0, 0.03, 2), slant + rng.normal(0, 0.2)
        reach = mix(0.025, 0.12, severity) * rng.uniform(0.6, 1.0)
        ahead, aside = _rotation(angle)
        t = np.linspace(-1, 1, 24)[:, None]
        line = centre + reach * (t * ahead + rng.uniform(-0.2, 0.2) * t * t * aside)
        width = mix(0.0035, 0.0075, severity) * rng.uniform(0.7, 1.2)
        groove = _blur(stroke(tablet.pose.place(line), width, tablet.shape, tablet.pixels), tablet, 0.0008) * broken
        ridge = stroke(tablet.pose.place(line + 0.9 * width * aside), width, tablet.shape, tablet.pixels) * broken
        tablet.height += mix(0.0009, 0.0042, severity) * (0.6 * _blur(ridge, tablet, 0.0008) - groove)
        tablet.lit *= 1 - mix(0.05, 0.28, severity) * groove
        region = np.maximum(region, np.maximum(groove, ridge))
    return smoothstep(0.03, 0.3, region)


def _combined(rng: Generator, severity: float, tablet: Tablet) -> np.ndarray:
    """Two of the local defects at once."""
    local = (_color, _contamination, _crack, _faulty_imprint, _scratch)
    first, second = rng.choice(len(local), 2, replace=False)
    return np.maximum(local[first](rng, severity, tablet), local[second](rng, severity, tablet))


_EDITS = dict(
    zip(DEFECTS, (_color, _combined, _contamination, _crack, _faulty_imprint, _pill_type, _scratch), strict=True)
)
