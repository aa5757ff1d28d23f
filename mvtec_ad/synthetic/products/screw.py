"""Screw: lies on a grey table at any angle, seen from above through a monochrome camera.

It is drawn in its own frame, a strip with the axis along the rows (`screw_surface`), which is then turned and laid onto
the table. A defect edits the surface before it is shaded.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.products.screw_surface import (
    CREST,
    HEAD_END,
    MARGIN,
    NECK_END,
    PITCH,
    TAPER,
    Edit,
    Screw,
    appearance,
    strip,
    strip_shape,
)
from mvtec_ad.synthetic.tools.drawing import (
    OVERSAMPLING,
    Streams,
    bump,
    canvas_grid,
    mix,
    noise,
    smoothstep,
    stroke,
    to_mask,
)
from mvtec_ad.synthetic.tools.optics import camera

DEFECTS = ("manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top")


def draw(streams: Streams, size: int, defect: str | None, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one screw; see `products`."""
    pose = streams.pose
    length = 0.80 * float(pose.uniform(0.985, 1.015))
    turn = float(pose.uniform(0, 2 * np.pi))
    centre = pose.uniform(-0.008, 0.008, 2)
    place = _placement(turn, centre, size, length)
    screw = _manufacture(streams, size * OVERSAMPLING * length, turn)

    good, outline = appearance(screw, Edit())
    brightness, shape, region = good, outline, np.zeros_like(good)
    if defect:
        edit = _EDITS[defect](streams.defect, severity, screw)
        inside = edit.region > 0
        bad, bad_outline = appearance(screw, edit)
        brightness, shape = np.where(inside, bad, good), np.where(inside, bad_outline, outline)
        region = inside * np.maximum(outline, bad_outline)

    side = (size * OVERSAMPLING,) * 2
    shadow = outline * smoothstep(0.85, 0.65, screw.u)  # ends before the tip, which a defect may bend away
    layers = cv2.warpAffine(np.dstack([brightness * shape, shape, region, shadow]).astype(np.float32), place, side)
    canvas = _table(streams.light, size, layers[..., 3]) * (1 - layers[..., 1]) + layers[..., 0]
    image = camera(np.dstack([canvas] * 3), streams.sensor, blur=0.0018, grain=0.011, grey=True)
    return image, to_mask(layers[..., 2]) if defect else np.zeros((size, size), bool)


def _manufacture(streams: Streams, pixels: float, turn: float) -> Screw:
    u, v = strip(pixels)
    shape = (v.size, u.size)
    azimuth, strength = streams.light.uniform(0, 2 * np.pi) - turn, streams.light.uniform(0.1, 0.25)
    stains = noise(streams.surface, shape, (3, 12), octaves=4)
    marks = noise(streams.surface, shape, (2, 160), octaves=2)  # left by the lathe: around the axis
    return Screw(
        u,
        v,
        pixels,
        roll=float(streams.pose.uniform()),
        jitter=streams.pose.normal(0, 0.006, 3),
        lamp=(float(strength * np.cos(azimuth)), float(strength * np.sin(azimuth))),
        softness=float(streams.light.uniform(0.35, 0.55)),
        texture=0.035 * stains + 0.02 * marks,
    )


def _placement(turn: float, centre: np.ndarray, size: int, length: float) -> np.ndarray:
    """Returns the 2×3 matrix from strip pixels to canvas pixels."""
    side = size * OVERSAMPLING
    pixels = side * length
    middle = np.array([(0.5 + MARGIN) * pixels, round(2 * MARGIN * pixels) / 2])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([rotation, (centre + 0.5) * side - rotation @ middle])


def _table(rng: Generator, size: int, outline: np.ndarray) -> np.ndarray:
    """Returns the lit table, darker beside the screw."""
    x, y = canvas_grid(size)
    level, fall, angle = rng.uniform(0.70, 0.78), rng.uniform(0.0, 0.10), rng.uniform(0, 2 * np.pi)
    plane = level * (1 + fall * (x * np.cos(angle) + y * np.sin(angle)) - 0.12 * (x * x + y * y))
    small = cv2.resize(outline, (64, 64), interpolation=cv2.INTER_AREA)
    shadow = cv2.GaussianBlur(small, (0, 0), 2.2)
    offset = np.array([[1, 0, 0.6], [0, 1, 0.9]])
    shadow = cv2.resize(cv2.warpAffine(shadow, offset, (64, 64)), outline.shape, interpolation=cv2.INTER_CUBIC)
    return (plane * (1 - 0.28 * shadow)).astype(np.float32)


def _manipulated_front(rng: Generator, severity: float, screw: Screw) -> Edit:
    """The tip is bent aside and its thread crushed; at times the point is missing."""
    start = mix(0.92, 0.76, severity)
    beyond = np.clip((screw.u - start) / (1 - start), 0, None)
    bend = float(rng.choice([-1, 1])) * mix(0.02, 0.12, severity)
    length = 1 - mix(0.005, 0.06, severity) * float(rng.integers(0, 2))
    crushed = np.minimum(beyond, 1) * np.clip(0.5 + 0.5 * noise(rng, strip_shape(screw), (6, 40), octaves=3), 0, 1)
    return Edit(
        screw.u > start,
        wear=0.9 * severity * crushed,
        shift=bend * beyond**1.6,
        length=length,
        flat=mix(0.2, 1.0, severity) * crushed,
    )


def _thread(rng: Generator, severity: float, screw: Screw, across: float, half: float) -> Edit:
    """Some turns of the thread are knocked flat and aside, around `across` (in crest radii from the axis)."""
    centre = float(rng.uniform(NECK_END + 0.12, TAPER - 0.06))
    where = bump(screw.u, centre, mix(0.9, 3.2, severity) * PITCH) * bump(screw.v / CREST, across, half)
    where = smoothstep(0, 0.25, where)
    grain = noise(rng, where.shape, (5, 44), octaves=3)
    bites = noise(rng, (1, where.shape[1]), (1, 44), octaves=3)  # along the axis only: no burr hangs in the air
    # Below 0 a burr stands out of the thread.
    wear = where * np.clip(mix(0.4, 0.6, severity) + mix(0.2, 0.9, severity) * bites, -0.8, 1)
    twist = float(rng.choice([-1, 1])) * mix(0.06, 0.3, severity) * where
    flat = where * mix(0.2, 1.0, severity) * np.clip(0.5 + 0.6 * grain, 0, 1)
    return Edit(where > 0.03, wear=wear, twist=twist, flat=flat)


def _thread_side(rng: Generator, severity: float, screw: Screw) -> Edit:
    return _thread(rng, severity, screw, across=float(rng.choice([-1, 1])), half=1.0)


def _thread_top(rng: Generator, severity: float, screw: Screw) -> Edit:
    return _thread(rng, severity, screw, across=float(rng.uniform(-0.2, 0.2)), half=0.8)


def _scratches(rng: Generator, severity: float, screw: Screw, start: float, stop: float) -> Edit:
    """Grooves between two positions on the axis: a bright bottom beside a dark burr."""
    shape, gain, region = strip_shape(screw), 0.0, 0.0
    origin = np.array([MARGIN, screw.v.size / (2 * screw.pixels)])
    slant = rng.uniform(0, np.pi)
    for _ in range(1 + int(rng.integers(0, 4) * severity + 0.5)):
        centre = np.array([rng.uniform(start, stop), rng.uniform(-0.03, 0.03)])
        angle, reach = slant + rng.normal(0, 0.25), mix(0.02, 0.075, severity) * rng.uniform(0.6, 1.0)
        ahead, aside = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        t = np.linspace(-1, 1, 16)[:, None]
        line = origin + centre + reach * (t * ahead + rng.uniform(-0.3, 0.3) * t * t * aside)
        width = mix(0.008, 0.018, severity)
        groove = stroke(line, width, shape, screw.pixels)
        burr = stroke(line + width * aside, width, shape, screw.pixels)
        gain = gain + mix(0.25, 0.8, severity) * groove - mix(0.15, 0.5, severity) * burr
        region = np.maximum(region, np.maximum(groove, burr))
    return Edit(region > 0, gain=gain)


def _scratch_head(rng: Generator, severity: float, screw: Screw) -> Edit:
    return _scratches(rng, severity, screw, 0.03, 0.11)


def _scratch_neck(rng: Generator, severity: float, screw: Screw) -> Edit:
    return _scratches(rng, severity, screw, HEAD_END + 0.02, NECK_END - 0.02)


_EDITS = dict(zip(DEFECTS, (_manipulated_front, _scratch_head, _scratch_neck, _thread_side, _thread_top), strict=True))
