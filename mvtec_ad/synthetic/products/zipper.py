"""Zipper: closed, upright through the whole image, on an overexposed table, seen by a monochrome camera.

The cloth is drawn flat and straight (`zipper_fabric`), then bent into the picture; the teeth (`zipper_chain`) are set
onto it. A defect moves, breaks or tears cloth and teeth before they are lit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.products.zipper_chain import Tooth, Zipper, chain_columns, manufacture, relief, set_teeth
from mvtec_ad.synthetic.products.zipper_fabric import (
    SLACK,
    STITCH,
    Cloth,
    Pose,
    curl,
    fibre_cover,
    lay_cloth,
    lay_fibres,
    parting,
    weave_cloth,
)
from mvtec_ad.synthetic.tools.drawing import (
    Streams,
    bump,
    fill,
    mix,
    noise,
    smooth_contour,
    smoothstep,
    to_mask,
)
from mvtec_ad.synthetic.tools.optics import camera

DEFECTS = (
    "broken_teeth",
    "combined",
    "fabric_border",
    "fabric_interior",
    "rough",
    "split_teeth",
    "squeezed_teeth",
)


@dataclass
class _State:
    """What has become of the zipper."""

    teeth: list[Tooth]
    cloth: Cloth
    region: np.ndarray  # canvas: what has changed


def draw(streams: Streams, size: int, defect: str | None, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one zipper; see `products`."""
    zipper = manufacture(streams, size)
    cloth = weave_cloth(streams, size, zipper.pose, zipper.lamp)
    table = _table(streams.light, zipper.pose)
    state, worn = _State(list(zipper.teeth), cloth, np.zeros_like(table)), len(cloth.fibres)
    if defect:
        _DAMAGE[defect](streams.defect, severity, zipper, state)
        _outline(zipper, state, worn)
    canvas = lay_cloth(table, zipper.pose, cloth)
    set_teeth(canvas, zipper, state.teeth)
    lay_fibres(canvas, cloth.fibres)
    image = camera(cv2.merge([canvas] * 3), streams.sensor, blur=0.0018, grain=0.010, grey=True)
    return image, to_mask(state.region) if defect else np.zeros((size, size), bool)


def _table(rng: Generator, pose: Pose) -> np.ndarray:
    """Returns the overexposed table with the shadow that the tape throws onto it."""
    level, lean = rng.uniform(1.0, 1.13), rng.normal(0, 0.035, 2)
    beside = np.abs(pose.x - pose.axis) - pose.half
    shadow = 0.20 * smoothstep(0.030, 0.0, beside) ** 2
    return (level + lean[0] * (pose.x - 0.5) + lean[1] * (pose.y - 0.5) - shadow).astype(np.float32)


def _outline(zipper: Zipper, state: _State, worn: int) -> None:
    """Adds changed teeth and new fibres to the region, as one would outline them."""
    side = zipper.pose.y.size
    old = [tooth for tooth in zipper.teeth if tooth not in state.teeth]
    new = [tooth for tooth in state.teeth if tooth not in zipper.teeth]
    area = fibre_cover(state.cloth.fibres[worn:], side)
    area[:, chain_columns(side)] += relief(zipper, old)[0] + relief(zipper, new)[0]
    area = (area > 0).astype(np.uint8)
    wide, narrow = (
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(r * side) + 1,) * 2) for r in (0.016, 0.005)
    )
    area = cv2.dilate(cv2.morphologyEx(area, cv2.MORPH_CLOSE, wide), narrow)
    np.maximum(state.region, area, out=state.region)


def _pick(rng: Generator, zipper: Zipper, count: int) -> tuple[float, list[int]]:
    """Returns a height in the image and the numbers of the `count` teeth nearest to it."""
    place = float(rng.uniform(0.12, 0.88))
    return place, sorted(range(len(zipper.teeth)), key=lambda number: abs(zipper.teeth[number].y - place))[:count]


def _broken_teeth(rng: Generator, severity: float, zipper: Zipper, state: _State) -> None:
    """Teeth are missing, or broken off at some length; their neighbours are knocked aside."""
    count = 1 + round(float(rng.uniform(1.0, 4.0)) * severity)
    near = _pick(rng, zipper, 2 * count)[1]
    chosen_side = int(rng.choice([-1, 1]))
    if rng.uniform() < 0.6:
        near = [number for number in near if zipper.teeth[number].side == chosen_side]
    for number in near[:count]:
        tooth, start = state.teeth[number], mix(0.22, 0.75, severity) * float(rng.uniform(0.8, 1.25))
        angle = tooth.angle + float(rng.normal(0, 0.12)) * severity
        state.teeth[number] = replace(tooth, start=1.0 if rng.uniform() < 0.5 * severity else start, angle=angle)


def _split_teeth(rng: Generator, severity: float, zipper: Zipper, state: _State) -> None:
    """The two halves part, and leave a gap between them."""
    place, half = float(rng.uniform(0.15, 0.85)), mix(0.07, 0.27, severity) * float(rng.uniform(0.85, 1.15))
    most = mix(0.005, 0.042, severity)
    state.cloth.apart += most * bump(zipper.pose.y, place, half)
    for number, tooth in enumerate(state.teeth):
        away = float(most * bump(np.float64(tooth.y), place, half)) - SLACK
        if away > 0:
            turn = float(rng.normal(0, 0.06)) * severity
            state.teeth[number] = replace(tooth, out=tooth.out + away, angle=tooth.angle + turn)
    moved = parting(state.cloth, np.abs(zipper.pose.x - zipper.pose.axis)) > 0
    np.maximum(state.region, moved, out=state.region)


def _squeezed_teeth(rng: Generator, severity: float, zipper: Zipper, state: _State) -> None:
    """Some teeth are pressed together and crushed."""
    place, near = _pick(rng, zipper, 3 + round(7 * severity))
    half = max(abs(zipper.teeth[number].y - place) for number in near) + 0.01
    for number in near:
        tooth, jitter = state.teeth[number], rng.normal(0, 1, 4)
        inward = 0.45 * severity * (place - tooth.y) * float(bump(np.float64(tooth.y), place, half)) ** 0.5
        state.teeth[number] = replace(
            tooth,
            y=tooth.y + inward + 0.006 * severity * float(jitter[0]),
            out=tooth.out + 0.010 * severity * float(jitter[1]),
            angle=tooth.angle + mix(0.03, 0.22, severity) * float(jitter[2]),
            thick=tooth.thick * float(np.exp(0.22 * severity * jitter[3])),
        )


def _disturb(rng: Generator, state: _State, where: np.ndarray, strength: float) -> None:
    """Pulls the yarns out of order where `where` (0 to 1) says so."""
    for direction in state.cloth.shift:
        direction += strength * where * noise(rng, where.shape, (45, 45), octaves=2)
    np.maximum(state.region, where > 0, out=state.region)


def _patch(pose: Pose, x: float, y: float, width: float, height: float) -> np.ndarray:
    """Returns a soft spot, 1 in the middle and 0 outside the ellipse."""
    return np.clip(1 - np.square((pose.x - x) / width) - np.square((pose.y - y) / height), 0, 1)


def _rough(rng: Generator, severity: float, zipper: Zipper, state: _State) -> None:
    """Fibres are torn out of the cloth beside the chain and stand up."""
    pose, cloth = zipper.pose, state.cloth
    side, y = int(rng.choice([-1, 1])), float(rng.uniform(0.15, 0.85))
    out, reach = float(rng.uniform(0.07, 0.12)), mix(0.05, 0.20, severity)
    for _ in range(round(mix(12, 130, severity))):
        start = y + reach * float(rng.uniform(-1, 1))
        root = np.array([pose.at(start) + side * (out + rng.normal(0, 0.014)), start])
        cloth.fibres.append(curl(rng, root, mix(0.018, 0.05, severity) * float(rng.uniform(0.4, 1.3))))
    spot = _patch(pose, pose.at(y) + side * out, y, 0.035, reach)
    _disturb(rng, state, spot, mix(0.001, 0.005, severity))
    streaks = np.clip(0.5 + 0.5 * noise(rng, spot.shape, (60, 110), octaves=2, persistence=0.8), 0, 1)
    np.maximum(cloth.haze, mix(0.1, 0.75, severity) * spot * streaks, out=cloth.haze)


def _fabric_border(rng: Generator, severity: float, zipper: Zipper, state: _State) -> None:
    """The outer edge of a tape is frayed: bites are missing, threads hang out."""
    pose, cloth = zipper.pose, state.cloth
    column, y = int(rng.integers(0, 2)), float(rng.uniform(0.12, 0.88))
    side, reach = 2 * column - 1, mix(0.025, 0.14, severity) * float(rng.uniform(0.8, 1.2))
    ragged = noise(rng, pose.y.shape, (int(rng.choice([14, 40])), 1), octaves=3, persistence=0.7)
    bites = np.clip(0.55 + 0.5 * ragged, 0, 1.6) * np.sqrt(bump(pose.y, y, reach))
    depth = mix(0.006, 0.045, severity) * bites
    cloth.edge[:, column] -= depth[:, 0]
    for _ in range(round(mix(5, 60, severity))):
        start = y + reach * float(rng.uniform(-0.8, 0.8))
        root = np.array([pose.at(start) + side * (pose.half - rng.uniform(0.0, 0.04)), start])
        heading = (0.0 if side > 0 else np.pi) + float(rng.normal(0, 0.5))
        cloth.fibres.append(curl(rng, root, mix(0.015, 0.055, severity) * float(rng.uniform(0.4, 1.2)), heading))
    inwards = pose.half - side * (pose.x - pose.axis)
    gone = (depth > 0) & (np.abs(inwards - depth / 2) < depth / 2 + 0.002)
    np.maximum(state.region, gone, out=state.region)


def _fabric_interior(rng: Generator, severity: float, zipper: Zipper, state: _State) -> None:
    """The weave inside a tape is disturbed, threads are pulled, and at times it has a hole."""
    pose, cloth = zipper.pose, state.cloth
    side, y = int(rng.choice([-1, 1])), float(rng.uniform(0.1, 0.9))
    x = pose.at(y) + side * float(rng.uniform(STITCH + 0.06, pose.half - 0.05))
    radius = mix(0.014, 0.048, severity) * float(rng.uniform(0.85, 1.15))
    spot = _patch(pose, x, y, radius, radius * float(rng.uniform(0.7, 1.6)))
    _disturb(rng, state, spot, mix(0.002, 0.007, severity))
    np.maximum(cloth.haze, mix(0.05, 0.35, severity) * spot, out=cloth.haze)
    if rng.uniform() < 0.5:
        outline = np.array([x, y]) + 0.6 * radius * smooth_contour(rng, 0.3) * rng.uniform(0.4, 1.0, 2)
        torn = fill(outline, spot.shape, pose.y.size) * mix(0.25, 0.9, severity)
        left = np.clip(0.4 - 0.5 * noise(rng, spot.shape, (130, 90), octaves=2), 0, 1)
        np.maximum(cloth.hole, torn * (1 - left), out=cloth.hole)
        np.maximum(state.region, torn > 0, out=state.region)
    along = rng.uniform() < 0.5
    for _ in range(round(mix(3, 26, severity))):  # the yarns of the weave run along or across the tape
        root = np.array([x, y]) + rng.normal(0, 0.45 * radius, 2)
        heading = np.pi / 2 * (2 * rng.integers(0, 2) + along) + float(rng.normal(0, 0.25))
        cloth.fibres.append(curl(rng, root, radius * float(rng.uniform(0.7, 2.0)), heading))


def _combined(rng: Generator, severity: float, zipper: Zipper, state: _State) -> None:
    """Two of the others at once."""
    others = [name for name in DEFECTS if name != "combined"]
    for name in rng.choice(others, 2, replace=False):
        _DAMAGE[name](rng, severity, zipper, state)


_DAMAGE = dict(
    zip(
        DEFECTS,
        (_broken_teeth, _combined, _fabric_border, _fabric_interior, _rough, _split_teeth, _squeezed_teeth),
        strict=True,
    )
)
