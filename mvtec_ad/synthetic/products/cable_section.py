"""The light on the section of a cable: plastic by its relief, every copper strand by its own slope."""

from __future__ import annotations

import cv2
import numpy as np

from mvtec_ad.synthetic.products.cable_parts import (
    CAVITY,
    CONDUCTOR,
    CORE,
    GAP,
    SHEATH,
    STRAND,
    Cable,
    Conductor,
    Cut,
    Wire,
    map_grid,
)
from mvtec_ad.synthetic.tools.drawing import OVERSAMPLING, blend, fill, smoothstep

_COPPER = np.array([0.86, 0.60, 0.44], np.float32)
_GLINT = np.array([0.98, 0.84, 0.66], np.float32)


def _thrice(plane: np.ndarray) -> np.ndarray:
    """Returns a map with three equal channels: much faster than broadcasting over the channel axis."""
    return cv2.merge([plane, plane, plane])


def _enlarge(field: np.ndarray) -> np.ndarray:
    """Brings a map to the resolution of the canvas."""
    return cv2.resize(field, None, fx=OVERSAMPLING, fy=OVERSAMPLING, interpolation=cv2.INTER_LINEAR)


def _window(low: np.ndarray, high: np.ndarray, side: int) -> tuple[slice, slice]:
    """Returns rows and columns of the canvas between two corners in image sides."""
    start = np.clip(np.floor(np.asarray(low) * side) - 2, 0, side).astype(int)
    stop = np.clip(np.ceil(np.asarray(high) * side) + 2, 0, side).astype(int)
    return slice(start[1], stop[1]), slice(start[0], stop[0])


def render(cable: Cable) -> np.ndarray:
    """Returns the lit section, float32 of shape `(side, side, 3)`."""
    colour, height = _sheath(cable)
    for conductor in cable.conductors:
        _insulation(cable, conductor, colour, height)
    for cut in cable.cuts:
        _cut(cut, colour, height)
    slope = _towards(height, cable.lamp)
    canvas = cv2.multiply(colour, _thrice(np.clip(1 + slope, 0.25, 1.7)))
    canvas += _thrice(0.2 * np.clip(slope - 0.15, 0, 1))
    for speck in cable.specks:
        _speck(speck, canvas)
    for conductor in cable.conductors:
        _bundle(cable, conductor, canvas)
    for wire in cable.wires:
        _wire(cable, wire, canvas)
    return cv2.multiply(canvas, _thrice(_enlarge(cable.light)))


def _towards(height: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    """Returns the slope of a height map (in image sides) against the lamp: positive where it faces it."""
    x = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernel = -(lamp[0] * x + lamp[1] * x.T) * height.shape[0]
    return cv2.filter2D(height, cv2.CV_32F, kernel.astype(np.float32))


def _sheath(cable: Cable) -> tuple[np.ndarray, np.ndarray]:
    """Returns colour and height of the table, the sheath and the empty cavity."""
    x, y = map_grid(len(cable.grain))
    u = x + np.float32(0.5 - cable.centre[0]) + cable.bend[0]
    v = y + np.float32(0.5 - cable.centre[1]) + cable.bend[1]
    far = cv2.magnitude(u, v)
    outside = far - np.float32(SHEATH)  # distances, negative within
    beside = [
        cv2.magnitude(u + np.float32(cable.centre[0] - c.centre[0]), v + np.float32(cable.centre[1] - c.centre[1]))
        for c in cable.conductors
    ]
    # The sheath was pressed into the gaps between the conductors, not to their ground.
    cavity = _join(_join(beside[0], beside[1]), beside[2]) - np.float32(CONDUCTOR + 0.006)
    cavity = np.minimum(np.maximum(far - np.float32(CAVITY), cavity), far - np.float32(0.15))
    face = np.minimum(-outside, cavity)  # depth within the ring of the sheath
    rim = smoothstep(0.0, 0.008, face)
    table = cable.table.astype(np.float32) * (1 - 0.45 * smoothstep(0.05, 0.0, outside))[..., None]
    ground = _enlarge(np.where(outside[..., None] < -0.03, GAP, table))
    cover = _enlarge(np.clip(face * (2 * len(face)) + 0.5, 0, 1))
    tone = _enlarge((0.7 + 0.3 * rim) * (1 + 0.035 * cable.grain))
    bare = cv2.merge([tone * np.float32(channel) for channel in cable.sheath])
    height = _enlarge(0.00045 * cable.grain + 0.0028 * rim) * cover
    return ground + (bare - ground) * _thrice(cover), height


def _join(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the smaller of two distances, rounded where they meet (Quilez, "Smooth minimum", 2013)."""
    width = np.float32(0.05)
    near = np.maximum(width - np.abs(first - other), 0)
    return np.minimum(first, other) - near * near / (4 * width)


def _insulation(cable: Cable, conductor: Conductor, colour: np.ndarray, height: np.ndarray) -> None:
    """Lays one conductor's insulation, and the dark between its strands, onto the maps."""
    side = colour.shape[0]
    small = _window(conductor.centre - 0.19, conductor.centre + 0.19, side // OVERSAMPLING)
    area = tuple(slice(OVERSAMPLING * part.start, OVERSAMPLING * part.stop) for part in small)
    part, relief = colour[area], height[area]
    grain, *bend = (_enlarge(field[small]) for field in (cable.grain, *cable.bend))
    x = (np.arange(area[1].start, area[1].stop, dtype=np.float32)[None] + 0.5) / side
    y = (np.arange(area[0].start, area[0].stop, dtype=np.float32)[:, None] + 0.5) / side
    x, y = x - np.float32(conductor.centre[0]) + bend[0], y - np.float32(conductor.centre[1]) + bend[1]
    far, angle = cv2.cartToPolar(x, y)
    inner = cv2.magnitude(x - np.float32(conductor.core[0]), y - np.float32(conductor.core[1])) - np.float32(CORE)
    outer = np.float32(CONDUCTOR) - far
    face = np.minimum(outer, inner + 0.0015 * grain)
    striped = smoothstep(0.62, 0.80, np.abs(np.cos(angle - np.float32(conductor.turn)) + 0.04 * grain))
    striped *= smoothstep(0.030, 0.016, outer + 0.002 * grain)
    ink, stripe = conductor.pigment.astype(np.float32)
    pigment = ink + (stripe - ink) * striped[..., None]
    pigment *= (1 + 0.045 * grain - 0.45 * smoothstep(0.008, 0.0, face))[..., None]
    lit = np.float32(1 - conductor.sunk)
    disc = np.clip(outer * side + 0.5, 0, 1)
    if conductor.sunk:
        blend(part, _wall(cable, conductor, (x, y), outer + 0.004 * grain), disc)
    else:
        blend(part, GAP, disc)
    blend(part, pigment, np.clip(face * side + 0.5, 0, 1) * lit)
    shape = 0.0006 * grain + 0.0030 * smoothstep(0.0, 0.009, face)
    relief += (lit * shape - relief) * disc


def _wall(cable: Cable, conductor: Conductor, place: tuple[np.ndarray, np.ndarray], depth: np.ndarray) -> np.ndarray:
    """Returns the colour of the hole in front of a sunken conductor: its wall is lit where it faces the lamp."""
    x, y = place
    towards = x * np.float32(cable.lamp[0]) + y * np.float32(cable.lamp[1])
    facing = np.clip(-towards / (cv2.magnitude(x, y) + np.float32(1e-6)), 0, 1)
    hole = np.tile(GAP, (*depth.shape, 1))
    blend(hole, cable.sheath, facing * smoothstep(0.035, 0.0, depth) * np.float32(0.35 * conductor.sunk))
    return hole


def _cut(cut: Cut, colour: np.ndarray, height: np.ndarray) -> None:
    """Takes material away: a dark, torn floor inside a raised edge."""
    side = colour.shape[0]
    area = _window(cut.outline.min(0) - 0.012, cut.outline.max(0) + 0.012, side)
    origin = np.array([area[1].start, area[0].start]) / side
    part, relief = colour[area], height[area]
    inside = fill(cut.outline - origin, relief.shape, side)
    soft = np.clip(1.1 * cv2.GaussianBlur(inside, (0, 0), 0.0028 * side) - 0.05, 0, 1)
    torn = cv2.resize(cut.torn.astype(np.float32), relief.shape[::-1], interpolation=cv2.INTER_CUBIC)
    extent = np.ptp(cut.outline, axis=0).max()
    down = (np.indices(relief.shape)[::-1].T / side + origin - cut.outline.mean(0)) @ cut.outwards / extent
    deep = np.clip(cut.dark * (1 + 0.7 * down.T + 0.06 * torn), 0, 0.97).astype(np.float32)
    part *= (1 - deep * inside)[..., None]
    relief += np.float32(cut.lip) * 4 * soft * (1 - soft) - 0.005 * cut.dark * soft
    relief += np.float32(0.012 * extent) * torn * inside


def _speck(speck: np.ndarray, canvas: np.ndarray) -> None:
    x, y, radius, tone, strength = speck
    side = canvas.shape[0]
    area = _window((x - radius, y - radius), (x + radius, y + radius), side)
    px = (np.arange(area[1].start, area[1].stop)[None] + 0.5) / side - x
    py = (np.arange(area[0].start, area[0].stop)[:, None] + 0.5) / side - y
    alpha = strength * np.clip((radius - np.hypot(px, py)) * side + 0.5, 0, 1)
    blend(canvas[area], (0.10, 0.09, 0.10) if tone < 0.6 else (0.80, 0.66, 0.52), alpha)


def _copper(slope: tuple[np.ndarray, np.ndarray], lamp: np.ndarray, tone: np.ndarray | float) -> np.ndarray:
    """Returns the colour of copper whose normal leans by `slope` (x, y) away from the camera."""
    x, y = slope
    diffuse = np.clip(0.62 + 0.42 * (x * lamp[0] + y * lamp[1]), 0.12, 1.3) * tone
    glint = np.exp(-(np.square(x - 0.30 * lamp[0]) + np.square(y - 0.30 * lamp[1])) / 0.035)
    return (diffuse[..., None] * _COPPER + (0.62 * glint * tone)[..., None] * _GLINT).astype(np.float32)


def _bundle(cable: Cable, conductor: Conductor, canvas: np.ndarray) -> None:
    """Paints the cut ends of all strands of one conductor."""
    strands, side = conductor.strands, canvas.shape[0]
    middle = (conductor.centre + conductor.core + strands.centre) * side
    half = int(np.ceil(1.3 * STRAND * side)) + 1
    corner = np.floor(middle).astype(int) - half
    axis = np.arange(2 * half + 1) + 0.5
    unit = strands.radius * side
    x = ((corner[:, :1] + axis - middle[:, :1]) / unit[:, None]).astype(np.float32)[:, None, :]
    y = ((corner[:, 1:] + axis - middle[:, 1:]) / unit[:, None]).astype(np.float32)[:, :, None]

    def each(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[:, None, None]

    xx, yy = x * x, y * y
    far = np.sqrt(xx + yy + (xx - yy) * each(strands.squeeze[:, 0]) + x * y * each(strands.squeeze[:, 1]))
    edge = 0.75 * smoothstep(0.45, 1.0, far)
    along = x * each(strands.marks[:, 1]) + y * each(strands.marks[:, 2])
    marks = 0.07 * np.sin(5 * along + each(strands.marks[:, 0])) + 0.05 * np.sin(11 * along + 2 * np.sin(3 * x))
    slope = (each(strands.tilt[:, 0]) + edge * x + marks, each(strands.tilt[:, 1]) + edge * y + marks)
    colour = _copper(slope, cable.lamp, each(strands.tone) * (1 - 0.6 * smoothstep(0.72, 1.05, far)))
    alpha = np.clip((1 - far) * each(unit) + 0.5, 0, 1) * each((1 - strands.sunk) * (1 - conductor.sunk))
    for (left, top), ends, cover in zip(corner, colour, alpha, strict=True):
        blend(canvas[top : top + axis.size, left : left + axis.size], ends, cover)


def _wire(cable: Cable, wire: Wire, canvas: np.ndarray) -> None:
    """Paints a bent strand: a cylinder with a shadow under it."""
    side, margin = canvas.shape[0], 1.6 * wire.radius
    area = _window(wire.path.min(0) - margin, wire.path.max(0) + margin, side)
    x = (np.arange(area[1].start, area[1].stop, dtype=np.float32)[None] + 0.5) / side
    y = (np.arange(area[0].start, area[0].stop, dtype=np.float32)[:, None] + 0.5) / side
    gaps = np.stack([np.hypot(x - px, y - py) for px, py in wire.path.astype(np.float32)])
    nearest = gaps.argmin(0)
    point = wire.path.astype(np.float32)[nearest]
    across = ((x - point[..., 0]) / wire.radius, (y - point[..., 1]) / wire.radius)
    far = gaps.min(0) / wire.radius
    blend(canvas[area], (0.06, 0.05, 0.05), 0.6 * smoothstep(1.6, 0.7, far))
    rise = 0.85 + 0.3 * nearest / len(wire.path)  # the tip is nearest to the lamp
    colour = _copper(
        (0.9 * across[0], 0.9 * across[1]), cable.lamp, wire.tone * rise * (1 - 0.4 * smoothstep(0.7, 1.05, far))
    )
    blend(canvas[area], colour, np.clip((1 - far) * wire.radius * side + 0.5, 0, 1))
